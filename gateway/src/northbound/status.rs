//! What others may know of the upstream: a state that changes rarely, and counters that change with each message.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fieldgate_types::{Clock, Pulse, UnixMillis};
use tokio::sync::watch;

/// How far the connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamState {
    /// It is being set up.
    Connecting,
    /// Messages flow.
    Up,
    /// It failed or was lost; the next try comes by itself.
    Down,
    /// It was stopped, for good.
    Stopped,
}

impl UpstreamState {
    /// Word for status and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Up => "up",
            Self::Down => "down",
            Self::Stopped => "stopped",
        }
    }
}

/// One look at the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamStatus {
    /// How far the connection is.
    pub state: UpstreamState,
    /// Since when it is so.
    pub since: UnixMillis,
    /// Why it was last refused or lost, in words, with what to do.
    pub last_error: Option<String>,
    /// Connections that came up.
    pub connects: u64,
    /// Messages sent, re-sends included.
    pub published: u64,
    /// Batches sent, re-sends included.
    pub batches: u64,
    /// Their bytes, compressed.
    pub batch_bytes: u64,
    /// Messages that the upstream accepted.
    pub acknowledged: u64,
    /// Messages on the wire.
    pub in_flight: usize,
    /// Messages put aside.
    pub quarantined: u64,
    /// Refusals that pass (quota, busy): all of these were or will be sent again.
    pub refused: u64,
    /// Commands received.
    pub commands: u64,
    /// Messages from upstream that were no command: malformed topic, retained, too large, no room.
    pub ignored_commands: u64,
    /// From publishing to the PUBACK, of the last message.
    pub ack_latency: Option<Duration>,
}

#[derive(Debug, Clone)]
struct Posted {
    state: UpstreamState,
    since: UnixMillis,
    last_error: Option<String>,
    connects: u64,
}

/// Upper bounds of the buckets of [`AckTimes`], in milliseconds; one more holds what took longer.
pub const ACK_BOUNDS: [u64; 12] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 10_000];

/// How long the upstream took to acknowledge: how many messages in each bucket, and all times together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AckTimes {
    /// By [`ACK_BOUNDS`].
    pub counts: [u64; ACK_BOUNDS.len() + 1],
    /// Summed.
    pub sum: Duration,
}

impl AckTimes {
    fn note(&mut self, messages: u64, took: Duration) {
        let place = ACK_BOUNDS.iter().position(|bound| took <= Duration::from_millis(*bound));
        if let Some(count) = self.counts.get_mut(place.unwrap_or(ACK_BOUNDS.len())) {
            *count += messages;
        }
        self.sum += took.saturating_mul(u32::try_from(messages).unwrap_or(u32::MAX));
    }
}

/// Counters of the data path. Relaxed: each is a figure of its own.
#[derive(Debug)]
pub(super) struct Counters {
    /// Of the session, whatever it is at.
    pub pulse: Pulse,
    /// Held for an addition.
    ack_times: Mutex<AckTimes>,
    published: AtomicU64,
    batches: AtomicU64,
    batch_bytes: AtomicU64,
    acknowledged: AtomicU64,
    in_flight: AtomicUsize,
    quarantined: AtomicU64,
    refused: AtomicU64,
    commands: AtomicU64,
    ignored_commands: AtomicU64,
    ack_latency_micros: AtomicU64,
}

