//! The stand-in cloud: rumqttd on loopback, and an MQTT 5 observer that keeps what arrives.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use fieldgate_types::DeviceId;
use rumqttc::mqttbytes::v5::{Packet, Publish};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, PublishOptions, QoS};
use serde_json::Value as Json;
use tokio::task::JoinHandle;

use crate::pipeline::topic::LocalTopic;

/// One counter value as it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// The device's counter.
    pub count: u64,
    /// `(fg-boot, fg-seq)`
    pub number: (u64, u64),
    /// `fg-hist=1`
    pub historical: bool,
}

#[derive(Debug, Default)]
struct Seen {
    arrivals: BTreeMap<DeviceId, Vec<Arrival>>,
    results: BTreeMap<(DeviceId, String), String>,
    connected: bool,
}

/// The cloud, watched.
pub struct Cloud {
    address: SocketAddr,
    root: String,
    client: AsyncClient,
    seen: Arc<Mutex<Seen>>,
    observer: JoinHandle<()>,
}

impl Cloud {
    /// Starts rumqttd and the observer of everything below `root`.
    pub async fn start(root: &str) -> anyhow::Result<Self> {
        // rumqttd doesn't tell which port it got, so a free one is found first.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let config: rumqttd::Config = toml::from_str(&settings(address)).context("rumqttd's settings")?;
        std::thread::Builder::new().name("cloud".to_owned()).spawn(move || {
            if let Err(error) = rumqttd::Broker::new(config).start() {
                eprintln!("fieldgate: the stand-in cloud ended: {error}");
            }
        })?;
        let mut options = MqttOptions::new("observer", (address.ip().to_string(), address.port()));
        options.set_keep_alive(30);
        let (client, events) = AsyncClient::builder(options).capacity(16).build();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let watch = Observer { events, client: client.clone(), root: root.to_owned(), seen: Arc::clone(&seen) };
        let observer = tokio::spawn(watch.run());
        let cloud = Self { address, root: root.to_owned(), client, seen, observer };
        cloud.wait("the stand-in cloud", Duration::from_secs(10), |seen| seen.connected.then_some(())).await?;
        Ok(cloud)
    }

    /// Where rumqttd listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What arrived of `device`, in order.
    pub fn arrivals(&self, device: &DeviceId) -> Vec<Arrival> {
        self.seen().arrivals.get(device).cloned().unwrap_or_default()
    }

    /// Waits until something of every device has arrived.
    pub async fn wait_for_all(&self, devices: &[&DeviceId], at_most: Duration) -> anyhow::Result<()> {
        let all = |seen: &Seen| devices.iter().all(|device| seen.arrivals.contains_key(*device)).then_some(());
        self.wait("a first message of every device", at_most, all).await
    }

    /// Waits until `device`'s counter has reached `count`.
    pub async fn wait_for_count(&self, device: &DeviceId, count: u64, at_most: Duration) -> anyhow::Result<()> {
        let reached = |seen: &Seen| {
            let arrivals = seen.arrivals.get(device)?;
            arrivals.iter().any(|arrival| arrival.count >= count).then_some(())
        };
        self.wait("the last messages", at_most, reached).await
    }

    /// Sends a command down and waits for its answer's status.
    pub async fn command(
        &self,
        device: &DeviceId,
        name: &str,
        payload: &str,
        at_most: Duration,
    ) -> anyhow::Result<String> {
        let rid = format!("demo-{device}");
        let topic = format!("{}/devices/{device}/commands/{name}/{rid}", self.root);
        self.client.publish(topic, payload.to_owned(), PublishOptions::new(QoS::AtLeastOnce)).await?;
        let key = (device.clone(), rid);
        self.wait("the answer to a command", at_most, |seen| seen.results.get(&key).cloned()).await
    }

    async fn wait<T>(&self, what: &str, at_most: Duration, check: impl Fn(&Seen) -> Option<T>) -> anyhow::Result<T> {
        let deadline = tokio::time::Instant::now() + at_most;
        loop {
            if let Some(found) = check(&self.seen()) {
                return Ok(found);
            }
            if tokio::time::Instant::now() >= deadline {
                bail!("{what} did not come within {} s", at_most.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.observer.abort();
    }
}

fn settings(listen: SocketAddr) -> String {
    format!(
        "id = 0\n\
         [router]\nid = 0\nmax_connections = 100\nmax_outgoing_packet_count = 200\n\
         max_segment_size = 10485760\nmax_segment_count = 10\n\
         [v5.1]\nname = \"cloud\"\nlisten = \"{listen}\"\nnext_connection_delay_ms = 1\n\
         [v5.1.connections]\nconnection_timeout_ms = 10000\nmax_payload_size = 262144\n\
         max_inflight_count = 1000\ndynamic_filters = true\n"
    )
}

struct Observer {
    events: EventLoop,
    client: AsyncClient,
    root: String,
    seen: Arc<Mutex<Seen>>,
}

impl Observer {
    async fn run(mut self) {
        loop {
            match self.events.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    if let Err(error) = self.client.subscribe(format!("{}/#", self.root), QoS::AtLeastOnce).await {
                        tracing::error!(%error, "the observer can't subscribe");
                    }
                }
                Ok(Event::Incoming(Packet::SubAck(_))) => self.seen().connected = true,
                Ok(Event::Incoming(Packet::Publish(publish))) => self.take(&publish),
                Ok(_) => {}
                // Until rumqttd listens.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, publish: &Publish) {
        let topic = String::from_utf8_lossy(&publish.topic).into_owned();
        let Some(local) = topic.strip_prefix(&self.root).and_then(|rest| rest.strip_prefix('/')) else { return };
        let Ok(payload) = serde_json::from_slice::<Json>(&publish.payload) else { return };
        match LocalTopic::parse(local) {
            LocalTopic::Telemetry { device } => {
                let user = publish.properties.as_ref().map(|properties| properties.user_properties.as_slice());
                let user = user.unwrap_or_default();
                let arrivals: Vec<Arrival> = counts(&payload).into_iter().map(|count| arrival(count, user)).collect();
                self.seen().arrivals.entry(device).or_default().extend(arrivals);
            }
            LocalTopic::Result { device, rid, .. } => {
                let status = payload.get("status").and_then(Json::as_str).unwrap_or("malformed").to_owned();
                // A second answer would be a defect: it shows as a status that is not `ok`.
                let answered = |first: &mut String| "answered twice".clone_into(first);
                self.seen().results.entry((device, rid.to_owned())).and_modify(answered).or_insert(status);
            }
            LocalTopic::State { .. } | LocalTopic::Birth { .. } | LocalTopic::Command { .. } | LocalTopic::Other => {}
        }
    }
}

fn arrival(count: u64, user: &[(String, String)]) -> Arrival {
    let property = |name: &str| user.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let number = |name| property(name).and_then(|value| value.parse().ok()).unwrap_or_default();
    Arrival { count, number: (number("fg-boot"), number("fg-seq")), historical: property("fg-hist") == Some("1") }
}

/// The counters in a message: of a leaf `{"count":n}`, of a field device one document or several.
fn counts(payload: &Json) -> Vec<u64> {
    let one = |document: &Json| {
        let value = document.get("count").or_else(|| document.get("values")?.get("count"))?;
        // OPC UA doubles are whole numbers here.
        value.as_u64().or_else(|| format!("{:.0}", value.as_f64()?).parse().ok())
    };
    match payload {
        Json::Array(documents) => documents.iter().filter_map(one).collect(),
        document => one(document).into_iter().collect(),
    }
}
