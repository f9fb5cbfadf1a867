//! What can be leased, what is leased, and what has left but still lies on disk. In memory, shared by the
//! consumer's tasks and the writer under one short lock.
//!
//! A lane on disk is a run of ids. `cursor` parts it: below it, everything is leased or gone; from it on, nothing is
//! leased. Two stretches from the cursor on are also in memory:
//! ```text
//!   cursor ──ahead──> ahead_to ···· on disk only ···· tail_from ──tail──> newest
//! ```
//! With [`Desk::part`] the live lane is two runs: what lay there then, which is leased as history, and what came since. Each has
//! its cursor; on disk they are one.
//!
//! `ahead` was read back from disk, `tail` is what was committed last. When the stretch between them is empty, live
//! records go from the commit to the consumer without a read.

mod claims;

use std::collections::HashSet;

use fieldgate_types::UnixMillis;

pub(crate) use self::claims::Candidate;
use crate::entry::Entry;
use crate::ids::{ById, Ids};
use crate::record::{Lane, Record, RecordId};
use crate::shelf::{Road, Shelf};
use crate::stats::{LaneReport, LossKind};

/// Bounds of a lane's tail; what is older is read back from disk.
const TAIL_RECORDS: usize = 16 * 1024;
const TAIL_BYTES: usize = 8 << 20;
/// A consumer with this many records of a lane before it is behind.
const BEHIND: usize = 2048;
/// Leased records at most: the memory that they take here is bounded, and so is what eviction must spare.
pub(crate) const MAX_LEASED: usize = 64 * 1024;

/// A consumer that holds nothing, waits for nothing and has not been seen for so long is away (milliseconds).
const AWAY: u64 = 1_000;

/// Why a record leaves the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Exit {
    Delivered,
    /// Expired or quarantined, with the reason.
    Lost(LossKind, &'static str),
}

/// A record that is to leave the file with the next transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Removal {
    pub id: u64,
    pub lane: Lane,
    pub row: usize,
    pub bytes: usize,
    /// Reception time; zero where it is not known.
    pub time: UnixMillis,
    pub exit: Exit,
}

#[derive(Debug)]
struct Held {
    lane: Lane,
    row: usize,
    bytes: usize,
    time: UnixMillis,
}

/// A stretch that should be read from disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub lane: Lane,
    pub from: u64,
    /// Exclusive.
    pub to: u64,
    /// Whoever leases from this lane waits for it.
    pub wakes: Lane,
    road: Road,
    epoch: u64,
}

/// What of a file is still to be delivered when it is read anew: what was leased and not settled, and what was not leased
/// yet. What the consumer has passed without seeing it, because the file was damaged, would come out of order.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    gone: Ids,
    cursors: [u64; 4],
    parted: Option<u64>,
    /// The consumer's: leased, or settled since the last transaction that any file has seen.
    pub held: HashSet<u64>,
}

impl Rest {
    pub(crate) fn has(&self, lane: Lane, id: u64) -> bool {
        let cursor = *Road::of(self.parted, lane, id).pick(&mut self.cursors.clone());
        !self.gone.contains(&id) && (id >= cursor || self.held.contains(&id))
    }
}

/// What a lease found.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub records: Vec<Record>,
    /// The writer is needed to read ahead.
    pub nudge: bool,
    /// The writer has expired records to remove.
    pub expired: bool,
}

/// How much may be taken, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask {
    pub max_messages: usize,
    pub max_bytes: usize,
    /// Running time.
    pub now: u64,
}

