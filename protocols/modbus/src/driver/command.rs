//! Commands: a write with its read-back, and a read on demand. Served between two polls, never repeated after a
//! doubtful end: a write that had no answer may have been done.

use std::time::Duration;

use fieldgate_protocol::{Access, Command, Outcome, PointName, Quality, Request, Sample, Status, Value};
use serde_json::{Map, Value as Json};
use tokio::time::{Instant, sleep};
use tokio_modbus::ExceptionCode;

use super::task::{Task, answer, why_down};
use super::unit::{BUSY_TRIES, BUSY_WAIT, decode};
use crate::address::Table;
use crate::config::{PointConfig, UnitId};
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
        }
    }

    async fn write(&mut self, number: usize, id: UnitId, config: &PointConfig, value: &Value) -> Outcome {
        let payload = match payload(config, value) {
            Ok(payload) => payload,
            Err(reason) => return Outcome::not(Status::Rejected, reason),
        };
        match self.send_write(number, id, config, &payload).await {
            Ok(()) => {}
            Err(Trouble::Exception(code)) => {
                let status = match exception::verdict(code) {
                    Verdict::Refused => Status::Rejected,
                    Verdict::Trouble | Verdict::Busy | Verdict::Away => Status::Failed,
                };
                return Outcome::not(status, exception::describe(code));
            }
            Err(Trouble::Link(error)) => {
                let status = if matches!(error, LinkError::Timeout(_)) { Status::Timeout } else { Status::Failed };
                return Outcome::not(status, format!("{error}: it may or may not have been written"));
            }
        }
        self.read_back(number, id, config, &payload).await
    }

    /// Writes with the function code for one value, which every device knows, or with the one for several where the
    /// device has only that.
    async fn send_write(
        &mut self,
        number: usize,
        id: UnitId,
        config: &PointConfig,
        payload: &Payload,
    ) -> Result<(), Trouble> {
        let mut single = true;
        let mut busy = 0;
        loop {
            let result = match payload {
                Payload::Coil(on) => self.link.write_coil(id, config.at.offset, *on, single).await,
                Payload::Registers(words) => {
                    single &= words.len() == 1;
                    self.link.write_registers(id, config.at.offset, words, single).await
                }
            };
            match self.heard(number, result) {
                Ok(()) => return Ok(()),
                Err(Trouble::Exception(ExceptionCode::IllegalFunction)) if single => single = false,
                Err(Trouble::Exception(code)) if exception::verdict(code) == Verdict::Busy && busy < BUSY_TRIES => {
                    busy += 1;
                    sleep(BUSY_WAIT).await;
                }
                Err(trouble) => return Err(trouble),
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

    async fn read_back(&mut self, number: usize, id: UnitId, config: &PointConfig, payload: &Payload) -> Outcome {
        let extent = config.extent();
        let read = Read { table: extent.at.table, start: extent.at.offset, count: extent.width, points: Vec::new() };
        let mut seen = None;
        for pass in 0..READ_BACKS {
            if pass > 0 {
                sleep(SCAN).await;
            }
            let result = self.link.read(id, read.table, read.start, read.count).await;
            match self.heard(number, result) {
                Ok(data) => {
                    let same = match (payload, &data) {
                        (Payload::Coil(on), Data::Bits(bits)) => bits.first() == Some(on),
                        (Payload::Registers(words), Data::Registers(got)) => words == got,
                        (Payload::Coil(_), Data::Registers(_)) | (Payload::Registers(_), Data::Bits(_)) => false,
                    };
                    seen = decode(&data, &read, config);
                    if same {
                        break;
                    }
                }
                Err(Trouble::Exception(code)) if exception::verdict(code) == Verdict::Busy => {}
                Err(Trouble::Exception(code)) => {
                    let reason = format!("written, but it can't be read back: {}", exception::describe(code));
                    return Outcome::not(Status::Failed, reason);
                }
                Err(Trouble::Link(error)) => {
                    return Outcome::not(Status::Failed, format!("written, but it can't be read back: {error}"));
                }
            }
            if pass + 1 == READ_BACKS {
                let shown = seen.as_ref().and_then(Value::to_json);
                let what = shown.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string);
                let reason = format!("the device confirmed the write, but holds {what}");
                self.report(number, config, seen);
                return Outcome { status: Status::Failed, value: shown, reason: Some(reason) };
            }
        }
        let value = seen.as_ref().and_then(Value::to_json);
        self.report(number, config, seen);
        Outcome::ok(value)
    }

    /// What was read back is a reading like any other.
    fn report(&mut self, number: usize, config: &PointConfig, value: Option<Value>) {
        let received = self.tasks.clock.now();
        let Some(unit) = self.units.get_mut(number).filter(|unit| unit.is_online() && value.is_some()) else { return };
        let point = config.point.name.clone();
        unit.report(Sample { point, value, quality: Quality::GOOD, source_time: None, received });
    }

    async fn read_points(&mut self, number: usize, id: UnitId, configs: &[PointConfig]) -> Outcome {
        let mut values: Map<String, Json> = Map::new();
        for config in configs {
            values.insert(config.point.name.to_string(), Json::Null);
        }
        // No register in between is touched: what is asked for can't fail because of a neighbour that isn't.
        let limits = Limits { max_block: 125, max_gap: 0 };
        let extents = configs.iter().map(PointConfig::extent).enumerate();
        let mut reads = plan::merge(extents, limits);
        let mut reason = None;
        let mut busy = 0;
        while let Some(read) = reads.pop() {
            let result = self.link.read(id, read.table, read.start, read.count).await;
            match self.heard(number, result) {
                Ok(data) => {
                    for config in read.points.iter().filter_map(|point| configs.get(*point)) {
                        let value = decode(&data, &read, config).and_then(|value| value.to_json());
                        values.insert(config.point.name.to_string(), value.unwrap_or(Json::Null));
                    }
                }
                Err(Trouble::Exception(code)) if exception::verdict(code) == Verdict::Busy && busy < BUSY_TRIES => {
                    busy += 1;
                    reads.push(read);
                    sleep(BUSY_WAIT).await;
                }
                Err(Trouble::Exception(code)) => {
                    let halves = plan::halve(&read, |point| configs.get(point).map(PointConfig::extent));
                    match halves.filter(|_| exception::may_be_divided(code)) {
                        Some(halves) => reads.extend(halves),
                        None => reason = Some(exception::describe(code)),
                    }
                }
                Err(Trouble::Link(error)) => {
                    let status = if matches!(error, LinkError::Timeout(_)) { Status::Timeout } else { Status::Failed };
                    return Outcome::not(status, error.to_string());
                }
            }
        }
        match reason {
            Some(reason) if values.values().all(Json::is_null) => Outcome::not(Status::Failed, reason),
            reason => Outcome { status: Status::Ok, value: Some(Json::Object(values)), reason },
        }
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
        Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Float(_) | Value::Array(_) => value.as_f64(),
    };
    if let (Some((low, high)), Some(number)) = (point.range, number)
        && !(low..=high).contains(&number)
    {
        return Err(format!("`{number}` is out of range, {low} to {high} is allowed"));
    }
    match config.at.table {
        Table::Coil => config.codec.encode_bit(value).map(Payload::Coil),
        Table::Holding => config.codec.encode(value).map(Payload::Registers),
        Table::Discrete | Table::Input => return Err(format!("a {} can't be written", config.at.table.word())),
    }
    .map_err(|misfit| misfit.to_string())
}
