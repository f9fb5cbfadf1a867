//! How fast the queue is: 64 producers with some messages per batch, one consumer with a window like the upstream's,
//! on the disk that holds the given folder (default: the system's temporary one).
//!
//! `cargo run --release -p fieldgate-store --example throughput -- [folder] [seconds] [messages per batch]`

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fieldgate_store::{Append, Batch, Lane, Options, Queue};
use fieldgate_types::{Clock, DeviceId, SystemClock};

const PRODUCERS: usize = 64;
const BODY: usize = 200;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let seconds: u64 = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let sizes: Vec<usize> = arguments.next().map_or(Ok(vec![1, 10, 100]), |text| text.parse().map(|n| vec![n]))?;
    let folder = folder.join(format!("fieldgate-throughput-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    for size in sizes {
        measure(&folder.join(format!("{size}.db")), seconds, size).await?;
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

async fn measure(path: &std::path::Path, seconds: u64, size: usize) -> Result<(), Box<dyn std::error::Error>> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let queue = Queue::open(path, 1, Options::default(), Arc::clone(&clock))?;
    let live = run(&queue, &clock, seconds, size, true).await?;
    let delivered: u64 = queue.ledger().iter().map(|row| row.delivered).sum();
    let live_commits = queue.stats().commits;
    println!(
        "{PRODUCERS} producers x {size} messages of {BODY} B, consumer on: {live} messages/s durable, {} delivered/s, {} transactions/s",
        delivered / seconds,
        live_commits / seconds,
    );
    let stored = run(&queue, &clock, seconds, size, false).await?;
    println!("  consumer off: {stored} messages/s durable");
    let begin = Instant::now();
    let waiting = queue.stats().messages;
    let mut drained = 0;
    while drained < waiting {
        let records = queue.lease("upstream", Lane::Live, 1024, 1 << 20).await?;
        drained += records.len() as u64;
        queue.settle("upstream", records.iter().map(|record| record.id).collect()).await?;
    }
    while queue.stats().messages > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = begin.elapsed().as_secs_f64();
    #[allow(clippy::cast_precision_loss)] // a rate for people
    let rate = waiting as f64 / took;
    println!("  drained {waiting} in {took:.2} s: {rate:.0} messages/s; file {} MiB", queue.stats().file_bytes >> 20);
    queue.close().await?;
    Ok(())
}

async fn run(
    queue: &Queue,
    clock: &Arc<dyn Clock>,
    seconds: u64,
    size: usize,
    consume: bool,
) -> Result<u64, Box<dyn std::error::Error>> {
    let stop = Arc::new(AtomicBool::new(false));
    let stored = Arc::new(AtomicU64::new(0));
    let body = Bytes::from(vec![b'x'; BODY]);
    let consumer = consume.then(|| {
        let queue = queue.clone();
        tokio::spawn(async move {
            while let Ok(records) = queue.lease("upstream", Lane::Live, 1024, 1 << 20).await {
                let ids = records.iter().map(|record| record.id).collect();
                if queue.settle("upstream", ids).await.is_err() {
                    break;
                }
            }
        })
    });
    let mut producers = Vec::new();
    for number in 0..PRODUCERS {
        let device = DeviceId::new(&format!("device-{number}"))?;
        let (queue, clock, stop, stored, body) =
            (queue.clone(), Arc::clone(clock), Arc::clone(&stop), Arc::clone(&stored), body.clone());
        producers.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let append = || Append {
                    device: device.clone(),
                    lane: Lane::Live,
                    time: clock.now(),
                    expires: None,
                    body: body.clone(),
                };
                let appends = (0..size).map(|_| append()).collect();
                if queue.commit(Batch { appends, ..Batch::default() }).await.is_err() {
                    break;
                }
                stored.fetch_add(size as u64, Ordering::Relaxed);
            }
        }));
    }
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let durable = stored.load(Ordering::Relaxed);
    stop.store(true, Ordering::Relaxed);
    for producer in producers {
        producer.await?;
    }
    if let Some(consumer) = consumer {
        consumer.abort();
        // Only when it has ended can it hold nothing new; that it was cancelled is no news.
        drop(consumer.await);
        queue.rewind("upstream");
    }
    Ok(durable / seconds)
}
