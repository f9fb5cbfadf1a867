//! Puts what is left of a damaged file into a fresh one: tables at once, records in slices between transactions.

use std::path::Path;

use rusqlite::Connection;

use crate::age::Saved;
use crate::attempt::Attempt;
use crate::desk::Rest;
use crate::ledger::{Ledger, MOST_UNWRITTEN};
use crate::opening::Opened;
use crate::room::{Room, Usage};
use crate::rows;
use crate::salvage::{self, Salvage};
use crate::shares::Shares;
use crate::sqlite::signed;
use crate::stats::LossKind;
use crate::writer::Writer;

/// Why records count as quarantined whose file was damaged.
pub(crate) const DAMAGED: &str = "damaged-file";

/// At the start: tables and counters from `kept` into the fresh file; then the records can be salvaged.
pub(crate) fn restore(kept: &Path, path: &Path, opened: &mut Opened) -> Result<Option<Salvage>, rusqlite::Error> {
    let old = match salvage::open(kept, path) {
        Ok(old) => old,
        Err(error) => {
            tracing::error!(kept = %kept.display(), %error, "nothing of the damaged queue can be read");
            return Ok(None);
        }
    };
    let mut rescued = salvage::rescue(&old);
    let devices = rescued.devices();
    let mut ledger = Ledger::load(std::mem::take(&mut rescued.rows), 0);
    // Counters may be behind the records by so many, and by the batches of a last transaction.
    ledger.raise(rescued.newest_id.max(ledger.given() + 4 * MOST_UNWRITTEN));
    ledger.lose_all(LossKind::Quarantined, DAMAGED);
    let to = ledger.given() + 1;
    opened.conn.execute_batch("BEGIN IMMEDIATE")?;
    salvage::put_pairs(&opened.conn, &rescued)?;
    Attempt::write_ledger(&opened.conn, &ledger)?;
    write_clock(&opened.conn, rescued.clock.unwrap_or(Saved { running: 0, wall: 0 }), &ledger)?;
    opened.conn.execute_batch("COMMIT")?;
    ledger.commit(Ok(()));
    opened.loaded.clock = rescued.clock;
    opened.ledger = ledger;
    Ok(Some(Salvage::new(old, devices, Rest::default(), to)))
}

/// Running time, and the ids that no counter knows.
pub(crate) fn write_clock(conn: &Connection, saved: Saved, ledger: &Ledger) -> Result<(), rusqlite::Error> {
    conn.prepare_cached("INSERT OR REPLACE INTO clock(id, running, wall, base) VALUES (1, ?1, ?2, ?3)")?.execute([
        signed(saved.running),
        signed(saved.wall),
        signed(ledger.base()),
    ])?;
    Ok(())
}

impl Writer {
    /// While running: the rest of what waited in the file that was just set aside.
    pub(crate) fn begin_salvage(&mut self, kept: &Path, rest: Rest) {
        match salvage::open(kept, &self.path) {
            Ok(old) => self.salvages.push_back(Salvage::new(old, self.ledger.numbers(), rest, self.next_id)),
            Err(error) => {
                tracing::error!(kept = %kept.display(), %error, "nothing of the damaged queue can be read");
                self.end_salvage();
            }
        }
    }

    /// Unless another is under way.
    fn end_salvage(&mut self) {
        if !self.salvages.is_empty() {
            return;
        }
        self.shared.desk().go_on(&std::mem::take(&mut self.missing));
        // What came back is among what was looked at.
        (self.shares, self.urgent) = (Shares::default(), None);
        // What was settled meanwhile.
        self.inbox.removals(true);
        self.shared.arrived();
    }

    /// One slice.
    pub(crate) fn salvage(&mut self) -> Result<(), rusqlite::Error> {
        let Some(mut salvage) = self.salvages.pop_front() else { return Ok(()) };
        let Some(conn) = self.conn.take() else {
            self.salvages.push_front(salvage);
            return Ok(());
        };
        let more = salvage.read();
        let result = if salvage.slice.is_empty() { Ok(()) } else { self.bring_back(&conn, &mut salvage) };
        self.conn = Some(conn);
        if result.is_err() {
            // The slice stays, and is written again.
            self.salvages.push_front(salvage);
            return result;
        }
        if more {
            self.salvages.push_front(salvage);
        } else {
            tracing::warn!(records = salvage.saved, "salvage of the damaged queue ended");
            self.end_salvage();
        }
        Ok(())
    }

    fn bring_back(&mut self, conn: &Connection, salvage: &mut Salvage) -> Result<(), rusqlite::Error> {
        let bytes = salvage.slice.iter().map(crate::entry::Entry::bytes).sum();
        if self.room.missing(Usage::measure(conn)?, Room::pages(bytes)) > 0 {
            tracing::error!("no room to salvage more: the rest stays in the file set aside");
            salvage.stop();
            return Ok(());
        }
        conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let written = self.write_back(conn, salvage);
        let done = match written {
            Ok(saved) => conn.prepare_cached("COMMIT")?.execute([]).map(|_| saved),
            Err(error) => Err(error),
        };
        match done {
            Ok(saved) => {
                salvage.saved += saved;
                for entry in salvage.slice.drain(..) {
                    self.missing.remove(&entry.id);
                }
                self.done(Attempt::new(self.next_id, Vec::new()));
                self.publish(conn)
            }
            Err(error) => {
                crate::writer::rollback(conn);
                self.ledger.rollback();
                Err(error)
            }
        }
    }

    fn write_back(&mut self, conn: &Connection, salvage: &Salvage) -> Result<u64, rusqlite::Error> {
        let mut saved = 0;
        for entry in &salvage.slice {
            if self.ledger.bring_back(entry.row, entry.body.len(), DAMAGED) {
                rows::insert(conn, std::slice::from_ref(entry))?;
                saved += 1;
            }
        }
        Attempt::write_ledger(conn, &self.ledger)?;
        write_clock(conn, self.running.save(), &self.ledger)?;
        Ok(saved)
    }
}
