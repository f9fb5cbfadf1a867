//! The certificates of this gateway's OPC UA client, in `<data_dir>/opcua`:
//!
//! ```text
//! own/cert.der           our application certificate, given to each server
//! private/private.pem    its key, 0600
//! trusted/               certificates of servers that are accepted
//! rejected/              those that were refused, to be looked at
//! pins/                  which certificate was pinned for which endpoint (`trust = "first-use"`)
//! ```
//!
//! Owns the files and the decision about a server's certificate. The library repeats the decision during the
//! handshake from the same folders (an exact copy in `trusted/`, none in `rejected/`), and checks the validity in
//! time, the host name and the ApplicationUri besides. Its switch that trusts everybody is never used.

mod list;
mod own;
mod trust;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

pub use list::{Known, Standing};
pub use own::OwnCertificate;
#[cfg(feature = "sim")]
pub(crate) use own::{certificate_names, make};
pub(crate) use trust::Verdict;

/// The folder of certificates.
#[derive(Debug, Clone)]
pub struct Pki {
    dir: PathBuf,
}

/// Certificates can't be had, or not be sorted.
#[derive(Debug, Error)]
pub enum PkiError {
    /// A file or folder can't be read or written.
    #[error("can't use `{path}`: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error(
        "`{path}` is damaged: put it back from a backup, or remove own and private in its parent folder to get a new certificate, which every server has to trust anew"
    )]
    Damaged {
        /// Which.
        path: PathBuf,
    },
    /// There is a certificate, and no key.
    #[error(
        "`{cert}` has lost its key `{key}`: put it back from a backup, or remove the certificate to get a new one, which every server has to trust anew"
    )]
    KeyLost {
        /// The certificate.
        cert: PathBuf,
        /// Where its key should be.
        key: PathBuf,
    },
    /// The library could not make it.
    #[error("can't make the application certificate: {0}")]
    Making(String),
    /// Nothing is made before the time is known.
    #[error("the clock is not right yet, a certificate made now would be valid at the wrong time")]
    ClockWrong,
    /// The blocking task ended early.
    #[error("the task that makes the certificate broke off")]
    BrokeOff,
    /// Nothing has this thumbprint.
    #[error("no server's certificate has a thumbprint that begins with `{0}`; `fieldgate opcua trust list` shows them")]
    Unknown(String),
    /// Several have.
    #[error("`{0}` begins several thumbprints, give more of it; `fieldgate opcua trust list` shows them")]
    Ambiguous(String),
}

impl Pki {
    /// In `dir`, which is made when it is needed.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    fn trusted(&self) -> PathBuf {
        self.dir.join("trusted")
    }

    fn rejected(&self) -> PathBuf {
        self.dir.join("rejected")
    }

    /// One at a time: sessions start together, and verbs work on the same files. The lock goes with its file.
    fn lock(&self) -> Result<File, PkiError> {
        self.make_folders()?;
        let path = self.dir.join("own/lock");
        let lock = File::create(&path).and_then(|file| file.lock().map(|()| file));
        lock.map_err(|source| PkiError::File { path, source })
    }

    /// Makes the folders. Nobody but the gateway's user gets in.
    fn make_folders(&self) -> Result<(), PkiError> {
        for folder in
            [self.dir.clone(), self.dir.join("own"), self.dir.join("private"), self.trusted(), self.rejected()]
        {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
            made.map_err(|source| PkiError::File { path: folder, source })?;
        }
        Ok(())
    }
}

/// Moves a file, through a power cut too.
fn move_durably(from: &Path, to: &Path) -> Result<(), PkiError> {
    let failed = |source| PkiError::File { path: from.to_owned(), source };
    fs::rename(from, to).map_err(failed)?;
    for folder in [to.parent(), from.parent()].into_iter().flatten() {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
    }
    Ok(())
}

/// Puts a file in place as a whole or not at all, also through a power cut: temporary file, fsync, rename, fsync of
/// the folder.
fn write_durably(path: &Path, bytes: &[u8], mode: u32) -> Result<(), PkiError> {
    let failed = |source| PkiError::File { path: path.to_owned(), source };
    let folder = path.parent().ok_or_else(|| failed(io::Error::other("has no folder")))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = folder.join(name);
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(failed)
}

/// Whether a file is there. An error other than absence is reported.
fn exists(path: &Path) -> Result<bool, PkiError> {
    path.try_exists().map_err(|source| PkiError::File { path: path.to_owned(), source })
}
