//! Files that are there whole or not at all, after a power cut as well: temporary file, fsync, rename, fsync of the
//! directory. Also who may read them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

/// Ends the name of a file that is not complete yet. What carries it after a crash is nobody's.
const UNFINISHED: &str = "new";

/// What happens when the file is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// The new one takes its place.
    Replace,
    /// It stays, and the write fails with `AlreadyExists`.
    Keep,
}

/// Puts `bytes` at `path`, with `mode` from the first moment on.
pub fn write(path: &Path, bytes: &[u8], mode: u32, existing: Existing) -> io::Result<()> {
    let unfinished = unfinished(path);
    remove_if_there(&unfinished)?;
    let result = fill(&unfinished, bytes, mode).and_then(|()| rename(&unfinished, path, existing));
    if result.is_err() {
        // The first error is the one to report; a leftover is removed at the next start.
        drop(remove_if_there(&unfinished));
    }
    result?;
    sync_folder_of(path)
}

/// Removes the file, when it is there.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    remove_if_there(path)?;
    sync_folder_of(path)
}

fn fill(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    fault::step()?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    fault::step()?;
    file.write_all(bytes)?;
    fault::step()?;
    file.sync_all()
}

fn rename(from: &Path, to: &Path, existing: Existing) -> io::Result<()> {
    fault::step()?;
    match existing {
        Existing::Replace => fs::rename(from, to),
        Existing::Keep => match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // Some file systems (FAT, network shares) can't do it in one step.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) if !to.try_exists()? => fs::rename(from, to),
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Err(io::ErrorKind::AlreadyExists.into()),
            done => Ok(done?),
        },
    }
}

/// Makes `dir`, readable by its owner alone, and its parents; leaves one that exists as it is.
pub fn make_private_folder(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    sync_folder_of(dir)
}

/// Removes what a crash left unfinished in `dir`.
pub(crate) fn remove_unfinished(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == UNFINISHED) {
            remove_if_there(&path)?;
        }
    }
    Ok(())
}

/// Who may do what with a file.
pub(crate) struct Access {
    /// The permission bits.
    pub(crate) mode: u32,
    /// The owner's user id.
    pub(crate) owner: u32,
}

impl Access {
    /// Whether group or world have any permission.
    pub(crate) fn exposed(&self) -> bool {
        self.mode & 0o077 != 0
    }
}

/// Of `path`, or what it links to.
pub(crate) fn access(path: &Path) -> io::Result<Access> {
    let metadata = fs::metadata(path)?;
    Ok(Access { mode: metadata.permissions().mode() & 0o7777, owner: metadata.uid() })
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(UNFINISHED);
    name.into()
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    fault::step()?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes what was created, renamed or removed at `path` durable.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    fault::step()?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// In tests, a process that dies between any two of the steps above. Otherwise nothing.
pub(crate) mod fault {
    use std::io;

    /// Before each change to the disk.
    #[cfg(not(test))]
    #[expect(clippy::unnecessary_wraps, reason = "it fails in tests")]
    pub(super) const fn step() -> io::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    thread_local! {
        /// Steps that are still taken; `None` without end.
        static LEFT: std::cell::Cell<Option<u32>> = const { std::cell::Cell::new(None) };
    }

    #[cfg(test)]
    pub(super) fn step() -> io::Result<()> {
        match LEFT.get() {
            // A dead process doesn't tidy up either: it stays dead.
            Some(0) => Err(io::Error::other("killed")),
            Some(left) => {
                LEFT.set(Some(left - 1));
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// From now on, this thread's steps fail after the next `steps`; `None`: the next process.
    #[cfg(test)]
    pub(crate) fn kill_after(steps: Option<u32>) {
        LEFT.set(steps);
    }

    /// Whether the process of [`kill_after`] died.
    #[cfg(test)]
    pub(crate) fn killed() -> bool {
        LEFT.get() == Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_or_replaces_and_leaves_nothing_unfinished() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.key");
        fs::write(dir.path().join("a.key.new"), "left by a crash").unwrap();
        write(&path, b"one", 0o600, Existing::Keep).unwrap();
        assert!(!access(&path).unwrap().exposed());
        let again = write(&path, b"two", 0o600, Existing::Keep).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        write(&path, b"three", 0o644, Existing::Replace).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three");
        assert_eq!(access(&path).unwrap().mode, 0o644);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
