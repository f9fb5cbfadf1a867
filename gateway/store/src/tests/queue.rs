//! The plain life of records.

use std::time::Duration;

use crate::record::RECORD_OVERHEAD;
use crate::{Batch, CommitError, Delete, Lane, LeaseError, Put, SettleError};

use super::{Bench, UP, append, assert_sums, batch, bodies, device, ids, lease, lease_all, settled, until, within};

#[tokio::test]
async fn the_writer_shows_that_it_turns_with_nothing_to_do() {
    let bench = Bench::new();
    let queue = bench.open(1);
    for _ in 0..2 {
        bench.clock.advance(Duration::from_secs(600));
        until("a turn of the writer", || queue.pulse().overdue().is_none()).await;
    }
    let pulse = queue.pulse().clone();
    within(queue.close()).await.unwrap();
    bench.clock.advance(Duration::from_secs(600));
    assert!(pulse.overdue().is_some(), "a writer that has ended makes no turns");
}

#[tokio::test]
async fn records_come_back_in_commit_order_with_their_headers() {
    let bench = Bench::new();
    let queue = bench.open(7);
    let committed = queue.commit(batch("a", &["1", "2"])).await.unwrap();
    queue.commit(batch("b", &["3"])).await.unwrap();
    queue.commit(batch("a", &["4"])).await.unwrap();
    assert_eq!(committed.receipts.iter().map(|r| (r.boot, r.seq)).collect::<Vec<_>>(), [(7, 1), (7, 2)]);
    let records = lease_all(&queue).await;
    assert_eq!(bodies(&records), ["1", "2", "3", "4"]);
    let headers: Vec<_> =
        records.iter().map(|r| (r.header.device.as_str().to_owned(), r.header.boot, r.header.seq)).collect();
    assert_eq!(headers, [("a".into(), 7, 1), ("a".into(), 7, 2), ("b".into(), 7, 1), ("a".into(), 7, 3)]);
    assert!(records.is_sorted_by_key(|r| r.id));
    assert!(records.iter().all(|r| !r.replayed));
    queue.settle(UP, ids(&records)).await.unwrap();
    settled(&queue).await;
    assert_eq!(queue.stats().messages, 0);
    assert_sums(&queue);
}

#[tokio::test]
async fn what_is_not_settled_survives_a_restart_and_counts_as_replayed() {
    let bench = Bench::new();
    let queue = bench.open(1);
    queue.commit(batch("a", &["1", "2", "3"])).await.unwrap();
    let records = lease(&queue, 2).await;
    queue.settle(UP, vec![records[1].id]).await.unwrap();
    queue.close().await.unwrap();
    assert!(!bench.dir.path().join("queue.db-wal").exists(), "a tidy end leaves no log");

    let queue = bench.open(2);
    queue.commit(batch("a", &["4"])).await.unwrap();
    let records = lease_all(&queue).await;
    assert_eq!(bodies(&records), ["1", "3", "4"]);
    assert_eq!(records.iter().map(|r| (r.header.boot, r.header.seq)).collect::<Vec<_>>(), [(1, 1), (1, 3), (2, 1)]);
    assert_eq!(records.iter().map(|r| r.replayed).collect::<Vec<_>>(), [true, true, false]);
    assert_sums(&queue);
}

#[tokio::test]
async fn a_rewind_hands_out_again_what_was_not_settled_in_order() {
    let bench = Bench::new();
    let queue = bench.open(1);
    queue.commit(batch("a", &["1", "2", "3", "4", "5"])).await.unwrap();
    let records = lease(&queue, 4).await;
    queue.settle(UP, vec![records[2].id, records[0].id]).await.unwrap();
    queue.rewind(UP);
    assert_eq!(bodies(&lease(&queue, 10).await), ["2", "4", "5"], "two read back from disk, one from memory");
    // A late settlement of something not leased any more counts nothing.
    queue.settle(UP, vec![records[0].id, records[2].id]).await.unwrap();
    settled(&queue).await;
    assert_eq!(queue.ledger()[0].delivered, 2);
    assert_sums(&queue);
}

#[tokio::test]
async fn the_row_of_one_device_is_the_one_in_the_ledger() {
    let bench = Bench::new();
    let queue = bench.open(1);
    for (name, bodies) in [("a", &["1"][..]), ("b", &["1", "2"]), ("c", &["1", "2", "3"])] {
        queue.commit(batch(name, bodies)).await.unwrap();
    }
    let rows = queue.ledger();
    assert_eq!(rows.iter().map(|row| row.received).collect::<Vec<_>>(), [1, 2, 3]);
    for row in rows {
        assert_eq!(queue.ledger_of(&row.device), Some(row));
    }
    assert_eq!(queue.ledger_of(&device("nobody")), None);
}

