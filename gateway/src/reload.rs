//! Another configuration for a gateway that runs: SIGHUP, `POST /api/v1/reload`, `fieldgate reload`.
//!
//! The file is read and checked as at the start, and compared with what runs ([`crate::config::plan`]). What is wrong changes
//! nothing. What can be refused by the machine (an address in use, a CA that can't be trusted) is done first and taken back
//! where something fails, so that a reload is done, or is not. One task does it, one request after the other.

use std::path::PathBuf;
use std::sync::Arc;

use fieldgate_broker::DisconnectReason;
use fieldgate_certs::ServerCertificate;
use fieldgate_store::State;
use fieldgate_types::{Current, Problem, Setting};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::Overview;
use crate::audit::Event;
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

struct Request {
    by: String,
    plan_only: bool,
    done: oneshot::Sender<Report>,
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
        (near, Requests { asked, waiting, in_force })
    }

    /// Reads the file anew for `by`, and does what it says; with `plan_only` it only says what it would do.
    pub async fn ask(&self, by: &str, plan_only: bool) -> Report {
        let (done, answer) = oneshot::channel();
        let stopping = |_| Report::refused("the gateway is stopping");
        let request = Request { by: by.to_owned(), plan_only, done };
        if self.requests.send(request).await.is_err() {
            return Report::refused("the gateway is stopping");
        }
        answer.await.unwrap_or_else(stopping)
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
    /// Ends the port that is open.
    pub open: Option<CancellationToken>,
}

impl Enrolling {
    /// Binds a port, not served yet.
    pub async fn bind(
        &self,
        config: EnrolmentConfig,
        audit: crate::audit::Audit,
    ) -> anyhow::Result<(EnrolmentPort, CancellationToken)> {
        let stop = self.stop.child_token();
        let threads = self.threads.clone().unwrap_or_else(tokio::runtime::Handle::current);
        let (authority, certificate) = (Arc::clone(&self.authority), Arc::clone(&self.certificate));
        let stage = (self.tasks.clone(), stop.clone());
        Ok((EnrolmentPort::bind(config.listen, authority, certificate, audit, threads, stage).await?, stop))
    }

    /// From now on this one, or none.
    pub fn serve(&mut self, port: Option<(EnrolmentPort, CancellationToken)>) {
        if let Some(open) = self.open.take() {
            open.cancel();
        }
        if let Some((port, stop)) = port {
            self.tasks.spawn(port.run());
            self.open = Some(stop);
        }
    }
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
            let Request { by, plan_only, done } = request;
            let report = self.reload(plan_only).await;
            self.tell(&by, plan_only, &report);
            // Whoever went away meanwhile reads the log.
            let _heard = done.send(report).is_ok();
        }
    }

    fn tell(&self, by: &str, plan_only: bool, report: &Report) {
        if plan_only {
            return;
        }
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

    async fn reload(&mut self, plan_only: bool) -> Report {
        let Some(source) = self.config.source.clone() else {
            return Report::refused("this gateway was started without a configuration file");
        };
        let (old, gateway) = (self.config.clone(), self.overview.authority.gateway.clone());
        // Reading and checking may take as long as the disk does, and comparing takes its time with thousands of points.
        let read = spawn_blocking(move || {
            let new = load(&source)?;
            let plan = Plan::between(&old, &new, &gateway);
            Ok::<_, LoadError>((new, plan))
        });
        let (new, plan) = match read.await {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => {
                let reason = error.to_string();
                let problems = match error {
                    LoadError::Problems(problems) => problems,
                    LoadError::Read { .. } => Vec::new(),
                };
                return Report { problems, ..Report::refused(reason) };
            }
            Err(error) => return Report::refused(error.to_string()),
        };
        let problems: Vec<Problem> = plan.refused().map(|step| located(&new, step)).collect();
        if !problems.is_empty() {
            let reason = "the file is about another gateway, nothing of it is applied";
            return Report { problems, steps: plan.steps, ..Report::refused(reason) };
        }
        if let Err(error) = self.overview.authority.refuse_shared_ids(&new) {
            return Report { steps: plan.steps, ..Report::refused(error.to_string()) };
        }
        if plan_only {
            return Report { ok: true, steps: plan.steps, ..Report::default() };
        }
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
            Some(wanted) if moved => Some(enrolling.bind(wanted, overview.audit.clone()).await?),
            _ => None,
        };
        let authority = &overview.authority;
        let others = old.certs.external != new.certs.external;
        if others {
            authority.trust_others(&new.certs.external)?;
        }
        if plan.broker {
            let settings = fieldgate_broker::Config { handshakes_on: self.threads.clone(), ..new.broker.config() };
            if let Err(error) = overview.broker.change(&settings).await {
                if others {
                    authority.trust_others(&old.certs.external)?;
                }
                return Err(error.into());
            }
        }

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

/// The refusal of a step as a problem of the file.
fn located(config: &Config, step: &Step) -> Problem {
    let place = config.settings.iter().find(|setting| setting.key == step.key);
    let (file, span) = place.map(|setting| setting.origin.place()).unwrap_or_default();
    Problem { file, span, key: step.key.clone(), message: step.reason.clone() }
}
