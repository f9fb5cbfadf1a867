//! The durable queue and the small tables of the gateway, on SQLite.

mod error;
mod lock;
mod options;
mod queue;
mod record;
mod state;
mod stats;

pub use error::{CloseError, CommitError, LeaseError, LockError, OpenError, ScanError, SettleError, StateError};
pub use lock::DirectoryLock;
pub use options::{Options, Overflow};
pub use queue::Queue;
pub use record::{Append, Batch, Committed, Delete, Header, Lane, Put, REPLAYED_AFTER, Receipt, Record, RecordId};
pub use state::State;
pub use stats::{DeviceLedger, Health, Loss, LossKind, QueueStats};
