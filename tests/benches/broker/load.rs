//! The load of a round: publishers that keep a window open, receivers that check what arrives. Each message carries
//! its publisher's number and its own, so that a lost, repeated or overtaken one is seen.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::{Buf, BufMut};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::batch::Opener;
use crate::wire::{Connection, Seat, Template, Version, delivered, frame};

/// Length of a payload.
pub const PAYLOAD: usize = 64;
/// A receiver that gets nothing for so long has got all that it will get.
const SILENCE: Duration = Duration::from_secs(3);
/// Bytes that a busy client asks its socket for.
const CHUNK: usize = 128 << 10;

/// What a round does.
pub struct Load {
    pub version: Version,
    pub qos: u8,
    /// Unacknowledged publishes of one publisher.
    pub window: usize,
    /// Messages that a publisher may be ahead of what all receivers got; QoS 0 has no other brake.
    pub lead: Option<u64>,
    pub duration: Duration,
    /// Each publisher stops after so many.
    pub messages: Option<u64>,
    /// With their topics.
    pub publishers: Vec<(Seat, String)>,
    pub receivers: Vec<Seat>,
    pub filter: String,
}

/// What came of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outcome {
    pub sent: u64,
    pub acknowledged: u64,
    pub delivered: u64,
    pub lost: u64,
    /// Repeated, or behind a later one of the same publisher.
    pub disordered: u64,
    /// From the first publish to the last delivery.
    pub delivering: Duration,
    /// From the first publish to the last acknowledgement.
    pub acknowledging: Duration,
}

impl Outcome {
    pub fn delivered_per_second(&self) -> f64 {
        rate(self.delivered, self.delivering)
    }

    pub fn acknowledged_per_second(&self) -> f64 {
        rate(self.acknowledged, self.acknowledging)
    }

