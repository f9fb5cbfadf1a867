//! Commands: a write with its read-back, and a read on demand. Served between two polls, never repeated after a
//! doubtful end: a write that had no answer may have been done.

use std::time::Duration;

use fieldgate_protocol::{Access, Change, Command, Outcome, PointName, Request, Status, Value};
use serde_json::{Map, Value as Json};
use tokio::time::{Instant, sleep};
use tokio_modbus::ExceptionCode;

use super::task::{Task, answer, why_down};
use super::unit::{BUSY_TRIES, BUSY_WAIT, decode};
use crate::address::Table;
use crate::codec::Kind;
use crate::config::{PointConfig, UnitId, WriteWith};
use crate::exception::{self, Verdict};
use crate::link::{Answer, Data, LinkError};
use crate::plan::{self, Limits, Read};

/// A PLC shows what was written in its next scan: how often and how far apart it is read back.
const READ_BACKS: u32 = 4;
const SCAN: Duration = Duration::from_millis(25);

/// Why a command came to no good end.
enum Trouble {
    /// The device answered with an exception.
    Exception(ExceptionCode),
    /// The link failed meanwhile.
    Link(LinkError),
}

/// What a write puts on the wire.
enum Payload {
    Coil(bool),
    Registers(Vec<u16>),
    /// These bits of one register, as in the second.
    Bits(u16, u16),
}

