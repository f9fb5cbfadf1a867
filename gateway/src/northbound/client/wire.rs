//! The part of the client that owns the socket: one task that writes, reads and watches the clock.
//!
//! On a healthy connection something comes at least once per keep-alive: PUBACKs while we send, a PINGRESP while we don't.
//! A ping goes out when for one keep-alive nothing came or nothing went, ahead of everything that waits in the
//! book. Without a byte for one and a half keep-alives, or when the socket takes none for as long, the connection is over.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use fieldgate_broker::codec::{Frame, frame};
use mqtt_protocol_core::mqtt::result_code::{ConnectReasonCode, DisconnectReasonCode};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, Sleep};

use super::decode::{Broken, Connack, Incoming, begins, decode, name};
use super::handle::{Client, Shared};
use super::{Arrival, Hello, Inward, MAX_INCOMING_V311, MOST_IN_FLIGHT, REPLIES_MOST, Welcome, encode};
use crate::northbound::Protocol;
use crate::northbound::dial::Stream;
use crate::northbound::failure::{Failure, Refusal, Who};

/// One write to the socket: four TLS records.
const WRITE_MOST: usize = 64 * 1024;
/// One read, about one TLS record: 4,096 PUBACKs.
const READ_MOST: usize = 16 * 1024;
/// An input that has grown beyond this by a large packet is given back.
const KEEP: usize = 512 * 1024;
/// Turns of writing and reading before others have the worker: below half a millisecond.
const TURNS: usize = 4;
/// How long the socket may take nothing when there is no keep-alive.
const WRITE_TIME: Duration = Duration::from_secs(60);

/// See the module.
pub(in crate::northbound) struct Wire {
    stream: Box<dyn Stream>,
    protocol: Protocol,
    host: String,
    client_id: String,
    shared: Arc<Shared>,
    inward: Inward,
    input: BytesMut,
    /// It has held a large packet.
    swollen: bool,
    /// Largest packet that may come.
    largest: usize,
    /// What the socket is to take next.
    output: BytesMut,
    /// Our own packets, which go before what waits in the book.
    replies: BytesMut,
    unflushed: bool,
    /// The DISCONNECT is in `output`.
    leaving: bool,
    keep_alive: Duration,
    /// When the last byte came.
    heard: Instant,
    /// When the socket last took a byte.
    sent: Instant,
    /// When the last PINGREQ was made.
    pinged: Instant,
    /// Since when the socket has taken nothing, while there is output.
    stuck: Instant,
    alarm: Pin<Box<Sleep>>,
}

/// CONNECT on `stream`, with a session that the upstream keeps. The caller limits how long it may take.
pub(in crate::northbound) async fn connect(
    hello: &Hello<'_>,
    mut stream: Box<dyn Stream>,
    inward: Inward,
) -> Result<(Client, Wire, Welcome), Failure> {
    let lost = |error: io::Error| ended(&hello.host, &error);
    let mut output = BytesMut::new();
    encode::connect(&mut output, hello);
    stream.write_all(&output).await.map_err(lost)?;
    stream.flush().await.map_err(lost)?;
    let largest = match hello.protocol {
        Protocol::V5 => encode::largest_incoming(),
        Protocol::V311 => MAX_INCOMING_V311,
    };
    let mut input = BytesMut::new();
    let connack = loop {
        if let Some(&first) = input.first().filter(|first| **first >> 4 != 2) {
            return Err(undue(first));
        }
        if let Some(frame) = whole(hello.protocol, &input, largest)? {
            let packet = decode(hello.protocol, frame, &input).map_err(broken)?;
            let Incoming::Connack(connack) = packet else { return Err(undue(frame.first)) };
            input.advance(frame.len());
            break connack;
        }
        input.reserve(4096);
        if stream.read_buf(&mut input).await.map_err(lost)? == 0 {
            return Err(closed());
        }
    };
    let welcome = welcome(connack, hello)?;
    let shared = Arc::new(Shared::default());
    let now = Instant::now();
    let wire = Wire {
        stream,
        protocol: hello.protocol,
        host: hello.host.clone(),
        client_id: hello.who.client_id.clone(),
        shared: Arc::clone(&shared),
        inward,
        input,
        swollen: false,
        largest,
        output: BytesMut::new(),
        replies: BytesMut::new(),
        unflushed: false,
        leaving: false,
        keep_alive: welcome.keep_alive,
        heard: now,
        sent: now,
        pinged: now,
        stuck: now,
        alarm: Box::pin(tokio::time::sleep_until(now)),
    };
    Ok((Client { shared, protocol: hello.protocol }, wire, welcome))
}

