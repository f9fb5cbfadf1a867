//! What the session asks of an MQTT client, so that the library behind it can be replaced: it is young, has one
//! author and changes often. `v5` and `v311` answer it.
//!
//! A client lives as long as its TCP connection. It never reconnects and never re-sends.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::dial::Stream;
use super::failure::{Failure, Who};
use super::packet::Packet;
use super::status::Counters;

/// For DNS, TCP, TLS, CONNECT and CONNACK together, and again for each of SUBACK and the birth's PUBACK.
pub(super) const CONNECT_TIME: Duration = Duration::from_secs(15);
/// Largest command that is taken. The packet around it may be larger by topic and properties.
pub(super) const MAX_COMMAND: usize = 256 * 1024;
/// Commands that the upstream may send before the first is acknowledged (v5 Receive Maximum).
pub(super) const RECEIVE_MAXIMUM: u16 = 64;

/// Messages that go out between two flushes. By default the libraries flush after each (34-54 k/s, with 64 82-86 k/s,
/// FINDINGS), and after each flush they look at every place of the window: a tenth of the whole cost of a message with 64.
pub(super) const REQUEST_BATCH: usize = 256;

/// What goes into CONNECT.
#[derive(Debug)]
pub(super) struct Hello {
    /// For messages.
    pub host: String,
    /// Who we are.
    pub who: Who,
    /// User name and password.
    pub login: Option<(String, Bytes)>,
    /// Keep-alive.
    pub keep_alive: Duration,
    /// Most messages in flight.
    pub window: u16,
    /// Published by the upstream, retained, when we vanish.
    pub will: Packet,
}

/// What the upstream's CONNACK allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Welcome {
    /// Most messages in flight that the upstream takes.
    pub receive_maximum: u16,
    /// Largest packet that it takes.
    pub maximum_packet: Option<u32>,
    /// Whether it retains.
    pub retains: bool,
    /// Keep-alive in force: the upstream may set another. Zero switches it off.
    pub keep_alive: Duration,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ack {
    /// PUBACK with success.
    Accepted,
    /// Refused for now: to be sent again, later.
    Busy(&'static str),
    /// Refused for good.
    Poison(&'static str),
    /// The connection ended before an answer came.
    Lost,
}

/// A PUBLISH that came down.
#[derive(Debug)]
pub(super) struct Arrival {
    /// Full topic.
    pub topic: Bytes,
    /// Payload.
    pub payload: Bytes,
    /// It was retained before we subscribed.
    pub retained: bool,
    /// To be acknowledged; none at QoS 0.
    pub packet_id: Option<u16>,
    /// Response topic.
    pub response_topic: Option<String>,
    /// Correlation data.
    pub correlation: Option<Vec<u8>>,
    /// Message expiry.
    pub expiry: Option<Duration>,
    /// Content type.
    pub content_type: Option<String>,
    /// Payload format indicator: UTF-8.
    pub utf8: bool,
    /// User properties in order.
    pub user: Vec<(String, String)>,
}

/// What we subscribe to, at QoS 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Upstream filter.
    pub filter: String,
    /// Whether retained messages come, and come as retained.
    pub retained: bool,
}

/// Something happened on the wire.
#[derive(Debug)]
pub(super) enum Signal {
    /// A PUBLISH came.
    Arrival(Arrival),
    /// Another packet came.
    Received,
    /// A packet went out.
    Sent,
}

/// The client is gone; the wire says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;

/// The part that is polled for as long as the connection lives.
pub(super) trait Wire: Send + 'static {
    /// Moves packets both ways until something has happened. Not cancel-safe.
    fn next(&mut self) -> impl Future<Output = Result<Signal, Failure>> + Send;
}

/// The part that is asked.
pub(super) trait Transport: Clone + Send + Sync + Sized + 'static {
    /// Its other part.
    type Wire: Wire;
    /// Stands for the answer to one PUBLISH.
    type Notice: Send + 'static;

    /// CONNECT on `stream`, with a session that the upstream keeps.
    fn connect(
        hello: &Hello,
        stream: Box<dyn Stream>,
    ) -> impl Future<Output = Result<(Self, Self::Wire, Welcome), Failure>> + Send;

    /// SUBSCRIBE; resolves with the SUBACK.
    fn subscribe(&self, wanted: Wanted) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Queues a PUBLISH at QoS 1. In order; waits while the wire's queue, which is as long as the window, is full.
    fn publish(&self, packet: Packet) -> impl Future<Output = Result<Self::Notice, Gone>> + Send;

    /// What became of it.
    fn outcome(notice: Self::Notice) -> impl Future<Output = Ack> + Send + 'static;

    /// Queues a PUBACK.
    fn acknowledge(&self, packet_id: u16) -> impl Future<Output = Result<(), Gone>> + Send;

    /// Queues a DISCONNECT; the wire ends after it.
    fn disconnect(&self) -> impl Future<Output = Result<(), Gone>> + Send;
}

/// Polls the wire, passes commands on, and ends the connection when nothing comes for too long.
pub(super) struct Driver<W> {
    pub wire: W,
    /// A command that finds it full stays unacknowledged and comes again with the next session.
    pub arrivals: mpsc::Sender<Arrival>,
    /// Keep-alive in force.
    pub keep_alive: Duration,
    pub counters: std::sync::Arc<Counters>,
}

impl<W: Wire> Driver<W> {
    /// Until the connection ends.
    ///
    /// On a healthy connection something comes at least once per keep-alive: PUBACKs while we send, a PINGRESP while
    /// we don't. The library's own check is not enough: its ping waits while packets go out, so a half-open
    /// connection that is written to would live until TCP gives up.
    pub async fn run(mut self) -> Failure {
        let limit = self.keep_alive + self.keep_alive / 2;
        let mut heard = Instant::now();
        let alarm = tokio::time::sleep(limit);
        tokio::pin!(alarm);
        loop {
            let signal = {
                let next = self.wire.next();
                tokio::pin!(next);
                loop {
                    tokio::select! {
                        biased;
                        signal = &mut next => break signal,
                        () = &mut alarm, if !limit.is_zero() => {
                            if heard.elapsed() >= limit {
                                return Failure::Silent(limit);
                            }
                            alarm.as_mut().reset(heard + limit);
                        }
                    }
                }
            };
            match signal {
                Ok(Signal::Sent) => {}
                Ok(Signal::Received) => heard = Instant::now(),
                Ok(Signal::Arrival(arrival)) => {
                    heard = Instant::now();
                    self.pass(arrival);
                }
                Err(failure) => return failure,
            }
        }
    }

    fn pass(&self, arrival: Arrival) {
        if self.arrivals.try_send(arrival).is_err() && self.counters.ignored_command() == 0 {
            tracing::warn!("commands come faster than they are accepted; the upstream must send some of them again");
        }
    }
}
