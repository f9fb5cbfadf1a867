//! A stretch of a lane, gone over for devices that give way: which of its records may go, and writing anew what stays.
//!
//! A lane is one run of ids on pages that hold records of all devices. Taking one device's rows out leaves holes that no
//! later record fills, and no room at all below about half of the rows. So the others' rows are taken out too and put back
//! behind each other, under their own ids, in the same transaction (`docs/decisions/0019-device-shares.md`).

use fieldgate_types::Percent;
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use crate::attempt::candidate;
use crate::desk::Candidate;
use crate::record::{Lane, RECORD_OVERHEAD};
use crate::schema::table;
use crate::sqlite::{signed, unsigned};

/// Columns of a lane.
const COLUMNS: usize = 11;

/// What lies there.
#[derive(Debug, Default)]
pub(crate) struct Swath {
    /// Records of batches that are wholly of the devices asked for, ascending.
    pub candidates: Vec<Candidate>,
    /// The first record that stays.
    pub spared: Option<u64>,
    /// Everything below was gone over.
    pub to: u64,
    /// What it all takes, and the candidates' part of it.
    pub bytes: (usize, usize),
}

impl Swath {
    /// Goes over whole batches of `lane` from `from` on, `most` bytes of them, and nothing at or beyond `until`. `None`: there
    /// is nothing, and no end of it is known.
    pub(crate) fn read(
        conn: &Connection,
        lane: Lane,
        (from, until): (u64, u64),
        most: usize,
        gives_way: impl Fn(usize) -> bool,
    ) -> Result<Option<Self>, rusqlite::Error> {
        let mut statement = conn.prepare_cached(&format!(
            "SELECT id, device, length(body), continues, time FROM {} WHERE id >= ?1 AND id < ?2 ORDER BY id",
            table(lane)
        ))?;
        let end = i64::MAX.unsigned_abs();
        let mut rows = statement.query([signed(from), signed(until.min(end))])?;
        let mut swath = Self { to: until, ..Self::default() };
        // Of the batch in hand: its first record, its last one, its candidates, whether all of it may go.
        let (mut begin, mut last, mut whole) = (None, None, true);
        let mut batch: Vec<Candidate> = Vec::new();
        while let Some(row) = rows.next()? {
            let id = unsigned(row.get(0)?);
            // A batch lies in a lane under neighbouring ids; what is left of one whose beginning has gone is one of its own.
            let continues = row.get::<_, i64>(3)? != 0 && last == Some(id - 1);
            if !continues {
                swath.end(begin, &mut batch, whole);
                (begin, whole) = (Some(id), true);
                if swath.bytes.0 >= most {
                    swath.to = id;
                    return Ok(Some(swath));
                }
            }
            last = Some(id);
            let found = candidate(row)?;
            swath.bytes.0 += found.map_or(0, |found| found.bytes) + RECORD_OVERHEAD;
            whole &= found.is_some_and(|found| gives_way(found.row));
            batch.extend(found);
        }
        swath.end(begin, &mut batch, whole);
        if until >= end {
            let Some(last) = last else { return Ok(None) };
            swath.to = last + 1;
        }
        Ok(Some(swath))
    }

    fn end(&mut self, begin: Option<u64>, batch: &mut Vec<Candidate>, whole: bool) {
        if whole {
            self.bytes.1 += batch.iter().map(|candidate| candidate.bytes + RECORD_OVERHEAD).sum::<usize>();
            self.candidates.append(batch);
        } else {
            self.spared = self.spared.or(begin);
            batch.clear();
        }
    }

    /// Whether too little of it may go for all that would be written anew: less than a quarter of the `share`. Of a
    /// device that holds more than the share of everything, no more than that quarter can lie in such stretches.
    pub(crate) fn is_thin(&self, share: Percent) -> bool {
        let (all, some) = self.bytes;
        some * 400 < all * usize::from(share.hundredths())
    }
}

/// Takes the `candidates` off `lane`, and puts what lies between them behind each other. Bytes that were put back.
pub(crate) fn rewrite(conn: &Connection, lane: Lane, candidates: &[Candidate]) -> Result<usize, rusqlite::Error> {
    let (Some(first), Some(last)) = (candidates.first(), candidates.last()) else { return Ok(0) };
    let ends = [signed(first.id), signed(last.id)];
    let table = table(lane);
    let mut spared: Vec<Value> = Vec::new();
    let mut bytes = 0;
    {
        let mut statement =
            conn.prepare_cached(&format!("SELECT * FROM {table} WHERE id BETWEEN ?1 AND ?2 ORDER BY id"))?;
        let mut rows = statement.query(ends)?;
        let mut gone = candidates.iter().map(|candidate| candidate.id).peekable();
        while let Some(row) = rows.next()? {
            let id = unsigned(row.get(0)?);
            while gone.next_if(|gone| *gone < id).is_some() {}
            if gone.peek() == Some(&id) {
                continue;
            }
            for column in 0..COLUMNS {
                spared.push(row.get(column)?);
            }
            if let Some(Value::Blob(body)) = spared.last() {
                bytes += body.len();
            }
            bytes += RECORD_OVERHEAD;
        }
    }
    conn.prepare_cached(&format!("DELETE FROM {table} WHERE id BETWEEN ?1 AND ?2"))?.execute(ends)?;
    let mut insert =
        conn.prepare_cached(&format!("INSERT INTO {table} VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)"))?;
    for row in spared.chunks_exact(COLUMNS) {
        insert.execute(params_from_iter(row))?;
    }
    Ok(bytes)
}
