//! One attached client: a task that reads in batches, runs the session machine, and writes what came together.
//!
//! Everything is polled in one loop, so that a publish that waits (for its commit, for room in a receiver's queue)
//! never keeps this client's own deliveries and acknowledgements from moving: two clients that publish to each
//! other can't lock each other up. What stops what:
//! - the line of publishes is full, or the rate is spent, or the client doesn't take its output: reading stops;
//! - the output buffer is full: the inbox fills, and its publishers wait (see [`crate::fanout`]);
//! - nothing is taken for `receiver_stall`: the client is disconnected.

mod bucket;
mod deliver;
mod pipeline;
mod receive;
mod routes;
mod subscribe;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use fieldgate_types::UnixMillis;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::{Instant, Sleep};

use bucket::Bucket;
use pipeline::{Pipeline, Publisher, Settled};
use routes::Routes;

use crate::codec::{Connect, Will};
use crate::core::Core;
use crate::inbox::Inbox;
use crate::registry::{Live, Parked};
use crate::retained::Walk;
use crate::session::{Machine, Queued, Session, SubscriptionOptions};
use crate::{DisconnectReason, DropReason, Event, Identity, Message, Role, Version};

/// What a connection is made of once its CONNECT is accepted.
pub(crate) struct Attached {
    pub core: Arc<Core>,
    pub who: Arc<Identity>,
    pub connect: Connect,
    pub session: Session,
    pub inbox: Arc<Inbox>,
    pub live: Arc<Live>,
    /// In force: the client's own, or the server's.
    pub keep_alive: Option<Duration>,
    /// Bytes behind the CONNECT.
    pub input: BytesMut,
    /// The CONNACK.
    pub output: BytesMut,
}

/// Gives the slot back when a connection ends without handing its session back: after a panic, so that its client
/// isn't locked out for good.
struct Held {
    core: Arc<Core>,
    inbox: Arc<Inbox>,
}

impl Drop for Held {
    fn drop(&mut self) {
        // Nothing to do after a proper end: the slot is no longer this connection's, or no longer live.
        if std::thread::panicking() {
            self.inbox.close();
            self.core.registry.release(&self.inbox, None);
        }
    }
}

/// The client's end of it.
pub(crate) struct Connection {
    publisher: Publisher,
    _held: Held,
    inbox: Arc<Inbox>,
    live: Arc<Live>,
    machine: Machine,
    will: Option<Will>,
    input: BytesMut,
    output: BytesMut,
    /// Bytes to ask the socket for: follows what it gives.
    chunk: usize,
    unflushed: bool,
    pipeline: Pipeline,
    routes: Routes,
    /// Retained messages that new subscriptions still get, before anything from the inbox.
    walks: VecDeque<(Walk, SubscriptionOptions)>,
    batch: Vec<Queued>,
    bucket: Option<Bucket>,
    /// Reading waits for the bucket until then.
    slowed_until: Option<Instant>,
    /// Some subscription is no longer wholly granted: each delivery is asked for.
    guarded: bool,
    rights_seen: u64,
    keep_alive: Option<Duration>,
    heard: Instant,
    /// When the client last took a byte, or had none to take.
    taken: Instant,
    recheck_at: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    now: Duration,
    wall: UnixMillis,
}

/// First and smallest read; most devices never need more.
const CHUNK_MIN: usize = 1 << 10;
const CHUNK_MAX: usize = 64 << 10;
/// Rounds without a pause for other tasks.
const ROUNDS: usize = 32;
/// The gate is asked again so often about a certificate that has ended and was let on.
const ENDED_RECHECK: Duration = Duration::from_secs(3600);
/// How long an ended connection waits for commits under way before its session is handed on without them.
const COMMIT_PATIENCE: Duration = Duration::from_secs(5);

