//! `kill -9`: this test binary starts itself as a writer, kills it, and looks for everything it had acknowledged.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fieldgate_types::{Clock, SystemClock};

use crate::{Batch, Lane, Options, Queue, State};

use super::{Bench, UP, append, assert_sums, ids, lease_all};

const FOLDER: &str = "FIELDGATE_STORE_CRASH_FOLDER";
/// How long the child holds batches, in milliseconds.
const HOLD: &str = "FIELDGATE_STORE_CRASH_HOLD";
const ROUNDS: u32 = 6;

/// The child: commits until it is killed and prints what was acknowledged; consumes some as well. Does nothing when it is run
/// like the other tests.
#[test]
fn writer_that_gets_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let folder = Path::new(&folder);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let state = State::open_for_run(&folder.join("state.db"), Arc::clone(&clock)).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let hold = std::env::var(HOLD).map_or(0, |hold| hold.parse().unwrap());
        let options = Options { hold: Duration::from_millis(hold), ..Options::default() };
        let queue = Queue::open(&folder.join("queue.db"), state.boot(), options, clock).unwrap();
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let queue = queue.clone();
                tokio::spawn(async move {
                    for size in (1..4).cycle() {
                        let appends = (0..size).map(|_| append(&format!("d{writer}"), "x".repeat(200))).collect();
                        let committed = queue.commit(Batch { appends, ..Batch::default() }).await.unwrap();
                        let mut out = std::io::stdout().lock();
                        for receipt in committed.receipts {
                            writeln!(out, "stored d{writer} {} {}", receipt.boot, receipt.seq).unwrap();
                        }
                        out.flush().unwrap();
                    }
                })
            })
            .collect();
        let consumer = tokio::spawn(async move {
            loop {
                let records = queue.lease(UP, Lane::Live, 16, usize::MAX).await.unwrap();
                // What is printed here may be settled afterwards or not; nothing else may be gone.
                {
                    let mut out = std::io::stdout().lock();
                    for record in &records {
                        let header = &record.header;
                        writeln!(out, "leased {} {} {}", header.device, header.boot, header.seq).unwrap();
                    }
                    out.flush().unwrap();
                }
                // Now and then too late for what is held.
                let slow = records.first().is_some_and(|record| record.id.0 % 211 == 0);
                tokio::time::sleep(Duration::from_millis(if slow { 30 } else { 1 })).await;
                queue.settle(UP, ids(&records)).await.unwrap();
                let mut out = std::io::stdout().lock();
                writeln!(out, "passed - {} 0", queue.stats().passed).unwrap();
                out.flush().unwrap();
            }
        });
        for writer in writers {
            writer.await.unwrap();
        }
        consumer.await.unwrap();
    });
}

type Sent = (String, u64, u64);

#[tokio::test]
async fn no_acknowledged_record_is_lost_to_a_kill() {
    assert_eq!(nothing_is_lost(Duration::ZERO).await, 0);
}

#[tokio::test]
async fn no_acknowledged_record_is_lost_to_a_kill_while_batches_are_held() {
    let passed = nothing_is_lost(Duration::from_millis(20)).await;
    assert!(passed > 0, "everything was written");
}

/// Kills under load, each after twice as many lines: the first early, the last long after removals have begun; how many
/// records were never written.
async fn nothing_is_lost(hold: Duration) -> u64 {
    let bench = Bench::new();
    let mut stored: BTreeMap<Sent, bool> = BTreeMap::new();
    let mut all = 0;
    for round in 1..=ROUNDS {
        let mut passed = 0;
        for (kind, sent) in run_and_kill(bench.dir.path(), hold, 60 << (round - 1)) {
            match kind.as_str() {
                "passed" => passed = sent.1,
                "stored" => {
                    stored.entry(sent).or_insert(false);
                }
                _ => {
                    stored.insert(sent, true);
                }
            }
        }
        all += passed;
    }
    assert!(stored.len() > 500, "{}", stored.len());
    let queue = bench.open(u64::from(ROUNDS) + 1);
    assert_sums(&queue);
    let waiting = lease_all(&queue).await;
    let mut last: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for record in &waiting {
        let header = &record.header;
        let at = (header.boot, header.seq);
        let before = last.insert(header.device.to_string(), at);
        assert!(before < Some(at), "{header:?} after {before:?}");
        stored.insert((header.device.to_string(), header.boot, header.seq), true);
    }
    let lost: Vec<_> = stored.iter().filter(|(_, found)| !**found).collect();
    assert!(lost.is_empty(), "{lost:?} {:?}", queue.ledger());
    let ledger = queue.ledger();
    let delivered: u64 = ledger.iter().map(|row| row.delivered).sum();
    let received: u64 = ledger.iter().map(|row| row.received).sum();
    assert_eq!(received, delivered + waiting.len() as u64);
    assert!(delivered > 0);
    all
}

/// Doesn't outlive a failing test.
struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        // Fails when it is dead already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Lets the writer print at least `lines` lines, kills it, and gives all that it said.
fn run_and_kill(folder: &Path, hold: Duration, lines: usize) -> Vec<(String, Sent)> {
    let mut child = Child(
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::crash::writer_that_gets_killed", "--nocapture", "--test-threads=1"])
            .env(FOLDER, folder)
            .env(HOLD, hold.as_millis().to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let mut out = BufReader::new(child.0.stdout.take().unwrap());
    let mut said = Vec::new();
    let mut line = String::new();
    while out.read_line(&mut line).unwrap() > 0 {
        // A line that was cut off by the kill was not acknowledged to anybody.
        if let Some(whole) = line.strip_suffix('\n') {
            let words: Vec<&str> = whole.split(' ').collect();
            // The harness leaves the beginning of its own line before the first.
            if let [.., kind @ ("stored" | "leased" | "passed"), device, boot, seq] = words.as_slice() {
                let sent = ((*device).to_owned(), boot.parse().unwrap(), seq.parse().unwrap());
                said.push(((*kind).to_owned(), sent));
            }
        }
        if said.len() == lines {
            // SIGKILL, on Unix.
            child.0.kill().unwrap();
        }
        line.clear();
    }
    child.0.wait().unwrap();
    assert!(said.len() >= lines, "the writer ended early after {} lines", said.len());
    said
}