fn undue(first: u8) -> Failure {
    Failure::Protocol(format!("a {} came where a CONNACK was due", name(first)))
}

/// The packet that lies whole at the start of `input`.
fn whole(protocol: Protocol, input: &[u8], largest: usize) -> Result<Option<Frame>, Failure> {
    let Some(&first) = input.first() else { return Ok(None) };
    begins(protocol, first).map_err(broken)?;
    let found = frame(input, largest).map_err(|fault| broken(Broken { packet: name(first), fault }))?;
    Ok(found.filter(|frame| frame.len() <= input.len()))
}

fn broken(broken: Broken) -> Failure {
    Failure::Protocol(broken.to_string())
}

fn closed() -> Failure {
    Failure::Lost("closed by the upstream".to_owned())
}

/// rustls calls it an error when a peer closes without saying so first.
fn ended(host: &str, error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::UnexpectedEof { closed() } else { Failure::lost(host, error) }
}

fn welcome(connack: Connack, hello: &Hello<'_>) -> Result<Welcome, Failure> {
    if connack.code != 0 {
        return Err(refused(&connack, hello));
    }
    if connack.renamed {
        let why = "it gives this client another id than the one in CONNECT".to_owned();
        return Err(Failure::Refused { refusal: Refusal::Other(why), who: hello.who.clone() });
    }
    if connack.maximum_qos == Some(0) {
        let why = "it takes messages at QoS 0 alone, which would be lost".to_owned();
        return Err(Failure::Refused { refusal: Refusal::Other(why), who: hello.who.clone() });
    }
    Ok(Welcome {
        receive_maximum: connack.receive_maximum.unwrap_or(u16::MAX).min(MOST_IN_FLIGHT),
        maximum_packet: connack.maximum_packet,
        retains: connack.retains,
        keep_alive: connack.keep_alive.map_or(hello.keep_alive, |seconds| Duration::from_secs(seconds.into())),
    })
}

fn refused(connack: &Connack, hello: &Hello<'_>) -> Failure {
    let refusal = match (hello.protocol, connack.code) {
        (Protocol::V311, 1) | (_, 0x84) => Refusal::Version,
        (Protocol::V311, 2) | (_, 0x85) => Refusal::ClientId,
        (Protocol::V311, 3) => Refusal::Busy("server unavailable (3)"),
        (Protocol::V311, 4) | (_, 0x86) => Refusal::BadCredentials,
        (Protocol::V311, 5) | (_, 0x87) => Refusal::NotAuthorized,
        (_, 0x8A) => Refusal::Banned,
        (_, 0x8C) => Refusal::AuthenticationMethod,
        (_, 0x88) => Refusal::Busy("server unavailable (0x88)"),
        (_, 0x89) => Refusal::Busy("server busy (0x89)"),
        (_, 0x97) => Refusal::Busy("quota exceeded (0x97)"),
        (_, 0x9F) => Refusal::Busy("connection rate exceeded (0x9f)"),
        (_, code) => {
            let said = connack.reason.as_ref().map(|text| format!(": {text}")).unwrap_or_default();
            let named = ConnectReasonCode::try_from(code).map(|code| format!("{code:?} "));
            Refusal::Other(format!("{}(0x{code:02x}){said}", named.unwrap_or_default()))
        }
    };
    Failure::Refused { refusal, who: Who::clone(&hello.who) }
}

