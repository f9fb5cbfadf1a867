//! `upstream-bound`: publishes that are acknowledged once they are on disk, beside a mosquitto that keeps nothing.
//! `bridge`: the same up to a subscriber at the cloud, beside mosquitto's bridge.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use fieldgate_testkit::eventually;
use serde_json::Value as Json;

use crate::identities::Identities;
use crate::line::Line;
use crate::load::{Load, Outcome};
use crate::peers::{FILTER, Mosquitto, Peer, Who, topic};
use crate::process;
use crate::report::{Goal, Report, Row, mebibytes};
use crate::settings::{Key, Settings, Transport};
use crate::site::{Site, Wanted};
use crate::wire::{Seat, Version};

const PUBLISHERS: usize = 50;
const WINDOW: usize = 20;
/// What was stored in a round goes up before the next one begins.
const DRAIN: Duration = Duration::from_secs(120);

pub async fn bound(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let mut identities = Identities::new()?;
    let cloud = Mosquitto::start(Transport::Plain, &identities).await?;
    let wanted = Wanted { publishers: PUBLISHERS, upstream: Some(cloud.address), ..Wanted::default() };
    let site = Site::start(settings, &wanted, &mut identities).await?;
    report.note(format!("fieldgate: {}, everything else at its default", site.configuration));
    report.note("upstream-bound: [upstream] is another mosquitto that takes everything while the load runs");
    if settings.profile.is_some() {
        println!("fieldgate is process {}", site.pid()?);
        let peer = Peer::Fieldgate(Box::new(site));
        let outcome = round(settings.load_time(), &peer, Version::V5, &identities, None).await?;
        println!("{:.0} acknowledged/s", outcome.acknowledged_per_second());
        return Ok(());
    }
    let peers =
        [Peer::Fieldgate(Box::new(site)), Peer::Mosquitto(Mosquitto::start(settings.transport, &identities).await?)];
    let mut acknowledged = 0;
    for version in settings.versions() {
        let what = format!(
            "MQTT {}, {}, QoS 1, 64 B, {PUBLISHERS} publishers (window {WINDOW}); ours fsynced and sent upstream, \
             mosquitto without persistence and without subscribers",
            version.name(),
            settings.transport.name()
        );
        let mut row = Row::new("upstream-bound", what, "acknowledged/s", Goal::Times(1.0));
        let mut memory = Row::new("upstream-bound", "peak memory", "MiB resident", Goal::None);
        for _ in 0..settings.rounds() {
            for peer in &peers {
                process::forget_peak(peer.pid()?)?;
                let outcome = round(settings.load_time(), peer, version, &identities, None).await?;
                row.add(peer.name(), outcome.acknowledged_per_second());
                memory.add(peer.name(), mebibytes(process::peak(peer.pid()?)?));
                if let Peer::Fieldgate(site) = peer {
                    acknowledged += outcome.acknowledged;
                    drained(site, acknowledged).await?;
                }
            }
        }
        report.row(row);
        report.row(memory);
    }
    // Not measured, since whoever looks takes part of the machine: everything arrives, in order.
    let [ours, _] = &peers;
    let duration = settings.load_time().min(Duration::from_secs(1));
    let outcome = round(duration, ours, Version::V5, &identities, Some((cloud.observer(), SINGLY))).await?;
    match outcome.problem() {
        Some(problem) => report.problem(format!("upstream-bound: at the cloud: {problem}")),
        None => report.note(format!(
            "upstream-bound: a round with an observer at the cloud: {} acknowledged, all there in order",
            outcome.acknowledged
        )),
    }
    Ok(())
}

/// How ours goes upstream.
#[derive(Clone, Copy)]
pub struct Way {
    bench: &'static str,
    /// In batches.
    batched: bool,
    pub words: &'static str,
    /// Where its messages are, below `fieldgate/bench/`.
    pub topics: &'static str,
    /// Of the bench that drains what waited.
    pub draining: &'static str,
    /// To the cloud, one way.
    delay: Duration,
    goal: Goal,
}

impl Way {
    /// Of the gateway's.
    pub fn keys(&self) -> Vec<Key> {
        if self.batched { vec![Key::new("upstream", "batch", "\"zstd\"")] } else { Vec::new() }
    }
}

/// One message per publish.
pub const SINGLY: Way = Way {
    bench: "bridge",
    batched: false,
    words: "one message per publish",
    topics: FILTER,
    draining: "drain",
    delay: Duration::ZERO,
    goal: Goal::Times(1.2),
};
/// Many.
pub const BATCHED: Way = Way {
    bench: "batch",
    batched: true,
    words: "batches, opened by the subscriber",
    topics: "batch",
    draining: "drain-batch",
    delay: Duration::ZERO,
    goal: Goal::Times(3.0),
};

/// One message per publish, 50 ms there and back.
pub const FAR: Way = Way { bench: "far", delay: Duration::from_millis(25), goal: Goal::AtLeast(50_000.0), ..SINGLY };
/// Many, 50 ms there and back.
pub const FAR_BATCHED: Way = Way { bench: "far-batch", delay: FAR.delay, goal: FAR.goal, ..BATCHED };

