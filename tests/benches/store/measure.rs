//! The measures. Bodies are 200 bytes; ten devices unless a measure says otherwise.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fieldgate_store::{Append, Batch, Lane, Options, Queue};
use fieldgate_types::{Clock, DeviceId, Percent, Size, SystemClock};
use tokio::task::JoinSet;

use crate::counters;

const BODY: usize = 200;
const UP: &str = "upstream";
/// Messages leased at a time: the upstream's window.
const WINDOW: usize = 4096;
/// `acknowledge = "either"`.
const HOLD: Duration = Duration::from_millis(20);
/// A second's worth of the paced load.
const PER_SECOND: u64 = 1000;

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Of the paced load and of the append rate.
    seconds: u64,
    /// Messages that wait before they are drained.
    waiting: u64,
}

impl Scale {
    pub const FULL: Self = Self { seconds: 5, waiting: 1_000_000 };
    pub const SHORT: Self = Self { seconds: 1, waiting: 5_000 };
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Bytes written for a message while the upstream is away, and until it is delivered.
    Offline,
    /// As `Online`, where a message waits for the upstream's word before it is written.
    Either,
    /// As `Offline` with a thousand devices.
    Devices,
    /// Bytes written for a message while the upstream keeps up.
    Online,
    /// A million messages leave. The first step only stores them.
    Drain,
    /// The second step of `Drain`.
    Drained,
    /// How fast messages are stored while nobody takes them.
    Append,
    /// The same in a full buffer, one of ten devices gone wild: with shares and without.
    Overflow,
}

type Figures = Result<Vec<(String, f64)>, Box<dyn Error>>;

impl Measure {
    pub const ALL: [Self; 7] =
        [Self::Offline, Self::Devices, Self::Online, Self::Either, Self::Drain, Self::Append, Self::Overflow];

    pub fn name(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Devices => "devices",
            Self::Online => "online",
            Self::Either => "either",
            Self::Drain => "drain",
            Self::Drained => "drained",
            Self::Append => "append",
            Self::Overflow => "overflow",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        [Self::Drained].into_iter().chain(Self::ALL).find(|measure| measure.name() == name)
    }

    /// The processes that it takes.
    pub fn steps(self) -> &'static [Self] {
        match self {
            Self::Offline => &[Self::Offline],
            Self::Devices => &[Self::Devices],
            Self::Online => &[Self::Online],
            Self::Either => &[Self::Either],
            Self::Drain => &[Self::Drain, Self::Drained],
            Self::Drained => &[Self::Drained],
            Self::Append => &[Self::Append],
            Self::Overflow => &[Self::Overflow],
        }
    }

    /// The most that a figure may be.
    pub fn goal(self, what: &str) -> Option<f64> {
        match self {
            Self::Offline if what.contains("stored") => Some(700.0),
            Self::Either if what.contains("life") => Some(50.0),
            Self::Drain if what.contains("memory") => Some(32.0),
            _ => None,
        }
    }

    pub async fn run(self, folder: &Path, scale: Scale) -> Figures {
        let path = folder.join("queue.db");
        match self {
            Self::Offline => offline(&path, scale, 10).await,
            Self::Devices => offline(&path, scale, 1000).await,
            Self::Online => online(&path, scale, Duration::ZERO, "durable").await,
            // Longer: making the file is 50 B for each message of five seconds.
            Self::Either => online(&path, Scale { seconds: 4 * scale.seconds, ..scale }, HOLD, "either").await,
            Self::Drain => fill(&path, scale).await,
            Self::Drained => drained(&path, scale).await,
            Self::Append => append(folder, scale).await,
            Self::Overflow => overflow(folder, scale).await,
        }
    }
}

fn open(path: &Path, boot: u64) -> Result<Queue, Box<dyn Error>> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    Ok(Queue::open(path, boot, Options::default(), clock)?)
}

fn message(clock: &SystemClock, device: u64) -> Result<Append, Box<dyn Error + Send + Sync>> {
    Ok(Append {
        device: DeviceId::new(&format!("device-{device}"))?,
        lane: Lane::Live,
        time: clock.now(),
        expires: None,
        body: Bytes::from(vec![b'x'; BODY]),
    })
}

#[allow(clippy::cast_precision_loss)] // figures for people
fn per(bytes: u64, messages: u64) -> f64 {
    bytes as f64 / messages as f64
}

