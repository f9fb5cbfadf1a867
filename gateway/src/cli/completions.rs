//! `fieldgate completions SHELL`, and the man pages: both made of the command line as it is.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use super::Cli;

/// The script for `shell`, on standard output.
pub fn script(shell: Shell) -> ExitCode {
    clap_complete::generate(shell, &mut Cli::command(), "fieldgate", &mut std::io::stdout());
    ExitCode::SUCCESS
}

/// A page for each verb, into `folder`.
pub fn pages(folder: &Path) -> anyhow::Result<ExitCode> {
    let written = clap_mangen::generate_to(Cli::command(), folder);
    written.with_context(|| format!("can't write man pages to `{}`", folder.display()))?;
    Ok(ExitCode::SUCCESS)
}
