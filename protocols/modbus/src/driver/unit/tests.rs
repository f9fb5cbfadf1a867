//! A unit with a made-up clock and a made-up device: no sockets, no waiting.

use std::collections::BTreeSet;
use std::path::Path;

use fieldgate_types::Sources;
use proptest::collection::vec;
use proptest::prelude::*;
use tokio_modbus::ExceptionCode;

use super::*;
use crate::config::ModbusConfig;
use crate::link::Data;

const NOW: UnixMillis = UnixMillis(1);

/// A device with these registers refused or unanswered; each other holds its address.
#[derive(Default)]
struct Device {
    refused: BTreeSet<u16>,
    mute: BTreeSet<u16>,
    dead: bool,
    busy: bool,
    took: Duration,
}

struct Bench {
    unit: Unit,
    device: Device,
    now: Instant,
    asked: Vec<(u16, u16)>,
    overruns: u64,
}

impl Bench {
    /// Points of one register each, at these addresses and intervals in milliseconds.
    fn new(points: &[(u16, u64)]) -> Self {
        let mut text = String::from("[[modbus]]\nurl = \"tcp://h\"\n[[modbus.device]]\nid = \"d\"\n");
        for (at, interval) in points {
            let point =
                format!("name = \"p{at}\"\nat = \"holding:{at}\"\ntype = \"u16\"\ninterval = \"{interval}ms\"\n");
            text += "[[modbus.device.point]]\n";
            text += &point;
        }
        let sources = Sources::new(Box::new(|_| Err(std::io::Error::other("none"))));
        let root = sources.root("f", Path::new("."), &text);
        let config = root.sections("modbus").first().and_then(ModbusConfig::read).unwrap();
        let now = Instant::now();
        let unit = Unit::new(config.devices[0].clone(), config.limits, now);
        let device = Device { took: Duration::from_millis(1), ..Device::default() };
        Self { unit, device, now, asked: Vec::new(), overruns: 0 }
    }

    /// One request, if one is due.
    fn step(&mut self) -> bool {
        self.overruns += self.unit.tick(self.now, NOW);
        let Some(job) = self.unit.next_job(self.now) else { return false };
        self.asked.push((job.read.start, job.read.count));
        self.now += self.device.took;
        let mut touched = job.read.start..job.read.start + job.read.count;
        if self.device.dead || touched.clone().any(|register| self.device.mute.contains(&register)) {
            let took = Duration::from_secs(1);
            self.now += took;
            let reason = "no answer".to_owned();
            let failure = Failure { reason, quality: Quality::BAD_TIMEOUT, took, others_answer: true };
            self.unit.failed(job, failure, self.now, NOW);
        } else if self.device.busy {
            self.unit.refused(job, ExceptionCode::ServerDeviceBusy, self.now, NOW);
        } else if touched.any(|register| self.device.refused.contains(&register)) {
            self.unit.refused(job, ExceptionCode::IllegalDataAddress, self.now, NOW);
        } else {
            let words = (job.read.start..job.read.start + job.read.count).collect();
            self.unit.answered(job, &Data::Registers(words), self.now, NOW);
        }
        true
    }

    /// Everything that happens in this time.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            if !self.step() {
                self.now = self.unit.wake_at().min(end);
            }
        }
    }

    /// The points of the batches so far, good ones in capitals.
    fn batches(&mut self) -> Vec<Vec<String>> {
        let mut batches = Vec::new();
        for update in self.unit.updates.drain(..) {
            if let Update::Readings { readings, .. } = update {
                let show = |reading: &Reading| {
                    let name = self.unit.device.points[reading.place].point.name.to_string();
                    if reading.value.is_ok() { name.to_uppercase() } else { name }
                };
                batches.push(readings.iter().map(show).collect());
            }
        }
        batches
    }

    fn presences(&self) -> Vec<bool> {
        let presence = |update: &Update| match update {
            Update::Online { .. } => Some(true),
            Update::Offline { .. } => Some(false),
            Update::Points { .. }
            | Update::Samples { .. }
            | Update::Readings { .. }
            | Update::History { .. }
            | Update::Events { .. } => None,
        };
        self.unit.updates.iter().filter_map(presence).collect()
    }
}

#[test]
fn each_interval_keeps_its_rate_and_the_first_batch_holds_all() {
    let mut bench = Bench::new(&[(0, 100), (1, 100), (50, 250)]);
    bench.run(Duration::from_millis(1_010));
    let asked = |start| bench.asked.iter().filter(|(at, _)| *at == start).count();
    assert_eq!((asked(0), asked(50)), (11, 5));
    assert!(bench.asked.iter().all(|(at, count)| *count == if *at == 0 { 2 } else { 1 }));
    let mut first = bench.batches().swap_remove(0);
    first.sort();
    assert_eq!(first, ["P0", "P1", "P50"]);
    assert_eq!(bench.overruns, 0);
}

#[test]
fn a_slow_device_skips_ticks_instead_of_piling_them_up() {
    let mut bench = Bench::new(&[(0, 100)]);
    bench.device.took = Duration::from_millis(250);
    bench.run(Duration::from_secs(10));
    assert!((30..=40).contains(&bench.asked.len()), "{}", bench.asked.len());
    assert!(bench.overruns >= 25, "{}", bench.overruns);
    assert!(bench.unit.queue.len() <= 1);
}

