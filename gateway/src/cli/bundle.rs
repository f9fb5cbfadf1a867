//! `fieldgate bundle`: what somebody who helps needs to see, in one tar file, and no secret.
//!
//! What goes in is listed here, file by file; nothing is copied from the data directory. The configuration goes in as it was
//! understood (JSON, so without comments), with credentials in URLs taken out; of files that it names their names, sizes and
//! modes go in, and never their contents. What can't be had is said in its place.

use std::fmt::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context;
use fieldgate_certs::durable::{self, Existing};
use fieldgate_types::{Clock, SystemClock};
use serde_json::{Value, json};

use super::client::Client;
use super::diag;
use super::show::{bytes, date, print_json};
use crate::audit;
use crate::config::{Config, load};

/// Lines of the audit log, and of the journal.
const LINES: usize = 5_000;
/// The unit that the package installs.
const UNIT: &str = "fieldgate.service";

/// What is asked of a running gateway, and the name that it gets.
const ASKED: [(&str, &str); 8] = [
    ("/api/v1/status", "status.json"),
    ("/api/v1/buffer", "buffer.json"),
    ("/api/v1/buffer/quarantine", "quarantine.json"),
    ("/api/v1/devices", "devices.json"),
    ("/api/v1/points", "points.json"),
    ("/api/v1/ca", "ca.json"),
    ("/api/v1/tokens", "tokens.json"),
    ("/metrics", "metrics.txt"),
];

/// Writes it, for its owner alone.
pub async fn bundle(path: &Path, out: Option<PathBuf>, json: bool) -> anyhow::Result<ExitCode> {
    let now = SystemClock::new().now();
    let mut bundle = Bundle::default();
    bundle.text("versions.txt", versions());
    bundle.text("configuration.json", configuration(path));
    let report = diag::report(path).await;
    bundle.text("diag.txt", report.text());
    bundle.json("diag.json", &serde_json::to_value(&report)?);
    if let Ok(config) = load(path) {
        bundle.text("files.txt", files(&config));
        for (route, name) in ASKED {
            bundle.text(name, asked(&config, route).await);
        }
        bundle.text("audit.jsonl", audit_lines(&config));
        bundle.json("audit-verified.json", &verified(&config).await);
    }
    bundle.text("journal.txt", journal());

    let out = out.unwrap_or_else(|| PathBuf::from(format!("fieldgate-bundle-{}.tar", date(now).replace(':', ""))));
    let (count, whole) = (bundle.0.len(), bundle.tar(now.as_secs())?);
    durable::write(&out, &whole, 0o600, Existing::Keep).with_context(|| format!("can't write `{}`", out.display()))?;
    if json {
        print_json(&json!({ "file": out, "bytes": whole.len(), "entries": count }))?;
    } else {
        println!("{}: {count} files, {}; no key, password or token is in it", out.display(), bytes(whole.len() as u64));
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Default)]
struct Bundle(Vec<(&'static str, Vec<u8>)>);

impl Bundle {
    fn text(&mut self, name: &'static str, text: String) {
        self.0.push((name, text.into_bytes()));
    }

    fn json(&mut self, name: &'static str, value: &Value) {
        self.text(name, format!("{value:#}\n"));
    }

    fn tar(&self, time: u64) -> anyhow::Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, bytes) in &self.0 {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(time);
            tar.append_data(&mut header, format!("fieldgate-bundle/{name}"), bytes.as_slice())?;
        }
        Ok(tar.into_inner()?)
    }
}

/// Of the program, the system, and what it may take.
fn versions() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_else(|error| format!("{path}: {error}\n"));
    let system = rustix::system::uname();
    let mut text = format!(
        "fieldgate {}\n{} {} {}\n\n",
        env!("CARGO_PKG_VERSION"),
        system.sysname().to_string_lossy(),
        system.release().to_string_lossy(),
        system.machine().to_string_lossy()
    );
    for path in
        ["/etc/os-release", "/proc/uptime", "/proc/loadavg", "/proc/meminfo", "/proc/self/limits", "/proc/mounts"]
    {
        text.push_str("== ");
        text.push_str(path);
        text.push('\n');
        text.push_str(&read(path));
        text.push('\n');
    }
    text
}

