//! What a connection leaves behind: messages given to a client whose wire had ended never hold up the next connection.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::super::dial::Stream;
use super::super::dialect::Dialect;
use super::super::failure::{Failure, Who};
use super::super::packet::{Packet, Properties};
use super::super::session::Session;
use super::super::transport::{Ack, Gone, Hello, Signal, Transport, Wanted, Welcome, Wire};
use super::super::{Down, Protocol, status, v5, v311};
use super::liar::{Liar, Script};
use super::{Bench, GATEWAY, config, eventually};
use fieldgate_types::DeviceId;

/// A client like the library's: what it was given and nobody sent lies in a channel that all of its clones hold, and
/// has its answer when the last of them goes.
#[derive(Clone)]
struct Hoarder {
    channel: Arc<Mutex<Vec<oneshot::Sender<Ack>>>>,
    given: Arc<Notify>,
}

/// Ends as soon as the client was given a message other than the birth.
struct Short(Arc<Notify>);

impl Wire for Short {
    async fn next(&mut self) -> Result<Signal, Failure> {
        self.0.notified().await;
        Err(Failure::Lost("cut".to_owned()))
    }
}

impl Transport for Hoarder {
    type Wire = Short;
    type Notice = oneshot::Receiver<Ack>;

    async fn connect(_: &Hello, _: Box<dyn Stream>) -> Result<(Self, Short, Welcome), Failure> {
        let given = Arc::new(Notify::new());
        let client = Self { channel: Arc::default(), given: Arc::clone(&given) };
        let welcome =
            Welcome { receive_maximum: 100, maximum_packet: None, retains: true, keep_alive: Duration::from_secs(60) };
        Ok((client, Short(given), welcome))
    }

    async fn subscribe(&self, _: Wanted) -> Result<(), Failure> {
        Ok(())
    }

    async fn publish(&self, packet: Packet) -> Result<oneshot::Receiver<Ack>, Gone> {
        let (answer, notice) = oneshot::channel();
        if packet.topic.ends_with("/state") {
            answer.send(Ack::Accepted).unwrap();
        } else {
            self.channel.lock().unwrap().push(answer);
            self.given.notify_one();
        }
        Ok(notice)
    }

    async fn outcome(notice: oneshot::Receiver<Ack>) -> Ack {
        notice.await.unwrap_or(Ack::Lost)
    }

    async fn acknowledge(&self, _: u16) -> Result<(), Gone> {
        Ok(())
    }

    async fn disconnect(&self) -> Result<(), Gone> {
        Ok(())
    }
}

#[tokio::test]
async fn messages_that_the_client_still_holds_do_not_keep_the_upstream_away() {
    let bench = Bench::new();
    bench.fill("press-1", 0, 10).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = config(listener.local_addr().unwrap().port(), Protocol::V5);
    let (board, handle) = status::board(bench.clock.now());
    let gateway = DeviceId::new(GATEWAY).unwrap();
    // Nobody sends a command here.
    let ((commands, _taken), (messages, _fetched)) = (mpsc::channel(1), mpsc::channel(1));
    let stop = CancellationToken::new();
    let session = Session {
        dialect: Dialect::new(&config, &gateway),
        config,
        gateway,
        queue: bench.queue.clone(),
        down: Down { commands, messages },
        replay_rate: None,
        clock: Arc::clone(&bench.clock),
        stop: stop.clone(),
        drain: Duration::ZERO,
        board,
    };
    let running = tokio::spawn(session.run::<Hoarder>());
    eventually("it has connected three times", || handle.status().connects >= 3).await;
    assert_eq!(bench.queue.stats().messages, 10, "nothing was acknowledged, nothing is gone");
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(10), running).await.unwrap().unwrap();
}

async fn given_and_never_sent<T: Transport>(v5: bool) {
    let liar = Liar::start(Script::honest(v5)).await;
    let packet = |topic: &str| Packet {
        topic: topic.to_owned(),
        payload: "1".into(),
        retain: false,
        properties: Properties::default(),
    };
    let hello = Hello {
        host: "127.0.0.1".to_owned(),
        who: Who { client_id: GATEWAY.to_owned(), login: None, certificate: None },
        login: None,
        keep_alive: Duration::from_secs(60),
        window: 100,
        will: packet("fieldgate/line-4/state"),
    };
    let stream = TcpStream::connect(("127.0.0.1", liar.port)).await.unwrap();
    let (client, wire, _) = T::connect(&hello, Box::new(stream)).await.unwrap();
    let notice = client.publish(packet("fieldgate/line-4/devices/press-1/telemetry/t")).await.unwrap();
    drop(wire);
    drop(client);
    let outcome = tokio::time::timeout(Duration::from_secs(10), T::outcome(notice)).await;
    assert_eq!(outcome, Ok(Ack::Lost), "answered once wire and client are gone");
}

#[tokio::test]
async fn what_was_never_sent_is_lost_once_wire_and_client_are_gone() {
    given_and_never_sent::<v5::Client>(true).await;
    given_and_never_sent::<v311::Client>(false).await;
}
