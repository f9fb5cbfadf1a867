//! `fieldgate backup` and `fieldgate restore`

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use fieldgate_certs::durable::{self, Existing};
use fieldgate_types::{Clock, SystemClock};

use super::client::Client;
use super::offline::offline;
use super::passphrase::{Passphrase, passphrase};
use super::show::{bytes, date, print_json};
use super::{BackupArgs, RestoreArgs};
use crate::admin::api::StateSnapshot;
use crate::backup::{self, Collected, Settings, Snapshot};
use crate::config::{Config, LoadError, load};

/// No archive is larger; beyond that it is another file.
const LARGEST: u64 = 512 << 20;

/// Writes the archive.
pub async fn backup(config: &Config, file: &Path, args: BackupArgs) -> anyhow::Result<ExitCode> {
    let out = &args.file;
    // Before anything is asked; it is seen to again when the file is written.
    if !args.force && out.try_exists()? {
        bail!("`{}` exists already; name another file, or replace it with --force", out.display());
    }
    let passphrase = passphrase(args.passphrase_file.as_deref(), Passphrase::New)?;
    let settings = Settings { file, audit: args.with_audit, now: SystemClock::new().now() };
    let Collected { archive, warnings } = if let Some(client) = Client::connect(&config.data_dir).await? {
        say("asking the gateway for its state");
        let StateSnapshot { gateway, boot, state } = client.post("/api/v1/backup", &()).await?;
        let state = BASE64_STANDARD.decode(state).context("the gateway's answer can't be understood")?;
        backup::collect(config, Snapshot { gateway, boot, state }, settings)?
    } else {
        let state = config.data_dir.join("state.db");
        if !state.exists() && !backup::unsettled(&config.data_dir) {
            bail!("there is nothing to back up: `{}` is not there", state.display());
        }
        offline(config, |authority| Ok(backup::collect(config, authority.snapshot()?, settings)?))?
    };
    say("encrypting");
    let sealed = backup::seal(&archive, &passphrase)?;
    say("reading it back");
    if backup::open(&sealed, &passphrase)? != archive {
        bail!("the backup is not what went into it; nothing was written");
    }
    let existing = if args.force { Existing::Replace } else { Existing::Keep };
    durable::write(out, &sealed, 0o600, existing).with_context(|| format!("can't write `{}`", out.display()))?;

    let manifest = &archive.manifest;
    for warning in &warnings {
        eprintln!("fieldgate: warning: {warning}");
    }
    if args.json.json {
        let size = sealed.len();
        print_json(&serde_json::json!({ "file": out, "bytes": size, "manifest": manifest, "warnings": warnings }))?;
    } else {
        let (gateway, count, size) = (&manifest.gateway, manifest.files.len(), bytes(sealed.len() as u64));
        println!("backup of {gateway}: {count} files, {size}, in {}", out.display());
        println!("without its passphrase nobody can restore it; keep both, apart from each other");
    }
    Ok(ExitCode::SUCCESS)
}

/// Puts an archive in place.
pub fn restore(file: &Path, args: &RestoreArgs) -> anyhow::Result<ExitCode> {
    let from = &args.file;
    let reading = || format!("can't read `{}`", from.display());
    let mut sealed = Vec::new();
    std::fs::File::open(from).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut sealed)).with_context(reading)?;
    if sealed.len() as u64 > LARGEST {
        bail!("`{}` is too large for a backup", from.display());
    }
    let passphrase = passphrase(args.passphrase_file.as_deref(), Passphrase::Known)?;
    say("decrypting and checking");
    let archive = backup::open(&sealed, &passphrase)
        .with_context(|| format!("`{}` can't be restored; nothing was changed", from.display()))?;
    say("putting it in place");
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let restored =
        backup::restore(&archive, file, &clock).with_context(|| format!("`{}` is not restored", from.display()))?;

    if args.json.json {
        print_json(&restored)?;
    } else {
        let (gateway, taken) = (&restored.gateway, date(restored.taken));
        println!("{gateway} is restored as it was at {taken}, in {}", restored.data_dir.display());
        println!("its queue is empty; messages are numbered from boot {} on", restored.boot + 1);
    }
    for (here, there) in &restored.outside {
        eprintln!("fieldgate: `{}` came from outside: it belongs to `{}`", here.display(), there.display());
    }
    eprintln!(
        "fieldgate: warning: there must never be two of this gateway: make sure that the one that was backed up does not run any more"
    );
    if let Err(error) = load(&restored.configuration) {
        if let LoadError::Problems(problems) = &error {
            for problem in problems {
                eprintln!("{problem}");
            }
        }
        eprintln!("fieldgate: warning: {error}; see to it before the gateway is started");
    }
    Ok(ExitCode::SUCCESS)
}

/// What is being done, for who waits at a terminal.
fn say(what: &str) {
    if std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        eprintln!("fieldgate: {what} …");
    }
}
