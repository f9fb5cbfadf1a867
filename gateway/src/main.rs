//! The one binary.

use std::process::ExitCode;

use clap::Parser;

/// A message costs a fifth less CPU than with the C library's, and what a burst has taken goes back to the system within
/// seconds (docs/decisions/0008-allocator.md).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    fieldgate::cli::main(fieldgate::cli::Cli::parse())
}
