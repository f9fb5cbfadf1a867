//! `fieldgate status`

use std::fmt::Write;
use std::process::ExitCode;

use super::client::Client;
use super::screen::{Rounds, with_troubles_in_red};
use super::show::{bytes, date, print_json};
use crate::admin::Status;
use crate::config::Config;

/// How the running gateway is.
pub async fn status(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let status: Status = Client::required(&config.data_dir).await?.get("/api/v1/status").await?;
    if json {
        print_json(&status)?;
    } else {
        print!("{}", with_troubles_in_red(text(&status)));
    }
    Ok(ExitCode::SUCCESS)
}

/// The same, again and again; as JSON a document in each line.
pub async fn watch(config: &Config, rounds: Rounds, json: bool) -> anyhow::Result<ExitCode> {
    let look = async || {
        let status: Status = Client::required(&config.data_dir).await?.get("/api/v1/status").await?;
        let text = with_troubles_in_red(text(&status));
        Ok(if json { serde_json::to_string(&status)? + "\n" } else { text + "\n" })
    };
    rounds.show(json, look).await?;
    Ok(ExitCode::SUCCESS)
}

fn text(status: &Status) -> String {
    let mut out = String::new();
    // Writing to a String can't fail; `Status` is never formatted with an error of its own.
    let _infallible = write(&mut out, status).is_ok();
    out
}

fn write(out: &mut String, status: &Status) -> std::fmt::Result {
    writeln!(out, "gateway   {} (version {}), up since {}", status.gateway, status.version, date(status.started))?;
    match &status.upstream {
        None => writeln!(out, "upstream  none: a local-only gateway")?,
        Some(upstream) => {
            writeln!(
                out,
                "upstream  {} since {}; {} acknowledged, {} on the wire",
                upstream.state,
                date(upstream.since),
                upstream.acknowledged,
                upstream.in_flight
            )?;
        }
    }
    let buffer = &status.buffer;
    let oldest = buffer.oldest.map(|at| format!(", the oldest from {}", date(at))).unwrap_or_default();
    writeln!(
        out,
        "buffer    {} messages, {}{oldest}; file {}",
        buffer.messages,
        bytes(buffer.bytes),
        bytes(buffer.file_bytes)
    )?;
    let broker = &status.broker;
    write!(out, "broker    {} connections on {}", broker.connections, broker.listen.join(", "))?;
    let others =
        [("users over TLS", &broker.users_tls), ("users in plain", &broker.plain), ("WebSocket", &broker.websocket)];
    for (what, addresses) in others.into_iter().filter(|(_, addresses)| !addresses.is_empty()) {
        write!(out, "; {what} on {}", addresses.join(", "))?;
    }
    writeln!(out)?;
    for link in &status.links {
        writeln!(
            out,
            "link      {} ({}) {}; {} answers, {} failures",
            link.link, link.protocol, link.state, link.answers, link.failures
        )?;
        for note in &link.notes {
            writeln!(out, "          {note}")?;
        }
    }
    for device in &status.devices {
        let state = if device.online { "online" } else { "offline" };
        let since = device.since.map(|at| format!(" since {}", date(at))).unwrap_or_default();
        let reason = device.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        writeln!(out, "device    {:<24} {:<8} {state}{since}{reason}", device.id, device.via)?;
    }
    for step in &status.waiting {
        let what = step.what.as_deref().unwrap_or_default();
        writeln!(out, "WAITS     {} {what}: {}", step.key, step.reason)?;
    }
    if status.problems.is_empty() {
        return writeln!(out, "no problems");
    }
    status.problems.iter().try_for_each(|problem| writeln!(out, "PROBLEM   {problem}"))
}
