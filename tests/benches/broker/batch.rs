//! Batches at the cloud: opened by the subscriber, and counted on their way there beside mosquitto's bridge.

use std::borrow::Cow;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use zstd::bulk::Decompressor;

use crate::identities::Identities;
use crate::peers::{Mosquitto, Peer};
use crate::report::{Goal, Report, Row};
use crate::settings::{Settings, Transport};
use crate::upstream::{BATCHED, edge, round};
use crate::wire::Version;

/// Nothing from a gateway is larger before compression.
const LARGEST: usize = 1 << 20;

/// What of a line the load looks at.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    base64: Option<&'a str>,
}

/// Opens batches.
pub struct Opener {
    decompressor: Decompressor<'static>,
    lines: Vec<u8>,
    payload: Vec<u8>,
}

impl Opener {
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self { decompressor: Decompressor::new()?, lines: Vec::with_capacity(LARGEST), payload: Vec::new() })
    }

    /// Gives each payload to `note`; how many there are.
    pub fn open(&mut self, batch: &[u8], mut note: impl FnMut(&[u8]) -> anyhow::Result<()>) -> anyhow::Result<u64> {
        self.lines.clear();
        self.decompressor.decompress_to_buffer(batch, &mut self.lines)?;
        let mut count = 0;
        for line in self.lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let line: Line<'_> = serde_json::from_slice(line)?;
            match (line.text, line.base64) {
                (Some(text), _) => note(text.as_bytes())?,
                (None, Some(base64)) => {
                    self.payload.clear();
                    STANDARD.decode_vec(base64, &mut self.payload)?;
                    note(&self.payload)?;
                }
                (None, None) => anyhow::bail!("a payload that nobody sent"),
            }
            count += 1;
        }
        Ok(count)
    }
}

/// Bytes of all connections to `target`, both ways.
struct Counted {
    address: SocketAddr,
    bytes: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Counted {
    async fn start(target: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let bytes = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&bytes);
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(target).await else { return };
                    if near.set_nodelay(true).and_then(|()| far.set_nodelay(true)).is_err() {
                        return;
                    }
                    let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
                    tokio::join!(pass(near_read, far_write, &counted), pass(far_read, near_write, &counted));
                });
            }
        });
        Ok(Self { address, bytes, task })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, counted: &AtomicU64) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        counted.fetch_add(count as u64, Ordering::Relaxed);
        let Some(bytes) = buffer.get(..count) else { return };
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

/// What a message costs on the line upstream, acknowledgements included, TCP's and TLS's own left out.
pub async fn bytes(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let mut identities = Identities::new()?;
    let clouds = [
        Mosquitto::start(Transport::Plain, &identities).await?,
        Mosquitto::start(Transport::Plain, &identities).await?,
    ];
    let [ours, theirs] = &clouds;
    let (our_line, their_line) = (Counted::start(ours.address).await?, Counted::start(theirs.address).await?);
    let site = edge(settings, BATCHED, our_line.address, &mut identities).await?;
    let bridging = Mosquitto::start_bridging(settings.transport, &identities, their_line.address).await?;
    let peers = [(Peer::Fieldgate(Box::new(site)), ours, &our_line), (Peer::Mosquitto(bridging), theirs, &their_line)];
    let what = format!(
        "bytes upstream, {}, 64 B, payloads that are 12 bytes of numbers and filling",
        settings.transport.name()
    );
    let mut row = Row::new("batch", what, "bytes per message", Goal::Share(0.2));
    for _ in 0..settings.rounds() {
        for (peer, cloud, line) in &peers {
            let before = line.bytes.load(Ordering::Relaxed);
            let observer = Some((cloud.observer(), BATCHED));
            let outcome = round(settings.load_time(), peer, Version::V5, &identities, observer).await?;
            let used = line.bytes.load(Ordering::Relaxed) - before;
            ensure!(outcome.delivered > 0, "nothing comes through {}", peer.name());
            if let (Some(problem), Peer::Fieldgate(_)) = (outcome.problem(), peer) {
                report.problem(format!("batch: {problem}"));
            }
            let delivered = u32::try_from(outcome.delivered).context("too many messages")?;
            row.add(peer.name(), f64::from(u32::try_from(used / 16)?) * 16.0 / f64::from(delivered));
        }
    }
    report.row(row);
    Ok(())
}
