//! The CA: its certificates and keys in one directory, made at the first start.
//!
//! Files: `root-<n>.pem`, `root-<n>.key`, `issuing-<n>.pem`, `issuing-<n>.key`, each complete or absent. They are made in
//! the order root key, root certificate, issuing key, issuing certificate; whatever a crash leaves is completed at the
//! next start: a key without its certificate gets one. A certificate without its key is kept and trusted, it just can't
//! sign (the root key may be taken away).

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fieldgate_types::{BUILD_FLOOR, Clock, DeviceId, UnixMillis};
use rcgen::CertificateParams;

use crate::authority::{Authority, AuthorityInfo, AuthorityKind, Signer};
use crate::durable::{self, Existing};
use crate::encoding::{certificate_from_pem, certificate_pem};
use crate::instant::Judge;
use crate::keystore::{CaKey, FileKeyStore, KeyStore};
use crate::template::{self, Lifetime};
use crate::{CaError, IssuerKey, Serial};

/// The plant's CA: its roots, its issuing CAs and their keys.
///
/// Cheap to ask, safe to share. All of it is in memory: a disk that fails later stops no handshake.
pub struct Ca {
    pub(crate) gateway: DeviceId,
    pub(crate) roots: Vec<Authority>,
    pub(crate) issuing: Vec<Authority>,
    pub(crate) judge: Arc<Judge>,
}

impl Ca {
    /// Opens the CA in `dir`, and creates it, or completes its creation, when needed.
    ///
    /// `gateway` stands in the names of new CAs and in server certificates.
    pub fn open_or_create(dir: &Path, gateway: &DeviceId, clock: Arc<dyn Clock>) -> Result<Self, CaError> {
        let folder = Folder { dir: dir.to_owned() };
        folder.prepare()?;
        Self::open_with(&folder, &FileKeyStore::new(dir), gateway, clock)
    }

    fn open_with(
        folder: &Folder,
        keys: &dyn KeyStore,
        gateway: &DeviceId,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CaError> {
        let mut roots = folder.load(AuthorityKind::Root, keys)?;
        let mut issuing = folder.load(AuthorityKind::Issuing, keys)?;
        // Time has got at least as far as any CA's beginning.
        let newest = roots.iter().chain(&issuing).map(|authority| authority.info.not_before).max();
        let judge = Judge::new(clock, newest.unwrap_or(BUILD_FLOOR));
        let now = judge.now();
        let making = Making { folder, keys, gateway };

        if roots.is_empty() {
            if !issuing.is_empty() {
                // A new root here would be another plant's: every device would have to trust it anew.
                let path = folder.path(AuthorityKind::Root, 1);
                return Err(CaError::Damaged { path, reason: "is missing, though the issuing CA it signed is there" });
            }
            roots.push(making.root(1, now)?);
        }
        for authority in &issuing {
            folder.check_signed(authority, &roots)?;
        }
        if !issuing.iter().any(|authority| authority.signer(now).is_some()) {
            let signer = roots.iter().rev().find_map(|root| root.signer(now));
            let signer = signer.ok_or_else(|| CaError::NoIssuingKey { dir: folder.dir.clone() })?;
            let generation = issuing.iter().map(|authority| authority.generation).max().unwrap_or(0) + 1;
            let made = making.issuing(&signer, generation, now)?;
            issuing.push(made);
        }
        Ok(Self { gateway: gateway.clone(), roots, issuing, judge: Arc::new(judge) })
    }

    /// What peers should trust, in PEM: valid roots, then valid issuing CAs.
    pub fn trust_bundle_pem(&self) -> String {
        let now = self.judge.now();
        let valid = self.roots.iter().chain(&self.issuing).filter(|authority| now <= authority.info.not_after);
        valid.map(|authority| certificate_pem(&authority.der)).collect()
    }

    /// Every CA certificate here, roots first, for `ca show`.
    pub fn authorities(&self) -> Vec<AuthorityInfo> {
        self.roots.iter().chain(&self.issuing).map(|authority| authority.info.clone()).collect()
    }

    /// When the CA that issues now will expire.
    pub fn issuing_not_after(&self) -> UnixMillis {
        let newest = self.issuing.iter().rev().find(|authority| authority.key.is_some());
        newest.map(|authority| authority.info.not_after).unwrap_or_default()
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca")
            .field("gateway", &self.gateway)
            .field("authorities", &self.authorities())
            .finish_non_exhaustive()
    }
}

/// The directory with the certificates.
struct Folder {
    dir: PathBuf,
}

impl Folder {
    fn path(&self, kind: AuthorityKind, generation: u32) -> PathBuf {
        self.dir.join(format!("{}.pem", name(kind, generation)))
    }

