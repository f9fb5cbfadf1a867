//! The tables of queue.db, and reading them at the start.
//!
//! One table of records per lane: a lane is read and emptied from its low end by row id alone, without a second
//! index to write.

use std::borrow::Cow;

use fieldgate_types::{DeviceId, UnixMillis};
use rusqlite::{Connection, OptionalExtension};

use crate::age::Saved;
use crate::ledger::Row;
use crate::record::Lane;
use crate::sqlite::{failure, format, signed, unsigned};
use crate::stats::{Gap, Loss, LossKind};

/// Format that this program writes. Rises with every change that an older program can't read.
///
/// 2: the counters of `devices` may be behind the records (module `ledger`); `gaps`; `clock.base`; `devices.crc`, null where format 1
/// wrote the counters last.
pub(crate) const FORMAT: i64 = 2;

/// More than a gateway ever counts: such a figure is damage.
pub(crate) const ABSURD: u64 = 1 << 48;

const TABLES: &str = "
CREATE TABLE clock(id INTEGER PRIMARY KEY CHECK (id = 1), running INTEGER NOT NULL, wall INTEGER NOT NULL);
CREATE TABLE devices(id INTEGER PRIMARY KEY, name TEXT NOT NULL, boot INTEGER NOT NULL, seq INTEGER NOT NULL,
    received INTEGER NOT NULL, delivered INTEGER NOT NULL, bytes INTEGER NOT NULL);
CREATE TABLE losses(device INTEGER NOT NULL, kind INTEGER NOT NULL, reason TEXT NOT NULL, count INTEGER NOT NULL,
    PRIMARY KEY (device, kind, reason)) WITHOUT ROWID;
CREATE TABLE quarantine(id INTEGER PRIMARY KEY, lane INTEGER NOT NULL, device INTEGER NOT NULL, boot INTEGER NOT NULL,
    seq INTEGER NOT NULL, time INTEGER NOT NULL, expires INTEGER, reason TEXT NOT NULL, since INTEGER NOT NULL,
    body BLOB NOT NULL);
CREATE TABLE small(name TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY (name, key)) WITHOUT ROWID;
";

/// What format 2 added.
const SECOND: &str = "
CREATE TABLE gaps(device INTEGER NOT NULL, kind INTEGER NOT NULL, reason TEXT NOT NULL, count INTEGER NOT NULL,
    first INTEGER NOT NULL, last INTEGER NOT NULL, PRIMARY KEY (device, kind, reason)) WITHOUT ROWID;
ALTER TABLE devices ADD COLUMN crc INTEGER;
ALTER TABLE clock ADD COLUMN base INTEGER NOT NULL DEFAULT 0;
";

/// The table of a lane's records.
pub(crate) fn table(lane: Lane) -> &'static str {
    match lane {
        Lane::Priority => "lane_0",
        Lane::Live => "lane_1",
        Lane::History => "lane_2",
    }
}

/// Creates the tables in an empty file, or brings an older one to the present format, in one transaction.
/// `Err(found)` inside: a newer program wrote it.
pub(crate) fn prepare(conn: &Connection) -> Result<Result<(), i64>, rusqlite::Error> {
    let found = format(conn)?;
    if found > FORMAT {
        return Ok(Err(found));
    }
    if found == FORMAT {
        return Ok(Ok(()));
    }
    let mut sql = String::from("BEGIN IMMEDIATE;");
    if found < 1 {
        sql.push_str(&first());
    }
    sql.push_str(SECOND);
    sql.push_str("PRAGMA user_version = 2; COMMIT;");
    conn.execute_batch(&sql)?;
    Ok(Ok(()))
}

/// The tables of format 1.
fn first() -> String {
    let mut sql = String::from(TABLES);
    for lane in Lane::ALL {
        sql.push_str("CREATE TABLE ");
        sql.push_str(table(lane));
        sql.push_str(
            "(id INTEGER PRIMARY KEY, device INTEGER NOT NULL, boot INTEGER NOT NULL, seq INTEGER NOT NULL,
              time INTEGER NOT NULL, expires INTEGER, born INTEGER NOT NULL, deadline INTEGER,
              continues INTEGER NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL);",
        );
    }
    sql
}

/// What is known after the start.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub rows: Vec<Row>,
    pub clock: Option<Saved>,
    /// Ids given that no counter knows: what was salvaged from a damaged file.
    pub base: u64,
    /// Highest record id in any lane or in quarantine.
    pub newest_id: u64,
    /// Reception time of the oldest record.
    pub oldest: Option<UnixMillis>,
    /// Latest birth.
    pub newest_born: u64,
}

