//! Reaching the size: the oldest go, counted, or commits wait.

use std::time::Duration;

use fieldgate_types::{Percent, Size};

use crate::{Batch, CommitError, Health, Options, Overflow, Put, Queue};

use super::{Bench, SMALL, UP, append, assert_sums, batch, ids, lease, row, settled, store, until, within};

fn small(overflow: Overflow) -> Bench {
    let mut bench = Bench::small();
    bench.options.overflow = overflow;
    bench
}

/// Batches of ten, whose bodies name their batch.
async fn fill(queue: &Queue, device: &str, batches: std::ops::Range<u32>) {
    for number in batches {
        let body = format!("{number:0200}");
        store(queue, (0..10).map(|_| append(device, body.clone()))).await;
    }
}

#[tokio::test]
async fn the_oldest_make_room_whole_batches_at_a_time_and_are_counted() {
    let mut bench = small(Overflow::DropOldest);
    bench.options.device_share = Percent::ALL;
    let queue = bench.open(1);
    fill(&queue, "old", 0..100).await;
    fill(&queue, "new", 100..1000).await;
    assert!(queue.stats().health.is_ok());
    assert!(queue.stats().file_bytes <= SMALL, "{:?}", queue.stats());
    assert_sums(&queue);
    let ledger = queue.ledger();
    let evicted: u64 = ledger.iter().map(|row| row.evicted).sum();
    let old = row(&queue, "old");
    assert_eq!((old.evicted, old.waiting), (1000, 0));
    assert!(ledger.iter().flat_map(|row| &row.losses).all(|loss| loss.reason == "max-size"), "{ledger:?}");

    // What is left is the end of what was stored, without gaps.
    let mut records = Vec::new();
    while queue.stats().messages > 0 {
        let next = lease(&queue, 500).await;
        queue.settle(UP, ids(&next)).await.unwrap();
        settled(&queue).await;
        records.extend(next);
    }
    assert_eq!(records.len() as u64, 10_000 - evicted);
    assert_eq!(evicted % 10, 0, "never half a batch");
    assert!(records.len() > 1500, "the size is used: {} records left", records.len());
    let seqs: Vec<u64> = records.iter().map(|record| record.header.seq).collect();
    assert!(seqs.windows(2).all(|pair| pair[0] + 1 == pair[1]));
    assert_eq!(seqs.last(), Some(&9000));
    assert_sums(&queue);
    queue.close().await.unwrap();
    let queue = bench.open(2);
    assert_eq!(queue.ledger().iter().map(|row| row.evicted).sum::<u64>(), evicted);
    assert_sums(&queue);
}

#[tokio::test]
async fn leased_records_are_spared_and_counted_once() {
    let bench = small(Overflow::DropOldest);
    let queue = bench.open(1);
    fill(&queue, "a", 0..5).await;
    let held = lease(&queue, 20).await;
    fill(&queue, "a", 5..600).await;
    let evicted = queue.ledger()[0].evicted;
    assert!(evicted > 1000);
    queue.settle(UP, ids(&held)).await.unwrap();
    settled(&queue).await;
    let ledger = queue.ledger();
    assert_eq!((ledger[0].delivered, ledger[0].evicted), (20, evicted));
    assert_sums(&queue);
    let next = lease(&queue, 1).await;
    assert_eq!(next[0].header.seq, 20 + evicted + 1);
}

#[tokio::test]
async fn refusing_commits_wait_until_something_is_settled() {
    let bench = small(Overflow::Refuse);
    let queue = bench.open(1);
    let producer = {
        let queue = queue.clone();
        tokio::spawn(async move { fill(&queue, "a", 0..500).await })
    };
    until("the full buffer", || !queue.stats().health.is_ok()).await;
    assert!(matches!(queue.stats().health, Health::Refusing { reason, .. } if reason == "the buffer is full"));
    let stored = queue.stats().messages;
    assert!(stored > 1500 && stored < 5000, "{stored}");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(queue.stats().messages, stored, "no acknowledgement meanwhile");
    assert!(!producer.is_finished());
    let mut delivered = 0;
    while delivered < 5000 {
        let records = lease(&queue, 200).await;
        delivered += records.len();
        queue.settle(UP, ids(&records)).await.unwrap();
    }
    within(producer).await.unwrap();
    settled(&queue).await;
    assert!(queue.stats().health.is_ok());
    assert_eq!(queue.ledger()[0].delivered, 5000);
    assert_eq!(queue.ledger()[0].evicted, 0);
    assert_sums(&queue);
}

#[tokio::test]
async fn a_batch_that_does_not_fit_alone_is_refused_and_this_is_said() {
    let bench = small(Overflow::Refuse);
    let queue = bench.open(1);
    let producer = {
        let queue = queue.clone();
        let large = "x".repeat(50_000);
        tokio::spawn(async move { while queue.commit(batch("a", &[&large])).await.is_ok() {} })
    };
    until("the full buffer", || !queue.stats().health.is_ok()).await;
    let stored = queue.stats().messages;
    assert!(stored > 5, "{stored}");
    let first = lease(&queue, 5).await;
    queue.settle(UP, ids(&first)).await.unwrap();
    until("room", || queue.stats().messages > stored - first.len() as u64).await;
    producer.abort();
    assert_sums(&queue);
}

