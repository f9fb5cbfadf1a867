//! The way up: leases records, keeps at most the window of them on the wire, in order, and settles what was
//! acknowledged. One task, none per message.
//!
//! Order. Messages go out in the order in which they were leased. When one is refused for now, nothing that was sent
//! after it is settled, even if it was accepted: all of it goes again in order, so that the last thing the upstream
//! hears of a device is its newest. These re-sends are at most the window.
//!
//! With `replay = "live-first"` the queue is parted at each connection: what waited is history and goes beside what
//! comes, with a share of the wire (module `share`) and at `replay_rate`. Order holds within each of the two.

use std::collections::{HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use fieldgate_store::{Lane, LeaseError, Queue, Record, RecordId, SettleError};
use fieldgate_types::Backoff;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::client::{Ack, Client, Gone, Welcome};
use super::dialect::Dialect;
use super::failure::Failure;
use super::flight::{Flight, Landed, Settler};
use super::pace::{Pace, Replay};
use super::packet::Unsendable;
use super::session::CONSUMER;
use super::share::Share;
use super::status::Counters;
use crate::pipeline::record::{DecodeError, Upbound};

/// Bytes on the wire, whatever the window.
const MAX_WEIGHT: usize = 16 << 20;
/// Messages per lease, and bytes: what waits between queue and wire.
const LEASE_MESSAGES: usize = 1024;
const LEASE_BYTES: usize = 2 << 20;
/// The next lease begins when this few are left of the last one.
const LOW_WATER: usize = 512;
/// Messages between two looks at everything else: well below the half millisecond that a task may keep its worker.
const TURN: usize = 64;
/// How often a full window looks whether the queue has written what was settled.
const WRITTEN_TICK: Duration = Duration::from_millis(2);
/// How often a stop looks whether the queue is empty.
const DRAIN_TICK: Duration = Duration::from_millis(20);

type Leasing = Pin<Box<dyn Future<Output = Result<Vec<Record>, LeaseError>> + Send>>;

/// Publishes on one connection.
pub(super) struct Publisher {
    client: Client,
    queue: Queue,
    dialect: Dialect,
    counters: Arc<Counters>,
    welcome: Welcome,
    /// Most messages on the wire: the window, or the upstream's Receive Maximum where that is less.
    most: usize,
    /// Most messages that a crash would send again: those on the wire, and those whose settlement is not durable.
    window: usize,
    /// No PUBACK for this long ends the connection; zero: never.
    patience: Duration,
    leasing: Option<Leasing>,
    backlog: VecDeque<Waiting>,
    /// What is replayed beside live messages; `None`: everything in its order.
    history: Option<History>,
    flight: Flight,
    settler: Settler,
    pace: Pace,
    backoff: Backoff,
    /// A message was refused for now or lost: what was sent after it is not settled.
    broken: bool,
    /// The upstream refused something for now and has accepted nothing since.
    refusing: bool,
    /// When something was last acknowledged, or the wire last became busy.
    progress: Instant,
    /// Reasons of quarantine that have been logged on this connection.
    logged: Vec<&'static str>,
}

/// A leased record that has not been sent.
struct Waiting {
    record: Record,
    leased: Instant,
}

/// The second road, with `replay = "live-first"`.
struct History {
    leasing: Option<Leasing>,
    backlog: VecDeque<Waiting>,
    share: Share,
    /// What of it is on the wire: at most half the window.
    flying: HashSet<RecordId>,
}

impl History {
    fn new(window: usize) -> Self {
        Self { leasing: None, backlog: VecDeque::new(), share: Share::new(window), flying: HashSet::new() }
    }
}

/// What goes next.
enum Next {
    Live,
    History,
    Nothing,
    Until(Instant),
}

enum Turn {
    /// More could be sent at once.
    More,
    /// Nothing can be sent before something happens.
    Wait,
    /// Nothing can be sent before the socket has taken what waits for it.
    Full,
    /// A replayed message may not go before this moment.
    Until(Instant),
}

enum Woke {
    Landed(Vec<Landed>),
    Settled(Result<(), SettleError>),
    Leased(Result<Vec<Record>, LeaseError>),
    LeasedHistory(Result<Vec<Record>, LeaseError>),
    Stalled,
    Again,
}

/// What a publisher is made of.
pub(super) struct Parts {
    pub client: Client,
    pub queue: Queue,
    pub dialect: Dialect,
    pub counters: Arc<Counters>,
    pub welcome: Welcome,
    pub window: u16,
    pub replay: Replay,
    pub retry_max: Duration,
}

impl Publisher {
    pub fn new(parts: Parts) -> Self {
        let Parts { client, queue, dialect, counters, welcome, window, replay, retry_max } = parts;
        let most = usize::from(window.min(welcome.receive_maximum).max(1));
        if replay.live_first {
            queue.part(CONSUMER);
        }
        Self {
            settler: Settler::new(queue.clone()),
            queue,
            dialect,
            counters,
            most,
            window: usize::from(window.max(1)),
            patience: welcome.keep_alive + welcome.keep_alive / 2,
            welcome,
            leasing: None,
            backlog: VecDeque::new(),
            history: replay.live_first.then(|| History::new(most)),
            flight: Flight::new(client.clone()),
            client,
            pace: Pace::new(replay.rate, Instant::now()),
            backoff: Backoff::new(Duration::from_millis(250), retry_max),
            broken: false,
            refusing: false,
            progress: Instant::now(),
            logged: Vec::new(),
        }
    }

    /// Publishes until the connection is of no more use, or, once `stop` is cancelled, until the queue is empty.
    pub async fn run(&mut self, stop: &CancellationToken) -> Result<(), Failure> {
        loop {
            if self.broken && self.flight.is_empty() {
                self.drive_again().await?;
            }
            if stop.is_cancelled() && self.drained() {
                return Ok(());
            }
            let turn = self.send_some()?;
            self.client.flush();
            self.counters.in_flight(self.flight.len());
            match self.next(&turn, stop).await {
                Woke::Landed(landed) => self.landed(&landed)?,
                Woke::Settled(result) => result.map_err(|error| Failure::Queue(error.to_string()))?,
                Woke::Leased(result) => {
                    self.leasing = None;
                    let records = result.map_err(|error| Failure::Queue(error.to_string()))?;
                    self.backlog.extend(waiting(records));
                }
                Woke::LeasedHistory(result) => {
                    let records = result.map_err(|error| Failure::Queue(error.to_string()))?;
                    if let Some(history) = &mut self.history {
                        history.leasing = None;
                        history.backlog.extend(waiting(records));
                    }
                }
                Woke::Stalled => return Err(Failure::Stalled(self.patience)),
                Woke::Again => {}
            }
        }
    }

    /// Nothing waits any more. The store counts leased and unsettled records, so this is the whole of it.
    fn drained(&self) -> bool {
        self.flight.is_empty() && self.settler.unsettled() == 0 && self.queue.stats().messages == 0
    }

    /// Messages that may be sent now. Settled ones, which the queue writes up to 50 ms later, are held against the
    /// window alone: held against a Receive Maximum of 20 they would allow 400 messages/s.
    fn room(&self) -> usize {
        if self.broken || self.flight.weight() >= MAX_WEIGHT {
            return 0;
        }
        let flying = self.flight.len();
        self.most.saturating_sub(flying).min(self.window.saturating_sub(flying + self.settler.exposed()))
    }

    async fn next(&mut self, turn: &Turn, stop: &CancellationToken) -> Woke {
        if self.leasing.is_none() && !self.broken && self.backlog.len() < LOW_WATER {
            self.leasing = Some(lease(self.queue.clone(), self.history.is_some()));
        }
        if let Some(history) = &mut self.history
            && history.leasing.is_none()
            && !self.broken
            && history.backlog.len() < LOW_WATER
        {
            history.leasing = Some(lease_history(self.queue.clone()));
        }
        let stopping = stop.is_cancelled();
        let now = Instant::now();
        let until = if let Turn::Until(moment) = turn { *moment } else { now };
        // The lease is kept from turn to turn: made anew each time, it might never get to its end.
        let leased = async {
            match &mut self.leasing {
                Some(leasing) => leasing.as_mut().await,
                None => std::future::pending().await,
            }
        };
        let leased_history = async {
            match self.history.as_mut().and_then(|history| history.leasing.as_mut()) {
                Some(leasing) => leasing.as_mut().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            landed = self.flight.land(LEASE_MESSAGES) => Woke::Landed(landed),
            result = self.settler.next() => Woke::Settled(result),
            result = leased => Woke::Leased(result),
            result = leased_history => Woke::LeasedHistory(result),
            () = tokio::task::yield_now(), if matches!(turn, Turn::More) => Woke::Again,
            () = self.client.room(), if matches!(turn, Turn::Full) => Woke::Again,
            () = tokio::time::sleep_until(until), if matches!(turn, Turn::Until(_)) => Woke::Again,
            () = tokio::time::sleep_until(self.progress + self.patience),
                if !self.patience.is_zero() && !self.flight.is_empty() => Woke::Stalled,
            () = stop.cancelled(), if !stopping => Woke::Again,
            () = tokio::time::sleep(DRAIN_TICK), if stopping => Woke::Again,
        }
    }

    /// Sends up to [`TURN`] messages.
    fn send_some(&mut self) -> Result<Turn, Failure> {
        if self.backlog.is_empty() && self.history.as_ref().is_none_or(|history| history.backlog.is_empty()) {
            return Ok(Turn::Wait);
        }
        let room = self.room();
        if room == 0 {
            // Settlements that are not durable occupy the window too, and nothing tells when they are.
            let written = Turn::Until(Instant::now() + WRITTEN_TICK);
            return Ok(if self.broken { Turn::Wait } else { written });
        }
        let now = Instant::now();
        for _ in 0..room.min(TURN) {
            let waiting = match self.next_message(now) {
                Next::Live => self.backlog.pop_front(),
                Next::History => self.history.as_mut().and_then(|history| history.backlog.pop_front()),
                Next::Nothing => return Ok(Turn::Wait),
                Next::Until(moment) => return Ok(Turn::Until(moment)),
            };
            if let Some(waiting) = waiting
                && !self.send(waiting, now)?
            {
                return Ok(Turn::Full);
            }
        }
        Ok(Turn::More)
    }

    /// Live messages first, history in its share and at its pace; without history everything in its order.
    fn next_message(&mut self, now: Instant) -> Next {
        let front = self.backlog.front().map(|waiting| waiting.record.replayed);
        let Some(history) = &mut self.history else {
            return match front {
                Some(true) => self.pace.take(now).map_or_else(Next::Until, |()| Next::Live),
                Some(false) => Next::Live,
                None => Next::Nothing,
            };
        };
        let ready = !history.backlog.is_empty() && history.share.has_room();
        if ready && (front.is_none() || history.share.is_due()) {
            match self.pace.take(now) {
                Ok(()) => return Next::History,
                Err(moment) if front.is_none() => return Next::Until(moment),
                Err(_) => {}
            }
        }
        if front.is_some() { Next::Live } else { Next::Nothing }
    }

    /// `false`: the output is full.
    fn send(&mut self, waiting: Waiting, now: Instant) -> Result<bool, Failure> {
        let Waiting { mut record, leased } = waiting;
        if let Some(remaining) = record.remaining {
            // It may have waited for the window, for its pace or for a back-off.
            match remaining.checked_sub(now.duration_since(leased)) {
                Some(left) if !left.is_zero() => record.remaining = Some(left),
                _ => {
                    self.settler.expire(record.id);
                    return Ok(true);
                }
            }
        }
        let record = &record;
        let message = match Upbound::decode(&record.body) {
            Ok(message) => message,
            Err(error) => {
                let reason = match error {
                    DecodeError::Version(_) => "written by a newer version",
                    DecodeError::Body(_) | DecodeError::Empty => "can't be decoded",
                };
                self.quarantine(record, reason, None);
                return Ok(true);
            }
        };
        let mut packet = self.dialect.upward(record, message);
        packet.retain &= self.welcome.retains;
        if let Err(error) = packet.check(self.dialect.v5(), self.welcome.maximum_packet) {
            let reason = match error {
                Unsendable::Topic => "no valid topic",
                Unsendable::Property => "no valid MQTT property",
                Unsendable::Size => "larger than the upstream's maximum packet size",
            };
            let topic = packet.topic();
            self.quarantine(record, reason, Some(&topic));
            return Ok(true);
        }
        if self.flight.is_empty() {
            self.progress = now;
        }
        // The wire knows why.
        let over = |Gone| Failure::Lost("the connection is over".to_owned());
        let room = self.flight.start(record.id, &packet, now).map_err(over)?;
        if let Some(history) = &mut self.history {
            history.share.sent(record.replayed);
            if record.replayed {
                history.flying.insert(record.id);
            }
        }
        self.counters.published();
        Ok(room)
    }

    fn quarantine(&mut self, record: &Record, reason: &'static str, topic: Option<&str>) {
        self.settler.quarantine(record.id, reason);
        self.count_quarantine(reason, || {
            tracing::error!(reason, device = %record.header.device, topic, "a message can't be sent, it is put aside");
        });
    }

    /// One line per reason and connection; `quarantined` counts the rest.
    fn count_quarantine(&mut self, reason: &'static str, log: impl FnOnce()) {
        self.counters.quarantined();
        if !self.logged.contains(&reason) {
            self.logged.push(reason);
            log();
        }
    }

    fn landed(&mut self, landed: &[Landed]) -> Result<(), Failure> {
        self.progress = Instant::now();
        let mut accepted = 0;
        for Landed { id, ack, took } in landed {
            if let Some(history) = &mut self.history
                && history.flying.remove(id)
            {
                history.share.answered(*took, self.progress.into_std());
            }
            match ack {
                Ack::Accepted | Ack::Poison(_) if self.broken => {}
                Ack::Accepted => {
                    accepted += 1;
                    self.settler.accept(*id);
                }
                Ack::Busy(reason) => {
                    self.counters.refused();
                    self.broken = true;
                    if !self.refusing {
                        self.refusing = true;
                        tracing::warn!(reason, "the upstream refuses messages for now, they will be sent again");
                    }
                }
                Ack::Poison(reason) => {
                    self.settler.quarantine(*id, reason);
                    self.count_quarantine(reason, || {
                        tracing::error!(reason, record = %id, "the upstream refuses a message for good, it is put aside");
                    });
                }
                Ack::Lost => self.broken = true,
            }
        }
        if let Some(last) = landed.last().filter(|_| accepted > 0) {
            self.counters.acknowledged(accepted, last.took);
            if self.refusing && !self.broken {
                self.refusing = false;
                self.backoff.reset();
                tracing::info!("the upstream takes messages again");
            }
        }
        if landed.iter().any(|landed| landed.ack == Ack::Lost) {
            return Err(Failure::Lost("a message has no answer".to_owned()));
        }
        Ok(())
    }

    /// After a refusal, once nothing is on the wire: everything that is not settled goes again, in order, after a wait.
    async fn drive_again(&mut self) -> Result<(), Failure> {
        self.give_back().await?;
        tokio::time::sleep(self.backoff.next_wait()).await;
        self.broken = false;
        Ok(())
    }

    async fn give_back(&mut self) -> Result<(), Failure> {
        self.leasing = None;
        self.backlog.clear();
        if let Some(history) = &mut self.history {
            *history = History::new(self.most);
        }
        let settled = self.settler.finish().await;
        self.queue.rewind(CONSUMER);
        settled.map_err(|error| Failure::Queue(error.to_string()))
    }

    /// After the connection: settles what was acknowledged on it, and gives the rest back to the queue. The wire must
    /// be gone, so that every message has its answer or will never have one.
    pub async fn conclude(mut self) -> Result<(), Failure> {
        while !self.flight.is_empty() {
            let landed = self.flight.land(LEASE_MESSAGES).await;
            // That some are lost is why we are here.
            let _known = self.landed(&landed);
        }
        self.counters.in_flight(0);
        self.give_back().await
    }
}

fn waiting(records: Vec<Record>) -> impl Iterator<Item = Waiting> {
    let leased = Instant::now();
    records.into_iter().map(move |record| Waiting { record, leased })
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
