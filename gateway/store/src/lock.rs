//! One gateway per data directory: `<data_dir>/lock`, held by the kernel's file lock and so freed by any death.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::LockError;

/// Holds a data directory until dropped. The file stays: removing it would let two holders lock two files.
#[derive(Debug)]
pub struct DirectoryLock {
    path: PathBuf,
    _file: File,
}

impl DirectoryLock {
    /// Takes `<directory>/lock` or says who holds it. The directory must exist.
    pub fn acquire(directory: &Path) -> Result<Self, LockError> {
        let path = directory.join("lock");
        let io = |source| LockError::Io { path: path.clone(), source };
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Whatever can't be read is shown as unknown: the refusal itself stands.
                let pid = match Read::by_ref(&mut file).take(32).read_to_string(&mut text) {
                    Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
                    Ok(_) | Err(_) => "?".to_owned(),
                };
                return Err(LockError::Held { path, pid });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        file.set_len(0).map_err(io)?;
        file.rewind().map_err(io)?;
        writeln!(file, "{}", std::process::id()).map_err(io)?;
        Ok(Self { path, _file: file })
    }

    /// The lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_with_the_pid_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirectoryLock::acquire(dir.path()).unwrap();
        let refused = DirectoryLock::acquire(dir.path()).unwrap_err();
        assert!(matches!(&refused, LockError::Held { pid, .. } if *pid == std::process::id().to_string()));
        assert!(refused.to_string().contains(&std::process::id().to_string()), "{refused}");
        drop(first);
        DirectoryLock::acquire(dir.path()).unwrap();
    }

    #[test]
    fn a_missing_directory_is_named() {
        let refused = DirectoryLock::acquire(Path::new("/nonexistent/fieldgate")).unwrap_err();
        assert!(refused.to_string().contains("/nonexistent/fieldgate/lock"), "{refused}");
    }
}
