//! The public handle of the broker.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fieldgate_types::{Clock, Current, Pulse};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::budget::Budget;
use crate::core::Core;
use crate::counters::Counters;
use crate::durable::{self, Scribe};
use crate::inbox::Kick;
use crate::janitor::Janitor;
use crate::net::doors::{Bindings, Doors};
use crate::penalties::Penalties;
use crate::registry::Registry;
use crate::retained::Retained;
use crate::router::Router;
use crate::{
    BrokerMetrics, Config, ConnectionInfo, DisconnectReason, Gate, Identity, Limits, LoadError, Message, Sessions,
    Table, stored,
};

/// The MQTT server. Clones share it; it runs until [`Broker::stop`].
#[derive(Clone)]
pub struct Broker {
    core: Arc<Core>,
    doors: Arc<Doors>,
    writer: Writer,
}

/// The task that writes changes of sessions: it ends after everything that leaves it some.
#[derive(Clone)]
struct Writer {
    task: TaskTracker,
    stop: CancellationToken,
}

/// Where a broker listens, each list in the order of its configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// With certificates.
    pub listen: Vec<SocketAddr>,
    /// With passwords over TLS.
    pub users_tls: Vec<SocketAddr>,
    /// With passwords, without TLS.
    pub plain: Vec<SocketAddr>,
    /// WebSocket, with certificates.
    pub websocket: Vec<SocketAddr>,
}

/// The broker can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address can't be listened on.
    #[error("can't listen on `{address}`: {source}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The TLS settings can't be used.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// Stored rows can't be read.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// What became of a message that the gateway published.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Connected receivers that it is queued for.
    pub live: usize,
    /// Sessions of absent receivers that it is queued in.
    pub stored: usize,
    /// Receivers that it was dropped for (full queue of a receiver that had to be disconnected).
    pub dropped: usize,
}

/// The gateway's own message was not routed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The topic is not a valid topic name.
    #[error("topic `{0}` {1}")]
    Topic(Arc<str>, crate::topic::TopicError),
    /// The retained copy is not durable; the message was routed to nobody.
    #[error(transparent)]
    Commit(#[from] crate::CommitError),
}

impl Broker {
    /// Binds every address, loads sessions and retained messages, then accepts.
    pub async fn start(
        config: Config,
        tls: Arc<rustls::ServerConfig>,
        gate: Arc<dyn Gate>,
        sessions: Arc<dyn Sessions>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let bindings = Bindings::bind(&config, &tls)?;
        let core = Arc::new(core(config.limits.clone(), gate, sessions, clock));
        load_retained(&core).await?;
        load_sessions(&core).await?;
        let writer = Writer { task: TaskTracker::new(), stop: CancellationToken::new() };
        writer.task.spawn(Arc::clone(&core.scribe).run(Arc::clone(&core.sessions), writer.stop.clone()));
        writer.task.close();
        let doors = Arc::new(bindings.serve(&core, &config));
        core.tasks.spawn(Janitor { core: Arc::clone(&core) }.run());
        Ok(Self { core, doors, writer })
    }

