//! What is lost is told upstream, once.

use std::sync::Arc;
use std::time::Duration;

use fieldgate_store::{Options, Queue};
use fieldgate_types::{DeviceId, Size};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::super::Protocol;
use super::super::gaps::Gaps;
use super::liar::{Liar, Script};
use super::{Bench, Running, config, eventually};

fn telling(bench: &Bench, running: &Running) -> (CancellationToken, mpsc::Receiver<DeviceId>) {
    let stop = CancellationToken::new();
    let (missing, heard) = mpsc::channel(8);
    let gaps = Gaps {
        queue: bench.queue.clone(),
        missing: Box::new(move |device| missing.try_send(device.clone()).unwrap()),
        upstream: running.handle.clone(),
        clock: Arc::clone(&bench.clock),
        stop: stop.clone(),
    };
    tokio::spawn(gaps.run());
    (stop, heard)
}

fn markers(liar: &Liar) -> Vec<Value> {
    let seen = liar.seen();
    let of_press = |topic: &str| topic == "fieldgate/line-4/devices/press-1/events";
    let found = seen.published.iter().filter(|published| of_press(&published.topic));
    found.map(|published| serde_json::from_slice(&published.payload).unwrap()).collect()
}

#[tokio::test]
async fn what_was_evicted_is_told_upstream_once_it_is_there_and_not_again() {
    for (v5, protocol) in [(true, Protocol::V5), (false, Protocol::V311)] {
        let mut bench = Bench::new();
        let options = Options { max_size: Size(1 << 20), ..Options::default() };
        let file = bench.dir.path().join("small.db");
        bench.queue = Queue::open(&file, 1, options, Arc::clone(&bench.clock)).unwrap();
        for round in 0..12 {
            bench.fill("press-1", round * 1000, (round + 1) * 1000).await;
        }
        let evicted = bench.queue.ledger().iter().map(|row| row.evicted).sum::<u64>();
        assert!(evicted > 0, "{:?}", bench.queue.stats());
        let liar = Liar::start(Script::honest(v5)).await;
        let running = bench.start(super::UpstreamConfig { window: 4096, ..config(liar.port, protocol) });
        let (stop, mut missing) = telling(&bench, &running);
        eventually("the marker is there", || markers(&liar).len() == 1).await;
        bench.emptied().await;
        let marker = &markers(&liar)[0];
        assert_eq!(
            (&marker["event"], &marker["kind"], &marker["reason"]),
            (&"gap".into(), &"evicted".into(), &"max-size".into())
        );
        assert_eq!(marker["count"], evicted);
        assert!(
            marker["first"].as_u64() <= marker["last"].as_u64() && marker["last"].as_u64() <= marker["ts"].as_u64()
        );
        assert_eq!(bench.queue.gaps(), []);
        // Somebody else, who looks again at once, finds nothing to tell.
        assert_eq!(missing.recv().await.unwrap().as_str(), "press-1");
        let (again, mut nothing) = telling(&bench, &running);
        bench.fill("press-1", 12_000, 12_001).await;
        bench.emptied().await;
        tokio::time::timeout(Duration::from_secs(5), running.stopped()).await.unwrap();
        assert_eq!(markers(&liar).len(), 1);
        assert!(missing.try_recv().is_err() && nothing.try_recv().is_err());
        stop.cancel();
        again.cancel();
    }
}
