//! Batches that wait in memory for the consumer's word.

use std::task::Poll;
use std::time::{Duration, Instant};

use fieldgate_types::Size;
use rusqlite::ffi::{SQLITE_CORRUPT, SQLITE_IOERR};

use crate::faults::Point;
use crate::{Append, Batch, CommitError, Committed, Lane, Overflow, Put, Queue, Record};

use super::{Bench, UP, append, assert_sums, batch, bodies, ids, lease, lease_all, settled, until, within};

/// A commit that has been queued and waits.
type Commit = std::pin::Pin<Box<dyn Future<Output = Result<Committed, CommitError>> + Send>>;

/// Queues `batch`.
pub(super) async fn begin(queue: &Queue, batch: Batch) -> Commit {
    let queue = queue.clone();
    let mut commit: Commit = Box::pin(async move { queue.commit(batch).await });
    match std::future::poll_fn(|context| Poll::Ready(commit.as_mut().poll(context))).await {
        Poll::Ready(answer) => Box::pin(std::future::ready(answer)),
        Poll::Pending => commit,
    }
}

/// A queue that holds for ten seconds, and a consumer that keeps up: it has one record.
async fn holding() -> (Bench, Queue, Record) {
    let mut bench = Bench::new();
    bench.options.hold = Duration::from_secs(10);
    let queue = bench.open(1);
    let first = keeps_up(&queue).await;
    (bench, queue, first)
}

/// Gives the consumer a record, and leaves it with it.
async fn keeps_up(queue: &Queue) -> Record {
    let answer = begin(queue, Batch { durable: true, ..batch("first", &["first"]) }).await;
    let mut records = lease(queue, 1).await;
    within(answer).await.unwrap();
    records.remove(0)
}

async fn held(queue: &Queue, records: usize) {
    until("the held records", || queue.stats().held == records).await;
}

#[tokio::test]
async fn what_the_consumer_settles_in_time_is_answered_and_never_written() {
    let (bench, queue, first) = holding().await;
    let before = queue.stats().commits;
    let commit = begin(&queue, batch("a", &["1", "2"])).await;
    let records = lease(&queue, 10).await;
    assert_eq!(bodies(&records), ["1", "2"]);
    assert!(!records[0].replayed);
    let stats = queue.stats();
    assert_eq!((stats.held, stats.messages, stats.commits), (2, 3, before));
    assert_sums(&queue);
    queue.settle(UP, ids(&records)).await.unwrap();
    let receipts = within(commit).await.unwrap().receipts;
    for (receipt, record) in receipts.iter().zip(&records) {
        assert_eq!((receipt.id, receipt.boot, receipt.seq), (record.id, record.header.boot, record.header.seq));
    }
    let stats = queue.stats();
    assert_eq!((stats.held, stats.passed, stats.settling, stats.messages, stats.commits), (0, 2, 0, 1, before));
    queue.settle(UP, vec![first.id]).await.unwrap();
    queue.close().await.unwrap();
    let queue = bench.open(2);
    let rows = queue.ledger();
    assert_eq!(rows.iter().map(|row| (row.received, row.delivered)).collect::<Vec<_>>(), [(2, 2), (1, 1)]);
}

#[tokio::test]
async fn what_is_not_settled_in_time_is_written_and_keeps_its_number() {
    let mut bench = Bench::new();
    bench.options.hold = Duration::from_millis(20);
    let queue = bench.open(1);
    keeps_up(&queue).await;
    let begun = Instant::now();
    let commit = begin(&queue, batch("a", &["1"])).await;
    let sent = lease(&queue, 1).await;
    let receipts = within(commit).await.unwrap().receipts;
    assert!(begun.elapsed() >= bench.options.hold);
    assert_eq!((queue.stats().held, queue.stats().passed), (0, 0));
    queue.close().await.unwrap();
    let queue = bench.open(2);
    let again = lease_all(&queue).await;
    assert_eq!(bodies(&again), ["first", "1"]);
    assert_eq!(again[1].header, sent[0].header);
    assert_eq!((receipts[0].id, receipts[0].seq), (sent[0].id, sent[0].header.seq));
    assert_sums(&queue);
}

#[tokio::test]
async fn after_a_hold_that_ran_out_nothing_waits_for_a_while() {
    let mut bench = Bench::new();
    // Long enough to be told from a slow disk.
    bench.options.hold = Duration::from_secs(1);
    let queue = bench.open(1);
    keeps_up(&queue).await;
    queue.commit(batch("a", &["slow"])).await.unwrap();
    let begun = Instant::now();
    queue.commit(batch("a", &["at once"])).await.unwrap();
    assert!(begun.elapsed() < bench.options.hold);
    assert_eq!(queue.stats().passed, 0);
}

