//! `reconnect`: every device comes back at once, while one that is connected goes on as if nothing were.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::identities::Identities;
use crate::peers::{Mosquitto, Peer, Who, open_all, topic};
use crate::report::{Goal, Report, Row, percentile};
use crate::settings::{Settings, Transport};
use crate::site::{Site, Wanted};
use crate::wire::{Connection, Seat, Version};

/// The connected client asks so often.
const EVERY: Duration = Duration::from_millis(5);

pub async fn reconnect(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let settings = Settings { transport: Transport::Mtls, ..settings.clone() };
    let clients = settings.size(1_000, 100);
    let mut identities = Identities::new()?;
    let wanted = Wanted { publishers: clients + 1, ..Wanted::default() };
    let site = Site::start(&settings, &wanted, &mut identities).await?;
    report.note(format!("fieldgate: {}, everything else at its default", site.configuration));
    let peers =
        [Peer::Fieldgate(Box::new(site)), Peer::Mosquitto(Mosquitto::start(settings.transport, &identities).await?)];
    let what = format!("{clients} mTLS clients at once");
    let mut back = Row::new("reconnect", format!("{what}, all back"), "seconds", Goal::AtMost(20.0));
    let during = "a connected client meanwhile (PINGREQ and QoS 1 PUBLISH in turn, every 5 ms)";
    let mut tail = Row::new("reconnect", format!("{what}, {during}, p99"), "ms", Goal::AtMost(100.0));
    let mut worst = Row::new("reconnect", format!("{what}, {during}, longest"), "ms", Goal::None);
    for _ in 0..settings.rounds() {
        for peer in &peers {
            let seats: Vec<Seat> = (0..clients)
                .map(|number| peer.seat(Who::Publisher(number), Version::V5, &identities))
                .collect::<anyhow::Result<_>>()?;
            let connections = open_all(&seats, Version::V5, 32).await?;
            let probe = Probe::start(peer.seat(Who::Publisher(clients), Version::V5, &identities)?, clients)?;
            drop(connections);
            let begin = Instant::now();
            let returned = open_all(&seats, Version::V5, clients).await?;
            back.add(peer.name(), begin.elapsed().as_secs_f64());
            ensure!(returned.len() == clients, "{} of {clients} came back", returned.len());
            let latencies = probe.stop()?;
            ensure!(!latencies.is_empty(), "the connected client was never answered");
            tail.add(peer.name(), percentile(&latencies, 0.99));
            worst.add(peer.name(), percentile(&latencies, 1.0));
            for connection in returned {
                connection.close().await?;
            }
        }
    }
    report.row(back);
    report.row(tail);
    report.row(worst);
    Ok(())
}

/// A client in a thread of its own, so that the others' handshakes don't wait in its way here.
struct Probe {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<anyhow::Result<Vec<f64>>>,
}

impl Probe {
    fn start(seat: Seat, number: usize) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("probe".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let connection = Connection::open(&seat, Version::V5).await?;
                ready.send(()).context("nobody waits")?;
                ask(connection, &topic(number), &stopped).await
            })
        })?;
        is_ready.recv().context("the connected client could not connect")?;
        Ok(Self { stop, thread })
    }

    /// Milliseconds of every answer.
    fn stop(self) -> anyhow::Result<Vec<f64>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the connected client panicked"))?
    }
}

async fn ask(mut connection: Connection, topic: &str, stop: &AtomicBool) -> anyhow::Result<Vec<f64>> {
    let mut latencies = Vec::new();
    let mut ticks = tokio::time::interval(EVERY);
    let mut ping = false;
    while !stop.load(Ordering::Relaxed) {
        // Counted from when it was due: an answer that is late holds up the next question too.
        let due = ticks.tick().await;
        ping = !ping;
        if ping {
            connection.ping().await?;
        } else {
            connection.publish(topic, b"still here").await?;
        }
        latencies.push(due.elapsed().as_secs_f64() * 1e3);
    }
    connection.close().await?;
    Ok(latencies)
}
