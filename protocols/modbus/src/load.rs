//! What the poll plan asks of the bus: each request, its bytes and its time, and the share of all time that this takes.
//!
//! On a serial line the time is known from the speed: characters, the silence before the answer and the one after it.
//! Over TCP the round trip is the network's and is not known here: of `pause` alone the least load follows.

use std::time::Duration;

use serde::Serialize;

use crate::address::Table;
use crate::config::{DeviceConfig, Framing, LinkConfig, ModbusConfig};
use crate::plan::Read;

/// The plan of one link.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LinkPlan {
    /// Its URL.
    pub link: String,
    /// Whether the time on the bus is known: a serial line with its speed.
    pub timed: bool,
    /// Every request.
    pub requests: Vec<PlannedRequest>,
    /// The same by interval, the shortest first.
    pub cycles: Vec<CyclePlan>,
    /// Of all time, in percent; over TCP what the pauses alone take.
    pub load_percent: f64,
}

/// One request of the plan.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlannedRequest {
    /// Whom it asks.
    pub device: String,
    /// Its unit.
    pub unit: u8,
    /// How often.
    pub interval_ms: u128,
    /// Function code: 1 to 4.
    pub function: u8,
    /// What it reads, such as `holding:100`.
    pub at: String,
    /// How many registers or bits.
    pub count: u16,
    /// The points that it serves.
    pub points: Vec<String>,
    /// Bytes of the request on the wire, without those of TCP.
    pub request_bytes: usize,
    /// Bytes of its answer.
    pub answer_bytes: usize,
    /// Its time on the bus, silences and pause included, in microseconds; over TCP the pause alone.
    pub bus_us: u128,
}

/// All requests of one interval.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CyclePlan {
    /// How often.
    pub interval_ms: u128,
    /// How many.
    pub requests: usize,
    /// Bytes both ways.
    pub bytes: usize,
    /// Time on the bus, in microseconds.
    pub bus_us: u128,
    /// Share of the bus.
    pub load_percent: f64,
}

impl ModbusConfig {
    /// What its points ask of the bus.
    pub fn plan(&self) -> LinkPlan {
        let requests: Vec<PlannedRequest> = self.devices.iter().flat_map(|device| self.requests(device)).collect();
        let mut intervals: Vec<u128> = requests.iter().map(|request| request.interval_ms).collect();
        intervals.sort_unstable();
        intervals.dedup();
        let cycle = |interval_ms: u128| {
            let own = || requests.iter().filter(|request| request.interval_ms == interval_ms);
            let bus_us = own().map(|request| request.bus_us).sum();
            let bytes = own().map(|request| request.request_bytes + request.answer_bytes).sum();
            CyclePlan {
                interval_ms,
                requests: own().count(),
                bytes,
                bus_us,
                load_percent: percent(bus_us, interval_ms),
            }
        };
        let cycles: Vec<CyclePlan> = intervals.into_iter().map(cycle).collect();
        let load_percent = cycles.iter().map(|cycle| cycle.load_percent).sum();
        let timed = self.link.endpoint.line().is_some();
        LinkPlan { link: self.link.endpoint.to_string(), timed, requests, cycles, load_percent }
    }

    fn requests(&self, device: &DeviceConfig) -> Vec<PlannedRequest> {
        let mut requests = Vec::new();
        for (interval, reads) in device.reads(self.limits) {
            for read in reads {
                let names = read.points.iter().filter_map(|point| device.points.get(*point));
                let (request_bytes, answer_bytes) = sizes(&read, self.link.endpoint.framing());
                requests.push(PlannedRequest {
                    device: device.id.to_string(),
                    unit: device.unit.0,
                    interval_ms: interval.as_millis(),
                    function: function(read.table),
                    at: format!("{}:{}", read.table.word(), read.start),
                    count: read.count,
                    points: names.map(|config| config.point.name.to_string()).collect(),
                    request_bytes,
                    answer_bytes,
                    bus_us: bus(&self.link, request_bytes + answer_bytes).as_micros(),
                });
            }
        }
        requests
    }
}

fn function(table: Table) -> u8 {
    match table {
        Table::Coil => 1,
        Table::Discrete => 2,
        Table::Holding => 3,
        Table::Input => 4,
    }
}

/// Bytes of a request and its answer.
fn sizes(read: &Read, framing: Framing) -> (usize, usize) {
    let data = if read.table.is_bits() { read.count.div_ceil(8) } else { read.count.saturating_mul(2) };
    (5 + framing.overhead(), 2 + usize::from(data) + framing.overhead())
}

fn bus(link: &LinkConfig, bytes: usize) -> Duration {
    match link.endpoint.line() {
        Some(line) => line.time(bytes) + line.gap() + line.gap().max(link.pause),
        None => link.pause,
    }
}

#[allow(clippy::cast_precision_loss)] // Shown to people.
fn percent(bus_us: u128, interval_ms: u128) -> f64 {
    bus_us as f64 / interval_ms.max(1) as f64 / 10.0
}
