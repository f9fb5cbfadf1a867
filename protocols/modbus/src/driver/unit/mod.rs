//! One unit: what is asked of it and when, and what its answers mean. No IO; time is an argument.
//!
//! Points with the same interval form a cycle at a fixed rate. A cycle whose predecessor has not ended is counted and
//! skipped. All samples of a cycle go up in one batch; so do all samples of a unit after it has come back.
//!
//! A unit is offline after three requests in a row without an answer. Then it is asked one thing at a time, at growing
//! distances; while others on the link answer, probes of a dead unit take at most 2 % of the link's time.

mod answer;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use fieldgate_protocol::{Quality, Reading, Update, Value};
use fieldgate_types::{Backoff, UnixMillis};
use tokio::time::Instant;

pub(in crate::driver) use self::answer::decode;
use super::block::Block;
use crate::config::{DeviceConfig, UnitId};
use crate::plan::{Limits, Read};

/// So many requests in a row without an answer are tried again at once (DESIGN section 3).
pub(in crate::driver) const PATIENCE: u32 = 3;
/// A batch is handed up at this size, whatever is still to come.
const MAX_BATCH: usize = 4_096;
/// How long a busy device is left alone, and how often.
pub(in crate::driver) const BUSY_WAIT: Duration = Duration::from_millis(100);
/// How often a busy device is asked again.
pub(in crate::driver) const BUSY_TRIES: u8 = 3;
/// While others answer, a dead unit rests this many times as long as its probe took: 2 % of the link's time. A probe that
/// is longer than an interval costs the others up to twice its time in skipped cycles: less than 5 % so (measured).
const REST: u32 = 48;

/// Whether the unit answers.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Presence {
    Unknown,
    Online,
    Offline { reason: String },
}

/// Points that are read together in time.
#[derive(Debug)]
struct Cycle {
    interval: Duration,
    due: Instant,
    /// Requests that have not ended.
    open: usize,
}

/// Why a request is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// It is due.
    Poll,
    /// The part was bad; is it still?
    Retry,
    /// The block was divided; can it be read as planned?
    Whole,
}

/// A request to make.
#[derive(Debug)]
pub(in crate::driver) struct Job {
    pub(in crate::driver) read: Arc<Read>,
    block: usize,
    why: Why,
    tries: u8,
    not_before: Instant,
}

/// No usable answer came.
#[derive(Debug)]
pub(in crate::driver) struct Failure {
    /// In words.
    pub(in crate::driver) reason: String,
    /// What becomes of the points, if it lasts.
    pub(in crate::driver) quality: Quality,
    /// How long the link was taken.
    pub(in crate::driver) took: Duration,
    /// Whether some other unit on the link answers.
    pub(in crate::driver) others_answer: bool,
}

/// One unit.
#[derive(Debug)]
pub(in crate::driver) struct Unit {
    pub(in crate::driver) device: DeviceConfig,
    cycles: Vec<Cycle>,
    blocks: Vec<Block>,
    /// Bounded by the plan: each part of a block stands here at most twice (its poll and its retry).
    queue: VecDeque<Job>,
    gathered: Vec<Reading>,
    /// When the newest of them came.
    gathered_at: UnixMillis,
    /// Drained by the task after each step.
    pub(in crate::driver) updates: Vec<Update>,
    presence: Presence,
    failures: u32,
    backoff: Backoff,
    probe_at: Instant,
    next_probe: usize,
    /// The first reading of everything after coming online goes up as one batch.
    sweeping: bool,
}

impl Unit {
    /// Nothing known of it, to be asked at once.
    pub(in crate::driver) fn new(device: DeviceConfig, limits: Limits, now: Instant) -> Self {
        let mut cycles = Vec::new();
        let mut blocks = Vec::new();
        for (interval, reads) in device.reads(limits) {
            blocks.extend(reads.into_iter().map(|read| Block::new(cycles.len(), read)));
            cycles.push(Cycle { interval, due: now, open: 0 });
        }
        Self {
            device,
            cycles,
            blocks,
            queue: VecDeque::new(),
            gathered: Vec::new(),
            gathered_at: UnixMillis::default(),
            updates: Vec::new(),
            presence: Presence::Unknown,
            failures: 0,
            backoff: Backoff::field_link(),
            probe_at: now,
            next_probe: 0,
            sweeping: false,
        }
    }

