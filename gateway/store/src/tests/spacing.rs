//! Transactions while nobody takes records.

use std::time::{Duration, Instant};

use crate::{Batch, Lane, Put, Queue};

use super::{Bench, UP, append, batch, until, within};

fn away() -> Bench {
    let mut bench = Bench::new();
    // Long enough to be told from a slow disk.
    bench.options.spacing = Duration::from_millis(1500);
    bench
}

async fn stream(queue: &Queue) -> u64 {
    let before = queue.stats().commits;
    let mut open = Vec::new();
    for number in 0..40 {
        let queue = queue.clone();
        open.push(tokio::spawn(async move { queue.commit(batch("a", &[&number.to_string()])).await }));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for commit in open {
        within(commit).await.unwrap().unwrap();
    }
    queue.stats().commits - before
}

#[tokio::test]
async fn commits_gather_while_the_consumer_is_away_and_do_not_while_it_is_there() {
    let bench = away();
    let queue = bench.open(1);
    let waiting = {
        let queue = queue.clone();
        tokio::spawn(async move { queue.lease(UP, Lane::History, 1, 1).await })
    };
    tokio::task::yield_now().await;
    bench.clock.advance(Duration::from_secs(5));
    let present = stream(&queue).await;
    assert!(present >= 15, "{present}");
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    bench.clock.advance(Duration::from_secs(5));
    let away = stream(&queue).await;
    assert!(away <= 4, "{away}");
}

#[tokio::test]
async fn keys_states_and_the_end_do_not_wait() {
    let mut bench = away();
    bench.options.spacing = Duration::from_secs(10);
    let queue = bench.open(1);
    bench.clock.advance(Duration::from_secs(5));
    queue.commit(batch("a", &["1"])).await.unwrap();
    let begin = Instant::now();
    let put = Put { table: "retained", key: vec![1], value: vec![1] };
    queue.commit(Batch { puts: vec![put], ..Batch::default() }).await.unwrap();
    let mut state = append("a", "state");
    state.lane = Lane::Priority;
    queue.commit(Batch::append(state)).await.unwrap();
    let last = {
        let queue = queue.clone();
        tokio::spawn(async move { queue.commit(batch("a", &["2"])).await })
    };
    until("the batch in line", || queue.stats().queued_batches > 0 || queue.stats().messages == 3).await;
    queue.close().await.unwrap();
    within(last).await.unwrap().unwrap();
    assert!(begin.elapsed() < bench.options.spacing, "{:?}", begin.elapsed());
}
