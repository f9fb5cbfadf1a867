//! Putting a backup in its place: all of it or nothing, whenever the process dies.
//!
//! 1. The archive has been checked. The data directory holds nothing but its lock, which is ours.
//! 2. Everything is written to `<data_dir>/restoring` and synced: data, configuration, and a note where that goes. The
//!    state is opened there and brought to the present format, its boot counter raised, the CA opened.
//! 3. `restoring` is renamed to `restored`. This is the moment: before it nothing was restored, after it everything.
//! 4. What lies in `restored` is moved to where it belongs; the configuration file is the last. Then `restored` is renamed
//!    to `restored.done`, and removed.
//!
//! Whoever takes the lock next calls [`settle`]: it removes `restoring`, and does step 4 again for `restored`, which may
//! be done any number of times.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use fieldgate_certs::durable::{self, Existing};
use fieldgate_certs::{AuthorityKind, Ca, CaError};
use fieldgate_store::{DirectoryLock, LockError, OpenError, State, StateError};
use fieldgate_types::{Clock, DeviceId, UnixMillis};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::archive::{Archive, Entry};
use super::collect::folder_of;
use super::{CONFIG, DATA, OUTSIDE};
use crate::audit::{Audit, Event, forget_end};

#[cfg(test)]
mod tests;

/// Not complete: to be removed.
const RESTORING: &str = "restoring";
/// Complete: to be put in place.
const RESTORED: &str = "restored";
/// In place: to be removed.
const DONE: &str = "restored.done";
const NOTE: &str = "note.json";

/// All that a backup brings.
const PLACES: [&str; 6] = ["data/state.db", "data/ca", "data/opcua", "data/audit", CONFIG, OUTSIDE];

/// Boots that one restored gateway may see before its counter could reach the next restore's. Times the seconds since
/// 1970 this stays below 2^53, where JSON numbers end, until the year 2242.
const BOOTS: u64 = 1 << 20;

/// What a restore has done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// Whose back-up it was.
    pub gateway: DeviceId,
    /// When that was taken.
    pub taken: UnixMillis,
    /// The boot counter now; the next start has the number after it.
    pub boot: u64,
    /// The data directory.
    pub data_dir: PathBuf,
    /// The configuration file.
    pub configuration: PathBuf,
    /// Files from elsewhere: where they lie now, and where they were. Nothing is written outside by itself.
    pub outside: Vec<(PathBuf, PathBuf)>,
}

/// What was found of a former restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// There was none.
    Nothing,
    /// It had not been complete, and is gone.
    Undone,
    /// It had been complete, and is in place now.
    Finished(Restored),
}

