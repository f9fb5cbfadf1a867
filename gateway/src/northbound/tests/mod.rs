//! The northbound module as a whole, against a real MQTT server and against one that lies.

mod answers;
mod batches;
#[cfg(feature = "demo")]
mod cloud;
mod commands;
mod connecting;
mod faults;
mod gaps;
mod liar;
mod live_first;
#[cfg(feature = "demo")]
mod outages;
mod parting;
mod stopping;
mod trees;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fieldgate_store::{Append, Batch, Lane, Options, Queue};
use fieldgate_types::{Clock, DeviceId, SystemClock};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{BatchMode, Down, Downlink, Fetched, Protocol, Replay, Upstream, UpstreamConfig, UpstreamHandle};
use crate::pipeline::record::Upbound;

const GATEWAY: &str = "line-4";

/// A queue and the upstream that empties it.
struct Bench {
    queue: Queue,
    clock: Arc<dyn Clock>,
    dir: TempDir,
}

/// A running upstream.
struct Running {
    handle: UpstreamHandle,
    commands: mpsc::Receiver<Downlink>,
    fetched: mpsc::Receiver<Fetched>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

fn config(port: u16, protocol: Protocol) -> UpstreamConfig {
    UpstreamConfig {
        host: "127.0.0.1".to_owned(),
        port,
        tls: None,
        protocol,
        client_id: None,
        root: "fieldgate".to_owned(),
        login: None,
        keep_alive: Duration::from_secs(5),
        retry_max: Duration::from_secs(1),
        window: 100,
        forwards: Vec::new(),
        fetches: Vec::new(),
        envelope: protocol == Protocol::V311,
        batch: BatchMode::None,
    }
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let queue = Queue::open(&dir.path().join("queue.db"), 1, Options::default(), Arc::clone(&clock)).unwrap();
        Self { queue, clock, dir }
    }

    /// Messages `from..to` of `device`, each its number.
    async fn fill(&self, device: &str, from: u32, to: u32) {
        let topic = format!("devices/{device}/telemetry/t");
        let body = |n: u32| Upbound::json(&topic, n.to_string().as_bytes(), false).encode().unwrap();
        self.append(device, (from..to).map(body)).await;
    }

    async fn append(&self, device: &str, bodies: impl IntoIterator<Item = Bytes>) {
        let device = DeviceId::new(device).unwrap();
        let append =
            |body| Append { device: device.clone(), lane: Lane::Live, time: self.clock.now(), expires: None, body };
        let appends = bodies.into_iter().map(append).collect();
        self.queue.commit(Batch { appends, ..Batch::default() }).await.unwrap();
    }

    fn start(&self, config: UpstreamConfig) -> Running {
        self.start_replaying(config, Replay::default())
    }

    fn start_replaying(&self, config: UpstreamConfig, replay: Replay) -> Running {
        let (send, commands) = mpsc::channel(4);
        let (messages, fetched) = mpsc::channel(4);
        let down = Down { commands: send, messages };
        let stop = CancellationToken::new();
        let gateway = DeviceId::new(GATEWAY).unwrap();
        let clock = Arc::clone(&self.clock);
        let (upstream, handle) = Upstream::new(config, gateway, self.queue.clone(), down, replay, clock, stop.clone());
        let task = tokio::spawn(upstream.run());
        Running { handle, commands, fetched, stop, task }
    }

    async fn emptied(&self) {
        eventually("the queue is empty", || self.queue.stats().messages == 0).await;
    }
}

impl Running {
    async fn stopped(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(15), self.task).await.unwrap().unwrap();
    }
}

/// Waits for `condition`, at most 20 s.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Numbers by device from (topic, payload), state messages left out.
fn numbers<'a>(messages: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> HashMap<String, Vec<u32>> {
    let mut found: HashMap<String, Vec<u32>> = HashMap::new();
    for (topic, payload) in messages {
        let levels: Vec<&str> = topic.split('/').collect();
        if levels.get(4) != Some(&"telemetry") {
            continue;
        }
        let json: serde_json::Value = serde_json::from_slice(payload).unwrap();
        let number = json.get("json").unwrap_or(&json).as_u64().unwrap();
        found.entry(levels[3].to_owned()).or_default().push(u32::try_from(number).unwrap());
    }
    found
}

/// All of `0..count`, each first seen in order, at most `window` seen again per `breaks`.
fn assert_complete(seen: &[u32], count: u32, window: u32, breaks: u32) {
    let mut next = 0;
    let mut again = 0;
    for &number in seen {
        if number == next {
            next += 1;
        } else {
            assert!(number < next, "{number} came before {next}");
            again += 1;
        }
    }
    assert_eq!(next, count, "lost after {next}");
    assert!(again <= window * breaks, "{again} seen again, {window} x {breaks} allowed");
}
