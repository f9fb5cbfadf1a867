//! How much of the disk the queue may take.
//!
//! On a full file system a write-ahead queue is dead: DELETE, checkpoint and INSERT all fail. Below `max_page_count` all
//! three go on working. So the cap is the smaller of what is configured and what the file system leaves, less a
//! reserve, looked at again every minute (every five seconds while the disk is short) and after every failure. Blocks that
//! are needed soon are held in advance (module `footing`). The log counts too: it starts over every
//! sixteenth of the size, and until then one transaction may come on top, with half of that in removals, as much
//! in records, and a little more in evictions. So three sixteenths (12 MiB at most) are set apart for it.

use std::path::Path;

use rusqlite::Connection;

use crate::options::Options;
use crate::sqlite::{signed, unsigned};

/// SQLite's page, as created.
pub(crate) const PAGE: u64 = 4096;
/// Less than this can't hold the tables and one large batch.
const SMALLEST: u64 = 1 << 20;
const LOG_MIN: u64 = 128 << 10;
const LOG_MAX: u64 = 4 << 20;
/// Kept free on the file system, unless that is small.
const RESERVE: u64 = 32 << 20;

/// The numbers that follow from configuration and file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    /// Most pages of the database.
    pub max_pages: u64,
    /// Checkpoint when the log has this many pages.
    pub log_pages: u64,
    /// Bytes of one transaction, one batch at least.
    pub transaction: usize,
    /// The file system, not the configuration, sets the bound.
    pub by_disk: bool,
}

/// Pages in use and pages there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    pub pages: u64,
    pub free: u64,
}

impl Room {
    /// Looks at the file system. Where that can't be asked, the configured size stands.
    pub(crate) fn measure(path: &Path, options: &Options) -> Self {
        let wanted = options.max_size.bytes().max(SMALLEST);
        let available = match rustix::fs::statvfs(path) {
            Ok(fs) => {
                let reserve = RESERVE.min(fs.f_blocks.saturating_mul(fs.f_frsize) / 8);
                crate::footing::occupied(path) + fs.f_bavail.saturating_mul(fs.f_frsize).saturating_sub(reserve)
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "free space unknown, only the configured size bounds the queue");
                u64::MAX
            }
        };
        Self { by_disk: available < wanted, ..Self::within(wanted.min(available.max(SMALLEST))) }
    }

    fn within(total: u64) -> Self {
        let log = (total / 16).clamp(LOG_MIN, LOG_MAX);
        Self {
            max_pages: (total - 3 * log) / PAGE,
            log_pages: log / PAGE,
            transaction: usize::try_from(log / 2).unwrap_or(usize::MAX),
            by_disk: false,
        }
    }

    /// Makes SQLite hold to it. A file that is larger already keeps its size and takes no further page.
    pub(crate) fn apply(self, conn: &Connection) -> Result<(), rusqlite::Error> {
        conn.pragma_update(None, "max_page_count", signed(self.max_pages))?;
        // The log keeps the blocks that it holds.
        conn.pragma_update(None, "journal_size_limit", signed(self.log_bytes()))?;
        conn.pragma_update(None, "wal_autocheckpoint", signed(self.log_pages))
    }

    /// The most that the log may take.
    pub(crate) fn log_bytes(self) -> u64 {
        3 * self.log_pages * PAGE
    }

    /// Pages kept free for what deleting and rebalancing need.
    pub(crate) fn slack(self) -> u64 {
        (self.max_pages / 64).max(16)
    }

    /// Pages that `bytes` of records or values need, about. Long bodies waste part of their pages.
    pub(crate) fn pages(bytes: usize) -> u64 {
        let bytes = bytes as u64;
        (bytes + bytes / 4) / PAGE + 8
    }

    /// How many pages are missing for `pages` more.
    pub(crate) fn missing(self, usage: Usage, pages: u64) -> u64 {
        let used = usage.pages.saturating_sub(usage.free);
        (used + pages + self.slack()).saturating_sub(self.max_pages)
    }
}

impl Usage {
    /// Asks SQLite, inside a transaction too.
    pub(crate) fn measure(conn: &Connection) -> Result<Self, rusqlite::Error> {
        let mut pages = conn.prepare_cached("PRAGMA page_count")?;
        let mut free = conn.prepare_cached("PRAGMA freelist_count")?;
        Ok(Self {
            pages: unsigned(pages.query_row([], |row| row.get(0))?),
            free: unsigned(free.query_row([], |row| row.get(0))?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_and_database_stay_within_the_size() {
        for total in [1 << 20, 8 << 20, 64 << 20, 1 << 30] {
            let room = Room::within(total);
            assert!(room.max_pages * PAGE + 3 * room.log_pages * PAGE <= total);
            assert!(room.max_pages * PAGE >= total / 2, "{total}: {room:?}");
        }
    }
}
