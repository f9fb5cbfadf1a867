//! The way up: leases records, keeps at most the window of them on the wire, in order, and settles what was
//! acknowledged. One task, none per message.
//!
//! Order. Messages go out in the order in which they were leased. When one is refused for now, nothing that was sent
//! after it is settled, even if it was accepted: all of it goes again in order, so that the last thing the upstream
//! hears of a device is its newest. These re-sends are at most the window.
//!
//! With `batch = "zstd"` most messages gather in batches (module `gather`) instead of going singly; the order is the same. A batch that is
//! refused for good falls apart: everything from it on goes again in order, its messages singly, so that the one that the
//! upstream minds is put aside alone.
//!
//! With `replay = "live-first"` the queue is parted at each connection: what waited is history and goes beside what
//! comes, with a share of the wire (module `share`) and at `replay_rate`. Order holds within each of the two.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use fieldgate_store::{LeaseError, Queue, Record, RecordId, SettleError};
use fieldgate_types::Backoff;
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backlog::{Backlog, Next, Waiting};
use super::client::{Ack, Client, Gone, Welcome};
use super::dialect::Dialect;
use super::failure::Failure;
use super::flight::{Cargo, Flight, Landed, Settler};
use super::gather::{Batch, Done, Due, Gather, LARGEST, Learned};
use super::pace::Replay;
use super::pack::Packed;
use super::packet::Unsendable;
use super::session::CONSUMER;
use super::status::Counters;
use crate::pipeline::record::{DecodeError, Upbound};

/// Bytes on the wire, whatever the window.
const MAX_WEIGHT: usize = 16 << 20;
/// Answers that are taken at a time.
const LANDINGS: usize = 1024;
/// Messages between two looks at everything else: well below the half millisecond that a task may keep its worker.
const TURN: usize = 64;
/// How often a full window looks whether the queue has written what was settled.
const WRITTEN_TICK: Duration = Duration::from_millis(2);
/// With nothing to do it turns this often, so that it can be seen that it turns.
const TURN_AT_LEAST: Duration = Duration::from_secs(5);
/// How often a stop looks whether the queue is empty.
const DRAIN_TICK: Duration = Duration::from_millis(20);

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
    backlog: Backlog,
    /// What gathers for a batch; `None`: every message goes singly.
    gather: Option<Gather>,
    /// Messages of batches that were refused: they go singly.
    apart: HashSet<RecordId>,
    flight: Flight,
    settler: Settler,
    backoff: Backoff,
    /// Something was refused for now or lost, or a batch falls apart: what was sent after it is not settled.
    broken: Option<Again>,
    /// The upstream refused something for now and has accepted nothing since.
    refusing: bool,
    /// When something was last acknowledged, or the wire last became busy.
    progress: Instant,
    /// Reasons of quarantine that have been logged on this connection.
    logged: Vec<&'static str>,
}

/// When everything that is not settled goes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Again {
    AtOnce,
    AfterAWait,
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
    Leased(Result<(), LeaseError>),
    Packed(Result<Done, JoinError>),
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
    /// What is known of the upstream's batches; `None`: no batches.
    pub batches: Option<Learned>,
    pub retry_max: Duration,
}

impl Publisher {
    pub fn new(parts: Parts) -> Self {
        let Parts { client, queue, dialect, counters, welcome, window, replay, batches, retry_max } = parts;
        let most = usize::from(window.min(welcome.receive_maximum).max(1));
        let window = usize::from(window.max(1));
        Self {
            backlog: Backlog::new(queue.clone(), most, replay),
            settler: Settler::new(queue.clone()),
            queue,
            dialect,
            counters,
            most,
            window,
            patience: welcome.keep_alive + welcome.keep_alive / 2,
            welcome,
            gather: batches.map(|learned| Gather::new(most, window, learned)),
            apart: HashSet::new(),
            flight: Flight::new(client.clone()),
            client,
            backoff: Backoff::new(Duration::from_millis(250), retry_max),
            broken: None,
            refusing: false,
            progress: Instant::now(),
            logged: Vec::new(),
        }
    }