/// A thousand messages a second, each a commit of its own, whenever the one before is answered. Their number, and how long
/// each answer took.
async fn paced(queue: &Queue, seconds: u64, devices: u64) -> Result<(u64, Vec<Duration>), Box<dyn Error>> {
    let clock = SystemClock::new();
    let mut commits = JoinSet::new();
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    let messages = seconds * PER_SECOND;
    let mut took = Vec::new();
    for number in 0..messages {
        tick.tick().await;
        let batch = Batch::append(message(&clock, number % devices).map_err(|error| error.to_string())?);
        let queue = queue.clone();
        commits.spawn(async move {
            let begin = Instant::now();
            queue.commit(batch).await.map(|_| begin.elapsed())
        });
    }
    while let Some(answer) = commits.join_next().await {
        took.push(answer??);
    }
    Ok((messages, took))
}

async fn offline(path: &Path, scale: Scale, devices: u64) -> Figures {
    let before = counters::written()?;
    let queue = open(path, 1)?;
    // A consumer that has not come by then is taken to be away.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let (messages, took) = paced(&queue, scale.seconds, devices).await?;
    let slowest = took.into_iter().max().unwrap_or_default();
    let commits = queue.stats().commits;
    queue.close().await?;
    let stored = counters::written()? - before;
    let queue = open(path, 2)?;
    drain(&queue, messages).await?;
    queue.close().await?;
    let life = counters::written()? - before;
    let what = |text: &str| format!("{devices} devices, 1,000 messages/s, upstream away: {text}");
    Ok(vec![
        (what("stored, B"), per(stored, messages)),
        (what("whole life, B"), per(life, messages)),
        (what("messages per commit"), per(messages, commits)),
        (what("slowest commit, ms"), slowest.as_secs_f64() * 1e3),
    ])
}

async fn online(path: &Path, scale: Scale, hold: Duration, word: &str) -> Figures {
    let before = counters::written()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let queue = Queue::open(path, 1, Options { hold, ..Options::default() }, clock)?;
    let consumer = tokio::spawn(consume(queue.clone()));
    let (messages, mut took) = paced(&queue, scale.seconds, 10).await?;
    let passed = queue.stats().passed;
    empty(&queue).await;
    consumer.abort();
    // Cancelled: that is no news.
    drop(consumer.await);
    queue.close().await?;
    let life = counters::written()? - before;
    took.sort_unstable();
    let percentile =
        |hundredth: usize| took.get(took.len() * hundredth / 100).map_or(0.0, |took| took.as_secs_f64() * 1e6);
    let what = |text: &str| format!("1,000 messages/s, upstream keeps up, {word}: {text}");
    Ok(vec![
        (what("whole life, B"), per(life, messages)),
        (what("never written, %"), per(passed * 100, messages)),
        (what("PUBACK p50, us"), percentile(50)),
        (what("PUBACK p99, us"), percentile(99)),
    ])
}

/// An upstream whose answer takes a millisecond.
async fn consume(queue: Queue) {
    while let Ok(records) = queue.lease(UP, Lane::Live, WINDOW, 1 << 20).await {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let ids = records.iter().map(|record| record.id).collect();
        if queue.settle(UP, ids).await.is_err() {
            return;
        }
    }
}

/// Takes everything with a window in flight: a lease is settled when the next one has been taken.
async fn drain(queue: &Queue, messages: u64) -> Result<(), Box<dyn Error>> {
    let mut drained = 0;
    let mut flying = Vec::new();
    while drained < messages {
        let records = queue.lease(UP, Lane::Live, WINDOW / 2, 1 << 20).await?;
        drained += records.len() as u64;
        let landed = std::mem::replace(&mut flying, records.iter().map(|record| record.id).collect());
        queue.settle(UP, landed).await?;
    }
    queue.settle(UP, flying).await?;
    empty(queue).await;
    Ok(())
}

