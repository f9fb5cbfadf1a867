//! What the queue says about itself: health, figures, the loss ledger. Plain data.

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Duration;

use fieldgate_types::{DeviceId, UnixMillis};

/// Whether commits go through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Health {
    /// They do.
    #[default]
    Ok,
    /// They wait; nothing is acknowledged. The writer keeps trying by itself.
    Refusing {
        /// Since when.
        since: UnixMillis,
        /// What was reported, for people.
        reason: String,
    },
}

impl Health {
    /// Whether commits go through.
    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Ok)
    }
}

/// The queue in figures.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Records waiting, leased ones included.
    pub messages: u64,
    /// Their payload in bytes.
    pub bytes: u64,
    /// Size of queue.db and its log on disk.
    pub file_bytes: u64,
    /// Most that queue.db itself may take now: the configured size or what the file system leaves.
    pub capacity_bytes: u64,
    /// What of the capacity is in use.
    pub used_bytes: u64,
    /// How long the whole capacity lasts at the present rate of reception, an average over about an hour of running
    /// time; absent while nothing comes.
    pub holds: Option<Duration>,
    /// How long what is free of it lasts.
    pub left: Option<Duration>,
    /// Reception time of the oldest record.
    pub oldest: Option<UnixMillis>,
    /// Transactions since the start.
    pub commits: u64,
    /// How long the last one took, fsync included.
    pub last_commit: Duration,
    /// Batches waiting for their commit.
    pub queued_batches: usize,
    /// Records leased and not settled.
    pub leased: usize,
    /// Records settled whose removal is not durable yet: a crash now would send them again.
    pub settling: usize,
    /// Records that wait in memory for the consumer's word and are not durable, nor is their batch answered.
    pub held: usize,
    /// Records since the start that were delivered and answered without being written.
    pub passed: u64,
    /// Whether commits go through.
    pub health: Health,
    /// An alarm: the queue was damaged, its file was kept here and a fresh one was begun.
    pub set_aside: Option<PathBuf>,
    /// Records are on their way out of that file; nothing is leased until they are here.
    pub salvaging: bool,
}

/// A way through the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneReport {
    /// `priority`, `live`, `history`; `older`: what waited before the consumer came back, where live records go first.
    pub name: &'static str,
    /// Records with the consumer.
    pub leased: usize,
    /// Records in memory that go next; more may lie on disk.
    pub next: usize,
}

/// Why records went without being delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LossKind {
    /// Too old, or its own expiry passed.
    Expired,
    /// It made room for a newer one.
    Evicted,
    /// It was unreadable or unwanted, and is kept aside.
    Quarantined,
}

impl LossKind {
    /// Word for logs, labels and the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Evicted => "evicted",
            Self::Quarantined => "quarantined",
        }
    }
}

/// One line of explanation in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// What happened.
    pub kind: LossKind,
    /// Why, from a closed set such as `max-age` or `max-size`.
    pub reason: Cow<'static, str>,
    /// How many records.
    pub count: u64,
}

/// The loss ledger of one device: received = delivered + waiting + expired + evicted + quarantined, always.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceLedger {
    /// The device.
    pub device: DeviceId,
    /// Committed.
    pub received: u64,
    /// Settled.
    pub delivered: u64,
    /// In the queue.
    pub waiting: u64,
    /// Too old.
    pub expired: u64,
    /// Made room.
    pub evicted: u64,
    /// Kept aside.
    pub quarantined: u64,
    /// The last three by reason.
    pub losses: Vec<Loss>,
    /// What expired or was evicted since the consumer was last told of it.
    pub gaps: Vec<Gap>,
}

/// Records of one device that never reach the consumer, for one reason; to be told to whoever is behind it. It stays
/// until a batch says that it was told, see [`crate::Batch::told`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The device.
    pub device: DeviceId,
    /// Expired or evicted.
    pub kind: LossKind,
    /// Why, as in [`Loss`].
    pub reason: Cow<'static, str>,
    /// How many records.
    pub count: u64,
    /// Reception time of the oldest of them, about.
    pub first: UnixMillis,
    /// Reception time of the youngest.
    pub last: UnixMillis,
}