    /// The addresses really bound, in the order of [`Config::listen`].
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.addresses().listen
    }

    /// All addresses really bound.
    pub fn addresses(&self) -> Addresses {
        self.doors.addresses()
    }

    /// Other addresses, limits and web pages from now on. No connection is touched: it keeps the limits that it was let in
    /// with, also where its address is closed. An address that stays is never closed. Where one of the new ones can't be had,
    /// nothing is changed. One change at a time; [`Config::handshakes_on`] stays as it was.
    pub async fn change(&self, config: &Config) -> Result<(), StartError> {
        self.doors.change(config).await?;
        self.core.budget.set_limit(config.limits.buffers);
        self.core.retained.set_limits(&config.limits);
        self.core.limits.set(config.limits.clone());
        Ok(())
    }

    /// One for each address: whether it still accepts.
    pub fn pulses(&self) -> Vec<Pulse> {
        self.doors.pulses()
    }

    /// Routes a message of the gateway itself; nobody's rights are asked and nothing goes to [`Gate::commit`].
    /// With `retain`, the retained copy is durable first (through [`Sessions::persist`]). Waits for full queues of
    /// live receivers, but not for long: [`crate::Limits::full_queue_wait`], after which a receiver that does not move is
    /// disconnected. One caller's messages arrive in the order of its calls.
    pub async fn publish(&self, message: Message) -> Result<Delivery, PublishError> {
        crate::topic::check_name(&message.topic).map_err(|e| PublishError::Topic(Arc::clone(&message.topic), e))?;
        Ok(Arc::clone(&self.core).publish_own(message).await?)
    }

    /// Closes every live connection of identity `id`, and with `drop_session` forgets its sessions, queues and
    /// wills; from this call on nothing more is queued for it. Whether anything was there.
    pub fn disconnect(&self, id: &str, reason: DisconnectReason, drop_session: bool) -> bool {
        let (any, ended) = self.core.registry.disconnect(id, Kick { reason, drop_session });
        for session in ended {
            self.core.end_session(session);
        }
        any
    }

    /// Closes every live connection of whom `of` says so, which must answer at once; sessions stay as after a lost
    /// connection. How many.
    pub fn disconnect_all(&self, reason: DisconnectReason, of: impl Fn(&Identity) -> bool) -> usize {
        self.core.registry.disconnect_all(reason, of)
    }

    /// Rights have changed: every cached decision is forgotten. Live connections ask [`Gate::still_valid`] and
    /// [`Gate::may_subscribe`] again, and where a subscription is no longer granted, [`Gate::may_receive`] for
    /// each delivery.
    pub fn recheck(&self) {
        self.core.rights.fetch_add(1, Ordering::Release);
        self.core.registry.nudge();
    }

    /// The connected clients.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        self.core.registry.connections()
    }

    /// Whether a client of that identity is connected.
    pub fn is_connected(&self, id: &str) -> bool {
        self.core.registry.is_connected(id)
    }

    /// Counters and gauges.
    pub fn metrics(&self) -> BrokerMetrics {
        let as_u64 = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let (connections, sessions) = self.core.registry.count();
        let (retained_messages, retained_bytes) = self.core.retained.size();
        BrokerMetrics {
            connections: as_u64(connections),
            sessions: as_u64(sessions),
            buffer_bytes: as_u64(self.core.budget.used()),
            pending_sockets: as_u64(self.doors.pending.count()),
            subscriptions: as_u64(self.core.router.len()),
            retained_messages: as_u64(retained_messages),
            retained_bytes: as_u64(retained_bytes),
            ..self.core.counters.snapshot()
        }
    }

    /// Stops accepting, says goodbye (0x8B on MQTT 5), publishes the wills of those that it sends away, but for those
    /// with a delay, which goes on at the next start, and closes. What isn't done by `deadline` is dropped with the
    /// runtime; nothing that was acknowledged depends on it.
    pub async fn stop(&self, deadline: Duration) {
        self.core.stopping.cancel();
        self.doors.pending.close();
        self.core.registry.close();
        self.core.tasks.close();
        let ended = async {
            self.core.tasks.wait().await;
            self.writer.stop.cancel();
            self.writer.task.wait().await;
        };
        if tokio::time::timeout(deadline, ended).await.is_err() {
            tracing::warn!(tasks = self.core.tasks.len(), "broker did not stop in time");
            self.writer.stop.cancel();
        }
    }
}

fn core(limits: Limits, gate: Arc<dyn Gate>, sessions: Arc<dyn Sessions>, clock: Arc<dyn Clock>) -> Core {
    Core {
        retained: Retained::new(&limits),
        budget: Arc::new(Budget::new(limits.buffers)),
        limits: Current::new(limits),
        gate,
        sessions,
        clock,
        router: Router::default(),
        registry: Registry::default(),
        scribe: Arc::new(Scribe::default()),
        counters: Counters::default(),
        rights: AtomicU64::new(0),
        penalties: Penalties::default(),
        parked: Notify::new(),
        tasks: TaskTracker::new(),
        stopping: CancellationToken::new(),
    }
}

/// Retained messages of the last run. Their expiry goes on from their reception, as far as the wall clock shows it.
async fn load_retained(core: &Core) -> Result<(), LoadError> {
    let mut unreadable = 0_u64;
    for (key, value) in core.sessions.load(Table::Retained).await? {
        match stored::read(&key, value) {
            Some((message, owner)) => core.retained.load(durable::revived(&*core.clock, message, &core.budget), owner),
            None => unreadable += 1,
        }
    }
    if unreadable > 0 {
        tracing::error!(rows = unreadable, "retained messages can't be read and are left out");
    }
    Ok(())
}

/// Sessions of the last run, all of them before the first client is let in. Who was revoked meanwhile has none.
async fn load_sessions(core: &Arc<Core>) -> Result<(), LoadError> {
    let rows = core.sessions.load(Table::Sessions).await?;
    let loaded = durable::load(rows, &*core.clock, &core.limits.get(), &core.budget);
    core.registry.begin_after(loaded.last_session);
    core.scribe.begin_after(loaded.last_message);
    core.scribe.later(loaded.orphans);
    if loaded.unreadable > 0 {
        tracing::error!(rows = loaded.unreadable, "rows of sessions can't be read and are left out");
    }
    let now = core.clock.monotonic();
    let mut revoked = Vec::new();
    for session in loaded.sessions {
        let who = Arc::clone(&session.meta.who);
        if core.gate.still_valid(&who).is_err() {
            revoked.push(Arc::clone(&who.id));
        }
        let subscriptions = session.session.subscriptions.clone();
        let inbox = core.registry.restore(session, now, &core.limits.get(), &core.budget);
        for (filter, options) in subscriptions {
            core.router.subscribe(&filter, &inbox, options);
        }
    }
    for id in revoked {
        let kick = Kick { reason: DisconnectReason::Revoked, drop_session: true };
        let (_, ended) = core.registry.disconnect(&id, kick);
        for session in ended {
            core.end_session(session);
        }
    }
    Ok(())
}