async fn empty(queue: &Queue) {
    while queue.stats().messages > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn fill(path: &Path, scale: Scale) -> Figures {
    let clock = SystemClock::new();
    let queue = open(path, 1)?;
    for first in (0..scale.waiting).step_by(1000) {
        let appends: Result<Vec<_>, _> = (first..first + 1000).map(|number| message(&clock, number % 10)).collect();
        let appends = appends.map_err(|error| error.to_string())?;
        queue.commit(Batch { appends, ..Batch::default() }).await?;
    }
    queue.close().await?;
    Ok(Vec::new())
}

async fn drained(path: &Path, scale: Scale) -> Figures {
    let before = counters::resident()?;
    counters::forget_peak()?;
    let begin = Instant::now();
    let queue = open(path, 2)?;
    let opened = begin.elapsed();
    let messages = queue.stats().messages;
    let begin = Instant::now();
    let written = counters::written()?;
    drain(&queue, messages).await?;
    let took = begin.elapsed();
    let growth = counters::peak()?.saturating_sub(before);
    queue.close().await?;
    let written = counters::written()? - written;
    let what = |text: &str| format!("{} waiting: {text}", scale.waiting);
    #[allow(clippy::cast_precision_loss)] // figures for people
    Ok(vec![
        (what("drained, messages/s"), messages as f64 / took.as_secs_f64()),
        (what("written while draining, B"), per(written, messages)),
        (what("memory grown by, MiB"), growth as f64 / f64::from(1 << 20)),
        (what("opened in, ms"), opened.as_secs_f64() * 1e3),
    ])
}

/// Sixty-four producers, each with one batch of `size` outstanding, of the device that `of` gives it. What they stored, in
/// which time, and the longest that one of them waited.
async fn produce(
    queue: &Queue,
    size: u64,
    time: Duration,
    of: fn(u64) -> u64,
) -> Result<(u64, Duration, Duration), Box<dyn Error>> {
    let begin = Instant::now();
    let mut producers = JoinSet::new();
    for number in 0..64 {
        let queue = queue.clone();
        producers.spawn(async move {
            let clock = SystemClock::new();
            let (mut stored, mut slowest) = (0, Duration::ZERO);
            while begin.elapsed() < time {
                let appends = (0..size).map(|_| message(&clock, of(number))).collect::<Result<_, _>>()?;
                let asked = Instant::now();
                queue.commit(Batch { appends, ..Batch::default() }).await?;
                slowest = slowest.max(asked.elapsed());
                stored += size;
            }
            Ok::<(u64, Duration), Box<dyn Error + Send + Sync>>((stored, slowest))
        });
    }
    let (mut stored, mut slowest) = (0, Duration::ZERO);
    while let Some(answer) = producers.join_next().await {
        let (more, waited) = answer?.map_err(|error| error.to_string())?;
        (stored, slowest) = (stored + more, slowest.max(waited));
    }
    Ok((stored, begin.elapsed(), slowest))
}

#[allow(clippy::cast_precision_loss)] // figures for people
fn rate(stored: u64, took: Duration) -> f64 {
    stored as f64 / took.as_secs_f64()
}

async fn append(folder: &Path, scale: Scale) -> Figures {
    let mut figures = Vec::new();
    for size in [1_u64, 10, 100] {
        let queue = open(&folder.join(format!("{size}.db")), 1)?;
        tokio::time::sleep(Duration::from_millis(1200)).await;
        let time = Duration::from_secs(scale.seconds.div_ceil(2));
        let (stored, took, _) = produce(&queue, size, time, |number| number).await?;
        figures.push((format!("64 producers x {size}, upstream away: stored, messages/s"), rate(stored, took)));
        queue.close().await?;
    }
    Ok(figures)
}

/// Nine tenths of the producers are the wild device.
fn wild(number: u64) -> u64 {
    if number < 58 { 0 } else { number }
}

async fn overflow(folder: &Path, scale: Scale) -> Figures {
    let mut figures = Vec::new();
    // A message takes about 300 bytes of the file.
    let max_size = Size((scale.waiting / 4 * 300).max(4 << 20));
    for share in [Percent::ALL, Percent::clamped(50)] {
        let path = folder.join(format!("{share}.db"));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let options = Options { max_size, device_share: share, ..Options::default() };
        let queue = Queue::open(&path, 1, options.clone(), Arc::clone(&clock))?;
        // Full: quiet devices a fifth of it, the wild one the rest, each with batches of its own.
        let now = SystemClock::new();
        while queue.ledger().iter().all(|row| row.evicted == 0) {
            for device in 0..10 {
                let records = if device == 0 { 820 } else { 20 };
                let appends = (0..records).map(|_| message(&now, device)).collect::<Result<_, _>>();
                let appends = appends.map_err(|error| error.to_string())?;
                queue.commit(Batch { appends, ..Batch::default() }).await?;
            }
        }
        queue.close().await?;
        let queue = Queue::open(&path, 2, options, clock)?;
        let before = counters::resident()?;
        counters::forget_peak()?;
        let written = counters::written()?;
        let time = Duration::from_secs(scale.seconds);
        let (stored, took, slowest) = produce(&queue, 10, time, wild).await?;
        let growth = counters::peak()?.saturating_sub(before);
        let written = counters::written()? - written;
        let wild = DeviceId::new("device-0")?;
        let neighbours: u64 = queue.ledger().iter().filter(|row| row.device != wild).map(|row| row.evicted).sum();
        queue.close().await?;
        let what = |text: &str| format!("full, one wild device, device_share {share}: {text}");
        #[allow(clippy::cast_precision_loss)] // figures for people
        figures.extend([
            (what("stored, messages/s"), rate(stored, took)),
            (what("slowest commit, ms"), slowest.as_secs_f64() * 1e3),
            (what("written, B"), per(written, stored)),
            (what("memory grown by, MiB"), growth as f64 / f64::from(1 << 20)),
            (what("neighbours' messages evicted"), neighbours as f64),
        ]);
    }
    Ok(figures)
}