#[tokio::test]
async fn only_the_rest_of_a_batch_is_written() {
    let mut bench = Bench::new();
    bench.options.hold = Duration::from_millis(300);
    let queue = bench.open(1);
    keeps_up(&queue).await;
    let commit = begin(&queue, batch("a", &["1", "2", "3"])).await;
    let records = lease(&queue, 3).await;
    queue.settle(UP, ids(&records[..1])).await.unwrap();
    until("the first is through", || queue.stats().passed == 1).await;
    assert_sums(&queue);
    assert_eq!(within(commit).await.unwrap().receipts.len(), 3);
    queue.close().await.unwrap();
    let queue = bench.open(2);
    assert_eq!(bodies(&lease_all(&queue).await), ["first", "2", "3"]);
    assert_eq!(queue.ledger()[0].received, 3);
    assert_sums(&queue);
}

#[tokio::test]
async fn a_batch_that_must_be_durable_takes_all_before_it_along() {
    let (bench, queue, _first) = holding().await;
    let put = || vec![Put { table: "t", key: b"k".to_vec(), value: b"v".to_vec() }];
    for (number, must) in [
        Batch { durable: true, ..batch("a", &["b"]) },
        Batch { puts: put(), ..batch("a", &["b"]) },
        Batch { puts: put(), ..Batch::default() },
    ]
    .into_iter()
    .enumerate()
    {
        let one = begin(&queue, batch("a", &["a"])).await;
        held(&queue, 1).await;
        let two = begin(&queue, must).await;
        let two = within(two).await.unwrap().receipts;
        let one = within(one).await.unwrap().receipts;
        assert!(two.iter().all(|two| one[0].id < two.id && one[0].seq < two.seq), "{number}");
        assert_eq!((queue.stats().held, queue.stats().passed), (0, 0));
    }
    queue.close().await.unwrap();
    assert_eq!(bodies(&lease_all(&bench.open(2)).await), ["first", "a", "b", "a", "b", "a"]);
}

#[tokio::test]
async fn a_lost_connection_writes_what_is_held_before_it_is_leased_again() {
    let (_bench, queue, first) = holding().await;
    let commit = begin(&queue, batch("a", &["1", "2"])).await;
    let sent = lease(&queue, 10).await;
    let later = begin(&queue, batch("a", &["3"])).await;
    held(&queue, 3).await;
    queue.rewind(UP);
    let again = lease_all(&queue).await;
    assert_eq!(bodies(&again), ["first", "1", "2", "3"]);
    assert_eq!((&again[0].header, &again[1].header), (&first.header, &sent[0].header));
    within(commit).await.unwrap();
    queue.settle(UP, ids(&again)).await.unwrap();
    within(later).await.unwrap();
    settled(&queue).await;
    assert_eq!(queue.stats().messages, 0);
    assert_sums(&queue);
}

#[tokio::test]
async fn nothing_is_held_while_the_consumer_is_away_or_behind() {
    let mut bench = Bench::new();
    bench.options.hold = Duration::from_secs(30);
    bench.options.spacing = Duration::ZERO;
    let queue = bench.open(1);
    bench.clock.advance(Duration::from_secs(1));
    within(queue.commit(batch("a", &["away"]))).await.unwrap();
    queue.close().await.unwrap();
    let queue = bench.open(2);
    bench.clock.advance(Duration::from_secs(1));
    within(
        queue.commit(Batch { appends: (0..40_000).map(|n| append("a", n.to_string())).collect(), ..Batch::default() }),
    )
    .await
    .unwrap();
    lease(&queue, 10).await;
    within(queue.commit(batch("a", &["behind"]))).await.unwrap();
    assert_eq!(queue.stats().passed, 0);
}

#[tokio::test]
async fn between_what_it_settled_and_its_next_lease_the_consumer_is_not_away() {
    let (bench, queue, first) = holding().await;
    // It took its time.
    bench.clock.advance(Duration::from_secs(5));
    queue.settle(UP, vec![first.id]).await.unwrap();
    settled(&queue).await;
    let before = queue.stats().commits;
    let commit = begin(&queue, batch("a", &["1"])).await;
    held(&queue, 1).await;
    let records = lease(&queue, 1).await;
    queue.settle(UP, ids(&records)).await.unwrap();
    within(commit).await.unwrap();
    assert_eq!((queue.stats().passed, queue.stats().commits), (1, before));
    bench.clock.advance(Duration::from_secs(1));
    within(queue.commit(batch("a", &["2"]))).await.unwrap();
    assert_eq!(queue.stats().passed, 1);
}

