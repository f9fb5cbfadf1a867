//! Records out of a damaged file that was set aside.
//!
//! The counters and the small tables are taken over before the queue opens. The records follow in slices between
//! transactions, each under its old id, so that every lane keeps its commit order. Until the last of them is there nothing
//! can be leased: what is committed meanwhile is newer, and must not overtake. A record is taken only when its CRC32C is
//! right, and none that had left. What the file held counts as quarantined for `damaged-file` from the beginning, and each
//! record that is brought back counts as waiting again, so the sums hold at every moment.
//!
//! The tree of a damaged file is walked with steps: where a read fails, the next one begins some ids later. The file set
//! aside is not changed, but for its first hundred bytes where these are no header of a database.

use std::collections::{HashMap, HashSet};
use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use fieldgate_types::DeviceId;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension, params};

use crate::age::Saved;
use crate::desk::Rest;
use crate::entry::Entry;
use crate::ledger::Row;
use crate::reading;
use crate::record::Lane;
use crate::schema::{ABSURD, gap, kind_of};
use crate::sqlite::{signed, unsigned};
use crate::stats::Loss;

/// One slice: short, since commits wait meanwhile.
const SLICE_RECORDS: usize = 2048;
const SLICE_BYTES: usize = 1 << 20;
/// Steps over what can't be read: a page of small records first, a small part of a branch at most.
const STEP_MIN: u64 = 8;
const STEP_MAX: u64 = 1024;
/// Reads in one slice, good or bad: a file full of holes keeps nobody waiting either.
const READS: usize = 64;
/// SQLite's header, at the beginning of the file.
const HEADER: usize = 100;

/// A damaged file on its way into a fresh one.
#[derive(Debug)]
pub(crate) struct Salvage {
    conn: Connection,
    /// Row of the ledger by number in the old file.
    devices: HashMap<i64, (usize, DeviceId)>,
    rest: Rest,
    /// Ids from here on are not its own.
    to: u64,
    lanes: Vec<Lane>,
    from: u64,
    step: u64,
    /// Read and not yet committed.
    pub slice: Vec<Entry>,
    /// Brought back so far.
    pub saved: u64,
}

/// What a damaged file told besides its records.
#[derive(Debug, Default)]
pub(crate) struct Rescued {
    pub rows: Vec<Row>,
    pub clock: Option<Saved>,
    pub pairs: Vec<(String, Vec<u8>, Vec<u8>)>,
    /// No id in the file is above it, as far as can be known.
    pub newest_id: u64,
    numbers: Vec<i64>,
    checksums: Vec<Option<u32>>,
}

impl Rescued {
    /// Ledger rows by their numbers in the old file.
    pub(crate) fn devices(&self) -> HashMap<i64, (usize, DeviceId)> {
        let rows = self.rows.iter().map(|row| row.device.clone()).enumerate();
        self.numbers.iter().copied().zip(rows).collect()
    }
}

/// Opens a file that was set aside; `fresh` lends its header where the old one has none.
pub(crate) fn open(kept: &Path, fresh: &Path) -> Result<Connection, Box<dyn std::error::Error>> {
    lend_header(kept, fresh)?;
    let conn = Connection::open(kept)?;
    conn.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    conn.pragma_update(None, "cell_size_check", true)?;
    conn.pragma_update(None, "wal_autocheckpoint", 0)?;
    conn.pragma_update(None, "query_only", true)?;
    // The log stays as it was found.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(conn)
}

fn lend_header(kept: &Path, fresh: &Path) -> std::io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(kept)?;
    let mut beginning = [0; HEADER + 1];
    if file.metadata()?.len() < 512 {
        return Ok(());
    }
    file.read_exact(&mut beginning)?;
    // A page of a tree begins behind the header; else this never was a database.
    let tree = matches!(beginning.last(), Some(5 | 13));
    if beginning.starts_with(b"SQLite format 3\0") || !tree {
        return Ok(());
    }
    let mut header = [0; HEADER];
    std::fs::File::open(fresh)?.read_exact(&mut header)?;
    // Its number of pages and its list of free ones are not this file's: zero means that the size of the file counts.
    for at in 28..40 {
        if let Some(byte) = header.get_mut(at) {
            *byte = 0;
        }
    }
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&header)
}

