//! What can be leased, what is leased, and what has left but still lies on disk. In memory, shared by the
//! consumer's tasks and the writer under one short lock.
//!
//! A lane on disk is a run of ids. `cursor` parts it: below it, everything is leased or gone; from it on, nothing is
//! leased. Two stretches from the cursor on are also in memory:
//! ```text
//!   cursor ──ahead──> ahead_to ···· on disk only ···· tail_from ──tail──> newest
//! ```
//! `ahead` was read back from disk, `tail` is what was committed last. When the stretch between them is empty, live
//! records go from the commit to the consumer without a read.

use std::collections::{HashMap, HashSet, VecDeque};

use fieldgate_types::UnixMillis;

use crate::entry::Entry;
use crate::record::{Lane, Record, RecordId};
use crate::stats::LossKind;

/// Bounds of a lane's tail; what is older is read back from disk.
const TAIL_RECORDS: usize = 16 * 1024;
const TAIL_BYTES: usize = 8 << 20;
/// Below these, the writer reads the next stretch ahead.
const AHEAD_RECORDS: usize = 2048;
const AHEAD_BYTES: usize = 1 << 20;
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

/// A record that may have to make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub id: u64,
    pub row: usize,
    pub bytes: usize,
    pub time: UnixMillis,
}

#[derive(Debug)]
struct Held {
    lane: Lane,
    row: usize,
    bytes: usize,
    time: UnixMillis,
}

#[derive(Debug, Default)]
struct Shelf {
    cursor: u64,
    ahead: VecDeque<Entry>,
    ahead_bytes: usize,
    ahead_to: u64,
    tail: VecDeque<Entry>,
    tail_bytes: usize,
    tail_from: u64,
    /// Somebody waits for records that only the disk has.
    wanted: bool,
    /// Changes when the cursor goes back: a read from disk that began before is void.
    epoch: u64,
}

impl Shelf {
    fn pop(&mut self) -> Option<Entry> {
        if let Some(entry) = self.ahead.pop_front() {
            self.ahead_bytes -= entry.bytes();
            self.cursor = entry.id + 1;
            return Some(entry);
        }
        if self.ahead_to < self.tail_from {
            return None;
        }
        let entry = self.tail.pop_front()?;
        self.tail_bytes -= entry.bytes();
        self.cursor = entry.id + 1;
        self.ahead_to = self.cursor;
        self.tail_from = self.cursor;
        Some(entry)
    }

    fn next_bytes(&self) -> Option<usize> {
        let next = match self.ahead.front() {
            Some(entry) => entry,
            None if self.ahead_to < self.tail_from => return None,
            None => self.tail.front()?,
        };
        Some(next.body.len())
    }

    fn hungry(&self) -> bool {
        self.ahead_to < self.tail_from && self.ahead.len() < AHEAD_RECORDS && self.ahead_bytes < AHEAD_BYTES
    }

    fn back_to(&mut self, cursor: u64) {
        self.cursor = self.cursor.min(cursor);
        self.ahead.clear();
        self.ahead_bytes = 0;
        self.ahead_to = self.cursor;
        self.epoch += 1;
    }
}

/// A stretch that should be read from disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub lane: Lane,
    pub from: u64,
    /// Exclusive.
    pub to: u64,
    epoch: u64,
}

/// What of a file is still to be delivered when it is read anew: what was leased and not settled, and what was not leased
/// yet. What the consumer has passed without seeing it, because the file was damaged, would come out of order.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    gone: HashSet<u64>,
    cursors: [u64; 3],
    /// The consumer's: leased, or settled since the last transaction that any file has seen.
    pub held: HashSet<u64>,
}

