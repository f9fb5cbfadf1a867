//! Records kept aside: listed, sent once more, dropped.

use std::time::Duration;

use rusqlite::ffi::SQLITE_IOERR;

use crate::faults::Point;
use crate::{Aside, AsideError, Lane, Queue, RecordId};

use super::{Bench, UP, append, assert_sums, batch, bodies, ids, lease, settled, within};

async fn list(queue: &Queue) -> Vec<Aside> {
    let mut all: Vec<Aside> = Vec::new();
    loop {
        let after = all.last().map_or(RecordId(0), |last| last.id);
        let more = within(queue.aside(after)).await.unwrap();
        if more.is_empty() {
            return all;
        }
        all.extend(more);
    }
}

/// Commits `texts` of device `a`, and quarantines all of them.
async fn quarantined(queue: &Queue, texts: &[&str]) -> Vec<RecordId> {
    queue.commit(batch("a", texts)).await.unwrap();
    let records = lease(queue, texts.len()).await;
    for record in &records {
        queue.quarantine(UP, record.id, "not-authorized").await.unwrap();
    }
    settled(queue).await;
    ids(&records)
}

fn counts(queue: &Queue) -> (u64, u64, u64, u64) {
    let row = queue.ledger().remove(0);
    (row.received, row.delivered, row.waiting, row.quarantined)
}

#[tokio::test]
async fn a_retried_record_is_leased_once_more_behind_the_others_under_its_old_number() {
    let bench = Bench::new();
    let queue = bench.open(1);
    let aside = quarantined(&queue, &["1", "2", "3"]).await;
    queue.commit(batch("a", &["4"])).await.unwrap();
    assert_eq!(within(queue.retry(vec![aside[1], aside[1], RecordId(999)])).await, Ok(1));
    assert_eq!(counts(&queue), (4, 0, 2, 2));
    assert_sums(&queue);
    let left = list(&queue).await;
    assert_eq!(left.iter().map(|aside| &aside.body[..]).collect::<Vec<_>>(), [b"1", b"3"]);
    assert_eq!((left[0].reason.as_str(), left[0].header.lane, left[0].spoiled), ("not-authorized", Lane::Live, false));
    queue.close().await.unwrap();
    // A restart changes nothing.
    let queue = bench.open(2);
    assert_eq!(counts(&queue), (4, 0, 2, 2));
    let records = lease(&queue, 10).await;
    assert_eq!(bodies(&records), ["4", "2"]);
    assert_eq!((records[1].header.boot, records[1].header.seq), (1, 2));
    queue.settle(UP, ids(&records)).await.unwrap();
    settled(&queue).await;
    assert_eq!(counts(&queue), (4, 2, 0, 2));
    // The next one's id is nobody's.
    let receipt = queue.commit(batch("a", &["5"])).await.unwrap().receipts[0];
    assert!(receipt.id > records[1].id);
    queue.close().await.unwrap();
    let queue = bench.open(3);
    assert_eq!(counts(&queue), (5, 2, 1, 2));
    assert_sums(&queue);
}

#[tokio::test]
async fn a_dropped_record_stays_counted_as_quarantined() {
    let bench = Bench::new();
    let queue = bench.open(1);
    let aside = quarantined(&queue, &["1", "2"]).await;
    assert_eq!(within(queue.forget(aside)).await, Ok(2));
    assert_eq!(within(queue.forget(vec![RecordId(1)])).await, Ok(0));
    assert!(list(&queue).await.is_empty());
    assert_eq!(counts(&queue), (2, 0, 0, 2));
    queue.close().await.unwrap();
    let queue = bench.open(2);
    assert_eq!(counts(&queue), (2, 0, 0, 2));
    assert!(list(&queue).await.is_empty());
}

