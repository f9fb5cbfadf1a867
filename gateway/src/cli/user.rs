//! `fieldgate user hash`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use fieldgate_certs::durable::{self, Existing};

use super::passphrase::password;
use crate::identity::password::PasswordHash;

/// Reads a password and writes its hash, for `password_hash_file`.
pub fn hash(out: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let password = password()?;
    let hash = PasswordHash::make(password.as_bytes())?.expose();
    match out {
        None => println!("{hash}"),
        Some(path) => write(&path, &hash).with_context(|| format!("can't write `{}`", path.display()))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Whole or not at all, for its owner alone.
fn write(path: &Path, hash: &str) -> anyhow::Result<()> {
    Ok(durable::write(path, format!("{hash}\n").as_bytes(), 0o600, Existing::Replace)?)
}