/// Everything but the records, as far as it can be read.
pub(crate) fn rescue(conn: &Connection) -> Rescued {
    let mut rescued = Rescued::default();
    let found = devices(conn, &mut rescued);
    let found = found.and_then(|()| losses(conn, &mut rescued));
    let found = found.and_then(|()| gaps(conn, &mut rescued));
    let found = found.and_then(|()| clock(conn, &mut rescued));
    let found = found.and_then(|()| small(conn, &mut rescued));
    if let Err(error) = found {
        tracing::warn!(%error, "a part of the damaged queue's tables is lost");
    }
    for (row, crc) in rescued.rows.iter_mut().zip(&rescued.checksums) {
        // Figures that can't be right are made to add up: the records that are found count anew.
        if crc.is_some_and(|crc| crc != row.checksum()) {
            row.losses.clear();
            (row.boot, row.seq, row.received, row.delivered) = (0, 0, 0, 0);
        }
        let left: u64 = row.losses.iter().map(|loss| loss.count).sum::<u64>().saturating_add(row.delivered);
        row.received = row.received.max(left);
        row.bytes = 0;
    }
    for table in ["lane_0", "lane_1", "lane_2", "quarantine"] {
        let newest = conn.query_row(&format!("SELECT max(id) FROM {table}"), [], |row| row.get::<_, Option<i64>>(0));
        let newest = unsigned(newest.ok().flatten().unwrap_or(0));
        rescued.newest_id = rescued.newest_id.max(if newest > ABSURD { 0 } else { newest });
    }
    rescued
}

fn devices(conn: &Connection, rescued: &mut Rescued) -> Result<(), rusqlite::Error> {
    let mut statement = conn.prepare(
        "SELECT id, name, boot, seq, received, delivered, bytes, crc FROM devices WHERE id >= ?1 ORDER BY id LIMIT 1",
    )?;
    let (mut from, mut failures) = (1_i64, 0);
    // Numbers begin at 1 and have no gaps.
    while failures < 4096 {
        let found = statement.query_row([from], |row| {
            let number: i64 = row.get(0)?;
            let name: String = row.get(1)?;
            let count = |column| Ok::<u64, rusqlite::Error>(unsigned(row.get(column)?));
            Ok((number, name, [count(2)?, count(3)?, count(4)?, count(5)?, count(6)?], row.get(7)?))
        });
        match found {
            Ok((number, name, counts, crc)) if number >= from => {
                from = number + 1;
                let [boot, seq, received, delivered, bytes] = counts;
                let known = |device: &DeviceId| rescued.rows.iter().any(|row| row.device == *device);
                let Some(device) = DeviceId::new(&name).ok().filter(|device| !known(device)) else { continue };
                if counts.iter().any(|count| *count > ABSURD) {
                    continue;
                }
                rescued.numbers.push(number);
                rescued.checksums.push(crc);
                let (losses, gaps) = (Vec::new(), Vec::new());
                rescued.rows.push(Row { boot, seq, received, delivered, bytes, losses, gaps, ..Row::new(device) });
            }
            Err(rusqlite::Error::QueryReturnedNoRows) => return Ok(()),
            Ok(_) | Err(_) => {
                from += 1;
                failures += 1;
            }
        }
    }
    Ok(())
}

fn losses(conn: &Connection, rescued: &mut Rescued) -> Result<(), rusqlite::Error> {
    let at: HashMap<i64, usize> = rescued.numbers.iter().copied().zip(0..).collect();
    let mut statement = conn.prepare("SELECT device, kind, reason, count FROM losses")?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let (Ok(number), Ok(kind), Ok(reason), Ok(count)) =
            (row.get::<_, i64>(0), row.get(1), row.get::<_, String>(2), row.get(3))
        else {
            continue;
        };
        let count = unsigned(count);
        let device = at.get(&number).and_then(|at| rescued.rows.get_mut(*at));
        if let (Some(row), Some(kind)) = (device, kind_of(kind))
            && count <= ABSURD
        {
            row.losses.push(Loss { kind, reason: reason.into(), count });
        }
    }
    Ok(())
}

