//! One transaction: what it is going to change, step by step, and how to tell afterwards whether it did.
//!
//! Order inside: removals, then records whose time is over, then eviction, then the batches. So each step finds the room
//! that the one before has made.

use fieldgate_types::{Percent, UnixMillis};
use rusqlite::{Connection, OptionalExtension, params};

use crate::age::RunningTime;
use crate::aside;
use crate::desk::{Candidate, Exit, Removal};
use crate::entry::Entry;
use crate::ledger::Ledger;
use crate::record::{Batch, Lane, RECORD_OVERHEAD};
use crate::rows;
use crate::schema::{index, kind, number, table};
use crate::shared::Shared;
use crate::shares::{self, Shares};
use crate::sqlite::{signed, unsigned};
use crate::stats::{Gap, LossKind};
use crate::swath::{self, Swath};

/// Why a record was evicted while older ones of others were spared.
const DEVICE_SHARE: &str = "device-share";
/// The lane that gives way first in front.
pub(crate) const BY_URGENCY: [Lane; 3] = [Lane::History, Lane::Live, Lane::Priority];

/// What a transaction changes in memory once it is durable, or takes back when it isn't.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// Id of its first record.
    pub first_id: u64,
    /// Records that got their number with it, in the order of the batches.
    pub entries: Vec<Entry>,
    /// Records that had theirs, being held, and are to be written.
    held: Vec<Entry>,
    /// How many of them each batch has: none where it was held.
    pub jobs: Vec<usize>,
    /// Records written, and the bytes of their bodies.
    pub written: (usize, usize),
    /// The first of them.
    first: Option<(Lane, u64)>,
    /// What leaves because a consumer or the read path said so.
    pub removals: Vec<Removal>,
    /// The consumer has told of gaps with it.
    told: bool,
    /// The counters went into the file with it.
    pub counted: bool,
    /// Where the cursors stood before records were dropped.
    claims: Vec<(Lane, u64)>,
    /// Where records were dropped among others: all below these ids.
    strikes: Vec<(Lane, u64)>,
    /// What was gone over for devices that give way, and changed.
    swept: Vec<(Lane, u64, u64)>,
    /// Bytes that came into the priority lane with it, and that left it.
    pub urgent: (u64, u64),
    /// One of the dropped records.
    dropped: Option<(Lane, u64)>,
}

impl Attempt {
    pub(crate) fn new(first_id: u64, removals: Vec<Removal>) -> Self {
        Self {
            first_id,
            entries: Vec::new(),
            held: Vec::new(),
            jobs: Vec::new(),
            written: (0, 0),
            first: None,
            removals,
            told: false,
            counted: true,
            claims: Vec::new(),
            strikes: Vec::new(),
            swept: Vec::new(),
            urgent: (0, 0),
            dropped: None,
        }
    }

