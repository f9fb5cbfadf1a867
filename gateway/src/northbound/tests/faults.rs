//! An upstream that breaks the protocol: the connection ends with a reason that names the packet, nothing is lost.

use std::time::Duration;

use super::super::{Protocol, UpstreamState};
use super::liar::{Liar, Reply, Script};
use super::{Bench, assert_complete, config, eventually};

/// The sixth message on the first connection gets `lie`, which ends it with `words`.
async fn lies_once(v5: bool, lie: Reply, words: &str) {
    let mut script = Script::honest(v5);
    script.reply = Box::new(move |published, before| match (published.connection, before) {
        (1, 0..5) => Reply::Ack(0),
        (1, 5) => lie,
        (1, _) => Reply::Silence,
        _ => Reply::Ack(0),
    });
    let liar = Liar::start(script).await;
    let bench = Bench::new();
    bench.fill("press-1", 0, 150).await;
    let running = bench.start(config(liar.port, if v5 { Protocol::V5 } else { Protocol::V311 }));
    bench.emptied().await;
    assert_complete(&liar.numbers()["press-1"], 150, 100, 1);
    let status = running.handle.status();
    assert_eq!((status.state, status.connects), (UpstreamState::Up, 2), "{lie:?}");
    let why = status.last_error.unwrap();
    assert!(why.contains(words), "{lie:?}: {why}");
    assert_eq!(liar.seen().most_open, 1, "one upstream connection at any time");
    running.stopped().await;
}

#[tokio::test]
async fn an_answer_to_nothing_ends_the_connection_and_loses_nothing() {
    for v5 in [true, false] {
        let nothing = "a PUBACK for packet id 60000, which has nothing open";
        lies_once(v5, Reply::Wrong(60_000), nothing).await;
        lies_once(v5, Reply::Twice, "a PUBACK for packet id").await;
        lies_once(v5, Reply::Wrong(0), "malformed packet (PUBACK)").await;
        // The ids of SUBSCRIBE and birth are free again.
        lies_once(v5, Reply::Wrong(1), "a PUBACK for packet id 1, which").await;
        lies_once(v5, Reply::Raw(&[0x90, 3, 0, 200, 1]), if v5 { "SUBACK" } else { "a SUBACK for packet id 200" })
            .await;
    }
}

#[tokio::test]
async fn what_no_server_sends_ends_the_connection_and_loses_nothing() {
    for v5 in [true, false] {
        lies_once(
            v5,
            Reply::Raw(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            "the upstream breaks the protocol: malformed packet",
        )
        .await;
        lies_once(v5, Reply::Raw(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F]), "packet too large (PUBLISH)").await;
        lies_once(v5, Reply::Raw(&[0x40, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]), "malformed packet (PUBACK)").await;
        lies_once(v5, Reply::Raw(&[0xC0, 0]), "protocol error (PINGREQ)").await;
        lies_once(v5, Reply::Raw(&[0x50, 2, 0, 1]), "protocol error (PUBREC)").await;
        lies_once(v5, Reply::Raw(&[0x36, 5, 0, 1, b'x', 0, 1]), "malformed packet (PUBLISH)").await;
        lies_once(v5, Reply::Raw(&[0x32, 6, 0, 1, b'#', 0, 1, 0]), "topic name not valid (PUBLISH)").await;
        lies_once(v5, Reply::Raw(&[0, 0]), "malformed packet (type 0)").await;
        let connack: &[u8] = if v5 { &[0x20, 3, 0, 0, 0] } else { &[0x20, 2, 0, 0] };
        lies_once(v5, Reply::Raw(connack), "a second CONNACK").await;
    }
    // Topic Alias, of which we allow none.
    let alias = Reply::Raw(&[0x30, 7, 0, 1, b'x', 3, 0x23, 0, 1]);
    lies_once(true, alias, "protocol error (PUBLISH)").await;
    lies_once(true, Reply::Raw(&[0xE0, 1, 0x8E]), "another client connected with the client id `line-4`").await;
    lies_once(true, Reply::Raw(&[0xE0, 1, 0x8B]), "disconnected with ServerShuttingDown (0x8b)").await;
    lies_once(false, Reply::Raw(&[0xE0, 0]), "protocol error (DISCONNECT)").await;
}

