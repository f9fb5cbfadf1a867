//! Batches that may never touch the disk: held in memory for a moment, since the consumer is quick.
//!
//! Whoever waits for a batch wants to know that it can't be lost any more: it is durable, or the consumer has it. While the
//! consumer settles within [`crate::Options::hold`], a batch gets its numbers when it comes, its records can be leased at
//! once, and when all of them are settled in time the batch is answered. Otherwise it is written, as always.
//!
//! # Invariants
//! - What is held is a prefix of what the writer has in hand: a batch that must be written takes all before it into its
//!   transaction. So the order of ids is the order of the batches, on disk too.
//! - Ids from [`crate::desk::Desk::set_unwritten`] on are not on disk, and nothing is read there; when somebody wants to, since
//!   the consumer lost its connection, it is written first.
//! - What is held lies in the tail of its lane until it is leased: its bound is below the tail's.
//! - Counters in the file know nothing of a record before it is written or has left (module `ledger`).
//! - A record that leaves in any way but delivered is written first, and leaves then.
//! - Nothing is held while the consumer is away or behind, for a while after a hold that ran out (longer each time, up to
//!   [`LONGEST_PAUSE`]), while the disk fails or is full, or once the end has begun.

use std::time::{Duration, Instant};

use crate::desk::{Desk, Exit, Removal};
use crate::entry::Entry;
use crate::inbox::Job;
use crate::record::{Batch, Committed, Receipt, RecordId};
use crate::stats::{DeviceLedger, Health};
use crate::writer::Writer;

/// Held at most, then all of it is written: below what a lane's tail keeps in memory.
const MOST_RECORDS: usize = 2048;
const MOST_BYTES: usize = 2 << 20;
/// The pause after a hold that ran out is as long as the hold, since the machine may have stood still and not the upstream;
/// twice as long after each further one, up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// A batch that is held.
#[derive(Debug)]
pub(crate) struct Held {
    /// Its records that have not left.
    pub entries: Vec<Entry>,
    /// What its caller is told.
    pub receipts: Vec<Receipt>,
    /// What the consumer can't deliver: it leaves once it is written.
    pub rejected: Vec<Removal>,
    since: Instant,
}

/// Whether the consumer is quick enough. Moments are arguments.
#[derive(Debug)]
pub(crate) struct Patience {
    longest: Duration,
    pause: Duration,
    not_before: Option<Instant>,
}

impl Patience {
    /// Zero: nothing is ever held.
    pub(crate) fn new(longest: Duration) -> Self {
        Self { longest, pause: longest, not_before: None }
    }

    fn is_willing(&self, now: Instant) -> bool {
        !self.longest.is_zero() && self.not_before.is_none_or(|moment| now >= moment)
    }

    fn rewarded(&mut self) {
        self.pause = self.longest;
    }

    fn disappointed(&mut self, now: Instant) {
        if self.is_willing(now) {
            self.not_before = Some(now + self.pause);
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
    }
}

impl Writer {
    /// How long what is in hand may stay there: zero when it is to be written, `None` when nothing is there.
    pub(crate) fn company(&self) -> Option<Duration> {
        let (first, last) = (self.pending.front()?, self.pending.back()?);
        let held = first.held.as_ref().filter(|_| last.held.is_some() && !self.flush);
        Some(held.map_or(Duration::ZERO, |held| self.patience.longest.saturating_sub(held.since.elapsed())))
    }

    /// Whether what is in hand goes into the next transaction.
    pub(crate) fn is_due(&self) -> bool {
        self.company().is_some_and(|rest| rest.is_zero())
    }

    /// Names what may be held of the batches in hand, and offers it to the consumer.
    pub(crate) fn hold(&mut self) {
        let now = Instant::now();
        let first = self.pending.partition_point(|job| job.held.is_some());
        let quiet = matches!(self.health, Health::Ok) && self.salvages.is_empty() && self.conn.is_some();
        if first == self.pending.len() || !quiet || !self.patience.is_willing(now) || self.inbox.closing() {
            return;
        }
        let mut changed = Vec::new();
        let mut desk = self.shared.desk();
        let (mut records, mut bytes) = self.ledger.held();
        let born = self.running.now();
        for job in self.pending.iter_mut().skip(first) {
            records += job.batch.appends.len();
            bytes += job.bytes;
            let fits = records <= MOST_RECORDS && bytes <= MOST_BYTES;
            let taken = |desk: &Desk| job.batch.appends.iter().all(|append| desk.is_caught_up(append.lane, born));
            if !fits || !job.batch.may_be_held() || !taken(&desk) {
                break;
            }
            let held = name(&mut self.ledger, &job.batch, self.next_id, (self.boot, born), now);
            self.next_id += held.entries.len() as u64;
            for entry in &held.entries {
                desk.offer(entry.clone());
                changed.push(entry.row);
            }
            job.held = Some(held);
        }
        drop(desk);
        if !changed.is_empty() {
            self.tell(changed);
            self.shared.arrived();
        }
    }

    /// Takes note of what the consumer has let go of. A held batch of which nothing is left is answered.
    pub(crate) fn absorb(&mut self) {
        let released = self.shared.desk().take_released();
        if !released.is_empty() {
            self.absorb_these(released);
        }
    }

