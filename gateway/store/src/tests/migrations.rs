//! Formats of state.db: old ones come forward, whole or not at all; newer and foreign ones are refused.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use fieldgate_types::{BUILD_FLOOR, ManualClock};
use rusqlite::Connection;

use crate::migrations::{STEPS, Step, migrate};
use crate::sqlite::{self, Sharing};
use crate::{OpenError, Put, State};

/// A file as the first Fieldgate wrote it. Stays as it is, whatever becomes of the program.
const FORMAT_1: &str = "
PRAGMA journal_mode = WAL;
BEGIN IMMEDIATE;
CREATE TABLE counters(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE small(name TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY (name, key)) WITHOUT ROWID;
PRAGMA user_version = 1;
COMMIT;
INSERT INTO counters VALUES ('boot', 41), ('started', 1790000000000);
INSERT INTO small VALUES ('gateway', X'6964', X'6c696e652d34'),
    ('devices', X'70726573732d31', X'7b226964223a2270726573732d31227d');
";

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(BUILD_FLOOR))
}

fn sql(path: &Path, sql: &str) {
    Connection::open(path).unwrap().execute_batch(sql).unwrap();
}

fn format(path: &Path) -> i64 {
    sqlite::format(&Connection::open(path).unwrap()).unwrap()
}

/// What a step of the future may do: a new table, filled from an old one, with enough rows to spill to disk before the end.
fn second(conn: &Connection) -> Result<(), rusqlite::Error> {
    conn.execute_batch(
        "CREATE TABLE copies(name TEXT NOT NULL, body BLOB NOT NULL);
         PRAGMA cache_size = 10;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
         INSERT INTO copies SELECT small.name, randomblob(2000) FROM small, n;
         DELETE FROM small WHERE name = 'devices';",
    )
}

fn third(conn: &Connection) -> Result<(), rusqlite::Error> {
    conn.execute_batch("ALTER TABLE copies ADD COLUMN note TEXT")
}

fn fails(conn: &Connection) -> Result<(), rusqlite::Error> {
    conn.execute_batch("DROP TABLE counters")?;
    // As of a disk that is full.
    Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL), None))
}

fn migrated(path: &Path, steps: &[Step]) -> Result<Connection, OpenError> {
    let mut conn = sqlite::open(path, Sharing::Shared).unwrap();
    migrate(&mut conn, path, steps)?;
    Ok(conn)
}

fn count(conn: &Connection, from: &str) -> i64 {
    conn.query_row(&format!("SELECT count(*) FROM {from}"), [], |row| row.get(0)).unwrap()
}

#[test]
fn a_file_of_the_first_format_opens_with_all_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    sql(&path, FORMAT_1);
    let state = State::open_for_run(&path, clock()).unwrap();
    assert_eq!(state.boot(), 42);
    assert_eq!(state.get("gateway", b"id").unwrap(), Some(b"line-4".to_vec()));
    assert_eq!(state.get("devices", b"press-1").unwrap(), Some(b"{\"id\":\"press-1\"}".to_vec()));
    state.commit(&[Put { table: "devices", key: b"press-2".to_vec(), value: b"{}".to_vec() }], &[]).unwrap();
    assert_eq!(State::open(&path, clock()).unwrap().scan("devices").unwrap().len(), 2);
    assert_eq!(usize::try_from(format(&path)).unwrap(), STEPS.len());
}

#[test]
fn what_is_made_today_and_what_comes_from_the_first_format_are_alike() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old.db"), dir.path().join("new.db"));
    sql(&old, FORMAT_1);
    let schema = |path: &Path| {
        drop(State::open(path, clock()).unwrap());
        let conn = Connection::open(path).unwrap();
        let mut statement = conn.prepare("SELECT name, type FROM sqlite_schema ORDER BY name").unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.collect::<Result<Vec<(String, String)>, _>>().unwrap()
    };
    assert_eq!(schema(&old), schema(&new));
    assert_eq!(format(&old), format(&new));
}

#[test]
fn every_step_that_is_due_is_taken_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    sql(&path, FORMAT_1);
    for _ in 0..2 {
        let conn = migrated(&path, &[STEPS[0], second, third]).unwrap();
        assert_eq!((count(&conn, "copies"), count(&conn, "small")), (1000, 1));
        assert_eq!(count(&conn, "pragma_table_info('copies') WHERE name = 'note'"), 1);
        assert_eq!(sqlite::format(&conn).unwrap(), 3);
    }
}

#[test]
fn a_step_that_fails_leaves_the_file_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    sql(&path, FORMAT_1);
    let error = migrated(&path, &[STEPS[0], second, fails]).unwrap_err();
    assert!(matches!(error, OpenError::Sqlite { .. }), "{error}");
    assert_eq!(format(&path), 1);
    assert_eq!(State::open_for_run(&path, clock()).unwrap().boot(), 42);
}

#[test]
fn a_newer_format_is_refused_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    sql(&path, FORMAT_1);
    sql(&path, "PRAGMA user_version = 7");
    let before = std::fs::read(&path).unwrap();
    let refused = State::open_for_run(&path, clock()).unwrap_err();
    assert!(matches!(refused, OpenError::Newer { found: 7, known: 1, .. }), "{refused}");
    let words = refused.to_string();
    for word in ["state.db", "format 7", "up to 1", "install the newer Fieldgate"] {
        assert!(words.contains(word), "{words}");
    }
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_database_of_another_program_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [("tables", "CREATE TABLE notes(text)"), ("version", "PRAGMA user_version = -3")] {
        let path = dir.path().join(name);
        sql(&path, text);
        let refused = State::open_for_run(&path, clock()).unwrap_err();
        assert!(matches!(refused, OpenError::Foreign { .. }), "{refused}");
    }
}

const FOLDER: &str = "FIELDGATE_STORE_MIGRATION_FOLDER";

/// Says that it is in the middle, and waits there for its end.
fn waits(_: &Connection) -> Result<(), rusqlite::Error> {
    println!("in the middle");
    loop {
        std::thread::park();
    }
}

/// The child: stands in the middle of a migration until it is killed. Does nothing when it is run like the other tests.
#[test]
fn migration_that_gets_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    migrated(&Path::new(&folder).join("state.db"), &[STEPS[0], second, waits]).unwrap();
}

#[test]
fn a_kill_in_the_middle_leaves_the_old_format_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    sql(&path, FORMAT_1);
    for round in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::migrations::migration_that_gets_killed", "--nocapture", "--test-threads=1"])
            .env(FOLDER, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("in the middle")), "the child ended early");
        // Some of what it did lies on disk by now: the cache was too small for it.
        let log = std::fs::metadata(sqlite::beside(&path, "-wal")).unwrap().len();
        assert!(log > 500_000, "{log}");
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(format(&path), 1);
        let state = State::open_for_run(&path, clock()).unwrap();
        assert_eq!(state.boot(), 42 + round);
        assert_eq!(state.scan("devices").unwrap().len(), 1);
    }
    let conn = migrated(&path, &[STEPS[0], second]).unwrap();
    assert_eq!(count(&conn, "copies"), 1000);
}
