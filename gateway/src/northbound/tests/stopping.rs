//! The end.

use std::time::Duration;

use tokio::time::Instant;

use super::super::{Protocol, UpstreamState};
use super::liar::{Liar, Reply, Script};
use super::{Bench, assert_complete, config, eventually};

#[tokio::test]
async fn a_stop_empties_the_queue_says_so_and_disconnects() {
    for (protocol, v5) in [(Protocol::V5, true), (Protocol::V311, false)] {
        let liar = Liar::start(Script::honest(v5)).await;
        let bench = Bench::new();
        let config = super::UpstreamConfig { window: 4096, ..config(liar.port, protocol) };
        let running = bench.start(config);
        eventually("up", || running.handle.status().state == UpstreamState::Up).await;
        bench.fill("press-1", 0, 1000).await;
        let handle = running.handle.clone();
        running.stopped().await;
        assert_eq!(bench.queue.stats().messages, 0, "{:?}", handle.status());
        assert_complete(&liar.numbers()["press-1"], 1000, 0, 0);
        let states = liar.states();
        assert!(
            states[1].starts_with(r#"{"online":false,"#) && states[1].contains(r#""reason":"stopped""#),
            "{states:?}"
        );
        eventually("the DISCONNECT has come", || liar.seen().disconnects == 1).await;
        assert_eq!(handle.status().state, UpstreamState::Stopped);
    }
}

#[tokio::test]
async fn a_stop_leaves_in_the_queue_what_does_not_go_in_time() {
    let mut script = Script::honest(true);
    script.reply = Box::new(|_, before| if before < 10 { Reply::Ack(0) } else { Reply::Silence });
    let liar = Liar::start(script).await;
    let bench = Bench::new();
    bench.fill("press-1", 0, 50).await;
    let config = config(liar.port, Protocol::V5);
    let stop = tokio_util::sync::CancellationToken::new();
    let (commands, _taken) = tokio::sync::mpsc::channel(1);
    let (messages, _fetched) = tokio::sync::mpsc::channel(1);
    let gateway = fieldgate_types::DeviceId::new(super::GATEWAY).unwrap();
    let (upstream, handle) = super::Upstream::new(
        config,
        gateway,
        bench.queue.clone(),
        super::Down { commands, messages },
        super::Replay::default(),
        std::sync::Arc::clone(&bench.clock),
        stop.clone(),
    );
    let task = tokio::spawn(upstream.with_drain(Duration::from_millis(300)).run());
    eventually("ten are through", || handle.status().acknowledged == 10).await;
    let begin = Instant::now();
    stop.cancel();
    task.await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    eventually("forty stay", || bench.queue.stats().messages == 40).await;
    eventually("the DISCONNECT has come", || liar.seen().disconnects == 1).await;
}

#[tokio::test]
async fn a_stop_without_a_connection_ends_at_once() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let bench = Bench::new();
    bench.fill("press-1", 0, 5).await;
    let running = bench.start(config(free, Protocol::V5));
    eventually("down", || running.handle.status().state == UpstreamState::Down).await;
    let begin = Instant::now();
    running.stopped().await;
    assert!(begin.elapsed() < Duration::from_secs(3), "less than a drain: {:?}", begin.elapsed());
    assert_eq!(bench.queue.stats().messages, 5);
}
