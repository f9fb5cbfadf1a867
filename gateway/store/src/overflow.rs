//! When there is no room: whoever is above its share gives way, then the oldest of all; or commits wait.
//!
//! Commits wait while the records of a device above its share are looked for, which after a restart may mean the whole
//! buffer: one transaction looks for [`SEARCH`] at most, and all of them together for [`LONGEST_SEARCH`]. Then the oldest of
//! all make what room is needed, and the search goes on beside that. A full disk never waits for fairness.

use std::time::Instant;

use fieldgate_types::Percent;
use rusqlite::Connection;

use crate::attempt::{Attempt, BY_URGENCY};
use crate::options::Overflow;
use crate::record::{Lane, RECORD_OVERHEAD};
use crate::room::{PAGE, Room, Usage};
use crate::schema::table;
use crate::sqlite::unsigned;
use crate::writer::Writer;

/// Evicted at least, so that not every transaction has to.
const EVICTION_PAGES: u64 = 1024;
/// One transaction looks for records of devices above their share for so long (milliseconds), and writes anew as much as it
/// may append.
const SEARCH: u64 = 100;
/// So long commits wait for that (milliseconds).
const LONGEST_SEARCH: u64 = 2_000;
/// A transaction that ran out of pages so often takes the oldest at once.
const STRAINED: u32 = 2;
/// What of the room states and answers may take before theirs are the oldest that go: one in so many parts.
const URGENT_PART: u64 = 4;

/// How far a search has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Search {
    /// There is room.
    Found,
    /// Nobody is above its share, or has anything left that may go.
    Over,
    /// The transaction has done what it may.
    GoesOn,
}

impl Writer {
    /// How many batches go into this transaction; others make room for them where they may.
    pub(crate) fn make_room(&mut self, conn: &Connection, attempt: &mut Attempt) -> Result<usize, rusqlite::Error> {
        let mut bytes = 0;
        let mut jobs = 0;
        for job in &self.pending {
            if jobs > 0 && bytes + job.bytes > self.room.transaction {
                break;
            }
            bytes += job.bytes;
            jobs += 1;
        }
        let needed = Room::pages(bytes);
        let missing = self.room.missing(Usage::measure(conn)?, needed);
        if missing == 0 && self.strain == 0 {
            (self.blocked, self.searching) = (None, None);
            return Ok(jobs);
        }
        let full = match self.options.overflow {
            Overflow::DropOldest => match self.search(conn, attempt, needed)? {
                Search::Found => false,
                Search::GoesOn if !self.has_searched_enough() => {
                    self.blocked = None;
                    return Ok(0);
                }
                Search::GoesOn | Search::Over => !self.evict(conn, attempt, needed)?,
            },
            Overflow::Refuse => {
                // As many as fit.
                let mut missing = missing;
                while missing > 0 && jobs > 0 {
                    jobs -= 1;
                    bytes -= self.pending.get(jobs).map_or(0, |job| job.bytes);
                    missing = self.room.missing(Usage::measure(conn)?, Room::pages(bytes));
                }
                // Where not even one fits, nothing is missing for none.
                jobs == 0
            }
        };
        if full {
            (self.blocked, self.searching) = (Some(Instant::now()), None);
            self.refuse("the buffer is full");
            return Ok(0);
        }
        self.blocked = None;
        Ok(jobs)
    }

    /// Devices above their share make room.
    fn search(&mut self, conn: &Connection, attempt: &mut Attempt, needed: u64) -> Result<Search, rusqlite::Error> {
        if self.options.device_share == Percent::ALL || self.strain >= STRAINED {
            return Ok(Search::Over);
        }
        let how = (self.options.device_share, self.room.transaction, self.reason());
        let needed = needed + if self.strain > 0 { self.at_once() } else { 0 };
        let begin = self.running.now();
        let mut written = 0;
        while self.room.missing(Usage::measure(conn)?, needed) > 0 {
            if written >= self.room.transaction || self.running.now().saturating_sub(begin) >= SEARCH {
                self.searching.get_or_insert(begin);
                return Ok(Search::GoesOn);
            }
            let given = attempt.give_way(conn, &mut self.ledger, &self.shared, &mut self.shares, how)?;
            let Some(more) = given else {
                self.searching = None;
                return Ok(Search::Over);
            };
            written += more;
        }
        self.searching = None;
        Ok(Search::Found)
    }

    fn has_searched_enough(&self) -> bool {
        self.searching.is_some_and(|since| self.running.now().saturating_sub(since) >= LONGEST_SEARCH)
    }

    /// The oldest make room; `false`: not enough.
    fn evict(&mut self, conn: &Connection, attempt: &mut Attempt, needed: u64) -> Result<bool, rusqlite::Error> {
        let reason = self.reason();
        // While others are being looked for, no more than what is needed.
        let more = if self.searching.is_some() && self.strain == 0 { 0 } else { self.at_once() };
        loop {
            let missing = self.room.missing(Usage::measure(conn)?, needed);
            let lanes = self.by_urgency(conn, attempt)?;
            if !attempt.evict(conn, &mut self.ledger, &self.shared, (lanes, missing + more), reason)? {
                return Ok(missing == 0);
            }
            if self.room.missing(Usage::measure(conn)?, needed) == 0 {
                return Ok(true);
            }
        }
    }

    /// The lane that gives way first in front: states and answers come last, until they take more than their part of the room.
    fn by_urgency(&mut self, conn: &Connection, attempt: &Attempt) -> Result<[Lane; 3], rusqlite::Error> {
        let (came, left) = attempt.urgent;
        if self.urgent.is_none() {
            // Before this transaction.
            self.urgent = Some((weigh(conn, Lane::Priority)? + left).saturating_sub(came));
        }
        let bytes = (self.urgent.unwrap_or_default() + came).saturating_sub(left);
        let [history, live, priority] = BY_URGENCY;
        let too_much = bytes > self.room.max_pages * PAGE / URGENT_PART;
        Ok(if too_much { [priority, history, live] } else { BY_URGENCY })
    }

    fn reason(&self) -> &'static str {
        if self.room.by_disk { "disk-full" } else { "max-size" }
    }

    /// Pages that are evicted at once: more each time that a transaction runs out of them.
    fn at_once(&self) -> u64 {
        (EVICTION_PAGES << self.strain).min(self.room.slack() << self.strain)
    }
}

/// What the records of `lane` take, about: reads all its pages.
fn weigh(conn: &Connection, lane: Lane) -> Result<u64, rusqlite::Error> {
    let mut statement = conn.prepare(&format!("SELECT count(*), total(length(body)) FROM {}", table(lane)))?;
    let (count, bytes): (i64, f64) = statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a sum of sizes, far below 2^53
    Ok(unsigned(count) * RECORD_OVERHEAD as u64 + bytes as u64)
}
