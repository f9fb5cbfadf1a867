//! When the disk fails: nothing is acknowledged, nothing is forgotten, and it goes on by itself.
//!
//! A sync that failed must not be repeated on the same connection: the kernel has marked the pages clean, so a second one
//! succeeds without having written anything. So the connection is closed and opened again, and a full checkpoint
//! moves everything in the log into the database with syncs of its own before any commit is believed. A commit that
//! was reported as failed may still be in the log: the reopened file tells (see [`Attempt::happened`]).
//!
//! A file that turns out to be damaged is set aside. What waited in it is counted as quarantined, since the file
//! is kept, until it is salvaged (module `salvage`); the counters and the batches in memory go into the fresh file.

use std::time::Duration;

use rusqlite::Connection;

use crate::attempt::Attempt;
use crate::desk::Exit;
use crate::error::OpenError;
use crate::faults::Point;
use crate::opening;
use crate::restoring::{DAMAGED, write_clock};
use crate::shares::Shares;
use crate::sqlite::{checkpoint, is_damage};
use crate::stats::LossKind;
use crate::writer::Writer;

/// Between two tries; the first follows at once.
const PAUSE: Duration = Duration::from_millis(500);

impl Writer {
    /// Tries until the file is open again, or the end is asked for.
    pub(crate) fn recover(&mut self, error: &rusqlite::Error) {
        self.refuse(&error.to_string());
        let mut damaged = is_damage(error);
        loop {
            // What keeps it is said by `health`.
            self.shared.pulse.beat();
            // Closing may fail too; what matters is that this connection is used no more.
            self.conn = None;
            self.footing = None;
            if self.failures > 0 {
                self.inbox.pause(PAUSE);
            }
            self.failures = self.failures.saturating_add(1);
            if damaged {
                match self.replace() {
                    Ok(()) => return,
                    Err(error) => tracing::debug!(%error, "damaged queue can't be replaced yet"),
                }
            } else {
                match self.reopen() {
                    Ok(()) => return,
                    Err(OpenError::Sqlite { source, .. }) if is_damage(&source) => {
                        damaged = true;
                        continue;
                    }
                    Err(error) => tracing::debug!(%error, "queue can't be opened yet"),
                }
            }
            if self.inbox.closing() {
                return;
            }
        }
    }

    fn reopen(&mut self) -> Result<(), OpenError> {
        let failed = |source| OpenError::Sqlite { path: self.path.clone(), source };
        self.faults.check(Point::Reopen).map_err(failed)?;
        let opened = opening::open(&self.path, &self.options)?;
        checkpoint(&opened.conn).map_err(failed)?;
        if let Some(attempt) = self.undecided.take() {
            self.decide(&opened.conn, attempt)?;
        }
        self.room = opened.room;
        self.conn = Some(opened.conn);
        self.footing = Some(opened.footing);
        Ok(())
    }

    fn decide(&mut self, conn: &Connection, attempt: Attempt) -> Result<(), OpenError> {
        match attempt.happened(conn) {
            Ok(true) => self.done(attempt),
            Ok(false) => self.undo(attempt),
            Err(source) => {
                self.undecided = Some(attempt);
                return Err(OpenError::Sqlite { path: self.path.clone(), source });
            }
        }
        Ok(())
    }

    fn replace(&mut self) -> Result<(), OpenError> {
        if let Some(attempt) = self.undecided.take() {
            self.undo(attempt);
        }
        let now = self.running.wall();
        let io = |source| OpenError::Io { path: self.path.clone(), source };
        let kept = opening::set_aside(&self.path, now).map_err(io)?;
        tracing::error!(path = %self.path.display(), kept = %kept.display(), "queue damaged, set aside");
        let opened = opening::open(&self.path, &self.options)?;
        // Older records come into it beside what is known of it.
        (self.shares, self.urgent) = (Shares::default(), None);
        // What was settled was delivered, whatever became of the file.
        let mut desk = self.shared.desk();
        self.removals.extend(desk.take_removals());
        let released = desk.take_released();
        let rest = desk.start_over(self.next_id);
        drop(desk);
        // What is held never was in the old file: it goes into the fresh one, and is read from there.
        let held = self.first_held().unwrap_or(u64::MAX);
        self.missing = rest.held.iter().copied().filter(|id| *id < held).collect();
        self.flush = held < u64::MAX;
        self.absorb_these(released);
        for removal in std::mem::take(&mut self.removals) {
            match &removal.exit {
                Exit::Delivered => self.ledger.deliver(removal.row, 1, removal.bytes as u64),
                Exit::Lost(kind, reason) => {
                    self.ledger.lose(removal.row, *kind, reason, removal.bytes as u64, removal.time);
                }
            }
        }
        self.ledger.lose_all(LossKind::Quarantined, DAMAGED);
        self.begin_salvage(&kept, rest);
        // All rows are touched now: they go into the fresh file here.
        let path = self.path.clone();
        self.write_fresh(&opened.conn).map_err(|source| OpenError::Sqlite { path, source })?;
        self.shared.report().stats.set_aside = Some(kept);
        self.room = opened.room;
        self.conn = Some(opened.conn);
        self.footing = Some(opened.footing);
        Ok(())
    }

    fn write_fresh(&mut self, conn: &Connection) -> Result<(), rusqlite::Error> {
        conn.execute_batch("BEGIN IMMEDIATE")?;
        Attempt::write_ledger(conn, &self.ledger)?;
        write_clock(conn, self.running.save(), &self.ledger)?;
        conn.execute_batch("COMMIT")?;
        self.done(Attempt::new(self.next_id, Vec::new()));
        Ok(())
    }
}
