//! What goes into the queue and what comes out of it: batches, records, their headers. Plain data.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use fieldgate_types::{DeviceId, UnixMillis};

use crate::stats::Gap;

/// One of the three roads through the queue. Order holds within a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// States and command results.
    Priority = 0,
    /// Telemetry as it comes.
    Live = 1,
    /// Telemetry that yields to live telemetry.
    History = 2,
}

impl Lane {
    /// All of them, the most urgent first.
    pub const ALL: [Self; 3] = [Self::Priority, Self::Live, Self::History];

    /// Word for logs and labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Priority => "priority",
            Self::Live => "live",
            Self::History => "history",
        }
    }

    /// Its own of what there is for each lane.
    pub(crate) fn of<T>(self, all: &[T; 3]) -> &T {
        let [priority, live, history] = all;
        match self {
            Self::Priority => priority,
            Self::Live => live,
            Self::History => history,
        }
    }

    /// The same, to be changed.
    pub(crate) fn of_mut<T>(self, all: &mut [T; 3]) -> &mut T {
        let [priority, live, history] = all;
        match self {
            Self::Priority => priority,
            Self::Live => live,
            Self::History => history,
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A message to be stored until the consumer has settled it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    /// Whose message it is; order, sequence numbers and the ledger go by it.
    pub device: DeviceId,
    /// Which lane it takes.
    pub lane: Lane,
    /// When it was received.
    pub time: UnixMillis,
    /// When it is worth nothing any more. Turned into a remaining life at the commit, so that a step of the wall
    /// clock afterwards doesn't end it.
    pub expires: Option<UnixMillis>,
    /// Opaque to the store.
    pub body: Bytes,
}

/// Keys and values of a small table.
pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Sets `key` of a small table to `value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// Name of the table; it needs no declaration.
    pub table: &'static str,
    /// Key, unique in the table; [`crate::State::scan`] and [`crate::Queue::scan`] sort by it.
    pub key: Vec<u8>,
    /// Value.
    pub value: Vec<u8>,
}

/// Removes `key` from a small table; nothing happens when it isn't there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delete {
    /// Name of the table.
    pub table: &'static str,
    /// Key.
    pub key: Vec<u8>,
}

/// Everything in it becomes durable together, or nothing of it. Appends keep their order; deletes of keys are
/// done before puts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Messages for the queue.
    pub appends: Vec<Append>,
    /// Keys to set.
    pub puts: Vec<Put>,
    /// Keys to remove.
    pub deletes: Vec<Delete>,
    /// Gaps, as [`crate::Queue::gaps`] gave them, of which the consumer has told or tells with an append of this batch.
    /// What was lost since stays a gap.
    pub told: Vec<Gap>,
    /// It must be durable before it is answered, whatever the consumer says meanwhile ([`crate::Options::hold`]). A batch
    /// with anything but appends always must.
    pub durable: bool,
}

impl Batch {
    /// A batch of one message.
    pub fn append(append: Append) -> Self {
        Self { appends: vec![append], ..Self::default() }
    }

    /// Whether somebody at the gateway waits for it besides its sender.
    pub(crate) fn urgent(&self) -> bool {
        let priority = self.appends.iter().any(|append| append.lane == Lane::Priority);
        priority || !self.told.is_empty() || !self.puts.is_empty() || !self.deletes.is_empty()
    }

    /// Whether the consumer's word is as good as the disk's.
    pub(crate) fn may_be_held(&self) -> bool {
        !self.durable && !self.appends.is_empty() && !self.urgent()
    }

    /// Bytes it occupies while it waits for its commit, about.
    pub fn bytes(&self) -> usize {
        let appends: usize = self.appends.iter().map(|a| a.body.len() + RECORD_OVERHEAD).sum();
        let puts: usize = self.puts.iter().map(|p| p.key.len() + p.value.len() + ROW_OVERHEAD).sum();
        let deletes: usize = self.deletes.iter().map(|d| d.key.len() + ROW_OVERHEAD).sum();
        appends + puts + deletes
    }
}

/// A record's header in memory and, rounded up, on disk.
pub(crate) const RECORD_OVERHEAD: usize = 96;
/// A key's row besides key and value.
const ROW_OVERHEAD: usize = 48;

/// Names a record within one queue file; ascending in commit order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId(pub u64);

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the store knows of a record besides its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Whose message it is.
    pub device: DeviceId,
    /// The lane it took.
    pub lane: Lane,
    /// The start of the gateway in which it was committed.
    pub boot: u64,
    /// Counts the messages of this device in this boot, from 1, without gaps, over all lanes.
    pub seq: u64,
    /// When it was received.
    pub time: UnixMillis,
    /// When it is worth nothing any more, as the sender of the append said it.
    pub expires: Option<UnixMillis>,
}

/// A leased record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// For `settle` and `quarantine`.
    pub id: RecordId,
    /// What is known of it.
    pub header: Header,
    /// What was appended.
    pub body: Bytes,
    /// It is not live: it was leased more than [`REPLAYED_AFTER`] after its commit, or was stored before this start; in a
    /// queue that was parted, it lay there then ([`crate::Queue::part`]).
    pub replayed: bool,
    /// What is left of its life, where `expires` was given; steps of the wall clock don't touch it.
    pub remaining: Option<Duration>,
}

/// A record that is kept aside: quarantined, with its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aside {
    /// Its name; after a retry it has another.
    pub id: RecordId,
    /// What is known of it.
    pub header: Header,
    /// Why, from a closed set such as `not-authorized`.
    pub reason: String,
    /// Since when.
    pub since: UnixMillis,
    /// What was appended.
    pub body: Bytes,
    /// It is not what was written: it can't be sent.
    pub spoiled: bool,
}

/// A record leased later than this after its commit counts as replayed.
pub const REPLAYED_AFTER: Duration = Duration::from_secs(2);

/// Where one append ended up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Its name in the queue.
    pub id: RecordId,
    /// Its boot.
    pub boot: u64,
    /// Its sequence number.
    pub seq: u64,
}

/// A batch is durable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed {
    /// One per append, in their order.
    pub receipts: Vec<Receipt>,
}
