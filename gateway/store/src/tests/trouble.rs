//! The disk fails and comes back.

use std::time::Duration;

use rusqlite::ffi::{SQLITE_CORRUPT, SQLITE_FULL, SQLITE_IOERR};

use crate::faults::Point;
use crate::{Batch, CloseError, CommitError, Health, Queue};

use super::{Bench, UP, append, assert_sums, batch, bodies, ids, lease, lease_all, settled, until, within};

async fn fails_then_resumes(points: &[Point], code: i32) {
    let bench = Bench::new();
    let queue = bench.open(1);
    queue.commit(batch("a", &["before"])).await.unwrap();
    bench.faults.fail(points, code);
    let commits: Vec<_> = (0..5)
        .map(|n| {
            let queue = queue.clone();
            tokio::spawn(async move { queue.commit(batch("a", &[&format!("during {n}")])).await })
        })
        .collect();
    until("some failures", || bench.faults.hits() >= 3).await;
    assert!(matches!(queue.stats().health, Health::Refusing { .. }));
    assert!(commits.iter().all(|commit| !commit.is_finished()), "nothing is acknowledged");
    assert_eq!(queue.stats().messages, 1);
    bench.faults.fail(&[], 0);
    for commit in commits {
        within(commit).await.unwrap().unwrap();
    }
    assert!(queue.stats().health.is_ok());
    let records = lease_all(&queue).await;
    assert_eq!(records.iter().map(|r| r.header.seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    assert_eq!(bodies(&records)[0], "before");
    assert_sums(&queue);
    queue.close().await.unwrap();
    let queue = bench.open(2);
    assert_eq!(lease_all(&queue).await.len(), 6);
    assert_sums(&queue);
}

#[tokio::test]
async fn nothing_is_acknowledged_after_an_io_error_and_it_resumes_by_itself() {
    fails_then_resumes(&[Point::BeforeCommit], SQLITE_IOERR).await;
}

#[tokio::test]
async fn a_disk_that_cannot_even_be_opened_again_is_waited_for() {
    fails_then_resumes(&[Point::BeforeCommit, Point::Reopen], SQLITE_IOERR).await;
}

#[tokio::test]
async fn a_disk_filled_by_others_is_waited_for() {
    fails_then_resumes(&[Point::BeforeCommit], SQLITE_FULL).await;
}

/// The sync was reported as failed but the transaction is in the log: it must count once.
#[tokio::test]
async fn a_commit_that_failed_and_happened_all_the_same_counts_once() {
    let bench = Bench::new();
    let queue = bench.open(1);
    queue.commit(batch("a", &["1"])).await.unwrap();
    let held = lease(&queue, 1).await;
    bench.faults.fail(&[Point::AfterCommit, Point::Reopen], SQLITE_IOERR);
    let commit = {
        let queue = queue.clone();
        tokio::spawn(async move { queue.commit(batch("a", &["2", "3"])).await })
    };
    until("the failure", || bench.faults.hits() >= 2).await;
    assert!(!commit.is_finished());
    queue.settle(UP, ids(&held)).await.unwrap();
    bench.faults.fail(&[], 0);
    let receipts = within(commit).await.unwrap().unwrap().receipts;
    assert_eq!(receipts.iter().map(|r| r.seq).collect::<Vec<_>>(), [2, 3]);
    settled(&queue).await;
    // The same with a transaction of removals alone.
    let held = lease(&queue, 1).await;
    bench.faults.fail(&[Point::AfterCommit], SQLITE_IOERR);
    let hits = bench.faults.hits();
    queue.settle(UP, ids(&held)).await.unwrap();
    until("the failure", || bench.faults.hits() > hits).await;
    bench.faults.fail(&[], 0);
    settled(&queue).await;
    assert_eq!(queue.ledger()[0].delivered, 2);
    assert_eq!(bodies(&lease(&queue, 10).await), ["3"]);
    assert_sums(&queue);
    queue.close().await.unwrap();
    let queue = bench.open(2);
    assert_eq!(bodies(&lease_all(&queue).await), ["3"]);
    assert_eq!(queue.ledger()[0].received, 3);
    assert_sums(&queue);
}

#[tokio::test]
async fn leases_go_on_from_memory_while_the_disk_refuses() {
    let bench = Bench::new();
    let queue = bench.open(1);
    queue.commit(batch("a", &["1", "2"])).await.unwrap();
    bench.faults.fail(&[Point::BeforeCommit, Point::Reopen], SQLITE_IOERR);
    let records = lease(&queue, 1).await;
    queue.settle(UP, ids(&records)).await.unwrap();
    until("the failure", || bench.faults.hits() >= 2).await;
    let records = lease(&queue, 1).await;
    queue.settle(UP, ids(&records)).await.unwrap();
    assert_eq!(queue.stats().settling, 2);
    assert_eq!(queue.ledger()[0].waiting, 2, "not delivered before that is durable");
    bench.faults.fail(&[], 0);
    settled(&queue).await;
    assert_eq!(queue.ledger()[0].delivered, 2);
}

#[tokio::test]
async fn closing_while_the_disk_refuses_tells_the_truth() {
    let bench = Bench::new();
    let queue = bench.open(1);
    bench.faults.fail(&[Point::BeforeCommit, Point::Reopen], SQLITE_IOERR);
    let commit = {
        let queue = queue.clone();
        tokio::spawn(async move { queue.commit(batch("a", &["1"])).await })
    };
    until("the failure", || bench.faults.hits() >= 1).await;
    let closed = within(queue.close()).await;
    assert!(matches!(closed, Err(CloseError::NotFlushed { batches: 1, .. })), "{closed:?}");
    assert_eq!(within(commit).await.unwrap(), Err(CommitError::Closed));
}

#[tokio::test]
async fn damage_reported_by_a_commit_begins_a_fresh_file_with_the_waiting_batches() {
    let bench = Bench::new();
    let queue = bench.open(1);
    queue.commit(batch("a", &["1", "2"])).await.unwrap();
    bench.faults.fail(&[Point::BeforeCommit], SQLITE_CORRUPT);
    let commit = {
        let queue = queue.clone();
        tokio::spawn(async move { queue.commit(batch("a", &["3"])).await })
    };
    until("the fresh file", || queue.stats().set_aside.is_some()).await;
    bench.faults.fail(&[], 0);
    let receipts = within(commit).await.unwrap().unwrap().receipts;
    assert_eq!((receipts[0].id.0, receipts[0].seq), (3, 3));
    assert_eq!(bodies(&lease(&queue, 10).await), ["1", "2", "3"], "what can be read comes back, in order");
    assert_eq!(queue.ledger()[0].quarantined, 0);
    assert_sums(&queue);
}

/// Producers, a consumer that loses its connection now and then, and a disk that fails now and then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flapping_disk_loses_nothing_and_keeps_the_order() {
    let bench = Bench::new();
    let queue = bench.open(1);
    let producers: Vec<_> = (0..4).map(|n| tokio::spawn(produce(queue.clone(), n))).collect();
    let faults = bench.faults.clone();
    let flapping = tokio::spawn(async move {
        for point in [Point::BeforeCommit, Point::AfterCommit, Point::BeforeCommit, Point::AfterCommit] {
            tokio::time::sleep(Duration::from_millis(60)).await;
            faults.fail(&[point], SQLITE_IOERR);
            tokio::time::sleep(Duration::from_millis(30)).await;
            faults.fail(&[], 0);
        }
    });
    let mut next = [1_u64; 4];
    let mut rounds = 0;
    while next.iter().any(|seq| *seq <= 500) {
        let records = lease(&queue, 64).await;
        rounds += 1;
        if rounds % 7 == 3 {
            queue.rewind(UP);
            continue;
        }
        for record in &records {
            let at: usize = record.header.device.as_str()[1..].parse().unwrap();
            assert_eq!(record.header.seq, next[at]);
            next[at] += 1;
        }
        queue.settle(UP, ids(&records)).await.unwrap();
    }
    for producer in producers {
        within(producer).await.unwrap();
    }
    within(flapping).await.unwrap();
    settled(&queue).await;
    assert_sums(&queue);
    assert!(queue.ledger().iter().all(|row| row.delivered == 500 && row.received == 500));
}

async fn produce(queue: Queue, number: usize) {
    let name = format!("d{number}");
    for _ in 0..100 {
        let appends = (0..5).map(|_| append(&name, "x")).collect();
        queue.commit(Batch { appends, ..Batch::default() }).await.unwrap();
    }
}