impl Counters {
    fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            pulse: Pulse::new(clock),
            ack_times: Mutex::default(),
            published: AtomicU64::default(),
            batches: AtomicU64::default(),
            batch_bytes: AtomicU64::default(),
            acknowledged: AtomicU64::default(),
            in_flight: AtomicUsize::default(),
            quarantined: AtomicU64::default(),
            refused: AtomicU64::default(),
            commands: AtomicU64::default(),
            ignored_commands: AtomicU64::default(),
            ack_latency_micros: AtomicU64::default(),
        }
    }

    pub fn published(&self) {
        self.published.fetch_add(1, Ordering::Relaxed);
    }

    /// A batch of so many messages, in so many bytes.
    pub fn batch(&self, messages: usize, bytes: usize) {
        self.published.fetch_add(messages as u64, Ordering::Relaxed);
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.batch_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// So many at once, of which the last took so long.
    pub fn acknowledged(&self, messages: u64, latency: Duration) {
        self.ack_times.lock().unwrap_or_else(PoisonError::into_inner).note(messages, latency);
        self.acknowledged.fetch_add(messages, Ordering::Relaxed);
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.ack_latency_micros.store(micros.max(1), Ordering::Relaxed);
    }

    pub fn in_flight(&self, messages: usize) {
        self.in_flight.store(messages, Ordering::Relaxed);
    }

    pub fn quarantined(&self) {
        self.quarantined.fetch_add(1, Ordering::Relaxed);
    }

    pub fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub fn command(&self) {
        self.commands.fetch_add(1, Ordering::Relaxed);
    }

    /// How many there have been before this one.
    pub fn ignored_command(&self) -> u64 {
        self.ignored_commands.fetch_add(1, Ordering::Relaxed)
    }
}

/// The writing side.
#[derive(Debug)]
pub(super) struct Board {
    posted: watch::Sender<Posted>,
    pub counters: Arc<Counters>,
}

/// The reading side. Cheap to clone.
#[derive(Debug, Clone)]
pub struct UpstreamHandle {
    posted: watch::Receiver<Posted>,
    counters: Arc<Counters>,
}

pub(super) fn board(clock: Arc<dyn Clock>) -> (Board, UpstreamHandle) {
    let posted = Posted { state: UpstreamState::Connecting, since: clock.now(), last_error: None, connects: 0 };
    // A watch holds one value: nobody waits, readers see the newest.
    let (posted, read) = watch::channel(posted);
    let counters = Arc::new(Counters::new(clock));
    (Board { posted, counters: Arc::clone(&counters) }, UpstreamHandle { posted: read, counters })
}

impl Board {
    /// The state has changed; `why` when it failed. What failed last stays readable while it is tried again.
    pub fn post(&self, state: UpstreamState, now: UnixMillis, why: Option<String>) {
        self.posted.send_modify(|posted| {
            if posted.state != state {
                posted.since = now;
            }
            posted.state = state;
            if why.is_some() {
                posted.last_error = why;
            }
            if state == UpstreamState::Up {
                posted.connects += 1;
            }
        });
    }
}

impl UpstreamHandle {
    /// The status now.
    pub fn status(&self) -> UpstreamStatus {
        let posted = self.posted.borrow().clone();
        let counters = &self.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let latency = read(&counters.ack_latency_micros);
        UpstreamStatus {
            state: posted.state,
            since: posted.since,
            last_error: posted.last_error,
            connects: posted.connects,
            published: read(&counters.published),
            batches: read(&counters.batches),
            batch_bytes: read(&counters.batch_bytes),
            acknowledged: read(&counters.acknowledged),
            in_flight: counters.in_flight.load(Ordering::Relaxed),
            quarantined: read(&counters.quarantined),
            refused: read(&counters.refused),
            commands: read(&counters.commands),
            ignored_commands: read(&counters.ignored_commands),
            ack_latency: (latency > 0).then(|| Duration::from_micros(latency)),
        }
    }

    /// How long the upstream took to acknowledge, since the start.
    pub fn ack_times(&self) -> AckTimes {
        *self.counters.ack_times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the session still turns.
    pub fn pulse(&self) -> &Pulse {
        &self.counters.pulse
    }

    /// Resolves when the state has changed since the last call; `false` when the upstream is gone.
    pub async fn changed(&mut self) -> bool {
        self.posted.changed().await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fall_into_the_bucket_whose_bound_they_keep() {
        let mut times = AckTimes::default();
        times.note(2, Duration::from_millis(1));
        times.note(1, Duration::from_micros(1_001));
        times.note(3, Duration::from_secs(60));
        assert_eq!((times.counts[0], times.counts[1], times.counts[ACK_BOUNDS.len()]), (2, 1, 3));
        assert_eq!(times.sum, Duration::from_micros(2_000 + 1_001 + 180_000_000));
    }
}
