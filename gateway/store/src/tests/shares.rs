//! Who gives way when there is no room: whoever holds more than its share, alone, in whole batches, through crashes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fieldgate_types::{BUILD_FLOOR, Clock, ManualClock, Percent, Size, UnixMillis};
use proptest::collection::vec;
use proptest::prelude::*;
use rusqlite::ffi::SQLITE_IOERR;
use tokio::runtime::Runtime;

use crate::faults::Point;
use crate::{Append, Batch, Lane, Queue, Record, RecordId};

use super::model::copy_when_still;
use super::{Bench, SMALL, UP, append, assert_sums, ids, lease, row, settled, store, until, within};

async fn send(queue: &Queue, device: &str, lane: Lane, records: usize) {
    store(queue, (0..records).map(|_| Append { lane, ..append(device, vec![b'x'; 200]) })).await;
}

/// All that is left, of any lane, each record settled.
async fn drain(queue: &Queue) -> Vec<Record> {
    let mut all = Vec::new();
    while queue.stats().messages > 0 {
        let next = async {
            tokio::select! {
                records = queue.lease(UP, Lane::Priority, 500, usize::MAX) => records,
                records = queue.lease(UP, Lane::Live, 500, usize::MAX) => records,
                records = queue.lease(UP, Lane::History, 500, usize::MAX) => records,
            }
        };
        let next = within(next).await.unwrap();
        queue.settle(UP, ids(&next)).await.unwrap();
        settled(queue).await;
        all.extend(next);
    }
    all
}

#[tokio::test]
async fn a_wild_device_gives_way_alone_and_its_quiet_neighbours_lose_nothing() {
    let bench = Bench::small();
    let queue = bench.open(1);
    for round in 0..600 {
        send(&queue, "wild", Lane::Live, 10).await;
        if round % 3 == 0 {
            send(&queue, &format!("quiet-{}", round % 5), Lane::Live, 1).await;
        }
    }
    queue.close().await.unwrap();
    // What was known of the file is gone with the restart.
    let queue = bench.open(2);
    for _ in 0..300 {
        send(&queue, "wild", Lane::Live, 10).await;
    }
    assert!(queue.stats().health.is_ok());
    assert!(queue.stats().file_bytes <= SMALL, "{:?}", queue.stats());
    assert_sums(&queue);
    let wild = row(&queue, "wild");
    assert!(wild.evicted > 5_000 && wild.evicted.is_multiple_of(10), "{wild:?}");
    let given = wild.losses.iter().find(|loss| loss.reason == "device-share").unwrap().count;
    assert!(given * 10 > wild.evicted * 9, "the very first were the oldest of all: {wild:?}");
    assert!(wild.waiting > 1_200, "the size is used: {wild:?}");
    for quiet in queue.ledger().iter().filter(|row| row.device.as_str() != "wild") {
        assert_eq!((quiet.evicted, quiet.waiting), (0, 40), "{quiet:?}");
    }
    assert!(queue.gaps().iter().all(|gap| gap.device.as_str() == "wild"));

    let records = drain(&queue).await;
    assert!(records.windows(2).all(|pair| pair[0].id < pair[1].id));
    let mut last: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for record in &records {
        let name = (record.header.boot, record.header.seq);
        let before = last.insert(record.header.device.to_string(), name);
        assert!(before.is_none_or(|before| before < name), "{record:?}");
    }
    assert_eq!(last["wild"], (2, 3_000));
    assert_sums(&queue);
}

/// Each look at it is a while later.
#[derive(Debug)]
struct Ticking {
    clock: ManualClock,
    tick: Duration,
}

impl Clock for Ticking {
    fn now(&self) -> UnixMillis {
        self.clock.now()
    }

    fn monotonic(&self) -> Duration {
        self.clock.advance(self.tick);
        self.clock.monotonic()
    }
}