#[tokio::test]
async fn a_spoiled_record_is_never_sent() {
    let bench = Bench::new();
    let queue = bench.open(1);
    queue.commit(batch("a", &["1", "2"])).await.unwrap();
    queue.close().await.unwrap();
    let file = rusqlite::Connection::open(bench.path()).unwrap();
    file.execute("UPDATE lane_1 SET body = 'x' WHERE id = 1", []).unwrap();
    drop(file);
    let queue = bench.open(2);
    let records = lease(&queue, 10).await;
    assert_eq!(bodies(&records), ["2"]);
    queue.quarantine(UP, records[0].id, "not-authorized").await.unwrap();
    settled(&queue).await;
    let left = list(&queue).await;
    assert_eq!(left.iter().map(|aside| aside.spoiled).collect::<Vec<_>>(), [true, false]);
    // All or nothing.
    let refused = within(queue.retry(vec![RecordId(2), RecordId(1)])).await.unwrap_err();
    assert_eq!(refused, AsideError::Spoiled { id: RecordId(1), reason: "bad-crc".to_owned() });
    assert_eq!(list(&queue).await, left);
    assert_eq!(counts(&queue), (2, 0, 0, 2));
    assert_eq!(within(queue.retry(vec![RecordId(2)])).await, Ok(1));
    assert_eq!(bodies(&lease(&queue, 10).await), ["2"]);
    assert_sums(&queue);
}

/// The sync failed, but the transaction is in the log; or it is not.
#[tokio::test]
async fn a_retry_in_doubt_happens_once_or_not_at_all() {
    for (point, happened) in [(Point::AfterCommit, true), (Point::BeforeCommit, false)] {
        let bench = Bench::new();
        let queue = bench.open(1);
        let aside = quarantined(&queue, &["1", "2"]).await;
        bench.faults.fail(&[point, Point::Reopen], SQLITE_IOERR);
        let refused = within(queue.retry(vec![aside[0]])).await.unwrap_err();
        assert!(matches!(refused, AsideError::Refused(_)), "{refused}");
        bench.faults.fail(&[], 0);
        within(queue.commit(batch("a", &["3"]))).await.unwrap();
        let expected: &[&str] = if happened { &["1", "3"] } else { &["3"] };
        let mut found = Vec::new();
        while found.len() < expected.len() {
            found.extend(bodies(&lease(&queue, 10).await));
        }
        assert_eq!(found, expected);
        assert_eq!(list(&queue).await.len(), if happened { 1 } else { 2 });
        assert_sums(&queue);
    }
}

#[tokio::test]
async fn what_is_left_of_a_life_is_judged_by_the_wall_clock() {
    let bench = Bench::new();
    let queue = bench.open(1);
    let mut short = append("a", "short");
    short.expires = Some(short.time.plus(Duration::from_hours(48)));
    queue.commit(crate::Batch::append(short)).await.unwrap();
    let held = lease(&queue, 1).await;
    queue.quarantine(UP, held[0].id, "not-authorized").await.unwrap();
    settled(&queue).await;
    bench.clock.advance(Duration::from_hours(72));
    assert_eq!(within(queue.retry(ids(&held))).await, Ok(1));
    assert!(tokio::time::timeout(Duration::from_millis(100), queue.lease(UP, Lane::Live, 1, 1)).await.is_err());
    settled(&queue).await;
    let row = queue.ledger().remove(0);
    assert_eq!((row.expired, row.quarantined, row.waiting), (1, 0, 0));
}

#[tokio::test]
async fn a_full_buffer_refuses_a_retry_and_keeps_the_record() {
    let mut bench = Bench::new();
    bench.options.max_size = fieldgate_types::Size(1 << 20);
    bench.options.overflow = crate::Overflow::Refuse;
    let queue = bench.open(1);
    let big = "x".repeat(200_000);
    let aside = quarantined(&queue, &[&big]).await;
    // Until a commit waits.
    loop {
        let commit = queue.commit(batch("a", &[&big]));
        if tokio::time::timeout(Duration::from_millis(200), commit).await.is_err() {
            break;
        }
    }
    let refused = within(queue.retry(aside.clone())).await.unwrap_err();
    assert!(matches!(refused, AsideError::Refused(_)), "{refused}");
    assert_eq!(list(&queue).await.iter().map(|aside| aside.id).collect::<Vec<_>>(), aside);
    assert_sums(&queue);
}