impl Connection {
    pub(crate) fn new(attached: Attached) -> Self {
        let Attached { core, who, connect, session, inbox, live, keep_alive, input, output } = attached;
        let now = core.clock.monotonic();
        let wall = core.clock.now();
        let started = Instant::now();
        let bucket = match who.role {
            Role::Device => Bucket::new(core.limits.message_rate, core.limits.message_burst, now),
            Role::App | Role::Gateway => None,
        };
        let recheck_at = who.not_after.map(|end| started + end.since(wall));
        let mut connection = Self {
            machine: Machine::new(session, &connect, &core.limits),
            _held: Held { core: Arc::clone(&core), inbox: Arc::clone(&inbox) },
            publisher: Publisher { core, who, session: inbox.key },
            inbox,
            live,
            will: connect.will,
            input,
            output,
            chunk: CHUNK_MIN,
            unflushed: false,
            pipeline: Pipeline::default(),
            routes: Routes::default(),
            walks: VecDeque::new(),
            batch: Vec::new(),
            bucket,
            slowed_until: None,
            guarded: false,
            rights_seen: 0,
            keep_alive,
            heard: started,
            taken: started,
            recheck_at,
            timer: Box::pin(tokio::time::sleep_until(started)),
            now,
            wall,
        };
        connection.rights_seen = connection.publisher.core.rights();
        connection.guarded = connection.some_subscription_denied();
        connection
    }

