//! What the writer takes off the desk to make room, and gives back where its transaction fails: the low end of a lane (a
//! claim), or records here and there in it (a strike). Until the transaction has ended nobody passes what it drops.

use fieldgate_types::UnixMillis;

use super::Desk;
use crate::record::Lane;
use crate::shelf::Road;

/// A record that may have to make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub id: u64,
    pub row: usize,
    pub bytes: usize,
    pub time: UnixMillis,
}

impl Desk {
    /// Keeps of `candidates` (all records of `lane` from `begin` on, ids ascending) those that may be dropped, and sees to it
    /// that nobody leases them any more, nor what comes after them before [`Desk::lift`]. Leased records may be on the wire
    /// and stay. Gives the cursor to return to, should the transaction fail; `None`: others may be leased before them again,
    /// they must be looked for anew.
    pub(crate) fn claim(&mut self, lane: Lane, begin: u64, candidates: &mut Vec<Candidate>) -> Option<u64> {
        let first = candidates.first()?.id;
        let road = self.road(lane, first);
        let from = self.on(road).cursor;
        if from < begin {
            return None;
        }
        candidates.retain(|candidate| candidate.id >= from && !self.leaving.contains(&candidate.id));
        self.bar(lane, candidates);
        let shelf = self.on(road);
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
        Some(from)
    }

    /// The claimed records stay after all.
    pub(crate) fn unclaim(&mut self, lane: Lane, from: u64) {
        let road = self.road(lane, from);
        let shelf = self.on(road);
        shelf.back_to(from);
        shelf.wanted = true;
    }

    /// As [`Desk::claim`], for `candidates` that lie anywhere in `lane` (ids ascending): what lies between them can be leased.
    pub(crate) fn strike(&mut self, lane: Lane, candidates: &mut Vec<Candidate>) {
        let mut cursors = self.shelves.each_ref().map(|shelf| shelf.cursor);
        candidates.retain(|candidate| {
            let cursor = *Road::of(self.parted, lane, candidate.id).pick(&mut cursors);
            candidate.id >= cursor && !self.leaving.contains(&candidate.id)
        });
        self.bar(lane, candidates);
        for road in Road::ALL.into_iter().filter(|road| road.lane() == lane) {
            self.on(road).strike(candidates);
        }
    }

    /// What was struck of `lane`, all below `end`, stays after all.
    pub(crate) fn unstrike(&mut self, lane: Lane, end: u64) {
        for road in Road::ALL.into_iter().filter(|road| road.lane() == lane) {
            // Each road's own part of the lane alone: before it was parted, the older road has none.
            let end = if road == Road::Older { end.min(self.parted.unwrap_or_default()) } else { end };
            self.on(road).unstrike(end);
        }
    }

    /// Should the transaction fail, what comes after the candidates must not have gone before them.
    fn bar(&mut self, lane: Lane, candidates: &[Candidate]) {
        if let Some(first) = candidates.first() {
            let barred = lane.of_mut(&mut self.barred);
            *barred = Some(barred.map_or(first.id, |barred| barred.min(first.id)));
        }
    }

    /// The transaction has ended, one way or the other.
    pub(crate) fn lift(&mut self) {
        self.barred = [None; 3];
    }
}
