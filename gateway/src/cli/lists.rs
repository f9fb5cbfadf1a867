//! `fieldgate point import | export`: lists of Modbus points as CSV.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use fieldgate_modbus::list;
use fieldgate_types::DeviceId;

use super::BAD_CONFIGURATION;
use crate::config::Config;

/// CSV to `[[point]]` tables, or everything that is wrong with it.
pub fn import(file: &Path, out: Option<&Path>) -> anyhow::Result<ExitCode> {
    let name = file.display().to_string();
    let csv = std::fs::read_to_string(file).with_context(|| format!("can't read `{name}`"))?;
    match list::to_toml(&name, &csv) {
        Ok(toml) => give(&toml, out),
        Err(problems) => {
            for problem in &problems {
                eprintln!("{problem}");
            }
            eprintln!("fieldgate: nothing was imported");
            Ok(ExitCode::from(BAD_CONFIGURATION))
        }
    }
}

/// The points of a device as CSV.
pub fn export(config: &Config, device: &DeviceId, out: Option<&Path>) -> anyhow::Result<ExitCode> {
    let devices = config.modbus.iter().flat_map(|link| &link.devices);
    let found = devices.into_iter().find(|one| one.id == *device);
    let found = found.with_context(|| format!("`{device}` is not a Modbus device; `fieldgate plan` shows them"))?;
    give(&list::to_csv(found), out)
}

/// Writes to a file, or standard output.
pub fn give(text: &str, out: Option<&Path>) -> anyhow::Result<ExitCode> {
    match out {
        Some(path) => std::fs::write(path, text).with_context(|| format!("can't write `{}`", path.display()))?,
        None => print!("{text}"),
    }
    Ok(ExitCode::SUCCESS)
}