#[tokio::test]
async fn what_the_consumer_refuses_is_written_and_kept_aside() {
    let (bench, queue, first) = holding().await;
    let commit = begin(&queue, batch("a", &["poison", "good"])).await;
    let records = lease(&queue, 10).await;
    queue.quarantine(UP, records[0].id, "refused").await.unwrap();
    within(commit).await.unwrap();
    queue.settle(UP, vec![records[1].id, first.id]).await.unwrap();
    settled(&queue).await;
    let row = queue.ledger().remove(0);
    assert_eq!((row.received, row.delivered, row.quarantined, row.waiting), (2, 1, 1, 0));
    queue.close().await.unwrap();
    let file = rusqlite::Connection::open(bench.path()).unwrap();
    let kept: Vec<u8> = file.query_row("SELECT body FROM quarantine", [], |row| row.get(0)).unwrap();
    assert_eq!(kept, b"poison");
}

#[tokio::test]
async fn the_end_writes_what_is_held() {
    let (bench, queue, _first) = holding().await;
    let commit = begin(&queue, batch("a", &["1"])).await;
    held(&queue, 1).await;
    within(queue.close()).await.unwrap();
    within(commit).await.unwrap();
    assert_eq!(bodies(&lease_all(&bench.open(2)).await), ["first", "1"]);
}