#[tokio::test]
async fn what_is_no_connack_is_said_in_words() {
    let cases: [(bool, &[u8], &str); 8] = [
        (true, &[0x40, 2, 0, 1], "a PUBACK came where a CONNACK was due"),
        (true, b"HTTP/1.1 400 Bad Request\r\n\r\n", "a PUBACK came where a CONNACK was due"),
        (true, &[0x20, 0xFF, 0xFF, 0xFF, 0x7F], "packet too large (CONNACK)"),
        (true, &[0x20, 2, 0, 0], "malformed packet (CONNACK)"),
        (true, &[0x20, 6, 0, 0, 3, 0x21, 0, 0], "protocol error (CONNACK)"),
        (true, &[0x20, 7, 0, 0, 4, 0x12, 0, 1, b'x'], "another id than the one in CONNECT"),
        (true, &[0x20, 5, 0, 0, 2, 0x24, 0], "QoS 0 alone"),
        (false, &[0x20, 2, 2, 0], "malformed packet (CONNACK)"),
    ];
    for (v5, greeting, words) in cases {
        let mut script = Script::honest(v5);
        script.greeting = Some(greeting.to_vec());
        let liar = Liar::start(script).await;
        let bench = Bench::new();
        let running = bench.start(config(liar.port, if v5 { Protocol::V5 } else { Protocol::V311 }));
        eventually(words, || running.handle.status().last_error.is_some_and(|why| why.contains(words))).await;
        assert_eq!(running.handle.status().connects, 0);
        running.stopped().await;
    }
}

#[tokio::test]
async fn half_a_packet_and_then_nothing_ends_the_connection() {
    let mut script = Script::honest(true);
    // Server Keep Alive: 1 s.
    script.properties = vec![0x13, 0, 1];
    script.pong = false;
    script.reply = Box::new(|published, before| match (published.connection, before) {
        (1, 5) => Reply::Raw(&[0x40, 2, 0]),
        (1, 6..) => Reply::Silence,
        _ => Reply::Ack(0),
    });
    let liar = Liar::start(script).await;
    let bench = Bench::new();
    bench.fill("press-1", 0, 150).await;
    let running = bench.start(config(liar.port, Protocol::V5));
    bench.emptied().await;
    assert_complete(&liar.numbers()["press-1"], 150, 100, 1);
    let why = running.handle.status().last_error.unwrap();
    assert!(why.contains("for 1.5s"), "{why}");
    running.stopped().await;
}

#[tokio::test]
async fn answers_that_come_byte_by_byte_are_answers() {
    for (protocol, v5) in [(Protocol::V5, true), (Protocol::V311, false)] {
        let mut script = Script::honest(v5);
        script.reply = Box::new(|_, _| Reply::Slowly);
        let liar = Liar::start(script).await;
        let bench = Bench::new();
        bench.fill("press-1", 0, 150).await;
        let running = bench.start(config(liar.port, protocol));
        bench.emptied().await;
        assert_complete(&liar.numbers()["press-1"], 150, 0, 0);
        assert_eq!(running.handle.status().connects, 1);
        running.stopped().await;
    }
}

#[tokio::test]
async fn an_upstream_that_sends_and_does_not_read_is_left() {
    let mut script = Script::honest(true);
    // Server Keep Alive: 1 s.
    script.properties = vec![0x13, 0, 1];
    script.reply = Box::new(|published, _| if published.connection == 1 { Reply::Deaf } else { Reply::Ack(0) });
    let liar = Liar::start(script).await;
    let bench = Bench::new();
    // More than two sockets hold.
    let large: Vec<u8> = format!("1{}", " ".repeat(200_000)).into_bytes();
    let body = crate::pipeline::record::Upbound::json("devices/press-1/telemetry/t", &large, false).encode().unwrap();
    bench.append("press-1", vec![body; 60]).await;
    let running = bench.start(config(liar.port, Protocol::V5));
    let begin = tokio::time::Instant::now();
    eventually("it is left", || running.handle.status().last_error.is_some()).await;
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    let why = running.handle.status().last_error.unwrap();
    assert!(why.contains("for 1.5s"), "{why}");
    bench.emptied().await;
    assert_eq!(liar.seen().most_open, 1);
    running.stopped().await;
}