/// The whole of it.
#[derive(Debug)]
pub(crate) struct Desk {
    shelves: [Shelf; 4],
    /// Records of the live lane below this id are on the older road.
    parted: Option<u64>,
    /// The next record's id, or a higher one.
    next: u64,
    held: ById<Held>,
    held_bytes: usize,
    max_held_bytes: usize,
    /// Not yet taken by the writer.
    removals: Vec<Removal>,
    /// Not yet taken by the writer, of records that may not be on disk.
    released: Vec<Removal>,
    /// From here on nothing is on disk.
    unwritten: Option<u64>,
    /// Ids of all that has left but still lies on disk, taken by the writer or not.
    leaving: Ids,
    /// First id of this start.
    start: u64,
    max_age: u64,
    /// Calls that wait for a record, and the running time of the last one.
    waiting: usize,
    /// Older records are on their way into the file: nothing is leased, and nothing removed. Where each lane goes on then.
    held_back: Option<[u64; 4]>,
    /// The first record of each lane that the open transaction drops: nobody passes it before the transaction has ended.
    barred: [Option<u64>; 3],
    seen: u64,
    /// A lease stopped at what may be leased at most.
    short: bool,
    pub consumer: Option<&'static str>,
    pub closed: bool,
}

impl Desk {
    /// Everything below `start` lies on disk. Leases stop at `max_held_bytes` of bodies. `now`: running time.
    pub(crate) fn new(start: u64, max_age: u64, max_held_bytes: usize, now: u64) -> Self {
        let shelf = || Shelf { tail_from: start, ..Shelf::default() };
        Self {
            shelves: [shelf(), shelf(), shelf(), Shelf::default()],
            parted: None,
            next: start,
            held: ById::default(),
            held_bytes: 0,
            max_held_bytes,
            removals: Vec::new(),
            released: Vec::new(),
            unwritten: None,
            leaving: Ids::default(),
            start,
            max_age,
            waiting: 0,
            held_back: None,
            barred: [None; 3],
            seen: now,
            short: false,
            consumer: None,
            closed: false,
        }
    }

    /// Other bounds from now on.
    pub(crate) fn rebound(&mut self, max_age: u64, max_held_bytes: usize) {
        (self.max_age, self.max_held_bytes) = (max_age, max_held_bytes);
    }

    /// The file was replaced by an empty one, into which what is left of the old one comes next; see [`Desk::hold_back`].
    /// What is leased stays leased.
    pub(crate) fn start_over(&mut self, next: u64) -> Rest {
        let cursors = self.held_back.unwrap_or_else(|| self.shelves.each_ref().map(|shelf| shelf.cursor));
        let mut held: HashSet<u64> = self.held.keys().copied().collect();
        let mut gone = Ids::default();
        if self.held_back.is_some() {
            // Settled while the file was being filled: they leave when it is.
            held.extend(&self.leaving);
        } else {
            gone = std::mem::take(&mut self.leaving);
            self.removals.clear();
        }
        let end = self.parted.unwrap_or_default();
        for (road, shelf) in Road::ALL.into_iter().zip(&mut self.shelves) {
            let at = if road == Road::Older { end } else { next };
            shelf.begin(at, at);
        }
        self.held_back = Some(cursors);
        self.next = self.next.max(next);
        Rest { gone, cursors, parted: self.parted, held }
    }

    /// From the start on: older records than any in the file are on their way into it. Until [`Desk::go_on`] nothing is
    /// leased, since nothing may overtake them, and what is settled stays, since it may not be in the file yet.
    pub(crate) fn hold_back(&mut self) {
        self.held_back = Some([0; 4]);
    }

    /// All that is left is in the file. `missing`: what the consumer holds, or has settled meanwhile, and is not.
    pub(crate) fn go_on(&mut self, missing: &HashSet<u64>) {
        for id in missing {
            if let Some(held) = self.held.remove(id) {
                self.held_bytes -= held.bytes;
            }
            self.leaving.remove(id);
        }
        self.removals.retain(|removal| !missing.contains(&removal.id));
        let Some(cursors) = self.held_back.take() else { return };
        for (shelf, cursor) in self.shelves.iter_mut().zip(cursors) {
            shelf.back_to(cursor);
            shelf.wanted = true;
        }
    }

    fn road(&self, lane: Lane, id: u64) -> Road {
        Road::of(self.parted, lane, id)
    }