#[tokio::test]
async fn lanes_are_leased_apart() {
    let bench = Bench::new();
    let queue = bench.open(1);
    let mut urgent = append("a", "state");
    urgent.lane = Lane::Priority;
    let mut old = append("a", "old");
    old.lane = Lane::History;
    queue.commit(Batch { appends: vec![append("a", "live"), urgent, old], ..Batch::default() }).await.unwrap();
    for (lane, body) in [(Lane::Priority, "state"), (Lane::Live, "live"), (Lane::History, "old")] {
        let records = within(queue.lease(UP, lane, 10, 1000)).await.unwrap();
        assert_eq!(bodies(&records), [body]);
        assert_eq!(records[0].header.lane, lane);
    }
}

#[tokio::test]
async fn a_lease_waits_for_the_first_record_and_can_be_cancelled() {
    let bench = Bench::new();
    let queue = bench.open(1);
    let waiting = tokio::time::timeout(Duration::from_millis(20), queue.lease(UP, Lane::Live, 10, 1000)).await;
    assert!(waiting.is_err());
    let other = queue.clone();
    let leased = tokio::spawn(async move { lease(&other, 10).await });
    queue.commit(batch("a", &["1"])).await.unwrap();
    assert_eq!(bodies(&within(leased).await.unwrap()), ["1"]);
}

#[tokio::test]
async fn a_lease_keeps_to_its_bounds() {
    let bench = Bench::new();
    let queue = bench.open(1);
    queue.commit(batch("a", &["1234", "1234", "1234", "123456789"])).await.unwrap();
    for (bytes, expected) in [(9, 2), (3, 1), (3, 1)] {
        let records = within(queue.lease(UP, Lane::Live, 10, bytes)).await.unwrap();
        assert_eq!(records.len(), expected);
    }
}

#[tokio::test]
async fn a_second_consumer_is_refused() {
    let bench = Bench::new();
    let queue = bench.open(1);
    queue.commit(batch("a", &["1"])).await.unwrap();
    lease(&queue, 1).await;
    let refused = queue.lease("kafka", Lane::Live, 1, 1).await;
    assert_eq!(refused, Err(LeaseError::OtherConsumer { asked: "kafka", holder: UP }));
}

#[tokio::test]
async fn batches_that_wait_share_a_transaction() {
    let bench = Bench::new();
    let queue = bench.open(1);
    let commits: Vec<_> = (0..200)
        .map(|n| {
            let queue = queue.clone();
            tokio::spawn(async move { queue.commit(batch(&format!("d{n}"), &["x"])).await.unwrap() })
        })
        .collect();
    for commit in commits {
        within(commit).await.unwrap();
    }
    let transactions = queue.stats().commits;
    assert!(transactions < 100, "{transactions} transactions for 200 batches");
    assert_eq!(queue.stats().messages, 200);
}

#[tokio::test]
async fn tables_change_with_the_records_of_their_batch() {
    let bench = Bench::new();
    let queue = bench.open(1);
    let put = |key: &str, value: &str| Put { table: "sessions", key: key.into(), value: value.into() };
    queue
        .commit(Batch {
            appends: vec![append("a", "1")],
            puts: vec![put("k2", "x"), put("k1", "y")],
            ..Batch::default()
        })
        .await
        .unwrap();
    let delete = Delete { table: "sessions", key: b"k2".to_vec() };
    queue.commit(Batch { deletes: vec![delete], puts: vec![put("k3", "z")], ..Batch::default() }).await.unwrap();
    queue.close().await.unwrap();
    let queue = bench.open(2);
    let expected: Vec<(Vec<u8>, Vec<u8>)> = vec![(b"k1".into(), b"y".into()), (b"k3".into(), b"z".into())];
    assert_eq!(queue.scan("sessions").await.unwrap(), expected);
    assert_eq!(queue.scan("retained").await.unwrap(), vec![]);
}

#[tokio::test]
async fn far_more_than_the_memory_keeps_comes_back_complete() {
    let bench = Bench::new();
    let queue = bench.open(1);
    let body = "x".repeat(500);
    let mut expected = 0_u64;
    for _ in 0..40 {
        let appends = (0..1000).map(|_| append("a", body.clone())).collect();
        queue.commit(Batch { appends, ..Batch::default() }).await.unwrap();
        expected += 1000;
    }
    let mut next = 1;
    while next <= expected {
        let records = lease(&queue, 4096).await;
        for record in &records {
            assert_eq!(record.header.seq, next);
            next += 1;
        }
        within(queue.settle(UP, ids(&records))).await.unwrap();
    }
    settled(&queue).await;
    assert_eq!(queue.stats().messages, 0);
    assert_eq!(queue.stats().bytes, 0);
    assert_sums(&queue);
}

