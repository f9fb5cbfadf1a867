//! The doors besides the one with certificates: passwords over TLS and without, WebSocket; and what a newcomer is held
//! to before its CONNECT.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::pedantic)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fieldgate_broker::{Config, Event, Limits, Role};
use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::ServerName;
use support::packets::{self, Connect};
use support::{Client, Plant, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::Message;

const TOPIC: &str = "devices/d1/telemetry/t";

fn any() -> Vec<SocketAddr> {
    vec!["127.0.0.1:0".parse().unwrap()]
}

async fn plant(limits: Limits) -> Plant {
    let config = Config { users_tls: any(), plain: any(), websocket: any(), limits, ..Config::default() };
    let plant = Plant::with_config(config).await;
    plant.gate.user("hmi", "secret");
    plant.gate.allow("hmi", "plant/#");
    plant
}

async fn plain(plant: &Plant) -> Client<TcpStream> {
    Client::over(TcpStream::connect(plant.broker.addresses().plain[0]).await.unwrap())
}

async fn over_tls(plant: &Plant) -> Client {
    Client::open(plant.broker.addresses().users_tls[0], plant.nameless_config()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_opens_both_doors_for_users_and_its_user_is_the_identity() {
    let plant = plant(Limits::default()).await;
    for version in [Connect::v5, Connect::v311] {
        let connect = |id: &str| version(id).user("hmi", "secret");
        let mut reader = over_tls(&plant).await;
        reader.connect(connect("hmi/reader")).await;
        assert_eq!(reader.subscribe("plant/#", 1).await, 1);
        let mut writer = plain(&plant).await;
        writer.connect(connect("")).await;
        writer.publish(2, "plant/x", 1, "42").await;
        assert_eq!(writer.acked(0x40).await.0, 1);
        assert_eq!(reader.receive().await.payload, b"42");
        assert!(plant.broker.connections().iter().all(|client| *client.id == *"hmi"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_or_missing_password_is_said_in_both_versions() {
    let plant = plant(Limits::default()).await;
    let wrong = |connect: Connect| connect.user("hmi", "wrong");
    let unknown = |connect: Connect| connect.user("nobody", "secret");
    let without = |connect: Connect| connect;
    let only_name = |connect: Connect| Connect { password: None, ..connect.user("hmi", "") };
    for how in [&wrong as &dyn Fn(Connect) -> Connect, &unknown, &without, &only_name] {
        assert_eq!(plain(&plant).await.refused(how(Connect::v5("hmi"))).await, 0x86);
        assert_eq!(plain(&plant).await.refused(how(Connect::v311("hmi"))).await, 4);
        assert_eq!(over_tls(&plant).await.refused(how(Connect::v5("hmi"))).await, 0x86);
    }
    // A password alone is legal on MQTT 5, and no user.
    let alone = Connect { user_name: None, ..Connect::v5("").user("", "secret") };
    assert_eq!(plain(&plant).await.refused(alone.clone()).await, 0x86);
    assert!(plant.gate.saw(|event| matches!(event, Event::Refused { code: Some(0x86), who: None, .. })));
    // With a certificate it is ignored, like a user name of somebody else.
    plant.socket("d1").await.connect(Connect { client_id: "d1".to_owned(), ..alone }).await;
    plant.socket("d1").await.connect(Connect::v311("d1").user("hmi", "wrong")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_can_be_nobody_else() {
    let plant = plant(Limits::default()).await;
    for id in ["d1", "hmi2", "admin"] {
        assert_eq!(plain(&plant).await.refused(Connect::v5(id).user("hmi", "secret")).await, 0x85, "{id}");
    }
    plant.gate.user("sensor", "secret");
    plant.gate.role("sensor", Role::Device);
    assert_eq!(plain(&plant).await.refused(Connect::v5("sensor/2").user("sensor", "secret")).await, 0x85);
    let mut sensor = plain(&plant).await;
    sensor.connect(Connect::v5("sensor").user("sensor", "secret")).await;
    sensor.publish(2, "devices/sensor/telemetry/t", 1, "x").await;
    assert_eq!(sensor.acked(0x40).await, (1, 0));
    sensor.publish(2, TOPIC, 2, "x").await;
    assert_eq!(sensor.acked(0x40).await, (2, 0x87));
    // Revoked while connected.
    plant.gate.revoke("sensor");
    plant.broker.recheck();
    assert_eq!(sensor.disconnected().await, Some(0x87));
}

type Socket = WebSocketStream<tokio_rustls::client::TlsStream<TcpStream>>;

async fn websocket(plant: &Plant, id: &str) -> Socket {
    let stream = Client::open(plant.broker.addresses().websocket[0], plant.client_config(id)).await.stream;
    let mut request = "wss://localhost/mqtt".into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("mqtt"));
    let (socket, answer) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    assert_eq!(answer.headers()["Sec-WebSocket-Protocol"], "mqtt");
    socket
}

/// Bytes from the broker until there are `count`.
async fn bytes(socket: &mut Socket, count: usize) -> Vec<u8> {
    let mut got = Vec::new();
    while got.len() < count {
        let message = tokio::time::timeout(Duration::from_secs(10), socket.next()).await.expect("a frame in time");
        match message.unwrap().unwrap() {
            Message::Binary(bytes) => got.extend(bytes),
            Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
    got
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_6_0_0_2_and_v5_6_0_0_2_packets_travel_over_websocket_however_they_are_framed() {
    let plant = plant(Limits::default()).await;
    let mut socket = websocket(&plant, "d1").await;
    // CONNECT, SUBSCRIBE and a PUBLISH of 100 kB, cut without regard to their borders, with a ping among them.
    let mut sent = Connect::v5("d1").build();
    sent.extend(packets::subscribe(7, Some(&[]), &[("devices/d1/#", 0)]));
    let payload: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
    sent.extend(packets::publish(0, TOPIC, 0, Some(&[]), &payload));
    let (first, rest) = sent.split_at(1);
    socket.send(Message::binary(first.to_vec())).await.unwrap();
    socket.send(Message::binary(Vec::new())).await.unwrap();
    socket.send(Message::Ping("x".into())).await.unwrap();
    for chunk in rest.chunks(40_001) {
        socket.send(Message::binary(chunk.to_vec())).await.unwrap();
    }
    let connack = bytes(&mut socket, 2).await;
    assert_eq!((connack[0], connack[3]), (0x20, 0));
    let mut tail = connack[2 + usize::from(connack[1])..].to_vec();
    while !tail.ends_with(&payload) {
        tail.extend(bytes(&mut socket, 1).await);
        assert!(tail.len() < payload.len() + 100);
    }
    assert_eq!(tail[..4], [0x90, 4, 0, 7]);
    socket.send(Message::binary(vec![0xE0, 0])).await.unwrap();
    while let Some(Ok(message)) = socket.next().await {
        assert!(message.is_close(), "{message:?}");
    }
    until("d1 is gone", || async { plant.broker.connections().is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_6_0_0_1_and_6_0_0_4_and_v5_6_0_0_1_and_6_0_0_4_websocket_follows_the_rules_of_certificates_and_takes_binary_frames_only()
 {
    let plant = plant(Limits::default()).await;
    let mut other = websocket(&plant, "d1").await;
    other.send(Message::binary(Connect::v5("d2").user("hmi", "secret").build())).await.unwrap();
    assert_eq!(bytes(&mut other, 4).await[3], 0x85);
    assert!(matches!(other.next().await, Some(Ok(Message::Close(_)))));

    plant.gate.forget("d3");
    let mut unknown = websocket(&plant, "d3").await;
    unknown.send(Message::binary(Connect::v5("d3").build())).await.unwrap();
    assert_eq!(bytes(&mut unknown, 4).await[3], 0x87);

    let mut text = websocket(&plant, "d1").await;
    text.send(Message::binary(Connect::v5("d1").build())).await.unwrap();
    bytes(&mut text, 4).await;
    text.send(Message::text("hello")).await.unwrap();
    while let Some(Ok(message)) = text.next().await {
        assert!(!message.is_text(), "{message:?}");
    }
    until("the connection with text is closed", || async { plant.broker.connections().is_empty() }).await;
    // Without a certificate there is no handshake.
    let stream = TcpStream::connect(plant.broker.addresses().websocket[0]).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(plant.nameless_config()));
    let mut nameless = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
    assert!(nameless.read_u8().await.is_err());
}

async fn http(plant: &Plant, request: &[u8]) -> String {
    let mut client = Client::open(plant.broker.addresses().websocket[0], plant.client_config("d1")).await;
    client.send(request).await;
    let mut answer = Vec::new();
    let read = client.stream.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(5), read).await.expect("closed in time").unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn other_http_gets_a_page_that_helps() {
    let plant = plant(Limits::default()).await;
    let page = http(&plant, b"GET / HTTP/1.1\r\nHost: gw\r\n\r\n").await;
    assert!(page.starts_with("HTTP/1.1 426 ") && page.contains("MQTT over WebSocket"), "{page}");
    let length: usize = page.split("Content-Length: ").nth(1).unwrap().lines().next().unwrap().parse().unwrap();
    assert_eq!(page.split_once("\r\n\r\n").unwrap().1.len(), length);
    let long = format!("GET / HTTP/1.1\r\nHost: gw\r\nX: {}\r\n\r\n", "x".repeat(10_000));
    assert!(http(&plant, long.as_bytes()).await.starts_with("HTTP/1.1 431 "));
    assert!(http(&plant, &Connect::v5("d1").build().repeat(500)).await.starts_with("HTTP/1.1 4"));
    until("no pending socket", || async { plant.broker.metrics().pending_sockets == 0 }).await;
    assert_eq!(plant.broker.metrics().handshake_failures, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_larger_than_the_packet_limit_ends_the_connection() {
    let plant = plant(Limits::default()).await;
    let mut socket = websocket(&plant, "d1").await;
    socket.send(Message::binary(Connect::v5("d1").build())).await.unwrap();
    bytes(&mut socket, 4).await;
    // The header of a binary frame of 256 MB, and a little of it.
    let stream = socket.get_mut();
    stream.write_all(&[0x82, 0xFF, 0, 0, 0, 0, 0x10, 0, 0, 0, 1, 2, 3, 4]).await.unwrap();
    stream.write_all(&[7; 100]).await.unwrap();
    stream.flush().await.unwrap();
    until("it is closed", || async { plant.broker.connections().is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_newcomer_is_closed_at_each_door() {
    let short = Duration::from_millis(400);
    let limits = Limits { client_hello_timeout: short, connect_timeout: short, ..Limits::default() };
    let plant = plant(limits).await;
    let addresses = plant.broker.addresses().clone();
    let mut sockets = Vec::new();
    for address in [addresses.listen[0], addresses.users_tls[0], addresses.plain[0], addresses.websocket[0]] {
        sockets.push(TcpStream::connect(address).await.unwrap());
    }
    // Behind the handshake, without an HTTP request and without a CONNECT.
    let mut no_request = Client::open(addresses.websocket[0], plant.client_config("d1")).await;
    let mut no_connect = websocket(&plant, "d1").await;
    let mut user = over_tls(&plant).await;
    let began = Instant::now();
    for mut socket in sockets {
        assert_eq!(socket.read(&mut [0; 1]).await.unwrap_or(0), 0);
    }
    assert_eq!(no_request.read().await, None);
    assert_eq!(user.read().await, None);
    assert!(!matches!(no_connect.next().await, Some(Ok(Message::Binary(_)))));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    until("all counted", || async { plant.broker.metrics().handshake_timeouts == 7 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_client_hello_is_refused_before_it_is_there() {
    let plant = plant(Limits::default()).await;
    let mut socket = TcpStream::connect(plant.address).await.unwrap();
    socket.write_all(&[22, 3, 1, 0x20, 0, 1, 0, 0x1F, 0xFC]).await.unwrap();
    let closed = tokio::time::timeout(Duration::from_secs(5), socket.read(&mut [0; 1])).await.expect("closed in time");
    assert_eq!(closed.unwrap_or(0), 0);
    // The socket is closed first.
    let said = |event: &Event| matches!(event, Event::Refused { words, .. } if words.contains("4 KiB"));
    until("the refusal is said", || async { plant.gate.saw(said) }).await;
    // What is no TLS at all is told so by an alert.
    let mut http = TcpStream::connect(plant.address).await.unwrap();
    http.write_all(b"GET / HTTP/1.1\r\nHost: gw\r\n\r\n").await.unwrap();
    assert_eq!(http.read_u8().await.unwrap(), 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn completed_handshakes_are_paced_and_all_get_in() {
    let plant = plant(Limits { handshakes_per_second: 20, ..Limits::default() }).await;
    plant.gate.role("hmi", Role::App);
    let began = Instant::now();
    let mut clients = Vec::new();
    for n in 0..8 {
        let mut client = plain(&plant).await;
        client.send(&Connect::v5(&format!("hmi/{n}")).user("hmi", "secret").build()).await;
        clients.push(client);
    }
    for client in &mut clients {
        assert_eq!(client.read().await.unwrap().body[1], 0);
    }
    // Two at once, then one each 50 ms.
    assert!(began.elapsed() >= Duration::from_millis(295), "{:?}", began.elapsed());
    assert!((6..=7).contains(&plant.broker.metrics().handshakes_paced), "{:?}", plant.broker.metrics());
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_come_and_go_and_limits_change_under_the_connections() {
    let plant = plant(Limits::default()).await;
    let before = plant.broker.addresses();
    let mut old = plain(&plant).await;
    old.connect(Connect::v5("hmi/old").user("hmi", "secret")).await;
    let limits = Limits { packet: 1_024, handshakes: 1, ..Limits::default() };
    // The certificate door stays (its address is what it was asked for), a second plain one comes, the others go.
    let config = Config { listen: any(), plain: [any(), any()].concat(), limits, ..Config::default() };
    plant.broker.change(&config).await.unwrap();
    let after = plant.broker.addresses();
    assert_eq!((&after.listen, after.plain.first()), (&before.listen, before.plain.first()), "those that stay");
    assert_eq!((after.plain.len(), after.users_tls.len(), after.websocket.len()), (2, 0, 0));
    assert!(TcpStream::connect(before.users_tls[0]).await.is_err(), "closed");
    let mut new = Client::over(TcpStream::connect(after.plain[1]).await.unwrap());
    new.connect(Connect::v5("hmi/new").user("hmi", "secret")).await;
    let large = "x".repeat(2_000);
    old.publish(2, "plant/x", 1, &large).await;
    assert_eq!(old.acked(0x40).await.0, 1, "as it was told in its CONNACK");
    new.publish(2, "plant/x", 1, &large).await;
    assert_eq!(new.disconnected().await, Some(0x95));

    // One that can't be had leaves everything as it is, also where another had to make room for it first.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let held = std::net::TcpListener::bind(taken).unwrap();
    let wrong = Config { listen: any(), plain: vec![any()[0], taken], ..Config::default() };
    assert!(plant.broker.change(&wrong).await.is_err());
    assert_eq!(plant.broker.addresses(), after);
    drop(TcpStream::connect(after.plain[1]).await.unwrap());
    drop(held);

    // From one address to all of them on the same port.
    let port = after.plain[1].port();
    let all: SocketAddr = ([0, 0, 0, 0], port).into();
    let config = Config { listen: any(), plain: vec![all], ..Config::default() };
    plant.broker.change(&config).await.unwrap();
    assert_eq!(plant.broker.addresses().plain, [all]);
    old.publish(2, "plant/x", 2, "1").await;
    assert_eq!(old.acked(0x40).await.0, 2);
}