/// A full buffer with quiet devices in its older half and a wild one in the younger: what became of the quiet ones' records with the
/// first batch for which there was no room, how long that took by a clock that ticks, and what the wild device lost in the end.
async fn searched(tick: Duration) -> (u64, Duration, u64) {
    let mut bench = Bench::new();
    bench.options.max_size = Size(4 * SMALL);
    let clock = Arc::new(Ticking { clock: ManualClock::new(BUILD_FLOOR.plus(Duration::from_secs(86_400))), tick });
    let of = Arc::<Ticking>::clone(&clock);
    let queue = Queue::open_with(&bench.path(), 1, bench.options.clone(), of, bench.faults.clone()).unwrap();
    let quiet = ["quiet-0", "quiet-1", "quiet-2"];
    let lost = || queue.ledger().iter().map(|row| row.evicted).sum::<u64>();
    for n in 0..100 {
        store(&queue, (0..10).map(|_| append(quiet[n % 3], vec![b'q'; 1_000]))).await;
    }
    let mut before = clock.clock.monotonic();
    while lost() == 0 {
        before = clock.clock.monotonic();
        store(&queue, (0..10).map(|_| append("wild", vec![b'w'; 1_000]))).await;
    }
    let took = clock.clock.monotonic().saturating_sub(before);
    let evicted = quiet.iter().map(|name| row(&queue, name).evicted).sum();
    for _ in 0..40 {
        store(&queue, (0..10).map(|_| append("wild", vec![b'w'; 1_000]))).await;
    }
    assert_sums(&queue);
    let given =
        row(&queue, "wild").losses.iter().find(|loss| loss.reason == "device-share").map_or(0, |loss| loss.count);
    (evicted, took, given)
}

#[tokio::test]
async fn commits_wait_two_seconds_at_most_for_a_device_above_its_share_to_be_found() {
    let (evicted, took, given) = searched(Duration::ZERO).await;
    assert_eq!(evicted, 0, "found at once");
    assert!(took.is_zero() && given > 0, "{took:?} {given}");
    // Two looks are more than one transaction may search for.
    let (evicted, took, given) = searched(Duration::from_millis(90)).await;
    assert!(evicted > 0, "the oldest made room: {took:?}");
    assert!((2..5).contains(&took.as_secs()), "{took:?}");
    assert!(given > 0, "and it is found beside that");
}

#[tokio::test]
async fn nobody_gives_way_while_there_is_room_nor_to_itself() {
    let bench = Bench::small();
    let queue = bench.open(1);
    for _ in 0..100 {
        send(&queue, "wild", Lane::Live, 10).await;
    }
    assert_eq!(row(&queue, "wild").evicted, 0);
    for _ in 0..400 {
        send(&queue, "wild", Lane::Live, 10).await;
    }
    let wild = row(&queue, "wild");
    assert!(wild.evicted > 0 && wild.losses.iter().all(|loss| loss.reason == "max-size"), "{wild:?}");
    // Below its share it keeps what it has: the oldest of all go.
    let records = drain(&queue).await;
    assert!(records.windows(2).all(|pair| pair[0].header.seq + 1 == pair[1].header.seq));
}

#[tokio::test]
async fn two_devices_below_their_share_lose_the_oldest_of_both() {
    let mut bench = Bench::small();
    bench.options.device_share = Percent::clamped(60);
    let queue = bench.open(1);
    for _ in 0..400 {
        send(&queue, "a", Lane::Live, 10).await;
        send(&queue, "b", Lane::Live, 10).await;
    }
    let (a, b) = (row(&queue, "a"), row(&queue, "b"));
    assert!(a.evicted > 0 && a.evicted.abs_diff(b.evicted) <= 10, "{a:?} {b:?}");
    assert!(a.losses.iter().chain(&b.losses).all(|loss| loss.reason == "max-size"));
    assert_sums(&queue);
}

#[tokio::test]
async fn a_device_gives_way_in_all_lanes_its_answers_last() {
    let bench = Bench::small();
    let queue = bench.open(1);
    send(&queue, "quiet", Lane::History, 50).await;
    send(&queue, "wild", Lane::Priority, 500).await;
    for _ in 0..300 {
        send(&queue, "wild", Lane::Live, 10).await;
    }
    assert_eq!(row(&queue, "quiet").evicted, 0);
    assert!(row(&queue, "wild").evicted > 500);
    let answers = within(queue.lease(UP, Lane::Priority, 500, usize::MAX)).await.unwrap();
    assert_eq!(answers.len(), 500);
    // With nothing else of its own, they go too.
    queue.rewind(UP);
    for _ in 0..300 {
        send(&queue, "wild", Lane::Priority, 10).await;
    }
    assert_eq!(row(&queue, "quiet").evicted, 0);
    assert_sums(&queue);
}