impl Rest {
    pub(crate) fn has(&self, lane: Lane, id: u64) -> bool {
        let [priority, live, history] = self.cursors;
        let cursor = match lane {
            Lane::Priority => priority,
            Lane::Live => live,
            Lane::History => history,
        };
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
    shelves: [Shelf; 3],
    held: HashMap<u64, Held>,
    held_bytes: usize,
    max_held_bytes: usize,
    /// Not yet taken by the writer.
    removals: Vec<Removal>,
    /// Not yet taken by the writer, of records that may not be on disk.
    released: Vec<Removal>,
    /// From here on nothing is on disk.
    unwritten: Option<u64>,
    /// Ids of all that has left but still lies on disk, taken by the writer or not.
    leaving: HashSet<u64>,
    /// First id of this start.
    start: u64,
    max_age: u64,
    /// Calls that wait for a record, and the running time of the last one.
    waiting: usize,
    /// Older records are on their way into the file: nothing is leased, and nothing removed. Where each lane goes on then.
    held_back: Option<[u64; 3]>,
    seen: u64,
    pub consumer: Option<&'static str>,
    pub closed: bool,
}

impl Desk {
    /// Everything below `start` lies on disk. Leases stop at `max_held_bytes` of bodies. `now`: running time.
    pub(crate) fn new(start: u64, max_age: u64, max_held_bytes: usize, now: u64) -> Self {
        let shelf = || Shelf { tail_from: start, ..Shelf::default() };
        Self {
            shelves: [shelf(), shelf(), shelf()],
            held: HashMap::new(),
            held_bytes: 0,
            max_held_bytes,
            removals: Vec::new(),
            released: Vec::new(),
            unwritten: None,
            leaving: HashSet::new(),
            start,
            max_age,
            waiting: 0,
            held_back: None,
            seen: now,
            consumer: None,
            closed: false,
        }
    }

    /// The file was replaced by an empty one, into which what is left of the old one comes next; see [`Desk::hold_back`].
    /// What is leased stays leased.
    pub(crate) fn start_over(&mut self, next: u64) -> Rest {
        let cursors = self.held_back.unwrap_or_else(|| self.shelves.each_ref().map(|shelf| shelf.cursor));
        let mut held: HashSet<u64> = self.held.keys().copied().collect();
        let mut gone = HashSet::new();
        if self.held_back.is_some() {
            // Settled while the file was being filled: they leave when it is.
            held.extend(&self.leaving);
        } else {
            gone = std::mem::take(&mut self.leaving);
            self.removals.clear();
        }
        for shelf in &mut self.shelves {
            let epoch = shelf.epoch + 1;
            *shelf = Shelf { cursor: next, ahead_to: next, tail_from: next, epoch, ..Shelf::default() };
        }
        self.held_back = Some(cursors);
        Rest { gone, cursors, held }
    }

