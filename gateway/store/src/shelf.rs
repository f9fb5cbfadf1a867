//! One run of records: where it is read from next, and which stretches of it are in memory. See `desk`.

use std::collections::VecDeque;

use crate::desk::Candidate;
use crate::entry::Entry;
use crate::record::Lane;

/// Below these, the writer reads the next stretch ahead.
const AHEAD_RECORDS: usize = 2048;
const AHEAD_BYTES: usize = 1 << 20;

/// A run of records with a cursor of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Road {
    Priority,
    Live,
    History,
    /// What of the live lane lay there when it was parted.
    Older,
}

impl Road {
    pub(crate) const ALL: [Self; 4] = [Self::Priority, Self::Live, Self::History, Self::Older];

    pub(crate) fn of(parted: Option<u64>, lane: Lane, id: u64) -> Self {
        match lane {
            Lane::Priority => Self::Priority,
            Lane::Live if parted.is_some_and(|mark| id < mark) => Self::Older,
            Lane::Live => Self::Live,
            Lane::History => Self::History,
        }
    }

    /// Word for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Priority | Self::Live | Self::History => self.lane().name(),
            Self::Older => "older",
        }
    }

    /// Where its records lie on disk.
    pub(crate) fn lane(self) -> Lane {
        match self {
            Self::Priority => Lane::Priority,
            Self::Live | Self::Older => Lane::Live,
            Self::History => Lane::History,
        }
    }

    pub(crate) fn pick<T>(self, all: &mut [T; 4]) -> &mut T {
        let [priority, live, history, older] = all;
        match self {
            Self::Priority => priority,
            Self::Live => live,
            Self::History => history,
            Self::Older => older,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Shelf {
    pub cursor: u64,
    pub ahead: VecDeque<Entry>,
    pub ahead_bytes: usize,
    pub ahead_to: u64,
    pub tail: VecDeque<Entry>,
    pub tail_bytes: usize,
    pub tail_from: u64,
    /// Somebody waits for records that only the disk has.
    pub wanted: bool,
    /// Changes when the cursor goes back: a read from disk that began before is void.
    pub epoch: u64,
}

impl Shelf {
    pub(crate) fn pop(&mut self) -> Option<Entry> {
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

    /// What [`Shelf::pop`] would give.
    pub(crate) fn next(&self) -> Option<&Entry> {
        match self.ahead.front() {
            Some(entry) => Some(entry),
            None if self.ahead_to < self.tail_from => None,
            None => self.tail.front(),
        }
    }

    /// These, ids ascending, are out of sight.
    pub(crate) fn strike(&mut self, candidates: &[Candidate]) {
        self.ahead_bytes -= strike(&mut self.ahead, candidates);
        self.tail_bytes -= strike(&mut self.tail, candidates);
    }

    /// What was struck, all of it below `end` and on disk, is read again.
    pub(crate) fn unstrike(&mut self, end: u64) {
        while self.tail.front().is_some_and(|entry| entry.id < end) {
            self.tail_bytes -= self.tail.pop_front().map_or(0, |entry| entry.bytes());
        }
        self.tail_from = self.tail_from.max(end);
        self.back_to(self.cursor);
        self.wanted = true;
    }

    /// From `cursor` to `end` everything is on disk alone, or nowhere.
    pub(crate) fn begin(&mut self, cursor: u64, end: u64) {
        let epoch = self.epoch + 1;
        *self = Self { cursor, ahead_to: cursor, tail_from: end, epoch, ..Self::default() };
    }

    pub(crate) fn hungry(&self) -> bool {
        self.ahead_to < self.tail_from && self.ahead.len() < AHEAD_RECORDS && self.ahead_bytes < AHEAD_BYTES
    }

    pub(crate) fn back_to(&mut self, cursor: u64) {
        self.cursor = self.cursor.min(cursor);
        self.ahead.clear();
        self.ahead_bytes = 0;
        self.ahead_to = self.cursor;
        self.epoch += 1;
    }
}

/// Bytes that went.
fn strike(entries: &mut VecDeque<Entry>, candidates: &[Candidate]) -> usize {
    let (Some(first), Some(last)) = (candidates.first(), candidates.last()) else { return 0 };
    let meet = entries.front().is_some_and(|entry| entry.id <= last.id)
        && entries.back().is_some_and(|entry| entry.id >= first.id);
    let mut bytes = 0;
    if meet {
        let mut struck = candidates.iter().map(|candidate| candidate.id).peekable();
        entries.retain(|entry| {
            while struck.next_if(|id| *id < entry.id).is_some() {}
            let gone = struck.peek() == Some(&entry.id);
            bytes += if gone { entry.bytes() } else { 0 };
            !gone
        });
    }
    bytes
}
