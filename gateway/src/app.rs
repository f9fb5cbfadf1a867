//! The gateway put together: every task and channel, in the order in which data flows. Read this page first.
//!
//! ```text
//! leaf device ─mTLS→ broker ─→ LeafGate ─┐
//! field device ─→ driver ─→ Link ────────┴→ pipeline (route, report, document, record) → Queue.commit → [PUBACK]
//!                                            Queue.lease → Upstream → upstream PUBACK → Queue.settle
//! upstream → Upstream → Router → broker | driver → Book.answer → Queue.commit (the same road up)
//!                      └→ Fetch → broker: trees of [[upstream.fetch]]
//! ```
//!
//! | channel | bound | when full |
//! |---|---|---|
//! | driver → Link (`Uplink`) | 16 batches | the driver waits and polls less often |
//! | Router → Link → driver | 32 commands each | the command is answered `failed` |
//! | Upstream → Router (below) | 64 commands | the commands stay unacknowledged at the upstream |
//! | Upstream → Fetch (below) | 64 messages | they stay unacknowledged at the upstream, and commands behind them |
//! | anybody → Queue | `Options` of the store | whoever commits waits; leaves get no PUBACK |
//! | anybody → Audit | 4,096 lines | lines are dropped and counted |
//! | enrolment port | 64 connections | newcomers wait in the kernel's queue |
//! | Presence | one entry per device | coalesced |
//!
//! Start: lock, state, audit, identities, queue, book, presence; then the broker, the enrolment port, the
//! links, the upstream, the admin doors. Stop, from the source down, with one deadline: broker, enrolment and links, commands, presence, upstream, queue.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use fieldgate_broker::Broker;
use fieldgate_certs::ServerCertificate;
use fieldgate_store::{DirectoryLock, Queue, State};
use fieldgate_types::{Clock, SystemClock};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::serve::Doors;
use crate::admin::{Overview, sys};
use crate::audit::{Audit, Event};
use crate::command::{Book, FieldTarget, Router};
use crate::config::{Config, changes};
use crate::enrolment::EnrolmentPort;
use crate::identity::{Authority, Rights, Users};
use crate::northbound::{Down, Gaps, Upstream, UpstreamHandle};
use crate::southbound::fetch::Fetch;
use crate::southbound::handshakes::HandshakeThreads;
use crate::southbound::leaf::LeafGate;
use crate::southbound::link::{Link, LinkHandle};
use crate::southbound::sessions::StoredSessions;
use crate::southbound::{Outlet, Presence, drivers};
use crate::upkeep::{self, Upkeep, addresses, server_names};

/// A stop takes at most this long; what is not sent by then stays in the queue.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// `fieldgate run`: until SIGTERM or SIGINT; a second one exits at once.
pub fn main(config: Config) -> anyhow::Result<ExitCode> {
    crate::log::init();
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(until_signalled(config));
    // A thread that waits for a stuck disk must not hold up the exit.
    runtime.shutdown_background();
    ended
}

async fn until_signalled(config: Config) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let app = tokio::select! {
        app = App::start(config, Arc::new(SystemClock::new())) => app?,
        // Nothing was acknowledged yet.
        _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
        _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
    };
    tokio::spawn(async move {
        while hang_up.recv().await.is_some() {
            tracing::warn!("this version doesn't reload its configuration, restart it instead");
        }
    });
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    tokio::select! {
        () = app.stop() => Ok(ExitCode::SUCCESS),
        _ = terminate.recv() => Ok(ExitCode::FAILURE),
        _ = interrupt.recv() => Ok(ExitCode::FAILURE),
    }
}

/// A running gateway.
pub struct App {
    overview: Arc<Overview>,
    admin: SocketAddr,
    audit: Audit,
    stages: Stages,
    _handshakes: HandshakeThreads,
    _lock: DirectoryLock,
}

