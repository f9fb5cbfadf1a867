//! Revocation lists for others: `<data_dir>/crl`, each as `.crl` (DER) and `.pem`, and the same in memory for HTTP.
//!
//! They are made again from the registry at any time, so a file that is missing or old is no loss; nothing here decides
//! who is let in. A file is complete or as it was before.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use fieldgate_certs::{Ca, IssueError, RevocationList};
use thiserror::Error;

use super::DeviceRegistry;

/// The media type of a list (RFC 2585, section 4.2).
pub const MEDIA_TYPE: &str = "application/pkix-crl";

/// No lists were written.
#[derive(Debug, Error)]
pub enum ListsError {
    /// They can't be signed.
    #[error("revocation lists can't be signed")]
    Sign(#[from] IssueError),
    /// They can't be written.
    #[error("revocation lists can't be written to `{}`", dir.display())]
    Write {
        /// Where to.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The lists of one gateway.
pub struct Lists {
    dir: PathBuf,
    /// Held from the reading of the rows to the writing of the files, so that newer lists are not followed by older ones.
    signing: Mutex<()>,
    /// DER by file name.
    served: RwLock<BTreeMap<String, Arc<[u8]>>>,
}

impl Lists {
    /// None yet; they will lie in `dir`.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, signing: Mutex::new(()), served: RwLock::default() }
    }

    /// Signs and writes all of them. Waits for the disk.
    pub fn renew(&self, ca: &Ca, registry: &DeviceRegistry) -> Result<(), ListsError> {
        let _signing = self.signing.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = registry.all_certificates();
        let mut lists = ca.revocation_lists(&rows)?;
        lists.extend(ca.root_revocation_lists());
        // Served before they are written: a full disk keeps nobody from asking.
        let served = lists.iter().map(|list| (list.file_name(), Arc::from(list.der.as_slice()))).collect();
        *self.served.write().unwrap_or_else(PoisonError::into_inner) = served;
        self.write(&lists).map_err(|source| ListsError::Write { dir: self.dir.clone(), source })
    }

    fn write(&self, lists: &[RevocationList]) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        for list in lists {
            let path = self.dir.join(list.file_name());
            replace(&path, &list.der)?;
            replace(&path.with_extension("pem"), list.pem().as_bytes())?;
        }
        File::open(&self.dir)?.sync_all()
    }

    /// The list that `/crl/<name>` asks for.
    pub fn get(&self, name: &str) -> Option<Arc<[u8]>> {
        self.served.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(temporary, path)
}
