//! `state.db`: small precious tables, each commit durable before it returns.
//!
//! Synchronous: call it from a blocking task. The file is never replaced by itself; damage is an error that says what
//! to do; an older format is brought forward when it is opened (module `migrations`). After a failed commit the
//! connection is dropped, since a failed sync must not be repeated on it, and the next use opens the file again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fieldgate_types::{Clock, UnixMillis};
use rusqlite::{Connection, OptionalExtension, params};

use crate::migrations::{STEPS, migrate};
use crate::sqlite::{self, Sharing, at_open, beside, checkpoint, signed, unsigned};
use crate::{Delete, OpenError, Pairs, Put, StateError};

/// The small tables of the gateway. Cheap to clone; every function blocks on the disk.
#[derive(Debug, Clone)]
pub struct State {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// `None` after a failure, until the next use.
    conn: Mutex<Option<Connection>>,
    /// One copy at a time.
    snapshots: Mutex<()>,
    boot: u64,
    started: UnixMillis,
}

impl State {
    /// Opens the tables to look into or change them; the boot counter stays.
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        Self::open_at(path, &*clock, false)
    }

    /// Opens the tables for a run of the gateway: the boot counter is one higher, and durable when this returns.
    pub fn open_for_run(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        Self::open_at(path, &*clock, true)
    }

    fn open_at(path: &Path, clock: &dyn Clock, run: bool) -> Result<Self, OpenError> {
        sqlite::require_version()?;
        let conn = connect(path)?;
        let now = if clock.plausible() { clock.now() } else { UnixMillis(0) };
        let (boot, started) = if run { begin_boot(&conn, now) } else { last_boot(&conn) }.map_err(at_open(path))?;
        let (path, conn, snapshots) = (path.to_owned(), Mutex::new(Some(conn)), Mutex::default());
        Ok(Self { inner: Arc::new(Inner { path, conn, snapshots, boot, started }) })
    }

    /// The boot counter: of this run, or after [`State::open`] of the last one.
    pub fn boot(&self) -> u64 {
        self.inner.boot
    }

    /// The latest plausible wall clock at any start, this one included: no true clock reads earlier. Zero where
    /// there was none.
    pub fn latest_start(&self) -> UnixMillis {
        self.inner.started
    }

    /// The value of `key`.
    pub fn get(&self, table: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        self.with(|conn| {
            let mut statement = conn.prepare_cached("SELECT value FROM small WHERE name = ?1 AND key = ?2")?;
            statement.query_row(params![table, key], |row| row.get(0)).optional()
        })
    }

    /// All keys and values, sorted by key.
    pub fn scan(&self, table: &'static str) -> Result<Pairs, StateError> {
        self.with(|conn| crate::reading::scan(conn, table))
    }

    /// Makes all of this durable, or nothing; deletes are done before puts. After an error the change may still
    /// turn out to have happened: read before deciding anything on it.
    pub fn commit(&self, puts: &[Put], deletes: &[Delete]) -> Result<(), StateError> {
        self.with(|conn| {
            let transaction = conn.unchecked_transaction()?;
            {
                let mut statement = conn.prepare_cached("DELETE FROM small WHERE name = ?1 AND key = ?2")?;
                for delete in deletes {
                    statement.execute(params![delete.table, delete.key])?;
                }
                let mut statement =
                    conn.prepare_cached("INSERT OR REPLACE INTO small(name, key, value) VALUES (?1, ?2, ?3)")?;
                for put in puts {
                    statement.execute(params![put.table, put.key, put.value])?;
                }
            }
            transaction.commit()
        })
    }

    /// Raises the boot counter to at least `to`, for the next run; what it is then. It never falls.
    pub fn raise_boot(&self, to: u64) -> Result<u64, StateError> {
        self.with(|conn| {
            let transaction = conn.unchecked_transaction()?;
            let boot = counter(conn, "boot")?.max(to);
            set_counter(conn, "boot", boot)?;
            transaction.commit()?;
            Ok(boot)
        })
    }

    /// The whole file as it is at one moment, while others go on reading and writing it; meanwhile a copy lies beside
    /// it. Commits through this handle wait for the copy.
    pub fn snapshot(&self) -> Result<Vec<u8>, StateError> {
        let copy = beside(&self.inner.path, ".snapshot");
        let failed = |source| StateError::Snapshot { path: copy.clone(), source };
        let _one = self.inner.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        remove(&copy).map_err(failed)?;
        let copied = self.with(|conn| conn.execute("VACUUM INTO ?1", [copy.to_string_lossy()]).map(drop));
        let bytes = copied.and_then(|()| std::fs::read(&copy).map_err(failed));
        remove(&copy).map_err(failed)?;
        bytes
    }

    fn with<T>(&self, work: impl FnOnce(&Connection) -> Result<T, rusqlite::Error>) -> Result<T, StateError> {
        let mut held: MutexGuard<'_, Option<Connection>> =
            self.inner.conn.lock().unwrap_or_else(PoisonError::into_inner);
        let conn = if let Some(conn) = held.take() {
            conn
        } else {
            let conn = connect(&self.inner.path)?;
            // What the failed sync left in the log goes into the database with syncs of its own.
            checkpoint(&conn)?;
            conn
        };
        let result = work(&conn)?;
        *held = Some(conn);
        Ok(result)
    }
}

fn connect(path: &Path) -> Result<Connection, OpenError> {
    let mut conn = sqlite::open(path, Sharing::Shared).map_err(at_open(path))?;
    migrate(&mut conn, path, &STEPS)?;
    Ok(conn)
}

fn counter(conn: &Connection, name: &str) -> Result<u64, rusqlite::Error> {
    let value = conn.query_row("SELECT value FROM counters WHERE name = ?1", [name], |row| row.get(0)).optional()?;
    Ok(unsigned(value.unwrap_or(0)))
}

fn last_boot(conn: &Connection) -> Result<(u64, UnixMillis), rusqlite::Error> {
    Ok((counter(conn, "boot")?, UnixMillis(counter(conn, "started")?)))
}

fn begin_boot(conn: &Connection, now: UnixMillis) -> Result<(u64, UnixMillis), rusqlite::Error> {
    let transaction = conn.unchecked_transaction()?;
    let (last, started) = last_boot(conn)?;
    let (boot, started) = (last + 1, started.max(now));
    set_counter(conn, "boot", boot)?;
    set_counter(conn, "started", started.0)?;
    transaction.commit()?;
    Ok((boot, started))
}

fn set_counter(conn: &Connection, name: &str, value: u64) -> Result<(), rusqlite::Error> {
    let sql = "INSERT OR REPLACE INTO counters(name, value) VALUES (?1, ?2)";
    conn.execute(sql, params![name, signed(value)]).map(drop)
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
