//! Verbs that only show: `check`, `buffer status`; and how dates, sizes and JSON are printed.

use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;
use serde_json::json;

use super::BAD_CONFIGURATION;
use super::client::Client;
use crate::config::{Config, LoadError, load};
pub use crate::moment::date;

/// One JSON document on standard output.
pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Bytes for people.
pub fn bytes(count: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.iter().find(|(_, shift)| count >= 1 << shift) {
        // One digit behind the point, in whole numbers.
        Some((unit, shift)) => format!("{}.{} {unit}", count >> shift, ((count >> (shift - 10)) & 1023) * 10 / 1024),
        None => format!("{count} B"),
    }
}

/// Reports every problem of the configuration.
pub fn check(path: &Path, as_json: bool) -> anyhow::Result<ExitCode> {
    let problems = match load(path) {
        Ok(_) => Vec::new(),
        Err(LoadError::Problems(problems)) => problems,
        Err(error @ LoadError::Read { .. }) => {
            if as_json {
                print_json(&json!({ "ok": false, "error": error.to_string(), "problems": [] }))?;
            } else {
                eprintln!("fieldgate: {error}");
            }
            return Ok(ExitCode::from(BAD_CONFIGURATION));
        }
    };
    if as_json {
        print_json(&json!({ "ok": problems.is_empty(), "problems": problems }))?;
    } else if problems.is_empty() {
        println!("{}: no problems", path.display());
        warn_of_few_files(path);
    } else {
        for problem in &problems {
            eprintln!("{problem}");
        }
        eprintln!("fieldgate: {}", LoadError::Problems(problems.clone()));
    }
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(BAD_CONFIGURATION) })
}

/// Each connection is an open file; `run` raises the soft limit to the hard one.
fn warn_of_few_files(path: &Path) {
    let Ok(config) = load(path) else { return };
    let limits = &config.broker.limits;
    // The rest: the store, the log, links, listeners.
    let needed = (limits.connections + limits.pending_sockets) as u64 + 100;
    let allowed = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    if let Some(allowed) = allowed.filter(|allowed| *allowed < needed) {
        eprintln!(
            "fieldgate: warning: {allowed} open files are allowed, {needed} may be needed; raise the limit (LimitNOFILE=, ulimit -Hn)"
        );
    }
}

/// What waits, and what became of the rest.
pub async fn buffer(config: &Config, as_json: bool) -> anyhow::Result<ExitCode> {
    let report: serde_json::Value = Client::required(&config.data_dir).await?.get("/api/v1/buffer").await?;
    if as_json {
        print_json(&report)?;
        return Ok(ExitCode::SUCCESS);
    }
    let number = |value: &serde_json::Value, key: &str| value.get(key).and_then(serde_json::Value::as_u64).unwrap_or(0);
    println!("{} messages waiting, {}", number(&report, "messages"), bytes(number(&report, "bytes")));
    let hours = |key: &str| report.get(key).and_then(serde_json::Value::as_f64);
    if let (Some(holds), Some(left)) = (hours("holds_hours"), hours("left_hours")) {
        println!("at the present rate it holds {holds:.1} hours, {left:.1} of them are free");
    }
    let columns = ["received", "delivered", "waiting", "expired", "evicted", "quarantined"];
    print!("{:<32}", "DEVICE");
    for column in columns {
        print!(" {:>12}", column.to_uppercase());
    }
    println!();
    for device in report.get("devices").and_then(serde_json::Value::as_array).into_iter().flatten() {
        print!("{:<32}", device.get("device").and_then(serde_json::Value::as_str).unwrap_or_default());
        for column in columns {
            print!(" {:>12}", number(device, column));
        }
        println!();
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use fieldgate_types::UnixMillis;

    use super::*;

    #[test]
    fn prints_bytes_and_dates() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(5 << 30), "5.0 GiB");
        assert_eq!(date(UnixMillis(1_793_491_200_000)), "2026-11-01T00:00:00Z");
    }
}