/// From leaves to a subscriber at the cloud: each edge has a cloud of its own.
pub async fn bridge(settings: &Settings, way: Way, report: &mut Report) -> anyhow::Result<()> {
    let mut identities = Identities::new()?;
    let (ours, theirs) = (
        Mosquitto::start(Transport::Plain, &identities).await?,
        Mosquitto::start(Transport::Plain, &identities).await?,
    );
    let mut lines = [Line::new(ours.address, way.delay)?, Line::new(theirs.address, way.delay)?];
    let [our_line, their_line] = &mut lines;
    our_line.open().await?;
    their_line.open().await?;
    let (to_ours, to_theirs) = if way.delay.is_zero() {
        (ours.address, theirs.address)
    } else {
        report.note(format!("{}: a relay of the bench holds each byte back for {:?}, each way", way.bench, way.delay));
        (our_line.address, their_line.address)
    };
    let site = edge(settings, way, to_ours, &mut identities).await?;
    report.note(format!("fieldgate: {}, everything else at its default", site.configuration));
    report.note(
        "bridge, batch: each edge has a mosquitto of its own as its cloud; mosquitto's bridge: topic # out 1, mqttv311",
    );
    let bridging = Mosquitto::start_bridging(settings.transport, &identities, to_theirs).await?;
    let peers = [(Peer::Fieldgate(Box::new(site)), &ours), (Peer::Mosquitto(bridging), &theirs)];
    for version in settings.versions() {
        let what = format!(
            "MQTT {}, {}, QoS 1, 64 B, {PUBLISHERS} publishers (window {WINDOW}) through the edge to one subscriber at the cloud; \
             ours fsynced, {}; mosquitto from memory",
            version.name(),
            settings.transport.name(),
            way.words
        );
        let mut row = Row::new(way.bench, what, "delivered/s", way.goal);
        let mut cost = Row::new(way.bench, "cost at the edge", "us CPU per delivery", Goal::None);
        for _ in 0..settings.rounds() {
            for (peer, cloud) in &peers {
                let pid = peer.pid()?;
                let before = process::cpu_seconds(pid)?;
                let observer = Some((cloud.observer(), way));
                let outcome = round(settings.load_time(), peer, version, &identities, observer).await?;
                let used = process::cpu_seconds(pid)? - before;
                ensure!(
                    outcome.delivered > 0,
                    "nothing comes through {}: there is nothing to compare with",
                    peer.name()
                );
                if let Some(problem) = outcome.problem() {
                    let text = format!("{}: {}: {problem}", row.what, peer.name());
                    match peer {
                        Peer::Fieldgate(_) => report.problem(text),
                        Peer::Mosquitto(_) | Peer::Rumqttd(_) => report.note(text),
                    }
                }
                row.add(peer.name(), outcome.delivered_per_second());
                #[expect(clippy::cast_precision_loss, reason = "counts of a few seconds")]
                cost.add(peer.name(), used * 1e6 / (outcome.delivered.max(1) as f64));
            }
        }
        report.row(row);
        // Passwords are hashed at each connect, which is not what a message costs.
        if settings.transport == Transport::Mtls {
            report.row(cost);
        }
    }
    Ok(())
}

/// A gateway that sends to `cloud`.
pub async fn edge(
    settings: &Settings,
    way: Way,
    cloud: SocketAddr,
    identities: &mut Identities,
) -> anyhow::Result<Site> {
    let wanted = Wanted { publishers: PUBLISHERS, keys: way.keys(), upstream: Some(cloud), ..Wanted::default() };
    Site::start(settings, &wanted, identities).await
}

pub async fn round(
    duration: Duration,
    peer: &Peer,
    version: Version,
    identities: &Identities,
    observer: Option<(Seat, Way)>,
) -> anyhow::Result<Outcome> {
    let mut publishers = Vec::new();
    for number in 0..PUBLISHERS {
        publishers.push((peer.seat(Who::Publisher(number), version, identities)?, topic(number)));
    }
    // As the native dialect names it upstream.
    let filter = match (&observer, peer) {
        (Some((_, way)), Peer::Fieldgate(_)) => format!("fieldgate/bench/{}", way.topics),
        _ => FILTER.to_owned(),
    };
    let receivers = observer.into_iter().map(|(seat, _)| seat).collect();
    Load { version, qos: 1, window: WINDOW, lead: None, duration, messages: None, publishers, receivers, filter }
        .run()
        .await
}

/// Waits until the buffer is empty; by the ledger every acknowledged message has gone up.
async fn drained(site: &Site, acknowledged: u64) -> anyhow::Result<()> {
    let report = eventually("an empty buffer", DRAIN, async || {
        let report = site.gateway().buffer().await?;
        Ok((sum(&report, "waiting")? == 0).then_some(report))
    })
    .await?;
    let (received, delivered) = (sum(&report, "received")?, sum(&report, "delivered")?);
    // States of the devices go up too.
    ensure!(
        received >= acknowledged && delivered == received,
        "{acknowledged} acknowledged, the ledger says {received} received and {delivered} delivered"
    );
    Ok(())
}

fn sum(report: &Json, key: &str) -> anyhow::Result<u64> {
    let devices = report.get("devices").and_then(Json::as_array).context("no devices in the buffer's report")?;
    let loads = devices.iter().filter(|ledger| {
        ledger.get("device").and_then(Json::as_str).is_some_and(|id| id.starts_with('p') || id.starts_with("source"))
    });
    loads.map(|ledger| ledger.get(key).and_then(Json::as_u64).with_context(|| format!("no {key}"))).sum()
}