    /// Whether nothing has been changed.
    pub(crate) fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.removals.is_empty() && self.dropped.is_none()
    }

    /// Takes the removals off the lanes.
    pub(crate) fn remove(
        &mut self,
        conn: &Connection,
        ledger: &mut Ledger,
        running: &RunningTime,
    ) -> Result<(), rusqlite::Error> {
        self.removals.sort_unstable_by_key(|removal| (removal.lane, removal.id));
        let mut quarantined = false;
        for removal in &self.removals {
            let bytes = removal.bytes as u64;
            if removal.lane == Lane::Priority {
                self.urgent.1 += bytes + RECORD_OVERHEAD as u64;
            }
            match &removal.exit {
                Exit::Delivered => ledger.deliver(removal.row, 1, bytes),
                Exit::Lost(lost, reason) => {
                    ledger.lose(removal.row, *lost, reason, bytes, removal.time);
                    if *lost == LossKind::Quarantined {
                        aside::keep(conn, removal, reason, running)?;
                        quarantined = true;
                    }
                }
            }
        }
        for lane in Lane::ALL {
            let ids = self.removals.iter().filter(|removal| removal.lane == lane).map(|removal| removal.id);
            delete(conn, lane, ids)?;
        }
        if quarantined {
            aside::bound(conn)?;
        }
        Ok(())
    }

    /// Drops records that are older than `max_age`, `most` bytes of each lane; `true` when more of them are left.
    pub(crate) fn sweep(
        &mut self,
        conn: &Connection,
        ledger: &mut Ledger,
        shared: &Shared,
        (now, max_age, most): (u64, u64, usize),
    ) -> Result<bool, rusqlite::Error> {
        let mut more = false;
        for (lane, from, to) in unleased(shared, Lane::ALL) {
            let mut candidates = Vec::new();
            let mut bytes = 0;
            let mut statement = conn.prepare_cached(&format!(
                "SELECT id, device, length(body), born, time FROM {} WHERE id >= ?1 AND id < ?2 ORDER BY id",
                table(lane)
            ))?;
            let mut rows = statement.query([signed(from), signed(to)])?;
            while let Some(row) = rows.next()? {
                // Births ascend with the ids.
                if now.saturating_sub(unsigned(row.get(3)?)) < max_age {
                    break;
                }
                if bytes >= most {
                    more = true;
                    break;
                }
                if let Some(candidate) = candidate(row)? {
                    bytes += candidate.bytes + RECORD_OVERHEAD;
                    candidates.push(candidate);
                }
            }
            drop(rows);
            self.drop_records(conn, ledger, shared, (lane, from), candidates, (LossKind::Expired, "max-age"))?;
        }
        Ok(more)
    }

    /// Drops the oldest records, of the `lanes` in their order, until `pages` are free or nothing is left; whole batches
    /// only. `false`: nothing was dropped.
    pub(crate) fn evict(
        &mut self,
        conn: &Connection,
        ledger: &mut Ledger,
        shared: &Shared,
        (lanes, pages): ([Lane; 3], u64),
        reason: &'static str,
    ) -> Result<bool, rusqlite::Error> {
        let target = pages * crate::room::PAGE;
        let mut freed = aside::prune(conn)?;
        let mut any = freed > 0;
        for (lane, from, to) in unleased(shared, lanes) {
            if freed >= target {
                break;
            }
            let mut candidates = Vec::new();
            let mut statement = conn.prepare_cached(&format!(
                "SELECT id, device, length(body), continues, time FROM {} WHERE id >= ?1 AND id < ?2 ORDER BY id",
                table(lane)
            ))?;
            let mut rows = statement.query([signed(from), signed(to)])?;
            while let Some(row) = rows.next()? {
                if freed >= target && row.get::<_, i64>(3)? == 0 {
                    break;
                }
                if let Some(candidate) = candidate(row)? {
                    freed += candidate.bytes as u64 + 40;
                    candidates.push(candidate);
                }
            }
            drop(rows);
            any |= self.drop_records(conn, ledger, shared, (lane, from), candidates, (LossKind::Evicted, reason))?;
        }
        Ok(any)
    }

    /// `true`: some are gone, or it is worth another look.
    fn drop_records(
        &mut self,
        conn: &Connection,
        ledger: &mut Ledger,
        shared: &Shared,
        (lane, begin): (Lane, u64),
        mut candidates: Vec<Candidate>,
        (lost, reason): (LossKind, &'static str),
    ) -> Result<bool, rusqlite::Error> {
        if candidates.is_empty() {
            return Ok(false);
        }
        // Consumers lease from memory meanwhile: what they took since the read is no longer among the candidates.
        let Some(cursor) = shared.desk().claim(lane, begin, &mut candidates) else { return Ok(true) };
        let Some(first) = candidates.first() else { return Ok(false) };
        self.dropped = Some((lane, first.id));
        self.claims.push((lane, cursor));
        for candidate in &candidates {
            self.lose(ledger, lane, candidate, (lost, reason));
        }
        delete(conn, lane, candidates.iter().map(|candidate| candidate.id))?;
        Ok(true)
    }

    fn lose(
        &mut self,
        ledger: &mut Ledger,
        lane: Lane,
        candidate: &Candidate,
        (lost, reason): (LossKind, &'static str),
    ) {
        let bytes = candidate.bytes as u64;
        if lane == Lane::Priority {
            self.urgent.1 += bytes + RECORD_OVERHEAD as u64;
        }
        ledger.lose(candidate.row, lost, reason, bytes, candidate.time);
    }

    /// Goes over one stretch of the lanes for whoever has more than its `share` of what waits, `most` bytes of it, and drops what
    /// it has there. `reason` is that of the oldest of all, which would go anyhow. Bytes that were written anew; `None`:
    /// nobody has more, or has anything that was not gone over.
    pub(crate) fn give_way(
        &mut self,
        conn: &Connection,
        ledger: &mut Ledger,
        shared: &Shared,
        shares: &mut Shares,
        (share, most, reason): (Percent, usize, &'static str),
    ) -> Result<Option<usize>, rusqlite::Error> {
        let heavy = ledger.above(share, shares::MOST);
        if heavy.is_empty() {
            return Ok(None);
        }
        let gives_way = |row: usize| heavy.binary_search(&row).is_ok();
        let mut oldest = true;
        for (lane, begin, end) in unleased(shared, BY_URGENCY) {
            let (from, until) = shares.next(&heavy, lane, begin);
            let bare = shares.is_bare(lane, begin, from);
            let there = from < end;
            let swath = if there { Swath::read(conn, lane, (from, until.min(end)), most, gives_way)? } else { None };
            let Some(mut swath) = swath else {
                oldest &= bare;
                continue;
            };
            shares.add(&heavy, lane, from, swath.to);
            if swath.is_thin(share) {
                return Ok(Some(0));
            }
            // Consumers lease from memory meanwhile: what they took since the read is no longer among the candidates.
            shared.desk().strike(lane, &mut swath.candidates);
            let Some((first, last)) = swath.candidates.first().zip(swath.candidates.last()) else {
                return Ok(Some(0));
            };
            self.swept.push((lane, from, swath.to));
            self.dropped = Some((lane, first.id));
            self.strikes.push((lane, last.id + 1));
            let spared = swath.spared.unwrap_or(u64::MAX);
            for candidate in &swath.candidates {
                let is_oldest = oldest && bare && candidate.id < spared;
                let reason = if is_oldest { reason } else { DEVICE_SHARE };
                self.lose(ledger, lane, candidate, (LossKind::Evicted, reason));
            }
            if bare && swath.spared.is_none() {
                shares.bare(lane, swath.to);
            }
            return swath::rewrite(conn, lane, &swath.candidates).map(Some);
        }
        Ok(None)
    }

    /// Adds what is left of a batch that was held; [`Attempt::append`] writes it.
    pub(crate) fn store_held(&mut self, ledger: &mut Ledger, entries: &[Entry]) {
        let mut last_lane = None;
        for entry in entries {
            ledger.write_held(entry.row, entry.body.len());
            // The one that it continues may have left.
            let continues = entry.continues && last_lane == Some(entry.lane);
            last_lane = Some(entry.lane);
            self.held.push(Entry { continues, ..entry.clone() });
        }
        self.jobs.push(0);
    }

    /// Writes the records of all batches.
    pub(crate) fn append(&mut self, conn: &Connection) -> Result<(), rusqlite::Error> {
        let held = std::mem::take(&mut self.held);
        // Whatever was held lies before what gets its number now.
        for entries in [&held, &self.entries] {
            rows::insert(conn, entries)?;
            for entry in entries {
                if entry.lane == Lane::Priority {
                    self.urgent.0 += entry.bytes() as u64;
                }
                self.first = self.first.or(Some((entry.lane, entry.id)));
                self.written.0 += 1;
                self.written.1 += entry.body.len();
            }
        }
        Ok(())
    }

    /// Adds a batch; [`Attempt::append`] writes its records.
    pub(crate) fn store(
        &mut self,
        conn: &Connection,
        ledger: &mut Ledger,
        batch: &Batch,
        (boot, now): (u64, u64),
    ) -> Result<(), rusqlite::Error> {
        let mut last_lane = None;
        for append in &batch.appends {
            let (row, seq) = ledger.receive(&append.device, boot, append.body.len());
            let id = self.first_id + self.entries.len() as u64;
            self.entries.push(Entry::new(append, id, (row, boot, seq), now, last_lane == Some(append.lane)));
            last_lane = Some(append.lane);
        }
        for gap in &batch.told {
            ledger.told(gap);
            self.told = true;
        }
        if !batch.deletes.is_empty() {
            let mut statement = conn.prepare_cached("DELETE FROM small WHERE name = ?1 AND key = ?2")?;
            for delete in &batch.deletes {
                statement.execute(params![delete.table, delete.key])?;
            }
        }
        if !batch.puts.is_empty() {
            let mut statement =
                conn.prepare_cached("INSERT OR REPLACE INTO small(name, key, value) VALUES (?1, ?2, ?3)")?;
            for put in &batch.puts {
                statement.execute(params![put.table, put.key, put.value])?;
            }
        }
        self.jobs.push(batch.appends.len());
        Ok(())
    }

    /// Whether all that it does is to append.
    pub(crate) fn only_appends(&self) -> bool {
        self.removals.is_empty() && self.dropped.is_none() && !self.told
    }

    /// Writes all counters that differ from the file's.
    pub(crate) fn write_ledger(conn: &Connection, ledger: &Ledger) -> Result<(), rusqlite::Error> {
        let mut devices = conn.prepare_cached(
            "INSERT OR REPLACE INTO devices(id, name, boot, seq, received, delivered, bytes, crc)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?;
        let mut losses =
            conn.prepare_cached("INSERT OR REPLACE INTO losses(device, kind, reason, count) VALUES (?1, ?2, ?3, ?4)")?;
        for (at, row) in ledger.to_write() {
            devices.execute(params![
                number(at),
                row.device.as_str(),
                signed(row.boot),
                signed(row.seq),
                signed(row.received),
                signed(row.delivered),
                signed(row.bytes),
                row.checksum(),
            ])?;
            for loss in &row.losses {
                losses.execute(params![number(at), kind(loss.kind), loss.reason, signed(loss.count)])?;
            }
            for gap in &row.gaps {
                write_gap(conn, number(at), gap)?;
            }
        }
        Ok(())
    }

    /// Whether the file shows this transaction, after its commit was reported as failed: with an appended record there, or
    /// a removed one gone. One that shows neither only set values, and can be repeated.
    pub(crate) fn happened(&self, conn: &Connection) -> Result<bool, rusqlite::Error> {
        let there = |lane: Lane, id: u64| -> Result<bool, rusqlite::Error> {
            let mut statement = conn.prepare_cached(&format!("SELECT 1 FROM {} WHERE id = ?1", table(lane)))?;
            Ok(statement.query_row([signed(id)], |_| Ok(())).optional()?.is_some())
        };
        if let Some((lane, id)) = self.first {
            return there(lane, id);
        }
        let gone = self.removals.first().map(|removal| (removal.lane, removal.id)).or(self.dropped);
        match gone {
            Some((lane, id)) => Ok(!there(lane, id)?),
            None => Ok(false),
        }
    }

    /// Gives back to the desk what was claimed.
    pub(crate) fn unclaim(&self, shared: &Shared, shares: &mut Shares) {
        for (lane, from, to) in &self.swept {
            shares.take(*lane, *from, *to);
        }
        if self.claims.is_empty() && self.strikes.is_empty() {
            return;
        }
        let mut desk = shared.desk();
        for (lane, cursor) in self.claims.iter().rev() {
            desk.unclaim(*lane, *cursor);
        }
        for (lane, end) in &self.strikes {
            desk.unstrike(*lane, *end);
        }
        desk.lift();
        drop(desk);
        shared.arrived();
    }
}

/// Where records lie that nobody has leased, lane by lane.
fn unleased(shared: &Shared, lanes: [Lane; 3]) -> Vec<(Lane, u64, u64)> {
    let desk = shared.desk();
    lanes.into_iter().flat_map(|lane| desk.unleased(lane).into_iter().map(move |(from, to)| (lane, from, to))).collect()
}

fn write_gap(conn: &Connection, device: i64, gap: &Gap) -> Result<(), rusqlite::Error> {
    if gap.count == 0 {
        let mut statement = conn.prepare_cached("DELETE FROM gaps WHERE device = ?1 AND kind = ?2 AND reason = ?3")?;
        statement.execute(params![device, kind(gap.kind), gap.reason])?;
        return Ok(());
    }
    let mut statement = conn.prepare_cached(
        "INSERT OR REPLACE INTO gaps(device, kind, reason, count, first, last) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    let (first, last) = (signed(gap.first.0), signed(gap.last.0));
    statement.execute(params![device, kind(gap.kind), gap.reason, signed(gap.count), first, last])?;
    Ok(())
}

pub(crate) fn candidate(row: &rusqlite::Row<'_>) -> Result<Option<Candidate>, rusqlite::Error> {
    let Some(at) = index(row.get(1)?) else { return Ok(None) };
    let bytes: Option<i64> = row.get(2)?;
    let bytes = usize::try_from(bytes.unwrap_or(0)).unwrap_or(0);
    let time = UnixMillis(unsigned(row.get(4)?));
    Ok(Some(Candidate { id: unsigned(row.get(0)?), row: at, bytes, time }))
}

/// Deletes `ids`, ascending, run by run: one statement per run of neighbours.
fn delete(conn: &Connection, lane: Lane, ids: impl Iterator<Item = u64>) -> Result<(), rusqlite::Error> {
    let mut statement = conn.prepare_cached(&format!("DELETE FROM {} WHERE id BETWEEN ?1 AND ?2", table(lane)))?;
    let mut run: Option<(u64, u64)> = None;
    for id in ids {
        run = match run {
            Some((first, last)) if id == last + 1 => Some((first, id)),
            Some((first, last)) => {
                statement.execute([signed(first), signed(last)])?;
                Some((id, id))
            }
            None => Some((id, id)),
        };
    }
    if let Some((first, last)) = run {
        statement.execute([signed(first), signed(last)])?;
    }
    Ok(())
}
