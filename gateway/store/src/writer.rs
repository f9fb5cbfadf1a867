//! The writer: one thread, the only connection to queue.db, everything that becomes durable.
//!
//! It takes whatever has queued up while the last transaction was being synced, and commits it as one. No linger: under
//! load the batches gather by themselves. What a failed transaction means is in [`crate::recovery`].

use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::age::RunningTime;
use crate::aside;
use crate::attempt::Attempt;
use crate::desk::Removal;
use crate::error::{AsideError, CloseError, ScanError};
use crate::faults::{Faults, Point};
use crate::footing::Footing;
use crate::hold::Patience;
use crate::inbox::{Inbox, Job, Question, Woke};
use crate::ledger::Ledger;
use crate::options::{Options, Overflow};
use crate::rate::Rate;
use crate::reading;
use crate::record::RECORD_OVERHEAD;
use crate::room::{PAGE, Room};
use crate::salvage::Salvage;
use crate::shared::Shared;
use crate::shares::Shares;
use crate::sqlite::is_full;
use crate::stats::Health;

/// With nothing to do, the writer looks at the clock this often.
const IDLE: Duration = Duration::from_secs(1);
/// While there is no room, it looks again this often.
const BLOCKED: Duration = Duration::from_millis(250);
/// Running time is saved, and room measured, this often (milliseconds of running time).
const CARE: u64 = 60_000;
/// Room is measured this often while the disk is short: somebody may have made some.
const LOOK: u64 = 5_000;
/// A transaction that runs out of pages is tried again this often, each time with twice the eviction.
const MAX_STRAIN: u32 = 3;
/// Rounds of reading between two transactions: draining must not keep commits waiting.
const READS: usize = 4;

