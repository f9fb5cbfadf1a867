//! Live records first: what waited before the connection is history.

use std::time::Duration;

use fieldgate_types::{Percent, Size};
use rusqlite::ffi::SQLITE_CORRUPT;

use crate::faults::Point;
use crate::{Batch, Lane, Queue, Record};

use super::hold::begin;
use super::{Bench, UP, append, assert_sums, batch, bodies, ids, settled, until, within};

/// Exactly so many.
async fn take(queue: &Queue, lane: Lane, most: usize) -> Vec<Record> {
    let mut taken = Vec::new();
    while taken.len() < most {
        taken.extend(within(queue.lease(UP, lane, most - taken.len(), usize::MAX)).await.unwrap());
    }
    taken
}

async fn nothing_in(queue: &Queue, lane: Lane) {
    let none = tokio::time::timeout(Duration::from_millis(50), queue.lease(UP, lane, 1, usize::MAX)).await;
    assert!(none.is_err(), "{none:?}");
}

#[tokio::test]
async fn what_waited_is_history_and_what_comes_is_live() {
    let bench = Bench::new();
    let queue = bench.open(1);
    queue.commit(batch("a", &["1", "2", "3"])).await.unwrap();
    queue.part(UP);
    nothing_in(&queue, Lane::Live).await;
    queue.commit(batch("a", &["4", "5"])).await.unwrap();
    // However long it waits.
    bench.clock.advance(Duration::from_secs(60));
    let live = take(&queue, Lane::Live, 2).await;
    let history = take(&queue, Lane::History, 3).await;
    assert_eq!(
        (bodies(&live), bodies(&history)),
        (vec!["4".into(), "5".into()], ["1", "2", "3"].map(Into::into).into())
    );
    assert!(live.iter().all(|record| !record.replayed) && history.iter().all(|record| record.replayed));
    queue.settle(UP, ids(&live)).await.unwrap();
    queue.settle(UP, ids(&history[1..])).await.unwrap();
    settled(&queue).await;
    queue.rewind(UP);
    assert_eq!(bodies(&take(&queue, Lane::History, 1).await), ["1"]);
    assert_sums(&queue);
}

#[tokio::test]
async fn what_was_live_on_the_last_connection_is_history_on_the_next() {
    let bench = Bench::new();
    let queue = bench.open(1);
    queue.commit(batch("a", &["1", "2"])).await.unwrap();
    queue.part(UP);
    queue.commit(batch("a", &["3", "4"])).await.unwrap();
    let live = take(&queue, Lane::Live, 2).await;
    let old = take(&queue, Lane::History, 1).await;
    queue.settle(UP, vec![live[0].id, old[0].id]).await.unwrap();
    queue.part(UP);
    queue.commit(batch("a", &["5"])).await.unwrap();
    assert_eq!(bodies(&take(&queue, Lane::Live, 1).await), ["5"]);
    assert_eq!(bodies(&take(&queue, Lane::History, 2).await), ["2", "4"]);
    queue.close().await.unwrap();
    let queue = bench.open(2);
    queue.part(UP);
    assert_eq!(bodies(&take(&queue, Lane::History, 3).await), ["2", "4", "5"], "after a restart all of it");
    nothing_in(&queue, Lane::Live).await;
}

#[tokio::test]
async fn far_more_than_the_memory_keeps_is_history_in_order_beside_live_records() {
    let bench = Bench::new();
    let queue = bench.open(1);
    let appends = |from: u64, to: u64| (from..to).map(|n| append("a", n.to_string())).collect();
    queue.commit(Batch { appends: appends(0, 40_000), ..Batch::default() }).await.unwrap();
    queue.part(UP);
    let (mut history, mut live) = (Vec::new(), Vec::new());
    let mut next = 40_000;
    while history.len() < 40_000 {
        let records = within(queue.lease(UP, Lane::History, 1000, usize::MAX)).await.unwrap();
        queue.settle(UP, ids(&records)).await.unwrap();
        history.extend(bodies(&records));
        queue.commit(Batch { appends: appends(next, next + 10), ..Batch::default() }).await.unwrap();
        next += 10;
        let records = take(&queue, Lane::Live, 10).await;
        queue.settle(UP, ids(&records)).await.unwrap();
        live.extend(bodies(&records));
    }
    let numbers = |from: u64, to: u64| (from..to).map(|n| n.to_string()).collect::<Vec<_>>();
    assert!(history == numbers(0, 40_000) && live == numbers(40_000, next));
    settled(&queue).await;
    assert_eq!(queue.stats().messages, 0);
}