#[tokio::test]
async fn states_and_answers_of_many_do_not_push_all_telemetry_out() {
    let bench = Bench::small();
    let queue = bench.open(1);
    for number in 0..300 {
        send(&queue, &format!("press-{}", number % 10), Lane::Live, 10).await;
    }
    for number in 0..1_000 {
        send(&queue, &format!("press-{}", number % 10), Lane::Priority, 10).await;
    }
    assert!(queue.stats().health.is_ok());
    assert_sums(&queue);
    let left = drain(&queue).await;
    let live = left.iter().filter(|record| record.header.lane == Lane::Live).count();
    assert!(live > 800 && left.len() - live > 300, "{live} of {}", left.len());
}

/// Before the commit nothing has happened; after it everything has, though nobody was told.
async fn a_failed_transaction(point: Point) {
    let bench = Bench::small();
    let queue = bench.open(1);
    send(&queue, "quiet", Lane::Live, 20).await;
    while queue.stats().messages <= 20 || row(&queue, "wild").evicted == 0 {
        send(&queue, "wild", Lane::Live, 10).await;
    }
    // From here on they come from memory, while the writer has no file.
    let mut records = lease(&queue, 1).await;
    bench.faults.fail(&[point, Point::Reopen], SQLITE_IOERR);
    let before = row(&queue, "wild");
    // Several times what one stretch has freed: somebody must give way for it.
    let commit = {
        let queue = queue.clone();
        tokio::spawn(async move { send(&queue, "wild", Lane::Live, 400).await })
    };
    until("the failure", || bench.faults.hits() >= 2).await;
    // Those in front can be leased; nobody passes what may still be there.
    records.extend(lease(&queue, 100).await);
    let passed = records.iter().filter(|record| record.header.device.as_str() == "wild").count();
    assert_eq!((records.len(), passed), (20, 0));
    bench.faults.fail(&[], 0);
    within(commit).await.unwrap();
    let after = row(&queue, "wild");
    assert_eq!(after.received, before.received + 400);
    assert_sums(&queue);
    queue.settle(UP, ids(&records)).await.unwrap();
    records.extend(drain(&queue).await);
    assert!(records.windows(2).all(|pair| pair[0].id < pair[1].id), "each once, in order");
    assert_eq!(records.len() as u64, 20 + after.waiting);
    assert_eq!(row(&queue, "quiet").delivered, 20);
    assert_sums(&queue);
}

#[tokio::test]
async fn a_transaction_that_fails_gives_back_what_was_to_give_way() {
    a_failed_transaction(Point::BeforeCommit).await;
}

#[tokio::test]
async fn a_transaction_that_failed_and_happened_takes_it_once() {
    a_failed_transaction(Point::AfterCommit).await;
}

#[derive(Debug, Clone)]
enum Step {
    /// Batches of the wild device: lane, records, bytes of each.
    Wild(u8, usize, usize),
    /// A few small ones of a quiet device, or together with one of the wild device.
    Quiet(u8, usize, bool),
    Lease(u8, usize),
    /// The first so many of what is leased.
    Settle(usize),
    Rewind,
    Part,
    Reopen,
    Crash,
    /// The next transaction fails, or seems to.
    Fail(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..8_u8, 1..12_usize, 50..2_500_usize).prop_map(|(lane, records, bytes)| Step::Wild(lane, records, bytes)),
        5 => (0..3_u8, 1..6_usize, any::<bool>()).prop_map(|(of, records, mixed)| Step::Quiet(of, records, mixed)),
        3 => (0..3_u8, 1..20_usize).prop_map(|(lane, most)| Step::Lease(lane, most)),
        2 => (1..30_usize).prop_map(Step::Settle),
        1 => Just(Step::Rewind),
        1 => Just(Step::Part),
        1 => Just(Step::Reopen),
        2 => Just(Step::Crash),
        1 => any::<bool>().prop_map(Step::Fail),
    ]
}

