//! Opening queue.db: prepare, read what must be known, and set a damaged file aside.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use fieldgate_types::UnixMillis;
use rusqlite::Connection;

use crate::OpenError;
use crate::footing::Footing;
use crate::ledger::Ledger;
use crate::options::Options;
use crate::reading;
use crate::restoring;
use crate::room::Room;
use crate::salvage::Salvage;
use crate::schema::{self, FORMAT, Loaded};
use crate::sqlite::{self, Sharing, beside, is_damage};

/// An open queue file.
#[derive(Debug)]
pub(crate) struct Opened {
    pub conn: Connection,
    pub room: Room,
    pub loaded: Loaded,
    pub ledger: Ledger,
    /// After the connection: it must not be closed before.
    pub footing: Footing,
    /// A damaged file lay there: where it went, and what can still be had from it.
    pub set_aside: Option<PathBuf>,
    pub salvage: Option<Salvage>,
}

/// Opens the file, creating it where there is none.
pub(crate) fn open(path: &Path, options: &Options) -> Result<Opened, OpenError> {
    let failed = |source| OpenError::Sqlite { path: path.to_owned(), source };
    let conn = sqlite::open(path, Sharing::Exclusive).map_err(failed)?;
    let room = Room::measure(path, options);
    match schema::prepare(&conn).map_err(failed)? {
        Ok(()) => {}
        Err(found) => return Err(OpenError::Newer { path: path.to_owned(), found, known: FORMAT }),
    }
    room.apply(&conn).map_err(failed)?;
    let mut loaded = schema::load(&conn).map_err(failed)?;
    let mut ledger = Ledger::load(std::mem::take(&mut loaded.rows), loaded.base);
    reading::recount(&conn, &mut ledger).map_err(failed)?;
    ledger.raise(loaded.newest_id);
    let footing = Footing::open(path, room).map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
    Ok(Opened { conn, room, loaded, ledger, footing, set_aside: None, salvage: None })
}

/// As [`open`], but a damaged file is set aside and a fresh one begun.
pub(crate) fn open_or_replace(path: &Path, options: &Options, now: UnixMillis) -> Result<Opened, OpenError> {
    match open(path, options) {
        Ok(opened) => Ok(opened),
        Err(OpenError::Sqlite { source, .. }) if is_damage(&source) => {
            let kept = set_aside(path, now).map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
            tracing::error!(path = %path.display(), kept = %kept.display(), error = %source, "queue damaged, set aside");
            let mut opened = open(path, options)?;
            let failed = |source| OpenError::Sqlite { path: path.to_owned(), source };
            opened.salvage = restoring::restore(&kept, path, &mut opened).map_err(failed)?;
            opened.set_aside = Some(kept);
            Ok(opened)
        }
        Err(other) => Err(other),
    }
}

/// Renames the file and its side files to `<name>.corrupt-<time>`; no connection may be open.
pub(crate) fn set_aside(path: &Path, now: UnixMillis) -> Result<PathBuf, io::Error> {
    let mut kept = beside(path, &format!(".corrupt-{now}"));
    let mut further = 1;
    while kept.exists() {
        kept = beside(path, &format!(".corrupt-{now}-{further}"));
        further += 1;
    }
    // The log first: left behind alone it would be taken for the fresh file's.
    for suffix in ["-wal", "-shm", ""] {
        match std::fs::rename(beside(path, suffix), beside(&kept, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        File::open(folder)?.sync_all()?;
    }
    Ok(kept)
}