/// What is stopped, in this order.
#[derive(Default)]
struct Stages {
    links: Stage,
    commands: Stage,
    presence: Stage,
    upstream: Stage,
    admin: Stage,
}

/// Tasks that stop together.
#[derive(Default)]
struct Stage {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl App {
    /// Starts everything; when it returns, the listeners serve and the store accepts.
    pub async fn start(config: Config, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        let started = clock.now();
        let dir = config.data_dir.clone();
        let lock = config.lock_data_dir()?;
        let state =
            Arc::new(State::open_for_run(&dir.join("state.db"), Arc::clone(&clock)).context("state.db can't be used")?);
        let boot = state.boot();
        let audit_folder = dir.join("audit");
        let audit = Audit::open(&audit_folder, Arc::clone(&state), Arc::clone(&clock))
            .context("the audit log can't be opened")?;
        audit.record(Event::Started { version: env!("CARGO_PKG_VERSION") });
        changes::record(&config, &state, &audit).context("state.db can't be used")?;
        let authority = Arc::new(Authority::open(&config, Arc::clone(&state), audit.clone(), Arc::clone(&clock))?);
        refuse_shared_ids(&config, &authority)?;
        let queue = Queue::open(&dir.join("queue.db"), boot, config.buffer.options(), Arc::clone(&clock))
            .context("queue.db can't be used")?;
        let book = Arc::new(
            Book::open(state, queue.clone(), audit.clone(), Arc::clone(&clock), config.upstream.is_some()).await?,
        );
        let presence = Presence::open(&queue, clock.now()).await?;
        let doors = Doors::bind(config.admin, &dir).await?;
        let admin = doors.address()?;

        let stages = Stages::default();
        let rights = Rights::new(&config.groups, &config.policies, &config.broker.maps);
        let rights = Arc::new(rights.with_enrolled(Arc::clone(&authority.registry)));
        let users = Arc::new(Users::new(&config.broker.users, Arc::clone(&clock))?);
        let gate = Arc::new(LeafGate::new(
            Arc::clone(&authority),
            Arc::clone(&rights),
            users,
            queue.clone(),
            Arc::clone(&book),
            Arc::clone(&presence),
            audit.clone(),
            Arc::clone(&clock),
            config.upstream.as_ref(),
        ));
        let handshakes = HandshakeThreads::start()?;
        let (broker, server_certificate) =
            start_broker(&config, &authority, &gate, &queue, &handshakes, &clock).await?;
        let outlet = Outlet::new(queue.clone(), broker.clone(), Arc::clone(&clock), config.upstream.is_some());
        let enrolment =
            start_enrolment(&config, &authority, &server_certificate, &audit, &handshakes, &stages.links).await?;
        let links = start_links(&config, &outlet, &presence, &clock, &stages.links);
        let told = stages.presence.stop.clone().cancelled_owned();
        stages.presence.tasks.spawn(Arc::clone(&presence).run(outlet, told));

        let field = links.iter().flat_map(targets).collect();
        let router = Router::new(
            Arc::clone(&book),
            broker.clone(),
            Arc::clone(&authority.registry),
            field,
            config.command_timeout,
            Arc::clone(&clock),
            stages.commands.stop.clone(),
        );
        gate.route_commands(router.clone());
        let upstream = start_upstream(&config, &authority, &queue, &router, &broker, &clock, &stages);

        let overview = Arc::new(Overview {
            authority,
            rights,
            users: config.broker.users.clone(),
            broker,
            queue,
            presence,
            links,
            upstream,
            router,
            book,
            server_certificate,
            names: config.broker.names.clone(),
            leaf: gate.counters(),
            audit: audit.clone(),
            audit_folder,
            started,
            clock,
            serving: AtomicBool::new(true),
        });
        doors.serve(Arc::clone(&overview), &stages.admin.tasks, &stages.admin.stop);
        stages.commands.tasks.spawn(say_what_is_due(Arc::clone(&overview)));
        stages.admin.tasks.spawn(sys::run(Arc::clone(&overview), stages.admin.stop.clone()));
        stages.admin.tasks.spawn(Upkeep::new(Arc::clone(&overview), stages.admin.stop.clone()).run());
        tracing::info!(
            gateway = %overview.authority.gateway,
            boot,
            broker = ?overview.broker.local_addrs(),
            %admin,
            enrolment = enrolment.map(tracing::field::display),
            upstream = config.upstream.as_ref().map(|upstream| format!("{}:{}", upstream.host, upstream.port)),
            "fieldgate is running"
        );
        Ok(Self { overview, admin, audit, stages, _handshakes: handshakes, _lock: lock })
    }