    pub(crate) fn absorb_these(&mut self, released: Vec<Removal>) {
        let mut changed = Vec::new();
        let mut gone = Vec::new();
        for removal in released {
            let at = self.pending.partition_point(|job| begins_by(job, removal.id));
            let job = at.checked_sub(1).and_then(|at| self.pending.get_mut(at));
            let held = job.and_then(|job| job.held.as_mut());
            let entry = held.and_then(|held| {
                let at = held.entries.iter().position(|entry| entry.id == removal.id)?;
                Some((held, at))
            });
            match (entry, &removal.exit) {
                // It was written meanwhile.
                (None, _) => self.removals.push(removal),
                (Some((held, at)), Exit::Delivered) => {
                    held.entries.remove(at);
                    self.ledger.pass(removal.row, removal.bytes);
                    self.rate.add(1, removal.bytes);
                    self.passed += 1;
                    changed.push(removal.row);
                    gone.push(removal);
                }
                (Some((held, _)), Exit::Lost(..)) => {
                    held.rejected.push(removal);
                    self.flush = true;
                }
            }
        }
        self.shared.desk().removed(&gone);
        self.tell(changed);
        self.shared.eased().notify_waiters();
        let before = self.pending.len();
        // One that is through behind one that is not waits for it: consumers settle in order.
        while self.pending.front().and_then(|job| job.held.as_ref()).is_some_and(|held| held.entries.is_empty()) {
            let Some(Job { held: Some(held), place, done, .. }) = self.pending.pop_front() else { break };
            drop(place);
            // A caller that went away needs no answer.
            drop(done.send(Ok(Committed { receipts: held.receipts })));
        }
        if self.pending.len() < before {
            self.patience.rewarded();
            self.inbox.answered();
        }
        self.mark_unwritten();
    }

    /// When the first hold has run out, all that is held is written, and for a while nothing is held.
    pub(crate) fn end_hold(&mut self) {
        let now = Instant::now();
        let first = self.pending.front().and_then(|job| job.held.as_ref());
        if first.is_some_and(|held| now.saturating_duration_since(held.since) >= self.patience.longest) {
            self.patience.disappointed(now);
            self.flush = true;
        }
    }

    /// Writes all that is held, in so many transactions as it takes; `false`: there is no room.
    pub(crate) fn write_held(&mut self) -> Result<bool, rusqlite::Error> {
        while let Some(first) = self.first_held() {
            self.flush = true;
            self.transact(false)?;
            if self.first_held() == Some(first) && self.searching.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Tells the desk what is not on disk.
    pub(crate) fn mark_unwritten(&mut self) {
        let first = self.first_held();
        if first.is_none() {
            self.flush = false;
        }
        self.shared.desk().set_unwritten(first);
    }

    /// The first id that is not on disk.
    pub(crate) fn first_held(&self) -> Option<u64> {
        let held = self.pending.front()?.held.as_ref()?;
        held.receipts.first().map(|receipt| receipt.id.0)
    }

    /// Publishes the counters of these rows.
    fn tell(&mut self, mut rows: Vec<usize>) {
        rows.sort_unstable();
        rows.dedup();
        let seen: Vec<DeviceLedger> = rows.into_iter().filter_map(|row| self.ledger.seen(row)).collect();
        let mut report = self.shared.report();
        for row in seen {
            report.ledger.insert(row.device.clone(), row);
        }
        report.stats.messages = self.ledger.messages();
        report.stats.bytes = self.ledger.bytes();
        report.stats.held = self.ledger.held().0;
        report.stats.passed = self.passed;
    }
}

/// Whether a batch in hand is held and begins with `id` or before it.
fn begins_by(job: &Job, id: u64) -> bool {
    let first = job.held.as_ref().and_then(|held| held.receipts.first());
    first.is_some_and(|receipt| receipt.id.0 <= id)
}

fn name(
    ledger: &mut crate::ledger::Ledger,
    batch: &Batch,
    first: u64,
    (boot, born): (u64, u64),
    since: Instant,
) -> Held {
    let mut last_lane = None;
    let mut entries = Vec::with_capacity(batch.appends.len());
    for (id, append) in (first..).zip(&batch.appends) {
        let (row, seq) = ledger.hold(&append.device, boot, append.body.len());
        entries.push(Entry::new(append, id, (row, boot, seq), born, last_lane == Some(append.lane)));
        last_lane = Some(append.lane);
    }
    let receipts = entries.iter().map(|entry| Receipt { id: RecordId(entry.id), boot, seq: entry.seq }).collect();
    Held { entries, receipts, rejected: Vec::new(), since }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_consumer_is_waited_for_ever_more_rarely_until_it_is_quick_again() {
        let mut patience = Patience::new(Duration::from_millis(20));
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..11 {
            assert!(patience.is_willing(now));
            patience.disappointed(now);
            // What else was held at that time says nothing new.
            patience.disappointed(now);
            let begin = now;
            while !patience.is_willing(now) {
                now += Duration::from_millis(20);
            }
            pauses.push((now - begin).as_millis());
        }
        assert_eq!(pauses, [20, 40, 80, 160, 320, 640, 1_280, 2_560, 5_120, 8_000, 8_000]);
        patience.rewarded();
        patience.disappointed(now);
        assert!(patience.is_willing(now + Duration::from_millis(20)));
        assert!(!Patience::new(Duration::ZERO).is_willing(now));
    }
}
