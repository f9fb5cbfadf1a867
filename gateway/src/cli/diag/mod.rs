//! `fieldgate diag`: what is wrong, in words, and what to do next; with a running gateway and without one.
//!
//! - here: the evidence is gathered; whatever can't be had is a finding, not an error.
//! - [`findings`]: what it means. Pure.

mod findings;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use fieldgate_certs::{Life, life};
use fieldgate_types::{BUILD_FLOOR, Clock, SystemClock, UnixMillis};
use serde::Serialize;
use serde_json::Value;

use self::findings::{Disk, Evidence, Finding, Refused, findings};
use super::client::Client;
use super::offline::offline;
use super::screen::with_troubles_in_red;
use super::show::print_json;
use crate::admin::Status;
use crate::admin::quarantine::Entry;
use crate::audit;
use crate::config::{Config, LoadError, load};
use crate::identity::ending;

/// Lines of the audit log that are looked at, and how old they may be.
const LINES: usize = 5_000;
const LATELY: Duration = Duration::from_secs(86_400);

/// What was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether nothing is wrong.
    pub healthy: bool,
    /// Whether a gateway runs.
    pub running: bool,
    /// What was found, the worst first.
    pub findings: Vec<Finding>,
}

impl Report {
    /// A paragraph for each.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for Finding { severity, what, next, .. } in &self.findings {
            out.extend([severity.word(), "  ", what, "\n         next: ", next, "\n"]);
        }
        if self.healthy {
            out.push_str("nothing is wrong\n");
        }
        out
    }
}

