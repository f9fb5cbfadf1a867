//! The durable queue and the small tables of the gateway, on SQLite.
//!
//! Two files. `state.db` ([`State`]) holds small precious tables and the boot counter; `queue.db` ([`Queue`]) holds
//! records on their way to a consumer, and tables that change together with them. [`DirectoryLock`] keeps a second
//! gateway away from both. Nothing here knows samples, MQTT or TLS: a record is a [`Header`] and an opaque body.
//!
//! # Constraints
//! - What [`Queue::commit`] has answered survives `kill -9` and a power cut, or the consumer has settled it. There is no
//!   fallback to memory.
//! - Order per lane is commit order. (device, boot, seq) names a message for ever.
//! - received = delivered + waiting + expired + evicted + quarantined, for each device, at any moment, after any crash.
//! - Memory and disk are bounded by [`Options`]; a full disk is no deadlock; a damaged file is no end.
//! - No caller's thread touches the disk: callers talk to the writer's thread and wait without blocking.
//!
//! # Format of queue.db
//! SQLite in write-ahead mode, `synchronous = FULL`, `user_version` = 2, locked exclusively while the gateway runs.
//! | table | holds |
//! |---|---|
//! | `lane_0`, `lane_1`, `lane_2` | one row per waiting record: id, device, boot, seq, time, expires, born, deadline, continues, crc, body |
//! | `devices`, `losses` | the ledger: counters and last sequence number of each device; losses by kind and reason |
//! | `quarantine` | records kept aside, the youngest 1,000; the first to go when room is short |
//! | `small` | the named tables of [`Put`] and [`Delete`] |
//! | `gaps` | per device, kind and reason: what was lost since the consumer was last told, see [`Gap`] |
//! | `clock` | running time and wall clock, saved once a minute |
//!
//! Ids ascend over all lanes. The next one is the sum of all that was ever received plus one, so it needs no counter of
//! its own and never comes twice. `crc` is a CRC32C over header and body. `continues` ties a record to the one before it in its
//! batch and lane.
//!
//! # Write path
//! `commit` puts its batch into the inbox, in the call, and waits. While a consumer is there, the writer takes whatever is
//! there when its last transaction ends, no linger; while none is, transactions are spaced to spare the flash (module
//! `spacing`, `docs/decisions/0007-queue-format.md`). It takes up to 1/32 of the size (2 MiB at most) at once,
//! and in one transaction: takes off what has left, drops what is too old, makes room, appends, sets keys, writes the
//! counters of the devices concerned (a transaction that only appends may leave them for later: module `ledger`). After the sync
//! it publishes counters, hands the records to the desk, then answers.
//! Counters in memory change with the transaction and go back with it.
//!
//! # Held in memory
//! With [`Options::hold`] a batch waits in memory for the word of a consumer that is quick, and is answered without ever being
//! written when all of it is settled in time (module `hold`, `docs/decisions/0014-acknowledge-either.md`).
//!
//! # Read path
//! The desk, in memory, knows per lane a cursor and two stretches of records from it on: what was read ahead, and a tail
//! of what was committed last (8 MiB or 16,384 records). While the consumer keeps up, records go from the commit to the lease without
//! a read. Otherwise the writer reads ahead, 1 MiB at a time between two transactions, and verifies each record's CRC; a bad one is
//! quarantined. Leases live in memory only: a rewind or a restart sets the cursor back to the first record not settled.
//!
//! # Deletion
//! Settled, expired and quarantined records leave within 50 ms, at once when there are 1,024 of them, in runs of neighbouring
//! ids; most transactions only append (`docs/decisions/0023-removals.md`). Until that is durable they count as waiting, and a
//! crash sends them again: [`QueueStats::settling`] says how many. Near the size limit each transaction takes them along.
//! At the size limit records are evicted in the same transaction that needs the room: whole batches, never a leased record, which
//! may be on the wire. A device that holds more than its share of what waits gives way first (modules `overflow`, `shares`,
//! `swath`, `docs/decisions/0019-device-shares.md`); then the oldest of all go: history lane first, and the priority lane last
//! unless it has more than a quarter of the room. With [`Overflow::Refuse`], or with nothing left to evict, commits wait.
//! Ages count in running time (module `age`): a step of the clock expires nothing.
//!
//! # When the disk is full
//! The size is capped by what is configured and by what the file system leaves, less a reserve (module `room`); what is needed
//! next is held in advance (module `footing`). So the queue goes on, evicting for `disk-full`, when somebody else
//! takes the last byte, while it runs or before it starts. Where no blocks can be held, commits wait until there is room.
//!
//! # When the disk fails
//! Nothing is answered, [`Health::Refusing`] says why, the connection is closed and opened again until a transaction
//! succeeds (module `recovery`). A damaged queue.db is renamed to `queue.db.corrupt-<time>`, a fresh one
//! begun at once, and what can be read comes back from the old one (module `salvage`): tables and counters before the queue opens,
//! records between transactions and under their old ids. Commits go on meanwhile; leases wait until all is back, so that the order
//! per device stays commit order. What does not come back stays quarantined for `damaged-file`, and so does what
//! the consumer had passed unseen before the damage was met, which would come out of order; so does, after a crash in the
//! middle, what was not back by then. A damaged log that SQLite takes for one that ends early is not seen: the file is then in
//! an older state that is sound in itself. state.db is never replaced.

mod age;
mod aside;
mod attempt;
mod desk;
mod ending;
mod entry;
mod error;
mod faults;
mod footing;
mod hold;
mod ids;
mod inbox;
mod ledger;
mod lock;
mod migrations;
mod opening;
mod options;
mod outcome;
mod overflow;
mod queue;
mod rate;
mod reading;
mod record;
mod recovery;
mod restoring;
mod room;
mod rows;
mod salvage;
mod schema;
mod shared;
mod shares;
mod shelf;
mod spacing;
mod sqlite;
mod state;
mod stats;
mod swath;
#[cfg(test)]
mod tests;
mod writer;

pub use error::{
    AsideError, CloseError, CommitError, LeaseError, LockError, OpenError, ScanError, SettleError, StateError,
};
pub use lock::DirectoryLock;
pub use options::{Options, Overflow};
pub use queue::{Committing, Queue};
pub use record::{
    Append, Aside, Batch, Committed, Delete, Header, Lane, Pairs, Put, REPLAYED_AFTER, Receipt, Record, RecordId,
};
pub use state::State;
pub use stats::{DeviceLedger, Gap, Health, LaneReport, Loss, LossKind, QueueStats};
