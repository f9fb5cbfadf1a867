//! File systems of a few megabytes, filled to the last byte by somebody else. Needs root, to mount them: says so otherwise, and in
//! CI fails.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::{Batch, Queue};

use super::{Bench, UP, append, assert_sums, ids, lease, settled, until, within};

/// A mounted file system; goes with this.
struct Mounted {
    folder: TempDir,
    image: Option<TempDir>,
}

impl Mounted {
    /// `None`: this process may not mount.
    fn new(kind: &str, mebibytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        let image = if kind == "tmpfs" {
            mount.args(["-t", "tmpfs", "-o"]).arg(format!("size={mebibytes}m")).arg("fieldgate-test");
            None
        } else {
            let place = tempfile::tempdir().unwrap();
            let file = place.path().join("image");
            File::create(&file).unwrap().set_len(mebibytes << 20).unwrap();
            let made = Command::new(format!("mkfs.{kind}")).args(["-q", "-F"]).arg(&file).status();
            if !made.is_ok_and(|status| status.success()) {
                return Self::skipped(&format!("no mkfs.{kind} here"));
            }
            mount.args(["-t", kind, "-o", "loop"]).arg(&file);
            Some(place)
        };
        let done = mount.arg(folder.path()).output();
        if !done.is_ok_and(|output| output.status.success()) {
            return Self::skipped(&format!("a {kind} can't be mounted here (needs root and its kernel module)"));
        }
        Some(Self { folder, image })
    }

    fn skipped(why: &str) -> Option<Self> {
        assert!(std::env::var_os("CI").is_none(), "{why}");
        eprintln!("SKIPPED: {why}");
        None
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("queue.db")
    }

    /// Somebody else takes every byte that is left.
    fn fill(&self) {
        let mut file = File::create(self.folder.path().join("somebody-else")).unwrap();
        let mut block = vec![1; 1 << 16];
        while !block.is_empty() {
            if file.write_all(&block).and_then(|()| file.sync_all()).is_err() {
                block.truncate(block.len() / 2);
            }
        }
    }

    fn free(&self) {
        fs::remove_file(self.folder.path().join("somebody-else")).unwrap();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a failing test may still hold files in it.
        let done = Command::new("umount").arg("-l").arg(self.folder.path()).status();
        assert!(done.is_ok_and(|status| status.success()) || std::thread::panicking());
        drop(self.image.take());
    }
}

/// Batches of ten, each answered before the next.
async fn store(queue: &Queue, batches: usize) {
    for _ in 0..batches {
        let appends = (0..10).map(|_| append("a", vec![b'x'; 200])).collect();
        within(queue.commit(Batch { appends, ..Batch::default() })).await.unwrap();
    }
}

async fn deliver(queue: &Queue, records: usize) {
    let mut delivered = 0;
    while delivered < records {
        let records = lease(queue, 100).await;
        delivered += records.len();
        queue.settle(UP, ids(&records)).await.unwrap();
    }
    settled(queue).await;
}

async fn a_disk_that_others_fill_while_running(kind: &str) {
    let Some(disk) = Mounted::new(kind, 32) else { return };
    let bench = Bench::new();
    let queue = bench.open_at(&disk.path(), 1);
    // Some of it is in the database, the newest in the log alone.
    store(&queue, 700).await;
    disk.fill();
    // Deleting, moving the log and appending all go on: the oldest give way.
    store(&queue, 2500).await;
    deliver(&queue, 1000).await;
    store(&queue, 500).await;
    assert!(queue.stats().health.is_ok(), "{:?}", queue.stats());
    let row = queue.ledger().remove(0);
    assert_eq!(row.received, 37_000);
    assert!(row.evicted > 0 && row.losses.iter().all(|loss| loss.reason == "disk-full"), "{row:?}");
    assert!(row.waiting > 3000, "what is held is used: {row:?}");
    assert_sums(&queue);
    // The room that comes back is used without a restart.
    let before = queue.stats().capacity_bytes;
    disk.free();
    bench.clock.advance(Duration::from_secs(6));
    store(&queue, 1).await;
    until("the room", || queue.stats().capacity_bytes > before).await;
    queue.close().await.unwrap();
}

#[tokio::test]
async fn a_tmpfs_that_others_fill_while_running_stops_nothing() {
    a_disk_that_others_fill_while_running("tmpfs").await;
}

#[tokio::test]
async fn an_ext4_that_others_fill_while_running_stops_nothing() {
    a_disk_that_others_fill_while_running("ext4").await;
}

async fn a_disk_that_is_full_at_the_start(kind: &str) {
    let Some(disk) = Mounted::new(kind, 32) else { return };
    let bench = Bench::new();
    let queue = bench.open_at(&disk.path(), 1);
    store(&queue, 700).await;
    queue.close().await.unwrap();
    disk.fill();
    let queue = bench.open_at(&disk.path(), 2);
    assert_eq!(queue.stats().set_aside, None);
    store(&queue, 1000).await;
    deliver(&queue, 1000).await;
    assert!(queue.stats().health.is_ok(), "{:?}", queue.stats());
    assert_eq!(queue.ledger()[0].received, 17_000);
    assert_sums(&queue);
    queue.close().await.unwrap();
}

#[tokio::test]
async fn a_tmpfs_that_is_full_at_the_start_stops_nothing() {
    a_disk_that_is_full_at_the_start("tmpfs").await;
}

#[tokio::test]
async fn an_ext4_that_is_full_at_the_start_stops_nothing() {
    a_disk_that_is_full_at_the_start("ext4").await;
}

/// Where blocks can't be held in advance, commits wait, and go on when there is room again.
#[tokio::test]
async fn a_full_disk_at_the_very_first_start_is_waited_for() {
    let Some(disk) = Mounted::new("tmpfs", 4) else { return };
    disk.fill();
    let bench = Bench::new();
    let clock = std::sync::Arc::<fieldgate_types::ManualClock>::clone(&bench.clock);
    let refused = Queue::open(&disk.path(), 1, bench.options.clone(), clock).unwrap_err();
    assert!(refused.to_string().contains(&disk.path().display().to_string()), "{refused}");
    disk.free();
    let queue = bench.open_at(&disk.path(), 1);
    store(&queue, 10).await;
    assert!(queue.stats().health.is_ok());
    until("the counters", || queue.stats().messages == 100).await;
}

/// A small disk: everything that comes is stored or counted, memory and files stay within it.
#[tokio::test]
async fn eight_megabytes_hold_what_fits_and_count_the_rest() {
    let Some(disk) = Mounted::new("tmpfs", 8) else { return };
    let bench = Bench::new();
    let queue = bench.open_at(&disk.path(), 1);
    store(&queue, 5000).await;
    assert!(queue.stats().health.is_ok());
    let row = queue.ledger().remove(0);
    assert_eq!((row.received, row.received - row.evicted), (50_000, row.waiting));
    assert!(row.waiting > 8_000, "{row:?}");
    assert_sums(&queue);
    assert!(size(disk.folder.path()) <= 8 << 20);
    queue.close().await.unwrap();
}

fn size(folder: &Path) -> u64 {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}