impl Wire {
    /// Until the connection ends.
    pub async fn run(mut self) -> Failure {
        // What came behind the CONNACK.
        if let Err(failure) = self.take() {
            return failure;
        }
        let failure = std::future::poll_fn(|context| self.poll(context)).await;
        if self.leaving && self.output.is_empty() {
            // The DISCONNECT is out; that the other side is already gone changes nothing.
            let _closed = self.stream.shutdown().await.is_ok();
        }
        failure
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Failure> {
        for _ in 0..TURNS {
            match self.turn(context) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(failure) => return Poll::Ready(failure),
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether anything moved; if not, whatever can move next wakes the task.
    fn turn(&mut self, context: &mut Context<'_>) -> Result<bool, Failure> {
        let wrote = self.write(context)?;
        let read = self.read(context)?;
        let due = self.watch(context)?;
        Ok(wrote || read || due)
    }

    /// One piece.
    fn write(&mut self, context: &mut Context<'_>) -> Result<bool, Failure> {
        let mut moved = false;
        if self.output.is_empty() {
            self.refill(context);
        }
        if !self.output.is_empty() {
            let piece = self.output.get(..WRITE_MOST).unwrap_or(&self.output);
            match Pin::new(&mut self.stream).poll_write(context, piece) {
                Poll::Pending => return Ok(moved),
                Poll::Ready(Ok(0)) => return Err(closed()),
                Poll::Ready(Ok(count)) => {
                    self.output.advance(count);
                    self.sent = Instant::now();
                    self.stuck = self.sent;
                    self.unflushed = true;
                    moved = true;
                }
                Poll::Ready(Err(error)) => return Err(ended(&self.host, &error)),
            }
        }
        if self.output.is_empty() && self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(context) {
                Poll::Pending => return Ok(moved),
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => return Err(ended(&self.host, &error)),
            }
        }
        if self.leaving && self.output.is_empty() {
            return Err(Failure::Lost("disconnected, as asked".to_owned()));
        }
        Ok(moved)
    }

    /// Takes what is to be written next; with nothing there, leaves word to be woken.
    fn refill(&mut self, context: &mut Context<'_>) {
        if !self.unflushed {
            self.stuck = Instant::now();
        }
        if !self.replies.is_empty() {
            std::mem::swap(&mut self.output, &mut self.replies);
            return;
        }
        let mut book = self.shared.book();
        if book.output.is_empty() {
            if !book.wire.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                book.wire = Some(context.waker().clone());
            }
            return;
        }
        std::mem::swap(&mut self.output, &mut book.output);
        self.leaving = book.leaving;
        let crowded = std::mem::take(&mut book.crowded);
        drop(book);
        if crowded {
            self.shared.taken.notify_waiters();
        }
    }

    fn read(&mut self, context: &mut Context<'_>) -> Result<bool, Failure> {
        if self.input.len() > KEEP {
            self.swollen = true;
        } else if self.swollen && self.input.is_empty() {
            (self.input, self.swollen) = (BytesMut::new(), false);
        }
        self.input.reserve(READ_MOST);
        let read = {
            let mut target = (&mut self.input).limit(READ_MOST);
            pin!(self.stream.read_buf(&mut target)).poll(context)
        };
        match read {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(0)) => Err(closed()),
            Poll::Ready(Ok(_)) => {
                self.heard = Instant::now();
                self.take()?;
                Ok(true)
            }
            Poll::Ready(Err(error)) => Err(ended(&self.host, &error)),
        }
    }