    /// From the start on: older records than any in the file are on their way into it. Until [`Desk::go_on`] nothing is
    /// leased, since nothing may overtake them, and what is settled stays, since it may not be in the file yet.
    pub(crate) fn hold_back(&mut self) {
        self.held_back = Some([0; 3]);
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

    fn shelf(&mut self, lane: Lane) -> &mut Shelf {
        let [priority, live, history] = &mut self.shelves;
        match lane {
            Lane::Priority => priority,
            Lane::Live => live,
            Lane::History => history,
        }
    }

    /// A consumer begins to wait.
    pub(crate) fn waits(&mut self) {
        self.waiting += 1;
    }

    /// It has what it waited for, or waits no more.
    pub(crate) fn waited(&mut self, now: u64) {
        self.waiting = self.waiting.saturating_sub(1);
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
            let Some(next) = self.shelf(lane).next_bytes() else { break };
            let full = self.held.len() >= MAX_LEASED
                || (!self.held.is_empty() && self.held_bytes + next > self.max_held_bytes);
            if full || (!taken.records.is_empty() && bytes + next > ask.max_bytes) {
                break;
            }
            let Some(entry) = self.shelf(lane).pop() else { break };
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
            self.held.insert(entry.id, Held { lane, row: entry.row, bytes: next, time: entry.time });
            taken.records.push(entry.into_record(ask.now, self.start));
        }
        let shelf = self.shelf(lane);
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

    /// Whether somebody takes what comes in `lane` at once.
    pub(crate) fn is_caught_up(&self, lane: Lane) -> bool {
        let [priority, live, history] = &self.shelves;
        let shelf = match lane {
            Lane::Priority => priority,
            Lane::Live => live,
            Lane::History => history,
        };
        let there = self.held_back.is_none() && (self.waiting > 0 || !self.held.is_empty());
        there && shelf.ahead.is_empty() && shelf.ahead_to >= shelf.tail_from && shelf.tail.len() < BEHIND
    }

    /// A record that is not on disk becomes leasable.
    pub(crate) fn offer(&mut self, entry: Entry) {
        self.unwritten = self.unwritten.or(Some(entry.id));
        self.committed(entry);
    }

    /// All leases are void.
    pub(crate) fn rewind(&mut self) {
        let mut first = [u64::MAX; 3];
        for (id, held) in self.held.drain() {
            let [priority, live, history] = &mut first;
            let first = match held.lane {
                Lane::Priority => priority,
                Lane::Live => live,
                Lane::History => history,
            };
            *first = id.min(*first);
        }
        self.held_bytes = 0;
        if let Some(cursors) = &mut self.held_back {
            for (cursor, first) in cursors.iter_mut().zip(first) {
                *cursor = first.min(*cursor);
            }
            return;
        }
        for (lane, first) in Lane::ALL.into_iter().zip(first) {
            let shelf = self.shelf(lane);
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

    /// Records that have left but still lie on disk.
    pub(crate) fn leaving(&self) -> usize {
        self.leaving.len()
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
        let shelf = self.shelf(entry.lane);
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
        for lane in Lane::ALL {
            let shelf = self.shelf(lane);
            if !std::mem::take(&mut shelf.wanted) || !shelf.hungry() {
                continue;
            }
            let (from, to) = (shelf.ahead_to, shelf.tail_from.min(written));
            if to < shelf.tail_from {
                all = false;
                shelf.wanted = to <= from;
            }
            if from < to {
                stretches.push(Stretch { lane, from, to, epoch: shelf.epoch });
            }
        }
        (stretches, all)
    }

    /// What was read of `stretch`: all of it up to `read_to`. Records that are leaving stay out of sight.
    pub(crate) fn filled(&mut self, stretch: Stretch, read_to: u64, entries: Vec<Entry>) {
        let Self { leaving, .. } = self;
        let entries: Vec<Entry> = entries.into_iter().filter(|entry| !leaving.contains(&entry.id)).collect();
        let shelf = self.shelf(stretch.lane);
        if shelf.epoch != stretch.epoch {
            return;
        }
        shelf.ahead_bytes += entries.iter().map(Entry::bytes).sum::<usize>();
        shelf.ahead.extend(entries);
        shelf.ahead_to = read_to;
        // A stretch without a record that may be leased: on to the next.
        shelf.wanted |= shelf.ahead.is_empty() && shelf.hungry();
    }

    /// Where unleased records of `lane` begin.
    pub(crate) fn cursor(&mut self, lane: Lane) -> u64 {
        self.shelf(lane).cursor
    }

    /// Keeps of `candidates` (records of `lane`, ids ascending) those that may be dropped, and sees to it that nobody
    /// leases them any more. Leased records may be on the wire and stay. Gives the cursor to return to, should the
    /// transaction fail.
    pub(crate) fn claim(&mut self, lane: Lane, candidates: &mut Vec<Candidate>) -> u64 {
        let from = self.cursor(lane);
        candidates.retain(|candidate| candidate.id >= from && !self.leaving.contains(&candidate.id));
        let shelf = self.shelf(lane);
        if let Some(last) = candidates.last() {
            let next = last.id + 1;
            shelf.cursor = next;
            shelf.ahead_to = shelf.ahead_to.max(next);
            shelf.tail_from = shelf.tail_from.max(next);
            while shelf.ahead.front().is_some_and(|entry| entry.id < next) {
                shelf.ahead_bytes -= shelf.ahead.pop_front().map_or(0, |entry| entry.bytes());
            }
            while shelf.tail.front().is_some_and(|entry| entry.id < next) {
                shelf.tail_bytes -= shelf.tail.pop_front().map_or(0, |entry| entry.bytes());
            }
        }
        from
    }

    /// The claimed records stay after all.
    pub(crate) fn unclaim(&mut self, lane: Lane, from: u64) {
        let shelf = self.shelf(lane);
        shelf.back_to(from);
        shelf.wanted = true;
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
