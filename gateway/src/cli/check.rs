//! `fieldgate check`: every problem of the configuration, and with `--probe` of what it leads to.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::BAD_CONFIGURATION;
use super::show::print_json;
use crate::config::{Config, LoadError, load};
use crate::probe::{self, Finding};

/// Reports every problem of the configuration; with `probe`, tries what can be tried without effect.
pub fn check(path: &Path, probe: bool, as_json: bool) -> anyhow::Result<ExitCode> {
    let config = match load(path) {
        Ok(config) => config,
        Err(LoadError::Problems(problems)) => {
            if as_json {
                print_json(&json!({ "ok": false, "problems": problems }))?;
            } else {
                for problem in &problems {
                    eprintln!("{problem}");
                }
                eprintln!("fieldgate: {}", LoadError::Problems(problems));
            }
            return Ok(ExitCode::from(BAD_CONFIGURATION));
        }
        Err(error @ LoadError::Read { .. }) => {
            if as_json {
                print_json(&json!({ "ok": false, "error": error.to_string(), "problems": [] }))?;
            } else {
                eprintln!("fieldgate: {error}");
            }
            return Ok(ExitCode::from(BAD_CONFIGURATION));
        }
    };
    if probe {
        return probed(path, config, as_json);
    }
    if as_json {
        print_json(&json!({ "ok": true, "problems": [] }))?;
    } else {
        println!("{}: no problems", path.display());
        let devices = config.opcua.iter().flat_map(|session| &session.devices);
        for (device, subtree) in devices.flat_map(|device| device.subtrees.iter().map(|one| (&device.id, &one.node))) {
            println!(
                "`{device}`: the points below `{subtree}` are found when the server is browsed, and not checked here"
            );
        }
        if let Some(words) = probe::few_files(&config) {
            eprintln!("fieldgate: warning: {words}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn probed(path: &Path, config: Config, as_json: bool) -> anyhow::Result<ExitCode> {
    let findings = super::runtime()?.block_on(probe::probe(config));
    let of = |wanted: probe::Grade| findings.iter().filter(move |finding| finding.grade == wanted).count();
    let (errors, warnings) = (of(probe::Grade::Error), of(probe::Grade::Warning));
    if as_json {
        print_json(&json!({ "ok": errors == 0, "problems": [], "findings": findings }))?;
    } else {
        println!("{}: no problems in the file", path.display());
        for Finding { grade, key, what, words } in &findings {
            println!("{grade:<8} {key} {what}: {words}");
        }
        println!("{} things tried, {errors} errors, {warnings} warnings", findings.len());
    }
    Ok(if errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
