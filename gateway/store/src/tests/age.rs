//! Growing old: by running time, whatever the wall clock does.

use std::time::Duration;

use fieldgate_types::{BUILD_FLOOR, UnixMillis};

use crate::{Batch, Loss, LossKind, Options};

use super::{Bench, append, assert_sums, batch, bodies, lease, lease_all, until};

const DAY: Duration = Duration::from_secs(86_400);

fn ten_years_on() -> UnixMillis {
    BUILD_FLOOR.plus(3650 * DAY)
}

#[tokio::test]
async fn records_expire_after_max_age_of_running_time() {
    let bench = Bench::new();
    let queue = bench.open(1);
    queue.commit(batch("a", &["1", "2"])).await.unwrap();
    bench.clock.advance(4 * DAY);
    queue.commit(batch("a", &["3"])).await.unwrap();
    bench.clock.advance(3 * DAY);
    // Nobody leases: the writer sweeps by itself.
    until("the sweep", || queue.stats().messages == 1).await;
    assert_eq!(bodies(&lease_all(&queue).await), ["3"]);
    let ledger = queue.ledger();
    assert_eq!(ledger[0].losses, [Loss { kind: LossKind::Expired, reason: "max-age".into(), count: 2 }]);
    assert_eq!(ledger[0].expired, 2);
    assert_sums(&queue);
}

#[tokio::test]
async fn no_step_of_the_wall_clock_expires_anything() {
    let bench = Bench::new();
    let queue = bench.open(1);
    let mut short = append("a", "short");
    short.expires = Some(short.time.plus(Duration::from_secs(60)));
    queue.commit(Batch::append(short)).await.unwrap();
    queue.commit(batch("a", &["long"])).await.unwrap();
    for wall in [ten_years_on(), UnixMillis(0), BUILD_FLOOR] {
        bench.clock.step_to(wall);
        bench.clock.advance(Duration::from_secs(2));
        queue.commit(Batch::default()).await.unwrap();
    }
    let records = lease_all(&queue).await;
    assert_eq!(bodies(&records), ["short", "long"]);
    assert_eq!(records[0].remaining, Some(Duration::from_secs(54)));
    assert_eq!(records[1].remaining, None);
    assert!(records[0].replayed, "six seconds old");
}

#[tokio::test]
async fn a_restart_with_another_clock_expires_nothing() {
    let bench = Bench::new();
    let queue = bench.open(1);
    queue.commit(batch("a", &["1"])).await.unwrap();
    queue.close().await.unwrap();
    for (boot, wall) in [(2, UnixMillis(77)), (3, ten_years_on()), (4, UnixMillis(0)), (5, ten_years_on())] {
        bench.clock.step_to(wall);
        let queue = bench.open(boot);
        assert_eq!(bodies(&lease_all(&queue).await), ["1"], "clock at {wall}");
        queue.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_stop_counts_where_the_clock_is_right() {
    let bench = Bench::new();
    let queue = bench.open(1);
    queue.commit(batch("a", &["1"])).await.unwrap();
    queue.close().await.unwrap();
    bench.clock.advance(6 * DAY);
    let queue = bench.open(2);
    assert_eq!(bodies(&lease_all(&queue).await), ["1"]);
    queue.close().await.unwrap();
    bench.clock.advance(DAY);
    let queue = bench.open(3);
    until("the sweep", || queue.stats().messages == 0).await;
    assert_eq!(queue.ledger()[0].expired, 1);
}

#[tokio::test]
async fn a_message_expires_on_its_own_before_it_is_leased() {
    let bench = Bench::new();
    let queue = bench.open(1);
    let mut short = append("a", "short");
    short.expires = Some(short.time.plus(Duration::from_secs(60)));
    queue.commit(Batch { appends: vec![short, append("a", "long")], ..Batch::default() }).await.unwrap();
    bench.clock.advance(Duration::from_secs(60));
    assert_eq!(bodies(&lease(&queue, 10).await), ["long"]);
    until("the removal", || queue.stats().messages == 1).await;
    assert_eq!(queue.ledger()[0].losses[0].reason, "message-expiry");
    assert_sums(&queue);
}

#[tokio::test]
async fn what_is_leased_does_not_expire() {
    let bench = Bench::new();
    let queue = bench.open(1);
    queue.commit(batch("a", &["1", "2"])).await.unwrap();
    let held = lease(&queue, 1).await;
    bench.clock.advance(8 * DAY);
    until("the sweep", || queue.stats().messages == 1).await;
    queue.settle(super::UP, super::ids(&held)).await.unwrap();
    until("the removal", || queue.stats().messages == 0).await;
    let ledger = queue.ledger();
    assert_eq!((ledger[0].delivered, ledger[0].expired), (1, 1));
    assert_sums(&queue);
}

#[tokio::test]
async fn a_shorter_age_holds_for_what_is_stored_already() {
    let bench = Bench::new();
    let queue = bench.open(1);
    queue.commit(batch("a", &["1", "2"])).await.unwrap();
    bench.clock.advance(2 * DAY);
    queue.commit(batch("a", &["3"])).await.unwrap();
    assert_eq!(queue.stats().messages, 3);
    queue.rebound(Options { max_age: DAY, ..bench.options.clone() });
    until("the sweep", || queue.stats().messages == 1).await;
    assert_eq!(bodies(&lease_all(&queue).await), ["3"]);
    assert_sums(&queue);
}