    fn on(&mut self, road: Road) -> &mut Shelf {
        road.pick(&mut self.shelves)
    }

    /// All leases are void, and from now on what waits in the live lane is leased as history, before all that is history: what
    /// comes is live alone.
    pub(crate) fn part(&mut self) {
        self.rewind();
        let mark = self.next;
        let was = self.parted.replace(mark);
        let [_, live, _, older] = self.held_back.as_mut().map_or_else(
            || self.shelves.each_ref().map(|shelf| shelf.cursor),
            |cursors| {
                let [priority, live, history, older] = *cursors;
                *cursors = [priority, mark, history, if was.is_some() { older.min(live) } else { live }];
                // The shelves begin there when all is back.
                [mark; 4]
            },
        );
        let first = if was.is_some() { older.min(live) } else { live };
        self.on(Road::Older).begin(first, mark);
        self.on(Road::Older).wanted = true;
        self.on(Road::Live).begin(mark, mark);
    }

    /// Whose turn it is for a lease of `lane`.
    fn next_road(&self, lane: Lane) -> Road {
        let [.., older] = &self.shelves;
        match lane {
            Lane::Priority => Road::Priority,
            Lane::Live => Road::Live,
            Lane::History if older.ahead.is_empty() && older.ahead_to >= older.tail_from => Road::History,
            Lane::History => Road::Older,
        }
    }

    /// A consumer begins to wait.
    pub(crate) fn waits(&mut self) {
        self.waiting += 1;
    }

    /// It has what it waited for, or waits no more.
    pub(crate) fn waited(&mut self, now: u64) {
        self.waiting = self.waiting.saturating_sub(1);
        self.sees(now);
    }

    /// A consumer is there.
    pub(crate) fn sees(&mut self, now: u64) {
        self.seen = now;
    }

    /// Nobody takes records.
    pub(crate) fn is_away(&self, now: u64) -> bool {
        self.waiting == 0 && self.held.is_empty() && now.saturating_sub(self.seen) >= AWAY
    }

    /// Leases the next records of `lane`, expiring those whose time is over.
    pub(crate) fn take(&mut self, lane: Lane, ask: Ask) -> Taken {
        let mut taken = Taken::default();
        if self.held_back.is_some() {
            return taken;
        }
        let mut bytes = 0;
        while taken.records.len() < ask.max_messages.max(1) {
            let road = self.next_road(lane);
            let barred = *road.lane().of(&self.barred);
            let Some(next) = self.on(road).next() else { break };
            if barred.is_some_and(|barred| next.id >= barred) {
                break;
            }
            let next = next.body.len();
            let full = self.held.len() >= MAX_LEASED
                || (!self.held.is_empty() && self.held_bytes + next > self.max_held_bytes);
            self.short |= full;
            if full || (!taken.records.is_empty() && bytes + next > ask.max_bytes) {
                break;
            }
            let Some(entry) = self.on(road).pop() else { break };
            if self.leaving.contains(&entry.id) {
                continue;
            }
            if let Some(reason) = overdue(&entry, ask.now, self.max_age) {
                self.remove(removal(&entry, Exit::Lost(LossKind::Expired, reason)));
                taken.expired = true;
                continue;
            }
            bytes += next;
            self.held_bytes += next;
            self.held.insert(entry.id, Held { lane: entry.lane, row: entry.row, bytes: next, time: entry.time });
            let replayed = match self.parted {
                Some(mark) => entry.id < mark,
                None => entry.is_late(ask.now, self.start),
            };
            taken.records.push(entry.into_record(ask.now, replayed));
        }
        let road = self.next_road(lane);
        let shelf = self.on(road);
        if shelf.hungry() {
            shelf.wanted = true;
            taken.nudge = true;
        }
        taken
    }

