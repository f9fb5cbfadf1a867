//! The queue against a simple model: random operations, restarts and crashes.
//!
//! A crash is a copy of the files as they are, opened in place of the originals: what a power cut leaves when each
//! sync did its work. What was answered before the copy was taken must be in it, or have been settled; settlements may have
//! made it or not, and the model accepts both. What was settled and never written may be missing in the counters of the file,
//! in received and delivered alike.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::runtime::Runtime;

use crate::{Append, Batch, Lane, Queue, Record};

use super::hold::begin;
use super::{Bench, UP, append, assert_sums, settled, within};

#[derive(Debug, Clone)]
enum Step {
    /// Devices and lanes of the records of one batch.
    Commit(Vec<(u8, u8)>),
    Lease(u8, u8),
    /// Settles the leased records at these positions.
    Settle(Vec<u8>),
    Quarantine(u8),
    Rewind,
    /// A new connection that wants live records first.
    Part,
    /// Batches that may be held, what becomes of the leased records meanwhile, and how their wait ends.
    Hold(Vec<Vec<(u8, u8)>>, Vec<u8>, Ending),
    /// The consumer is away for long enough to be noticed: commits are spaced.
    Away,
    Reopen,
    Crash,
}

/// What ends the wait of batches that are held.
#[derive(Debug, Clone)]
enum Ending {
    /// All of it is settled.
    Settled,
    /// A batch that must be durable.
    Durable,
    /// A record is refused.
    Refused,
    Rewind,
    Part,
    Reopen,
    Crash,
}

fn ending() -> impl Strategy<Value = Ending> {
    prop_oneof![
        3 => Just(Ending::Settled),
        2 => Just(Ending::Durable),
        1 => Just(Ending::Refused),
        1 => Just(Ending::Rewind),
        1 => Just(Ending::Part),
        1 => Just(Ending::Reopen),
        2 => Just(Ending::Crash),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => vec((0..3_u8, 0..3_u8), 1..6).prop_map(Step::Commit),
        5 => (0..3_u8, 1..6_u8).prop_map(|(lane, most)| Step::Lease(lane, most)),
        4 => vec(any::<u8>(), 1..5).prop_map(Step::Settle),
        1 => any::<u8>().prop_map(Step::Quarantine),
        1 => Just(Step::Rewind),
        1 => Just(Step::Part),
        6 => (vec(vec((0..3_u8, 1..3_u8), 1..4), 1..4), vec(any::<u8>(), 0..5), ending())
            .prop_map(|(batches, settle, ending)| Step::Hold(batches, settle, ending)),
        1 => Just(Step::Away),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
    ]
}

/// One record: its id is its key in the model.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    device: String,
    lane: Lane,
    boot: u64,
    seq: u64,
    body: String,
}

#[derive(Debug, Default)]
struct Model {
    waiting: BTreeMap<u64, Known>,
    leased: BTreeSet<u64>,
    received: BTreeMap<String, u64>,
    delivered: BTreeMap<String, u64>,
    quarantined: BTreeMap<String, u64>,
    /// Settled or quarantined since the last moment when all was known to be on disk.
    fresh: BTreeMap<u64, (Known, bool)>,
    /// Records made so far.
    written: u64,
    /// Records that may have left without being written since the file last knew of all.
    passed: u64,
    /// The queue was parted there.
    mark: Option<u64>,
}

impl Model {
    fn next(&self, lane: Lane, most: usize) -> Vec<u64> {
        let free = |lane: Lane, older: bool| {
            let here = move |id: &u64, known: &Known| known.lane == lane && self.is_older(*id, known.lane) == older;
            self.waiting
                .iter()
                .filter(move |(id, known)| here(id, known) && !self.leased.contains(id))
                .map(|(id, _)| *id)
        };
        let older = free(Lane::Live, true).take(if lane == Lane::History { usize::MAX } else { 0 });
        older.chain(free(lane, false)).take(most).collect()
    }

    /// Whether it gives way since the queue was parted.
    fn is_older(&self, id: u64, lane: Lane) -> bool {
        lane == Lane::Live && self.mark.is_some_and(|mark| id < mark)
    }

    fn part(&mut self) {
        self.leased.clear();
        self.mark = Some(self.waiting.last_key_value().map_or(0, |(last, _)| last + 1));
    }

    /// What is or was known of these.
    fn known(&self, ids: &[u64]) -> BTreeMap<u64, Known> {
        let find = |id: &u64| self.waiting.get(id).or_else(|| self.fresh.get(id).map(|(known, _)| known));
        ids.iter().map(|id| (*id, find(id).unwrap().clone())).collect()
    }