    /// Handles to every part.
    pub fn overview(&self) -> &Arc<Overview> {
        &self.overview
    }

    /// Where the admin address is.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Stops in order; what is not sent by the deadline stays in the queue.
    pub async fn stop(self) {
        let Self { overview, audit, stages, .. } = self;
        let deadline = Instant::now() + STOP_DEADLINE;
        overview.serving.store(false, Ordering::Release);
        let leaves = overview.broker.stop(Duration::from_secs(2));
        within(deadline, "broker", leaves).await;
        stages.links.end(deadline, "links").await;
        stages.commands.stop.cancel();
        within(deadline, "commands", overview.router.finish()).await;
        stages.presence.end(deadline, "presence").await;
        stages.upstream.end(deadline, "upstream").await;
        stages.admin.end(deadline, "admin").await;
        match tokio::time::timeout_at(deadline, overview.queue.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the queue could not be closed; nothing acknowledged is lost"),
            Err(_) => tracing::error!(stage = "queue", "did not stop in time"),
        }
        audit.record(Event::Stopped);
        let closed = tokio::task::spawn_blocking(move || audit.close());
        if !matches!(tokio::time::timeout_at(deadline, closed).await, Ok(Ok(()))) {
            tracing::warn!(stage = "audit", "did not stop in time");
        }
        tracing::info!("stopped");
    }
}

impl Stage {
    async fn end(&self, deadline: Instant, name: &'static str) {
        self.stop.cancel();
        self.tasks.close();
        within(deadline, name, self.tasks.wait()).await;
    }
}

async fn within(deadline: Instant, stage: &'static str, work: impl Future<Output = ()>) {
    if tokio::time::timeout_at(deadline, work).await.is_err() {
        tracing::error!(stage, "did not stop in time");
    }
}

/// An id is a leaf device's, a field device's or a user's (DESIGN section 4).
fn refuse_shared_ids(config: &Config, authority: &Authority) -> anyhow::Result<()> {
    for id in config.field_devices().chain(config.users()) {
        let taken = authority.registry.device(id).is_some_and(|entry| entry.revoked.is_none());
        if taken || *id == authority.gateway {
            bail!(
                "`{id}` is the id of a leaf device or of this gateway, and of a field device or user in the configuration; rename one, or `fieldgate device revoke {id}`"
            );
        }
    }
    for id in config.external_devices() {
        if authority.registry.registered(id) || *id == authority.gateway {
            bail!(
                "`{id}` is the id of a device of this gateway's own CA or of this gateway, and stands in [[certs.external]] or [[certs.pin]]; choose another there"
            );
        }
    }
    Ok(())
}

async fn start_broker(
    config: &Config,
    authority: &Arc<Authority>,
    gate: &Arc<LeafGate>,
    queue: &Queue,
    handshakes: &HandshakeThreads,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<(Broker, Arc<ServerCertificate>)> {
    let certificate = Arc::new(authority.ca.server_certificate(&server_names(&config.broker.names), &addresses())?);
    let tls = Arc::new(authority.ca.server_config(Arc::clone(&certificate))?);
    let sessions = Arc::new(StoredSessions::new(queue.clone()));
    let settings = fieldgate_broker::Config { handshakes_on: handshakes.handle(), ..config.broker.config() };
    let broker = Broker::start(settings, tls, Arc::clone(gate) as _, sessions, Arc::clone(clock)).await?;
    Ok((broker, certificate))
}

/// Where it listens, when it does.
async fn start_enrolment(
    config: &Config,
    authority: &Arc<Authority>,
    certificate: &Arc<ServerCertificate>,
    audit: &Audit,
    handshakes: &HandshakeThreads,
    stage: &Stage,
) -> anyhow::Result<Option<SocketAddr>> {
    let Some(enrolment) = config.enrolment else { return Ok(None) };
    let (authority, certificate) = (Arc::clone(authority), Arc::clone(certificate));
    let threads = handshakes.handle().unwrap_or_else(Handle::current);
    let stage_of = (stage.tasks.clone(), stage.stop.clone());
    let port = EnrolmentPort::bind(enrolment.listen, authority, certificate, audit.clone(), threads, stage_of).await?;
    let address = port.address()?;
    stage.tasks.spawn(port.run());
    Ok(Some(address))
}

fn start_links(
    config: &Config,
    outlet: &Outlet,
    presence: &Arc<Presence>,
    clock: &Arc<dyn Clock>,
    stage: &Stage,
) -> Vec<LinkHandle> {
    let mut handles = Vec::new();
    for make in drivers::drivers(config, &config.data_dir) {
        let (link, handle) =
            Link::new(make, outlet.clone(), Arc::clone(presence), Arc::clone(clock), stage.stop.clone());
        stage.tasks.spawn(link.run());
        handles.push(handle);
    }
    handles
}

fn targets(link: &LinkHandle) -> HashMap<fieldgate_types::DeviceId, FieldTarget> {
    let target = |device: &fieldgate_protocol::FieldDevice| FieldTarget {
        device: device.clone(),
        commands: link.commands.clone(),
    };
    link.devices.iter().map(|device| (device.id.clone(), target(device))).collect()
}

fn start_upstream(
    config: &Config,
    authority: &Authority,
    queue: &Queue,
    router: &Router,
    broker: &Broker,
    clock: &Arc<dyn Clock>,
    stages: &Stages,
) -> Option<UpstreamHandle> {
    let upstream = config.upstream.clone()?;
    // Full: the subscriber waits, and the upstream keeps what is not acknowledged.
    let (commands, downward) = mpsc::channel(64);
    // The same. A local subscriber that doesn't keep up holds it up for `full_queue_wait`, once.
    let (messages, fetched) = mpsc::channel(64);
    let (upstream, handle) = Upstream::new(
        upstream,
        authority.gateway.clone(),
        queue.clone(),
        Down { commands, messages },
        config.buffer.replay,
        Arc::clone(clock),
        stages.upstream.stop.clone(),
    );
    stages.upstream.tasks.spawn(upstream.run());
    let gaps = Gaps {
        queue: queue.clone(),
        upstream: handle.clone(),
        clock: Arc::clone(clock),
        stop: stages.commands.stop.clone(),
    };
    stages.commands.tasks.spawn(gaps.run());
    stages.commands.tasks.spawn(router.clone().run(downward));
    stages.commands.tasks.spawn(Fetch::new(broker.clone(), Arc::clone(clock), fetched).run());
    Some(handle)
}

/// What must be said once the gateway runs, and may wait for the disk: the trust bundle, and answers to commands
/// that an earlier run left open.
async fn say_what_is_due(overview: Arc<Overview>) {
    upkeep::publish_bundle(&overview).await;
    if let Err(error) = overview.book.answer_abandoned(overview.started).await {
        tracing::error!(%error, "commands of the last run could not be answered");
    }
}

/// One file per connection: the soft limit is raised to the hard one (DESIGN section 8).
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!(%error, "the limit on open files can't be raised");
    }
}
