//! What a connection leaves behind: messages given to a client whose wire has ended never hold up the next connection.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::super::client::{self, Ack, Gone, Hello, Inward, Receipt};
use super::super::failure::Who;
use super::super::packet::{Packet, Properties};
use super::super::{Protocol, status};
use super::liar::{Liar, Reply, Script};
use super::{Bench, GATEWAY, config, eventually};

#[tokio::test]
async fn messages_without_an_answer_do_not_keep_the_upstream_away() {
    let mut script = Script::honest(true);
    script.reply = Box::new(|_, _| Reply::Close);
    let liar = Liar::start(script).await;
    let bench = Bench::new();
    bench.fill("press-1", 0, 10).await;
    let running = bench.start(config(liar.port, Protocol::V5));
    eventually("it has connected three times", || running.handle.status().connects >= 3).await;
    assert_eq!(bench.queue.stats().messages, 10, "nothing was acknowledged, nothing is gone");
    running.stopped().await;
}

#[tokio::test]
async fn what_was_never_sent_is_lost_once_the_wire_is_gone() {
    for (protocol, v5) in [(Protocol::V5, true), (Protocol::V311, false)] {
        let liar = Liar::start(Script::honest(v5)).await;
        let packet = Packet {
            topic: ["fieldgate/line-4/", "devices/press-1/telemetry/t"],
            payload: b"1"[..].into(),
            retain: false,
            properties: Properties::default(),
        };
        let hello = Hello {
            protocol,
            host: "127.0.0.1".to_owned(),
            who: Who { client_id: GATEWAY.to_owned(), login: None, certificate: None },
            login: None,
            keep_alive: Duration::from_secs(60),
            will: packet.clone(),
        };
        let (board, _) = status::board(Arc::new(fieldgate_types::SystemClock::new()));
        // Nothing comes down here.
        let (arrivals, _down) = mpsc::channel(1);
        let inward = Inward { arrivals, counters: Arc::clone(&board.counters) };
        let stream = TcpStream::connect(("127.0.0.1", liar.port)).await.unwrap();
        let (client, wire, _) = client::connect(&hello, Box::new(stream), inward).await.unwrap();
        assert_eq!(client.publish(&packet), Ok(true));
        let waiting = tokio::spawn({
            let (client, packet) = (client.clone(), packet.clone());
            async move { client.deliver(&packet).await }
        });
        tokio::task::yield_now().await;
        drop(wire);
        let limit = Duration::from_secs(10);
        assert_eq!(tokio::time::timeout(limit, client.answers(10)).await, Ok(None));
        assert_eq!(tokio::time::timeout(limit, waiting).await.unwrap().unwrap(), Ack::Lost);
        assert_eq!(client.publish(&packet), Err(Gone));
        assert_eq!(client.deliver(&packet).await, Ack::Lost);
        assert_eq!(client.acknowledge(Receipt { packet_id: 1, exactly_once: false }).await, Err(Gone));
        assert_eq!(client.disconnect(), Err(Gone));
        client.room().await;
    }
}
