//! Verbs that only show: `buffer status`; and how dates, sizes and JSON are printed.

use std::process::ExitCode;

use serde::Serialize;

use super::client::Client;
use crate::config::Config;
pub use crate::moment::{bytes, date};

/// One JSON document on standard output.
pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
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
