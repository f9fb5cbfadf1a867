//! The read path: records from disk for the consumers, tables for whoever starts.

use bytes::Bytes;
use fieldgate_types::{DeviceId, UnixMillis};
use rusqlite::{Connection, Row};

use crate::desk::{Exit, Removal, Stretch};
use crate::entry::Entry;
use crate::ledger::Ledger;
use crate::record::{Lane, Pairs};
use crate::schema::{index, table};
use crate::sqlite::{failure, signed, unsigned};
use crate::stats::LossKind;

/// Why a record is quarantined that is not what was written: its checksum is wrong, or a part of it is of no use.
pub(crate) const BAD_CRC: &str = "bad-crc";
pub(crate) const UNREADABLE: &str = "unreadable";

/// One read: short, since commits wait meanwhile, and bounded in memory.
const READ_RECORDS: usize = 2048;
const READ_BYTES: usize = 1 << 20;

/// What lay on disk.
#[derive(Debug)]
pub(crate) struct Read {
    pub entries: Vec<Entry>,
    /// Records that can't be trusted.
    pub bad: Vec<Removal>,
    /// Everything below this was read.
    pub to: u64,
}

/// Reads the next records of `stretch`.
pub(crate) fn read(conn: &Connection, ledger: &Ledger, stretch: Stretch) -> Result<Read, rusqlite::Error> {
    let sql = format!("{} WHERE id >= ?1 AND id < ?2 ORDER BY id", select(stretch.lane));
    let mut statement = conn.prepare_cached(&sql)?;
    let mut rows = statement.query([signed(stretch.from), signed(stretch.to)])?;
    let mut read = Read { entries: Vec::new(), bad: Vec::new(), to: stretch.to };
    let (mut count, mut bytes) = (0, 0);
    while let Some(row) = rows.next()? {
        let id = unsigned(row.get(0)?);
        count += 1;
        match decode(row, id, stretch.lane, |number| known(ledger, number))? {
            Ok(entry) => {
                bytes += entry.bytes();
                read.entries.push(entry);
            }
            Err(bad) => read.bad.push(bad),
        }
        if count >= READ_RECORDS || bytes >= READ_BYTES {
            read.to = id + 1;
            break;
        }
    }
    Ok(read)
}

/// A device by its number in the file.
fn known(ledger: &Ledger, number: i64) -> Option<(usize, &DeviceId)> {
    let at = index(number)?;
    ledger.device(at).map(|device| (at, device))
}

/// The columns that [`decode`] reads.
pub(crate) fn select(lane: Lane) -> String {
    let table = table(lane);
    format!("SELECT id, device, boot, seq, time, expires, born, deadline, continues, crc, body FROM {table}")
}

/// `Err` inside: the row is there but not what was written.
pub(crate) fn decode<'a>(
    row: &Row<'_>,
    id: u64,
    lane: Lane,
    device: impl Fn(i64) -> Option<(usize, &'a DeviceId)>,
) -> Result<Result<Entry, Removal>, rusqlite::Error> {
    let Some((at, device)) = row.get_ref(1)?.as_i64().ok().and_then(device) else {
        return Err(failure(rusqlite::ffi::SQLITE_CORRUPT, "a record belongs to no device"));
    };
    let body = row.get_ref(10)?.as_blob().unwrap_or_default();
    let bad = |reason: &'static str| Removal {
        id,
        lane,
        row: at,
        bytes: body.len(),
        time: UnixMillis(0),
        exit: Exit::Lost(LossKind::Quarantined, reason),
    };
    let number = |column: usize| row.get_ref(column).ok().and_then(|value| value.as_i64().ok()).map(unsigned);
    let (Some(boot), Some(seq), Some(time), Some(born), Some(continues), Some(crc)) =
        (number(2), number(3), number(4), number(6), number(8), number(9))
    else {
        return Ok(Err(bad(UNREADABLE)));
    };
    let entry = Entry {
        id,
        lane,
        row: at,
        device: device.clone(),
        boot,
        seq,
        time: UnixMillis(time),
        expires: number(5).map(UnixMillis),
        born,
        deadline: number(7),
        continues: continues != 0,
        body: Bytes::copy_from_slice(body),
    };
    Ok(if u64::from(entry.checksum()) == crc { Ok(entry) } else { Err(bad(BAD_CRC)) })
}

/// Counts the records that the counters in the file don't know: ids count all that was ever received.
pub(crate) fn recount(conn: &Connection, ledger: &mut Ledger) -> Result<(), rusqlite::Error> {
    let counted = ledger.given();
    for lane in Lane::ALL {
        let mut statement = conn.prepare(&format!("{} WHERE id > ?1 ORDER BY id", select(lane)))?;
        let mut rows = statement.query([signed(counted)])?;
        while let Some(row) = rows.next()? {
            match decode(row, unsigned(row.get(0)?), lane, |number| known(ledger, number))? {
                Ok(entry) => ledger.recount(entry.row, Some((entry.boot, entry.seq)), entry.body.len()),
                // Quarantined when it is read for a consumer.
                Err(bad) => ledger.recount(bad.row, None, bad.bytes),
            }
        }
    }
    Ok(())
}

/// A small table, sorted by key.
pub(crate) fn scan(conn: &Connection, name: &str) -> Result<Pairs, rusqlite::Error> {
    let mut statement = conn.prepare_cached("SELECT key, value FROM small WHERE name = ?1 ORDER BY key")?;
    let rows = statement.query_map([name], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

/// Reception time of the oldest record on disk.
pub(crate) fn oldest(conn: &Connection) -> Result<Option<UnixMillis>, rusqlite::Error> {
    let mut oldest: Option<UnixMillis> = None;
    for lane in Lane::ALL {
        let mut statement = conn.prepare_cached(&format!("SELECT time FROM {} ORDER BY id LIMIT 1", table(lane)))?;
        let mut rows = statement.query([])?;
        if let Some(row) = rows.next()? {
            let time = UnixMillis(unsigned(row.get(0)?));
            oldest = Some(oldest.map_or(time, |oldest| oldest.min(time)));
        }
    }
    Ok(oldest)
}