/// What was acknowledged, by id.
#[derive(Debug)]
struct Known {
    device: String,
    lane: Lane,
    batch: usize,
    body: Vec<u8>,
}

#[derive(Debug, Default)]
struct Model {
    known: BTreeMap<u64, Known>,
    received: BTreeMap<String, u64>,
    leased: Vec<RecordId>,
    /// Ever leased, and ever settled: a crash may have brought it back.
    seen: BTreeSet<u64>,
    settled: BTreeSet<u64>,
    /// Settled since the last crash.
    gone: BTreeSet<u64>,
    /// By the lane that was asked for and the record's own: the last one since the last rewind.
    last: BTreeMap<(Lane, Lane), u64>,
    batches: usize,
    /// Bytes of quiet devices, and of what shares a batch with them.
    spared: usize,
}

impl Model {
    /// All leases are void.
    fn rewind(&mut self) {
        self.leased.clear();
        self.last.clear();
    }
}

struct Stage {
    bench: Bench,
    folder: PathBuf,
    queue: Queue,
    boot: u64,
    model: Model,
}

impl Stage {
    fn new() -> Self {
        let bench = Bench::small();
        let folder = bench.dir.path().join("1");
        fs::create_dir(&folder).unwrap();
        let queue = bench.open_at(&folder.join("queue.db"), 1);
        Self { bench, folder, queue, boot: 1, model: Model::default() }
    }

    async fn commit(&mut self, appends: Vec<Append>) {
        let model = &mut self.model;
        let batch = Batch { appends: appends.clone(), ..Batch::default() };
        let receipts = within(self.queue.commit(batch)).await.unwrap().receipts;
        model.batches += 1;
        for (append, receipt) in appends.into_iter().zip(receipts) {
            let device = append.device.to_string();
            *model.received.entry(device.clone()).or_default() += 1;
            let known = Known { device, lane: append.lane, batch: model.batches, body: append.body.to_vec() };
            assert!(model.known.insert(receipt.id.0, known).is_none());
        }
    }

    async fn play(&mut self, step: Step) {
        match step {
            Step::Wild(lane, records, bytes) => {
                let lane = Lane::ALL.get(usize::from(lane)).copied().unwrap_or(Lane::Live);
                let appends = (0..records).map(|_| Append { lane, ..append("wild", vec![7; bytes]) });
                self.commit(appends.collect()).await;
            }
            // They stay below half of what fits.
            Step::Quiet(..) if self.model.spared > 80_000 => {}
            Step::Quiet(of, records, mixed) => {
                let device = format!("quiet-{of}");
                let mut appends: Vec<_> = (0..records).map(|_| append(&device, vec![of; 150])).collect();
                if mixed {
                    appends.insert(records / 2, append("wild", vec![8; 300]));
                }
                self.model.spared += appends.iter().map(|append| append.body.len() + 100).sum::<usize>();
                self.commit(appends).await;
            }
            Step::Lease(lane, most) => {
                let lane = Lane::ALL[usize::from(lane)];
                let patience = Duration::from_millis(5);
                let leased = tokio::time::timeout(patience, self.queue.lease(UP, lane, most, usize::MAX)).await;
                for record in leased.map(Result::unwrap).unwrap_or_default() {
                    self.check(&record);
                    let id = record.id.0;
                    assert!(!self.model.gone.contains(&id), "leased after it was settled: {record:?}");
                    let before = self.model.last.insert((lane, record.header.lane), id);
                    assert!(before.is_none_or(|before| before < id), "twice, or out of order: {record:?}");
                    self.model.seen.insert(id);
                    self.model.leased.push(record.id);
                }
            }
            Step::Settle(most) => {
                let most = most.min(self.model.leased.len());
                let ids: Vec<_> = self.model.leased.drain(..most).collect();
                self.model.settled.extend(ids.iter().map(|id| id.0));
                self.model.gone.extend(ids.iter().map(|id| id.0));
                self.queue.settle(UP, ids).await.unwrap();
            }
            Step::Rewind => {
                self.queue.rewind(UP);
                self.model.rewind();
            }
            Step::Part => {
                self.queue.part(UP);
                self.model.rewind();
            }
            Step::Reopen => {
                self.queue.close().await.unwrap();
                self.boot += 1;
                self.queue = self.bench.open_at(&self.folder.join("queue.db"), self.boot);
                self.model.rewind();
            }
            Step::Crash => {
                self.boot += 1;
                let copy = self.bench.dir.path().join(self.boot.to_string());
                fs::create_dir(&copy).unwrap();
                copy_when_still(&self.queue, &self.folder, &copy);
                self.queue = self.bench.open_at(&copy.join("queue.db"), self.boot);
                self.folder = copy;
                self.model.rewind();
                self.model.gone.clear();
            }
            Step::Fail(before) => {
                let (hits, point) =
                    (self.bench.faults.hits(), if before { Point::BeforeCommit } else { Point::AfterCommit });
                self.bench.faults.fail(&[point], SQLITE_IOERR);
                let faults = self.bench.faults.clone();
                let mend = tokio::spawn(async move {
                    while faults.hits() == hits {
                        tokio::task::yield_now().await;
                    }
                    faults.fail(&[], 0);
                });
                self.commit(vec![append("wild", vec![9; 500])]).await;
                mend.await.unwrap();
            }
        }
        self.check_sums();
    }