/// One request that writes.
#[derive(Clone, Copy)]
enum Step<'a> {
    /// Function code 5, or 15.
    Coil { on: bool, single: bool },
    /// Function code 6, or 16.
    Registers { start: u16, words: &'a [u16], single: bool },
    /// Function code 22.
    Mask { mask: u16, bits: u16 },
    /// Function code 23.
    ReadWrite { words: &'a [u16] },
}

impl Task {
    pub(super) async fn serve(&mut self, command: Command) {
        let outcome = self.outcome(&command).await;
        answer(command, outcome);
    }

    async fn outcome(&mut self, command: &Command) -> Outcome {
        if command.deadline <= std::time::Instant::now() {
            return Outcome::not(Status::Timeout, "the time was over before it could be begun");
        }
        let Some(number) = self.units.iter().position(|unit| unit.device.id == command.device) else {
            return Outcome::not(Status::Rejected, format!("`{}` is not on this link", command.device));
        };
        if self.down || !self.link.is_connected() {
            return Outcome::not(Status::Failed, why_down(&self.tasks));
        }
        let Some(unit) = self.units.get(number) else {
            return Outcome::not(Status::Rejected, "no such device");
        };
        if let Some(reason) = unit.offline() {
            return Outcome::not(Status::Failed, format!("the device does not answer: {reason}"));
        }
        let id = unit.id();
        let find = |name: &PointName| unit.device.points.iter().find(|config| config.point.name == *name).cloned();
        match &command.request {
            Request::Write { point, value } => match find(point) {
                Some(config) => self.write(number, id, &config, value).await,
                None => no_such_point(point),
            },
            Request::Read { points } => {
                let mut configs = Vec::new();
                for point in points {
                    let Some(config) = find(point) else { return no_such_point(point) };
                    configs.push(config);
                }
                self.read_points(number, id, &configs).await
            }
            Request::Call { method, .. } => {
                Outcome::not(Status::Rejected, format!("Modbus has no methods, so no `{method}` either"))
            }
        }
    }

    async fn write(&mut self, number: usize, id: UnitId, config: &PointConfig, value: &Value) -> Outcome {
        let payload = match payload(config, value) {
            Ok(payload) => payload,
            Err(reason) => return Outcome::not(Status::Rejected, reason),
        };
        let extent = config.extent();
        let read = Read { table: extent.at.table, start: extent.at.offset, count: extent.width, points: Vec::new() };
        let before = match self.fetch(number, id, &read).await {
            Ok(data) => Some(data),
            // Some registers can be written and not read.
            Err(Trouble::Exception(_)) => None,
            Err(Trouble::Link(error)) => return link_outcome(&error, "nothing was written"),
        };
        let old = before.as_ref().and_then(|data| decode(data, &read, config).ok());
        match self.send_write(number, id, config, &payload, before.as_ref()).await {
            Ok(()) => {}
            Err(Trouble::Exception(code)) => {
                let status = match exception::verdict(code) {
                    Verdict::Refused => Status::Rejected,
                    Verdict::Trouble | Verdict::Busy | Verdict::Away => Status::Failed,
                };
                return Outcome::not(status, exception::describe(code));
            }
            Err(Trouble::Link(error)) => return link_outcome(&error, "it may or may not have been written"),
        }
        let (mut outcome, new) = self.read_back(number, id, config, &payload, &read).await;
        outcome.changes.push(Change { point: config.point.name.clone(), old, new });
        outcome
    }

    /// Writes as configured. By default with the function code for one value, which every device knows, or with the one
    /// for several where the device has only that; a bit with 22, or by writing back its register.
    async fn send_write(
        &mut self,
        number: usize,
        id: UnitId,
        config: &PointConfig,
        payload: &Payload,
        before: Option<&Data>,
    ) -> Result<(), Trouble> {
        let at = config.at.offset;
        match payload {
            Payload::Coil(on) => {
                let single = config.write != WriteWith::Multiple;
                let result = self.step(number, id, at, Step::Coil { on: *on, single }).await;
                match result {
                    Err(Trouble::Exception(ExceptionCode::IllegalFunction)) if config.write == WriteWith::Auto => {
                        self.step(number, id, at, Step::Coil { on: *on, single: false }).await
                    }
                    result => result,
                }
            }
            Payload::Registers(words) => self.send_registers(number, id, config, words).await,
            Payload::Bits(mask, bits) => {
                if config.write == WriteWith::Auto {
                    let result = self.step(number, id, at, Step::Mask { mask: *mask, bits: *bits }).await;
                    if !matches!(result, Err(Trouble::Exception(ExceptionCode::IllegalFunction))) {
                        return result;
                    }
                }
                // The register as it was read a moment ago: without that its other bits would be lost.
                let Some(Data::Registers(words)) = before else {
                    return Err(Trouble::Exception(ExceptionCode::IllegalFunction));
                };
                let words: Vec<u16> = words.iter().map(|word| word & !mask | bits & mask).collect();
                self.send_registers(number, id, config, &words).await
            }
        }
    }

    async fn send_registers(
        &mut self,
        number: usize,
        id: UnitId,
        config: &PointConfig,
        words: &[u16],
    ) -> Result<(), Trouble> {
        let start = config.at.offset;
        let several = Step::Registers { start, words, single: false };
        match config.write {
            WriteWith::ReadWrite => self.step(number, id, start, Step::ReadWrite { words }).await,
            WriteWith::Multiple => self.step(number, id, start, several).await,
            WriteWith::Single => {
                for (word, at) in words.chunks(1).zip(start..) {
                    self.step(number, id, at, Step::Registers { start: at, words: word, single: true }).await?;
                }
                Ok(())
            }
            WriteWith::Auto if words.len() > 1 => self.step(number, id, start, several).await,
            WriteWith::Auto => {
                match self.step(number, id, start, Step::Registers { start, words, single: true }).await {
                    Err(Trouble::Exception(ExceptionCode::IllegalFunction)) => {
                        self.step(number, id, start, several).await
                    }
                    result => result,
                }
            }
        }
    }

    /// One request that writes, again while the device is busy.
    async fn step(&mut self, number: usize, id: UnitId, at: u16, step: Step<'_>) -> Result<(), Trouble> {
        let mut busy = 0;
        loop {
            let result = match step {
                Step::Coil { on, single } => self.link.write_coil(id, at, on, single).await,
                Step::Registers { start, words, single } => self.link.write_registers(id, start, words, single).await,
                Step::Mask { mask, bits } => self.link.mask_register(id, at, mask, bits).await,
                Step::ReadWrite { words } => self.link.write_and_read(id, at, words).await,
            };
            match self.heard(number, result) {
                Err(Trouble::Exception(code)) if exception::verdict(code) == Verdict::Busy && busy < BUSY_TRIES => {
                    busy += 1;
                    sleep(BUSY_WAIT).await;
                }
                result => return result,
            }
        }
    }

    /// One request that reads, again while the device is busy.
    async fn fetch(&mut self, number: usize, id: UnitId, read: &Read) -> Result<Data, Trouble> {
        let mut busy = 0;
        loop {
            let result = self.link.read(id, read.table, read.start, read.count).await;
            match self.heard(number, result) {
                Err(Trouble::Exception(code)) if exception::verdict(code) == Verdict::Busy && busy < BUSY_TRIES => {
                    busy += 1;
                    sleep(BUSY_WAIT).await;
                }
                result => return result,
            }
        }
    }

    /// The answer to a command counts for link and unit like one to a poll.
    fn heard<T>(&mut self, number: usize, result: Result<Answer<T>, LinkError>) -> Result<T, Trouble> {
        match result {
            Ok(answer) => {
                self.link_good(answer.is_ok());
                let away = matches!(&answer, Err(code) if exception::verdict(*code) == Verdict::Away);
                let clock = self.tasks.clock.now();
                if let Some(unit) = self.units.get_mut(number).filter(|_| !away) {
                    unit.alive(None, Instant::now(), clock);
                }
                answer.map_err(Trouble::Exception)
            }
            Err(error) => {
                self.link_failed(&error);
                Err(Trouble::Link(error))
            }
        }
    }

    /// What the device holds after a write, and how the write ended by that.
    async fn read_back(
        &mut self,
        number: usize,
        id: UnitId,
        config: &PointConfig,
        payload: &Payload,
        read: &Read,
    ) -> (Outcome, Option<Value>) {
        let mut seen = None;
        for pass in 0..READ_BACKS {
            if pass > 0 {
                sleep(SCAN).await;
            }
            match self.fetch(number, id, read).await {
                Ok(data) => {
                    seen = decode(&data, read, config).ok();
                    if holds(&data, payload) {
                        let value = seen.as_ref().and_then(Value::to_json);
                        self.report(number, config, seen.clone());
                        return (Outcome::ok(value), seen);
                    }
                }
                Err(Trouble::Exception(code)) => {
                    let reason = format!("written, but it can't be read back: {}", exception::describe(code));
                    return (Outcome::not(Status::Failed, reason), None);
                }
                Err(Trouble::Link(error)) => {
                    let reason = format!("written, but it can't be read back: {error}");
                    return (Outcome::not(Status::Failed, reason), None);
                }
            }
        }
        let shown = seen.as_ref().and_then(Value::to_json);
        let what = shown.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string);
        let mut outcome = Outcome::not(Status::Failed, format!("the device confirmed the write, but holds {what}"));
        outcome.value = shown;
        self.report(number, config, seen.clone());
        (outcome, seen)
    }

    /// What was read back is a reading like any other.
    fn report(&mut self, number: usize, config: &PointConfig, value: Option<Value>) {
        let clock = self.tasks.clock.now();
        let Some(unit) = self.units.get_mut(number).filter(|unit| unit.is_online()) else { return };
        let place = unit.device.points.iter().position(|other| other.point.name == config.point.name);
        if let Some((place, value)) = place.zip(value) {
            unit.report(place, value, clock);
        }
    }

    async fn read_points(&mut self, number: usize, id: UnitId, configs: &[PointConfig]) -> Outcome {
        let mut values: Map<String, Json> = Map::new();
        for config in configs {
            values.insert(config.point.name.to_string(), Json::Null);
        }
        // No register in between is touched: what is asked for can't fail because of a neighbour that isn't.
        let limits = Limits { max_block: 125, max_gap: 0 };
        let extents = configs.iter().map(PointConfig::extent).enumerate();
        let mut reads = plan::merge(extents, limits, &[]);
        let mut reason = None;
        while let Some(read) = reads.pop() {
            match self.fetch(number, id, &read).await {
                Ok(data) => {
                    for config in read.points.iter().filter_map(|point| configs.get(*point)) {
                        let value = decode(&data, &read, config).ok().and_then(|value| value.to_json());
                        values.insert(config.point.name.to_string(), value.unwrap_or(Json::Null));
                    }
                }
                Err(Trouble::Exception(code)) => {
                    let halves = plan::halve(&read, |point| configs.get(point).map(PointConfig::extent));
                    match halves.filter(|_| exception::may_be_divided(code)) {
                        Some(halves) => reads.extend(halves),
                        None => reason = Some(exception::describe(code)),
                    }
                }
                Err(Trouble::Link(error)) => return link_outcome(&error, "the points could not all be read"),
            }
        }
        match reason {
            Some(reason) if values.values().all(Json::is_null) => Outcome::not(Status::Failed, reason),
            reason => Outcome::ok(Some(Json::Object(values))).because(reason),
        }
    }
}

