//! What the answers of a unit mean, and what follows when there is none.

use std::sync::Arc;

use fieldgate_protocol::{Quality, Value};
use fieldgate_types::UnixMillis;
use tokio::time::Instant;
use tokio_modbus::ExceptionCode;

use super::{BUSY_TRIES, BUSY_WAIT, Failure, Job, PATIENCE, Presence, Unit, Why};
use crate::config::PointConfig;
use crate::exception::{self, Verdict};
use crate::link::Data;
use crate::plan::{self, Read};

impl Unit {
    /// The device has answered with data.
    pub(in crate::driver) fn answered(&mut self, job: Job, data: &Data, now: Instant, clock: UnixMillis) {
        self.alive(Some(&job), now, clock);
        for point in &job.read.points {
            let Some(config) = self.device.points.get(*point) else { continue };
            let value = decode(data, &job.read, config);
            self.gather(*point, value, clock);
        }
        if let Some(block) = self.blocks.get_mut(job.block) {
            match job.why {
                Why::Whole => block.heal(),
                Why::Poll | Why::Retry => block.good(&job.read, now),
            }
        }
        self.end(&job);
    }

    /// The device has answered with an exception; not for [`Verdict::Away`], which is a [`Unit::failed`].
    pub(in crate::driver) fn refused(&mut self, mut job: Job, code: ExceptionCode, now: Instant, clock: UnixMillis) {
        self.alive(Some(&job), now, clock);
        let quality = exception::quality(code);
        match exception::verdict(code) {
            Verdict::Busy if job.tries < BUSY_TRIES => {
                job.tries += 1;
                job.not_before = now + BUSY_WAIT;
                self.queue.push_back(job);
                return;
            }
            Verdict::Busy | Verdict::Trouble | Verdict::Away => self.gather_bad(&job.read.clone(), &quality, clock),
            Verdict::Refused => self.refused_for_good(&job, code, &quality, now, clock),
        }
        self.end(&job);
    }

    fn refused_for_good(&mut self, job: &Job, code: ExceptionCode, quality: &Quality, now: Instant, clock: UnixMillis) {
        let points = &self.device.points;
        let halves = plan::halve(&job.read, |point| points.get(point).map(PointConfig::extent));
        let Some(block) = self.blocks.get_mut(job.block) else { return };
        if job.why == Why::Whole {
            let bad = block.parts.iter().filter(|part| part.bad.is_some()).map(|part| Arc::clone(&part.read));
            for read in bad.collect::<Vec<_>>() {
                self.push(job.block, read, Why::Retry, now, false);
            }
            return;
        }
        if let Some(halves) = halves.filter(|_| exception::may_be_divided(code)) {
            for half in block.divide(&job.read, halves).into_iter().flatten().rev() {
                self.push(job.block, half, Why::Poll, now, true);
            }
            return;
        }
        let news = block.condemn(&job.read, quality.clone(), now);
        self.gather_bad(&job.read, quality, clock);
        if news {
            self.log_condemned(&job.read, &exception::describe(code));
        }
    }

    /// No usable answer came.
    pub(in crate::driver) fn failed(&mut self, job: Job, failure: Failure, now: Instant, clock: UnixMillis) {
        self.failures += 1;
        if !self.is_online() {
            self.end(&job);
            if self.presence == Presence::Unknown && self.failures < PATIENCE {
                self.probe_at = now;
            } else {
                self.go_offline(&failure, now);
            }
            return;
        }
        let Some(block) = self.blocks.get_mut(job.block) else { return };
        if job.why != Why::Poll {
            self.end(&job);
        } else if self.failures < PATIENCE {
            let failures = block.part(&job.read).map_or(0, |part| {
                part.failures += 1;
                part.failures
            });
            if failures >= PATIENCE {
                // The unit answers other things in between: it is this request that it is mute to.
                let news = block.condemn(&job.read, failure.quality.clone(), now);
                self.gather_bad(&job.read, &failure.quality, clock);
                if news {
                    self.log_condemned(&job.read, &failure.reason);
                }
                self.end(&job);
            } else {
                self.call_witness(&job, now);
                self.queue.push_back(job);
            }
        }
        if self.failures >= PATIENCE {
            self.go_offline(&failure, now);
        }
    }

    /// Asks for another block between two tries of one that had no answer: is it the unit, or the request?
    fn call_witness(&mut self, job: &Job, now: Instant) {
        if !self.queue.is_empty() {
            return;
        }
        let mut witness = None;
        for (number, block) in self.blocks.iter().enumerate() {
            let part = block
                .parts
                .iter()
                .find(|part| part.bad.is_none() && part.failures == 0 && !Arc::ptr_eq(&part.read, &job.read));
            if let Some(part) = part {
                witness = Some((number, Arc::clone(&part.read)));
                break;
            }
        }
        if let Some((number, read)) = witness {
            self.push(number, read, Why::Poll, now, false);
        }
    }

    /// Takes a reading that a command has brought: up at once, or with the batch that is being read.
    pub(in crate::driver) fn report(&mut self, place: usize, value: Value, clock: UnixMillis) {
        self.gather(place, Ok(value), clock);
        if self.queue.is_empty() {
            self.flush();
        }
    }

    fn log_condemned(&self, read: &Read, reason: &str) {
        tracing::warn!(
            device = %self.device.id,
            table = read.table.word(),
            start = read.start,
            count = read.count,
            points = read.points.len(),
            reason,
            "points can't be read, asking again seldom"
        );
    }
}

/// The value of a point in an answer of the right length, or its quality.
pub(in crate::driver) fn decode(data: &Data, read: &Read, config: &PointConfig) -> Result<Value, Quality> {
    let missing = Quality::BAD_DECODING_ERROR;
    let from = usize::from(config.at.offset.checked_sub(read.start).ok_or_else(|| missing.clone())?);
    match data {
        Data::Bits(bits) => {
            let bit = bits.get(from).ok_or(missing)?;
            config.codec.decode(&[u16::from(*bit)])
        }
        Data::Registers(words) => {
            let width = usize::from(config.codec.kind().width());
            config.codec.decode(words.get(from..from + width).ok_or(missing)?)
        }
    }
}
