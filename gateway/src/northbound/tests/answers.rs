//! What the upstream answers to messages, and what becomes of them.

use std::sync::atomic::{AtomicUsize, Ordering};

use fieldgate_store::{Append, Batch, Lane};
use fieldgate_types::DeviceId;

use super::super::{Protocol, Replay, UpstreamState};
use super::liar::{Liar, Reply, Script};
use super::{Bench, assert_complete, config, eventually};
use crate::pipeline::record::{Destination, Upbound};

#[tokio::test]
async fn a_quota_refusal_is_sent_again_in_order() {
    let mut script = Script::honest(true);
    // From the 10th to the 14th message everything is refused, once.
    script.reply = Box::new(|_, before| Reply::Ack(if (10..15).contains(&before) { 0x97 } else { 0 }));
    let liar = Liar::start(script).await;
    let bench = Bench::new();
    bench.fill("press-1", 0, 300).await;
    let running = bench.start(config(liar.port, Protocol::V5));
    bench.emptied().await;
    let numbers = liar.numbers();
    assert_complete(&numbers["press-1"], 300, 100, 1);
    assert_eq!(numbers["press-1"].last(), Some(&299));
    let status = running.handle.status();
    assert_eq!((status.connects, status.refused, status.quarantined), (1, 5, 0));
    running.stopped().await;
}

#[tokio::test]
async fn a_message_refused_for_good_is_put_aside_and_its_neighbours_pass() {
    let mut script = Script::honest(true);
    script.reply = Box::new(|published, _| Reply::Ack(if published.topic.contains("/press-2/") { 0x90 } else { 0 }));
    let liar = Liar::start(script).await;
    let bench = Bench::new();
    for n in 0..20 {
        bench.fill("press-1", n, n + 1).await;
        bench.fill("press-2", n, n + 1).await;
    }
    let running = bench.start(config(liar.port, Protocol::V5));
    bench.emptied().await;
    assert_complete(&liar.numbers()["press-1"], 20, 0, 0);
    let status = running.handle.status();
    assert_eq!((status.quarantined, status.acknowledged, status.connects), (20, 20, 1));
    running.stopped().await;
}

#[tokio::test]
async fn what_can_not_be_sent_is_put_aside_without_being_sent() {
    let mut script = Script::honest(true);
    // Maximum Packet Size 1000.
    script.properties = vec![0x27, 0, 0, 3, 0xe8];
    let liar = Liar::start(script).await;
    let bench = Bench::new();
    let device = DeviceId::new("press-1").unwrap();
    let damaged = Append {
        device,
        lane: Lane::Live,
        time: bench.clock.now(),
        expires: None,
        body: bytes::Bytes::from_static(&[1, 255, 255]),
    };
    bench.queue.commit(Batch::append(damaged)).await.unwrap();
    let large = Upbound::json("devices/press-1/telemetry/t", &[b'1'; 1000], false);
    let wild = Upbound { destination: Destination::Absolute("answers/#"), payload: b"1", ..large.clone() };
    bench.append("press-1", [large.encode(), wild.encode()].map(Result::unwrap)).await;
    bench.fill("press-1", 0, 2).await;
    let running = bench.start(config(liar.port, Protocol::V5));
    bench.emptied().await;
    assert_complete(&liar.numbers()["press-1"], 2, 0, 0);
    let status = running.handle.status();
    assert_eq!((status.quarantined, status.connects, status.published), (3, 1, 2));
    running.stopped().await;
}

#[tokio::test]
async fn an_upstream_that_never_acknowledges_is_left_after_the_keep_alive() {
    for pong in [true, false] {
        let mut script = Script::honest(true);
        script.pong = pong;
        let silent = AtomicUsize::new(0);
        script.reply = Box::new(move |published, _| {
            if published.connection > 1 {
                return Reply::Ack(0);
            }
            silent.fetch_add(1, Ordering::Relaxed);
            Reply::Silence
        });
        // Server Keep Alive: 1 s.
        script.properties = vec![0x13, 0, 1];
        let liar = Liar::start(script).await;
        let bench = Bench::new();
        bench.fill("press-1", 0, 250).await;
        let running = bench.start(config(liar.port, Protocol::V5));
        bench.emptied().await;
        assert_complete(&liar.numbers()["press-1"], 250, 100, 1);
        let status = running.handle.status();
        assert_eq!((status.state, status.connects), (UpstreamState::Up, 2));
        let why = status.last_error.unwrap();
        let expected = ["no message was acknowledged for 1.5s", "nothing was heard for 1.5s", "ping"];
        assert!(expected.iter().any(|words| why.contains(words)), "{why}");
        assert_eq!(liar.seen().most_open, 1, "one upstream connection at any time");
        running.stopped().await;
    }
}

#[tokio::test]
async fn an_upstream_that_closes_again_and_again_loses_nothing() {
    for (protocol, v5) in [(Protocol::V5, true), (Protocol::V311, false)] {
        let mut script = Script::honest(v5);
        script.reply = Box::new(|_, before| if before % 70 == 69 { Reply::Close } else { Reply::Ack(0) });
        let liar = Liar::start(script).await;
        let bench = Bench::new();
        bench.fill("press-1", 0, 200).await;
        bench.fill("press-2", 0, 200).await;
        let running = bench.start(config(liar.port, protocol));
        bench.emptied().await;
        let connects = u32::try_from(running.handle.status().connects).unwrap();
        assert!(connects >= 6, "{connects}");
        for numbers in liar.numbers().values() {
            assert_complete(numbers, 200, 100, connects);
        }
        assert_eq!(liar.seen().most_open, 1);
        running.stopped().await;
    }
}

#[tokio::test]
async fn replayed_messages_keep_to_their_rate() {
    let liar = Liar::start(Script::honest(true)).await;
    let bench = Bench::new();
    bench.fill("press-1", 0, 60).await;
    // The store calls it replayed when it is leased later than this.
    tokio::time::sleep(fieldgate_store::REPLAYED_AFTER + std::time::Duration::from_millis(200)).await;
    let running = bench.start_replaying(config(liar.port, Protocol::V5), Replay { rate: Some(100), live_first: false });
    eventually("the first arrives", || liar.numbers().contains_key("press-1")).await;
    let begin = tokio::time::Instant::now();
    bench.emptied().await;
    let took = begin.elapsed();
    assert!(took >= std::time::Duration::from_millis(400), "{took:?} for 60 at 100/s with a burst of 10");
    let hist = |p: &super::liar::Published| p.user.iter().any(|(key, value)| key == "fg-hist" && value == "1");
    assert!(liar.seen().published.iter().filter(|p| p.topic.contains("telemetry")).all(hist));
    running.stopped().await;
}