#[tokio::test]
async fn tables_push_records_out_and_then_refuse() {
    let bench = small(Overflow::DropOldest);
    let queue = bench.open(1);
    fill(&queue, "a", 0..100).await;
    let put = |n: u32| Put { table: "retained", key: n.to_le_bytes().to_vec(), value: vec![0; 10_000] };
    let mut stored = 0;
    loop {
        let commit = queue.commit(Batch { puts: vec![put(stored)], ..Batch::default() });
        if tokio::time::timeout(Duration::from_secs(2), commit).await.is_err() {
            break;
        }
        stored += 1;
        assert!(stored < 100);
    }
    assert!(stored > 20, "{stored}");
    assert!(!queue.stats().health.is_ok());
    assert_eq!(queue.stats().messages, 0);
    assert_sums(&queue);
}

#[tokio::test]
async fn a_batch_that_never_fits_is_told_so() {
    let bench = small(Overflow::Refuse);
    let queue = bench.open(1);
    let refused = queue.commit(Batch::append(append("a", vec![0; 600_000]))).await;
    assert!(refused.is_err());
    assert!(queue.commit(Batch::append(append("a", vec![0; 200_000]))).await.is_ok());
}

/// On a small file system a transaction of very many removals would need more log than there is room for.
#[tokio::test]
async fn many_removals_leave_in_bounded_transactions() {
    let mut bench = Bench::new();
    bench.options.max_size = Size(64 << 20);
    let queue = bench.open(1);
    for _ in 0..80 {
        let appends = (0..100).map(|_| append("a", vec![0; 1000])).collect();
        queue.commit(Batch { appends, ..Batch::default() }).await.unwrap();
    }
    let mut held = Vec::new();
    while held.len() < 8000 {
        held.extend(ids(&lease(&queue, 8000).await));
    }
    let before = queue.stats().commits;
    queue.settle(UP, held).await.unwrap();
    settled(&queue).await;
    assert!(queue.stats().commits >= before + 4, "8 MB leave 2 MiB at a time");
    let log = std::fs::metadata(crate::sqlite::beside(&bench.path(), "-wal")).unwrap().len();
    assert!(log <= 12 << 20, "{log}");
    assert_eq!(queue.ledger()[0].delivered, 8000);
    assert_sums(&queue);
}

#[tokio::test]
async fn a_larger_size_lets_the_commits_through_that_wait() {
    let bench = small(Overflow::Refuse);
    let queue = bench.open(1);
    let producer = {
        let queue = queue.clone();
        tokio::spawn(async move { fill(&queue, "a", 0..500).await })
    };
    until("the full buffer", || !queue.stats().health.is_ok()).await;
    queue.rebound(Options { max_size: Size(16 * SMALL), ..bench.options.clone() });
    within(producer).await.unwrap();
    until("a healthy buffer", || queue.stats().health.is_ok()).await;
    assert_eq!((queue.stats().messages, queue.ledger()[0].evicted), (5000, 0));
    assert_sums(&queue);
}

#[tokio::test]
async fn a_smaller_size_takes_the_oldest_and_the_largest_batch_with_it() {
    let mut bench = small(Overflow::DropOldest);
    bench.options.max_size = Size(16 * SMALL);
    let queue = bench.open(1);
    fill(&queue, "a", 0..1000).await;
    assert_eq!(queue.stats().messages, 10_000);
    queue.rebound(Options { max_size: Size(SMALL), ..bench.options.clone() });
    fill(&queue, "a", 1000..1001).await;
    let left = queue.stats().messages;
    assert!((1500..6000).contains(&left), "{left}");
    assert_eq!(queue.ledger()[0].evicted, 10_010 - left);
    assert_sums(&queue);
    let large = within(queue.commit(Batch::append(append("a", vec![0_u8; 512 << 10])))).await;
    assert!(matches!(large, Err(CommitError::TooLarge { limit, .. }) if limit == 256 << 10), "{large:?}");
    // What is left is the end of what was stored.
    let first = lease(&queue, 1).await;
    assert_eq!(first[0].header.seq, 10_010 - left + 1);
}

#[tokio::test]
async fn what_was_settled_makes_room_before_anything_is_evicted() {
    let mut bench = small(Overflow::DropOldest);
    bench.options.device_share = Percent::ALL;
    let queue = bench.open(1);
    let stored = |count: usize| (0..count).map(|_| append("a", vec![b'x'; 1_000])).collect();
    for _ in 0..18 {
        within(queue.commit(Batch { appends: stored(20), ..Batch::default() })).await.unwrap();
    }
    let first = lease(&queue, 200).await;
    assert_eq!(first.len(), 200);
    // They lie on disk still, and wait there for company.
    queue.settle(UP, ids(&first)).await.unwrap();
    within(queue.commit(Batch { appends: stored(60), ..Batch::default() })).await.unwrap();
    let row = queue.ledger().remove(0);
    assert_eq!((row.received, row.evicted), (420, 0));
    assert!(row.delivered > 0, "{row:?}");
    queue.close().await.unwrap();
}