fn link_outcome(error: &LinkError, what: &str) -> Outcome {
    let status = if matches!(error, LinkError::Timeout(_)) { Status::Timeout } else { Status::Failed };
    Outcome::not(status, format!("{error}: {what}"))
}

/// Whether the device holds what was written.
fn holds(data: &Data, payload: &Payload) -> bool {
    match (payload, data) {
        (Payload::Coil(on), Data::Bits(bits)) => bits.first() == Some(on),
        (Payload::Registers(words), Data::Registers(got)) => words == got,
        (Payload::Bits(mask, bits), Data::Registers(got)) => got.iter().all(|word| word & mask == bits & mask),
        (Payload::Coil(_), Data::Registers(_)) | (Payload::Registers(_) | Payload::Bits(..), Data::Bits(_)) => false,
    }
}

fn no_such_point(point: &PointName) -> Outcome {
    Outcome::not(Status::Rejected, format!("`{point}` is not a point of this device"))
}

/// What to write, or why not. The gateway has checked access and range; a second look costs nothing.
fn payload(config: &PointConfig, value: &Value) -> Result<Payload, String> {
    let point = &config.point;
    if point.access != Access::ReadWrite {
        return Err(format!("`{}` is read-only", point.name));
    }
    let number = match value {
        Value::Text(text) => text.parse().ok(),
        Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Float(_) | Value::Array(_) | Value::Object(_) => {
            value.as_f64()
        }
    };
    if let (Some((low, high)), Some(number)) = (point.range, number)
        && !(low..=high).contains(&number)
    {
        return Err(format!("`{number}` is out of range, {low} to {high} is allowed"));
    }
    match config.at.table {
        Table::Coil => config.codec.encode_bit(value).map(Payload::Coil),
        Table::Holding => config.codec.encode(value).map(|words| match (config.codec.kind(), words.as_slice()) {
            (Kind::Bit(bit), [word]) => Payload::Bits(1 << bit, *word),
            _ => Payload::Registers(words),
        }),
        Table::Discrete | Table::Input => return Err(format!("a {} can't be written", config.at.table.word())),
    }
    .map_err(|misfit| misfit.to_string())
}
