//! `drain`: a million messages wait at the edge while its cloud is away; then it is back, and a device goes on publishing.
//! Beside mosquitto's bridge, which keeps them in memory.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use fieldgate_testkit::port;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;

use crate::identities::Identities;
use crate::load::{Load, PAYLOAD, Watch};
use crate::peers::{FILTER, Mosquitto, Peer, Who, topic};
use crate::process;
use crate::report::{Goal, Report, Row, mebibytes, percentile};
use crate::settings::{Settings, Transport};
use crate::site::{Site, Wanted};
use crate::wire::{Connection, Version};

const PUBLISHERS: usize = 50;
const WINDOW: usize = 20;
/// Publishes while the others' messages drain.
const LIVE: usize = PUBLISHERS;
const LIVE_EVERY: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_secs(300);

/// A line that is away until it is opened: a listener that is there only then.
struct Line {
    address: SocketAddr,
    target: SocketAddr,
    open: Option<JoinHandle<()>>,
}

impl Line {
    fn new(target: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self { address: port::free_address()?, target, open: None })
    }

    async fn open(&mut self) -> anyhow::Result<()> {
        let listener = TcpListener::bind(self.address).await?;
        let target = self.target;
        self.open = Some(tokio::spawn(async move {
            let mut passing = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                passing.spawn(pass(near, target));
            }
        }));
        Ok(())
    }

    /// Ends its connections too.
    async fn cut(&mut self) {
        if let Some(open) = self.open.take() {
            open.abort();
            // Cancelled, as asked.
            let _cancelled = open.await.is_err();
        }
    }
}

async fn pass(mut near: TcpStream, target: SocketAddr) -> std::io::Result<()> {
    let mut far = TcpStream::connect(target).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    tokio::io::copy_bidirectional_with_sizes(&mut near, &mut far, 64 << 10, 64 << 10).await.map(drop)
}

/// One edge with its line and its cloud.
struct Edge {
    peer: Peer,
    line: Line,
    cloud: Mosquitto,
}

pub async fn drain(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let mut identities = Identities::new()?;
    let (ours, theirs) = (
        Mosquitto::start(Transport::Plain, &identities).await?,
        Mosquitto::start(Transport::Plain, &identities).await?,
    );
    let (our_line, their_line) = (Line::new(ours.address)?, Line::new(theirs.address)?);
    let sections = format!(
        "[buffer]\ncommit_spacing = \"0s\"\n\n[upstream]\nurl = \"mqtt://{}\"\nretry_max = \"1s\"\n",
        our_line.address
    );
    let wanted = Wanted { publishers: PUBLISHERS + 1, sections, ..Wanted::default() };
    let site = Site::start(settings, &wanted, &mut identities).await?;
    report.note(format!(
        "drain: fieldgate: {}, [buffer] commit_spacing 0s so that filling is quick, [upstream] retry_max 1s; mosquitto's bridge: \
         cleansession false, restart_timeout 1",
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
         every {} ms; ours on disk, mosquitto's in memory",
        settings.transport.name(),
        LIVE_EVERY.as_millis()
    );
    let mut row = Row::new("drain", what, "delivered/s", Goal::Times(1.5));
    let mut memory = Row::new("drain", "memory beyond what it had before", "MiB resident", Goal::None);
    let mut live = Row::new("drain", "from the live device to the cloud meanwhile, p99", "ms", Goal::None);
    for _ in 0..settings.rounds() {
        for edge in &mut edges {
            let figures = round(edge, messages, &identities).await.with_context(|| edge.peer.name())?;
            row.add(edge.peer.name(), figures.per_second);
            memory.add(edge.peer.name(), figures.memory);
            live.add(edge.peer.name(), figures.live);
            if let Some(problem) = figures.problem {
                let text = format!("drain: {}: {problem}", edge.peer.name());
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

async fn round(edge: &mut Edge, messages: u64, identities: &Identities) -> anyhow::Result<Figures> {
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
        Peer::Fieldgate(_) => format!("fieldgate/bench/{FILTER}"),
        Peer::Mosquitto(_) | Peer::Rumqttd(_) => FILTER.to_owned(),
    };
    let watch = Watch::begin(&edge.cloud.observer(), &filter, PUBLISHERS + 1, LIVE).await?;
    let seat = edge.peer.seat(Who::Publisher(LIVE), Version::V5, identities)?;
    let publisher = Connection::open(&seat, Version::V5).await?;
    let stop = Arc::new(AtomicBool::new(false));
    edge.line.open().await?;
    let publishing = tokio::spawn(publish(publisher, Arc::clone(&stop), watch.origin));

    let began = Instant::now();
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

/// The live device: one message after the other, at a steady pace. How many.
async fn publish(mut connection: Connection, stop: Arc<AtomicBool>, origin: Instant) -> anyhow::Result<u64> {
    let mut pace = tokio::time::interval(LIVE_EVERY);
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut payload = [b'x'; PAYLOAD];
    payload[..4].copy_from_slice(&u32::try_from(LIVE)?.to_be_bytes());
    let mut sent = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
        payload[4..12].copy_from_slice(&sent.to_be_bytes());
        payload[12..20].copy_from_slice(&u64::try_from(origin.elapsed().as_nanos())?.to_be_bytes());
        connection.publish(&topic(LIVE), &payload).await?;
        sent += 1;
    }
    connection.close().await?;
    Ok(sent)
}
