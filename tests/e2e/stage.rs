//! What most stories begin with: a cloud, a relay before it, and a gateway that connects through the relay.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use fieldgate_testkit::{Cloud, Gateway, Observed, PATIENCE, Relay, Upstream, eventually, wait_until};
use rumqttc::PublishProperties;
use serde_json::{Map, Value as Json};

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_fieldgate");

/// Every story ends so.
pub type Told = anyhow::Result<()>;

/// The repository's root.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Milliseconds since 1970.
pub fn now_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A cloud, a line and a running gateway.
pub struct Stage {
    pub cloud: Cloud,
    pub relay: Relay,
    pub gateway: Gateway,
    /// `[upstream]`
    upstream: String,
}

impl Stage {
    /// A gateway `id` with `sections` in its configuration, connected with MQTT 5.
    pub async fn start(id: &str, sections: &str) -> anyhow::Result<Self> {
        Self::over(Upstream::V5, id, sections).await
    }

    /// As [`Stage::start`], over either MQTT.
    pub async fn over(upstream: Upstream, id: &str, sections: &str) -> anyhow::Result<Self> {
        let cloud = Cloud::start(upstream).await?;
        let relay = Relay::start(cloud.address()).await?;
        let protocol = if upstream == Upstream::V5 { 5 } else { 4 };
        let url = relay.address();
        let upstream = format!("[upstream]\nurl = \"mqtt://{url}\"\nprotocol = {protocol}\nretry_max = \"1s\"\n\n");
        let gateway = Gateway::start_new(BINARY, id, &format!("{upstream}{sections}")).await?;
        let stage = Self { cloud, relay, gateway, upstream };
        stage.wait_up().await?;
        Ok(stage)
    }

    /// Writes the configuration anew, with the same upstream.
    pub fn configure(&self, sections: &str) -> Told {
        self.gateway.configure(&format!("{}{sections}", self.upstream))
    }

    /// The upstream topic for the local one.
    pub fn topic(&self, local: &str) -> String {
        format!("fieldgate/{}/{local}", self.gateway.id)
    }

    /// Waits until the upstream connection serves.
    pub async fn wait_up(&self) -> Told {
        eventually("the upstream connection", PATIENCE, async || {
            let status = self.gateway.ask("GET", "/api/v1/status", "").await?.json()?;
            Ok((status["upstream"]["state"] == "up").then_some(()))
        })
        .await
    }

    /// Waits until nothing waits in the buffer; what `buffer status --json` says then.
    pub async fn wait_drained(&self) -> anyhow::Result<Json> {
        eventually("an empty buffer", PATIENCE, async || {
            let buffer = self.gateway.ask("GET", "/api/v1/buffer", "").await?.json()?;
            Ok((buffer["messages"] == 0).then_some(buffer))
        })
        .await
    }

    /// Sends a command down.
    pub async fn send_command(&self, device: &str, name: &str, rid: &str, payload: &str) -> Told {
        let topic = self.topic(&format!("devices/{device}/commands/{name}/{rid}"));
        self.cloud.publish(&topic, payload, PublishProperties::default()).await
    }

    /// Where the answer to a command goes.
    pub fn result_topic(&self, device: &str, name: &str, rid: &str) -> String {
        self.topic(&format!("devices/{device}/commands/{name}/{rid}/result"))
    }

    /// Sends a command down and waits for its answer.
    pub async fn command(&self, device: &str, name: &str, rid: &str, payload: &str) -> anyhow::Result<Json> {
        self.send_command(device, name, rid, payload).await?;
        let answer = self.cloud.wait_for(&self.result_topic(device, name, rid), |_| true).await?;
        Ok(answer.json())
    }

    /// Waits for a document of field device `device` in which `wanted` is true of one of its objects; that object.
    pub async fn wait_points(
        &self,
        device: &str,
        after: usize,
        wanted: impl Fn(&Json) -> bool,
    ) -> anyhow::Result<Json> {
        let topic = self.topic(&format!("devices/{device}/telemetry/points"));
        let find = || self.cloud.on(&topic).iter().skip(after).flat_map(objects).find(|object| wanted(object));
        wait_until(&format!("a document of {device}"), PATIENCE, find).await.map_err(|error| {
            let last: Vec<Json> = self.cloud.on(&topic).iter().rev().take(3).map(Observed::json).collect();
            error.context(format!("the last documents: {last:?}"))
        })
    }

    /// The values of the first document of a field device after so many: those of all its source times.
    pub async fn first_values(&self, device: &str, after: usize) -> anyhow::Result<Map<String, Json>> {
        self.wait_points(device, after, |_| true).await?;
        let documents = self.cloud.on(&self.topic(&format!("devices/{device}/telemetry/points")));
        let objects = documents.get(after).map(objects).unwrap_or_default();
        let values = objects.iter().filter_map(|object| object["values"].as_object()).flatten();
        Ok(values.map(|(name, value)| (name.clone(), value.clone())).collect())
    }

    /// How many documents of a field device have arrived.
    pub fn documents(&self, device: &str) -> usize {
        self.cloud.on(&self.topic(&format!("devices/{device}/telemetry/points"))).len()
    }
}

/// The objects of a field telemetry document.
pub fn objects(message: &Observed) -> Vec<Json> {
    match message.json() {
        Json::Array(objects) => objects,
        object => vec![object],
    }
}