/// As it was understood, without comments, credentials taken out of URLs. One that can't be read is not shown: it may be
/// anything.
fn configuration(path: &Path) -> String {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return format!("can't read `{}`: {error}\n", path.display()),
    };
    match text.parse::<toml::Table>() {
        Ok(table) => {
            let mut value = serde_json::to_value(table).unwrap_or(Value::Null);
            conceal(&mut value, "");
            format!("{value:#}\n")
        }
        Err(error) => format!("the configuration is no TOML: {}\n", error.message()),
    }
}

/// Secrets are in files of their own; should one have been written into the configuration all the same, it goes no further.
fn conceal(value: &mut Value, key: &str) {
    match value {
        Value::String(text) => {
            let words = ["password", "secret", "token", "passphrase", "credential"];
            let secret = words.iter().any(|word| key.contains(word)) && !key.ends_with("_file");
            if secret || text.contains("-----BEGIN") {
                "(concealed)".clone_into(text);
            } else if let Some(shown) = without_credentials(text) {
                *text = shown;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| conceal(item, key)),
        Value::Object(table) => table.iter_mut().for_each(|(key, value)| conceal(value, &key.to_lowercase())),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// `mqtts://user:password@host` without what stands before the `@`; and without a query that names a secret.
fn without_credentials(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at_checked(end)?;
    let (_, host) = authority.rsplit_once('@')?;
    Some(format!("{scheme}://(concealed)@{host}{tail}"))
}

/// Names, sizes and modes: of what the configuration names, and of what lies in the data directory.
fn files(config: &Config) -> String {
    let mut text = String::new();
    let mut folders = vec![config.data_dir.clone()];
    let mut all: Vec<PathBuf> = config.files.iter().cloned().collect();
    while let Some(folder) = folders.pop() {
        all.push(folder.clone());
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.is_dir() { folders.push(path) } else { all.push(path) }
        }
    }
    all.sort();
    for path in all {
        let line = match std::fs::symlink_metadata(&path) {
            Ok(found) => {
                let mode = found.permissions().mode() & 0o7777;
                format!("{mode:04o} {}:{} {:>12} {}", found.uid(), found.gid(), found.len(), path.display())
            }
            Err(error) => format!("{error}: {}", path.display()),
        };
        // Writing to a String can't fail.
        let _infallible = writeln!(text, "{line}").is_ok();
    }
    text
}

async fn asked(config: &Config, route: &str) -> String {
    let text = async { Client::required(&config.data_dir).await?.get_text(route).await };
    text.await.unwrap_or_else(|error| format!("{error:#}\n"))
}

fn audit_lines(config: &Config) -> String {
    match audit::tail(&config.data_dir.join("audit"), LINES) {
        Ok(lines) => lines.join("\n") + "\n",
        Err(error) => format!("{error}\n"),
    }
}

/// Against the end that the running gateway, or state.db, knows.
async fn verified(config: &Config) -> Value {
    let verdict = async {
        let end = super::audit::end(config).await?;
        anyhow::Ok(serde_json::to_value(audit::verify(&config.data_dir.join("audit"), end)?)?)
    };
    verdict.await.unwrap_or_else(|error| json!({ "error": format!("{error:#}") }))
}

/// The service's last lines, where systemd keeps them and this user may see them.
fn journal() -> String {
    let lines = LINES.to_string();
    let arguments = ["--no-pager", "--output", "short-iso", "--unit", UNIT, "--lines", lines.as_str()];
    match Command::new("journalctl").args(arguments).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
        Ok(output) => format!("journalctl: {}\n", String::from_utf8_lossy(&output.stderr).trim()),
        Err(error) => format!("journalctl: {error}; the log is where standard error of `fieldgate run` goes\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_that_were_written_into_the_configuration_are_concealed() {
        let mut value = json!({
            "upstream": { "url": "mqtts://me:canary@cloud.example:8883", "password": "canary", "password_file": "p" },
            "opcua": [{ "endpoint": "opc.tcp://canary:canary@192.0.2.1:4840/path?x=1", "auth": { "password": "canary" } }],
            "upstream2": { "key": "-----BEGIN PRIVATE KEY-----canary" },
            "list": { "tokens": ["canary"] }
        });
        conceal(&mut value, "");
        let text = value.to_string();
        assert!(!text.contains("canary"), "{text}");
        for kept in ["mqtts://(concealed)@cloud.example:8883", "@192.0.2.1:4840/path?x=1", "\"password_file\":\"p\""] {
            assert!(text.contains(kept), "{text}");
        }
        assert_eq!(without_credentials("tcp://192.0.2.1:502"), None);
    }
}
