//! What can go wrong, one enum per family of operations.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::record::RecordId;

/// A database could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The file system refused.
    #[error("can't use `{path}`: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// SQLite refused, and not because the file is damaged.
    #[error("can't open `{path}`: {source}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// A newer Fieldgate wrote the file.
    #[error(
        "`{path}` has format {found}, this program knows up to {known}: install the newer Fieldgate that wrote it; \
         to go back to this one, restore a backup that it made"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Format in the file.
        found: i64,
        /// Newest format of this program.
        known: i64,
    },
    /// state.db is damaged; it is never replaced by itself.
    #[error(
        "`{path}` is damaged ({source}): stop, restore it from a backup with `fieldgate restore`; without a backup \
         move it away, then every device must be enrolled anew"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        source: rusqlite::Error,
    },
    /// The file is a database, but not one of ours.
    #[error("`{path}` is a database of another program: move it away, or name another [gateway] data_dir")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The SQLite library can corrupt a database in write-ahead mode.
    #[error("SQLite {found} is linked, 3.51.3 or newer is needed: older ones can corrupt a write-ahead database")]
    OldSqlite {
        /// Version of the library.
        found: &'static str,
    },
}

/// A read or commit of state.db failed.
#[derive(Debug, Error)]
pub enum StateError {
    /// SQLite refused; nothing was acknowledged. After a failed commit the old values may still show up as changed:
    /// read again before deciding.
    #[error("state.db: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The copy for a snapshot can't be read or removed.
    #[error("can't copy state.db to `{path}`: {source}")]
    Snapshot {
        /// The copy.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file could not be opened again after an earlier failure.
    #[error(transparent)]
    Reopen(#[from] OpenError),
}

/// A batch was not committed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CommitError {
    /// The queue is closed or closing.
    #[error("the queue is closed")]
    Closed,
    /// No emptying of the queue would ever make room for it.
    #[error("a batch of {bytes} bytes is too large, at most {limit} fit")]
    TooLarge {
        /// Size of the batch.
        bytes: usize,
        /// Largest batch.
        limit: usize,
    },
}

/// Nothing can be leased.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LeaseError {
    /// The queue is closed or closing.
    #[error("the queue is closed")]
    Closed,
    /// Another consumer leases from this queue; there is room for one so far.
    #[error("`{asked}` can't lease, the queue has the consumer `{holder}`")]
    OtherConsumer {
        /// Who asked.
        asked: &'static str,
        /// Who leases.
        holder: &'static str,
    },
}

/// A record was not settled; it will be leased again after the next start.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SettleError {
    /// The queue is closed.
    #[error("the queue is closed")]
    Closed,
}

/// A table could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ScanError {
    /// The queue is closed or closing.
    #[error("the queue is closed")]
    Closed,
    /// SQLite refused.
    #[error("can't read from the queue: {0}")]
    Read(String),
}

/// Records that are kept aside were left as they are.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AsideError {
    /// The queue is closed or closing.
    #[error("the queue is closed")]
    Closed,
    /// One of them was spoiled by damage and must never be sent.
    #[error("the record {id} is kept aside for `{reason}`: it is not what was written and can only be dropped")]
    Spoiled {
        /// Which.
        id: RecordId,
        /// Why.
        reason: String,
    },
    /// There is no room, or the disk failed.
    #[error("the queue can't be changed now: {0}")]
    Refused(String),
}

/// The queue did not end well; nothing that was acknowledged is lost.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CloseError {
    /// The disk refused the last transaction: these batches were answered with [`CommitError::Closed`].
    #[error("{batches} batches could not be stored before the end: {reason}")]
    NotFlushed {
        /// How many.
        batches: usize,
        /// Why.
        reason: String,
    },
    /// The writer ended by itself, which is a defect.
    #[error("the writer thread ended early")]
    WriterLost,
}

/// The data directory is taken or can't be used.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("`{path}` is held by the process {pid}: a gateway runs on this data directory already, stop it first")]
    Held {
        /// The lock file.
        path: PathBuf,
        /// The process id that it wrote there, or `?`.
        pid: String,
    },
    /// The file system refused.
    #[error("can't lock `{path}`: {source}")]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
