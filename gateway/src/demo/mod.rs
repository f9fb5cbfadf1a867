//! `fieldgate demo`: the main job, with simulated devices and a stand-in cloud, in one process.
//!
//! A gateway with a new CA in a temporary folder; a Modbus TCP device and an OPC UA server, simulated; a leaf device
//! that connects over mTLS with a certificate from that CA; rumqttd as the cloud, watched by an MQTT 5 observer;
//! a TCP relay between the two that is cut for some seconds and mended. Then a command to each device.
//!
//! Every device sends a counter. What arrived is judged at the cloud's end, from what the observer received.
//!
//! - `plant`: the devices. `cloud`: rumqttd and its observer. `relay`: the line between.
//! - `story`: what happens when. `verdict`: what came of it.

mod cloud;
mod plant;
pub mod relay;
mod screen;
mod story;
mod verdict;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use fieldgate_types::{SystemClock, duration};

/// Arguments of `fieldgate demo`.
#[derive(Debug, Clone, Copy, Args)]
pub struct DemoArgs {
    /// How long it takes, from 15s
    #[arg(long = "for", value_name = "DURATION", default_value = "30s", value_parser = at_least_15s)]
    duration: Duration,
    /// One JSON document on standard output at the end
    #[arg(long)]
    json: bool,
}

fn at_least_15s(text: &str) -> Result<Duration, String> {
    let duration = duration::parse(text).map_err(|error| error.to_string())?;
    if duration < Duration::from_secs(15) || duration > Duration::from_secs(3600) {
        return Err(format!("`{text}` is out of range, 15s to 1h is allowed"));
    }
    Ok(duration)
}

/// Runs the demo; fails when anything was lost or out of order, or a command was not answered `ok`.
pub fn main(args: DemoArgs) -> anyhow::Result<ExitCode> {
    crate::log::init_quiet();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let folder =
        tempfile::Builder::new().prefix("fieldgate-demo-").tempdir().context("can't make a temporary folder")?;
    let verdict = runtime.block_on(story::tell(args, folder.path(), Arc::new(SystemClock::new())))?;
    // rumqttd has no way to stop; its threads end with the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    if args.json {
        println!("{}", serde_json::to_string_pretty(&verdict)?);
    } else {
        print!("{}", screen::table(&verdict));
    }
    Ok(if verdict.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
