//! The field side under load, through the gateway's binary: how fast one Modbus link reads, what 100,000 points cost, how
//! long writes take meanwhile. See `tests/README.md` for the commands.

#![expect(
    clippy::indexing_slicing,
    reason = "of frames and documents that the bench itself brought about: a panic ends it"
)]

mod device;
mod plant;
#[path = "../process.rs"]
#[expect(dead_code, reason = "the other bench uses the rest")]
mod process;
mod reads;
#[path = "../report.rs"]
#[expect(dead_code, reason = "the other bench uses the rest")]
mod report;
mod scrape;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use report::Report;

/// One figure or a family of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bench {
    /// Registers read on one connection to a libmodbus server, beside a bare loop of tokio-modbus calls.
    Reads,
    /// 100,000 points at 1 s over 10 devices, a tenth of them changing; then 1,000 writes from upstream on top.
    Plant,
}

/// The field side under load. Prints figures, medians and goals of one run.
#[derive(Debug, Clone, Parser)]
#[command(name = "field")]
struct Settings {
    /// What to measure; everything when none is named.
    benches: Vec<Bench>,
    /// Rounds of each measurement; where there is a peer, both take turns.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of load in a round.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// A small run that checks that the benches work; its figures mean nothing.
    #[arg(long)]
    short: bool,
    /// Also writes the report as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The gateway's binary; default: the one that cargo built with this bench.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Cargo passes it to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Settings {
    fn binary(&self) -> &Path {
        self.binary.as_deref().unwrap_or(Path::new(env!("CARGO_BIN_EXE_fieldgate")))
    }

    fn wants(&self, bench: Bench) -> bool {
        self.benches.is_empty() || self.benches.contains(&bench)
    }

    fn rounds(&self) -> usize {
        if self.short { 1 } else { self.rounds.max(1) }
    }

    fn load_time(&self) -> Duration {
        if self.short { Duration::from_millis(500) } else { Duration::from_secs_f64(self.seconds) }
    }

    /// `full`, or what a short run does instead.
    fn size(&self, full: usize, short: usize) -> usize {
        if self.short { short } else { full }
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let settings = Settings::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(&settings))
}

async fn run(settings: &Settings) -> anyhow::Result<ExitCode> {
    println!("machine: {}", report::machine());
    println!("gateway: {}", settings.binary().display());
    let mut report = Report::default();
    if settings.short {
        report.note("a short run: it shows that everything works, its figures mean nothing");
    }
    if settings.wants(Bench::Reads) {
        reads::reads(settings, &mut report).await?;
    }
    if settings.wants(Bench::Plant) {
        plant::plant(settings, &mut report).await?;
    }
    println!("machine: {}", report::machine());
    if let Some(path) = &settings.json {
        report.write(path)?;
    }
    Ok(if report.failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
