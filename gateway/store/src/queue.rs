//! The handle to the queue.

use std::path::Path;
use std::sync::Arc;

use fieldgate_types::Clock;

use crate::{
    Batch, CloseError, CommitError, Committed, DeviceLedger, Lane, LeaseError, OpenError, Options, QueueStats, Record,
    RecordId, ScanError, SettleError,
};

/// The durable queue. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Queue {
    boot: u64,
}

#[allow(clippy::unused_async)] // the first layout of the public surface
impl Queue {
    /// Opens `path` (blocking: call it before the runtime is busy, or from a blocking task) and starts its writer.
    pub fn open(path: &Path, boot: u64, options: Options, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        tracing::debug!(path = %path.display(), boot, max_size = %options.max_size, now = %clock.now(), "queue opened");
        Ok(Self { boot })
    }

    /// The boot that new records carry.
    pub fn boot(&self) -> u64 {
        self.boot
    }

    /// Resolves when all of `batch` is durable. While the queue's inbox is full, or the disk refuses, it waits.
    ///
    /// Batches are committed in the order in which these futures were first polled. Dropping the future after that
    /// doesn't undo the batch.
    pub async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        tracing::trace!(bytes = batch.bytes(), "batch refused");
        Err(CommitError::Closed)
    }

    /// All keys and values of a table, sorted by key.
    pub async fn scan(&self, table: &'static str) -> Result<Vec<(Vec<u8>, Vec<u8>)>, ScanError> {
        tracing::trace!(table, "scan refused");
        Err(ScanError::Closed)
    }

    /// Waits for at least one record of `lane` and hands out up to `max_messages`, or `max_bytes` of bodies (one record
    /// at least), in commit order. They are not handed out again before [`Queue::rewind`]. Cancel-safe.
    pub async fn lease(
        &self,
        consumer: &'static str,
        lane: Lane,
        max_messages: usize,
        max_bytes: usize,
    ) -> Result<Vec<Record>, LeaseError> {
        tracing::trace!(consumer, %lane, max_messages, max_bytes, "lease refused");
        Err(LeaseError::Closed)
    }

    /// The records are delivered: they leave the queue with one of the next transactions. Ids in any order; those that
    /// `consumer` does not hold are ignored.
    pub async fn settle(&self, consumer: &'static str, ids: Vec<RecordId>) -> Result<(), SettleError> {
        tracing::trace!(consumer, ids = ids.len(), "settle refused");
        Err(SettleError::Closed)
    }

    /// A leased record can't be delivered: it is kept aside with its body and counted under `reason`.
    pub async fn quarantine(
        &self,
        consumer: &'static str,
        id: RecordId,
        reason: &'static str,
    ) -> Result<(), SettleError> {
        tracing::trace!(consumer, %id, reason, "quarantine refused");
        Err(SettleError::Closed)
    }

    /// Everything that `consumer` holds will be leased again, in order.
    pub fn rewind(&self, consumer: &'static str) {
        tracing::trace!(consumer, "rewound");
    }

    /// The queue in figures.
    pub fn stats(&self) -> QueueStats {
        QueueStats::default()
    }

    /// The loss ledger, sorted by device.
    pub fn ledger(&self) -> Vec<DeviceLedger> {
        Vec::new()
    }

    /// Stores what waits, tidies the files and ends the writer. Later commits and leases fail with `Closed`.
    pub async fn close(&self) -> Result<(), CloseError> {
        Ok(())
    }
}
