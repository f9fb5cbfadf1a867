//! Tests of the crate through its public surface, with a clock of their own and disks that fail on demand.

mod age;
mod aside;
mod corruption;
mod crash;
mod damage;
mod desk;
mod format;
mod full;
mod gaps;
mod hold;
mod migrations;
mod model;
mod overflow;
mod parted;
mod queue;
mod shares;
mod spacing;
mod state;
mod trouble;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fieldgate_types::{BUILD_FLOOR, DeviceId, ManualClock, Size, UnixMillis};
use tempfile::TempDir;

use crate::faults::Faults;
use crate::{Append, Batch, DeviceLedger, Lane, Options, Queue, Record, RecordId};

/// The one consumer.
pub(super) const UP: &str = "upstream";

/// Bytes of a queue that is soon full.
pub(super) const SMALL: u64 = 1 << 20;

/// A folder, a clock and the options for a queue.
pub(super) struct Bench {
    pub dir: TempDir,
    pub clock: Arc<ManualClock>,
    pub options: Options,
    pub faults: Faults,
}

impl Bench {
    pub fn new() -> Self {
        let clock = Arc::new(ManualClock::new(BUILD_FLOOR.plus(Duration::from_secs(86_400))));
        let dir = tempfile::tempdir().unwrap();
        Self { dir, clock, options: Options::default(), faults: Faults::none() }
    }

    /// Of the smallest size.
    pub fn small() -> Self {
        let mut bench = Self::new();
        bench.options.max_size = Size(SMALL);
        bench
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("queue.db")
    }

    pub fn open(&self, boot: u64) -> Queue {
        self.open_at(&self.path(), boot)
    }

    pub fn open_at(&self, path: &Path, boot: u64) -> Queue {
        let clock = Arc::<ManualClock>::clone(&self.clock);
        Queue::open_with(path, boot, self.options.clone(), clock, self.faults.clone()).unwrap()
    }
}

pub(super) fn device(name: &str) -> DeviceId {
    DeviceId::new(name).unwrap()
}

pub(super) fn append(name: &str, body: impl Into<Bytes>) -> Append {
    Append {
        device: device(name),
        lane: Lane::Live,
        time: UnixMillis(BUILD_FLOOR.0 + 1),
        expires: None,
        body: body.into(),
    }
}

pub(super) fn batch(name: &str, bodies: &[&str]) -> Batch {
    Batch { appends: bodies.iter().map(|body| append(name, (*body).to_owned())).collect(), ..Batch::default() }
}

pub(super) fn bodies(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| String::from_utf8(record.body.to_vec()).unwrap()).collect()
}

pub(super) fn ids(records: &[Record]) -> Vec<RecordId> {
    records.iter().map(|record| record.id).collect()
}

/// Commits these as one batch; panics when that doesn't go through in time.
pub(super) async fn store(queue: &Queue, appends: impl IntoIterator<Item = Append>) {
    let batch = Batch { appends: appends.into_iter().collect(), ..Batch::default() };
    within(queue.commit(batch)).await.unwrap();
}

/// What the ledger says of a device that it knows.
pub(super) fn row(queue: &Queue, name: &str) -> DeviceLedger {
    queue.ledger_of(&device(name)).unwrap()
}

/// Leases from the live lane; panics when nothing comes in time.
pub(super) async fn lease(queue: &Queue, most: usize) -> Vec<Record> {
    within(queue.lease(UP, Lane::Live, most, usize::MAX)).await.unwrap()
}

/// Leases until there is nothing more.
pub(super) async fn lease_all(queue: &Queue) -> Vec<Record> {
    let mut all = Vec::new();
    while all.len() < leasable(queue) {
        all.extend(lease(queue, usize::MAX).await);
    }
    all
}

fn leasable(queue: &Queue) -> usize {
    usize::try_from(queue.stats().messages).unwrap()
}

pub(super) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work).await.expect("in time")
}

/// Waits for a condition.
pub(super) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(20), "{what} did not come");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// All removals are on disk.
pub(super) async fn settled(queue: &Queue) {
    until("the settled state", || queue.stats().settling == 0).await;
}

/// The sums of every device hold, and agree with the figures.
pub(super) fn assert_sums(queue: &Queue) {
    let mut waiting = 0;
    for row in queue.ledger() {
        let sum = row.delivered + row.waiting + row.expired + row.evicted + row.quarantined;
        assert_eq!(row.received, sum, "{row:?}");
        waiting += row.waiting;
    }
    assert_eq!(queue.stats().messages, waiting);
}
