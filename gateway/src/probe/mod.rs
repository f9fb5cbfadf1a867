//! `fieldgate check --probe`: what can be tried without effect, all of it at the same time, within ten seconds.
//!
//! | what | how | not good |
//! |---|---|---|
//! | data directory, files | owner, permissions, whether they can be read; certificates in them | error; a key that others can read: warning |
//! | disk | room for `[buffer] max_size` | warning |
//! | addresses | bound and let go of, never listened on; those that the gateway which runs here keeps are its own | in use by another: error |
//! | upstream | name, TCP, TLS with the configured files; no CONNECT, which would end the session of a gateway of that id | unreachable: warning; TLS: error |
//! | Modbus | the driver runs until each device has answered a poll, or none comes; nothing is written | warning |
//! | OPC UA | name, TCP, Hello and Acknowledge: no session, no certificate | warning |
//! | open files, clock | against what is needed | warning |
//!
//! A link that a running gateway keeps is not asked beside it, since many devices take one connection alone: the gateway says
//! how it is. A peer that can't be reached is a warning: a plant is built in some order.

mod local;
mod peers;

use std::fmt;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use serde::Serialize;

use crate::admin::Status;
use crate::admin::api::AskReload;
use crate::cli::Client;
use crate::config::Config;
use crate::config::plan::{Change, Step};
use crate::reload::Report;

pub use local::few_files;

/// For all of it: 10 s, less what the program takes to start and to print.
const LIMIT: Duration = Duration::from_millis(9_500);

/// How good something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// As it should be.
    Ok,
    /// It may be meant so, or mend itself.
    Warning,
    /// The gateway can't do what it is configured to.
    Error,
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// What one try gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How good it is.
    pub grade: Grade,
    /// The key that led there.
    pub key: String,
    /// What was tried: an address, a file, a device.
    pub what: String,
    /// In words.
    pub words: String,
}

impl Finding {
    fn new(grade: Grade, key: &str, what: impl fmt::Display, words: impl fmt::Display) -> Self {
        Self { grade, key: key.to_owned(), what: what.to_string(), words: words.to_string() }
    }

    fn ok(key: &str, what: impl fmt::Display, words: impl fmt::Display) -> Self {
        Self::new(Grade::Ok, key, what, words)
    }

    fn warning(key: &str, what: impl fmt::Display, words: impl fmt::Display) -> Self {
        Self::new(Grade::Warning, key, what, words)
    }

    fn error(key: &str, what: impl fmt::Display, words: impl fmt::Display) -> Self {
        Self::new(Grade::Error, key, what, words)
    }
}

/// A gateway that runs on the same data directory, and what a reload of this configuration would do to it.
struct Running {
    status: Status,
    steps: Vec<Step>,
}

impl Running {
    async fn find(config: &Config) -> Option<Self> {
        let status = Client::connect(&config.data_dir).await.ok()??.get("/api/v1/status").await.ok()?;
        let plan = Client::connect(&config.data_dir).await.ok()??;
        let report: Report = plan.post_either("/api/v1/reload", &AskReload { plan: true }).await.ok()?;
        Some(Self { status, steps: report.steps })
    }

    /// Whether it has this part now, as it is configured.
    fn keeps(&self, key: &str, what: &str) -> bool {
        let has = |step: &Step| step.key == key && step.what.as_deref() == Some(what) && step.change == Change::Kept;
        self.steps.iter().any(has)
    }

    /// Whether it goes on with the same admin address: of that a plan says only when it is another.
    fn keeps_admin(&self) -> bool {
        !self.steps.iter().any(|step| step.key == "admin.listen")
    }
}

type Try = (&'static str, String, BoxFuture<'static, Vec<Finding>>);

/// Tries all of it.
pub async fn probe(config: Config) -> Vec<Finding> {
    let running = tokio::time::timeout(Duration::from_secs(2), Running::find(&config)).await.ok().flatten();
    let left = LIMIT.saturating_sub(Duration::from_secs(if running.is_some() { 0 } else { 2 }));
    let mut tries: Vec<Try> = Vec::new();
    let of_files = config.clone();
    tries.push(("gateway.data_dir", config.data_dir.display().to_string(), blocking(move || local::files(&of_files))));
    let addresses = local::addresses(&config, running.as_ref());
    tries.push((
        "broker.listen",
        "addresses".to_owned(),
        blocking(move || addresses.into_iter().map(local::Address::try_it).collect()),
    ));
    if let Some(upstream) = config.upstream.clone() {
        let what = format!("{}:{}", upstream.host, upstream.port);
        let up = running.as_ref().and_then(|running| running.status.upstream.as_ref());
        let up = up.map(|upstream| (upstream.state.clone(), upstream.last_error.clone()));
        tries.push(("upstream.url", what.clone(), Box::pin(peers::upstream(upstream, what, up))));
    }
    tries.extend(peers::links(&config, running.as_ref()));
    let tried = tries.into_iter().map(|(key, what, work)| async move {
        let late = |_| vec![Finding::warning(key, what, "no answer in time")];
        tokio::time::timeout(left, work).await.unwrap_or_else(late)
    });
    join_all(tried).await.into_iter().flatten().collect()
}

fn blocking(work: impl FnOnce() -> Vec<Finding> + Send + 'static) -> BoxFuture<'static, Vec<Finding>> {
    Box::pin(async move {
        let done = tokio::task::spawn_blocking(work).await;
        done.unwrap_or_else(|error| vec![Finding::warning("", "probe", error)])
    })
}
