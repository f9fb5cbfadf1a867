//! Another configuration for a gateway that runs: SIGHUP, `POST /api/v1/reload`, `fieldgate reload`.
//!
//! The file is read and checked as at the start, and compared with what runs ([`crate::config::plan`]). What is wrong changes
//! nothing. What can be refused by the machine (an address in use, a CA that can't be trusted) is done first and taken back
//! where something fails, so that a reload is done, or is not. One task does it, one request after the other.

mod look;

use std::path::PathBuf;
use std::sync::Arc;

use fieldgate_broker::DisconnectReason;
use fieldgate_certs::{ExternalTrust, ServerCertificate};
use fieldgate_store::State;
use fieldgate_types::{Current, Problem, Setting, UnixMillis};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::look::Look;
use self::look::{Files, Kept};
use crate::admin::Overview;
use crate::audit::{Audit, Event};
use crate::config::plan::{Change, Plan, Step};
use crate::config::{Config, EnrolmentConfig, LoadError, changes, load};
use crate::enrolment::EnrolmentPort;
use crate::identity::{Authority, Known, Rights, Users};
use crate::pipeline::route::Outbound;
use crate::southbound::drivers::links;
use crate::upkeep;

/// Requests that wait. Full: whoever asks waits.
const WAITING: usize = 8;
/// Problems that are repeated in one line of the audit log.
const NAMED: usize = 20;

/// What became of a reload.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// Whether the file is in force now, but for what waits for the next start; of a plan: whether it could be.
    pub ok: bool,
    /// Whether something was changed.
    pub applied: bool,
    /// Why not, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What is wrong in the file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
    /// What becomes of each part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
}

impl Report {
    fn refused(error: impl Into<String>) -> Self {
        Self { error: Some(error.into()), ..Self::default() }
    }
}

/// What somebody asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// The file in force.
    Reload,
    /// What that would do, by the files as they are now.
    Plan,
    /// The same, by the last look while that holds.
    Look,
}

struct Request {
    by: String,
    wish: Wish,
    done: oneshot::Sender<Look>,
}

/// Where a reload is asked for. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reload {
    requests: mpsc::Sender<Request>,
    waiting: Arc<Current<Vec<Step>>>,
    in_force: Arc<Current<InForce>>,
}

/// The far end of a [`Reload`].
pub struct Requests {
    asked: mpsc::Receiver<Request>,
    waiting: Arc<Current<Vec<Step>>>,
    in_force: Arc<Current<InForce>>,
    /// What the last look found.
    kept: Option<Kept>,
}

/// The configuration that runs, for people.
#[derive(Debug, Clone, Default)]
pub struct InForce {
    /// Its file.
    pub source: Option<PathBuf>,
    /// Every key of no `[[table]]`. Of secrets there are only the names of their files in it.
    pub settings: Vec<Setting>,
}

impl From<&Config> for InForce {
    fn from(config: &Config) -> Self {
        Self { source: config.source.clone(), settings: config.settings.clone() }
    }
}

impl Reload {
    /// Both ends, for a gateway that begins with this configuration.
    pub fn channel(config: &Config) -> (Self, Requests) {
        let (sender, asked) = mpsc::channel(WAITING);
        let (waiting, in_force) = (Arc::default(), Arc::new(Current::new(InForce::from(config))));
        let near = Self { requests: sender, waiting: Arc::clone(&waiting), in_force: Arc::clone(&in_force) };
        (near, Requests { asked, waiting, in_force, kept: None })
    }

    /// Reads the file anew for `by`, and does what it says; with `plan_only` it only says what it would do.
    pub async fn ask(&self, by: &str, plan_only: bool) -> Report {
        let look = self.request(by, if plan_only { Wish::Plan } else { Wish::Reload }).await;
        look.map_or_else(stopping, |look| Arc::unwrap_or_clone(look.report))
    }

    /// What a reload would do: by the last look where no file has changed since, or `afresh`.
    pub async fn look(&self, afresh: bool) -> Look {
        let look = self.request("", if afresh { Wish::Plan } else { Wish::Look }).await;
        look.unwrap_or_else(|| Look { at: UnixMillis(0), report: Arc::new(stopping()) })
    }

