//! `latency`: from a device to the cloud at a thousand messages a second, each on disk on its way, beside mosquitto's bridge.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::drain::publish;
use crate::identities::Identities;
use crate::load::Watch;
use crate::peers::{FILTER, Mosquitto, Peer, Who};
use crate::report::{Goal, Report, Row, percentile};
use crate::settings::{Settings, Transport};
use crate::upstream::{SINGLY, edge};
use crate::wire::{Connection, Version};

const PUBLISHERS: usize = 20;
/// Of each publisher: a thousand a second together.
const EVERY: Duration = Duration::from_millis(20);

pub async fn latency(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let mut identities = Identities::new()?;
    let clouds = [
        Mosquitto::start(Transport::Plain, &identities).await?,
        Mosquitto::start(Transport::Plain, &identities).await?,
    ];
    let [ours, theirs] = &clouds;
    let site = edge(settings, SINGLY, ours.address, &mut identities).await?;
    report.note(format!("latency: fieldgate: {}, everything else at its default", site.configuration));
    let bridging = Mosquitto::start_bridging(settings.transport, &identities, theirs.address).await?;
    let peers = [(Peer::Fieldgate(Box::new(site)), ours), (Peer::Mosquitto(bridging), theirs)];
    let what = |of: &str| {
        format!(
            "from the device to the cloud at {} messages of 64 B a second, QoS 1, {}, ours fsynced, {of}",
            PUBLISHERS as u128 * 1000 / EVERY.as_millis(),
            settings.transport.name()
        )
    };
    let mut middle = Row::new("latency", what("p50"), "ms", Goal::AtMost(5.0));
    let mut late = Row::new("latency", what("p99"), "ms", Goal::AtMost(25.0));
    for _ in 0..settings.rounds() {
        for (peer, cloud) in &peers {
            let latencies = round(settings.load_time(), peer, cloud, &identities).await?;
            middle.add(peer.name(), percentile(&latencies, 0.5));
            late.add(peer.name(), percentile(&latencies, 0.99));
        }
    }
    report.row(middle);
    report.row(late);
    Ok(())
}

/// What messages of one of the publishers took, in milliseconds.
async fn round(
    duration: Duration,
    peer: &Peer,
    cloud: &Mosquitto,
    identities: &Identities,
) -> anyhow::Result<Vec<f64>> {
    let filter = match peer {
        Peer::Fieldgate(_) => format!("fieldgate/bench/{FILTER}"),
        Peer::Mosquitto(_) | Peer::Rumqttd(_) => FILTER.to_owned(),
    };
    let watch = Watch::begin(&cloud.observer(), &filter, PUBLISHERS, 0).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut publishing = Vec::new();
    for number in 0..PUBLISHERS {
        let connection =
            Connection::open(&peer.seat(Who::Publisher(number), Version::V5, identities)?, Version::V5).await?;
        publishing.push(tokio::spawn(publish(connection, number, EVERY, Arc::clone(&stop), watch.origin)));
    }
    tokio::time::sleep(duration).await;
    stop.store(true, Ordering::Relaxed);
    let mut sent = Vec::new();
    for publisher in publishing {
        sent.push(publisher.await??);
    }
    let first = *sent.first().context("no publisher")?;
    let all = sent.iter().sum::<u64>();
    fieldgate_testkit::wait_until("all messages", Duration::from_secs(20), || {
        (watch.of_live() + watch.of_others() >= all).then_some(())
    })
    .await?;
    let seen = watch.end().await?;
    ensure!(seen.disordered == 0, "{}: {} out of order", peer.name(), seen.disordered);
    ensure!(seen.latencies.len() as u64 >= first, "{}: {} of {first} were seen", peer.name(), seen.latencies.len());
    Ok(seen.latencies)
}