    pub(in crate::driver) fn id(&self) -> UnitId {
        self.device.unit
    }

    pub(in crate::driver) fn is_online(&self) -> bool {
        self.presence == Presence::Online
    }

    /// Why it is offline, if it is.
    pub(in crate::driver) fn offline(&self) -> Option<&str> {
        match &self.presence {
            Presence::Offline { reason } => Some(reason),
            Presence::Unknown | Presence::Online => None,
        }
    }

    /// Whether its last request had no answer.
    pub(in crate::driver) fn is_failing(&self) -> bool {
        self.failures > 0 || self.offline().is_some()
    }

    /// When there is something to do next.
    pub(in crate::driver) fn wake_at(&self) -> Instant {
        let job = self.queue.iter().map(|job| job.not_before).min();
        let next = if self.is_online() {
            self.cycles.iter().map(|cycle| cycle.due).min()
        } else {
            Some(self.probe_at).filter(|_| self.queue.is_empty())
        };
        // A unit has at least one cycle; an hour is as good as never.
        [job, next].into_iter().flatten().min().unwrap_or_else(|| Instant::now() + Duration::from_hours(1))
    }

    /// Queues what is due. Says how many cycles were late.
    pub(in crate::driver) fn tick(&mut self, now: Instant, clock: UnixMillis) -> u64 {
        if !self.is_online() {
            if self.queue.is_empty() && now >= self.probe_at {
                self.push_probe(now);
            }
            return 0;
        }
        let mut overruns = 0;
        for number in 0..self.cycles.len() {
            let Some(cycle) = self.cycles.get_mut(number).filter(|cycle| now >= cycle.due) else { continue };
            let mut late = false;
            while cycle.due <= now {
                // The grid stays; ticks that have passed meanwhile are skipped.
                let missed = (now - cycle.due).as_nanos() / cycle.interval.as_nanos().max(1);
                late |= missed > 0;
                cycle.due += cycle.interval.saturating_mul(u32::try_from(missed + 1).unwrap_or(u32::MAX));
            }
            let running = cycle.open > 0;
            overruns += u64::from(late || running);
            if running {
                self.sweeping = false;
                continue;
            }
            self.queue_cycle(number, now, clock);
        }
        if self.queue.is_empty() {
            self.flush();
        }
        overruns
    }

    fn queue_cycle(&mut self, cycle: usize, now: Instant, clock: UnixMillis) {
        for number in 0..self.blocks.len() {
            let Some(block) = self.blocks.get_mut(number).filter(|block| block.cycle == cycle) else { continue };
            let retry = block.retry_at.is_some_and(|at| at <= now);
            let mut jobs = Vec::new();
            let mut bad = Vec::new();
            for part in &block.parts {
                match &part.bad {
                    None => jobs.push((Arc::clone(&part.read), Why::Poll)),
                    Some(quality) => bad.push((Arc::clone(&part.read), quality.clone())),
                }
            }
            if retry {
                // Whatever becomes of this one.
                block.retry_later(now);
                let why = if block.parts.len() == 1 { Why::Retry } else { Why::Whole };
                jobs.push((Arc::clone(&block.whole), why));
            }
            for (read, quality) in bad {
                self.gather_bad(&read, &quality, clock);
            }
            for (read, why) in jobs {
                self.push(number, read, why, now, false);
            }
        }
    }

    fn push(&mut self, block: usize, read: Arc<Read>, why: Why, now: Instant, first: bool) {
        let cycle = self.blocks.get(block).map_or(0, |block| block.cycle);
        if let Some(cycle) = self.cycles.get_mut(cycle) {
            cycle.open += 1;
        }
        let job = Job { read, block, why, tries: 0, not_before: now };
        if first {
            self.queue.push_front(job);
        } else {
            self.queue.push_back(job);
        }
    }

    /// Asks one thing of a unit that is not known to answer: each time another block, in case one is mute.
    fn push_probe(&mut self, now: Instant) {
        let number = self.next_probe % self.blocks.len().max(1);
        self.next_probe = number + 1;
        let Some(block) = self.blocks.get(number) else { return };
        let good = block.parts.iter().find(|part| part.bad.is_none());
        let (part, why) = match good {
            Some(part) => (Some(part), Why::Poll),
            None => (block.parts.first(), Why::Retry),
        };
        if let Some(read) = part.map(|part| Arc::clone(&part.read)) {
            self.push(number, read, why, now, false);
        }
    }

