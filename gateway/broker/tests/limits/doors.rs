//! Before the CONNECT: sockets that wait, deadlines, handshakes that compute.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fieldgate_broker::Limits;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::neighbour::Neighbour;
use crate::support::packets::Connect;
use crate::support::{Client, Plant, until};

/// Waits for the broker's close.
async fn closed(mut socket: TcpStream) {
    let mut rest = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(10), socket.read_to_end(&mut rest)).await;
    assert!(end.is_ok(), "a socket is still open");
}

/// A handshake that stops in the middle: a whole ClientHello, the answer read, and nothing more.
async fn stuck(plant: &Plant) -> TcpStream {
    let name = ServerName::try_from("localhost").unwrap();
    let mut tls = rustls::ClientConnection::new(Arc::new(plant.client_config("d1")), name).unwrap();
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).unwrap();
    let mut socket = TcpStream::connect(plant.address).await.unwrap();
    socket.write_all(&hello).await.unwrap();
    socket.read_exact(&mut [0; 64]).await.unwrap();
    socket
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_and_stuck_sockets_are_closed_in_time() {
    let limits = Limits {
        handshakes: 2,
        client_hello_timeout: Duration::from_millis(1_500),
        connect_timeout: Duration::from_millis(700),
        ..Limits::default()
    };
    let plant = Plant::with_limits(limits).await;
    let neighbour = Neighbour::beside(&plant).await;
    let mut sockets = Vec::new();
    for _ in 0..200 {
        sockets.push(TcpStream::connect(plant.address).await.unwrap());
    }
    for _ in 0..20 {
        sockets.push(stuck(&plant).await);
    }
    until("pending", || async { plant.broker.metrics().pending_sockets == 220 }).await;
    let began = Instant::now();
    let mut good = plant.v5("d1").await;
    good.publish(2, "devices/d1/telemetry/t", 1, "x").await;
    assert_eq!(good.acked(0x40).await, (1, 0));
    assert!(began.elapsed() < Duration::from_secs(2), "a good client got in after {:?}", began.elapsed());
    for socket in sockets {
        closed(socket).await;
    }
    // A finished handshake and no CONNECT, or one that comes byte by byte, slower than the deadline.
    let began = Instant::now();
    let mut no_connect = plant.socket("d2").await;
    let mut slow = plant.socket("d3").await;
    let dribble = async {
        for byte in Connect::v5("d3").build() {
            if slow.stream.write_all(&[byte]).await.is_err() || slow.stream.flush().await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let (silence, ()) = tokio::join!(no_connect.read(), dribble);
    assert_eq!(silence, None);
    assert!(began.elapsed() < Duration::from_secs(4));
    assert_eq!(slow.read().await, None);
    until("no pending socket", || async { plant.broker.metrics().pending_sockets == 0 }).await;
    assert_eq!(plant.broker.metrics().handshake_timeouts, 222);
    neighbour.was_not_held_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_pending_socket_goes_for_the_newest() {
    let plant = Plant::with_limits(Limits { pending_sockets: 50, ..Limits::default() }).await;
    let neighbour = Neighbour::beside(&plant).await;
    let mut sockets = Vec::new();
    for number in 1..=50 {
        sockets.push(TcpStream::connect(plant.address).await.unwrap());
        until("pending", || async { plant.broker.metrics().pending_sockets == number }).await;
    }
    for evicted in 1..=50 {
        sockets.push(TcpStream::connect(plant.address).await.unwrap());
        closed(sockets.remove(0)).await;
        assert_eq!(plant.broker.metrics().pending_evicted, evicted);
    }
    // They are no connections: a good client needs no place among them but its own, for a moment.
    let _good = plant.v5("d1").await;
    assert_eq!(plant.broker.metrics().connections, 2);
    neighbour.was_not_held_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_take_turns_and_all_come_through() {
    let plant = Plant::with_limits(Limits { handshakes: 1, ..Limits::default() }).await;
    let neighbour = Neighbour::beside(&plant).await;
    // Stuck ones hold no turn.
    let mut sockets = Vec::new();
    for _ in 0..5 {
        sockets.push(stuck(&plant).await);
    }
    let mut coming = tokio::task::JoinSet::new();
    for number in 0..60 {
        let (address, config) = (plant.address, plant.client_config(&format!("d{number}")));
        coming.spawn(async move {
            let mut client = Client::open(address, config).await;
            client.connect(Connect::v5("")).await;
            client
        });
    }
    let clients = coming.join_all().await;
    assert_eq!(plant.broker.metrics().connections, 61);
    drop(clients);
    neighbour.was_not_held_up().await;
}