    fn prepare(&self) -> Result<(), CaError> {
        let path = || self.dir.clone();
        durable::make_private_folder(&self.dir).map_err(|source| CaError::Io {
            action: "create",
            path: path(),
            source,
        })?;
        let mode = durable::exposed(&self.dir).map_err(|source| CaError::Io {
            action: "check the mode of",
            path: path(),
            source,
        })?;
        if let Some(mode) = mode {
            return Err(CaError::Exposed { path: path(), mode, wanted: 0o700 });
        }
        durable::remove_unfinished(&self.dir).map_err(|source| CaError::Io { action: "tidy up", path: path(), source })
    }

    /// All certificates of one kind, oldest generation first.
    fn load(&self, kind: AuthorityKind, keys: &dyn KeyStore) -> Result<Vec<Authority>, CaError> {
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

    fn check_signed(&self, issuing: &Authority, roots: &[Authority]) -> Result<(), CaError> {
        if roots.iter().any(|root| root.has_issued(&issuing.der)) {
            return Ok(());
        }
        let path = self.path(AuthorityKind::Issuing, issuing.generation);
        Err(CaError::Damaged { path, reason: "was not signed by any root CA beside it" })
    }
}

/// What making a CA needs.
struct Making<'a> {
    folder: &'a Folder,
    keys: &'a dyn KeyStore,
    gateway: &'a DeviceId,
}

impl Making<'_> {
    fn root(&self, generation: u32, now: UnixMillis) -> Result<Authority, CaError> {
        let (key, issuer_key, serial) = self.key(AuthorityKind::Root, generation)?;
        let lifetime = Lifetime::from_now(now, template::ROOT_LIFE);
        let params = template::root(self.gateway, &issuer_key, lifetime, &serial);
        let der = self_signed(&params, &key)?;
        self.keep(AuthorityKind::Root, generation, der, key)
    }

    fn issuing(&self, root: &Signer<'_>, generation: u32, now: UnixMillis) -> Result<Authority, CaError> {
        let (key, issuer_key, serial) = self.key(AuthorityKind::Issuing, generation)?;
        let lifetime = root.clamp(Lifetime::from_now(now, template::ISSUING_LIFE));
        let params = template::issuing(self.gateway, &issuer_key, lifetime, &serial);
        let der = root.sign(&params, &&*key)?;
        self.keep(AuthorityKind::Issuing, generation, der, key)
    }

    /// The key that a crash left without its certificate, or a new one.
    fn key(&self, kind: AuthorityKind, generation: u32) -> Result<(CaKey, IssuerKey, Serial), CaError> {
        let name = name(kind, generation);
        let key = match self.keys.load(&name)? {
            Some(key) => key,
            None => self.keys.create(&name)?,
        };
        let issuer_key = IssuerKey::of(&key.subject_public_key_info());
        let serial = Serial::random().ok_or(rcgen::Error::RingUnspecified)?;
        Ok((key, issuer_key, serial))
    }

    fn keep(&self, kind: AuthorityKind, generation: u32, der: Vec<u8>, key: CaKey) -> Result<Authority, CaError> {
        let path = self.folder.path(kind, generation);
        let pem = certificate_pem(&der);
        durable::write(&path, pem.as_bytes(), 0o644, Existing::Keep).map_err(|source| CaError::Io {
            action: "write",
            path: path.clone(),
            source,
        })?;
        let made = Authority::new(kind, generation, der, Some(key), &path)?;
        tracing::info!(
            kind = kind.as_str(),
            subject = made.info.subject,
            fingerprint = %made.info.fingerprint,
            not_after = made.info.not_after.0,
            "CA created"
        );
        Ok(made)
    }
}

fn self_signed(params: &CertificateParams, key: &CaKey) -> Result<Vec<u8>, rcgen::Error> {
    Ok(params.self_signed(&&**key)?.der().to_vec())
}

/// The name of an authority's files, without what follows the dot.
fn name(kind: AuthorityKind, generation: u32) -> String {
    format!("{}-{generation}", kind.as_str())
}

/// The generation in the name of a certificate file of this kind. Whatever else lies in the directory is left alone.
fn generation(kind: AuthorityKind, file: &str) -> Option<u32> {
    let number = file.strip_prefix(kind.as_str())?.strip_prefix('-')?.strip_suffix(".pem")?;
    let generation = number.parse().ok()?;
    // `root-01.pem` would be another file than the one that is read.
    (name(kind, generation) == format!("{}-{number}", kind.as_str())).then_some(generation)
}
