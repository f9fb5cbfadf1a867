//! How both databases are opened, and how SQLite's errors are told apart.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};

use crate::OpenError;

/// Older versions can corrupt a write-ahead database when writer and checkpoint use two connections.
const OLDEST_SQLITE: i32 = 3_051_003;

/// The write-ahead log is cut back to this when it has grown beyond it.
const LOG_LIMIT: u64 = 4 << 20;

/// Whether other connections may look into the file meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Nobody: a passing `sqlite3` shell could hold the log open for long, or checkpoint with an older library.
    Exclusive,
    /// Others may read.
    Shared,
}

/// Opens `path` in write-ahead mode where each commit is synced.
pub(crate) fn open(path: &Path, sharing: Sharing) -> Result<Connection, rusqlite::Error> {
    let conn = Connection::open(path)?;
    conn.busy_timeout(Duration::from_secs(5))?;
    if sharing == Sharing::Exclusive {
        // Before the first access to the log: the index of the log then lives in memory, no -shm file is needed.
        conn.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    }
    let mode: String = conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if !mode.eq_ignore_ascii_case("wal") {
        return Err(failure(rusqlite::ffi::SQLITE_CANTOPEN, "the file system allows no write-ahead log"));
    }
    // FINDINGS: NORMAL lost committed rows in 20 of 60 power cuts, FULL none in 80.
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "cell_size_check", true)?;
    conn.pragma_update(None, "trusted_schema", false)?;
    conn.pragma_update(None, "journal_size_limit", signed(LOG_LIMIT))?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(conn)
}

/// Asserts the library's version.
pub(crate) fn require_version() -> Result<(), OpenError> {
    if rusqlite::version_number() < OLDEST_SQLITE {
        return Err(OpenError::OldSqlite { found: rusqlite::version() });
    }
    Ok(())
}

/// Moves everything from the log into the database, synced. Fails when anything is left. The log keeps its space: on
/// a full disk that is what the next transactions live on.
pub(crate) fn checkpoint(conn: &Connection) -> Result<(), rusqlite::Error> {
    let busy: i64 = conn.query_row("PRAGMA wal_checkpoint(RESTART)", [], |row| row.get(0))?;
    if busy != 0 {
        return Err(failure(rusqlite::ffi::SQLITE_BUSY, "the checkpoint was kept from ending"));
    }
    Ok(())
}

/// The version in the file's header.
pub(crate) fn format(conn: &Connection) -> Result<i64, rusqlite::Error> {
    conn.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// The file's content is broken: no try will make it better. All statements are ours, so one that does not fit the tables, or
/// finds another type than was written, says the same.
pub(crate) fn is_damage(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqlInputError { .. }
        | rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::Utf8Error(..)
        | rusqlite::Error::InvalidColumnType(..) => true,
        other => matches!(
            other.sqlite_error_code(),
            Some(
                ErrorCode::DatabaseCorrupt
                    | ErrorCode::NotADatabase
                    | ErrorCode::ConstraintViolation
                    | ErrorCode::TypeMismatch
                    | ErrorCode::TooBig
                    | ErrorCode::Unknown
            )
        ),
    }
}

/// The error for state.db at `path`.
pub(crate) fn at_open(path: &Path) -> impl Fn(rusqlite::Error) -> OpenError {
    let path = path.to_owned();
    move |source| {
        let path = path.clone();
        if is_damage(&source) { OpenError::Damaged { path, source } } else { OpenError::Sqlite { path, source } }
    }
}

/// There is no room, by our own limit or on the file system.
pub(crate) fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
}

/// An error with one of SQLite's codes.
pub(crate) fn failure(code: i32, text: &str) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), Some(text.to_owned()))
}

/// SQLite's integers have a sign. Nothing stored here comes near the end of either range.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Back from SQLite's integers; what was never written reads as zero.
pub(crate) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// `path` with `suffix` after its name, as SQLite names its side files.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
