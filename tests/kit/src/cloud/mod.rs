//! The stand-in cloud: rumqttd on loopback, listening for MQTT 5 and 3.1.1, and an observer that keeps what arrives.
//!
//! rumqttd has no way to stop: its threads end with the test process. A user property that reaches a 3.1.1 subscriber
//! panics its task (FINDINGS), so the observer speaks 3.1.1 only where the gateway does too, and MQTT 5 otherwise.

mod observer;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use rumqttc::PublishProperties;
use serde_json::Value as Json;
use tokio::task::JoinHandle;

use crate::history::Arrival;
use crate::{PATIENCE, Version, port, wait_until};

/// A message as it arrived upstream.
#[derive(Debug, Clone)]
pub struct Observed {
    /// When.
    pub at: Instant,
    /// Topic.
    pub topic: String,
    /// Payload.
    pub payload: Bytes,
    /// The retain flag: set where it was retained before the observer subscribed.
    pub retain: bool,
    /// MQTT 5 properties.
    pub properties: PublishProperties,
}

impl Observed {
    /// The value of the user property `name`, where it stands there once.
    pub fn user(&self, name: &str) -> Option<&str> {
        let mut values = self.properties.user_properties.iter().filter(|(key, _)| key == name);
        let first = values.next().map(|(_, value)| value.as_str());
        first.filter(|_| values.next().is_none())
    }

    /// The user property `name` as a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.user(name)?.parse().ok()
    }

    /// The payload as JSON; null where it is none.
    pub fn json(&self) -> Json {
        serde_json::from_slice(&self.payload).unwrap_or(Json::Null)
    }

    /// The number in the payload `{"n":…}` of a [`crate::Load`], as MQTT 5 carries it, or in the 3.1.1 envelope.
    pub fn arrival(&self) -> Option<Arrival> {
        let json = self.json();
        if let Some(n) = json.get("n").and_then(Json::as_u64) {
            let historical = self.user("fg-hist") == Some("1");
            return Some(Arrival { n, boot: self.number("fg-boot")?, seq: self.number("fg-seq")?, historical });
        }
        let field = |name| json.get(name).and_then(Json::as_u64);
        let n = json.get("json")?.get("n")?.as_u64()?;
        let historical = json.get("hist") == Some(&Json::Bool(true));
        Some(Arrival { n, boot: field("boot")?, seq: field("seq")?, historical })
    }
}

/// What the observer shares.
#[derive(Debug, Default)]
struct Seen {
    messages: Vec<Observed>,
    subscribed: bool,
}

type Shared = Arc<Mutex<Seen>>;

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How the gateway is to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upstream {
    /// With MQTT 5.
    V5,
    /// With MQTT 3.1.1.
    V311,
}

/// A running cloud and its observer.
pub struct Cloud {
    v5: SocketAddr,
    v311: SocketAddr,
    upstream: Upstream,
    login: Option<(String, String)>,
    seen: Shared,
    publisher: rumqttc::AsyncClient,
    tasks: [JoinHandle<()>; 2],
}

impl Cloud {
    /// For a gateway that connects so, without passwords.
    pub async fn start(upstream: Upstream) -> anyhow::Result<Self> {
        Self::with_login(upstream, None).await
    }

    /// As [`Cloud::start`]; with `login`, nobody else is let in.
    pub async fn with_login(upstream: Upstream, login: Option<(&str, &str)>) -> anyhow::Result<Self> {
        let (v5, v311) = (port::free_address()?, port::free_address()?);
        let config: rumqttd::Config = toml::from_str(&settings(v5, v311, login)).context("rumqttd's settings")?;
        std::thread::Builder::new().name("cloud".to_owned()).spawn(move || {
            if let Err(error) = rumqttd::Broker::new(config).start() {
                eprintln!("the stand-in cloud ended: {error}");
            }
        })?;
        let login = login.map(|(user, password)| (user.to_owned(), password.to_owned()));
        let seen = Shared::default();
        let watched = match upstream {
            Upstream::V5 => Version::V5,
            Upstream::V311 => Version::V311,
        };
        let address = if watched == Version::V5 { v5 } else { v311 };
        let watching = observer::watch("observer", "#", watched, address, login.clone(), Arc::clone(&seen));
        let (publisher, publishing) = observer::publisher(v5, login.clone());
        let tasks = [watching, publishing];
        let cloud = Self { v5, v311, upstream, login, seen, publisher, tasks };
        wait_until("the cloud", PATIENCE, || lock(&cloud.seen).subscribed.then_some(())).await?;
        Ok(cloud)
    }

