//! One attached client: a task that reads in batches, runs the session machine, and writes what came together.
//!
//! Everything is polled in one loop, so that a publish that waits (for its commit, for room in a receiver's queue)
//! never keeps this client's own deliveries and acknowledgements from moving: two clients that publish to each
//! other can't lock each other up. What stops what:
//! - the line of publishes is full, or the rate is spent, or the client doesn't take its output: reading stops;
//! - the output buffer is full: the inbox fills, and its publishers wait (see [`crate::fanout`]);
//! - nothing is taken for `receiver_stall`: the client is disconnected.

mod answers;
mod bucket;
mod deliver;
mod end;
mod io;
mod pipeline;
mod receive;
mod routes;
mod subscribe;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use fieldgate_types::UnixMillis;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};

use answers::Answers;
use bucket::Bucket;
use pipeline::{Pipeline, Publisher, Settled};
use routes::Routes;

use crate::budget::Charge;
use crate::codec::{Connect, Will};
use crate::core::Core;
use crate::inbox::Inbox;
use crate::registry::Live;
use crate::retained::Walk;
use crate::session::{Machine, Queued, Session, SubscriptionOptions};
use crate::{DisconnectReason, Identity, Limits, Role};

/// What a connection is made of once its CONNECT is accepted.
pub(crate) struct Attached {
    pub core: Arc<Core>,
    /// Those that it was let in with.
    pub limits: Arc<Limits>,
    pub who: Arc<Identity>,
    pub connect: Connect,
    pub session: Session,
    pub inbox: Arc<Inbox>,
    pub live: Arc<Live>,
    /// Generation of rights under which it was admitted.
    pub rights: u64,
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
    limits: Arc<Limits>,
    _held: Held,
    inbox: Arc<Inbox>,
    live: Arc<Live>,
    machine: Machine,
    will: Option<Will>,
    input: BytesMut,
    output: BytesMut,
    /// Of input and output.
    charge: Charge,
    /// Bytes to ask the socket for: follows what it gives.
    chunk: usize,
    unflushed: bool,
    pipeline: Pipeline,
    answers: Answers,
    routes: Routes,
    /// Retained messages that new subscriptions still get, before anything from the inbox.
    walks: VecDeque<(Walk, SubscriptionOptions)>,
    /// Retained messages that are getting their places in a durable session.
    placing: usize,
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

impl Connection {
    pub(crate) fn new(attached: Attached) -> Self {
        let Attached { core, limits, who, connect, session, inbox, live, rights, keep_alive, input, output } = attached;
        let now = core.clock.monotonic();
        let wall = core.clock.now();
        let started = Instant::now();
        let bucket = match who.role {
            Role::Device => Bucket::new(limits.message_rate, limits.message_burst, now),
            Role::App | Role::Gateway => None,
        };
        let recheck_at = who.not_after.map(|end| started + end.since(wall));
        let core_budget = Arc::clone(&core.budget);
        let mut connection = Self {
            machine: Machine::new(session, inbox.durable, &connect, &limits),
            limits,
            _held: Held { core: Arc::clone(&core), inbox: Arc::clone(&inbox) },
            publisher: Publisher { core, who, session: inbox.key },
            inbox,
            live,
            will: connect.will,
            charge: core_budget.charge(input.capacity() + output.capacity()),
            input,
            output,
            chunk: CHUNK_MIN,
            unflushed: false,
            pipeline: Pipeline::default(),
            answers: Answers::default(),
            routes: Routes::default(),
            walks: VecDeque::new(),
            placing: 0,
            batch: Vec::new(),
            bucket,
            slowed_until: None,
            guarded: false,
            rights_seen: rights,
            keep_alive,
            heard: started,
            taken: started,
            recheck_at,
            timer: Box::pin(tokio::time::sleep_until(started)),
            now,
            wall,
        };
        connection.guarded = connection.some_subscription_denied();
        connection
    }

    /// Serves the client until one side ends it.
    pub(crate) async fn serve<S>(&mut self, stream: &mut S) -> DisconnectReason
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        poll_fn(|context| {
            let polled = self.poll_once(stream, context);
            self.charge.set(self.input.capacity() + self.output.capacity());
            match polled {
                Err(reason) => Poll::Ready(reason),
                Ok(()) => Poll::Pending,
            }
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
            moved |= self.answer(context)?;
            moved |= self.receive()?;
            moved |= self.deliver(context);
            self.forget_done();
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

    /// What the client is done with leaves the store.
    fn forget_done(&mut self) {
        for queued in self.machine.done_with.drain(..) {
            self.publisher.core.scribe.forget(self.inbox.key, &queued);
        }
    }

    fn count_out(&self, count: u64) {
        self.publisher.core.counters.messages_out.add(count);
        self.live.messages_out.fetch_add(count, Ordering::Relaxed);
    }
}