    async fn request(&self, by: &str, wish: Wish) -> Option<Look> {
        let (done, answer) = oneshot::channel();
        self.requests.send(Request { by: by.to_owned(), wish, done }).await.ok()?;
        answer.await.ok()
    }

    /// The configuration that runs.
    pub fn in_force(&self) -> Arc<InForce> {
        self.in_force.get()
    }

    /// What of the file waits for the next start of the process.
    pub fn waiting(&self) -> Arc<Vec<Step>> {
        self.waiting.get()
    }
}

fn stopping() -> Report {
    Report::refused("the gateway is stopping")
}

/// The enrolment port, if there is one.
pub struct Enrolling {
    /// What a port is made with.
    pub authority: Arc<Authority>,
    /// The certificate that it shows.
    pub certificate: Arc<ServerCertificate>,
    /// Where its tasks run, until when.
    pub tasks: TaskTracker,
    /// Ends all of it.
    pub stop: CancellationToken,
    /// Where its handshakes compute.
    pub threads: Option<tokio::runtime::Handle>,
    /// The port that is open.
    pub open: Option<OpenPort>,
}

/// An enrolment port that is served.
pub struct OpenPort {
    /// Ends it.
    stop: CancellationToken,
    /// Ends after it: its address is free then.
    task: JoinHandle<()>,
}

impl Enrolling {
    /// Binds a port, not served yet.
    pub async fn bind(
        &self,
        config: EnrolmentConfig,
        audit: Audit,
    ) -> anyhow::Result<(EnrolmentPort, CancellationToken)> {
        let stop = self.stop.child_token();
        let threads = self.threads.clone().unwrap_or_else(tokio::runtime::Handle::current);
        let (authority, certificate) = (Arc::clone(&self.authority), Arc::clone(&self.certificate));
        let stage = (self.tasks.clone(), stop.clone());
        Ok((EnrolmentPort::bind(config.listen, authority, certificate, audit, threads, stage).await?, stop))
    }

    /// As [`Enrolling::bind`], where the port that is open now may be in the way, as 127.0.0.1 is for 0.0.0.0: then that is
    /// closed before, and opened again where it was of no use.
    async fn bind_anew(
        &mut self,
        from: Option<EnrolmentConfig>,
        to: EnrolmentConfig,
        audit: &Audit,
    ) -> anyhow::Result<(EnrolmentPort, CancellationToken)> {
        let bound = self.bind(to, audit.clone()).await;
        if bound.is_ok() || from.map(|from| from.listen.port()) != Some(to.listen.port()) {
            return bound;
        }
        if let Some(OpenPort { stop, task }) = self.open.take() {
            stop.cancel();
            if let Err(error) = task.await {
                tracing::error!(%error, "the enrolment port ended early");
            }
        }
        let bound = self.bind(to, audit.clone()).await;
        if bound.is_err() {
            self.reopen(from, audit).await;
        }
        bound
    }

    /// After a change that could not be made: what was closed for it is opened again.
    async fn reopen(&mut self, was: Option<EnrolmentConfig>, audit: &Audit) {
        let Some(was) = was.filter(|_| self.open.is_none()) else { return };
        match self.bind(was, audit.clone()).await {
            Ok(port) => self.serve(Some(port)),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(address = %was.listen, error, "the enrolment port was closed and can't be had again");
            }
        }
    }

    /// From now on this one, or none.
    pub fn serve(&mut self, port: Option<(EnrolmentPort, CancellationToken)>) {
        if let Some(open) = self.open.take() {
            open.stop.cancel();
        }
        self.open = port.map(|(port, stop)| OpenPort { stop, task: self.tasks.spawn(port.run()) });
    }
}

/// A configuration that could be put in force.
struct Read {
    new: Config,
    plan: Plan,
    /// Of which it was made.
    files: Files,
}

/// The task that reloads.
pub struct Reloader {
    /// What runs.
    pub config: Config,
    /// Every part.
    pub overview: Arc<Overview>,
    /// Where the last configuration is remembered.
    pub state: Arc<State>,
    /// Who may come in with a password.
    pub users: Arc<Users>,
    /// What goes up.
    pub outbound: Arc<Current<Outbound>>,
    /// The enrolment port.
    pub enrolling: Enrolling,
    /// For the broker's handshakes.
    pub threads: Option<tokio::runtime::Handle>,
    /// What is asked.
    pub requests: Requests,
}