    /// Where the gateway is to connect.
    pub fn address(&self) -> SocketAddr {
        match self.upstream {
            Upstream::V5 => self.v5,
            Upstream::V311 => self.v311,
        }
    }

    /// Everything that arrived on topics that `wanted` accepts, in order.
    pub fn messages(&self, wanted: impl Fn(&str) -> bool) -> Vec<Observed> {
        lock(&self.seen).messages.iter().filter(|message| wanted(&message.topic)).cloned().collect()
    }

    /// Everything that arrived on `topic`, in order.
    pub fn on(&self, topic: &str) -> Vec<Observed> {
        self.messages(|name| name == topic)
    }

    /// The numbers of a [`crate::Load`] that arrived on `topic`, in order.
    pub fn arrivals(&self, topic: &str) -> Vec<Arrival> {
        self.on(topic).iter().filter_map(Observed::arrival).collect()
    }

    /// Waits for the first message on `topic` that `wanted` accepts.
    pub async fn wait_for(&self, topic: &str, wanted: impl Fn(&Observed) -> bool) -> anyhow::Result<Observed> {
        self.wait_within(topic, PATIENCE, wanted).await
    }

    /// As [`Cloud::wait_for`], within `limit`.
    pub async fn wait_within(
        &self,
        topic: &str,
        limit: Duration,
        wanted: impl Fn(&Observed) -> bool,
    ) -> anyhow::Result<Observed> {
        let find = || {
            let seen = lock(&self.seen);
            seen.messages.iter().find(|message| message.topic == topic && wanted(message)).cloned()
        };
        let found = wait_until(&format!("a message on {topic}"), limit, find).await;
        found.with_context(|| {
            let last = self.on(topic).pop().map(|message| String::from_utf8_lossy(&message.payload).into_owned());
            format!("the last one there is {last:?}")
        })
    }

    /// Publishes with QoS 1 and MQTT 5 properties: a command for the gateway.
    pub async fn publish(&self, topic: &str, payload: &str, properties: PublishProperties) -> anyhow::Result<()> {
        let options = rumqttc::PublishOptions::at_least_once().properties(properties);
        let notice = self.publisher.publish_tracked(topic.to_owned(), payload.to_owned(), options).await?;
        tokio::time::timeout(PATIENCE, notice.wait_async()).await.context("the cloud does not acknowledge")??;
        Ok(())
    }

    /// Everything that is retained now.
    pub async fn all_retained(&self) -> anyhow::Result<Vec<Observed>> {
        let seen = Shared::default();
        let task = observer::watch("late", "#", Version::V5, self.v5, self.login.clone(), Arc::clone(&seen));
        wait_until("the late observer", PATIENCE, || lock(&seen).subscribed.then_some(())).await?;
        // What is retained comes before what is published after the subscription.
        self.publish("fence", "", PublishProperties::default()).await?;
        let fenced = || lock(&seen).messages.iter().any(|message| message.topic == "fence").then_some(());
        wait_until("the fence", PATIENCE, fenced).await?;
        task.abort();
        let retained = lock(&seen).messages.iter().filter(|message| message.retain).cloned().collect();
        Ok(retained)
    }

    /// What is retained on `topic`, as soon as something is.
    pub async fn retained(&self, topic: &str) -> anyhow::Result<Observed> {
        let seen = Shared::default();
        let task = observer::watch("late", topic, Version::V5, self.v5, self.login.clone(), Arc::clone(&seen));
        let first = || lock(&seen).messages.iter().find(|message| message.retain).cloned();
        let found = wait_until(&format!("a retained message on {topic}"), PATIENCE, first).await;
        task.abort();
        found
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn settings(v5: SocketAddr, v311: SocketAddr, login: Option<(&str, &str)>) -> String {
    let listener = |table: &str, listen: SocketAddr| {
        let auth = login.map(|(user, password)| format!("[{table}.1.connections.auth]\n{user} = \"{password}\"\n"));
        format!(
            "[{table}.1]\nname = \"{table}\"\nlisten = \"{listen}\"\nnext_connection_delay_ms = 1\n\
             [{table}.1.connections]\nconnection_timeout_ms = 10000\nmax_payload_size = 1048576\n\
             max_inflight_count = 1000\ndynamic_filters = true\n{}",
            auth.unwrap_or_default()
        )
    };
    format!(
        "id = 0\n[router]\nid = 0\nmax_connections = 100\nmax_outgoing_packet_count = 200\n\
         max_segment_size = 10485760\nmax_segment_count = 10\n{}{}",
        listener("v5", v5),
        listener("v4", v311)
    )
}
