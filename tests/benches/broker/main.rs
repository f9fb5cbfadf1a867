//! The embedded broker under load, beside mosquitto and rumqttd: each starts here, each gets the same load from the
//! same clients, in turns. See `tests/README.md` for the commands.

mod batch;
mod drain;
mod half_open;
mod identities;
mod idle;
mod latency;
mod line;
mod load;
mod peers;
#[path = "../process.rs"]
mod process;
mod reconnect;
#[path = "../report.rs"]
mod report;
mod settings;
mod site;
mod throughput;
mod upstream;
mod wire;

use std::process::ExitCode;

use clap::Parser;
use report::Report;
use settings::{Bench, Settings};

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, flag, v311, v5] = arguments.as_slice()
        && flag == "--rumqttd"
    {
        peers::serve_rumqttd(v311, v5)?;
        return Ok(ExitCode::SUCCESS);
    }
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
    if settings.wants(Bench::Local) {
        for settings in settings.transports() {
            throughput::local(&settings, &mut report).await?;
        }
    }
    if settings.wants(Bench::FanOut) {
        for settings in settings.transports() {
            throughput::fan_out(&settings, &mut report).await?;
        }
    }
    if settings.wants(Bench::UpstreamBound) {
        for settings in settings.transports() {
            upstream::bound(&settings, &mut report).await?;
        }
    }
    if settings.wants(Bench::Bridge) {
        for settings in settings.transports() {
            upstream::bridge(&settings, upstream::SINGLY, &mut report).await?;
        }
    }
    if settings.wants(Bench::Batch) {
        for settings in settings.transports() {
            upstream::bridge(&settings, upstream::BATCHED, &mut report).await?;
            batch::bytes(&settings, &mut report).await?;
        }
    }
    if settings.wants(Bench::Drain) {
        for settings in settings.transports() {
            drain::drain(&settings, upstream::SINGLY, &mut report).await?;
        }
    }
    if settings.wants(Bench::DrainBatch) {
        for settings in settings.transports() {
            drain::drain(&settings, upstream::BATCHED, &mut report).await?;
        }
    }
    if settings.wants(Bench::Latency) {
        for settings in settings.transports() {
            latency::latency(&settings, &mut report).await?;
        }
    }
    if settings.wants(Bench::Far) {
        for settings in settings.transports() {
            upstream::bridge(&settings, upstream::FAR, &mut report).await?;
            upstream::bridge(&settings, upstream::FAR_BATCHED, &mut report).await?;
        }
    }
    if settings.wants(Bench::Idle) {
        idle::idle(settings, &mut report).await?;
    }
    if settings.wants(Bench::Reconnect) {
        reconnect::reconnect(settings, &mut report).await?;
    }
    if settings.wants(Bench::HalfOpen) {
        half_open::half_open(settings, &mut report).await?;
    }
    println!("machine: {}", report::machine());
    if let Some(path) = &settings.json {
        report.write(path)?;
    }
    Ok(if report.failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