/// Why nothing was restored, or not all of it is in place.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// There is something.
    #[error(
        "`{}` holds {found} already; a restore goes to an empty data directory: move it away, it may be the only copy",
        dir.display()
    )]
    Occupied {
        /// The data directory.
        dir: PathBuf,
        /// What was found.
        found: String,
    },
    /// A file of the configuration would be changed.
    #[error("`{}` is there already and differs from the one in the backup; move it away first", .0.display())]
    Differs(PathBuf),
    /// A gateway runs there.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The archive names something that a backup doesn't.
    #[error("the backup contains `{0}`, which has no place in a gateway")]
    Place(String),
    /// Its state can't be used.
    #[error("the state in the backup can't be used")]
    Open(#[from] OpenError),
    /// Its state can't be used.
    #[error("the state in the backup can't be used")]
    State(#[from] StateError),
    /// Its CA can't be used.
    #[error("the certificate authority in the backup can't be used")]
    Ca(#[from] CaError),
    /// Its audit log can't be continued.
    #[error("the audit log in the backup can't be used")]
    Audit(#[from] crate::audit::OpenError),
    /// It has none.
    #[error("there is no certificate authority in the backup")]
    NoCa,
    /// The note of an earlier restore can't be read.
    #[error("`{}` is damaged; remove the folder and restore again", .0.display())]
    Note(PathBuf),
    /// The disk refused.
    #[error("can't {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn io_at<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> RestoreError + 'a {
    move |source| RestoreError::Io { action, path: path.to_owned(), source }
}

/// Restores `archive` for the configuration file `file`. Its data directory is where the backup's configuration says, seen
/// from there.
pub fn restore(archive: &Archive, file: &Path, clock: &Arc<dyn Clock>) -> Result<Restored, RestoreError> {
    let manifest = &archive.manifest;
    let file = &std::path::absolute(file).map_err(io_at("find", file))?;
    let folder = folder_of(file);
    let dir = folder.join(&manifest.data_dir);
    refuse_what_is_there(&dir)?;
    let config: Vec<(&Entry, PathBuf)> =
        archive.entries.iter().filter_map(|entry| Some((entry, config_target(entry, archive, file)?))).collect();
    for (entry, target) in &config {
        refuse_other(target, &entry.content)?;
    }
    DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(io_at("make", &dir))?;
    let _lock = DirectoryLock::acquire(&dir)?;
    if let Settled::Finished(earlier) = settle(&dir)?
        && earlier.gateway == manifest.gateway
        && earlier.taken == manifest.taken
    {
        return Ok(earlier);
    }
    // Now that nobody else can change it.
    refuse_what_is_there(&dir)?;

    let stage = dir.join(RESTORING);
    let staged = prepare(archive, &stage, file, &dir, clock);
    let restored = match staged {
        Ok(restored) => restored,
        Err(error) => {
            if stage.exists() {
                remove(&stage)?;
            }
            return Err(error);
        }
    };
    fs::rename(&stage, dir.join(RESTORED)).map_err(io_at("rename", &stage))?;
    sync(&dir)?;
    finish(&dir)?;
    Ok(restored)
}

/// Undoes or finishes what an interrupted restore left in `dir`, whose lock the caller holds.
pub fn settle(dir: &Path) -> Result<Settled, RestoreError> {
    let (stage, done) = (dir.join(RESTORING), dir.join(DONE));
    if dir.join(RESTORED).exists() {
        return Ok(Settled::Finished(finish(dir)?));
    }
    if done.exists() {
        let note = Note::read(&done);
        remove(&done)?;
        // Without its note it had almost gone already.
        return Ok(note.map_or(Settled::Nothing, |note| Settled::Finished(note.restored)));
    }
    if stage.exists() {
        remove(&stage)?;
        return Ok(Settled::Undone);
    }
    Ok(Settled::Nothing)
}

/// Whether a restore in `dir` is complete and waits for [`settle`].
pub fn unsettled(dir: &Path) -> bool {
    dir.join(RESTORED).exists() || dir.join(DONE).exists()
}

fn remove(folder: &Path) -> Result<(), RestoreError> {
    fs::remove_dir_all(folder).map_err(io_at("remove", folder))?;
    sync(&folder_of(folder))
}

/// The lock is no gateway, and neither is what [`settle`] will see to.
fn refuse_what_is_there(dir: &Path) -> Result<(), RestoreError> {
    if unsettled(dir) {
        return Ok(());
    }
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(io_at("list", dir)(source)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.map_err(io_at("list", dir))?.file_name().to_string_lossy().into_owned();
        // A disk of its own comes with the last one.
        if !["lock", RESTORING, "lost+found"].contains(&name.as_str()) {
            found.push(format!("`{name}`"));
        }
    }
    found.sort();
    if found.is_empty() {
        return Ok(());
    }
    Err(RestoreError::Occupied { dir: dir.to_owned(), found: found.join(", ") })
}

/// Where a file of the configuration goes.
fn config_target(entry: &Entry, archive: &Archive, file: &Path) -> Option<PathBuf> {
    let name = Path::new(&entry.path).strip_prefix(CONFIG).ok()?;
    let own = name == Path::new(&archive.manifest.configuration);
    Some(if own { file.to_owned() } else { folder_of(file).join(name) })
}

fn refuse_other(target: &Path, content: &[u8]) -> Result<bool, RestoreError> {
    match fs::read(target) {
        Ok(found) if found == content => Ok(true),
        Ok(_) => Err(RestoreError::Differs(target.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(io_at("read", target)(source)),
    }
}

/// Step 2.
fn prepare(
    archive: &Archive,
    stage: &Path,
    file: &Path,
    dir: &Path,
    clock: &Arc<dyn Clock>,
) -> Result<Restored, RestoreError> {
    let manifest = &archive.manifest;
    for entry in &archive.entries {
        let known = PLACES.iter().any(|place| Path::new(&entry.path).starts_with(place));
        // The archive has been read by rules of its own; nothing is written on their word alone.
        let plain = Path::new(&entry.path).components().all(|part| matches!(part, Component::Normal(_)));
        if !known || !plain {
            return Err(RestoreError::Place(entry.path.clone()));
        }
        write(&stage.join(&entry.path), &entry.content, entry.mode)?;
    }
    let data = stage.join(DATA);
    let state = Arc::new(State::open(&data.join("state.db"), Arc::clone(clock))?);
    let boot = state.raise_boot(epoch(state.boot(), manifest.taken, &**clock))?;
    let ca_dir = data.join("ca");
    if !ca_dir.exists() {
        return Err(RestoreError::NoCa);
    }
    let ca = Ca::open_or_create(&ca_dir, &manifest.gateway, Arc::clone(clock))?;
    // One that was made just now belongs to nobody.
    let made = |name: String| !archive.entries.iter().any(|entry| entry.path == format!("{DATA}/ca/{name}.pem"));
    let roots = ca.authorities().into_iter().filter(|info| info.kind == AuthorityKind::Root);
    if roots.map(|info| format!("root-{}", info.generation)).any(made) {
        return Err(RestoreError::NoCa);
    }
    let audit_dir = data.join("audit");
    if !audit_dir.exists() {
        // The log was left behind, and a new one begins; the end of the old one is missed by nobody.
        forget_end(&state).map_err(crate::audit::OpenError::from)?;
    }
    let audit = Audit::open(&audit_dir, Arc::clone(&state), Arc::clone(clock))?;
    audit.record(Event::Restored { taken: manifest.taken, boot });
    audit.close();
    // The last connection takes the write-ahead log with it.
    drop((audit, state));

    let outside = archive.entries.iter().filter_map(|entry| Path::new(&entry.path).strip_prefix(OUTSIDE).ok());
    let restored = Restored {
        gateway: manifest.gateway.clone(),
        taken: manifest.taken,
        boot,
        data_dir: dir.to_owned(),
        configuration: file.to_owned(),
        outside: outside.map(|path| (dir.join(OUTSIDE).join(path), Path::new("/").join(path))).collect(),
    };
    let own = manifest.configuration.clone();
    let note = serde_json::to_vec(&Note { own, restored: restored.clone() });
    let note = note.map_err(|error| io_at("write", stage)(error.into()))?;
    write(&stage.join(NOTE), &note, 0o600)?;
    sync_tree(stage)?;
    Ok(restored)
}

/// A number that no boot of this gateway had: each restore begins its own range, by the clock. Where that can't be right,
/// chance takes its place.
fn epoch(boot: u64, taken: UnixMillis, clock: &dyn Clock) -> u64 {
    let now = clock.now();
    let seconds = if clock.plausible() && now > taken {
        now.as_secs()
    } else {
        let mut dice = [0; 3];
        let [a, b, c] = match SystemRandom::new().fill(&mut dice) {
            Ok(()) => dice.map(u64::from),
            // The number is still beyond all that the archive knows of.
            Err(ring::error::Unspecified) => [0; 3],
        };
        taken.as_secs() + 1 + (a << 16 | b << 8 | c)
    };
    (boot + BOOTS).max(seconds.saturating_mul(BOOTS))
}

/// What step 4 must know.
#[derive(Serialize, Deserialize)]
struct Note {
    /// The configuration file's name in the archive.
    own: String,
    restored: Restored,
}

impl Note {
    fn read(folder: &Path) -> Result<Self, RestoreError> {
        let path = folder.join(NOTE);
        let text = fs::read(&path).map_err(io_at("read", &path))?;
        serde_json::from_slice(&text).map_err(|_| RestoreError::Note(folder.to_owned()))
    }
}

/// Step 4.
fn finish(dir: &Path) -> Result<Restored, RestoreError> {
    let from = dir.join(RESTORED);
    let Note { own, restored } = Note::read(&from)?;

    move_all(&from.join(DATA), dir)?;
    let outside = from.join(OUTSIDE);
    if outside.exists() {
        fs::rename(&outside, dir.join(OUTSIDE)).map_err(io_at("rename", &outside))?;
    }
    sync(dir)?;
    // With the configuration file the gateway can start, so all else is there by then.
    let config = from.join(CONFIG);
    let mut files = files_below(&config)?;
    files.sort_by_key(|file| *file == config.join(&own));
    for file in files {
        let name = file.strip_prefix(&config).unwrap_or(&file);
        let folder = folder_of(&restored.configuration);
        let target = if name == Path::new(&own) { restored.configuration.clone() } else { folder.join(name) };
        put(&file, &target)?;
    }
    let done = dir.join(DONE);
    fs::rename(&from, &done).map_err(io_at("rename", &from))?;
    remove(&done)?;
    Ok(restored)
}

/// Moves what lies in `from` to `to`; what was moved before is not there any more.
fn move_all(from: &Path, to: &Path) -> Result<(), RestoreError> {
    let entries = fs::read_dir(from).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    for entry in entries.map_err(io_at("list", from))? {
        let name = entry.file_name();
        let target = to.join(&name);
        if target.exists() {
            return Err(RestoreError::Occupied { dir: to.to_owned(), found: format!("`{}`", name.display()) });
        }
        fs::rename(from.join(&name), &target).map_err(io_at("rename", &target))?;
    }
    Ok(())
}

/// A copy of a file of the configuration, whole or not at all.
fn put(from: &Path, to: &Path) -> Result<(), RestoreError> {
    let content = fs::read(from).map_err(io_at("read", from))?;
    if refuse_other(to, &content)? {
        return Ok(());
    }
    let mode = fs::metadata(from).map_err(io_at("read", from))?.permissions().mode() & 0o777;
    let folder = folder_of(to);
    durable::make_private_folder(&folder).map_err(io_at("make", &folder))?;
    durable::write(to, &content, mode, Existing::Keep).map_err(io_at("write", to))
}

/// A new file below the staging folder; its folders are for the owner alone.
fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), RestoreError> {
    let folder = folder_of(path);
    DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(io_at("make", &folder))?;
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = file.map_err(io_at("write", path))?;
    file.write_all(content).map_err(io_at("write", path))?;
    // The process's mask may have taken bits away.
    file.set_permissions(fs::Permissions::from_mode(mode)).map_err(io_at("set the mode of", path))
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>, RestoreError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(io_at("list", folder))? {
        let path = entry.map_err(io_at("list", folder))?.path();
        if path.is_dir() {
            found.extend(files_below(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn sync_tree(folder: &Path) -> Result<(), RestoreError> {
    for entry in fs::read_dir(folder).map_err(io_at("list", folder))? {
        let path = entry.map_err(io_at("list", folder))?.path();
        if path.is_dir() { sync_tree(&path)? } else { sync(&path)? }
    }
    sync(folder)
}

fn sync(path: &Path) -> Result<(), RestoreError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(io_at("sync", path))
}
