//! The durable queue and the small tables of the gateway, on SQLite.

mod age;
mod attempt;
mod desk;
mod entry;
mod error;
mod faults;
mod inbox;
mod ledger;
mod lock;
mod opening;
mod options;
mod queue;
mod reading;
mod record;
mod recovery;
mod room;
mod schema;
mod shared;
mod sqlite;
mod state;
mod stats;
#[cfg(test)]
mod tests;
mod writer;

pub use error::{CloseError, CommitError, LeaseError, LockError, OpenError, ScanError, SettleError, StateError};
pub use lock::DirectoryLock;
pub use options::{Options, Overflow};
pub use queue::Queue;
pub use record::{
    Append, Batch, Committed, Delete, Header, Lane, Pairs, Put, REPLAYED_AFTER, Receipt, Record, RecordId,
};
pub use state::State;
pub use stats::{DeviceLedger, Health, Loss, LossKind, QueueStats};