    /// What is wrong, if anything.
    pub fn problem(&self) -> Option<String> {
        let Self { sent, delivered, lost, disordered, .. } = self;
        (*lost > 0 || *disordered > 0)
            .then(|| format!("of {sent} sent, {delivered} delivered, {lost} lost, {disordered} out of order"))
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a few seconds")]
fn rate(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64().max(1e-9)
}

/// What receivers have got; shared with the publishers.
struct Flow {
    delivered: AtomicU64,
    moved: Notify,
    stop: AtomicBool,
    receivers: u64,
    lead: Option<u64>,
}

/// What one receiver has seen.
#[derive(Default)]
struct Seen {
    /// By publisher: the next number.
    next: Vec<u64>,
    count: u64,
    disordered: u64,
    last: Option<Instant>,
    /// Of a publisher whose payloads tell when they were sent.
    live: Option<Live>,
}

/// What came of one publisher that sends steadily, beside the others.
struct Live {
    number: usize,
    origin: Instant,
    count: u64,
    latencies: Vec<f64>,
    /// Of the others.
    first: Option<Instant>,
    last: Option<Instant>,
}

type Shared = Arc<Mutex<Seen>>;

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Load {
    /// Connects everybody, publishes for the given time, and waits for the rest.
    pub async fn run(self) -> anyhow::Result<Outcome> {
        let flow = Arc::new(Flow {
            delivered: AtomicU64::new(0),
            moved: Notify::new(),
            stop: AtomicBool::new(false),
            receivers: u64::try_from(self.receivers.len())?,
            lead: self.lead,
        });
        let mut receiving = JoinSet::new();
        let mut all_seen = Vec::new();
        for seat in &self.receivers {
            let mut connection = Connection::open(seat, self.version).await?;
            connection.subscribe(&self.filter, self.qos).await?;
            let seen = Shared::default();
            lock(&seen).next = vec![0; self.publishers.len()];
            all_seen.push(Arc::clone(&seen));
            receiving.spawn(receive(connection, seen, Arc::clone(&flow)));
        }
        let mut publishers = Vec::new();
        for (number, (seat, topic)) in (0_u32..).zip(&self.publishers) {
            let connection = Connection::open(seat, self.version).await?;
            let template = Template::new(self.version, topic, self.qos, PAYLOAD);
            let (qos, window, messages) = (self.qos, self.window, self.messages.unwrap_or(u64::MAX));
            publishers.push(Publisher { connection, template, number, qos, window, messages, flow: Arc::clone(&flow) });
        }

        let begin = Instant::now();
        let mut publishing = JoinSet::new();
        for publisher in publishers {
            publishing.spawn(publisher.run());
        }
        // Kept until the end: a publisher's goodbye is not part of the load.
        let mut finished = Vec::new();
        let end = tokio::time::sleep(self.duration);
        tokio::pin!(end);
        while !publishing.is_empty() {
            tokio::select! {
                () = &mut end => break,
                Some(ended) = publishing.join_next() => match ended? {
                    Ok(done) if self.messages.is_some() => finished.push(done),
                    other => bail!("a publisher ended early: {:?}", other.map(|_| ())),
                },
                Some(ended) = receiving.join_next() => bail!("a receiver ended early: {:?}", ended?),
            }
        }
        flow.stop.store(true, Ordering::Relaxed);
        flow.moved.notify_waiters();
        flow.moved.notify_one();
        let mut outcome = Outcome::default();
        while let Some(ended) = publishing.join_next().await {
            finished.push(ended??);
        }
        let sent: u64 = finished.iter().map(|(_, count)| count).sum();
        (outcome.sent, outcome.acknowledged) = (sent, sent);
        outcome.acknowledging = begin.elapsed();
        let wanted = outcome.sent * flow.receivers;
        wait_for(&flow, wanted, &mut receiving).await?;
        outcome.delivering = begin.elapsed();
        for seen in &all_seen {
            let seen = lock(seen);
            outcome.delivered += seen.count;
            outcome.disordered += seen.disordered;
            let last = seen.last.map_or(Duration::ZERO, |last| last.duration_since(begin));
            if wanted > flow.delivered.load(Ordering::Relaxed) {
                // The wait for those that never came is nobody's speed.
                outcome.delivering = last.max(Duration::from_millis(1));
            }
        }
        outcome.lost = wanted.saturating_sub(outcome.delivered);
        for (connection, _) in finished {
            connection.close().await?;
        }
        Ok(outcome)
    }
}

/// Waits until `wanted` deliveries are there, or nothing moves any more.
async fn wait_for(flow: &Flow, wanted: u64, receiving: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut before = 0;
    let mut since = Instant::now();
    loop {
        let count = flow.delivered.load(Ordering::Relaxed);
        if count >= wanted || since.elapsed() > SILENCE {
            return Ok(());
        }
        if count > before {
            (before, since) = (count, Instant::now());
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(1)) => {}
            Some(ended) = receiving.join_next() => bail!("a receiver ended early: {:?}", ended?),
        }
    }
}

struct Publisher {
    connection: Connection,
    template: Template,
    number: u32,
    qos: u8,
    window: usize,
    messages: u64,
    flow: Arc<Flow>,
}

impl Publisher {
    /// Keeps the window open until it is told to stop, then takes the last acknowledgements. Returns how many
    /// messages were sent, all of them acknowledged above QoS 0.
    async fn run(mut self) -> anyhow::Result<(Connection, u64)> {
        self.connection.chunk = 4 << 10;
        let mut payload = [b'x'; PAYLOAD];
        payload[..4].copy_from_slice(&self.number.to_be_bytes());
        let (mut sent, mut acknowledged) = (0_u64, 0_u64);
        loop {
            let stop = self.flow.stop.load(Ordering::Relaxed) || sent == self.messages;
            while !stop && sent < self.messages && self.may_send(sent, acknowledged) {
                payload[4..12].copy_from_slice(&sent.to_be_bytes());
                self.template.put(&mut self.connection.output, packet_id(sent), &payload);
                sent += 1;
            }
            if stop && (self.qos == 0 || acknowledged == sent) {
                self.connection.flush().await?;
                return Ok((self.connection, sent));
            }
            if self.flow.lead.is_none() {
                self.connection.exchange().await?;
            } else {
                tokio::select! {
                    exchanged = self.connection.exchange() => exchanged?,
                    () = self.flow.moved.notified() => {}
                }
            }
            acknowledged += self.acknowledgements(acknowledged)?;
        }
    }

    fn may_send(&self, sent: u64, acknowledged: u64) -> bool {
        let window = u64::try_from(self.window).unwrap_or(u64::MAX);
        let in_window = self.qos == 0 || sent - acknowledged < window;
        // A bound on one go, so that the buffer stays small without a window.
        let in_buffer = self.connection.output.len() < CHUNK;
        let in_lead = self
            .flow
            .lead
            .is_none_or(|lead| sent < self.flow.delivered.load(Ordering::Relaxed) / self.flow.receivers.max(1) + lead);
        in_window && in_buffer && in_lead
    }

