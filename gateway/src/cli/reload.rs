//! `fieldgate reload`: the running gateway reads its configuration anew.

use std::process::ExitCode;

use super::BAD_CONFIGURATION;
use super::client::Client;
use super::show::print_json;
use crate::admin::api::AskReload;
use crate::config::plan::Change;
use crate::config::{LoadError, data_dir_of};
use crate::reload::Report;

/// Reloads, or with `plan` says what a reload would do.
pub async fn reload(path: &std::path::Path, plan: bool, json: bool) -> anyhow::Result<ExitCode> {
    // The file may be broken, which is for the gateway to say.
    let data_dir = match data_dir_of(path) {
        Ok(data_dir) => data_dir,
        Err(error @ (LoadError::Read { .. } | LoadError::Problems(_))) => {
            eprintln!("fieldgate: {error}");
            return Ok(ExitCode::from(BAD_CONFIGURATION));
        }
    };
    let report: Report = Client::required(&data_dir).await?.post_either("/api/v1/reload", &AskReload { plan }).await?;
    if json {
        print_json(&report)?;
    } else {
        print(&report, plan);
    }
    Ok(match (report.ok, report.problems.is_empty()) {
        (true, _) => ExitCode::SUCCESS,
        (false, true) => ExitCode::FAILURE,
        (false, false) => ExitCode::from(BAD_CONFIGURATION),
    })
}

fn print(report: &Report, plan: bool) {
    for problem in &report.problems {
        eprintln!("{problem}");
    }
    if let Some(error) = &report.error {
        eprintln!("fieldgate: nothing was changed: {error}");
        return;
    }
    let (kept, changes): (Vec<_>, Vec<_>) = report.steps.iter().partition(|step| step.change == Change::Kept);
    for step in &changes {
        println!("{step}");
    }
    let waits = changes.iter().filter(|step| step.change == Change::Waits).count();
    let kept = kept.len();
    match (changes.is_empty(), plan) {
        (true, _) => println!("nothing changes, {kept} parts go on untouched"),
        (false, true) => println!("{} changes, {kept} parts would go on untouched", changes.len()),
        (false, false) => println!("{} changes done, {kept} parts went on untouched", changes.len() - waits),
    }
    if waits > 0 {
        println!(
            "what waits needs a start of the process: `systemctl restart fieldgate`, or stop it and `fieldgate run`"
        );
    }
}