/// Reads all but the records. A row that makes no sense is damage.
pub(crate) fn load(conn: &Connection) -> Result<Loaded, rusqlite::Error> {
    let rows = devices(conn)?;
    let clock = conn
        .query_row("SELECT running, wall, base FROM clock", [], |row| {
            let saved = Saved { running: unsigned(row.get(0)?), wall: unsigned(row.get(1)?) };
            Ok((saved, unsigned(row.get(2)?)))
        })
        .optional()?;
    let base = clock.map_or(0, |(_, base)| base);
    let clock = clock.map(|(saved, _)| saved);
    let newest: Option<i64> = conn.query_row("SELECT max(id) FROM quarantine", [], |row| row.get(0))?;
    let mut loaded = Loaded {
        rows,
        clock,
        base,
        newest_id: unsigned(newest.unwrap_or(0)),
        oldest: crate::reading::oldest(conn)?,
        newest_born: 0,
    };
    for lane in Lane::ALL {
        let sql = format!("SELECT id, born FROM {} ORDER BY id DESC LIMIT 1", table(lane));
        let newest = conn.query_row(&sql, [], |row| Ok((unsigned(row.get(0)?), unsigned(row.get(1)?)))).optional()?;
        if let Some((id, born)) = newest {
            loaded.newest_id = loaded.newest_id.max(id);
            loaded.newest_born = loaded.newest_born.max(born);
        }
    }
    if loaded.newest_id > ABSURD || loaded.base > ABSURD {
        return Err(damage("an id is impossibly high"));
    }
    Ok(loaded)
}

fn devices(conn: &Connection) -> Result<Vec<Row>, rusqlite::Error> {
    let mut rows: Vec<Row> = Vec::new();
    let mut checksums: Vec<Option<u32>> = Vec::new();
    let mut statement =
        conn.prepare("SELECT id, name, boot, seq, received, delivered, bytes, crc FROM devices ORDER BY id")?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let name: String = row.get(1)?;
        let device = DeviceId::new(&name).map_err(|_| damage("a device has an impossible name"))?;
        if row.get::<_, i64>(0)? != number(rows.len()) {
            return Err(damage("the devices are not numbered in order"));
        }
        rows.push(Row {
            boot: unsigned(row.get(2)?),
            seq: unsigned(row.get(3)?),
            received: unsigned(row.get(4)?),
            delivered: unsigned(row.get(5)?),
            bytes: unsigned(row.get(6)?),
            ..Row::new(device)
        });
        checksums.push(row.get(7)?);
        let absurd =
            |row: &Row| [row.boot, row.seq, row.received, row.delivered, row.bytes].iter().any(|n| *n > ABSURD);
        if rows.last().is_some_and(absurd) {
            return Err(damage("a counter is impossibly high"));
        }
    }
    let mut statement = conn.prepare("SELECT device, kind, reason, count FROM losses")?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let Some(kind) = kind_of(row.get(1)?) else {
            return Err(damage("a loss has an impossible kind"));
        };
        let device = index(row.get(0)?);
        let reason = Cow::Owned(row.get::<_, String>(2)?);
        let loss = Loss { kind, reason, count: unsigned(row.get(3)?) };
        match device.and_then(|device| rows.get_mut(device)) {
            Some(row) => row.losses.push(loss),
            None => return Err(damage("a loss of no device")),
        }
    }
    gaps(conn, &mut rows)?;
    let wrong = |(row, crc): (&Row, &Option<u32>)| crc.is_some_and(|crc| crc != row.checksum());
    if rows.iter().zip(&checksums).any(wrong) {
        return Err(damage("the counters of a device are not what was written"));
    }
    Ok(rows)
}

fn gaps(conn: &Connection, rows: &mut [Row]) -> Result<(), rusqlite::Error> {
    let mut statement = conn.prepare("SELECT device, kind, reason, count, first, last FROM gaps")?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let known = index(row.get(0)?).and_then(|at| rows.get_mut(at));
        let Some(known) = known else { return Err(damage("a gap of no device")) };
        match gap(row, &known.device)? {
            Some(gap) => known.gaps.push(gap),
            None => return Err(damage("a gap has an impossible kind")),
        }
    }
    Ok(())
}

/// A row of `gaps`; `None`: of no kind that there is.
pub(crate) fn gap(row: &rusqlite::Row<'_>, device: &DeviceId) -> Result<Option<Gap>, rusqlite::Error> {
    let Some(kind) = kind_of(row.get(1)?) else { return Ok(None) };
    let reason = Cow::Owned(row.get::<_, String>(2)?);
    let count = unsigned(row.get(3)?);
    let (first, last) = (UnixMillis(unsigned(row.get(4)?)), UnixMillis(unsigned(row.get(5)?)));
    Ok(Some(Gap { device: device.clone(), kind, reason, count, first, last }))
}

/// Number of a ledger row in the file: from 1.
pub(crate) fn number(row: usize) -> i64 {
    signed(row as u64 + 1)
}

/// Ledger row of a number in the file.
pub(crate) fn index(number: i64) -> Option<usize> {
    usize::try_from(number).ok()?.checked_sub(1)
}

/// The kind of a number in the file.
pub(crate) fn kind_of(number: i64) -> Option<LossKind> {
    [LossKind::Expired, LossKind::Evicted, LossKind::Quarantined].into_iter().find(|known| kind(*known) == number)
}

/// Kind of a loss in the file.
pub(crate) fn kind(kind: LossKind) -> i64 {
    match kind {
        LossKind::Expired => 0,
        LossKind::Evicted => 1,
        LossKind::Quarantined => 2,
    }
}

fn damage(text: &str) -> rusqlite::Error {
    failure(rusqlite::ffi::SQLITE_CORRUPT, text)
}
