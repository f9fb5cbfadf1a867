//! `half-open`: sockets that say nothing, get stuck in their hello, or send a byte a second; good clients in between.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::identities::Identities;
use crate::peers::Who;
use crate::process;
use crate::report::{Goal, Report, Row, mebibytes, percentile};
use crate::settings::{Key, Settings, Transport};
use crate::site::{Site, Wanted};
use crate::wire::{Connection, Seat, Version};

/// Longer than any goal: a socket that is open then counts as never closed.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two connections of the good client.
const EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, Copy)]
enum Kind {
    Silent,
    Stuck,
    Slow,
}

pub async fn half_open(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let settings = Settings { transport: Transport::Mtls, ..settings.clone() };
    let sockets = settings.size(2_000, 200);
    let mut identities = Identities::new()?;
    // A short run does not wait for the default of ten seconds.
    let timeout = settings.short.then(|| Key::new("broker.limits", "client_hello_timeout", "\"2s\""));
    let wanted = Wanted { publishers: 1, keys: timeout.into_iter().collect(), ..Wanted::default() };
    let site = Site::start(&settings, &wanted, &mut identities).await?;
    report.note(format!("fieldgate: {}, everything else at its default", site.configuration));
    let seat = site.seat(Who::Publisher(0), &identities)?;
    let tls = identities.client("p0")?;
    let hello: Arc<[u8]> = hello(tls)?.into();

    let what = format!("{sockets} sockets: a third each without a byte, with half a ClientHello, with 1 B/s");
    let mut closed = Row::new("half-open", format!("{what}; the last one closed"), "seconds", Goal::AtMost(15.0));
    let mut memory = Row::new("half-open", format!("{what}; growth of memory"), "MiB resident", Goal::AtMost(16.0));
    let mut good =
        Row::new("half-open", format!("{what}; a good client's longest connect"), "seconds", Goal::AtMost(1.0));
    let mut usual = Row::new("half-open", format!("{what}; a good client's usual connect"), "ms", Goal::None);
    for _ in 0..settings.rounds() {
        let pid = site.pid()?;
        let before = process::resident(pid)?;
        process::forget_peak(pid)?;
        let client = GoodClient::start(seat.clone())?;
        let lives = flood(sockets, seat.address, &hello).await?;
        let connects = client.stop()?;
        let open = lives.iter().filter(|life| life.is_none()).count();
        if open > 0 {
            report.problem(format!("half-open: {open} sockets were still open after {PATIENCE:?}"));
        }
        ensure!(!connects.is_empty(), "the good client never connected");
        let last = lives.into_iter().map(|life| life.unwrap_or(PATIENCE)).max().unwrap_or_default();
        closed.add("fieldgate", last.as_secs_f64());
        memory.add("fieldgate", mebibytes(process::peak(pid)?.saturating_sub(before)));
        good.add("fieldgate", percentile(&connects, 1.0) / 1e3);
        usual.add("fieldgate", percentile(&connects, 0.5));
    }
    for row in [closed, memory, good, usual] {
        report.row(row);
    }
    Ok(())
}

/// The first bytes that a TLS client sends.
fn hello(tls: Arc<ClientConfig>) -> anyhow::Result<Vec<u8>> {
    let mut client = ClientConnection::new(tls, ServerName::try_from("localhost")?)?;
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes)?;
    Ok(bytes)
}

/// Opens all at once; how long each lived, from its connect to its close by the other side.
async fn flood(count: usize, address: SocketAddr, hello: &Arc<[u8]>) -> anyhow::Result<Vec<Option<Duration>>> {
    let mut tasks = JoinSet::new();
    for kind in [Kind::Silent, Kind::Stuck, Kind::Slow].into_iter().cycle().take(count) {
        let hello = Arc::clone(hello);
        tasks.spawn(async move {
            let mut stream = TcpStream::connect(address).await.context("can't connect")?;
            let begin = Instant::now();
            let living = live(kind, &mut stream, &hello);
            let ended = tokio::time::timeout(PATIENCE, living).await;
            anyhow::Ok(ended.is_ok().then(|| begin.elapsed()))
        });
    }
    let mut lives = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        lives.push(ended??);
    }
    Ok(lives)
}

/// Returns when the other side has closed: an end or an error are the same here.
async fn live(kind: Kind, stream: &mut TcpStream, hello: &[u8]) {
    let half = hello.get(..hello.len() / 2).unwrap_or(hello);
    let (mut input, mut output) = stream.split();
    let sending = async {
        match kind {
            Kind::Silent => {}
            Kind::Stuck => {
                if output.write_all(half).await.is_err() {
                    return;
                }
            }
            Kind::Slow => {
                let mut ticks = tokio::time::interval(Duration::from_secs(1));
                for byte in hello {
                    ticks.tick().await;
                    if output.write_all(&[*byte]).await.is_err() {
                        return;
                    }
                }
            }
        }
        std::future::pending::<()>().await;
    };
    let reading = async {
        let mut buffer = [0; 256];
        // An alert may come first.
        while let Ok(1..) = input.read(&mut buffer).await {}
    };
    tokio::select! {
        () = sending => {}
        () = reading => {}
    }
}

/// Connects again and again, in a thread of its own.
struct GoodClient {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<anyhow::Result<Vec<f64>>>,
}

impl GoodClient {
    fn start(seat: Seat) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("good-client".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut connects = Vec::new();
                while !stopped.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    let opening = Connection::open(&seat, Version::V5);
                    let connection = tokio::time::timeout(PATIENCE, opening).await.context("no CONNACK")??;
                    connects.push(begin.elapsed().as_secs_f64() * 1e3);
                    connection.close().await?;
                    tokio::time::sleep(EVERY).await;
                }
                Ok(connects)
            })
        })?;
        Ok(Self { stop, thread })
    }

    /// Milliseconds of each connect.
    fn stop(self) -> anyhow::Result<Vec<f64>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the good client panicked"))?
    }
}
