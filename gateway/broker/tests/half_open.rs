//! A flood of half-open sockets, in a process of its own: its memory is measured.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::pedantic)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use support::{Plant, until};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Resident memory of this process.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4_096
}

fn hello_of(plant: &Plant) -> Vec<u8> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut tls = rustls::ClientConnection::new(Arc::new(plant.client_config("d1")), name).unwrap();
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).unwrap();
    hello
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_half_open_sockets_cost_little_and_are_closed_while_others_connect() {
    let plant = Plant::new().await;
    plant.v5("d1").await;
    let hello = hello_of(&plant);
    let before = resident();
    let began = Instant::now();
    let mut sockets = Vec::new();
    for n in 0..2_000 {
        let mut socket = TcpStream::connect(plant.address).await.unwrap();
        // A third says nothing, a third stops in the middle of its hello, a third goes on byte by byte.
        match n % 3 {
            0 => {}
            1 => socket.write_all(&hello[..hello.len() - 1]).await.unwrap(),
            _ => socket.write_all(&hello[..1]).await.unwrap(),
        }
        sockets.push(socket);
    }
    until("all of them pending", || async { plant.broker.metrics().pending_sockets >= 2_000 }).await;
    let mut slowest = Duration::ZERO;
    let mut peak = 0;
    let mut sent = 1;
    while plant.broker.metrics().pending_sockets > 0 {
        let started = Instant::now();
        plant.v5("d1").await;
        slowest = slowest.max(started.elapsed());
        peak = peak.max(resident());
        assert!(began.elapsed() < Duration::from_secs(15), "{} open", plant.broker.metrics().pending_sockets);
        for socket in sockets.iter_mut().skip(2).step_by(3) {
            // The broker may have closed it.
            socket.write_all(&hello[sent..=sent]).await.ok();
        }
        sent += 1;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let grown = peak.saturating_sub(before);
    println!("grown by {} KiB, slowest connect {slowest:?}, all closed after {:?}", grown >> 10, began.elapsed());
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    assert!(grown < 16 << 20, "{} KiB", grown >> 10);
    assert_eq!(plant.broker.metrics().handshake_timeouts, 2_000);
}
