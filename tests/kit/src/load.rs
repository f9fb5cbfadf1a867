//! A leaf that publishes the numbers 1, 2, 3, … and goes on after every loss of its connection.
//!
//! Up to `WINDOW` messages wait for their acknowledgement at a time. After a loss it connects again and sends again
//! from the first number that was not acknowledged, as a device does that keeps its unacknowledged messages.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep, timeout};

use crate::leaf::Sent;
use crate::{Ack, Bundle, Leaf, Options, PATIENCE};

/// Below the gateway's Receive Maximum.
const WINDOW: usize = 20;
const RETRY: Duration = Duration::from_millis(10);

#[derive(Debug, Default)]
struct Progress {
    acknowledged: BTreeSet<u64>,
    /// Of the newest connection.
    first: Option<Instant>,
    connections: u64,
}

/// What became of a load.
#[derive(Debug, Clone, Default)]
pub struct Sum {
    /// The numbers that were acknowledged.
    pub acknowledged: BTreeSet<u64>,
    /// Connections made.
    pub connections: u64,
}

/// A running load.
pub struct Load {
    progress: Arc<Mutex<Progress>>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Load {
    /// Publishes `rate` messages a second on `devices/{id}/telemetry/load`.
    pub fn start(bundle: &Bundle, address: SocketAddr, options: Options, rate: u32) -> Self {
        let (progress, stop) = (Arc::<Mutex<Progress>>::default(), Arc::new(AtomicBool::new(false)));
        let mut ticks = interval(Duration::from_secs(1) / rate);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let device = Device {
            bundle: bundle.clone(),
            address,
            options,
            progress: Arc::clone(&progress),
            stop: Arc::clone(&stop),
            ticks,
            next: 1,
        };
        Self { progress, stop, task: tokio::spawn(device.run()) }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many numbers were acknowledged so far.
    pub fn count(&self) -> usize {
        self.progress().acknowledged.len()
    }

    /// The connections made so far, and when the first acknowledgement came on the newest.
    pub fn connection(&self) -> (u64, Option<Instant>) {
        let progress = self.progress();
        (progress.connections, progress.first)
    }

    /// Stops after the last acknowledgement of what was sent.
    pub async fn stop(self) -> anyhow::Result<Sum> {
        self.stop.store(true, Ordering::Relaxed);
        timeout(PATIENCE * 2, self.task).await.context("the load does not come to its end")???;
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Sum { acknowledged: std::mem::take(&mut progress.acknowledged), connections: progress.connections })
    }
}

struct Device {
    bundle: Bundle,
    address: SocketAddr,
    options: Options,
    progress: Arc<Mutex<Progress>>,
    stop: Arc<AtomicBool>,
    ticks: Interval,
    next: u64,
}

impl Device {
    async fn run(mut self) -> anyhow::Result<()> {
        loop {
            let leaf = self.connect().await?;
            self.publish(&leaf).await?;
            // Again from the first that was not acknowledged. Once told to stop, nothing more is sent: what is open stays
            // unacknowledged.
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let acknowledged = &self.progress.lock().unwrap_or_else(PoisonError::into_inner).acknowledged;
            self.next = (1..self.next).find(|n| !acknowledged.contains(n)).unwrap_or(self.next);
        }
    }

    async fn connect(&self) -> anyhow::Result<Leaf> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Leaf::connect(&self.bundle, self.address, self.options.clone()).await {
                Ok(leaf) => {
                    let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
                    progress.connections += 1;
                    progress.first = None;
                    return Ok(leaf);
                }
                Err(error) if Instant::now() >= deadline => bail!("{} can't connect: {error}", self.bundle.id),
                Err(_) => sleep(RETRY).await,
            }
        }
    }

    /// Until told to stop, or until the connection has ended; then everything sent is settled.
    async fn publish(&mut self, leaf: &Leaf) -> anyhow::Result<()> {
        let topic = format!("devices/{}/telemetry/load", self.bundle.id);
        // Full: the device waits before it sends the next.
        let (sent, mut open) = mpsc::channel(WINDOW);
        let progress = Arc::clone(&self.progress);
        let settling = async {
            while let Some((n, sent)) = open.recv().await {
                settle(&progress, n, sent).await?;
            }
            anyhow::Ok(())
        };
        let sending = async {
            let sent = sent;
            while !self.stop.load(Ordering::Relaxed) && leaf.ended().is_none() {
                self.ticks.tick().await;
                let Ok(notice) = leaf.send(&topic, format!("{{\"n\":{}}}", self.next)).await else { return };
                if sent.send((self.next, notice)).await.is_err() {
                    return;
                }
                self.next += 1;
            }
        };
        let ((), settled) = tokio::join!(sending, settling);
        settled?;
        Ok(())
    }
}

async fn settle(progress: &Mutex<Progress>, n: u64, sent: Sent) -> anyhow::Result<()> {
    let ack = timeout(PATIENCE, sent.acknowledged()).await;
    match ack.with_context(|| format!("no PUBACK for number {n}"))? {
        Ack::Accepted => {
            let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
            progress.acknowledged.insert(n);
            progress.first.get_or_insert_with(Instant::now);
            Ok(())
        }
        Ack::Refused(code) => bail!("number {n} was refused with 0x{code:02x}"),
        Ack::Lost => Ok(()),
    }
}