    /// Serves the client until one side ends it.
    pub(crate) async fn serve<S>(&mut self, stream: &mut S) -> DisconnectReason
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        poll_fn(|context| match self.poll_once(stream, context) {
            Err(reason) => Poll::Ready(reason),
            Ok(()) => Poll::Pending,
        })
        .await
    }

    fn poll_once<S>(&mut self, stream: &mut S, context: &mut Context<'_>) -> Result<(), DisconnectReason>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.now = self.publisher.core.clock.monotonic();
        for _ in 0..ROUNDS {
            if let Some(kick) = self.inbox.kicked() {
                return Err(kick.reason);
            }
            self.look_at_rights()?;
            let mut moved = self.settle(context)?;
            moved |= self.receive()?;
            moved |= self.deliver(context);
            moved |= self.write(stream, context)?;
            moved |= self.read(stream, context)?;
            if !moved {
                return self.poll_timer(context);
            }
        }
        // Others want to run too.
        context.waker().wake_by_ref();
        Ok(())
    }

    /// Acknowledges what is through, in order.
    fn settle(&mut self, context: &mut Context<'_>) -> Result<bool, DisconnectReason> {
        let mut moved = false;
        while let Poll::Ready(settled) = self.pipeline.poll_next(&self.publisher, context) {
            moved = true;
            match settled {
                Settled::Acknowledge(ticket, code) => self.machine.acknowledge(ticket, code, &mut self.output),
                Settled::Refuse(ticket, topic, code) => self.refuse(ticket, topic, code)?,
                Settled::End(reason) => return Err(reason),
            }
        }
        Ok(moved)
    }

    fn write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Result<bool, DisconnectReason> {
        let mut moved = false;
        while !self.output.is_empty() {
            match Pin::new(&mut *stream).poll_write(context, &self.output) {
                Poll::Pending => break,
                Poll::Ready(Ok(count)) if count > 0 => {
                    self.output.advance(count);
                    self.publisher.core.counters.bytes_out.add(u64::try_from(count).unwrap_or(0));
                    self.unflushed = true;
                    self.taken = Instant::now();
                    moved = true;
                }
                Poll::Ready(Ok(_) | Err(_)) => return Err(DisconnectReason::Network),
            }
        }
        if self.output.is_empty() {
            if self.output.capacity() > CHUNK_MAX {
                self.output = BytesMut::new();
            }
            if self.unflushed {
                match Pin::new(&mut *stream).poll_flush(context) {
                    Poll::Pending => {}
                    Poll::Ready(Ok(())) => self.unflushed = false,
                    Poll::Ready(Err(_)) => return Err(DisconnectReason::Network),
                }
            }
            if !self.unflushed {
                self.taken = Instant::now();
            }
        }
        Ok(moved)
    }

    fn read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Result<bool, DisconnectReason> {
        if self.paused() {
            return Ok(false);
        }
        self.input.reserve(self.chunk);
        let room = self.chunk;
        let mut target = (&mut self.input).limit(room);
        let read = pin!(stream.read_buf(&mut target)).poll(context);
        match read {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(0) | Err(_)) => Err(DisconnectReason::Network),
            Poll::Ready(Ok(count)) => {
                self.publisher.core.counters.bytes_in.add(u64::try_from(count).unwrap_or(0));
                self.heard = Instant::now();
                self.wall = self.publisher.core.clock.now();
                if count == room {
                    self.chunk = (self.chunk * 4).min(CHUNK_MAX);
                } else if count < self.chunk / 8 {
                    self.chunk = (self.chunk / 2).max(CHUNK_MIN);
                }
                Ok(true)
            }
        }
    }

    /// Whether reading waits for something.
    fn paused(&self) -> bool {
        let core = &self.publisher.core;
        let most = usize::from(core.limits.receive_maximum);
        // On MQTT 5 the Receive Maximum bounds what is above QoS 0; as much of QoS 0 may stand among it.
        let most = if self.machine.version == Version::V5 { 2 * most } else { most };
        self.pipeline.len() >= most.max(1)
            || self.slowed_until.is_some()
            || self.output.len() >= core.limits.output_buffer
    }

    fn poll_timer(&mut self, context: &mut Context<'_>) -> Result<(), DisconnectReason> {
        loop {
            let now = Instant::now();
            if self.slowed_until.is_some_and(|until| until <= now) {
                self.slowed_until = None;
                // What was read before the pause is still to be handled: another turn.
                context.waker().wake_by_ref();
                return Ok(());
            }
            let next = self.check_deadlines(now)?;
            let Some(next) = next else { return Ok(()) };
            // An earlier alarm than needed is harmless, and moving it at each packet would cost more.
            if self.timer.deadline() > next || self.timer.is_elapsed() {
                self.timer.as_mut().reset(next);
            }
            if self.timer.as_mut().poll(context).is_pending() {
                return Ok(());
            }
        }
    }

    fn check_deadlines(&mut self, now: Instant) -> Result<Option<Instant>, DisconnectReason> {
        let mut next: Option<Instant> = self.slowed_until;
        let mut at = |deadline: Instant| next = Some(next.map_or(deadline, |next| next.min(deadline)));
        if !self.output.is_empty() || self.unflushed {
            let deadline = self.taken + self.publisher.core.limits.receiver_stall;
            if deadline <= now {
                self.publisher.core.counters.slow_receivers.one();
                return Err(DisconnectReason::SlowReceiver);
            }
            at(deadline);
        }
        if let Some(keep_alive) = self.keep_alive {
            // Silence that we made ourselves, by not reading, is no silence.
            if self.paused() {
                self.heard = now;
            }
            // One and a half times the keep-alive [MQTT-3.1.2-22].
            let deadline = self.heard + keep_alive + keep_alive / 2;
            if deadline <= now {
                return Err(DisconnectReason::KeepAlive);
            }
            at(deadline);
        }
        if let Some(recheck_at) = self.recheck_at {
            if recheck_at <= now {
                if self.publisher.core.gate.still_valid(&self.publisher.who).is_err() {
                    return Err(DisconnectReason::CertificateEnded);
                }
                self.recheck_at = Some(now + ENDED_RECHECK);
                at(now + ENDED_RECHECK);
            } else {
                at(recheck_at);
            }
        }
        Ok(next)
    }

    /// What is still to be written, DISCONNECT included.
    pub(crate) fn take_output(&mut self) -> BytesMut {
        std::mem::take(&mut self.output)
    }

    /// Finishes what is under way, hands the session back and sees to the will. With `announced`, the end is
    /// reported, and that before the next connection of the same client can report its begin.
    pub(crate) async fn hand_back(mut self, reason: DisconnectReason, announced: bool) {
        let drop_session = self.inbox.kicked().is_some_and(|kick| kick.drop_session);
        let keep = !drop_session && !self.machine.session_expiry.is_zero();
        let core = Arc::clone(&self.publisher.core);
        let who = Arc::clone(&self.publisher.who);
        // First of all nobody waits for this client any more.
        if keep {
            self.inbox.go_away();
        } else {
            core.report_dropped(&who.id, DropReason::SessionEnded, self.inbox.close());
        }
        self.finish_pipeline().await;
        let now = core.clock.monotonic();
        let will_dies = drop_session
            || match reason {
                DisconnectReason::Client | DisconnectReason::Revoked => true,
                DisconnectReason::ClientWithWill
                | DisconnectReason::Network
                | DisconnectReason::KeepAlive
                | DisconnectReason::TakenOver
                | DisconnectReason::CertificateEnded
                | DisconnectReason::Administrative
                | DisconnectReason::ServerShutdown
                | DisconnectReason::NotAuthorized
                | DisconnectReason::SlowReceiver
                | DisconnectReason::Malformed
                | DisconnectReason::ProtocolError
                | DisconnectReason::ReceiveMaximumExceeded
                | DisconnectReason::TopicAliasInvalid
                | DisconnectReason::PacketTooLarge
                | DisconnectReason::TopicInvalid
                | DisconnectReason::StoreFailed => false,
            };
        let will = self.will.take().filter(|_| !will_dies).map(|will| (will.delay, will.message(core.clock.now())));
        let expiry = self.machine.session_expiry;
        let session = self.machine.into_session();
        let mut fire_now = None;
        if announced {
            core.gate.event(Event::Disconnected {
                who: Arc::clone(&who),
                client_id: Arc::clone(&self.inbox.client_id),
                peer: self.live.peer,
                reason,
            });
        }
        if keep {
            let will = match will {
                // A stopping server can't keep a delay; it may publish at once.
                Some((delay, message)) if delay.is_zero() || core.stopping.is_cancelled() => {
                    fire_now = Some(message);
                    None
                }
                Some((delay, message)) => Some((now.saturating_add(delay), message)),
                None => None,
            };
            let parked = Parked { session, expires: now.saturating_add(expiry), will };
            core.registry.release(&self.inbox, Some(parked));
            core.parked.notify_one();
        } else {
            let ended = crate::registry::Ended {
                who: Arc::clone(&who),
                inbox: Arc::clone(&self.inbox),
                session,
                will: will.map(|(_, message)| message),
            };
            core.end_session(ended);
            core.registry.release(&self.inbox, None);
        }
        if let Some(message) = fire_now {
            core.tasks.spawn(Arc::clone(&core).fire_will(who, message));
        }
    }

    async fn finish_pipeline(&mut self) {
        if self.pipeline.is_empty() {
            return;
        }
        // Acknowledgements from here on change the session but reach nobody.
        let mut unsent = BytesMut::new();
        let (pipeline, machine, publisher) = (&mut self.pipeline, &mut self.machine, &self.publisher);
        let finished = poll_fn(|context| {
            while let Poll::Ready(settled) = pipeline.poll_next(publisher, context) {
                match settled {
                    Settled::Acknowledge(ticket, code) => machine.acknowledge(ticket, code, &mut unsent),
                    Settled::Refuse(ticket, topic, code) => {
                        publisher.report_refused(topic, code);
                        machine.acknowledge(ticket, code, &mut unsent);
                    }
                    Settled::End(_) => {}
                }
                unsent.clear();
            }
            if pipeline.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        });
        if tokio::time::timeout(COMMIT_PATIENCE, finished).await.is_err() {
            tracing::warn!(client_id = %self.inbox.client_id, "commits did not end, session goes on without them");
            let core = Arc::clone(&self.publisher.core);
            self.pipeline.abandon(&core);
        }
    }

    fn count_out(&self, count: u64) {
        self.publisher.core.counters.messages_out.add(count);
        self.live.messages_out.fetch_add(count, Ordering::Relaxed);
    }
}

impl Will {
    /// The message to publish, received when it fires.
    pub(crate) fn message(self, received: UnixMillis) -> Message {
        Message {
            topic: self.topic,
            payload: self.payload,
            qos: self.qos,
            retain: self.retain,
            properties: None,
            received,
        }
        .with_properties(self.properties)
    }
}