    /// Publishes until the connection is of no more use, or, once `stop` is cancelled, until the queue is empty.
    pub async fn run(&mut self, stop: &CancellationToken) -> Result<(), Failure> {
        loop {
            if let Some(again) = self.broken.filter(|_| self.flight.is_empty()) {
                // It waits for the store, which has its own pulse, and for a bounded back-off.
                let _waiting = self.counters.pulse.excuse();
                self.drive_again(again).await?;
            }
            self.counters.pulse.rest(TURN_AT_LEAST);
            if stop.is_cancelled() && self.drained() {
                return Ok(());
            }
            let turn = self.send_some()?;
            self.client.flush();
            self.counters.in_flight(self.flight.messages());
            match self.next(&turn, stop).await {
                Woke::Landed(landed) => self.landed(landed)?,
                Woke::Settled(result) => result.map_err(|error| Failure::Queue(error.to_string()))?,
                Woke::Leased(result) => result.map_err(|error| Failure::Queue(error.to_string()))?,
                Woke::Packed(done) => self.packed(done)?,
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
        if self.broken.is_some() || self.flight.weight() >= MAX_WEIGHT {
            return 0;
        }
        let flying = self.flight.messages();
        let window = self.window.saturating_sub(flying + self.settler.exposed());
        match &self.gather {
            // How many packets they will be is not known yet.
            Some(gather) => window.saturating_sub(gather.taken()),
            None => window.min(self.most.saturating_sub(flying)),
        }
    }

    async fn next(&mut self, turn: &Turn, stop: &CancellationToken) -> Woke {
        if self.broken.is_none() {
            self.backlog.lease();
        }
        let stopping = stop.is_cancelled();
        let now = Instant::now();
        let until = if let Turn::Until(moment) = turn { *moment } else { now };
        let packed = async {
            match &mut self.gather {
                Some(gather) => gather.packed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            landed = self.flight.land(LANDINGS) => Woke::Landed(landed),
            result = self.settler.next() => Woke::Settled(result),
            done = packed => Woke::Packed(done),
            result = self.backlog.leased() => Woke::Leased(result),
            () = tokio::task::yield_now(), if matches!(turn, Turn::More) => Woke::Again,
            () = self.client.room(), if matches!(turn, Turn::Full) => Woke::Again,
            () = tokio::time::sleep_until(until), if matches!(turn, Turn::Until(_)) => Woke::Again,
            () = tokio::time::sleep_until(self.progress + self.patience),
                if !self.patience.is_zero() && !self.flight.is_empty() => Woke::Stalled,
            () = stop.cancelled(), if !stopping => Woke::Again,
            () = tokio::time::sleep(DRAIN_TICK), if stopping => Woke::Again,
            () = tokio::time::sleep(TURN_AT_LEAST) => Woke::Again,
        }
    }

    /// Sends up to [`TURN`] messages, or takes them for a batch, and the batch when it is due.
    fn send_some(&mut self) -> Result<Turn, Failure> {
        let now = Instant::now();
        if let Some(gather) = &mut self.gather
            && self.flight.len() < self.most
            && let Some(record) = gather.release()
            && !self.send_alone(record, now)?
        {
            return Ok(Turn::Full);
        }
        let turn = self.take_some(now)?;
        self.close_batch(turn, now)
    }

    fn take_some(&mut self, now: Instant) -> Result<Turn, Failure> {
        if self.backlog.is_empty() {
            return Ok(Turn::Wait);
        }
        let room = self.room();
        if room == 0 {
            // Settlements that are not durable occupy the window too, and nothing tells when they are.
            if 2 * self.settler.exposed() >= self.window {
                self.queue.write_settled();
            }
            let written = Turn::Until(Instant::now() + WRITTEN_TICK);
            return Ok(if self.broken.is_some() { Turn::Wait } else { written });
        }
        for _ in 0..room.min(TURN) {
            if self.gather.as_ref().is_some_and(|gather| gather.is_closed(now)) {
                return Ok(Turn::Wait);
            }
            let waiting = match self.backlog.next(now) {
                Next::Message(waiting) => waiting,
                Next::Nothing => return Ok(Turn::Wait),
                Next::Until(moment) => return Ok(Turn::Until(moment)),
            };
            if !self.send(waiting, now)? {
                return Ok(Turn::Full);
            }
        }
        Ok(Turn::More)
    }

    /// Sends the batch that has gathered, or has it packed, when it is time.
    fn close_batch(&mut self, turn: Turn, now: Instant) -> Result<Turn, Failure> {
        let Some(gather) = self.gather.as_mut().filter(|_| self.broken.is_none() && !matches!(turn, Turn::Full)) else {
            return Ok(turn);
        };
        match gather.due(self.flight.len(), matches!(turn, Turn::More), now) {
            Due::Later => Ok(turn),
            Due::At(moment) => Ok(match turn {
                Turn::Until(other) => Turn::Until(other.min(moment)),
                Turn::Wait => Turn::Until(moment),
                Turn::More | Turn::Full => turn,
            }),
            Due::Now => match gather.pack(now).map_err(unpackable)? {
                Batch::Ready { records, packed } => {
                    Ok(if self.send_batch(records, packed, now)? { Turn::More } else { Turn::Full })
                }
                Batch::Packing => Ok(if gather.is_closed(now) { turn } else { Turn::More }),
            },
        }
    }

    /// A thread has packed a batch.
    fn packed(&mut self, done: Result<Done, JoinError>) -> Result<(), Failure> {
        let Some(gather) = &mut self.gather else { return Ok(()) };
        let done = done.map_err(|error| unpackable(io::Error::other(error)))?;
        let (records, packed) = gather.take(done).map_err(unpackable)?;
        // That the output is full is asked anew before the next one.
        let _room = self.send_batch(records, packed, Instant::now())?;
        Ok(())
    }

    /// `false`: the output is full.
    fn send_batch(&mut self, records: Vec<Record>, packed: Packed, now: Instant) -> Result<bool, Failure> {
        let Some(gather) = &mut self.gather else { return Ok(true) };
        let packet = self.dialect.batch(gather.payload());
        if packet.check(self.dialect.v5(), self.welcome.maximum_packet).is_err() {
            return match gather.oversized(records, packed) {
                Some(record) => self.send_alone(record, now),
                None => Ok(true),
            };
        }
        if self.flight.is_empty() {
            self.progress = now;
        }
        self.counters.batch(records.len(), packet.payload.len());
        let ids = records.iter().map(|record| record.id).collect();
        let room = self.flight.start(Cargo::Many(ids, packed.raw), &packet, now).map_err(over)?;
        gather.sent(packed, now);
        Ok(room)
    }

    /// Takes a message on its way. `false`: the output is full.
    fn send(&mut self, waiting: Waiting, now: Instant) -> Result<bool, Failure> {
        let Waiting { mut record, leased } = waiting;
        if let Some(remaining) = record.remaining {
            // It may have waited for the window, for its pace or for a back-off.
            match remaining.checked_sub(now.duration_since(leased)) {
                Some(left) if !left.is_zero() => record.remaining = Some(left),
                _ => {
                    self.apart.remove(&record.id);
                    self.settler.expire(record.id);
                    return Ok(true);
                }
            }
        }
        if let Some(gather) = &mut self.gather {
            let batched = Upbound::decode(&record.body).is_ok_and(|message| Dialect::batched(&message));
            if batched && record.body.len() <= LARGEST && !self.apart.contains(&record.id) {
                self.backlog.sent(&record);
                gather.add(record);
                return Ok(true);
            }
            if !gather.is_clear() || self.flight.len() >= self.most {
                gather.hold(record);
                return Ok(true);
            }
        }
        self.send_alone(record, now)
    }

    /// Sends a message on its own topic. `false`: the output is full.
    fn send_alone(&mut self, record: Record, now: Instant) -> Result<bool, Failure> {
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
        let room = self.flight.start(Cargo::One(record.id), &packet, now).map_err(over)?;
        self.backlog.sent(record);
        self.counters.published();
        Ok(room)
    }

    fn quarantine(&mut self, record: &Record, reason: &'static str, topic: Option<&str>) {
        self.apart.remove(&record.id);
        self.backlog.answered(record.id, Duration::ZERO, Instant::now());
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

    fn landed(&mut self, landed: Vec<Landed>) -> Result<(), Failure> {
        self.progress = Instant::now();
        let (mut accepted, mut lost, mut latency) = (0, false, Duration::ZERO);
        for Landed { cargo, ack, took } in landed {
            latency = took;
            for id in cargo.ids() {
                self.backlog.answered(*id, took, self.progress);
            }
            if let (Cargo::Many(..), Some(gather)) = (&cargo, &mut self.gather)
                && ack != Ack::Lost
            {
                gather.answered();
            }
            match ack {
                Ack::Accepted | Ack::Poison(_) | Ack::TooLarge(_) if self.broken.is_some() => {}
                Ack::Accepted => {
                    accepted += cargo.ids().len() as u64;
                    self.settler.accept(cargo.ids());
                    self.is_through(&cargo);
                }
                Ack::Busy(reason) => {
                    self.counters.refused();
                    self.break_off(Again::AfterAWait);
                    if !self.refusing {
                        self.refusing = true;
                        tracing::warn!(reason, "the upstream refuses messages for now, they will be sent again");
                    }
                }
                Ack::Poison(reason) | Ack::TooLarge(reason) => {
                    let too_large = matches!(ack, Ack::TooLarge(_));
                    match cargo {
                        Cargo::One(id) => {
                            self.apart.remove(&id);
                            self.settler.quarantine(id, reason);
                            self.count_quarantine(reason, || {
                                tracing::error!(reason, record = %id, "the upstream refuses a message for good, it is put aside");
                            });
                        }
                        Cargo::Many(ids, raw) => self.fall_apart(ids, raw, reason, too_large),
                    }
                }
                Ack::Lost => {
                    lost = true;
                    self.break_off(Again::AfterAWait);
                }
            }
        }
        if accepted > 0 {
            self.counters.acknowledged(accepted, latency);
            if self.refusing && self.broken.is_none() {
                self.refusing = false;
                self.backoff.reset();
                tracing::info!("the upstream takes messages again");
            }
        }
        if lost {
            return Err(Failure::Lost("a message has no answer".to_owned()));
        }
        Ok(())
    }

    fn is_through(&mut self, cargo: &Cargo) {
        match (cargo, &mut self.gather) {
            (Cargo::One(id), _) => {
                self.apart.remove(id);
            }
            (Cargo::Many(..), Some(gather)) => gather.accepted(),
            (Cargo::Many(..), None) => {}
        }
    }

    /// Nothing that was sent from here on is settled: it goes again, and with it what has gathered.
    fn break_off(&mut self, again: Again) {
        self.broken = self.broken.max(Some(again));
        if let Some(gather) = &mut self.gather {
            gather.clear();
        }
    }

    /// The upstream refuses a batch for good: its messages go singly.
    fn fall_apart(&mut self, ids: Vec<RecordId>, raw: usize, reason: &'static str, too_large: bool) {
        if !self.logged.contains(&reason) {
            self.logged.push(reason);
            tracing::warn!(reason, messages = ids.len(), "the upstream refuses a batch, its messages go singly");
        }
        self.apart.extend(ids);
        self.break_off(Again::AtOnce);
        let hopeless = self.gather.as_mut().is_some_and(|gather| gather.refused(raw, too_large, self.progress));
        if hopeless {
            self.gather = None;
            tracing::warn!(reason, "the upstream takes no batches; on this connection every message goes singly");
        }
    }

    /// After a refusal, once nothing is on the wire: everything that is not settled goes again, in order.
    async fn drive_again(&mut self, again: Again) -> Result<(), Failure> {
        self.give_back().await?;
        match again {
            Again::AtOnce => {}
            Again::AfterAWait => tokio::time::sleep(self.backoff.next_wait()).await,
        }
        self.broken = None;
        Ok(())
    }

    async fn give_back(&mut self) -> Result<(), Failure> {
        self.backlog.clear();
        if let Some(gather) = &mut self.gather {
            gather.clear();
        }
        let settled = self.settler.finish().await;
        self.queue.rewind(CONSUMER);
        settled.map_err(|error| Failure::Queue(error.to_string()))
    }

    /// After the connection: settles what was acknowledged on it, and gives the rest back to the queue. The wire must
    /// be gone, so that every message has its answer or will never have one.
    pub async fn conclude(&mut self) -> Result<(), Failure> {
        while !self.flight.is_empty() {
            let landed = self.flight.land(LANDINGS).await;
            // That some are lost is why we are here.
            let _known = self.landed(landed);
        }
        self.counters.in_flight(0);
        self.give_back().await
    }

    /// After the connection: what is known of the upstream's batches.
    pub fn learned(&self) -> Option<Learned> {
        self.gather.as_ref().map(|gather| gather.conclude(Instant::now()))
    }
}

/// The wire knows why.
fn over(Gone: Gone) -> Failure {
    Failure::Lost("the connection is over".to_owned())
}

fn unpackable(error: io::Error) -> Failure {
    Failure::Lost(format!("a batch could not be compressed: {error}"))
}
