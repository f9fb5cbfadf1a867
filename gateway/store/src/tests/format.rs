//! Files of other formats, and counters that are behind the records.

use fieldgate_types::UnixMillis;

use crate::entry::{Checked, checksum};
use crate::{Batch, Lane};

use super::{Bench, UP, append, assert_sums, batch, bodies, device, ids, lease, lease_all, settled};

/// As the first format made it: a device with one delivered record and two that wait.
const FIRST: &str = "
PRAGMA journal_mode = WAL;
CREATE TABLE clock(id INTEGER PRIMARY KEY CHECK (id = 1), running INTEGER NOT NULL, wall INTEGER NOT NULL);
CREATE TABLE devices(id INTEGER PRIMARY KEY, name TEXT NOT NULL, boot INTEGER NOT NULL, seq INTEGER NOT NULL,
    received INTEGER NOT NULL, delivered INTEGER NOT NULL, bytes INTEGER NOT NULL);
CREATE TABLE losses(device INTEGER NOT NULL, kind INTEGER NOT NULL, reason TEXT NOT NULL, count INTEGER NOT NULL,
    PRIMARY KEY (device, kind, reason)) WITHOUT ROWID;
CREATE TABLE quarantine(id INTEGER PRIMARY KEY, lane INTEGER NOT NULL, device INTEGER NOT NULL, boot INTEGER NOT NULL,
    seq INTEGER NOT NULL, time INTEGER NOT NULL, expires INTEGER, reason TEXT NOT NULL, since INTEGER NOT NULL,
    body BLOB NOT NULL);
CREATE TABLE small(name TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY (name, key)) WITHOUT ROWID;
CREATE TABLE lane_0(id INTEGER PRIMARY KEY, device INTEGER NOT NULL, boot INTEGER NOT NULL, seq INTEGER NOT NULL,
    time INTEGER NOT NULL, expires INTEGER, born INTEGER NOT NULL, deadline INTEGER,
    continues INTEGER NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE lane_1(id INTEGER PRIMARY KEY, device INTEGER NOT NULL, boot INTEGER NOT NULL, seq INTEGER NOT NULL,
    time INTEGER NOT NULL, expires INTEGER, born INTEGER NOT NULL, deadline INTEGER,
    continues INTEGER NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE lane_2(id INTEGER PRIMARY KEY, device INTEGER NOT NULL, boot INTEGER NOT NULL, seq INTEGER NOT NULL,
    time INTEGER NOT NULL, expires INTEGER, born INTEGER NOT NULL, deadline INTEGER,
    continues INTEGER NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL);
INSERT INTO devices VALUES (1, 'a', 4, 3, 3, 1, 8);
INSERT INTO clock VALUES (1, 5000, 0);
INSERT INTO small VALUES ('retained', x'01', x'02');
PRAGMA user_version = 1;
";

#[tokio::test]
async fn a_file_of_the_first_format_opens_and_goes_on() {
    let bench = Bench::new();
    let file = rusqlite::Connection::open(bench.path()).unwrap();
    file.execute_batch(FIRST).unwrap();
    for (id, body) in [(2_u64, "left"), (3, "over")] {
        let header = Checked {
            id,
            lane: Lane::Live,
            device: &device("a"),
            boot: 4,
            seq: id,
            time: UnixMillis(1_800_000_000_000),
            expires: None,
            born: 4000,
            deadline: None,
            continues: false,
        };
        let crc = checksum(&header, body.as_bytes());
        let values = rusqlite::params![id.cast_signed(), crc, body.as_bytes()];
        file.execute("INSERT INTO lane_1 VALUES (?1, 1, 4, ?1, 1800000000000, NULL, 4000, NULL, 0, ?2, ?3)", values)
            .unwrap();
    }
    drop(file);
    let queue = bench.open(5);
    assert_eq!(queue.stats().set_aside, None);
    assert_sums(&queue);
    assert_eq!(queue.stats().messages, 2);
    let receipts = queue.commit(batch("a", &["new"])).await.unwrap().receipts;
    assert_eq!((receipts[0].id.0, receipts[0].boot, receipts[0].seq), (4, 5, 1));
    let records = lease_all(&queue).await;
    assert_eq!(bodies(&records), ["left", "over", "new"]);
    assert_eq!((records[0].header.boot, records[0].header.seq), (4, 2));
    assert_eq!(queue.scan("retained").await.unwrap(), [(vec![1], vec![2])]);
    queue.close().await.unwrap();
    let file = rusqlite::Connection::open(bench.path()).unwrap();
    let format: i64 = file.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(format, 2);
}

/// What the file says was received, with the queue's files copied as they are.
fn counted(bench: &Bench, folder: &std::path::Path) -> u64 {
    std::fs::create_dir(folder).unwrap();
    for name in ["queue.db", "queue.db-wal"] {
        std::fs::copy(bench.dir.path().join(name), folder.join(name)).unwrap();
    }
    let file = rusqlite::Connection::open(folder.join("queue.db")).unwrap();
    let sum: i64 = file.query_row("SELECT coalesce(sum(received), 0) FROM devices", [], |row| row.get(0)).unwrap();
    u64::try_from(sum).unwrap()
}

#[tokio::test]
async fn counters_that_are_behind_are_counted_again_after_a_crash() {
    let bench = Bench::new();
    let queue = bench.open(1);
    queue.commit(batch("a", &["1", "2"])).await.unwrap();
    let held = lease(&queue, 1).await;
    queue.settle(UP, ids(&held)).await.unwrap();
    settled(&queue).await;
    for number in 3..200 {
        queue.commit(batch("a", &[&number.to_string()])).await.unwrap();
    }
    let folder = bench.dir.path().join("crashed");
    assert!(counted(&bench, &folder) < 100, "else this test shows nothing");
    let after = bench.open_at(&folder.join("queue.db"), 2);
    assert_eq!(after.ledger(), queue.ledger());
    assert_eq!(after.stats().bytes, queue.stats().bytes);
    assert_sums(&after);
    assert_eq!(bodies(&lease_all(&after).await).len(), 198);
    // The next of the old ids, and a sequence of the new boot.
    let receipts = after.commit(batch("a", &["new"])).await.unwrap().receipts;
    assert_eq!((receipts[0].id.0, receipts[0].boot, receipts[0].seq), (200, 2, 1));
}

#[tokio::test]
async fn counters_are_never_far_behind_nor_after_a_close() {
    let bench = Bench::new();
    let queue = bench.open(1);
    for _ in 0..100 {
        let appends = (0..100).map(|_| append("a", "x")).collect();
        queue.commit(Batch { appends, ..Batch::default() }).await.unwrap();
    }
    assert!(counted(&bench, &bench.dir.path().join("before")) >= 10_000 - crate::ledger::MOST_UNWRITTEN);
    queue.close().await.unwrap();
    let file = rusqlite::Connection::open(bench.path()).unwrap();
    let received: i64 = file.query_row("SELECT received FROM devices", [], |row| row.get(0)).unwrap();
    assert_eq!(received, 10_000);
}
