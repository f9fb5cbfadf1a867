//! Rot and wreckage: found, kept aside, counted, and never in the way.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};

use futures_util::FutureExt;

use crate::{Append, Batch, DeviceLedger, OpenError};

use super::{Bench, UP, append, assert_sums, batch, bodies, ids, lease, lease_all, settled, until, within};

/// Changes one byte where `needle` begins.
fn spoil(path: &std::path::Path, needle: &[u8]) {
    let mut file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut content = Vec::new();
    file.read_to_end(&mut content).unwrap();
    let at = content.windows(needle.len()).position(|window| window == needle).unwrap();
    file.seek(SeekFrom::Start(at as u64)).unwrap();
    file.write_all(&[needle[0] ^ 1]).unwrap();
}

#[tokio::test]
async fn a_flipped_bit_in_a_body_quarantines_that_record_alone() {
    let bench = Bench::new();
    let queue = bench.open(1);
    queue.commit(batch("a", &["first", "second body", "third"])).await.unwrap();
    queue.close().await.unwrap();
    spoil(&bench.path(), b"second body");
    let queue = bench.open(2);
    assert_eq!(bodies(&lease(&queue, 10).await), ["first", "third"]);
    until("the quarantine", || queue.ledger()[0].quarantined == 1).await;
    assert_eq!(queue.ledger()[0].losses[0].reason, "bad-crc");
    assert_sums(&queue);
    settled(&queue).await;
    queue.close().await.unwrap();
    let file = rusqlite::Connection::open(bench.path()).unwrap();
    let kept: (String, Vec<u8>) =
        file.query_row("SELECT reason, body FROM quarantine", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!(kept, ("bad-crc".to_owned(), b"recond body".to_vec()));
}

#[tokio::test]
async fn a_flipped_header_is_found_as_well() {
    let bench = Bench::new();
    let queue = bench.open(1);
    queue.commit(batch("a", &["1", "2"])).await.unwrap();
    queue.close().await.unwrap();
    let file = rusqlite::Connection::open(bench.path()).unwrap();
    file.execute("UPDATE lane_1 SET seq = 9 WHERE id = 1", []).unwrap();
    drop(file);
    let queue = bench.open(2);
    assert_eq!(bodies(&lease(&queue, 10).await), ["2"]);
    until("the quarantine", || queue.ledger()[0].quarantined == 1).await;
    assert_sums(&queue);
}

#[tokio::test]
async fn the_consumer_quarantines_a_poison_message() {
    let bench = Bench::new();
    let queue = bench.open(1);
    queue.commit(batch("a", &["1", "2"])).await.unwrap();
    let records = lease(&queue, 1).await;
    queue.quarantine(UP, records[0].id, "not-authorized").await.unwrap();
    assert_eq!(bodies(&lease(&queue, 10).await), ["2"]);
    settled(&queue).await;
    queue.rewind(UP);
    assert_eq!(bodies(&lease_all(&queue).await), ["2"]);
    assert_eq!(queue.ledger()[0].losses[0].reason, "not-authorized");
    assert_sums(&queue);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_set_aside() {
    let bench = Bench::new();
    fs::write(bench.path(), vec![b'x'; 9000]).unwrap();
    let queue = bench.open(1);
    let kept = queue.stats().set_aside.unwrap();
    assert!(kept.to_string_lossy().contains("queue.db.corrupt-"), "{}", kept.display());
    assert_eq!(fs::read(&kept).unwrap(), vec![b'x'; 9000]);
    queue.commit(batch("a", &["1"])).await.unwrap();
    assert_eq!(bodies(&lease_all(&queue).await), ["1"]);
}

#[tokio::test]
async fn a_truncated_file_never_stops_the_start_and_never_delivers_nonsense() {
    for keep in [0, 100, 4096, 5000, 3 * 4096, 8 * 4096, 20 * 4096] {
        let bench = Bench::new();
        let queue = bench.open(1);
        let appends = (0..500).map(|n| append("a", format!("{n:0200}"))).collect();
        queue.commit(Batch { appends, ..Batch::default() }).await.unwrap();
        queue.close().await.unwrap();
        fs::OpenOptions::new().write(true).open(bench.path()).unwrap().set_len(keep).unwrap();
        let queue = bench.open(2);
        // Damage that is found while reading sets the file aside under way.
        queue.commit(batch("b", &["new"])).await.unwrap();
        until("the new record", || {
            let row = |rows: Vec<DeviceLedger>| rows.into_iter().find(|row| row.device.as_str() == "b");
            row(queue.ledger()).is_some()
        })
        .await;
        let records = lease(&queue, 1).await;
        assert!(bodies(&records)[0].len() == 200 || bodies(&records)[0] == "new");
        assert_sums(&queue);
    }
}

#[tokio::test]
async fn damage_found_while_running_sets_the_file_aside_and_keeps_the_sums() {
    let bench = Bench::new();
    let queue = bench.open(1);
    let body = "x".repeat(300);
    for _ in 0..20 {
        let appends = (0..1000).map(|_| append("a", body.clone())).collect();
        queue.commit(Batch { appends, ..Batch::default() }).await.unwrap();
    }
    queue.close().await.unwrap();
    // Pages in the middle of the lane are zeroed; both its ends are whole, so that the start finds nothing.
    let mut file = fs::OpenOptions::new().write(true).open(bench.path()).unwrap();
    file.seek(SeekFrom::Start(300 * 4096)).unwrap();
    file.write_all(&vec![0; 20 * 4096]).unwrap();
    drop(file);
    let queue = bench.open(2);
    assert_eq!(queue.stats().set_aside, None);
    // Some are leased before the damage is met, and some of these settled.
    let before = lease(&queue, 500).await;
    queue.settle(UP, ids(&before[..100])).await.unwrap();
    settled(&queue).await;
    let mut seqs: Vec<u64> = before[..100].iter().map(|record| record.header.seq).collect();
    until("the damage", || {
        queue.rewind(UP);
        drop(queue.lease(UP, crate::Lane::Live, usize::MAX, usize::MAX).now_or_never());
        queue.stats().set_aside.is_some()
    })
    .await;
    queue.rewind(UP);
    queue.commit(batch("a", &["after"])).await.unwrap();
    let mut last = None;
    while last.as_ref() != Some(&20_001) {
        let records = lease(&queue, 500).await;
        seqs.extend(records.iter().filter(|record| record.header.boot == 1).map(|record| record.header.seq));
        last = records.last().map(|record| record.id.0);
        queue.settle(UP, ids(&records)).await.unwrap();
    }
    settled(&queue).await;
    assert!(seqs.windows(2).all(|pair| pair[0] < pair[1]), "in order, none twice");
    assert_eq!(seqs.last(), Some(&20_000));
    // Twenty pages, each with a dozen records, and the steps at their ends.
    assert!((19_300..19_800).contains(&seqs.len()), "{}", seqs.len());
    let row = queue.ledger().remove(0);
    assert_eq!((row.received, row.delivered), (20_001, seqs.len() as u64 + 1));
    assert_eq!((row.quarantined, row.losses[0].reason.as_ref()), (20_000 - seqs.len() as u64, "damaged-file"));
    assert_sums(&queue);
    queue.close().await.unwrap();
    let queue = bench.open(3);
    assert_eq!(queue.ledger()[0], row);
    assert_sums(&queue);
}

/// Another lane meets the damage: what the consumer has in flight stays its own, settled before the salvage ends or after.
#[tokio::test]
async fn what_is_leased_while_the_file_is_set_aside_is_not_leased_again() {
    let bench = Bench::new();
    let queue = bench.open(1);
    let history = |text: String| Append { lane: crate::Lane::History, ..append("a", text) };
    let appends = (0..10_000).map(|n| append("a", format!("live {n:0300}")));
    queue.commit(Batch { appends: appends.collect(), ..Batch::default() }).await.unwrap();
    let appends = (0..20_000).map(|n| history(format!("{n:0300}")));
    queue.commit(Batch { appends: appends.collect(), ..Batch::default() }).await.unwrap();
    queue.close().await.unwrap();
    // In the second half of the file, but not at its end: records of the lane that came last.
    let len = fs::metadata(bench.path()).unwrap().len() / 4096 * 4096;
    let mut file = fs::OpenOptions::new().write(true).open(bench.path()).unwrap();
    file.seek(SeekFrom::Start(len * 6 / 10 / 4096 * 4096)).unwrap();
    file.write_all(&vec![0; 20 * 4096]).unwrap();
    drop(file);
    let queue = bench.open(2);
    let held = lease(&queue, 300).await;
    let mut met = 0;
    while queue.stats().set_aside.is_none() {
        let records = within(queue.lease(UP, crate::Lane::History, 1000, usize::MAX)).now_or_never();
        let Some(records) = records else {
            tokio::task::yield_now().await;
            continue;
        };
        met += records.unwrap().len();
    }
    assert!(met < 20_000);
    queue.settle(UP, ids(&held[..100])).await.unwrap();
    let next = lease(&queue, 1).await;
    assert_eq!(next[0].header.seq, 301, "neither again nor passed over");
    assert_sums(&queue);
    settled(&queue).await;
    queue.settle(UP, ids(&held[100..])).await.unwrap();
    settled(&queue).await;
    assert_eq!(queue.ledger()[0].delivered, 300);
    assert_sums(&queue);
    // A lost connection still brings back what was not settled, and nothing else.
    queue.rewind(UP);
    assert_eq!(lease(&queue, 1).await[0].header.seq, 301);
    queue.close().await.unwrap();
    let queue = bench.open(3);
    assert_eq!(lease(&queue, 1).await[0].header.seq, 301);
    assert_eq!(queue.ledger()[0].delivered, 300);
}

#[tokio::test]
async fn a_newer_format_is_refused_and_left_alone() {
    let bench = Bench::new();
    bench.open(1).close().await.unwrap();
    let file = rusqlite::Connection::open(bench.path()).unwrap();
    file.pragma_update(None, "user_version", 99).unwrap();
    drop(file);
    let clock = std::sync::Arc::<fieldgate_types::ManualClock>::clone(&bench.clock);
    let refused = crate::Queue::open(&bench.path(), 2, bench.options.clone(), clock).unwrap_err();
    assert!(matches!(refused, OpenError::Newer { found: 99, known: 2, .. }), "{refused}");
    assert!(bench.path().exists());
}