/// Prints it; exit code 1 where something is wrong.
pub async fn diag(path: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let report = report(path).await;
    if json {
        print_json(&report)?;
    } else {
        print!("{}", with_troubles_in_red(report.text()));
    }
    Ok(if report.healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// All that can be found out.
pub async fn report(path: &Path) -> Report {
    let evidence = match load(path) {
        Ok(config) => gather(&config).await,
        Err(error) => Evidence { configuration: Some(words(&error, path)), ..Evidence::default() },
    };
    let findings = findings(&evidence);
    let healthy = findings.iter().all(|finding| !finding.severity.is_wrong());
    Report { healthy, running: evidence.status.is_some(), findings }
}

fn words(error: &LoadError, path: &Path) -> String {
    match error {
        LoadError::Problems(problems) => {
            let first = problems.first().map(ToString::to_string).unwrap_or_default();
            format!("the configuration `{}` has {} problems, the first: {first}", path.display(), problems.len())
        }
        LoadError::Read { .. } => error.to_string(),
    }
}

async fn gather(config: &Config) -> Evidence {
    let clock = SystemClock::new();
    let mut evidence = Evidence {
        now: clock.now(),
        clock_right: clock.now() >= BUILD_FLOOR,
        data_dir: config.data_dir.clone(),
        begun: config.data_dir.join("state.db").exists(),
        max_size: config.buffer.max_size.bytes(),
        // Connections, sockets before their CONNECT, and the rest, as `check` counts them.
        files_needed: (config.broker.limits.connections + config.broker.limits.pending_sockets) as u64 + 100,
        disk: disk(&config.data_dir),
        ..Evidence::default()
    };
    match ask(config).await {
        Ok(Some((status, metrics, aside))) => {
            evidence.files_allowed = metrics.get("fieldgate_open_files_limit").copied();
            evidence.capacity = metrics.get("fieldgate_buffer_capacity_bytes").copied();
            evidence.quarantine = reasons(&aside);
            evidence.status = Some(status);
        }
        Ok(None) if evidence.begun => match offline(config, |authority| {
            let issuing = authority.ca.issuing_not_after();
            let (now, problems) = (authority.ca.time().now(), ending::problems(authority));
            Ok((now, issuing, problems))
        }) {
            Ok((now, issuing, problems)) => {
                evidence.now = now;
                evidence.issuing_not_after = Some(issuing);
                evidence.certificates = problems;
            }
            Err(error) => evidence.unreadable = Some(format!("{error:#}")),
        },
        Ok(None) => {}
        Err(error) => evidence.unreadable = Some(format!("{error:#}")),
    }
    match audit::tail(&config.data_dir.join("audit"), LINES) {
        Ok(lines) => evidence.refused = refused(&lines, evidence.now),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => evidence.unreadable = Some(format!("the audit log can't be read: {error}")),
    }
    evidence
}

type Answers = (Status, BTreeMap<String, u64>, Vec<Entry>);

/// What a running gateway says; `None` when none runs.
async fn ask(config: &Config) -> anyhow::Result<Option<Answers>> {
    let Some(client) = Client::connect(&config.data_dir).await? else { return Ok(None) };
    let status = client.get("/api/v1/status").await?;
    let metrics = Client::required(&config.data_dir).await?.get_text("/metrics").await?;
    let aside = Client::required(&config.data_dir).await?.get("/api/v1/buffer/quarantine").await?;
    Ok(Some((status, figures(&metrics), aside)))
}

/// The samples without labels, as whole numbers.
fn figures(metrics: &str) -> BTreeMap<String, u64> {
    let sample = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    metrics.lines().filter(|line| !line.starts_with('#') && !line.contains('{')).filter_map(sample).collect()
}

fn reasons(aside: &[Entry]) -> BTreeMap<String, usize> {
    let mut reasons = BTreeMap::new();
    for entry in aside {
        *reasons.entry(entry.reason.clone()).or_default() += 1;
    }
    reasons
}

fn disk(folder: &Path) -> Option<Disk> {
    // Before the first start its parent says as much.
    let found = folder.ancestors().find_map(|folder| rustix::fs::statvfs(folder).ok())?;
    let size = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Some(Disk { free: size(found.f_bavail), total: size(found.f_blocks) })
}

/// Who was refused in the last day and why, the most frequent first.
fn refused(lines: &[String], now: UnixMillis) -> Vec<Refused> {
    let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
    for line in lines {
        let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
        let text = |key: &str| line.get(key).and_then(Value::as_str).map(str::to_owned);
        let at = UnixMillis(line.get("ts").and_then(Value::as_u64).unwrap_or(0));
        let event = text("event").unwrap_or_default();
        if !event.ends_with("_refused") || now.since(at) > LATELY {
            continue;
        }
        // The port changes with each attempt, the address is the one to look for.
        let address = text("peer").and_then(|peer| peer.rsplit_once(':').map(|(address, _)| address.to_owned()));
        let who = text("device").or_else(|| text("token")).or(address).unwrap_or_else(|| "somebody".to_owned());
        *counts.entry((who, text("reason").unwrap_or_default())).or_default() += 1;
    }
    let mut refused: Vec<Refused> =
        counts.into_iter().map(|((who, reason), count)| Refused { who, reason, count }).collect();
    refused.sort_by_key(|refused| std::cmp::Reverse(refused.count));
    refused
}

/// Whether a certificate with so little left is one that should have been followed by another.
fn ends_soon(not_after: UnixMillis, now: UnixMillis, whole: Duration) -> bool {
    let not_before = UnixMillis(not_after.0.saturating_sub(u64::try_from(whole.as_millis()).unwrap_or(u64::MAX)));
    Life { not_before, not_after }.past(life::WARN, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_the_exposition_and_refusals_from_the_log() {
        let text = "# TYPE a gauge\na 5\nb{x=\"1\"} 2\nc 1.5\n# EOF\n";
        assert_eq!(figures(text), BTreeMap::from([("a".to_owned(), 5)]));
        let line = |ts: u64, rest: &str| format!("{{\"n\":1,\"prev\":\"0\",\"ts\":{ts},{rest}}}");
        let refusal =
            "\"event\":\"connection_refused\",\"device\":\"press-7\",\"peer\":\"192.0.2.9:5\",\"reason\":\"revoked\"";
        let nobody = "\"event\":\"connection_refused\",\"peer\":\"192.0.2.9:77\",\"reason\":\"no certificate\"";
        let now = UnixMillis(LATELY.as_secs() * 2_000);
        let lines = [
            line(0, refusal),
            line(now.0, refusal),
            line(now.0, refusal),
            line(now.0, nobody),
            line(now.0, "\"event\":\"started\",\"version\":\"1\""),
            "spoilt".to_owned(),
        ];
        let found = refused(&lines, now);
        let found: Vec<_> = found.iter().map(|r| (r.who.as_str(), r.reason.as_str(), r.count)).collect();
        assert_eq!(found, [("press-7", "revoked", 2), ("192.0.2.9", "no certificate", 1)]);
    }
}
