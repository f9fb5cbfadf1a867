//! A block of the poll plan, and what the device has taught about it: which parts of it can be read.
//!
//! A block is asked for whole until the device refuses it. Then it is halved until the points that are to blame stand
//! alone; they are remembered as bad and asked for seldom. With them the whole block is tried again, so that a plan
//! that a booting device has torn apart grows together again.

use std::sync::Arc;
use std::time::Duration;

use fieldgate_protocol::Quality;
use fieldgate_types::Backoff;
use tokio::time::Instant;

use crate::plan::Read;

/// A planned request.
#[derive(Debug)]
pub(super) struct Block {
    /// Which of the unit's cycles it belongs to.
    pub(super) cycle: usize,
    /// As planned.
    pub(super) whole: Arc<Read>,
    /// As it can be read: together they serve every point of `whole` once.
    pub(super) parts: Vec<Part>,
    /// When to ask again for what is bad, or for the whole; `None` when it is read as planned.
    pub(super) retry_at: Option<Instant>,
    backoff: Backoff,
}

/// A request that is part of a block.
#[derive(Debug)]
pub(super) struct Part {
    /// What is asked.
    pub(super) read: Arc<Read>,
    /// Not asked for in each cycle, because the device refuses it or never answers it.
    pub(super) bad: Option<Quality>,
    /// How often in a row no usable answer came.
    pub(super) failures: u32,
}

impl Part {
    fn new(read: Arc<Read>) -> Self {
        Self { read, bad: None, failures: 0 }
    }
}

impl Block {
    /// As planned, nothing known.
    pub(super) fn new(cycle: usize, read: Read) -> Self {
        let whole = Arc::new(read);
        let parts = vec![Part::new(Arc::clone(&whole))];
        let backoff = Backoff::new(Duration::from_secs(5), Duration::from_mins(1));
        Self { cycle, whole, parts, retry_at: None, backoff }
    }

    /// The part that asks `read`, unless the block has been divided otherwise since.
    pub(super) fn part(&mut self, read: &Arc<Read>) -> Option<&mut Part> {
        self.parts.iter_mut().find(|part| Arc::ptr_eq(&part.read, read))
    }

    /// Notes that the part can be read.
    pub(super) fn good(&mut self, read: &Arc<Read>, now: Instant) {
        if let Some(part) = self.part(read) {
            part.bad = None;
            part.failures = 0;
        }
        if self.parts.len() == 1 && self.parts.iter().all(|part| part.bad.is_none()) {
            self.retry_at = None;
            self.backoff.reset();
        } else if self.retry_at.is_none() {
            self.retry_at = Some(now + self.backoff.next_wait());
        }
    }

    /// Notes that the block can be read as planned.
    pub(super) fn heal(&mut self) {
        self.parts = vec![Part::new(Arc::clone(&self.whole))];
        self.retry_at = None;
        self.backoff.reset();
    }

    /// Notes that the part can't be read. True when that is news.
    pub(super) fn condemn(&mut self, read: &Arc<Read>, quality: Quality, now: Instant) -> bool {
        let Some(part) = self.part(read) else { return false };
        let news = part.bad.is_none();
        part.bad = Some(quality.clone());
        if self.retry_at.is_none() {
            self.retry_at = Some(now + self.backoff.next_wait());
        }
        if self.parts.len() > 1 && self.parts.iter().all(|part| part.bad.is_some()) {
            // Nothing of it can be read: one question is enough to learn when that changes.
            self.parts = vec![Part { read: Arc::clone(&self.whole), bad: Some(quality), failures: 0 }];
        }
        news
    }

    /// Puts two halves in the place of a part.
    pub(super) fn divide(&mut self, read: &Arc<Read>, halves: [Read; 2]) -> Option<[Arc<Read>; 2]> {
        let at = self.parts.iter().position(|part| Arc::ptr_eq(&part.read, read))?;
        let halves = halves.map(Arc::new);
        self.parts.splice(at..=at, halves.iter().map(|half| Part::new(Arc::clone(half))));
        Some(halves)
    }

    /// When the try after the one that begins now is due, unless it succeeds.
    pub(super) fn retry_later(&mut self, now: Instant) {
        self.retry_at = Some(now + self.backoff.next_wait());
    }
}
