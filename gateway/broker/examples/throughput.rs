//! How many messages a second go from 20 publishers to one subscriber: QoS 1, 64 bytes, over mTLS on loopback,
//! every other limit at its default. `cargo run --release -p fieldgate-broker --example throughput [SECONDS]`
//!
//! Clients are as cheap as they can be, hand-built packets in prepared buffers, since they share the cores with the
//! broker. Rights are checked by a gate that allows everything, nothing is durable.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::pedantic)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use fieldgate_broker::{
    Broker, CommitError, Config, Decision, Durable, Event, Gate, Identity, MemorySessions, Message, Refusal, Role,
};
use fieldgate_types::SystemClock;
use futures_util::future::BoxFuture;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const PUBLISHERS: usize = 20;
const WINDOW: usize = 32;
const TOPIC: &str = "bench/telemetry/points";

/// Each connection is a device of its own, allowed everything.
#[derive(Default)]
struct Open {
    next: AtomicU64,
}

impl Gate for Open {
    fn identify(&self, _: &[CertificateDer<'_>], _: SocketAddr) -> Result<Identity, Refusal> {
        let id = format!("c{}", self.next.fetch_add(1, Ordering::Relaxed));
        Ok(Identity { id: id.into(), role: Role::Gateway, fingerprint: None, not_after: None })
    }
    fn still_valid(&self, _: &Identity) -> Result<(), Refusal> {
        Ok(())
    }
    fn may_publish(&self, _: &Identity, _: &str) -> Decision {
        Decision::Allow
    }
    fn may_subscribe(&self, _: &Identity, _: &str) -> Decision {
        Decision::Allow
    }
    fn may_receive(&self, _: &Identity, _: &str) -> Decision {
        Decision::Allow
    }
    fn commit(
        &self,
        _: &Identity,
        _: &Message,
        _: &Durable<'_>,
    ) -> Option<BoxFuture<'static, Result<(), CommitError>>> {
        None
    }
    fn event(&self, event: Event) {
        if let Event::Disconnected { reason, .. } = event {
            eprintln!("a client was disconnected: {}", reason.word());
        }
    }
}

#[tokio::main]
async fn main() {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(5);
    let (server, client) = tls();
    let config = Config { listen: vec!["127.0.0.1:0".parse().unwrap()], ..Config::default() };
    let sessions = Arc::new(MemorySessions::new());
    let broker = Broker::start(config, server, Arc::new(Open::default()), sessions, Arc::new(SystemClock::new()));
    let broker = broker.await.unwrap();
    let address = broker.local_addrs()[0];

    let received = Arc::new(AtomicU64::new(0));
    let mut subscriber = connect(address, &client).await;
    let mut subscribe = vec![0x82, 0, 0, 1, 0, 0, TOPIC.len() as u8];
    subscribe.extend(TOPIC.bytes());
    subscribe.push(1);
    subscribe[1] = (subscribe.len() - 2) as u8;
    subscriber.write_all(&subscribe).await.unwrap();
    subscriber.read_exact(&mut [0; 6]).await.unwrap();
    tokio::spawn(take(subscriber, Arc::clone(&received)));
    for _ in 0..PUBLISHERS {
        tokio::spawn(publish(connect(address, &client).await));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (begin, before) = (Instant::now(), received.load(Ordering::Relaxed));
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let rate = (received.load(Ordering::Relaxed) - before) as f64 / begin.elapsed().as_secs_f64();
    let metrics = broker.metrics();
    println!(
        "{rate:.0} messages/s delivered, 20 → 1, QoS 1, 64 B, MQTT 5 over mTLS; in {}, out {}, waits {}",
        metrics.messages_in, metrics.messages_out, metrics.queue_waits
    );
}

async fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> TlsStream<TcpStream> {
    let socket = TcpStream::connect(address).await.unwrap();
    socket.set_nodelay(true).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::clone(config)).connect(name, socket).await.unwrap();
    stream.write_all(&[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 60, 0, 0, 0]).await.unwrap();
    let mut connack = [0; 2];
    stream.read_exact(&mut connack).await.unwrap();
    let mut rest = vec![0; usize::from(connack[1])];
    stream.read_exact(&mut rest).await.unwrap();
    assert_eq!(rest[1], 0);
    stream
}

/// Keeps a window of publishes open: each acknowledgement is answered by another publish.
async fn publish(mut stream: TlsStream<TcpStream>) {
    let mut packet = vec![0x32, 0, 0, TOPIC.len() as u8];
    packet.extend(TOPIC.bytes());
    let id_at = packet.len();
    packet.extend([0, 0, 0]);
    packet.extend([b'x'; 64]);
    packet[1] = (packet.len() - 2) as u8;
    let mut id = 0_u16;
    let mut credit = WINDOW;
    let mut output = BytesMut::new();
    let mut input = BytesMut::new();
    loop {
        for _ in 0..credit {
            id = id.checked_add(1).unwrap_or(1);
            packet[id_at..id_at + 2].copy_from_slice(&id.to_be_bytes());
            output.extend_from_slice(&packet);
        }
        stream.write_all(&output).await.unwrap();
        output.clear();
        input.reserve(4096);
        if stream.read_buf(&mut input).await.unwrap_or(0) == 0 {
            return;
        }
        // Every PUBACK has four bytes.
        credit = input.len() / 4;
        input.advance(credit * 4);
    }
}

/// Counts and acknowledges.
async fn take(mut stream: TlsStream<TcpStream>, received: Arc<AtomicU64>) {
    let mut input = BytesMut::new();
    let mut output = BytesMut::new();
    loop {
        input.reserve(64 << 10);
        if stream.read_buf(&mut input).await.unwrap_or(0) == 0 {
            return;
        }
        let mut count = 0;
        while input.len() > 2 && input.len() >= 2 + usize::from(input[1]) {
            let id_at = 4 + TOPIC.len();
            output.extend_from_slice(&[0x40, 2, input[id_at], input[id_at + 1]]);
            let length = 2 + usize::from(input[1]);
            input.advance(length);
            count += 1;
        }
        received.fetch_add(count, Ordering::Relaxed);
        stream.write_all(&output).await.unwrap();
        output.clear();
    }
}

fn tls() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let root = params.self_signed(&key).unwrap().der().clone();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let leaf = leaf.der().clone();
    let mut roots = RootCertStore::empty();
    roots.add(root).unwrap();
    let roots = Arc::new(roots);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build().unwrap();
    let private = || PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![leaf.clone()], private())
        .unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![leaf], private())
        .unwrap();
    (Arc::new(server), Arc::new(client))
}