    /// Lets go of a leased record; `false` when it is not leased.
    pub(crate) fn release(&mut self, id: RecordId, exit: Exit) -> bool {
        let Some(held) = self.held.remove(&id.0) else { return false };
        self.held_bytes -= held.bytes;
        let Held { lane, row, bytes, time } = held;
        self.remove(Removal { id: id.0, lane, row, bytes, time, exit });
        true
    }

    /// The record leaves with the next transaction.
    pub(crate) fn remove(&mut self, removal: Removal) {
        self.leaving.insert(removal.id);
        match self.unwritten {
            Some(unwritten) if removal.id >= unwritten => self.released.push(removal),
            _ => self.removals.push(removal),
        }
    }

    /// Whether records have left that may not be on disk.
    pub(crate) fn has_released(&self) -> bool {
        !self.released.is_empty()
    }

    /// Those, for the writer.
    pub(crate) fn take_released(&mut self) -> Vec<Removal> {
        std::mem::take(&mut self.released)
    }

    /// From `first` on nothing is on disk; `None`: all is.
    pub(crate) fn set_unwritten(&mut self, first: Option<u64>) {
        self.unwritten = first;
    }

    /// Whether somebody takes what comes in `lane` at once. Between what it settled and its next lease a consumer is not away.
    pub(crate) fn is_caught_up(&self, lane: Lane, now: u64) -> bool {
        let [priority, live, history, _] = &self.shelves;
        let shelf = match lane {
            Lane::Priority => priority,
            Lane::Live => live,
            Lane::History => history,
        };
        let there = self.held_back.is_none() && !self.is_away(now);
        there && shelf.ahead.is_empty() && shelf.ahead_to >= shelf.tail_from && shelf.tail.len() < BEHIND
    }

    /// A record that is not on disk becomes leasable.
    pub(crate) fn offer(&mut self, entry: Entry) {
        self.unwritten = self.unwritten.or(Some(entry.id));
        self.committed(entry);
    }

    /// All leases are void.
    pub(crate) fn rewind(&mut self) {
        let mut first = [u64::MAX; 4];
        for (id, held) in self.held.drain() {
            let first = Road::of(self.parted, held.lane, id).pick(&mut first);
            *first = id.min(*first);
        }
        self.held_bytes = 0;
        if let Some(cursors) = &mut self.held_back {
            for (cursor, first) in cursors.iter_mut().zip(first) {
                *cursor = first.min(*cursor);
            }
            return;
        }
        for (shelf, first) in self.shelves.iter_mut().zip(first) {
            if first < shelf.cursor {
                shelf.back_to(first);
                shelf.wanted = true;
            }
        }
    }

    /// Whether nothing is leased, see [`Desk::hold_back`].
    pub(crate) fn is_held_back(&self) -> bool {
        self.held_back.is_some()
    }

    /// Records leased and not settled.
    pub(crate) fn leased(&self) -> usize {
        self.held.len()
    }

    /// Each way through the queue, the most urgent first.
    pub(crate) fn lanes(&self) -> [LaneReport; 4] {
        let mut leased = [0_usize; 4];
        for (id, held) in &self.held {
            *self.road(held.lane, *id).pick(&mut leased) += 1;
        }
        let mut shelves = self.shelves.each_ref();
        Road::ALL.map(|road| {
            let shelf = *road.pick(&mut shelves);
            LaneReport {
                name: road.name(),
                leased: *road.pick(&mut leased),
                next: shelf.ahead.len() + shelf.tail.len(),
            }
        })
    }

    /// Records that have left but still lie on disk.
    pub(crate) fn leaving(&self) -> usize {
        self.leaving.len()
    }

    /// Whether a lease stopped at what may be leased at most since this was last asked.
    pub(crate) fn was_short(&mut self) -> bool {
        std::mem::take(&mut self.short)
    }

    /// Whether the record has left already.
    pub(crate) fn is_leaving(&self, id: u64) -> bool {
        self.leaving.contains(&id)
    }

    /// Removals that the writer has not taken yet.
    pub(crate) fn removals(&self) -> usize {
        self.removals.len()
    }

