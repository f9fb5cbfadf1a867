//! Random damage to the files of a queue that was killed, or closed: it opens soon, delivers nothing wrong, and the sums hold.
//!
//! `FIELDGATE_CORRUPTION_CASES=300 FIELDGATE_CORRUPTION_SEED=7 cargo test -p fieldgate-store --lib corruption -- --nocapture`

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::{Batch, Lane, Put, Queue};

use super::{Bench, UP, append, assert_sums, batch, ids, lease, settled, within};

const PAGE: usize = 4096;
/// DESIGN asks for no more, on a machine that does other things too.
const SOON: Duration = Duration::from_secs(5);

/// SplitMix64: any seed is a good one.
struct Random(u64);

impl Random {
    /// A number below `most`.
    fn below(&mut self, most: usize) -> usize {
        usize::try_from(self.next() % most.max(1) as u64).unwrap()
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

type Name = (String, u64, u64);
type Content = BTreeMap<Name, (Lane, Vec<u8>)>;

/// Files as a kill leaves them, and as a tidy end leaves them; all that was ever stored, and how many of it wait.
async fn make(bench: &Bench) -> (Content, u64) {
    let queue = bench.open(1);
    let mut content = Content::new();
    for number in 0..400_u32 {
        let mut appends = Vec::new();
        for at in 0..10_u32 {
            let text = format!("{number} {at} {}", "x".repeat(((number * 7 + at * 13) % 300) as usize));
            let mut append = append(&format!("d{}", (number + at) % 7), text);
            append.lane = Lane::ALL[(at % 3) as usize];
            appends.push(append);
        }
        let puts = vec![Put { table: "retained", key: number.to_le_bytes().to_vec(), value: vec![7; 20] }];
        let receipts =
            queue.commit(Batch { appends: appends.clone(), puts, ..Batch::default() }).await.unwrap().receipts;
        for (append, receipt) in appends.into_iter().zip(receipts) {
            content.insert((append.device.to_string(), receipt.boot, receipt.seq), (append.lane, append.body.to_vec()));
        }
    }
    let mut delivered = 0;
    for _ in 0..5 {
        let records = lease(&queue, 100).await;
        delivered += records.len() as u64;
        queue.settle(UP, ids(&records)).await.unwrap();
        settled(&queue).await;
    }
    copy(bench.dir.path(), &bench.dir.path().join("killed"));
    queue.close().await.unwrap();
    copy(bench.dir.path(), &bench.dir.path().join("closed"));
    let waiting = content.len() as u64 - delivered;
    (content, waiting)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for name in ["queue.db", "queue.db-wal"] {
        if from.join(name).exists() {
            fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}

/// Damages one of the files; says how.
fn damage(folder: &Path, random: &mut Random) -> String {
    let mut below = |most: usize| random.below(most);
    let log = folder.join("queue.db-wal");
    let file = if log.exists() && below(3) == 0 { log } else { folder.join("queue.db") };
    let mut bytes = fs::read(&file).unwrap();
    let len = bytes.len();
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    let how = match below(6) {
        0 => {
            let (at, bit) = (below(len), below(8));
            bytes[at] ^= 1 << bit;
            format!("bit {bit} of byte {at}")
        }
        1 => {
            let bits = 1 + below(200);
            for _ in 0..bits {
                bytes[below(len)] ^= 1 << below(8);
            }
            format!("{bits} bits")
        }
        2 => {
            let pages = 1 + below(5);
            for _ in 0..pages {
                let at = below(len / PAGE) * PAGE;
                let end = (at + PAGE).min(len);
                bytes[at..end].fill(0);
            }
            format!("{pages} zeroed pages")
        }
        3 => {
            let keep = below(len);
            bytes.truncate(keep);
            format!("cut to {keep}")
        }
        4 => {
            let most = 1 + below(100);
            for byte in bytes.iter_mut().take(most) {
                *byte = u8::try_from(below(256)).unwrap();
            }
            format!("{most} bytes of garbage at the beginning")
        }
        _ => {
            let (at, size) = (below(len), 1 + below(20_000));
            let end = (at + size).min(len);
            for byte in &mut bytes[at..end] {
                *byte = u8::try_from(below(256)).unwrap();
            }
            format!("garbage from {at} to {end}")
        }
    };
    fs::write(&file, bytes).unwrap();
    format!("{name} of {len}: {how}")
}

/// Everything that can be leased, checked benchst what was stored.
async fn drain(queue: &Queue, content: &Content, what: &str) -> usize {
    let mut seen = BTreeSet::new();
    let mut last: BTreeMap<(String, Lane), (u64, u64)> = BTreeMap::new();
    let mut busy = Instant::now();
    // Counters may be damaged, and then count what is not there: silence ends it too.
    let left = || queue.stats().messages > 0 || queue.stats().salvaging;
    while left() && busy.elapsed() < Duration::from_secs(2) {
        for lane in Lane::ALL {
            let records = queue.lease(UP, lane, 1000, usize::MAX);
            let Ok(records) = tokio::time::timeout(Duration::from_millis(20), records).await else { continue };
            let records = records.unwrap();
            busy = Instant::now();
            for record in &records {
                let header = &record.header;
                let name = (header.device.to_string(), header.boot, header.seq);
                let Some((stored, body)) = content.get(&name) else { panic!("{what}: {name:?} was never stored") };
                assert_eq!((*stored, &record.body[..]), (lane, &body[..]), "{what}: {name:?}");
                let at = (header.boot, header.seq);
                let before = last.insert((name.0.clone(), lane), at);
                assert!(before < Some(at), "{what}: {name:?} after {before:?}");
                assert!(seen.insert(name), "{what}: twice");
            }
            queue.settle(UP, ids(&records)).await.unwrap();
        }
    }
    seen.len()
}

#[tokio::test]
async fn random_damage_never_stops_the_start_nor_delivers_anything_wrong() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let cases = number("FIELDGATE_CORRUPTION_CASES").unwrap_or(30);
    let seed = number("FIELDGATE_CORRUPTION_SEED").unwrap_or_else(|| {
        u64::from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos())
    });
    println!("FIELDGATE_CORRUPTION_SEED={seed} FIELDGATE_CORRUPTION_CASES={cases}");
    let bench = Bench::new();
    // What a damaged log takes with it leaves an older state behind: the last deliveries may be waiting bench.
    let (all, waiting) = make(&bench).await;
    let mut random = Random(seed | 1);
    let (mut slowest, mut aside, mut found) = (Duration::ZERO, 0, 0);
    for case in 0..cases {
        let kind = if case % 2 == 0 { "killed" } else { "closed" };
        let folder = bench.dir.path().join(format!("case-{case}"));
        copy(&bench.dir.path().join(kind), &folder);
        let what = format!("seed {seed} case {case}, {kind}: {}", damage(&folder, &mut random));
        let begin = Instant::now();
        let queue = bench.open_at(&folder.join("queue.db"), 2);
        let took = begin.elapsed();
        assert!(took < SOON, "{what}: opened in {took:?}");
        slowest = slowest.max(took);
        found += drain(&queue, &all, &what).await;
        assert_sums(&queue);
        aside += u32::from(queue.stats().set_aside.is_some());
        let receipt = within(queue.commit(batch("d1", &["new"]))).await.unwrap().receipts[0];
        let records = lease(&queue, 10).await;
        assert_eq!(ids(&records), [receipt.id], "{what}");
        queue.settle(UP, ids(&records)).await.unwrap();
        settled(&queue).await;
        assert_sums(&queue);
        let ledger = queue.ledger();
        within(queue.close()).await.unwrap();
        let queue = bench.open_at(&folder.join("queue.db"), 3);
        assert_eq!(queue.ledger(), ledger, "{what}");
        queue.close().await.unwrap();
        fs::remove_dir_all(&folder).unwrap();
    }
    println!(
        "{cases} cases: slowest start {slowest:?}, {aside} files set aside, {found} of {} records found",
        cases * waiting
    );
}
