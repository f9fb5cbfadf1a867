//! `fieldgate audit`: the log's last lines, and whether it is what was written. They are files, so no gateway needs to
//! run; one that does is asked where the log ends.

use std::process::ExitCode;
use std::sync::Arc;

use fieldgate_store::State;
use fieldgate_types::SystemClock;
use serde_json::Value as Json;

use super::client::Client;
use super::show::{date, print_json};
use crate::audit::{self, End, Verdict};
use crate::config::Config;

/// The last lines.
pub fn show(config: &Config, lines: usize, json: bool) -> anyhow::Result<ExitCode> {
    let lines = audit::tail(&config.data_dir.join("audit"), lines)?;
    if json {
        // A line that somebody has spoilt is shown as it is.
        let values = lines.into_iter().map(|line| serde_json::from_str(&line).unwrap_or(Json::String(line)));
        print_json(&values.collect::<Vec<_>>())?;
        return Ok(ExitCode::SUCCESS);
    }
    for line in lines {
        println!("{line}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether every line that is kept is as it was written, where it was written.
pub async fn verify(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    // Before the files are looked at: the log only grows.
    let end = end(config).await?;
    let verdict = audit::verify(&config.data_dir.join("audit"), end)?;
    if json {
        print_json(&verdict)?;
    } else {
        say(&verdict);
    }
    Ok(if verdict.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Where the log ends, as the running gateway or state.db has it.
pub async fn end(config: &Config) -> anyhow::Result<Option<End>> {
    match Client::connect(&config.data_dir).await? {
        Some(client) => client.get("/api/v1/audit/end").await,
        None => end_when_stopped(config),
    }
}

fn end_when_stopped(config: &Config) -> anyhow::Result<Option<End>> {
    let path = config.data_dir.join("state.db");
    if !path.exists() {
        return Ok(None);
    }
    let _lock = config.lock_data_dir()?;
    Ok(audit::anchored(&State::open(&path, Arc::new(SystemClock::new()))?)?)
}

fn say(verdict: &Verdict) {
    if verdict.unchained > 0 {
        println!("{} lines are older than the chain", verdict.unchained);
    }
    let (lines, unfinished) = (verdict.lines, verdict.unfinished);
    match (&verdict.from, &verdict.to) {
        (Some(from), Some(to)) => {
            let (first, last) = (date(from.ts), date(to.ts));
            println!("{lines} lines are whole: {} of {first} to {} of {last}", from.n, to.n);
            println!("the last one's hash is {}", to.hash);
        }
        _ => println!("no line is in the chain"),
    }
    if unfinished > 0 {
        println!("{unfinished} bytes of an unfinished line are at the end, which the next start sets right");
    }
    if let Some(broken) = &verdict.broken {
        eprintln!("fieldgate: the audit log is not what was written: {broken}");
    }
}
