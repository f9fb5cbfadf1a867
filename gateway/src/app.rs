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
//! | enrolment port, admin address, admin.sock | 64 connections each | newcomers wait in the kernel's queue |
//! | SIGHUP, API → Reloader | 8 requests | whoever asks waits |
//! | Presence | one entry per device | coalesced |
//!
//! Start: lock, state, audit, identities, queue, book, presence; then the broker, the enrolment port, the
//! links, the upstream, the admin doors. What another configuration changes while all of it runs: `reload.rs`. Stop, from the source down, with one deadline: broker, enrolment and links, commands, presence, upstream, queue.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use fieldgate_broker::Broker;
use fieldgate_certs::ServerCertificate;
use fieldgate_store::{DirectoryLock, Queue, State};
use fieldgate_types::{Clock, Current, Pulse, SystemClock};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::serve::Doors;
use crate::admin::{Overview, sys};
use crate::audit::{Audit, Event};
use crate::command::{Book, Router};
use crate::config::{Config, changes};
use crate::console::Console;
use crate::console::charts::{Charts, sampler};
use crate::identity::{Authority, Rights, Users};
use crate::notify;
use crate::reload::{Enrolling, Reload, Reloader};
use crate::southbound::handshakes::HandshakeThreads;
use crate::southbound::leaf::LeafGate;
use crate::southbound::sessions::StoredSessions;
use crate::southbound::{Links, Outlet, Presence, drivers};
use crate::upkeep::{self, Upkeep, addresses, server_names};
use crate::upline::{Running, Upline};

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
    let reload = app.overview.reload.clone();
    tokio::spawn(async move {
        while hang_up.recv().await.is_some() {
            // Its outcome is in the log.
            reload.ask("SIGHUP", false).await;
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
    reload: Stage,
    links: Stage,
    commands: Stage,
    presence: Stage,
    upstream: Stage,
    admin: Stage,
}

/// Tasks that stop together.
#[derive(Default, Clone)]
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
        authority.refuse_shared_ids(&config)?;
        let queue = Queue::open(&dir.join("queue.db"), boot, config.buffer.options(), Arc::clone(&clock))
            .context("queue.db can't be used")?;
        let outbound = Arc::new(Current::new(config.outbound()));
        let of_state = Arc::clone(&state);
        let book = Book::open(of_state, queue.clone(), audit.clone(), Arc::clone(&clock), Arc::clone(&outbound));
        let book = Arc::new(book.await?);
        let presence = Presence::open(&queue, clock.now()).await?;
        let doors = Doors::bind(&config.admin, &dir).await?;
        let admin = doors.address()?;

        let stages = Stages::default();
        let rights = Rights::new(&config.groups, &config.policies, &config.broker.maps);
        let rights = Arc::new(Current::new(rights.with_enrolled(Arc::clone(&authority.registry))));
        let users = Arc::new(Users::new(&config.broker.users, Arc::clone(&clock))?);
        let gate = Arc::new(LeafGate::new(
            Arc::clone(&authority),
            Arc::clone(&rights),
            Arc::clone(&users),
            queue.clone(),
            Arc::clone(&book),
            Arc::clone(&presence),
            audit.clone(),
            Arc::clone(&clock),
            Arc::clone(&outbound),
        ));
        let handshakes = HandshakeThreads::start()?;
        let (broker, server_certificate) =
            start_broker(&config, &authority, &gate, &queue, &handshakes, &clock).await?;
        let outlet = Outlet::new(queue.clone(), broker.clone(), Arc::clone(&clock), Arc::clone(&outbound));
        let Stage { tasks, stop } = stages.links.clone();
        let mut enrolling = Enrolling {
            authority: Arc::clone(&authority),
            certificate: Arc::clone(&server_certificate),
            tasks: tasks.clone(),
            stop: stop.clone(),
            threads: handshakes.handle(),
            open: None,
        };
        let port = match config.enrolment {
            Some(enrolment) => Some(enrolling.bind(enrolment, audit.clone()).await?),
            None => None,
        };
        let enrolment = port.as_ref().map(|(port, _)| port.address()).transpose()?;
        enrolling.serve(port);
        let of_links = (outlet.clone(), Arc::clone(&presence), Arc::clone(&clock));
        let links = Arc::new(Links::new(of_links, dir.clone(), tasks, stop));
        links.change(drivers::links(&config), &BTreeSet::new()).await;
        let told = stages.presence.stop.clone().cancelled_owned();
        stages.presence.tasks.spawn(Arc::clone(&presence).run(outlet, told));

        let router = Router::new(
            Arc::clone(&book),
            broker.clone(),
            Arc::clone(&authority.registry),
            config.command_timeout,
            Arc::clone(&clock),
            stages.commands.stop.clone(),
        );
        router.set_field(links.targets().into_iter());
        gate.route_commands(router.clone());
        let upline = Upline {
            gateway: authority.gateway.clone(),
            queue: queue.clone(),
            router: router.clone(),
            broker: broker.clone(),
            presence: Arc::clone(&presence),
            links: Arc::clone(&links),
            clock: Arc::clone(&clock),
            tasks: stages.upstream.tasks.clone(),
            stop: stages.upstream.stop.clone(),
            quiet: stages.commands.stop.clone(),
            running: Running::default(),
        };
        if let Some(upstream) = config.upstream.clone() {
            upline.begin(upstream, config.buffer.replay);
        }

        let (reload, requests) = Reload::channel(&config);
        let overview = Arc::new(Overview {
            authority,
            rights,
            users: Arc::clone(&users),
            broker,
            queue,
            presence,
            links,
            upline,
            router,
            book,
            server_certificate,
            names: Arc::new(Current::new(config.broker.names.clone())),
            reload,
            leaf: gate.counters(),
            refused_requests: Arc::default(),
            upkeep: Pulse::new(Arc::clone(&clock)),
            taps: gate.taps(),
            console: Console::new(&clock, stages.admin.stop.clone()),
            charts: Charts::new(Arc::clone(&clock)),
            audit: audit.clone(),
            audit_folder,
            started,
            clock,
            serving: AtomicBool::new(true),
        });
        // Told in the log while there is no account.
        overview.console.setup.code(&overview.authority.accounts);
        doors.serve(&overview, handshakes.handle(), &stages.admin.tasks, &stages.admin.stop)?;
        stages.commands.tasks.spawn(say_what_is_due(Arc::clone(&overview)));
        stages.admin.tasks.spawn(sys::run(Arc::clone(&overview), stages.admin.stop.clone()));
        stages.admin.tasks.spawn(sampler::run(Arc::clone(&overview), stages.admin.stop.clone()));
        stages.admin.tasks.spawn(Upkeep::new(Arc::clone(&overview), stages.admin.stop.clone()).run());
        let upstream = config.upstream.as_ref().map(|upstream| format!("{}:{}", upstream.host, upstream.port));
        let threads = handshakes.handle();
        let of_reload = Arc::clone(&overview);
        let reloader = Reloader { config, overview: of_reload, state, users, outbound, enrolling, threads, requests };
        stages.reload.tasks.spawn(reloader.run(stages.reload.stop.clone()));
        tracing::info!(
            gateway = %overview.authority.gateway,
            boot,
            broker = ?overview.broker.local_addrs(),
            %admin,
            enrolment = enrolment.map(tracing::field::display),
            upstream,
            "fieldgate is running"
        );
        stages.admin.tasks.spawn(notify::feed(Arc::clone(&overview), stages.admin.stop.clone()));
        notify::ready();
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
        stages.reload.end(deadline, "reload").await;
        notify::stopping();
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
