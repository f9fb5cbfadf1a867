//! `fieldgate ca …`

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use fieldgate_certs::AuthorityInfo;

use super::client::Client;
use super::offline::offline;
use super::show::{date, print_json};
use crate::admin::api::{RootKey, RotateCa};
use crate::config::Config;
use crate::identity::CaReport;

/// The CA certificates, their generations and what is due.
pub async fn show(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let report: CaReport = match Client::connect(&config.data_dir).await? {
        Some(client) => client.get("/api/v1/ca").await?,
        None => offline(config, |authority| Ok(authority.report()))?,
    };
    if json {
        print_json(&report)?;
        return Ok(ExitCode::SUCCESS);
    }
    for ca in &report.authorities {
        let (kind, generation) = (ca.kind.as_str(), ca.generation);
        println!("{kind} CA {generation}, {}: {} to {}", ca.subject, date(ca.not_before), date(ca.not_after));
        println!("  serial {}, key {}", ca.serial, if ca.key_present { "present" } else { "not here" });
        println!("  SHA-256 {}", ca.fingerprint);
        if let Some(revoked) = ca.revoked {
            println!("  revoked {}", date(revoked));
        }
    }
    match report.rotation_due {
        Some(due) => println!("the next issuing CA is due {}", date(due)),
        None => println!("no further issuing CA is due"),
    }
    report.alarms.iter().for_each(|alarm| println!("PROBLEM   {alarm}"));
    Ok(ExitCode::SUCCESS)
}

/// Makes the next issuing CA.
pub async fn rotate(config: &Config, root_key: Option<PathBuf>, json: bool) -> anyhow::Result<ExitCode> {
    let root_key = match root_key {
        None => None,
        Some(path) => Some(std::fs::read_to_string(&path).with_context(|| format!("can't read `{}`", path.display()))?),
    };
    let made: AuthorityInfo = match Client::connect(&config.data_dir).await? {
        Some(client) => client.post("/api/v1/ca/rotate", &RotateCa { root_key }).await?,
        None => offline(config, |authority| Ok(authority.rotate(root_key.as_ref().map(String::as_bytes))?))?,
    };
    if json {
        print_json(&made)?;
        return Ok(ExitCode::SUCCESS);
    }
    println!("issuing CA {} made, {} to {}", made.generation, date(made.not_before), date(made.not_after));
    Ok(ExitCode::SUCCESS)
}

/// Gives the root key away, to a file or to standard output, and then removes it.
pub async fn remove_root_key(config: &Config, out: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let connect = async || Client::connect(&config.data_dir).await;
    let key = match connect().await? {
        Some(client) => client.post::<RootKey>("/api/v1/ca/root-key/export", &()).await?.key,
        None => offline(config, |authority| Ok(authority.export_root_key()?.expose().to_owned()))?,
    };
    // It must be in good hands before it is gone here.
    match &out {
        None => {
            let mut standard = std::io::stdout().lock();
            standard
                .write_all(key.as_bytes())
                .and_then(|()| standard.flush())
                .context("the root key was not removed")?;
        }
        Some(path) => write_key(path, &key)
            .with_context(|| format!("can't write `{}`; the root key was not removed", path.display()))?,
    }
    match connect().await? {
        Some(client) => client.post::<()>("/api/v1/ca/root-key/remove", &()).await?,
        None => offline(config, |authority| Ok(authority.remove_root_key()?))?,
    }
    eprintln!(
        "fieldgate: the root key is not here any more; `fieldgate ca rotate --root-key FILE` takes it for the next CA"
    );
    Ok(ExitCode::SUCCESS)
}

/// A new file for its owner alone, on disk when this returns.
fn write_key(path: &Path, key: &str) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(key.as_bytes())?;
    file.sync_all()?;
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    std::fs::File::open(folder)?.sync_all()
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