    /// Everything that lies whole in the input.
    fn take(&mut self) -> Result<(), Failure> {
        let shared = Arc::clone(&self.shared);
        let mut book = shared.book();
        let mut result = Ok(());
        loop {
            let packet = match whole(self.protocol, &self.input, self.largest) {
                Ok(Some(frame)) => {
                    decode(self.protocol, frame, &self.input).map_err(broken).map(|packet| (frame, packet))
                }
                Ok(None) => break,
                Err(failure) => Err(failure),
            };
            let handled = packet.and_then(|(frame, packet)| {
                self.input.advance(frame.len());
                match packet {
                    Incoming::Puback { packet_id, code } => {
                        book.puback(packet_id, code).map_err(|_| unasked("PUBACK", packet_id))
                    }
                    Incoming::Suback { packet_id, code } => {
                        book.suback(packet_id, code).map_err(|_| unasked("SUBACK", packet_id))
                    }
                    Incoming::Pong => Ok(()),
                    Incoming::Publish(arrival) => {
                        self.pass(arrival);
                        Ok(())
                    }
                    Incoming::Pubrel { packet_id } => self.release(packet_id),
                    Incoming::Connack(_) => Err(Failure::Protocol("a second CONNACK".to_owned())),
                    Incoming::Disconnect { code, reason } => Err(self.dismissed(code, reason)),
                }
            });
            if let Err(failure) = handled {
                result = Err(failure);
                break;
            }
        }
        let answers = book.has_answers();
        drop(book);
        if answers {
            self.shared.landed.notify_one();
        }
        result
    }

    fn pass(&self, arrival: Arrival) {
        if self.inward.arrivals.try_send(arrival).is_err() && self.inward.counters.ignored_command() == 0 {
            tracing::warn!("commands come faster than they are accepted; the upstream must send some of them again");
        }
    }

    /// The second half of QoS 2: what was released was handed over before its PUBREC.
    fn release(&mut self, packet_id: u16) -> Result<(), Failure> {
        encode::pubcomp(&mut self.replies, packet_id);
        if self.replies.len() > REPLIES_MOST {
            return Err(Failure::Protocol("it sends and doesn't read what it is answered".to_owned()));
        }
        Ok(())
    }

    fn dismissed(&self, code: u8, reason: Option<String>) -> Failure {
        if code == DisconnectReasonCode::SessionTakenOver as u8 {
            return Failure::TakenOver(self.client_id.clone());
        }
        let said = reason.map(|text| format!(": {text}")).unwrap_or_default();
        let named = DisconnectReasonCode::try_from(code).map(|code| format!("{code:?} ")).unwrap_or_default();
        Failure::Lost(format!("the upstream disconnected with {named}(0x{code:02x}){said}"))
    }

    /// Deadlines. `true`: there is something to write now.
    fn watch(&mut self, context: &mut Context<'_>) -> Result<bool, Failure> {
        let keep_alive = self.keep_alive;
        let limit = keep_alive + keep_alive / 2;
        loop {
            let now = Instant::now();
            let mut next: Option<Instant> = None;
            let mut at = |deadline: Instant| next = Some(next.map_or(deadline, |next| next.min(deadline)));
            if !self.output.is_empty() || self.unflushed {
                let limit = if limit.is_zero() { WRITE_TIME } else { limit };
                if self.stuck + limit <= now {
                    return Err(Failure::Blocked(limit));
                }
                at(self.stuck + limit);
            }
            if !limit.is_zero() {
                if self.heard + limit <= now {
                    return Err(Failure::Silent(limit));
                }
                at(self.heard + limit);
                let ping = self.sent.min(self.heard).max(self.pinged) + keep_alive;
                if ping <= now {
                    self.pinged = now;
                    self.replies.extend_from_slice(&encode::PINGREQ);
                    return Ok(true);
                }
                at(ping);
            }
            let Some(next) = next else { return Ok(false) };
            // An earlier alarm than needed is harmless, and moving it at each packet would cost more.
            if self.alarm.deadline() > next || self.alarm.is_elapsed() {
                self.alarm.as_mut().reset(next);
            }
            if self.alarm.as_mut().poll(context).is_pending() {
                return Ok(false);
            }
        }
    }
}

fn unasked(packet: &'static str, packet_id: u16) -> Failure {
    Failure::Protocol(format!("a {packet} for packet id {packet_id}, which has nothing open"))
}

impl Drop for Wire {
    /// Whoever waits for an answer, or for room, learns that none comes.
    fn drop(&mut self) {
        self.shared.book().end();
        self.shared.landed.notify_one();
        self.shared.taken.notify_waiters();
    }
}
