//! What was leased and not sent: one road for everything in its order, or with `replay = "live-first"` a second one beside it
//! for history.

use std::collections::{HashSet, VecDeque};
use std::pin::Pin;
use std::time::Duration;

use fieldgate_store::{Lane, LeaseError, Queue, Record, RecordId};
use tokio::time::Instant;

use super::pace::{Pace, Replay};
use super::session::CONSUMER;
use super::share::Share;

/// Messages per lease, and bytes: what waits between queue and wire.
const LEASE_MESSAGES: usize = 1024;
const LEASE_BYTES: usize = 2 << 20;
/// The next lease begins when this few are left of the last one.
const LOW_WATER: usize = 512;

type Leasing = Pin<Box<dyn Future<Output = Result<Vec<Record>, LeaseError>> + Send>>;

/// See the module.
pub(super) struct Backlog {
    queue: Queue,
    live: Road,
    /// What is replayed beside live messages; `None`: everything in its order.
    history: Option<History>,
    pace: Pace,
    /// Messages that may be on the wire.
    most: usize,
}

/// A leased record that has not been sent.
pub(super) struct Waiting {
    pub record: Record,
    pub leased: Instant,
}

#[derive(Default)]
struct Road {
    leasing: Option<Leasing>,
    waiting: VecDeque<Waiting>,
}

/// The second road.
struct History {
    road: Road,
    share: Share,
    /// What of it is on the wire: at most half the window.
    flying: HashSet<RecordId>,
}

/// What goes next.
pub(super) enum Next {
    Message(Waiting),
    Nothing,
    /// A replayed message, not before this moment.
    Until(Instant),
}

impl Road {
    fn is_low(&self) -> bool {
        self.leasing.is_none() && self.waiting.len() < LOW_WATER
    }

    /// The lease is kept from call to call: made anew each time, it might never get to its end.
    async fn leased(&mut self) -> Result<(), LeaseError> {
        let Some(leasing) = &mut self.leasing else { return std::future::pending().await };
        let records = leasing.as_mut().await;
        self.leasing = None;
        let leased = Instant::now();
        self.waiting.extend(records?.into_iter().map(|record| Waiting { record, leased }));
        Ok(())
    }
}

impl History {
    fn new(most: usize) -> Self {
        Self { road: Road::default(), share: Share::new(most), flying: HashSet::new() }
    }
}

impl Backlog {
    /// For a connection with at most `most` messages on the wire. With live first the queue is parted here.
    pub fn new(queue: Queue, most: usize, replay: Replay) -> Self {
        if replay.live_first {
            queue.part(CONSUMER);
        }
        Self {
            queue,
            live: Road::default(),
            history: replay.live_first.then(|| History::new(most)),
            pace: Pace::new(replay.rate, Instant::now()),
            most,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.live.waiting.is_empty() && self.history.as_ref().is_none_or(|history| history.road.waiting.is_empty())
    }

    /// Begins to lease what runs low.
    pub fn lease(&mut self) {
        if self.live.is_low() {
            self.live.leasing = Some(lease(self.queue.clone(), self.history.is_some()));
        }
        if let Some(history) = self.history.as_mut().filter(|history| history.road.is_low()) {
            history.road.leasing = Some(lease_history(self.queue.clone()));
        }
    }

    /// Resolves when there is more. Cancel-safe.
    pub async fn leased(&mut self) -> Result<(), LeaseError> {
        let history = async {
            match &mut self.history {
                Some(history) => history.road.leased().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            leased = self.live.leased() => leased,
            leased = history => leased,
        }
    }

    /// Live messages first, history in its share and at its pace; without history everything in its order.
    pub fn next(&mut self, now: Instant) -> Next {
        let front = self.live.waiting.front().map(|waiting| waiting.record.replayed);
        let take = |road: &mut Road| road.waiting.pop_front().map_or(Next::Nothing, Next::Message);
        let Some(history) = &mut self.history else {
            return match front {
                Some(true) => self.pace.take(now).map_or_else(Next::Until, |()| take(&mut self.live)),
                Some(false) => take(&mut self.live),
                None => Next::Nothing,
            };
        };
        let ready = !history.road.waiting.is_empty() && history.share.has_room();
        if ready && (front.is_none() || history.share.is_due()) {
            match self.pace.take(now) {
                Ok(()) => return take(&mut history.road),
                Err(moment) if front.is_none() => return Next::Until(moment),
                Err(_) => {}
            }
        }
        take(&mut self.live)
    }

    /// A message is on the wire, or on its way there in a batch.
    pub fn sent(&mut self, record: &Record) {
        let Some(history) = &mut self.history else { return };
        // One that went into a batch and then alone is counted once.
        if !record.replayed || history.flying.insert(record.id) {
            history.share.sent(record.replayed);
        }
    }

    /// A message that was sent so long ago is not on the wire any more.
    pub fn answered(&mut self, id: RecordId, took: Duration, now: Instant) {
        let Some(history) = &mut self.history else { return };
        if history.flying.remove(&id) {
            history.share.answered(took, now.into_std());
        }
    }

    /// Forgets everything: it is leased again.
    pub fn clear(&mut self) {
        self.live = Road::default();
        if let Some(history) = &mut self.history {
            *history = History::new(self.most);
        }
    }
}

fn lease_history(queue: Queue) -> Leasing {
    Box::pin(async move { queue.lease(CONSUMER, Lane::History, LEASE_MESSAGES, LEASE_BYTES).await })
}

/// Whatever lane has something, the most urgent first.
fn lease(queue: Queue, live_alone: bool) -> Leasing {
    Box::pin(async move {
        tokio::select! {
            biased;
            records = queue.lease(CONSUMER, Lane::Priority, LEASE_MESSAGES, LEASE_BYTES) => records,
            records = queue.lease(CONSUMER, Lane::Live, LEASE_MESSAGES, LEASE_BYTES) => records,
            records = queue.lease(CONSUMER, Lane::History, LEASE_MESSAGES, LEASE_BYTES), if !live_alone => records,
        }
    })
}
