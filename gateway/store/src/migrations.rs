//! The format of state.db, and the way there from every earlier one.
//!
//! `user_version` in the file's header is its format. An empty file has format 0. Step `n` makes format `n + 1` of
//! format `n`; steps are only ever added, at the end, and never changed, so that a file of any age finds its way. All that
//! are due run in one transaction together with the new number: a kill or a power cut leaves the old format or the new
//! one. A newer format is refused before anything is written.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use crate::OpenError;
use crate::sqlite::{self, at_open};

/// Makes the next format. Runs inside the one transaction, which it must not end.
pub(crate) type Step = fn(&Connection) -> Result<(), rusqlite::Error>;

/// Every format there ever was, oldest first.
pub(crate) const STEPS: [Step; 1] = [first];

fn first(conn: &Connection) -> Result<(), rusqlite::Error> {
    conn.execute_batch(
        "CREATE TABLE counters(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
         CREATE TABLE small(name TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY (name, key))
             WITHOUT ROWID;",
    )
}

/// Brings the file to the format after the last of `steps`; durable when this returns.
pub(crate) fn migrate(conn: &mut Connection, path: &Path, steps: &[Step]) -> Result<(), OpenError> {
    let known = steps.len();
    if standing(conn, path, known)? == known {
        return Ok(());
    }
    let failed = at_open(path);
    let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&failed)?;
    // Another process may have been faster.
    let found = standing(&transaction, path, known)?;
    if found == 0 && holds_tables(&transaction).map_err(&failed)? {
        return Err(OpenError::Foreign { path: path.to_owned() });
    }
    for (step, number) in steps.iter().zip(1_i64..).skip(found) {
        step(&transaction).map_err(&failed)?;
        transaction.pragma_update(None, "user_version", number).map_err(&failed)?;
    }
    transaction.commit().map_err(&failed)?;
    if found > 0 {
        tracing::info!(path = %path.display(), from = found, to = known, "state.db was brought to the present format");
    }
    Ok(())
}

/// How many of the steps the file has behind it.
fn standing(conn: &Connection, path: &Path, known: usize) -> Result<usize, OpenError> {
    let found = sqlite::format(conn).map_err(at_open(path))?;
    match usize::try_from(found) {
        Ok(standing) if standing <= known => Ok(standing),
        Ok(_) => {
            Err(OpenError::Newer { path: path.to_owned(), found, known: i64::try_from(known).unwrap_or(i64::MAX) })
        }
        Err(_) => Err(OpenError::Foreign { path: path.to_owned() }),
    }
}

fn holds_tables(conn: &Connection) -> Result<bool, rusqlite::Error> {
    conn.query_row("SELECT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0))
}