    fn leave(&mut self, id: u64, delivered: bool) {
        self.passed += u64::from(delivered);
        self.leased.remove(&id);
        let known = self.waiting.remove(&id).unwrap();
        let counter = if delivered { &mut self.delivered } else { &mut self.quarantined };
        *counter.entry(known.device.clone()).or_default() += 1;
        self.fresh.insert(id, (known, delivered));
    }

    /// After a crash: of what had just left, `back` is waiting again.
    fn crash(&mut self, back: &BTreeSet<u64>) {
        self.leased.clear();
        for (id, (known, delivered)) in std::mem::take(&mut self.fresh) {
            if back.contains(&id) {
                let counter = if delivered { &mut self.delivered } else { &mut self.quarantined };
                *counter.get_mut(&known.device).unwrap() -= 1;
                self.waiting.insert(id, known);
            }
        }
    }

    /// After a crash: what passed may be in the file's counters or not.
    fn recount(&mut self, queue: &Queue) {
        let rows = queue.ledger();
        for (device, received) in &mut self.received {
            // A device of which everything passed may be unknown to the file.
            let row = rows.iter().find(|row| row.device.as_str() == device);
            let told = row.map_or((0, 0), |row| (row.received, row.delivered));
            let delivered = self.delivered.entry(device.clone()).or_default();
            let behind = *received - told.0;
            assert!(behind <= self.passed, "{behind} of {} passed: {device} {row:?}", self.passed);
            assert_eq!(*delivered - told.1, behind, "{device} {row:?}");
            (*received, *delivered) = told;
        }
        assert!(rows.iter().all(|row| self.received.contains_key(row.device.as_str())));
    }

    fn check(&self, queue: &Queue) {
        assert_sums(queue);
        for row in queue.ledger() {
            let count = |counts: &BTreeMap<String, u64>| counts.get(row.device.as_str()).copied().unwrap_or(0);
            assert_eq!(row.received, count(&self.received));
            assert_eq!(row.delivered, count(&self.delivered));
            assert_eq!(row.quarantined, count(&self.quarantined));
            let waiting = self.waiting.values().filter(|known| known.device == row.device.as_str()).count();
            assert_eq!(row.waiting, waiting as u64);
        }
        let bytes: usize = self.waiting.values().map(|known| known.body.len()).sum();
        assert_eq!(queue.stats().bytes, bytes as u64);
    }
}

impl Known {
    /// Without its number.
    fn of(append: &Append) -> Self {
        let body = String::from_utf8(append.body.to_vec()).unwrap();
        Self { device: append.device.to_string(), lane: append.lane, boot: 0, seq: 0, body }
    }
}

fn known(record: &Record) -> Known {
    Known {
        device: record.header.device.to_string(),
        lane: record.header.lane,
        boot: record.header.boot,
        seq: record.header.seq,
        body: String::from_utf8(record.body.to_vec()).unwrap(),
    }
}

fn lane(number: u8) -> Lane {
    Lane::ALL[usize::from(number)]
}

/// `most` records, in as many leases as it takes: what comes from disk and what comes from memory may come apart.
async fn lease_exactly(queue: &Queue, lane: Lane, most: usize) -> Vec<Record> {
    let mut leased = Vec::new();
    while leased.len() < most {
        leased.extend(within(queue.lease(UP, lane, most - leased.len(), usize::MAX)).await.unwrap());
    }
    leased
}

struct Stage {
    bench: Bench,
    model: Model,
    boot: u64,
    folder: PathBuf,
    queue: Queue,
}

impl Stage {
    async fn reopen(&mut self) {
        self.queue.close().await.unwrap();
        self.boot += 1;
        self.queue = self.bench.open_at(&self.folder.join("queue.db"), self.boot);
        self.model.leased.clear();
        self.model.mark = None;
        self.model.fresh.clear();
        self.model.passed = 0;
    }

    /// A crash; `unanswered`: records whose batch was not answered, which may be gone.
    async fn crash(&mut self, unanswered: &[u64]) {
        self.boot += 1;
        let copy = self.bench.dir.path().join(self.boot.to_string());
        fs::create_dir(&copy).unwrap();
        copy_when_still(&self.queue, &self.folder, &copy);
        let opened = self.bench.open_at(&copy.join("queue.db"), self.boot);
        drop(std::mem::replace(&mut self.queue, opened));
        self.folder = copy;
        let file_waits = waiting_ids(&self.folder.join("queue.db"), &mut self.queue, &self.bench, self.boot).await;
        for id in unanswered.iter().filter(|id| !file_waits.contains(id)) {
            // It had not left either: the file knows nothing of it.
            if let Some(known) = self.model.waiting.remove(id) {
                *self.model.received.get_mut(&known.device).unwrap() -= 1;
            }
        }
        self.model.mark = None;
        self.model.crash(&file_waits);
        self.model.recount(&self.queue);
        self.model.passed = 0;
    }

