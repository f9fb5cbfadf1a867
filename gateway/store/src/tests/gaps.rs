//! What never reaches the consumer, until it has told of it.

use std::time::Duration;

use fieldgate_types::{Percent, Size, UnixMillis};

use crate::{Batch, Gap, Lane, LossKind, Queue};

use super::{Bench, append, assert_sums, device, lease_all, until};

async fn store(queue: &Queue, name: &str, times: std::ops::Range<u64>) {
    for time in times {
        let mut append = append(name, vec![b'x'; 300]);
        append.time = UnixMillis(time);
        queue.commit(Batch::append(append)).await.unwrap();
    }
}

fn expired(count: u64, first: u64, last: u64) -> Gap {
    let (first, last) = (UnixMillis(first), UnixMillis(last));
    Gap { device: device("a"), kind: LossKind::Expired, reason: "max-age".into(), count, first, last }
}

#[tokio::test]
async fn a_gap_is_kept_through_restarts_until_it_was_told() {
    let bench = Bench::new();
    let queue = bench.open(1);
    store(&queue, "a", 100..110).await;
    bench.clock.advance(Duration::from_secs(8 * 86_400));
    until("the expiry", || queue.stats().messages == 0).await;
    assert_eq!(queue.gaps(), [expired(10, 100, 109)]);
    queue.close().await.unwrap();
    let queue = bench.open(2);
    let told = queue.gaps();
    assert_eq!(told, [expired(10, 100, 109)]);
    // More is lost before the marker is stored: that stays.
    store(&queue, "a", 200..203).await;
    bench.clock.advance(Duration::from_secs(8 * 86_400));
    until("the expiry", || queue.stats().messages == 0).await;
    let mut marker = append("a", "ten are missing");
    marker.lane = Lane::Live;
    queue.commit(Batch { appends: vec![marker], told, ..Batch::default() }).await.unwrap();
    assert_eq!(queue.gaps(), [expired(3, 109, 202)]);
    queue.commit(Batch { told: queue.gaps(), ..Batch::default() }).await.unwrap();
    assert_eq!(queue.gaps(), []);
    queue.close().await.unwrap();
    let queue = bench.open(3);
    assert_eq!(queue.gaps(), []);
    assert_eq!(lease_all(&queue).await.len(), 1);
    assert_eq!(queue.ledger()[0].expired, 13, "the ledger forgets nothing");
    assert_sums(&queue);
}

#[tokio::test]
async fn eviction_leaves_a_gap_of_each_device_with_its_times() {
    let mut bench = Bench::new();
    bench.options.max_size = Size(1 << 20);
    bench.options.device_share = Percent::ALL;
    let queue = bench.open(1);
    store(&queue, "quiet", 1..21).await;
    store(&queue, "loud", 100..3100).await;
    let gaps = queue.gaps();
    assert_eq!(gaps.len(), 2);
    for (gap, row) in gaps.iter().zip(queue.ledger()) {
        assert_eq!((&gap.device, gap.count), (&row.device, row.evicted));
        assert_eq!((gap.kind, gap.reason.as_ref()), (LossKind::Evicted, "max-size"));
    }
    assert_eq!((gaps[0].first, gaps[0].last), (UnixMillis(100), UnixMillis(99 + gaps[0].count)));
    assert_eq!((gaps[1].first, gaps[1].last, gaps[1].count), (UnixMillis(1), UnixMillis(20), 20));
}
