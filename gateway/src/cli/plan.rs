//! `fieldgate plan`: what is asked of each Modbus link, and how much of its time that takes.

use std::process::ExitCode;

use super::show::print_json;
use crate::config::Config;

/// Each request, its bytes, and the load of the bus.
pub fn plan(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let plans: Vec<_> = config.modbus.iter().map(fieldgate_modbus::ModbusConfig::plan).collect();
    if json {
        print_json(&plans)?;
        return Ok(ExitCode::SUCCESS);
    }
    for plan in &plans {
        println!("{}", plan.link);
        println!(
            "  {:<24} {:>4} {:>9} {:>2} {:<16} {:>5} {:>6} {:>5} {:>5} {:>9}",
            "DEVICE", "UNIT", "INTERVAL", "FC", "FROM", "COUNT", "POINTS", "OUT", "BACK", "BUS"
        );
        for r in &plan.requests {
            println!(
                "  {:<24} {:>4} {:>6} ms {:>2} {:<16} {:>5} {:>6} {:>3} B {:>3} B {:>9}",
                r.device,
                r.unit,
                r.interval_ms,
                r.function,
                r.at,
                r.count,
                r.points.len(),
                r.request_bytes,
                r.answer_bytes,
                time(plan.timed, r.bus_us)
            );
        }
        for cycle in &plan.cycles {
            let (interval, requests, bytes) = (cycle.interval_ms, cycle.requests, cycle.bytes);
            let time = time(plan.timed, cycle.bus_us);
            println!("  every {interval} ms: {requests} requests, {bytes} B, {time}, {:.1} %", cycle.load_percent);
        }
        if plan.timed {
            println!("  load of the bus: {:.1} %", plan.load_percent);
        } else {
            println!("  load: {:.1} % for pauses; the round trip over the network is not known", plan.load_percent);
        }
    }
    if plans.is_empty() {
        println!("there is no [[modbus]] link in the configuration");
    }
    Ok(ExitCode::SUCCESS)
}

fn time(timed: bool, us: u128) -> String {
    if timed { format!("{}.{} ms", us / 1_000, us % 1_000 / 100) } else { "?".to_owned() }
}