impl Reloader {
    /// Until nobody can ask any more, or `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        while let Some(Some(request)) = stop.run_until_cancelled(self.requests.asked.recv()).await {
            let Request { by, wish, done } = request;
            let look = self.answer(wish).await;
            if wish == Wish::Reload {
                self.tell(&by, &look.report);
            }
            // Whoever went away meanwhile reads the log.
            let _heard = done.send(look).is_ok();
        }
    }

    fn tell(&self, by: &str, report: &Report) {
        for problem in &report.problems {
            tracing::error!(problem = %problem, "the configuration is not good");
        }
        if let Some(reason) = &report.error {
            tracing::error!(by, reason, "the configuration was not reloaded, everything is as it was");
            let problems: Vec<String> = report.problems.iter().take(NAMED).map(ToString::to_string).collect();
            self.overview.audit.record(Event::ReloadRefused { by: by.to_owned(), reason: reason.clone(), problems });
            return;
        }
        for step in report.steps.iter().filter(|step| step.change != Change::Kept) {
            tracing::info!(key = step.key, what = step.what, change = %step.change, reason = step.reason, "reload");
        }
        let kept = report.steps.iter().filter(|step| step.change == Change::Kept).count();
        tracing::info!(by, applied = report.applied, kept, "the configuration was reloaded");
    }

    async fn answer(&mut self, wish: Wish) -> Look {
        if wish == Wish::Look
            && let Some(look) = self.kept().await
        {
            return look;
        }
        self.requests.kept = None;
        let at = self.overview.clock.now();
        let read = match self.read().await {
            Ok(read) => read,
            Err(report) => return Look { at, report: Arc::new(report) },
        };
        if wish == Wish::Reload {
            return Look { at, report: Arc::new(self.put(read).await) };
        }
        let report = Report { ok: true, steps: read.plan.steps, ..Report::default() };
        let look = Look { at, report: Arc::new(report) };
        self.requests.kept = read.files.keep(look.clone());
        look
    }

    /// The last look, while it holds.
    async fn kept(&mut self) -> Option<Look> {
        let kept = self.requests.kept.take()?;
        // The files may lie on a disk that is slow.
        self.requests.kept = spawn_blocking(move || kept.holds().then_some(kept)).await.ok()?;
        self.requests.kept.as_ref().map(|kept| kept.look.clone())
    }

    /// What the file says, compared with what runs; or why it can't be put in force.
    async fn read(&self) -> Result<Read, Report> {
        let Some(source) = self.config.source.clone() else {
            return Err(Report::refused("this gateway was started without a configuration file"));
        };
        let (old, gateway) = (self.config.clone(), self.overview.authority.gateway.clone());
        // Reading and checking may take as long as the disk does, and comparing takes its time with thousands of points.
        let read = spawn_blocking(move || {
            let new = load(&source)?;
            let plan = Plan::between(&old, &new, &gateway);
            let files = Files::of(new.files.iter().chain([&source]));
            Ok::<_, LoadError>(Read { new, plan, files })
        });
        let read = match read.await {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => {
                let reason = error.to_string();
                let problems = match error {
                    LoadError::Problems(problems) => problems,
                    LoadError::Read { .. } => Vec::new(),
                };
                return Err(Report { problems, ..Report::refused(reason) });
            }
            Err(error) => return Err(Report::refused(error.to_string())),
        };
        let problems: Vec<Problem> = read.plan.refused().map(|step| located(&read.new, step)).collect();
        if !problems.is_empty() {
            let reason = "the file is about another gateway, nothing of it is applied";
            return Err(Report { problems, steps: read.plan.steps, ..Report::refused(reason) });
        }
        match self.overview.authority.refuse_shared_ids(&read.new) {
            Ok(()) => Ok(read),
            Err(error) => Err(Report { steps: read.plan.steps, ..Report::refused(error.to_string()) }),
        }
    }

    /// Puts what was read in force.
    async fn put(&mut self, read: Read) -> Report {
        let Read { new, plan, .. } = read;
        let applied = plan.changes().any(|step| step.change != Change::Waits);
        match self.apply(&plan, new).await {
            Ok(()) => Report { ok: true, applied, steps: plan.steps, ..Report::default() },
            Err(error) => Report { steps: plan.steps, ..Report::refused(format!("{error:#}")) },
        }
    }

    /// First what can fail, then what can't.
    async fn apply(&mut self, plan: &Plan, new: Config) -> anyhow::Result<()> {
        let Self { config: old, overview, enrolling, .. } = self;
        let users = new.broker.users.clone();
        let known = spawn_blocking(move || Known::new(&users)).await??;
        let listens = |config: &Config| config.enrolment.map(|port| port.listen);
        let moved = listens(old) != listens(&new);
        let port = match new.enrolment {
            Some(wanted) if moved => Some(enrolling.bind_anew(old.enrolment, wanted, &overview.audit).await?),
            _ => None,
        };
        let settings = fieldgate_broker::Config { handshakes_on: self.threads.clone(), ..new.broker.config() };
        let settings = plan.broker.then_some(settings);
        if let Err(error) = take(overview, (&old.certs.external, &new.certs.external), settings).await {
            // It may have the address that is to be opened again.
            drop(port);
            enrolling.reopen(old.enrolment, &overview.audit).await;
            return Err(error);
        }
        let authority = &overview.authority;

        if moved {
            enrolling.serve(port);
        }
        authority.configure(&new);
        self.users.replace(known);
        let rights = Rights::new(&new.groups, &new.policies, &new.broker.maps);
        overview.rights.set(rights.with_enrolled(Arc::clone(&authority.registry)));
        if plan.rights {
            for (former, known) in &plan.former {
                overview.broker.disconnect(former.as_str(), DisconnectReason::Administrative, !known);
            }
            overview.broker.recheck();
        }
        overview.queue.rebound(new.buffer.options());
        overview.router.set_timeout(new.command_timeout);
        if old.broker.names != new.broker.names {
            overview.names.set(new.broker.names.clone());
            upkeep::refresh_server_certificate(overview).await;
        }
        if plan.links {
            overview.links.change(links(&new), &plan.kept_links).await;
            overview.router.set_field(overview.links.targets().into_iter());
        }
        if plan.upstream {
            overview.upline.end().await;
            self.outbound.set(new.outbound());
            if let Some(upstream) = new.upstream.clone() {
                overview.upline.begin(upstream, new.buffer.replay);
            }
        }
        self.remember(plan, new).await;
        Ok(())
    }

    async fn remember(&mut self, plan: &Plan, new: Config) {
        let (state, audit, written) = (Arc::clone(&self.state), self.overview.audit.clone(), new.clone());
        let remembered = spawn_blocking(move || changes::record(&written, &state, &audit)).await;
        if !matches!(remembered, Ok(Ok(()))) {
            tracing::error!("the configuration can't be remembered, and counts as changed at the next start");
        }
        self.requests.waiting.set(plan.waits());
        // What waits is as it was.
        self.config = Config { admin: self.config.admin, ..new };
        self.requests.in_force.set(InForce::from(&self.config));
    }
}

/// Trusts other CAs and takes other addresses, both or neither.
async fn take(
    overview: &Overview,
    (before, after): (&ExternalTrust, &ExternalTrust),
    settings: Option<fieldgate_broker::Config>,
) -> anyhow::Result<()> {
    let authority = &overview.authority;
    let others = before != after;
    if others {
        authority.trust_others(after)?;
    }
    let Some(settings) = settings else { return Ok(()) };
    if let Err(error) = overview.broker.change(&settings).await {
        if others {
            authority.trust_others(before)?;
        }
        return Err(error.into());
    }
    Ok(())
}

/// The refusal of a step as a problem of the file.
fn located(config: &Config, step: &Step) -> Problem {
    let place = config.settings.iter().find(|setting| setting.key == step.key);
    let (file, span) = place.map(|setting| setting.origin.place()).unwrap_or_default();
    Problem { file, span, key: step.key.clone(), message: step.reason.clone() }
}