    /// Batches whose records the consumer takes, and may settle, before they are written.
    async fn hold(&mut self, batches: Vec<Vec<(u8, u8)>>, settle: Vec<u8>, ending: Ending) {
        let Self { queue, model, .. } = self;
        settled(queue).await;
        let mut commits = Vec::new();
        let mut made: BTreeMap<Lane, Vec<Known>> = BTreeMap::new();
        for records in batches {
            let appends = appends(model, &records);
            for append in &appends {
                made.entry(append.lane).or_default().push(Known::of(append));
            }
            let bodies: Vec<String> = appends.iter().map(|append| Known::of(append).body).collect();
            commits.push((begin(queue, Batch { appends, ..Batch::default() }).await, bodies));
        }
        let mut new: BTreeMap<String, u64> = BTreeMap::new();
        for (lane, made) in made {
            let expected = model.next(lane, usize::MAX);
            let leased = lease_exactly(queue, lane, expected.len() + made.len()).await;
            let (old, young) = leased.split_at(expected.len());
            assert_eq!(old.iter().map(|record| record.id.0).collect::<Vec<_>>(), expected);
            for (record, made) in young.iter().zip(made) {
                let known = known(record);
                assert_eq!((&known.device, known.lane, &known.body), (&made.device, made.lane, &made.body));
                *model.received.entry(known.device.clone()).or_default() += 1;
                new.insert(known.body.clone(), record.id.0);
                model.waiting.insert(record.id.0, known);
            }
            model.leased.extend(leased.iter().map(|record| record.id.0));
        }
        assert_sums(queue);
        self.settle(&settle).await;
        let unanswered: Vec<u64> = new.values().copied().collect();
        let numbers: BTreeMap<u64, Known> = self.model.known(&unanswered);
        match ending {
            Ending::Settled => {
                let left: Vec<u64> = unanswered.iter().copied().filter(|id| self.model.leased.contains(id)).collect();
                self.queue.settle(UP, left.iter().map(|id| crate::RecordId(*id)).collect()).await.unwrap();
                for id in left {
                    self.model.leave(id, true);
                }
            }
            Ending::Durable => commit(&self.queue, &mut self.model, vec![(0, 0)]).await,
            Ending::Refused => {
                let left = unanswered.iter().copied().find(|id| self.model.leased.contains(id));
                if let Some(id) = left {
                    self.queue.quarantine(UP, crate::RecordId(id), "poison").await.unwrap();
                    self.model.leave(id, false);
                }
            }
            Ending::Rewind => {
                self.queue.rewind(UP);
                self.model.leased.clear();
            }
            Ending::Part => {
                self.queue.part(UP);
                self.model.part();
            }
            Ending::Reopen => self.reopen().await,
            // Nobody was answered: the futures are dropped.
            Ending::Crash => return self.crash(&unanswered).await,
        }
        for (commit, bodies) in commits {
            let receipts = within(commit).await.unwrap().receipts;
            assert_eq!(receipts.len(), bodies.len());
            for (receipt, body) in receipts.iter().zip(bodies) {
                assert_eq!(receipt.id.0, new[&body]);
                let known = &numbers[&receipt.id.0];
                assert_eq!((receipt.boot, receipt.seq), (known.boot, known.seq));
            }
        }
        settled(&self.queue).await;
        self.model.check(&self.queue);
    }

    /// Settles the leased records at these positions, backwards: the order of settlements means nothing.
    async fn settle(&mut self, picks: &[u8]) {
        let leased: Vec<u64> = self.model.leased.iter().copied().collect();
        let picked: BTreeSet<u64> =
            picks.iter().filter_map(|pick| leased.get(usize::from(*pick) % leased.len().max(1)).copied()).collect();
        let ids = picked.iter().rev().map(|id| crate::RecordId(*id)).collect();
        self.queue.settle(UP, ids).await.unwrap();
        for id in picked {
            self.model.leave(id, true);
        }
    }
}