    fn check(&self, record: &Record) {
        let known = &self.model.known[&record.id.0];
        let (device, body) = (record.header.device.as_str(), record.body.as_ref());
        assert_eq!((device, record.header.lane, body), (known.device.as_str(), known.lane, known.body.as_slice()));
    }

    fn check_sums(&self) {
        assert_sums(&self.queue);
        assert!(self.queue.stats().file_bytes <= SMALL, "{:?}", self.queue.stats());
        for row in self.queue.ledger() {
            assert_eq!(row.received, self.model.received[row.device.as_str()]);
            assert!(row.evicted == 0 || row.device.as_str() == "wild", "a neighbour gave way: {row:?}");
        }
    }

    /// All that is left, in order, and nothing of the quiet devices is missing.
    async fn end(mut self) {
        settled(&self.queue).await;
        let waiting = self.queue.stats().messages;
        self.play(Step::Reopen).await;
        let mut left: BTreeSet<u64> = BTreeSet::new();
        let mut last: BTreeMap<Lane, u64> = BTreeMap::new();
        for record in drain(&self.queue).await {
            self.check(&record);
            let before = last.insert(record.header.lane, record.id.0);
            assert!(before.is_none_or(|before| before < record.id.0), "in order, each once");
            left.insert(record.id.0);
        }
        assert_eq!(left.len() as u64, waiting);
        assert_eq!(self.queue.stats().messages, 0);
        let mut batches: BTreeMap<(usize, Lane), (usize, usize)> = BTreeMap::new();
        for (id, known) in self.model.known.iter().filter(|(id, _)| !self.model.seen.contains(id)) {
            let (there, all) = batches.entry((known.batch, known.lane)).or_default();
            *there += usize::from(left.contains(id));
            *all += 1;
            assert!(known.device == "wild" || left.contains(id), "{id} {known:?}");
        }
        assert!(batches.values().all(|(there, all)| *there == 0 || there == all), "half a batch: {batches:?}");
        let missing = |(id, known): &(&u64, &Known)| known.device != "wild" && !left.contains(id);
        for (id, known) in self.model.known.iter().filter(missing) {
            assert!(self.model.settled.contains(id), "{id} {known:?}");
        }
        self.check_sums();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn quiet_devices_lose_nothing_beside_a_wild_one_through_crashes(steps in vec(step(), 60..160)) {
        Runtime::new().unwrap().block_on(async {
            let mut stage = Stage::new();
            // Nearly full.
            for _ in 0..40 {
                stage.play(Step::Wild(1, 8, 1_100)).await;
                stage.play(Step::Quiet(0, 1, false)).await;
            }
            for step in steps {
                stage.play(step).await;
            }
            stage.end().await;
        });
    }
}
