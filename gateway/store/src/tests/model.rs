//! The queue against a simple model: random operations, restarts and crashes.
//!
//! A crash is a copy of the files as they are, opened in place of the originals: what a power cut leaves when each
//! sync did its work. Commits are answered before the copy is taken, so all of them must be in it; settlements may have
//! made it or not, and the model accepts both.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::runtime::Runtime;

use crate::{Batch, Lane, Queue, Record};

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
    /// The consumer is away for long enough to be noticed: commits are spaced.
    Away,
    Reopen,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => vec((0..3_u8, 0..3_u8), 1..6).prop_map(Step::Commit),
        5 => (0..3_u8, 1..6_u8).prop_map(|(lane, most)| Step::Lease(lane, most)),
        4 => vec(any::<u8>(), 1..5).prop_map(Step::Settle),
        1 => any::<u8>().prop_map(Step::Quarantine),
        1 => Just(Step::Rewind),
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
    written: u64,
}

impl Model {
    fn next(&self, lane: Lane, most: usize) -> Vec<u64> {
        let free = self.waiting.iter().filter(|(id, known)| known.lane == lane && !self.leased.contains(id));
        free.map(|(id, _)| *id).take(most).collect()
    }

    fn leave(&mut self, id: u64, delivered: bool) {
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

async fn play(steps: Vec<Step>) {
    let mut bench = Bench::new();
    bench.options.spacing = Duration::from_millis(2);
    let mut model = Model::default();
    let mut boot = 1;
    let mut folder = bench.dir.path().join("1");
    fs::create_dir(&folder).unwrap();
    let mut queue = bench.open_at(&folder.join("queue.db"), boot);
    for step in steps {
        match step {
            Step::Commit(records) => commit(&queue, &mut model, records).await,
            Step::Lease(from, most) => {
                let expected = model.next(lane(from), usize::from(most));
                if !expected.is_empty() {
                    let mut leased = Vec::new();
                    // What comes from disk and what comes from memory may come apart.
                    while leased.len() < expected.len() {
                        let most = expected.len() - leased.len();
                        leased.extend(within(queue.lease(UP, lane(from), most, usize::MAX)).await.unwrap());
                    }
                    assert_eq!(leased.iter().map(|record| record.id.0).collect::<Vec<_>>(), expected);
                    for record in &leased {
                        assert_eq!(known(record), model.waiting[&record.id.0]);
                        model.leased.insert(record.id.0);
                    }
                }
            }
            Step::Settle(picks) => {
                let leased: Vec<u64> = model.leased.iter().copied().collect();
                let picked: BTreeSet<u64> = picks
                    .iter()
                    .filter_map(|pick| leased.get(usize::from(*pick) % leased.len().max(1)).copied())
                    .collect();
                // Backwards: the order of settlements means nothing.
                let ids = picked.iter().rev().map(|id| crate::RecordId(*id)).collect();
                queue.settle(UP, ids).await.unwrap();
                for id in picked {
                    model.leave(id, true);
                }
            }
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
            Step::Away => bench.clock.advance(Duration::from_secs(2)),
            Step::Reopen => {
                queue.close().await.unwrap();
                boot += 1;
                queue = bench.open_at(&folder.join("queue.db"), boot);
                model.leased.clear();
                model.fresh.clear();
                model.check(&queue);
            }
            Step::Crash => {
                boot += 1;
                let copy = bench.dir.path().join(boot.to_string());
                fs::create_dir(&copy).unwrap();
                copy_when_still(&queue, &folder, &copy);
                let old = std::mem::replace(&mut queue, bench.open_at(&copy.join("queue.db"), boot));
                drop(old);
                folder = copy;
                let file_waits = waiting_ids(&folder.join("queue.db"), &mut queue, &bench, boot).await;
                model.crash(&file_waits);
                model.check(&queue);
            }
        }
    }
    settled(&queue).await;
    model.check(&queue);
    queue.rewind(UP);
    model.leased.clear();
    for lane in Lane::ALL {
        let expected = model.next(lane, usize::MAX);
        let mut leased = Vec::new();
        while leased.len() < expected.len() {
            leased.extend(within(queue.lease(UP, lane, usize::MAX, usize::MAX)).await.unwrap());
        }
        assert_eq!(leased.iter().map(|record| record.id.0).collect::<Vec<_>>(), expected);
    }
}

async fn commit(queue: &Queue, model: &mut Model, records: Vec<(u8, u8)>) {
    let mut appends = Vec::new();
    for (device, to) in &records {
        model.written += 1;
        let mut append = append(&format!("d{device}"), format!("{}", model.written));
        append.lane = lane(*to);
        appends.push(append);
    }
    let committed = within(queue.commit(Batch { appends: appends.clone(), ..Batch::default() })).await.unwrap();
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
fn copy_when_still(queue: &Queue, from: &Path, to: &Path) {
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