#[tokio::test]
async fn what_is_held_is_bounded() {
    let (_bench, queue, _first) = holding().await;
    let appends = |from: usize| (from..from + 1000).map(|n| append("a", n.to_string())).collect();
    let mut commits = Vec::new();
    for from in [0, 1000] {
        commits.push(begin(&queue, Batch { appends: appends(from), ..Batch::default() }).await);
    }
    held(&queue, 2000).await;
    assert_eq!(queue.stats().commits, 1);
    commits.push(begin(&queue, Batch { appends: appends(2000), ..Batch::default() }).await);
    for commit in commits {
        within(commit).await.unwrap();
    }
    let mut all = Vec::new();
    while all.len() < 3000 {
        all.extend(lease(&queue, 4000).await);
    }
    assert_eq!(bodies(&all), (0..3000).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_buffer_that_refuses_holds_nothing() {
    let mut bench = Bench::new();
    bench.options.hold = Duration::from_secs(10);
    bench.options.overflow = Overflow::Refuse;
    bench.options.max_size = Size(2 << 20);
    let queue = bench.open(1);
    let filling = {
        let queue = queue.clone();
        tokio::spawn(async move {
            for _ in 0..100 {
                queue.commit(Batch { durable: true, ..batch("a", &[&"x".repeat(50_000)]) }).await.unwrap();
            }
        })
    };
    until("the full buffer", || !queue.stats().health.is_ok()).await;
    let mut first = lease(&queue, 1).await;
    let waits = begin(&queue, batch("b", &["small"])).await;
    until("the batch in the line", || queue.stats().queued_batches >= 2).await;
    assert_eq!(queue.stats().held, 0);
    assert_sums(&queue);
    let mut delivered = 0;
    while delivered < 101 {
        delivered += first.len();
        queue.settle(UP, ids(&first)).await.unwrap();
        if delivered < 101 {
            first = lease(&queue, 100).await;
        }
    }
    within(filling).await.unwrap();
    within(waits).await.unwrap();
    settled(&queue).await;
    assert_eq!((queue.stats().messages, queue.stats().held), (0, 0));
    assert_sums(&queue);
}

#[tokio::test]
async fn what_is_held_keeps_its_number_through_a_failing_disk() {
    for (points, code) in [
        (&[Point::BeforeCommit][..], SQLITE_IOERR),
        (&[Point::AfterCommit, Point::Reopen][..], SQLITE_IOERR),
        (&[Point::BeforeCommit][..], SQLITE_CORRUPT),
    ] {
        let (bench, queue, _first) = holding().await;
        let commit = begin(&queue, batch("a", &["1", "2"])).await;
        let sent = lease(&queue, 1).await;
        bench.faults.fail(points, code);
        let durable = begin(&queue, Batch { durable: true, ..batch("b", &["3"]) }).await;
        until("a failure", || bench.faults.hits() > 0).await;
        bench.faults.fail(&[], 0);
        let receipts = within(commit).await.unwrap().receipts;
        within(durable).await.unwrap();
        assert_eq!((receipts[0].id, receipts[0].seq), (sent[0].id, sent[0].header.seq));
        until("the salvage", || !queue.stats().salvaging).await;
        assert_sums(&queue);
        queue.close().await.unwrap();
        let queue = bench.open(2);
        let again = lease_all(&queue).await;
        assert_eq!(bodies(&again), ["first", "1", "2", "3"], "{points:?} {code}");
        assert_eq!(again[1].header, sent[0].header);
        assert_sums(&queue);
    }
}

/// What a crash leaves: nothing is written at an end.
fn after_a_crash(bench: &Bench) -> Queue {
    let copy = bench.dir.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    for name in ["queue.db", "queue.db-wal"] {
        std::fs::copy(bench.dir.path().join(name), copy.join(name)).unwrap();
    }
    bench.open_at(&copy.join("queue.db"), 2)
}

/// Its row is made in memory, and the record that comes first to the file must not come without it.
#[tokio::test]
async fn a_device_whose_first_records_were_never_written_is_known_after_a_crash() {
    let (bench, queue, _first) = holding().await;
    for body in ["1", "2", "3"] {
        let commit = begin(&queue, batch("a", &[body])).await;
        let records = lease(&queue, 1).await;
        queue.settle(UP, ids(&records)).await.unwrap();
        within(commit).await.unwrap();
    }
    queue.commit(Batch { durable: true, ..batch("a", &["4"]) }).await.unwrap();
    let queue = after_a_crash(&bench);
    assert_eq!(queue.stats().set_aside, None);
    let row = queue.ledger().remove(0);
    assert_eq!((row.device.as_str(), row.received, row.delivered), ("a", 4, 3));
    for body in ["5", "6", "7", "8", "9"] {
        queue.commit(batch("a", &[body])).await.unwrap();
    }
    assert_eq!(bodies(&lease_all(&queue).await), ["first", "4", "5", "6", "7", "8", "9"]);
    assert_sums(&queue);
}

/// A record that is sent again gets an id above those of what is held.
#[tokio::test]
async fn what_is_sent_again_from_aside_takes_what_is_held_along() {
    let (bench, queue, first) = holding().await;
    queue.quarantine(UP, first.id, "refused").await.unwrap();
    settled(&queue).await;
    let other = keeps_up(&queue).await;
    let commit = begin(&queue, batch("a", &["1", "2"])).await;
    held(&queue, 2).await;
    assert_eq!(within(queue.retry(vec![first.id])).await.unwrap(), 1);
    within(commit).await.unwrap();
    assert_eq!((queue.stats().held, queue.stats().passed), (0, 0));
    let queue = after_a_crash(&bench);
    assert_sums(&queue);
    let again = lease_all(&queue).await;
    assert_eq!(bodies(&again), ["first", "1", "2", "first"]);
    assert_eq!((&again[0].header, &again[3].header), (&other.header, &first.header));
    assert_eq!(queue.stats().messages, 4);
}

/// Records of two lanes are settled out of turn and the file is looked at before all of it is known to its counters.
#[tokio::test]
async fn ids_never_meet_after_records_passed_out_of_turn() {
    let (bench, queue, first) = holding().await;
    let old = |body: &str| Batch::append(Append { lane: Lane::History, ..append("b", body.to_owned()) });
    let lease_old = || within(queue.lease(UP, Lane::History, 1, usize::MAX));
    queue.commit(Batch { durable: true, ..old("0") }).await.unwrap();
    let older = lease_old().await.unwrap();
    let one = begin(&queue, batch("a", &["1"])).await;
    let two = begin(&queue, old("2")).await;
    let passing = lease_old().await.unwrap();
    queue.settle(UP, ids(&passing)).await.unwrap();
    until("the second is through", || queue.stats().passed == 1).await;
    // A transaction that has nothing to do with what is held writes the counters.
    queue.settle(UP, vec![first.id, older[0].id]).await.unwrap();
    settled(&queue).await;
    assert_eq!(queue.stats().held, 1);
    let durable = begin(&queue, Batch { durable: true, ..batch("a", &["3"]) }).await;
    for commit in [one, two, durable] {
        within(commit).await.unwrap();
    }
    let queue = after_a_crash(&bench);
    assert_sums(&queue);
    assert_eq!(queue.stats().messages, 2);
    queue.commit(batch("c", &["4"])).await.unwrap();
    assert_eq!(bodies(&lease_all(&queue).await), ["1", "3", "4"]);
}