/// What the writer starts with.
#[derive(Debug)]
pub(crate) struct Start {
    pub path: PathBuf,
    pub boot: u64,
    pub options: Options,
    pub running: RunningTime,
    pub ledger: Ledger,
    pub next_id: u64,
    pub conn: Connection,
    pub footing: Footing,
    pub salvage: Option<Salvage>,
    pub room: Room,
    pub faults: Faults,
}

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) path: PathBuf,
    pub(crate) options: Options,
    pub(crate) running: RunningTime,
    pub(crate) faults: Faults,
    pub(crate) conn: Option<Connection>,
    /// After the connection: it must not be closed before.
    pub(crate) footing: Option<Footing>,
    /// Records of damaged files, the one set aside first in front, on their way into this one. More than one only where a
    /// fresh file is damaged too before the salvage ends.
    pub(crate) salvages: VecDeque<Salvage>,
    /// What the consumer held when a file was set aside, and is not back in this one. As many as can be leased.
    pub(crate) missing: HashSet<u64>,
    pub(crate) room: Room,
    pub(crate) ledger: Ledger,
    /// Id of the next record.
    pub(crate) next_id: u64,
    pub(crate) boot: u64,
    /// Batches taken from the inbox and not answered; the inbox's places bound them.
    pub(crate) pending: VecDeque<Job>,
    /// How long a batch is held, and whether it is worth it.
    pub(crate) patience: Patience,
    /// What is held is to be written.
    pub(crate) flush: bool,
    /// Records that were delivered and never written.
    pub(crate) passed: u64,
    /// Taken from the desk and not yet off the disk.
    pub(crate) removals: Vec<Removal>,
    /// A transaction whose commit failed, which may have happened all the same.
    pub(crate) undecided: Option<Attempt>,
    /// Tries of this transaction that ran out of pages.
    pub(crate) strain: u32,
    /// The last transaction failed for want of room.
    was_full: bool,
    /// Recoveries since the last good transaction.
    pub(crate) failures: u32,
    /// There was no room for the first batch, then.
    pub(crate) blocked: Option<Instant>,
    /// What was gone over for devices above their share.
    pub(crate) shares: Shares,
    /// Since then (running time) commits have waited for their records to be found.
    pub(crate) searching: Option<u64>,
    /// Bytes in the priority lane, once somebody wanted to know.
    pub(crate) urgent: Option<u64>,
    next_care: u64,
    /// When room is measured again.
    next_look: u64,
    pub(crate) rate: Rate,
    /// Bytes of the database in use.
    pub(crate) used: u64,
    pub(crate) commits: u64,
    pub(crate) last_commit: Duration,
    pub(crate) health: Health,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, inbox: Arc<Inbox>, start: Start) -> Self {
        let Start { path, boot, options, running, ledger, next_id, conn, footing, salvage, room, faults } = start;
        let rate = Rate::new(running.now());
        let patience = Patience::new(options.hold);
        Self {
            shared,
            inbox,
            path,
            options,
            running,
            faults,
            conn: Some(conn),
            footing: Some(footing),
            salvages: salvage.into_iter().collect(),
            missing: HashSet::new(),
            room,
            ledger,
            next_id,
            boot,
            pending: VecDeque::new(),
            patience,
            flush: false,
            passed: 0,
            removals: Vec::new(),
            undecided: None,
            strain: 0,
            was_full: false,
            failures: 0,
            blocked: None,
            shares: Shares::default(),
            searching: None,
            urgent: None,
            next_care: 0,
            next_look: 0,
            rate,
            used: 0,
            commits: 0,
            last_commit: Duration::ZERO,
            health: Health::Ok,
        }
    }

    /// Works until the end has been asked for and all is stored.
    pub(crate) fn run(mut self) -> Result<(), CloseError> {
        loop {
            self.shared.pulse.beat();
            let spaced = self.shared.desk().is_away(self.running.now());
            let woke = self.inbox.wait(self.rest(), spaced);
            let closing = woke.closing;
            if let Err(error) = self.work(woke) {
                self.recover(&error);
            }
            // A last look: batches may have come in before the inbox closed.
            if closing || self.inbox.closing() {
                return self.finish();
            }
        }
    }

    /// How long there is nothing to do but what comes.
    fn rest(&self) -> Duration {
        match self.blocked {
            _ if !self.removals.is_empty() || !self.salvages.is_empty() => Duration::ZERO,
            Some(_) => BLOCKED,
            None => self.company().unwrap_or(IDLE).min(IDLE),
        }
    }

    fn work(&mut self, woke: Woke) -> Result<(), rusqlite::Error> {
        if let Some(options) = woke.options {
            self.rebound(options);
        }
        self.pending.extend(woke.jobs);
        self.absorb();
        self.hold();
        self.end_hold();
        if woke.removals || (self.is_due() && self.is_short()) {
            self.removals.extend(self.shared.desk().take_removals());
        }
        self.answer(woke.questions)?;
        self.salvage()?;
        if !self.fill()? {
            self.flush = true;
        }
        let care = self.running.now() >= self.next_care;
        let stuck = self.removals.is_empty() && self.blocked.is_some_and(|since| since.elapsed() < BLOCKED);
        if care || !self.removals.is_empty() || (self.is_due() && !stuck) {
            self.transact(care)?;
        }
        self.foresee();
        Ok(())
    }

    /// Whether the next transactions may have to make room: what has left goes before anything is evicted for it.
    fn is_short(&self) -> bool {
        let most = 4 * self.room.log_pages + self.room.slack();
        self.used / PAGE + most >= self.room.max_pages
    }

    /// Other bounds from now on: the file and what is in it are held to them with the next transaction, which is now.
    fn rebound(&mut self, options: Options) {
        self.shared.desk().rebound(crate::age::millis(options.max_age), options.most_leased());
        self.patience = Patience::new(options.hold);
        self.options = options;
        (self.next_look, self.next_care) = (0, 0);
    }

    fn answer(&mut self, questions: Vec<Question>) -> Result<(), rusqlite::Error> {
        let mut failed = None;
        let mut told = |error: rusqlite::Error| {
            let text = error.to_string();
            failed = Some(error);
            text
        };
        for question in questions {
            let Some(conn) = &self.conn else { break };
            match question {
                Question::Scan(table, done) => {
                    let pairs = reading::scan(conn, table);
                    drop(done.send(pairs.map_err(|error| ScanError::Read(told(error)))));
                }
                Question::List(after, done) => {
                    let list = aside::list(conn, &self.ledger, after);
                    drop(done.send(list.map_err(|error| ScanError::Read(told(error)))));
                }
                Question::Judge(verdict, ids, done) => {
                    let judged = self.judge(verdict, &ids);
                    drop(done.send(judged.unwrap_or_else(|error| Err(AsideError::Refused(told(error))))));
                    // A commit in doubt is looked into before anything else is begun.
                    if self.undecided.is_some() {
                        break;
                    }
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Reads ahead for the consumers; `false`: something that they wait for must be written first.
    fn fill(&mut self) -> Result<bool, rusqlite::Error> {
        let Some(conn) = &self.conn else { return Ok(true) };
        let mut all = true;
        for _ in 0..READS {
            let (stretches, written) = self.shared.desk().wanted();
            all &= written;
            if stretches.is_empty() {
                return Ok(all);
            }
            for stretch in stretches {
                let read = reading::read(conn, &self.ledger, stretch)?;
                if !read.bad.is_empty() {
                    tracing::error!(lane = %stretch.lane, records = read.bad.len(), "damaged records found, quarantined");
                    self.inbox.removals(true);
                }
                let mut desk = self.shared.desk();
                let held_back: Vec<_> = read.bad.into_iter().filter(|bad| !desk.is_leaving(bad.id)).collect();
                for bad in held_back {
                    desk.remove(bad);
                }
                desk.filled(stretch, read.to, read.entries);
                drop(desk);
                self.shared.arrival(stretch.wakes).notify_waiters();
            }
        }
        // Whatever is wanted beyond: after the next transaction.
        self.inbox.nudge();
        Ok(all)
    }

    /// One transaction.
    pub(crate) fn transact(&mut self, care: bool) -> Result<(), rusqlite::Error> {
        let Some(conn) = self.conn.take() else { return Ok(()) };
        let begin = Instant::now();
        if let Err(error) = self.look(&conn) {
            self.conn = Some(conn);
            return Err(error);
        }
        // After a full disk the removals go alone first: they make the room that the batches need.
        if self.was_full && !self.removals.is_empty() && !self.pending.is_empty() {
            let alone = self.attempt(&conn, false, false);
            if alone.is_err() {
                self.conn = Some(conn);
                return alone;
            }
        }
        self.strain = 0;
        let mut result = self.attempt(&conn, true, care);
        while let Err(error) = &result {
            self.was_full = is_full(error);
            // Full while pages were being taken: our estimate of the room was wrong, evict more. Full at the commit: it
            // is the file system, where no eviction helps.
            let evict = self.was_full && self.undecided.is_none() && self.options.overflow == Overflow::DropOldest;
            if !evict || self.strain == MAX_STRAIN {
                break;
            }
            self.strain += 1;
            result = self.attempt(&conn, true, care);
        }
        if result.is_ok() {
            self.was_full = false;
            self.failures = 0;
            self.last_commit = begin.elapsed();
            self.publish(&conn)?;
        }
        self.conn = Some(conn);
        result
    }

    /// What room there is now.
    fn look(&mut self, conn: &Connection) -> Result<(), rusqlite::Error> {
        let now = self.running.now();
        let mut room = self.room;
        if now >= self.next_look {
            room = Room::measure(&self.path, &self.options);
        }
        if let Some(footing) = &mut self.footing {
            match footing.hold(room) {
                Ok(held) => room = held,
                // The cap stands, and a full disk is seen when it is met.
                Err(error) => tracing::debug!(%error, "no blocks held in advance"),
            }
        }
        if now >= self.next_look || room != self.room {
            room.apply(conn)?;
            self.next_look = now + if room.by_disk { LOOK } else { CARE };
            if room.by_disk && !self.room.by_disk {
                tracing::warn!(
                    bytes = room.max_pages * PAGE,
                    "the disk is nearly full, the buffer is smaller than configured"
                );
            }
            self.room = room;
        }
        Ok(())
    }

    fn attempt(&mut self, conn: &Connection, with_jobs: bool, care: bool) -> Result<(), rusqlite::Error> {
        // A removal rewrites its page, in the log too: the transaction's bound holds for removals as well.
        let mut bytes = 0;
        let fitting = self.removals.iter().take_while(|removal| {
            bytes += removal.bytes + RECORD_OVERHEAD;
            bytes <= self.room.transaction
        });
        let fitting = fitting.count().max(1).min(self.removals.len());
        let removals = self.removals.drain(..fitting).collect();
        let mut attempt = Attempt::new(self.next_id, removals);
        let built = self.build(conn, &mut attempt, with_jobs, care);
        match built {
            Ok(false) if attempt.is_empty() => {
                rollback(conn);
                self.undo(attempt);
                Ok(())
            }
            Ok(_) => match self.commit(conn) {
                Ok(()) => {
                    self.done(attempt);
                    Ok(())
                }
                Err(error) => {
                    self.undecided = Some(attempt);
                    Err(error)
                }
            },
            Err(error) => {
                rollback(conn);
                self.undo(attempt);
                Err(error)
            }
        }
    }

    pub(crate) fn commit(&self, conn: &Connection) -> Result<(), rusqlite::Error> {
        self.faults.check(Point::BeforeCommit)?;
        conn.prepare_cached("COMMIT")?.execute([])?;
        self.faults.check(Point::AfterCommit)
    }

    /// Everything up to the commit; `true` when something besides the attempt's own changes is to be committed.
    fn build(
        &mut self,
        conn: &Connection,
        attempt: &mut Attempt,
        with_jobs: bool,
        care: bool,
    ) -> Result<bool, rusqlite::Error> {
        let now = self.running.now();
        conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        attempt.remove(conn, &mut self.ledger, &self.running)?;
        let mut saved = false;
        if care {
            let max_age = crate::age::millis(self.options.max_age);
            let more = attempt.sweep(conn, &mut self.ledger, &self.shared, (now, max_age, self.room.transaction))?;
            let pace = (max_age / 16).clamp(1_000, CARE);
            self.next_care = if more { now } else { now + pace };
            // An idle gateway with an empty queue leaves the flash alone.
            saved = self.ledger.messages() > 0 || self.ledger.is_behind();
            if saved || !attempt.is_empty() {
                let clock = self.running.save();
                crate::restoring::write_clock(conn, clock, &self.ledger)?;
            }
        }
        if with_jobs && self.is_due() {
            let jobs = self.make_room(conn, attempt)?;
            for job in self.pending.iter().take(jobs) {
                match &job.held {
                    Some(held) => attempt.store_held(&mut self.ledger, &held.entries),
                    None => attempt.store(conn, &mut self.ledger, &job.batch, (self.boot, now))?,
                }
            }
            attempt.append(conn)?;
            self.next_id = attempt.first_id + attempt.entries.len() as u64;
        }
        attempt.counted = care || !attempt.only_appends() || !self.ledger.may_wait(attempt.written.0);
        if attempt.counted {
            Attempt::write_ledger(conn, &self.ledger)?;
        }
        Ok(saved)
    }
}

/// What fails here fails again at the next use, and is dealt with there.
pub(crate) fn rollback(conn: &Connection) {
    if !conn.is_autocommit()
        && let Err(error) = conn.execute_batch("ROLLBACK")
    {
        tracing::debug!(%error, "rollback failed");
    }
}