#[test]
fn a_refused_register_is_found_by_halving_and_asked_for_seldom() {
    let points: Vec<(u16, u64)> = (0..64).map(|at| (at, 100)).collect();
    let mut bench = Bench::new(&points);
    bench.device.refused.insert(37);
    bench.run(Duration::from_millis(50));
    // 64 → 32 → 16 → 8 → 4 → 2 → 1: seven refusals and seven good halves.
    let first = bench.batches().swap_remove(0);
    assert_eq!(first.len(), 64);
    assert_eq!(first.iter().filter(|name| name.starts_with('p')).collect::<Vec<_>>(), ["p37"]);
    assert!(bench.asked.len() <= 14, "{:?}", bench.asked);
    bench.asked.clear();
    bench.run(Duration::from_mins(1));
    let alone = bench.asked.iter().filter(|asked| **asked == (37, 1)).count();
    assert!((1..=6).contains(&alone), "{alone} times in a minute");
    // Every batch says that the point is bad: no stale value, no silence.
    assert!(bench.batches().iter().all(|batch| batch.contains(&"p37".to_owned())));
    bench.device.refused.clear();
    bench.run(Duration::from_secs(61));
    bench.asked.clear();
    bench.run(Duration::from_millis(300));
    assert!(bench.asked.iter().all(|asked| *asked == (0, 64)), "whole again: {:?}", bench.asked);
    assert!(bench.batches().pop().is_some_and(|batch| batch.contains(&"P37".to_owned())));
}

#[test]
fn a_device_that_refuses_everything_is_not_torn_apart_for_ever() {
    let points: Vec<(u16, u64)> = (0..100).map(|at| (at, 100)).collect();
    let mut bench = Bench::new(&points);
    bench.device.refused = (0..100).collect();
    bench.run(Duration::from_secs(1));
    bench.asked.clear();
    bench.run(Duration::from_millis(300));
    assert_eq!(bench.asked, [], "known to be refused");
    bench.device.refused.clear();
    bench.run(Duration::from_mins(1));
    bench.asked.clear();
    bench.run(Duration::from_millis(300));
    assert!(bench.asked.iter().all(|asked| *asked == (0, 100)), "{:?}", bench.asked);
}

#[test]
fn a_mute_register_is_told_from_a_dead_unit() {
    let mut bench = Bench::new(&[(0, 1_000), (500, 1_000)]);
    bench.device.mute.insert(500);
    bench.run(Duration::from_secs(30));
    assert_eq!(bench.presences(), [true], "never offline");
    assert!(bench.batches().pop().unwrap().contains(&"p500".to_owned()));
    let mute = bench.asked.iter().filter(|(at, _)| *at == 500).count();
    assert!(mute <= 7, "{mute} time-outs in 30 s");
    bench.device.mute.clear();
    bench.run(Duration::from_secs(61));
    assert!(bench.batches().pop().unwrap().contains(&"P500".to_owned()));
}

#[test]
fn a_dead_unit_is_offline_once_and_probed_seldom() {
    let mut bench = Bench::new(&[(0, 100), (500, 100)]);
    bench.run(Duration::from_millis(150));
    bench.device.dead = true;
    bench.run(Duration::from_secs(5));
    assert_eq!(bench.presences(), [true, false]);
    assert_eq!(bench.unit.offline(), Some("no answer"));
    bench.asked.clear();
    bench.run(Duration::from_secs(250));
    // 2 % of 250 s are five probes of a second.
    assert!((5..=6).contains(&bench.asked.len()), "{:?}", bench.asked);
    bench.unit.updates.clear();
    bench.device.dead = false;
    bench.run(Duration::from_secs(50));
    assert_eq!(bench.presences(), [true]);
    let mut first = bench.batches().swap_remove(0);
    first.sort();
    assert_eq!(first, ["P0", "P500"]);
}

#[test]
fn two_lost_answers_do_not_make_it_offline() {
    let mut bench = Bench::new(&[(0, 100)]);
    bench.run(Duration::from_millis(50));
    bench.device.dead = true;
    while !bench.step() {
        bench.now = bench.unit.wake_at();
    }
    assert!(bench.step(), "asked again at once");
    bench.device.dead = false;
    assert!(bench.step());
    assert_eq!(bench.presences(), [true]);
    assert!(!bench.unit.is_failing());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Mute or refused registers, a dead unit, a busy one: each for a while, also in the middle of a retry.
    #[test]
    fn whatever_happened_all_is_read_again_once_the_device_is_well(
        phases in vec((0..6_u8, prop_oneof![Just(0_u16), Just(1), Just(50)], 20..15_000_u64), 1..16),
    ) {
        let mut bench = Bench::new(&[(0, 100), (1, 100), (50, 250), (100, 250)]);
        for (what, register, time) in phases {
            bench.device = Device { took: Duration::from_millis(1), ..Device::default() };
            match what {
                0 => bench.device.dead = true,
                1 => bench.device.busy = true,
                2 | 3 => drop(bench.device.mute.insert(register)),
                4 => drop(bench.device.refused.insert(register)),
                _ => {}
            }
            bench.run(Duration::from_millis(time));
        }
        bench.device = Device { took: Duration::from_millis(1), ..Device::default() };
        bench.run(Duration::from_mins(3));
        bench.unit.updates.clear();
        bench.run(Duration::from_secs(1));
        let read: BTreeSet<String> = bench.batches().into_iter().flatten().collect();
        prop_assert_eq!(read.iter().map(String::as_str).collect::<Vec<_>>(), ["P0", "P1", "P100", "P50"]);
    }
}
