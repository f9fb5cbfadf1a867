//! What the handle and the writer share: the desk, the report, and who waits for what.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use fieldgate_types::{DeviceId, Pulse};
use tokio::sync::Notify;

use crate::desk::Desk;
use crate::record::Lane;
use crate::stats::{DeviceLedger, QueueStats};

/// Published by the writer after each transaction.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub stats: QueueStats,
    pub ledger: BTreeMap<DeviceId, DeviceLedger>,
}

/// Shared between all handles and the writer. Its locks are held for short work in memory only.
#[derive(Debug)]
pub(crate) struct Shared {
    desk: Mutex<Desk>,
    report: Mutex<Report>,
    arrivals: [Notify; 3],
    eased: Notify,
    /// Of the writer.
    pub(crate) pulse: Pulse,
}

impl Shared {
    pub(crate) fn new(desk: Desk, report: Report, pulse: Pulse) -> Self {
        let (arrivals, eased) = Default::default();
        Self { desk: Mutex::new(desk), report: Mutex::new(report), arrivals, eased, pulse }
    }

    pub(crate) fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rings when `lane` may have something to lease.
    pub(crate) fn arrival(&self, lane: Lane) -> &Notify {
        lane.of(&self.arrivals)
    }

    /// Wakes whoever waits to lease.
    pub(crate) fn arrived(&self) {
        for lane in Lane::ALL {
            self.arrival(lane).notify_waiters();
        }
    }

    /// Rings when removals have left the disk.
    pub(crate) fn eased(&self) -> &Notify {
        &self.eased
    }

    /// Nothing can be leased any more.
    pub(crate) fn close(&self) {
        self.desk().closed = true;
        self.arrived();
        self.eased.notify_waiters();
    }
}