async fn play(steps: Vec<Step>) {
    let mut bench = Bench::new();
    bench.options.spacing = Duration::from_millis(2);
    bench.options.hold = Duration::from_secs(10);
    let folder = bench.dir.path().join("1");
    fs::create_dir(&folder).unwrap();
    let queue = bench.open_at(&folder.join("queue.db"), 1);
    let mut stage = Stage { bench, model: Model::default(), boot: 1, folder, queue };
    for step in steps {
        let Stage { bench, model, queue, .. } = &mut stage;
        match step {
            Step::Commit(records) => commit(queue, model, records).await,
            Step::Lease(from, most) => {
                let expected = model.next(lane(from), usize::from(most));
                let leased = lease_exactly(queue, lane(from), expected.len()).await;
                assert_eq!(leased.iter().map(|record| record.id.0).collect::<Vec<_>>(), expected);
                for record in &leased {
                    assert_eq!(known(record), model.waiting[&record.id.0]);
                    if let Some(mark) = model.mark {
                        assert_eq!(record.replayed, record.id.0 < mark);
                    }
                    model.leased.insert(record.id.0);
                }
            }
            Step::Settle(picks) => stage.settle(&picks).await,
            Step::Hold(batches, settle, ending) => stage.hold(batches, settle, ending).await,
            Step::Quarantine(pick) => {
                let leased: Vec<u64> = model.leased.iter().copied().collect();
                if let Some(id) = leased.get(usize::from(pick) % leased.len().max(1)) {
                    queue.quarantine(UP, crate::RecordId(*id), "poison").await.unwrap();
                    model.leave(*id, false);
                }
            }
            Step::Rewind => {
                queue.rewind(UP);
                model.leased.clear();
            }
            Step::Part => {
                queue.part(UP);
                model.part();
            }
            Step::Away => bench.clock.advance(Duration::from_secs(2)),
            Step::Reopen => {
                stage.reopen().await;
                stage.model.check(&stage.queue);
            }
            Step::Crash => {
                stage.crash(&[]).await;
                stage.model.check(&stage.queue);
            }
        }
    }
    let Stage { mut model, queue, .. } = stage;
    settled(&queue).await;
    model.check(&queue);
    queue.rewind(UP);
    model.leased.clear();
    for lane in Lane::ALL {
        let expected = model.next(lane, usize::MAX);
        let leased = lease_exactly(&queue, lane, expected.len()).await;
        assert_eq!(leased.iter().map(|record| record.id.0).collect::<Vec<_>>(), expected);
    }
}

/// Records with bodies that nobody else has.
fn appends(model: &mut Model, records: &[(u8, u8)]) -> Vec<Append> {
    let mut appends = Vec::new();
    for (device, to) in records {
        model.written += 1;
        appends.push(Append { lane: lane(*to), ..append(&format!("d{device}"), format!("{}", model.written)) });
    }
    appends
}

async fn commit(queue: &Queue, model: &mut Model, records: Vec<(u8, u8)>) {
    let appends = appends(model, &records);
    let batch = Batch { appends: appends.clone(), durable: true, ..Batch::default() };
    let committed = within(queue.commit(batch)).await.unwrap();
    for (append, receipt) in appends.iter().zip(committed.receipts) {
        let device = append.device.to_string();
        *model.received.entry(device.clone()).or_default() += 1;
        let body = String::from_utf8(append.body.to_vec()).unwrap();
        let known = Known { device, lane: append.lane, boot: receipt.boot, seq: receipt.seq, body };
        assert!(model.waiting.last_key_value().is_none_or(|(last, _)| *last < receipt.id.0));
        model.waiting.insert(receipt.id.0, known);
    }
}

/// Copies the files at a moment when no transaction is under way: removals may just be going to disk, then the copy
/// is taken again.
pub(super) fn copy_when_still(queue: &Queue, from: &Path, to: &Path) {
    loop {
        let before = queue.stats().commits;
        for entry in fs::read_dir(to).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        // The log last: what a checkpoint moves meanwhile is in both.
        for name in ["queue.db", "queue.db-wal"] {
            if from.join(name).exists() {
                fs::copy(from.join(name), to.join(name)).unwrap();
            }
        }
        if queue.stats().commits == before {
            return;
        }
    }
}

/// What waits according to the file: asked while the queue is closed for a moment, which changes nothing in it.
async fn waiting_ids(path: &Path, queue: &mut Queue, bench: &Bench, boot: u64) -> BTreeSet<u64> {
    queue.close().await.unwrap();
    let mut ids = BTreeSet::new();
    {
        let file = rusqlite::Connection::open(path).unwrap();
        for table in ["lane_0", "lane_1", "lane_2"] {
            let mut statement = file.prepare(&format!("SELECT id FROM {table}")).unwrap();
            let found = statement.query_map([], |row| row.get::<_, i64>(0)).unwrap();
            ids.extend(found.map(|id| u64::try_from(id.unwrap()).unwrap()));
        }
    }
    *queue = bench.open_at(path, boot);
    ids
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_the_model(steps in vec(step(), 1..60)) {
        Runtime::new().unwrap().block_on(play(steps));
    }
}
