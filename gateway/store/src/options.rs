//! The numbers that bound the queue.

use std::time::Duration;

use fieldgate_types::{Percent, Size};

/// What happens when the queue has reached its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// The oldest records make room, counted per device; those of a device above its share first.
    DropOldest,
    /// Commits wait, and with them the acknowledgements of whoever sent the messages.
    Refuse,
}

/// The bounds of a queue.
#[derive(Debug, Clone)]
pub struct Options {
    /// Most that the queue takes on disk, write-ahead log included; less when the file system has less.
    pub max_size: Size,
    /// Records are dropped after this much running time.
    pub max_age: Duration,
    /// What happens at `max_size`.
    pub overflow: Overflow,
    /// With [`Overflow::DropOldest`]: a device that holds more than this of what waits gives way before all others, as long as it
    /// does. With all of it nobody does: the oldest go, whoever sent them.
    pub device_share: Percent,
    /// While no consumer is there, transactions follow each other at this interval, sooner when much has gathered; zero
    /// for at once. Batches with keys or priority records never wait.
    pub spacing: Duration,
    /// While the consumer settles at once, a batch of records waits this long for its word before it is written; once all
    /// of it is settled, it is answered and never written. Zero: every batch is written. See module `hold`.
    pub hold: Duration,
    /// Batches that the writer takes in hand at once; the others stay in the line.
    pub queued_batches: usize,
    /// Bytes that the writer takes in hand at once. Also the largest batch there can be.
    pub queued_bytes: usize,
}

/// Bodies leased at most, in bytes; a quarter of the queue's size where that is less.
const MAX_LEASED_BYTES: u64 = 64 << 20;

impl Options {
    /// Bytes of bodies that are leased at most.
    pub(crate) fn most_leased(&self) -> usize {
        usize::try_from(MAX_LEASED_BYTES.min(self.max_size.bytes() / 4)).unwrap_or(usize::MAX)
    }

    /// Bytes of the largest batch.
    pub(crate) fn largest_batch(&self) -> usize {
        let of_size = usize::try_from(self.max_size.bytes().max(1 << 20) / 4).unwrap_or(usize::MAX);
        self.queued_bytes.max(1).min(of_size)
    }
}

impl Default for Options {
    /// The defaults of DESIGN section 6.
    fn default() -> Self {
        Self {
            max_size: Size(1 << 30),
            max_age: Duration::from_secs(7 * 86_400),
            overflow: Overflow::DropOldest,
            device_share: Percent::clamped(50),
            spacing: Duration::from_millis(100),
            hold: Duration::ZERO,
            queued_batches: 4096,
            queued_bytes: 16 << 20,
        }
    }
}