    /// For the writer's next transaction.
    pub(crate) fn take_removals(&mut self) -> Vec<Removal> {
        if self.held_back.is_some() {
            return Vec::new();
        }
        std::mem::take(&mut self.removals)
    }

    /// They are off the disk.
    pub(crate) fn removed(&mut self, removals: &[Removal]) {
        for removal in removals {
            self.leaving.remove(&removal.id);
        }
    }

    /// Committed records become leasable.
    pub(crate) fn committed(&mut self, entry: Entry) {
        self.next = self.next.max(entry.id + 1);
        let road = self.road(entry.lane, entry.id);
        let shelf = self.on(road);
        shelf.tail_bytes += entry.bytes();
        shelf.tail.push_back(entry);
        while shelf.tail.len() > TAIL_RECORDS || shelf.tail_bytes > TAIL_BYTES {
            let Some(oldest) = shelf.tail.pop_front() else { break };
            shelf.tail_bytes -= oldest.bytes();
            shelf.tail_from = oldest.id + 1;
        }
    }

    /// The stretches that consumers wait for, as far as they are on disk; `false`: something that they wait for is not.
    pub(crate) fn wanted(&mut self) -> (Vec<Stretch>, bool) {
        let mut stretches = Vec::new();
        let mut all = true;
        let written = self.unwritten.unwrap_or(u64::MAX);
        for (road, shelf) in Road::ALL.into_iter().zip(&mut self.shelves) {
            if !std::mem::take(&mut shelf.wanted) || !shelf.hungry() {
                continue;
            }
            let (from, to) = (shelf.ahead_to, shelf.tail_from.min(written));
            if to < shelf.tail_from {
                all = false;
                shelf.wanted = to <= from;
            }
            if from < to {
                let lane = road.lane();
                let wakes = if road == Road::Older { Lane::History } else { lane };
                stretches.push(Stretch { lane, from, to, wakes, road, epoch: shelf.epoch });
            }
        }
        (stretches, all)
    }

    /// What was read of `stretch`: all of it up to `read_to`. Records that are leaving stay out of sight.
    pub(crate) fn filled(&mut self, stretch: Stretch, read_to: u64, entries: Vec<Entry>) {
        let Self { leaving, .. } = self;
        let entries: Vec<Entry> = entries.into_iter().filter(|entry| !leaving.contains(&entry.id)).collect();
        let shelf = stretch.road.pick(&mut self.shelves);
        if shelf.epoch != stretch.epoch {
            return;
        }
        shelf.ahead_bytes += entries.iter().map(Entry::bytes).sum::<usize>();
        shelf.ahead.extend(entries);
        shelf.ahead_to = read_to;
        // A stretch without a record that may be leased: on to the next.
        shelf.wanted |= shelf.ahead.is_empty() && shelf.hungry();
    }

    /// The ids between which unleased records of `lane` lie, the end exclusive.
    pub(crate) fn unleased(&self, lane: Lane) -> Vec<(u64, u64)> {
        let [priority, live, history, older] = &self.shelves;
        let end = i64::MAX.unsigned_abs();
        match lane {
            Lane::Priority => vec![(priority.cursor, end)],
            Lane::Live => {
                self.parted.map(|mark| (older.cursor, mark)).into_iter().chain([(live.cursor, end)]).collect()
            }
            Lane::History => vec![(history.cursor, end)],
        }
    }
}

fn removal(entry: &Entry, exit: Exit) -> Removal {
    let bytes = entry.body.len();
    Removal { id: entry.id, lane: entry.lane, row: entry.row, bytes, time: entry.time, exit }
}

/// Reason for which a record's time is over.
fn overdue(entry: &Entry, now: u64, max_age: u64) -> Option<&'static str> {
    if entry.deadline.is_some_and(|deadline| deadline <= now) {
        return Some("message-expiry");
    }
    (now.saturating_sub(entry.born) >= max_age).then_some("max-age")
}
