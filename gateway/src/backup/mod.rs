//! Back-up and restore: what is precious of a gateway, in one encrypted file, and the way back.
//!
//! | module | what |
//! |---|---|
//! | `archive` | the file: a tar in an age envelope, a manifest first; every byte is checked before anything is believed |
//! | `collect` | what belongs to a gateway: state.db, the CA, OPC UA certificates, the configuration and the files it names |
//! | `place` | restoring: staged in the data directory, put in place by one rename, finished by whoever comes next |
//!
//! The queue is not part of it. Messages that wait in it move on within minutes: put back days later they would be sent a
//! second time, and settled ones with them. Retained messages and sessions live there too; clients make them anew.

mod archive;
mod collect;
mod place;

use fieldgate_types::DeviceId;

pub use archive::{Archive, ArchiveError, Entry, Listed, Manifest, open, seal};
pub use collect::{CollectError, Collected, Settings, collect};
pub use place::{RestoreError, Restored, Settled, restore, settle, unsettled};

/// state.db at one moment, and whose it is.
#[derive(Debug)]
pub struct Snapshot {
    /// The gateway's id.
    pub gateway: DeviceId,
    /// The boot counter.
    pub boot: u64,
    /// The file.
    pub state: Vec<u8>,
}

/// Below it, in the archive: what lies in the data directory.
const DATA: &str = "data";
/// The configuration file, and what lies beside and below it.
const CONFIG: &str = "config";
/// Files that the configuration names elsewhere, by their whole path.
const OUTSIDE: &str = "outside";