#[tokio::test]
async fn a_dropped_commit_is_stored_all_the_same() {
    let bench = Bench::new();
    let queue = bench.open(1);
    {
        let mut commit = std::pin::pin!(queue.commit(batch("a", &["1"])));
        // Polled once, then dropped.
        tokio::select! {
            biased;
            _ = &mut commit => {}
            () = std::future::ready(()) => {}
        }
    }
    until("the record", || queue.stats().messages == 1).await;
}

#[tokio::test]
async fn the_writer_takes_no_more_in_hand_than_it_may() {
    let mut bench = Bench::new();
    bench.options.queued_batches = 2;
    bench.options.queued_bytes = 4 * RECORD_OVERHEAD;
    let queue = bench.open(1);
    let commits: Vec<_> = (0..50)
        .map(|_| {
            let queue = queue.clone();
            tokio::spawn(async move { queue.commit(batch("a", &["1", "2"])).await })
        })
        .collect();
    for commit in commits {
        within(commit).await.unwrap().unwrap();
    }
    assert!(queue.stats().commits >= 25, "at most two batches share a transaction");
    let large = queue.commit(batch("a", &["1", "2", "3", "4", "5"])).await;
    assert!(matches!(large, Err(CommitError::TooLarge { .. })), "{large:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_was_polled_once_holds_nobody_up() {
    use futures_util::FutureExt;

    let queue = Bench::new().open(1);
    // Begun on two threads at a time, and then left alone: as the broker does with all but the first of a publisher.
    let begin = |queue: crate::Queue| async move {
        let mut begun: Vec<_> = (0..2_000)
            .map(|_| {
                let queue = queue.clone();
                async move { queue.commit(batch("a", &["1"])).await }.boxed()
            })
            .collect();
        for commit in &mut begun {
            // It may be durable before the poll ends.
            drop(commit.now_or_never());
            tokio::task::yield_now().await;
        }
        begun
    };
    let (left, right) = (tokio::spawn(begin(queue.clone())), tokio::spawn(begin(queue.clone())));
    let begun = (left.await.unwrap(), right.await.unwrap());
    until("all of them", || queue.stats().messages == 4_000).await;
    drop(begun);
}

#[tokio::test]
async fn a_closed_queue_says_so() {
    let bench = Bench::new();
    let queue = bench.open(1);
    let other = queue.clone();
    let waiting = tokio::spawn(async move { other.lease(UP, Lane::Live, 1, 1).await });
    queue.commit(Batch::default()).await.unwrap();
    queue.close().await.unwrap();
    assert_eq!(within(waiting).await.unwrap(), Err(LeaseError::Closed));
    assert_eq!(queue.commit(batch("a", &["1"])).await, Err(CommitError::Closed));
    assert_eq!(queue.settle(UP, vec![]).await, Err(SettleError::Closed));
}

#[tokio::test]
async fn the_last_handle_stores_what_waits() {
    let bench = Bench::new();
    let queue = bench.open(1);
    queue.commit(batch("a", &["1"])).await.unwrap();
    let records = lease(&queue, 1).await;
    queue.settle(UP, ids(&records)).await.unwrap();
    let path = bench.path();
    drop(queue);
    until("the end of the writer", || !crate::sqlite::beside(&path, "-wal").exists()).await;
    let queue = bench.open(2);
    assert_eq!(queue.stats().messages, 0);
    assert_eq!(queue.ledger()[0].delivered, 1);
}

#[tokio::test]
async fn the_buffer_says_how_long_it_lasts_at_the_present_rate() {
    let bench = Bench::new();
    let queue = bench.open(1);
    assert_eq!(queue.stats().holds, None);
    for _ in 0..10 {
        let appends = (0..100).map(|_| append("a", vec![b'x'; 952])).collect();
        queue.commit(Batch { appends, ..Batch::default() }).await.unwrap();
        bench.clock.advance(Duration::from_secs(1));
    }
    // 100 kB a second; the writer looks at the clock once a second.
    until("the forecast", || queue.stats().holds.is_some()).await;
    queue.commit(batch("a", &["1"])).await.unwrap();
    bench.clock.advance(Duration::from_secs(1));
    let before = queue.stats().commits;
    queue.commit(batch("a", &["2"])).await.unwrap();
    until("the commit", || queue.stats().commits > before).await;
    let stats = queue.stats();
    let (holds, left) = (stats.holds.unwrap().as_secs(), stats.left.unwrap().as_secs());
    let whole = stats.capacity_bytes / 100_000;
    assert!((whole..whole * 3 / 2).contains(&holds), "{holds} of {whole}");
    assert!(left < holds && left > holds * 9 / 10, "{left} of {holds}");
}