#[tokio::test]
async fn the_oldest_go_first_and_leased_ones_stay() {
    let mut bench = Bench::new();
    bench.options.device_share = Percent::ALL;
    bench.options.max_size = Size(1 << 20);
    let queue = bench.open(1);
    let many = |device: &str, count: usize| Batch {
        appends: (0..count).map(|n| append(device, format!("{n:0200}"))).collect(),
        ..Batch::default()
    };
    for _ in 0..10 {
        queue.commit(many("old", 10)).await.unwrap();
    }
    queue.part(UP);
    for _ in 0..20 {
        queue.commit(many("leased", 10)).await.unwrap();
    }
    let leased = take(&queue, Lane::Live, 200).await;
    for _ in 0..600 {
        queue.commit(many("new", 10)).await.unwrap();
    }
    assert!(queue.stats().health.is_ok());
    assert_sums(&queue);
    let evicted: Vec<u64> = queue.ledger().iter().map(|row| row.evicted).collect();
    assert!(matches!(evicted[..], [0, new, 100] if new > 0), "leased, new, old: {evicted:?}");
    queue.settle(UP, ids(&leased)).await.unwrap();
    settled(&queue).await;
    let mut rest = Vec::new();
    while queue.stats().messages > 0 {
        // No more than may be leased at a time.
        let most = queue.stats().messages.min(500);
        let records = take(&queue, Lane::Live, usize::try_from(most).unwrap()).await;
        queue.settle(UP, ids(&records)).await.unwrap();
        settled(&queue).await;
        rest.extend(records);
    }
    assert!(rest.windows(2).all(|pair| pair[0].header.seq + 1 == pair[1].header.seq));
    assert_sums(&queue);
}

#[tokio::test]
async fn what_is_held_at_a_new_connection_is_written_and_history() {
    let mut bench = Bench::new();
    bench.options.hold = Duration::from_secs(10);
    let queue = bench.open(1);
    queue.commit(Batch { durable: true, ..batch("a", &["1"]) }).await.unwrap();
    take(&queue, Lane::Live, 1).await;
    let commit = begin(&queue, batch("a", &["2", "3"])).await;
    until("the held records", || queue.stats().held == 2).await;
    take(&queue, Lane::Live, 1).await;
    queue.part(UP);
    assert_eq!(bodies(&take(&queue, Lane::History, 3).await), ["1", "2", "3"]);
    within(commit).await.unwrap();
    // Live ones are held beside it.
    let commit = begin(&queue, batch("a", &["4"])).await;
    let live = take(&queue, Lane::Live, 1).await;
    queue.settle(UP, ids(&live)).await.unwrap();
    within(commit).await.unwrap();
    assert_eq!(queue.stats().passed, 1);
    assert_sums(&queue);
}

#[tokio::test]
async fn damage_keeps_the_order_within_both() {
    let bench = Bench::new();
    let queue = bench.open(1);
    queue.commit(batch("a", &["1", "2", "3"])).await.unwrap();
    queue.part(UP);
    queue.commit(batch("a", &["4", "5"])).await.unwrap();
    let flying = [take(&queue, Lane::History, 1).await, take(&queue, Lane::Live, 1).await].concat();
    bench.faults.fail(&[Point::BeforeCommit], SQLITE_CORRUPT);
    let commit = begin(&queue, batch("a", &["6"])).await;
    until("a failure", || bench.faults.hits() > 0).await;
    bench.faults.fail(&[], 0);
    within(commit).await.unwrap();
    until("the salvage", || !queue.stats().salvaging).await;
    assert_eq!(bodies(&take(&queue, Lane::History, 2).await), ["2", "3"]);
    assert_eq!(bodies(&take(&queue, Lane::Live, 2).await), ["5", "6"]);
    queue.settle(UP, ids(&flying)).await.unwrap();
    settled(&queue).await;
    assert_eq!(queue.stats().messages, 4);
    queue.part(UP);
    assert_eq!(bodies(&take(&queue, Lane::History, 4).await), ["2", "3", "5", "6"]);
    assert_sums(&queue);
}

#[tokio::test]
async fn each_way_through_the_queue_tells_what_is_with_the_consumer_and_what_is_next() {
    let bench = Bench::new();
    let queue = bench.open(1);
    let seen = |queue: &Queue| queue.lanes().map(|lane| (lane.name, lane.leased, lane.next));
    assert_eq!(seen(&queue), [("priority", 0, 0), ("live", 0, 0), ("history", 0, 0), ("older", 0, 0)]);
    queue.commit(batch("a", &["1", "2", "3"])).await.unwrap();
    queue.part(UP);
    queue.commit(batch("a", &["4", "5"])).await.unwrap();
    let live = take(&queue, Lane::Live, 1).await;
    let old = take(&queue, Lane::History, 1).await;
    assert_eq!(seen(&queue), [("priority", 0, 0), ("live", 1, 1), ("history", 0, 0), ("older", 1, 2)]);
    queue.settle(UP, vec![live[0].id, old[0].id]).await.unwrap();
    assert_eq!(seen(&queue), [("priority", 0, 0), ("live", 0, 1), ("history", 0, 0), ("older", 0, 2)]);
    settled(&queue).await;
    queue.commit(batch("B", &["1", "2", "3", "4"])).await.unwrap();
    assert_eq!(queue.received(), [("B".parse().unwrap(), 4), ("a".parse().unwrap(), 5)]);
    let deepest = |text: &str, most| {
        let (rows, found) = queue.deepest(text, most);
        (rows.iter().map(|row| row.device.to_string()).collect::<Vec<_>>(), found)
    };
    assert_eq!(deepest("", 9), (vec!["B".to_owned(), "a".to_owned()], 2));
    assert_eq!(deepest("", 1), (vec!["B".to_owned()], 2));
    assert_eq!(deepest("b", 9), (vec!["B".to_owned()], 1));
}
