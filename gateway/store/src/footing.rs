//! Blocks of the file system held in advance, so that somebody else who fills the disk does not stop the queue.
//!
//! A transaction writes to the log, and its checkpoint to the end of the database: both need blocks that a file system
//! filled to the last byte no longer gives. So both files hold blocks behind their end (`fallocate`, the size stays): the
//! log as much as it may ever take, the database as much as the log may bring. What can't be held is taken off
//! `max_page_count`, and the queue goes on within what it has. A checkpoint cuts the database to its size, blocks behind
//! it included, so they are looked at after each transaction; the log goes with a tidy close, and the database then
//! holds its blocks until the next start.
//!
//! Copy-on-write file systems promise nothing here, and some know no `fallocate`: there a full disk means that commits
//! wait, see [`crate::recovery`].
//!
//! The handles are kept as long as the connection: closing one would take SQLite's locks away with it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::room::{PAGE, Room};
use crate::sqlite::beside;

/// The two files, and whether their file system can hold blocks.
#[derive(Debug)]
pub(crate) struct Footing {
    database: File,
    log: File,
    able: bool,
    /// What was wanted and the database's blocks when it was last held: nothing is asked of the file system as long as they
    /// are the same, which most transactions leave them.
    held: Option<(u64, u64)>,
}

impl Footing {
    /// Takes hold of the files of an open queue.
    pub(crate) fn open(path: &Path, room: Room) -> io::Result<Self> {
        let open = |path: &Path| OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut footing = Self { database: open(path)?, log: open(&beside(path, "-wal"))?, able: true, held: None };
        if let Err(error) = footing.hold_log(room) {
            // What the last close left behind the database is for this moment.
            let len = footing.database.metadata()?.len();
            footing.database.set_len(len)?;
            match footing.hold_log(room) {
                Ok(()) => {}
                Err(_) if error == Errno::NOSPC => {
                    tracing::warn!("the disk is full: the queue may have to wait for room for its log");
                }
                Err(error) => {
                    tracing::debug!(%error, "the file system holds no blocks in advance");
                    footing.able = false;
                }
            }
        }
        Ok(footing)
    }

    fn hold_log(&self, room: Room) -> Result<(), Errno> {
        fallocate(&self.log, FallocateFlags::KEEP_SIZE, 0, room.log_bytes())
    }

    /// Holds what the next transactions need, and gives `room` with no more pages than there are blocks for.
    pub(crate) fn hold(&mut self, room: Room) -> io::Result<Room> {
        if !self.able {
            return Ok(room);
        }
        let meta = self.database.metadata()?;
        let (len, blocks) = (meta.len(), meta.blocks() * 512);
        let most = room.max_pages * PAGE;
        let wanted = (len + room.log_bytes()).min(most);
        if self.held == Some((wanted, blocks)) {
            return Ok(room);
        }
        self.held = None;
        // The file system's own blocks for its bookkeeping are in `blocks` too.
        if wanted <= len || blocks >= wanted + wanted / 256 + (64 << 10) {
            return Ok(room);
        }
        match fallocate(&self.database, FallocateFlags::KEEP_SIZE, len, wanted - len) {
            Ok(()) => {
                self.held = Some((wanted, self.database.metadata()?.blocks() * 512));
                Ok(room)
            }
            Err(Errno::NOSPC) => {
                // Half of it may still be there; else nothing grows.
                let half = (wanted - len) / 2 / PAGE * PAGE;
                let held = half > 0 && fallocate(&self.database, FallocateFlags::KEEP_SIZE, len, half).is_ok();
                let sure = if held { len + half } else { len };
                Ok(Room { max_pages: room.max_pages.min(sure / PAGE), by_disk: true, ..room })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// After a tidy close: holds the blocks that the log has given back, until the next start.
    pub(crate) fn keep(self, room: Room) {
        if !self.able {
            return;
        }
        let held = self.database.metadata().and_then(|meta| {
            fallocate(&self.database, FallocateFlags::KEEP_SIZE, meta.len(), room.log_bytes())?;
            Ok(())
        });
        if let Err(error) = held {
            tracing::debug!(%error, "no blocks held for the next start");
        }
    }
}

/// Bytes on disk, those held in advance included.
pub(crate) fn occupied(path: &Path) -> u64 {
    [path.to_owned(), beside(path, "-wal")]
        .iter()
        .map(|path| std::fs::metadata(path).map_or(0, |meta| meta.blocks().saturating_mul(512)))
        .sum()
}
