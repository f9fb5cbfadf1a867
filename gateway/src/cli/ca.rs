//! `fieldgate ca …`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use fieldgate_certs::AuthorityInfo;

use super::client::Client;
use super::offline::offline;
use super::show::{date, print_json};
use crate::config::Config;

/// The CA certificates.
pub async fn show(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let authorities: Vec<AuthorityInfo> = match Client::connect(&config.data_dir).await? {
        Some(client) => client.get("/api/v1/ca").await?,
        None => offline(config, |authority| Ok(authority.ca.authorities()))?,
    };
    if json {
        print_json(&authorities)?;
        return Ok(ExitCode::SUCCESS);
    }
    for ca in authorities {
        println!("{:?} CA {}: {} to {}", ca.kind, ca.subject, date(ca.not_before), date(ca.not_after));
        println!("  serial {}, key {}", ca.serial, if ca.key_present { "present" } else { "not here" });
        println!("  SHA-256 {}", ca.fingerprint);
    }
    Ok(ExitCode::SUCCESS)
}

/// The trust bundle.
pub async fn export(config: &Config, out: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let bundle = match Client::connect(&config.data_dir).await? {
        Some(client) => client.get_text("/api/v1/ca/bundle").await?,
        None => offline(config, |authority| Ok(authority.ca.trust_bundle_pem()))?,
    };
    match out {
        None => print!("{bundle}"),
        Some(path) => std::fs::write(&path, bundle).with_context(|| format!("can't write `{}`", path.display()))?,
    }
    Ok(ExitCode::SUCCESS)
}
