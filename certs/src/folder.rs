//! The CA's directory: which files there are, who may read them, and what was read from them.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::CaError;
use crate::authority::{Authority, AuthorityKind};
use crate::crl::RevocationList;
use crate::durable;
use crate::encoding::{certificate_from_pem, list_from_pem};
use crate::keystore::{KeyStore, check_private};

/// The directory with the certificates.
pub(crate) struct Folder {
    pub(crate) dir: PathBuf,
}

impl Folder {
    /// Of a certificate.
    pub(crate) fn path(&self, kind: AuthorityKind, generation: u32) -> PathBuf {
        self.dir.join(format!("{}.pem", name(kind, generation)))
    }

    pub(crate) fn list_path(&self, generation: u32) -> PathBuf {
        self.dir.join(format!("{}.crl", name(AuthorityKind::Root, generation)))
    }

    /// A root's revocation list, checked to be its own.
    pub(crate) fn load_list(&self, root: &Authority) -> Result<Option<RevocationList>, CaError> {
        let path = self.list_path(root.generation);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CaError::Io { action: "read", path, source }),
        };
        let list = list_from_pem(&text).and_then(|der| RevocationList::read(der, root));
        list.map(Some).ok_or(CaError::Damaged { path, reason: "doesn't hold a revocation list of the root beside it" })
    }

    /// Makes the directory, checks that nobody else can enter it, and removes what a crash left unfinished.
    pub(crate) fn prepare(&self) -> Result<(), CaError> {
        let path = || self.dir.clone();
        durable::make_private_folder(&self.dir).map_err(|source| CaError::Io {
            action: "create",
            path: path(),
            source,
        })?;
        check_private(&self.dir, 0o700)?;
        durable::remove_unfinished(&self.dir).map_err(|source| CaError::Io { action: "tidy up", path: path(), source })
    }

    /// All certificates of one kind, oldest generation first.
    pub(crate) fn load(&self, kind: AuthorityKind, keys: &dyn KeyStore) -> Result<Vec<Authority>, CaError> {
        let listing = |source| CaError::Io { action: "list", path: self.dir.clone(), source };
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(listing)? {
            let file = entry.map_err(listing)?.file_name();
            let generation = file.to_str().and_then(|file| generation(kind, file));
            if let Some(generation) = generation {
                let path = self.path(kind, generation);
                let text =
                    fs::read(&path).map_err(|source| CaError::Io { action: "read", path: path.clone(), source })?;
                let Some(der) = certificate_from_pem(&text) else {
                    return Err(CaError::Damaged { path, reason: "doesn't hold one certificate in PEM" });
                };
                let key = keys.load(&name(kind, generation))?;
                found.push(Authority::new(kind, generation, der, key, &path)?);
            }
        }
        found.sort_by_key(|authority| authority.generation);
        Ok(found)
    }

    /// An issuing CA of unknown descent would be a second plant within this one.
    pub(crate) fn check_signed<'a>(
        &self,
        issuing: &Authority,
        mut roots: impl Iterator<Item = &'a Authority>,
    ) -> Result<(), CaError> {
        if roots.any(|root| root.has_issued(&issuing.der)) {
            return Ok(());
        }
        let path = self.path(AuthorityKind::Issuing, issuing.generation);
        Err(CaError::Damaged { path, reason: "was not signed by any root CA beside it" })
    }
}

/// The name of an authority's files, without what follows the dot.
pub(crate) fn name(kind: AuthorityKind, generation: u32) -> String {
    format!("{}-{generation}", kind.as_str())
}

/// The generation in the name of a certificate file of this kind. Whatever else lies in the directory is left alone.
fn generation(kind: AuthorityKind, file: &str) -> Option<u32> {
    let number = file.strip_prefix(kind.as_str())?.strip_prefix('-')?.strip_suffix(".pem")?;
    let generation = number.parse().ok()?;
    // `root-01.pem` would be another file than the one that is read.
    (name(kind, generation) == format!("{}-{number}", kind.as_str())).then_some(generation)
}