    fn acknowledgements(&mut self, before: u64) -> anyhow::Result<u64> {
        let input = &mut self.connection.input;
        let mut count = 0;
        while let Some((first, begin, end)) = frame(input) {
            let body = input.get(begin..end).unwrap_or_default();
            ensure!(first == 0x40, "{first:#04x} in place of a PUBACK: {body:?}");
            let expected = packet_id(before + count).to_be_bytes();
            ensure!(body.get(..2) == Some(&expected), "PUBACKs come in another order than the publishes");
            ensure!(body.get(2).is_none_or(|code| *code < 0x80), "refused: {body:?}");
            input.advance(end);
            count += 1;
        }
        Ok(count)
    }
}

/// Of the message with this number: 1 to 65,535, again and again.
fn packet_id(number: u64) -> u16 {
    u16::try_from(number % 65_535).unwrap_or(0) + 1
}

/// Takes, checks and acknowledges until it is dropped.
async fn receive(mut connection: Connection, seen: Shared, flow: Arc<Flow>) -> anyhow::Result<()> {
    connection.chunk = if flow.receivers > 1 { 16 << 10 } else { CHUNK };
    let mut opener = Opener::new()?;
    loop {
        connection.exchange().await?;
        let mut count = 0;
        {
            let mut seen = lock(&seen);
            let mut at = 0;
            while let Some((first, begin, end)) = frame(connection.input.get(at..).unwrap_or_default()) {
                let body = connection.input.get(at + begin..at + end).unwrap_or_default();
                ensure!(first >> 4 == 3, "{first:#04x} in place of a PUBLISH: {body:?}");
                let message = delivered(connection.version, first, body).context("a PUBLISH that is too short")?;
                count += if message.topic.ends_with(b"/batch") {
                    opener.open(message.payload, |payload| seen.note(payload))?
                } else {
                    seen.note(message.payload)?;
                    1
                };
                if message.qos > 0 {
                    let [high, low] = message.id.to_be_bytes();
                    connection.output.put_slice(&[0x40, 2, high, low]);
                }
                at += end;
            }
            connection.input.advance(at);
            seen.count += count;
            seen.last = Some(Instant::now());
        }
        flow.delivered.fetch_add(count, Ordering::Relaxed);
        if flow.lead.is_some() {
            flow.moved.notify_one();
        }
    }
}

impl Seen {
    fn note(&mut self, payload: &[u8]) -> anyhow::Result<()> {
        let number = payload.get(..4).context("a payload that nobody sent")?;
        let publisher = usize::try_from(u32::from_be_bytes(number.try_into()?))?;
        let sequence = u64::from_be_bytes(payload.get(4..12).context("a short payload")?.try_into()?);
        let next = self.next.get_mut(publisher).context("a publisher that does not exist")?;
        if sequence < *next {
            self.disordered += 1;
        } else {
            // A gap shows in the count.
            *next = sequence + 1;
        }
        if let Some(live) = &mut self.live {
            live.note(publisher, payload)?;
        }
        Ok(())
    }
}

impl Live {
    fn note(&mut self, publisher: usize, payload: &[u8]) -> anyhow::Result<()> {
        let now = Instant::now();
        if publisher != self.number {
            self.first.get_or_insert(now);
            self.last = Some(now);
            return Ok(());
        }
        self.count += 1;
        let sent = payload.get(12..20).context("a payload without its time")?;
        let sent = self.origin + Duration::from_nanos(u64::from_be_bytes(sent.try_into()?));
        self.latencies.push(now.saturating_duration_since(sent).as_secs_f64() * 1e3);
        Ok(())
    }
}

/// A subscriber that looks on for as long as somebody wants: at what drains, and at one live publisher.
pub struct Watch {
    seen: Shared,
    receiving: tokio::task::JoinHandle<anyhow::Result<()>>,
    /// What the live publisher's times count from.
    pub origin: Instant,
}

/// What it saw.
pub struct Watched {
    pub disordered: u64,
    /// From the first to the last message that was not live.
    pub draining: Duration,
    /// Of the live ones, in milliseconds.
    pub latencies: Vec<f64>,
}

impl Watch {
    /// Subscribes. Publishers are numbered below `publishers`; `live` sends its times.
    pub async fn begin(seat: &Seat, filter: &str, publishers: usize, live: usize) -> anyhow::Result<Self> {
        let mut connection = Connection::open(seat, Version::V5).await?;
        connection.subscribe(filter, 1).await?;
        let origin = Instant::now();
        let seen = Shared::default();
        {
            let mut seen = lock(&seen);
            seen.next = vec![0; publishers];
            let (latencies, first, last) = (Vec::new(), None, None);
            seen.live = Some(Live { number: live, origin, count: 0, latencies, first, last });
        }
        let flow = Flow {
            delivered: AtomicU64::new(0),
            moved: Notify::new(),
            stop: AtomicBool::new(false),
            receivers: 1,
            lead: None,
        };
        let receiving = tokio::spawn(receive(connection, Arc::clone(&seen), Arc::new(flow)));
        Ok(Self { seen, receiving, origin })
    }

    /// Messages of the live publisher so far.
    pub fn of_live(&self) -> u64 {
        lock(&self.seen).live.as_ref().map_or(0, |live| live.count)
    }

    /// Messages of all others so far.
    pub fn of_others(&self) -> u64 {
        let seen = lock(&self.seen);
        seen.count - seen.live.as_ref().map_or(0, |live| live.count)
    }

    /// Stops looking.
    pub async fn end(self) -> anyhow::Result<Watched> {
        if self.receiving.is_finished() {
            self.receiving.await??;
            bail!("the observer's connection has ended");
        }
        self.receiving.abort();
        let mut seen = lock(&self.seen);
        let disordered = seen.disordered;
        let live = seen.live.take().context("nobody was live")?;
        let draining = live.first.zip(live.last).map_or(Duration::ZERO, |(first, last)| last - first);
        Ok(Watched { disordered, draining, latencies: live.latencies })
    }
}