fn gaps(conn: &Connection, rescued: &mut Rescued) -> Result<(), rusqlite::Error> {
    let at: HashMap<i64, usize> = rescued.numbers.iter().copied().zip(0..).collect();
    let mut statement = conn.prepare("SELECT device, kind, reason, count, first, last FROM gaps")?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let device = row.get(0).ok().and_then(|number: i64| at.get(&number)).copied();
        let Some(known) = device.and_then(|at| rescued.rows.get_mut(at)) else { continue };
        if let Ok(gap) = gap(row, &known.device) {
            known.gaps.extend(gap.filter(|gap| gap.count <= ABSURD));
        }
    }
    Ok(())
}

fn clock(conn: &Connection, rescued: &mut Rescued) -> Result<(), rusqlite::Error> {
    let saved = |row: &rusqlite::Row<'_>| Ok(Saved { running: unsigned(row.get(0)?), wall: unsigned(row.get(1)?) });
    rescued.clock = conn.query_row("SELECT running, wall FROM clock", [], saved).optional()?;
    Ok(())
}

fn small(conn: &Connection, rescued: &mut Rescued) -> Result<(), rusqlite::Error> {
    let mut seen = HashSet::new();
    let mut failed = None;
    // From both ends, up to the damage.
    for order in ["", " DESC"] {
        let mut statement =
            conn.prepare(&format!("SELECT name, key, value FROM small ORDER BY name{order}, key{order}"))?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?)))?;
        failed = None;
        for row in rows {
            match row {
                Ok((name, key, value)) => {
                    let key: Vec<u8> = key;
                    if seen.insert((name.clone(), key.clone())) {
                        rescued.pairs.push((name, key, value));
                    }
                }
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        if failed.is_none() {
            break;
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Puts what was rescued into the fresh file, inside the caller's transaction.
pub(crate) fn put_pairs(conn: &Connection, rescued: &Rescued) -> Result<(), rusqlite::Error> {
    let mut statement = conn.prepare("INSERT OR REPLACE INTO small(name, key, value) VALUES (?1, ?2, ?3)")?;
    for (name, key, value) in &rescued.pairs {
        statement.execute(params![name, key, value])?;
    }
    Ok(())
}

impl Salvage {
    /// Records below `to` that are of the `rest`.
    pub(crate) fn new(conn: Connection, devices: HashMap<i64, (usize, DeviceId)>, rest: Rest, to: u64) -> Self {
        let lanes = Lane::ALL.into_iter().rev().collect();
        Self { conn, devices, rest, to, lanes, from: 0, step: STEP_MIN, slice: Vec::new(), saved: 0 }
    }

    /// Reads the next slice, unless one is there. `false`: that was all.
    pub(crate) fn read(&mut self) -> bool {
        let mut bytes = 0;
        for _ in 0..READS {
            if !self.slice.is_empty() {
                return true;
            }
            let Some(lane) = self.lanes.last().copied() else { return false };
            let failed = self.stretch(lane, &mut bytes).is_err();
            if failed {
                self.from = self.from.saturating_add(self.step);
                self.step = (self.step * 2).min(STEP_MAX);
            } else {
                self.step = STEP_MIN;
            }
            if self.from >= self.to {
                self.lanes.pop();
                (self.from, self.step) = (0, STEP_MIN);
            }
        }
        true
    }

    fn stretch(&mut self, lane: Lane, bytes: &mut usize) -> Result<(), rusqlite::Error> {
        let sql = format!("{} WHERE id >= ?1 AND id < ?2 ORDER BY id", reading::select(lane));
        let mut statement = self.conn.prepare_cached(&sql)?;
        let mut rows = statement.query([signed(self.from), signed(self.to)])?;
        let mut read = 0;
        while let Some(row) = rows.next()? {
            let id = unsigned(row.get(0)?);
            if id < self.from {
                return Err(crate::sqlite::failure(rusqlite::ffi::SQLITE_CORRUPT, "ids that don't ascend"));
            }
            self.from = id + 1;
            read += 1;
            let device = |number: i64| self.devices.get(&number).map(|(at, device)| (*at, device));
            if let Ok(Ok(entry)) = reading::decode(row, id, lane, device)
                && self.rest.has(lane, id)
            {
                *bytes += entry.bytes();
                self.slice.push(entry);
            }
            if read >= SLICE_RECORDS || *bytes >= SLICE_BYTES {
                return Ok(());
            }
        }
        // The end of the lane.
        self.from = self.to;
        Ok(())
    }

    /// Stops where it stands: what is not back by now stays quarantined.
    pub(crate) fn stop(&mut self) {
        self.lanes.clear();
        self.slice.clear();
    }
}