    /// Asks an idle unit for a sign of life, when others on the link fail.
    pub(in crate::driver) fn ask_for_life(&mut self, now: Instant) {
        if self.is_online() && self.failures == 0 && self.queue.is_empty() {
            self.push_probe(now);
        }
    }

    /// Asks now instead of later, after the link has come back.
    pub(in crate::driver) fn probe_now(&mut self, now: Instant) {
        if !self.is_online() {
            self.forget_jobs();
            self.probe_at = now;
        }
    }

    /// The next request, if it is time for one.
    pub(in crate::driver) fn next_job(&mut self, now: Instant) -> Option<Job> {
        let at = self.queue.iter().position(|job| job.not_before <= now)?;
        self.queue.remove(at)
    }

    /// The whole link is gone.
    pub(in crate::driver) fn link_down(&mut self, reason: &str, now: Instant) {
        let quality = Quality::BAD_NO_COMMUNICATION;
        let failure = Failure { reason: reason.to_owned(), quality, took: Duration::ZERO, others_answer: false };
        self.go_offline(&failure, now);
    }

    fn go_offline(&mut self, failure: &Failure, now: Instant) {
        self.flush();
        self.forget_jobs();
        let rest = if failure.others_answer { failure.took.saturating_mul(REST) } else { Duration::ZERO };
        self.probe_at = now + self.backoff.next_wait().max(rest);
        if self.offline().is_some() {
            return;
        }
        let device = self.device.id.clone();
        tracing::warn!(device = %device, unit = %self.device.unit, reason = failure.reason, "field device is offline");
        self.presence = Presence::Offline { reason: failure.reason.clone() };
        self.updates.push(Update::Offline { device, reason: failure.reason.clone() });
    }

    fn forget_jobs(&mut self) {
        self.queue.clear();
        for cycle in &mut self.cycles {
            cycle.open = 0;
        }
    }

    /// The unit has answered: to `job`, or to a command.
    pub(in crate::driver) fn alive(&mut self, job: Option<&Job>, now: Instant, clock: UnixMillis) {
        self.failures = 0;
        if self.is_online() {
            return;
        }
        self.backoff.reset();
        self.presence = Presence::Online;
        self.sweeping = true;
        tracing::info!(device = %self.device.id, unit = %self.device.unit, "field device is online");
        self.updates.push(Update::Online { device: self.device.id.clone() });
        for block in &mut self.blocks {
            // It may be another device than before.
            block.retry_at = block.retry_at.map(|_| now);
        }
        for number in 0..self.cycles.len() {
            if let Some(cycle) = self.cycles.get_mut(number) {
                cycle.due = now + cycle.interval;
            }
            self.queue_cycle(number, now, clock);
        }
        // What has just been answered need not be asked again.
        let asked = |queued: &Job| job.is_some_and(|job| Arc::ptr_eq(&job.read, &queued.read) && job.why == queued.why);
        if let Some(at) = self.queue.iter().position(asked)
            && let Some(twin) = self.queue.remove(at)
        {
            self.close(&twin);
        }
    }

    fn close(&mut self, job: &Job) -> bool {
        let cycle = self.blocks.get(job.block).map_or(0, |block| block.cycle);
        self.cycles.get_mut(cycle).is_some_and(|cycle| {
            cycle.open = cycle.open.saturating_sub(1);
            cycle.open == 0
        })
    }

    /// A request has ended, whichever way.
    fn end(&mut self, job: &Job) {
        let cycle_done = self.close(job);
        if self.queue.is_empty() {
            self.sweeping = false;
            self.flush();
        } else if (cycle_done && !self.sweeping) || self.gathered.len() >= MAX_BATCH {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.gathered.is_empty() {
            return;
        }
        // The next batch will be as large.
        let next = Vec::with_capacity(self.gathered.len());
        let readings = std::mem::replace(&mut self.gathered, next);
        let (device, received) = (self.device.id.clone(), self.gathered_at);
        self.updates.push(Update::Readings { device, received, readings });
    }

    fn gather(&mut self, place: usize, value: Result<Value, Quality>, clock: UnixMillis) {
        self.gathered_at = clock;
        self.gathered.push(Reading { place, value });
    }

    fn gather_bad(&mut self, read: &Read, quality: &Quality, clock: UnixMillis) {
        for point in &read.points {
            self.gather(*point, Err(quality.clone()), clock);
        }
    }
}
