//! Records as rows of the lanes. Many go with one statement: its begin and its end, and the way to the place where rows are
//! appended, cost as much as a row.

use rusqlite::{CachedStatement, Connection};

use crate::entry::Entry;
use crate::record::Lane;
use crate::schema::{number, table};
use crate::sqlite::signed;

/// Rows of one statement, where there are so many.
const MANY: usize = 8;

/// Writes `entries` under their ids; a row that has one of them already gives way.
pub(crate) fn insert(conn: &Connection, entries: &[Entry]) -> Result<(), rusqlite::Error> {
    for run in entries.chunk_by(|one, next| one.lane == next.lane) {
        let Some(lane) = run.first().map(|entry| entry.lane) else { continue };
        let (many, single) = run.split_at(run.len() / MANY * MANY);
        for (rows, entries) in [(MANY, many), (1, single)] {
            if entries.is_empty() {
                continue;
            }
            let mut statement = conn.prepare_cached(&statement(lane, rows))?;
            for entries in entries.chunks(rows) {
                let mut place = 0;
                for entry in entries {
                    place = bind(&mut statement, place, entry)?;
                }
                statement.raw_execute()?;
            }
        }
    }
    Ok(())
}

fn statement(lane: Lane, rows: usize) -> String {
    let row = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    format!("INSERT OR REPLACE INTO {} VALUES {}", table(lane), vec![row; rows].join(", "))
}

/// The columns in their order, behind the parameter `place`; the last one's place.
fn bind(statement: &mut CachedStatement<'_>, place: usize, entry: &Entry) -> Result<usize, rusqlite::Error> {
    let mut place = place;
    let mut next = || {
        place += 1;
        place
    };
    statement.raw_bind_parameter(next(), signed(entry.id))?;
    statement.raw_bind_parameter(next(), number(entry.row))?;
    statement.raw_bind_parameter(next(), signed(entry.boot))?;
    statement.raw_bind_parameter(next(), signed(entry.seq))?;
    statement.raw_bind_parameter(next(), signed(entry.time.0))?;
    statement.raw_bind_parameter(next(), entry.expires.map(|expires| signed(expires.0)))?;
    statement.raw_bind_parameter(next(), signed(entry.born))?;
    statement.raw_bind_parameter(next(), entry.deadline.map(signed))?;
    statement.raw_bind_parameter(next(), entry.continues)?;
    statement.raw_bind_parameter(next(), entry.checksum())?;
    statement.raw_bind_parameter(next(), &*entry.body)?;
    Ok(place)
}
