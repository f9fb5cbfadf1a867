//! Clients that are broken or greedy. Every limit has its test in `limits`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::pedantic)]

mod support;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use fieldgate_broker::{Limits, Message, QoS, Role};
use rustls::pki_types::ServerName;
use support::packets::{self, Connect};
use support::{Plant, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const TOPIC: &str = "devices/d1/telemetry/t";

#[tokio::test(flavor = "multi_thread")]
async fn a_connect_glued_to_the_last_tls_flight_is_heard() {
    let plant = Plant::new().await;
    let name = ServerName::try_from("localhost").unwrap();
    let mut tls = rustls::ClientConnection::new(Arc::new(plant.client_config("d1")), name).unwrap();
    let mut socket = std::net::TcpStream::connect(plant.address).unwrap();
    socket.set_nodelay(true).unwrap();
    let (mut first, mut last) = (Vec::new(), Vec::new());
    tls.write_tls(&mut first).unwrap();
    socket.write_all(&first).unwrap();
    while tls.is_handshaking() {
        tls.read_tls(&mut socket).unwrap();
        tls.process_new_packets().unwrap();
    }
    // Certificate, CertificateVerify, Finished, and behind them CONNECT and PUBLISH: one write.
    tls.writer().write_all(&Connect::v5("d1").build()).unwrap();
    tls.writer().write_all(&packets::publish(2, TOPIC, 1, Some(&[]), b"x")).unwrap();
    while tls.wants_write() {
        tls.write_tls(&mut last).unwrap();
    }
    socket.write_all(&last).unwrap();
    let mut answers = Vec::new();
    while answers.len() < 8 || !answers.ends_with(&[0x40, 2, 0, 1]) {
        assert!(tls.read_tls(&mut socket).unwrap() > 0, "closed after {answers:02x?}");
        tls.process_new_packets().unwrap();
        let mut buffer = [0; 256];
        while let Ok(count) = std::io::Read::read(&mut tls.reader(), &mut buffer) {
            if count == 0 {
                break;
            }
            answers.extend(&buffer[..count]);
        }
    }
    assert_eq!(answers[0], 0x20);
}

#[tokio::test(flavor = "multi_thread")]
async fn first_packets_are_judged_before_they_cost_anything() {
    let plant = Plant::new().await;
    for (what, bytes) in [
        ("a PUBLISH first", packets::publish(0, TOPIC, 0, None, b"x")),
        ("256 MB claimed", vec![0x10, 0xFF, 0xFF, 0xFF, 0x7F]),
        ("a length that never ends", vec![0x10, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]),
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
    ] {
        let mut client = plant.socket("d1").await;
        client.send(&bytes).await;
        while let Some(packet) = client.read().await {
            assert_eq!((packet.first, packet.body[1]), (0x20, 0x95), "{what}");
        }
    }
    let mut client = plant.socket("d1").await;
    assert_eq!(client.refused(Connect { level: 6, ..Connect::v311("d1") }).await, 1);
    let mut client = plant.socket("d1").await;
    assert_eq!(client.refused(Connect::v5("d1").property(&[0x15, 0, 1, b'm'])).await, 0x8C);
    assert_eq!(plant.broker.metrics().refused, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn misbehaviour_ends_with_its_reason_code() {
    let plant = Plant::new().await;
    let big = packets::publish(0, TOPIC, 0, Some(&[]), &vec![0; 256 << 10]);
    let cases = [
        (0x81, packets::publish(2, TOPIC, 0, Some(&[]), b"x")),
        (0x90, packets::publish(2, "a/#", 1, Some(&[]), b"x")),
        (0x94, packets::publish(2, TOPIC, 1, Some(&[0x23, 1, 0]), b"x")),
        (0x82, Connect::v5("d1").build()),
        (0x82, packets::packet(0x20, &[0, 0, 0])),
        (0x82, packets::packet(0xF0, &[])),
        (0x95, big[..4096].to_vec()),
    ];
    for (code, bytes) in cases {
        let mut client = plant.v5("d1").await;
        client.send(&bytes).await;
        assert_eq!(client.disconnected().await, Some(code), "{:02x?}", &bytes[..8.min(bytes.len())]);
    }
    // More QoS 2 ids than announced.
    plant.gate.hold();
    let mut client = plant.v5("d1").await;
    for id in 1..=33 {
        client.publish(4, TOPIC, id, "x").await;
    }
    let disconnected = client.disconnected();
    let decide = async {
        until("commits", || async { plant.gate.held() >= 32 }).await;
        while plant.gate.held() > 0 {
            plant.gate.let_through(Ok(()));
        }
    };
    let (code, ()) = tokio::join!(disconnected, decide);
    assert_eq!(code, Some(0x93));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_qos_1_beyond_the_receive_maximum_is_read_as_it_is_acknowledged() {
    let plant = Plant::new().await;
    plant.gate.hold();
    let mut client = plant.v5("d1").await;
    for id in 1..=200 {
        client.publish(2, TOPIC, id, "x").await;
    }
    until("commits", || async { plant.gate.held() == 32 }).await;
    for id in 1..=200 {
        until("a commit", || async { plant.gate.held() > 0 }).await;
        assert!(plant.gate.held() <= 32);
        plant.gate.let_through(Ok(()));
        assert_eq!(client.acked(0x40).await.0, id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keep_alive_is_watched() {
    let plant = Plant::new().await;
    let mut client = plant.socket("d1").await;
    client.connect(Connect::v5("d1").keep_alive(1)).await;
    client.send(&[0xC0, 0]).await;
    assert_eq!(client.read().await.unwrap().first, 0xD0);
    let before = tokio::time::Instant::now();
    assert_eq!(client.disconnected().await, Some(0x8D));
    let after = before.elapsed();
    assert!(after > Duration::from_millis(1_400) && after < Duration::from_secs(3), "{after:?}");
    let mut client = plant.socket("d1").await;
    let connack = client.connect(Connect::v5("d1").keep_alive(0)).await;
    assert!(connack.windows(3).any(|window| window == [0x13, 1, 44]), "{connack:02x?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_flood_itself() {
    let plant = Plant::with_limits(Limits { message_rate: 0, ..Limits::default() }).await;
    plant.gate.role("app", Role::App);
    plant.gate.allow("app", "#");
    let mut client = plant.socket("app").await;
    client.connect(Connect::v311("app").keep_alive(60)).await;
    assert_eq!(client.subscribe("loop", 0).await, 0);
    let (mut reader, mut writer) = tokio::io::split(client.stream);
    let count = 20_000;
    let send = async {
        let packet = packets::publish(0, "loop", 0, None, &[b'x'; 100]);
        for _ in 0..count / 100 {
            writer.write_all(&packet.repeat(100)).await.unwrap();
        }
        writer.flush().await.unwrap();
    };
    let receive = async {
        let mut bytes = vec![0; count * packets::publish(0, "loop", 0, None, &[b'x'; 100]).len()];
        reader.read_exact(&mut bytes).await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(20), async { tokio::join!(send, receive) }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateways_publish_is_bounded_by_a_stalled_receiver() {
    let limits = Limits {
        session_queue_messages: 10,
        output_buffer: 4 << 10,
        full_queue_wait: Duration::from_millis(100),
        ..Limits::default()
    };
    let plant = Plant::with_limits(limits).await;
    let mut device = plant.v5("d1").await;
    assert_eq!(device.subscribe("devices/d1/#", 1).await, 1);
    let before = tokio::time::Instant::now();
    let mut live = 0;
    for _ in 0..60 {
        let message = Message::new("devices/d1/commands/go/1", "{}", Default::default());
        live += plant.broker.publish(message.with_qos(QoS::AtLeastOnce)).await.unwrap().live;
    }
    assert_eq!(live, 42, "in flight and queued");
    assert!(before.elapsed() < Duration::from_secs(2));
    until("put out", || async { plant.broker.metrics().connections == 0 }).await;
}
