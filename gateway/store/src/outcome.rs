//! What follows from a transaction: told to the callers, the consumers and the report, or taken back.

use rusqlite::Connection;

use crate::attempt::Attempt;
use crate::reading;
use crate::record::{Committed, Receipt, RecordId};
use crate::room::{PAGE, Usage};
use crate::sqlite::beside;
use crate::stats::Health;
use crate::writer::Writer;

impl Writer {
    /// The transaction is durable: tell everybody.
    pub(crate) fn done(&mut self, attempt: Attempt) {
        self.commits += 1;
        if self.blocked.is_none() && self.health != Health::Ok {
            tracing::info!("queue accepts again");
            self.health = Health::Ok;
        }
        let boot = self.boot;
        let (came, left) = attempt.urgent;
        self.urgent = self.urgent.map(|urgent| (urgent + came).saturating_sub(left));
        let (records, bytes) = attempt.written;
        self.rate.add(records, bytes);
        let changed = self.ledger.commit(if attempt.counted { Ok(()) } else { Err(records) });
        {
            let mut report = self.shared.report();
            for row in changed {
                report.ledger.insert(row.device.clone(), row);
            }
            report.stats.messages = self.ledger.messages();
            report.stats.bytes = self.ledger.bytes();
            report.stats.held = self.ledger.held().0;
            report.stats.commits = self.commits;
            report.stats.health = self.health.clone();
        }
        let mut receipts = attempt.entries.iter().map(|entry| Receipt { id: RecordId(entry.id), boot, seq: entry.seq });
        let receipts: Vec<Vec<Receipt>> =
            attempt.jobs.iter().map(|count| receipts.by_ref().take(*count).collect()).collect();
        {
            let mut desk = self.shared.desk();
            desk.lift();
            desk.removed(&attempt.removals);
            for entry in attempt.entries {
                desk.committed(entry);
            }
        }
        self.shared.arrived();
        self.shared.eased().notify_waiters();
        if !receipts.is_empty() {
            self.inbox.answered();
        }
        for mut receipts in receipts {
            let Some(job) = self.pending.pop_front() else { break };
            if let Some(held) = job.held {
                receipts = held.receipts;
                // Now that they are there, they can leave.
                self.removals.extend(held.rejected);
            }
            drop(job.place);
            // A caller that went away has its batch stored all the same.
            drop(job.done.send(Ok(Committed { receipts })));
        }
        self.mark_unwritten();
    }

    /// How long the buffer lasts.
    pub(crate) fn foresee(&mut self) {
        if !self.rate.advance(self.running.now()) {
            return;
        }
        let capacity = self.room.max_pages * PAGE;
        let mut report = self.shared.report();
        report.stats.holds = self.rate.lasts(capacity);
        report.stats.left = self.rate.lasts(capacity.saturating_sub(self.used));
    }

    /// The transaction did not happen.
    pub(crate) fn undo(&mut self, attempt: Attempt) {
        self.ledger.rollback();
        self.next_id = attempt.first_id;
        attempt.unclaim(&self.shared, &mut self.shares);
        let mut removals = attempt.removals;
        removals.append(&mut self.removals);
        self.removals = removals;
    }

    /// Commits wait from now on; said once.
    pub(crate) fn refuse(&mut self, reason: &str) {
        if let Health::Ok = self.health {
            tracing::error!(reason, "queue refuses, nothing is acknowledged");
            self.health = Health::Refusing { since: self.running.wall(), reason: reason.to_owned() };
            self.shared.report().stats.health = self.health.clone();
        }
    }

    /// The figures that need a look at the file.
    pub(crate) fn publish(&mut self, conn: &Connection) -> Result<(), rusqlite::Error> {
        let usage = Usage::measure(conn)?;
        self.used = usage.pages.saturating_sub(usage.free) * PAGE;
        let oldest = reading::oldest(conn)?;
        let log = std::fs::metadata(beside(&self.path, "-wal")).map_or(0, |meta| meta.len());
        let mut report = self.shared.report();
        report.stats.file_bytes = usage.pages * PAGE + log;
        report.stats.capacity_bytes = self.room.max_pages * PAGE;
        report.stats.used_bytes = self.used;
        report.stats.oldest = oldest;
        report.stats.last_commit = self.last_commit;
        report.stats.health = self.health.clone();
        Ok(())
    }
}
