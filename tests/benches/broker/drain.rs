//! `drain`: a million messages wait at the edge while its cloud is away; then it is back, and a device goes on publishing.
//! Beside mosquitto's bridge, which keeps them in memory. `drain-batch`: the same with `batch = "zstd"`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio::time::MissedTickBehavior;

use crate::identities::Identities;
use crate::line::Line;
use crate::load::{Load, PAYLOAD, Watch};
use crate::peers::{FILTER, Mosquitto, Peer, Who, topic};
use crate::process;
use crate::report::{Goal, Report, Row, mebibytes, percentile};
use crate::settings::{Key, Settings, Transport};
use crate::site::{Site, Wanted};
use crate::upstream::Way;
use crate::wire::{Connection, Version};

const PUBLISHERS: usize = 50;
const WINDOW: usize = 20;
/// Publishes while the others' messages drain.
const LIVE: usize = PUBLISHERS;
const LIVE_EVERY: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_secs(300);

/// One edge with its line and its cloud.
struct Edge {
    peer: Peer,
    line: Line,
    cloud: Mosquitto,
}

pub async fn drain(settings: &Settings, way: Way, report: &mut Report) -> anyhow::Result<()> {
    let (mut identities, bench) = (Identities::new()?, way.draining);
    let (ours, theirs) = (
        Mosquitto::start(Transport::Plain, &identities).await?,
        Mosquitto::start(Transport::Plain, &identities).await?,
    );
    let (our_line, their_line) = (Line::new(ours.address, Duration::ZERO)?, Line::new(theirs.address, Duration::ZERO)?);
    let mut keys = way.keys();
    // Filling is quick.
    keys.push(Key::new("buffer", "commit_spacing", "\"0s\""));
    keys.push(Key::new("upstream", "retry_max", "\"1s\""));
    let wanted = Wanted { publishers: PUBLISHERS + 1, keys, upstream: Some(our_line.address), ..Wanted::default() };
    let site = Site::start(settings, &wanted, &mut identities).await?;
    report.note(format!(
        "{bench}: fieldgate: {}, everything else at its default; mosquitto's bridge: cleansession false, restart_timeout 1",
        site.configuration
    ));
    let bridging = Mosquitto::start_queueing(settings.transport, &identities, their_line.address).await?;
    let mut edges = [
        Edge { peer: Peer::Fieldgate(Box::new(site)), line: our_line, cloud: ours },
        Edge { peer: Peer::Mosquitto(bridging), line: their_line, cloud: theirs },
    ];
    let messages = settings.messages();
    let what = format!(
        "{messages} messages of 64 B that waited at the edge, QoS 1, {}, to one subscriber at the cloud, while one device publishes \
         every {} ms; ours on disk, {}; mosquitto's in memory",
        settings.transport.name(),
        LIVE_EVERY.as_millis(),
        way.words
    );
    let mut row = Row::new(bench, what, "delivered/s", Goal::Times(1.5));
    let mut memory = Row::new(bench, "memory beyond what it had before", "MiB resident", Goal::None);
    let mut live = Row::new(bench, "from the live device to the cloud meanwhile, p99", "ms", Goal::None);
    for _ in 0..settings.rounds() {
        for edge in &mut edges {
            let figures = round(edge, way, messages, &identities).await.with_context(|| edge.peer.name())?;
            row.add(edge.peer.name(), figures.per_second);
            memory.add(edge.peer.name(), figures.memory);
            live.add(edge.peer.name(), figures.live);
            if let Some(problem) = figures.problem {
                let text = format!("{bench}: {}: {problem}", edge.peer.name());
                match &edge.peer {
                    Peer::Fieldgate(_) => report.problem(text),
                    Peer::Mosquitto(_) | Peer::Rumqttd(_) => report.note(text),
                }
            }
        }
    }
    report.row(row);
    report.row(memory);
    report.row(live);
    Ok(())
}

struct Figures {
    per_second: f64,
    memory: f64,
    live: f64,
    problem: Option<String>,
}

async fn round(edge: &mut Edge, way: Way, messages: u64, identities: &Identities) -> anyhow::Result<Figures> {
    let pid = edge.peer.pid()?;
    edge.line.cut().await;
    process::forget_peak(pid)?;
    let before = process::resident(pid)?;
    let mut publishers = Vec::new();
    for number in 0..PUBLISHERS {
        publishers.push((edge.peer.seat(Who::Publisher(number), Version::V5, identities)?, topic(number)));
    }
    let each = messages.div_ceil(PUBLISHERS as u64);
    let fill = Load {
        version: Version::V5,
        qos: 1,
        window: WINDOW,
        lead: None,
        duration: PATIENCE,
        messages: Some(each),
        publishers,
        receivers: Vec::new(),
        filter: String::new(),
    };
    let waiting = fill.run().await?.acknowledged;
    ensure!(waiting == each * PUBLISHERS as u64, "only {waiting} messages could be stored in {PATIENCE:?}");

    let filter = match &edge.peer {
        Peer::Fieldgate(_) => format!("fieldgate/bench/{}", way.topics),
        Peer::Mosquitto(_) | Peer::Rumqttd(_) => FILTER.to_owned(),
    };
    let watch = Watch::begin(&edge.cloud.observer(), &filter, PUBLISHERS + 1, LIVE).await?;
    let seat = edge.peer.seat(Who::Publisher(LIVE), Version::V5, identities)?;
    let publisher = Connection::open(&seat, Version::V5).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    edge.line.open().await?;
    // What a device publishes before the edge is connected again waits like everything else.
    while watch.of_others() == 0 {
        ensure!(began.elapsed() < PATIENCE, "nothing came");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let publishing = tokio::spawn(publish(publisher, LIVE, LIVE_EVERY, Arc::clone(&stop), watch.origin));
    while watch.of_others() < waiting {
        ensure!(began.elapsed() < PATIENCE, "only {} of {waiting} messages came", watch.of_others());
        ensure!(!publishing.is_finished(), "the live device's publisher has ended");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let sent = publishing.await??;
    while watch.of_live() < sent {
        if began.elapsed() > PATIENCE {
            bail!("only {} of {sent} live messages came", watch.of_live());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let seen = watch.end().await?;
    let problem = (seen.disordered > 0).then(|| format!("{} out of order", seen.disordered));
    #[expect(clippy::cast_precision_loss, reason = "a million")]
    let per_second = waiting as f64 / seen.draining.as_secs_f64();
    let live = percentile(&seen.latencies, 0.99);
    Ok(Figures { per_second, memory: mebibytes(process::peak(pid)?.saturating_sub(before)), live, problem })
}

/// A live device: one message after the other, at a steady pace. How many.
pub async fn publish(
    mut connection: Connection,
    number: usize,
    every: Duration,
    stop: Arc<AtomicBool>,
    origin: Instant,
) -> anyhow::Result<u64> {
    let mut pace = tokio::time::interval(every);
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut payload = [b'x'; PAYLOAD];
    payload[..4].copy_from_slice(&u32::try_from(number)?.to_be_bytes());
    let mut sent = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
        payload[4..12].copy_from_slice(&sent.to_be_bytes());
        payload[12..20].copy_from_slice(&u64::try_from(origin.elapsed().as_nanos())?.to_be_bytes());
        connection.publish(&topic(number), &payload).await?;
        sent += 1;
    }
    connection.close().await?;
    Ok(sent)
}
