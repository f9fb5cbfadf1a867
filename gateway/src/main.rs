//! The one binary.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    fieldgate::cli::main(fieldgate::cli::Cli::parse())
}
