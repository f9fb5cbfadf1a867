//! The CA: its certificates and keys in one directory, made at the first start.
//!
//! Files: `root-<n>.key`, `.pem` and `.crl`, `issuing-<n>.key` and `.pem`, each complete or absent. They are made in the
//! order root key, root certificate, root's revocation list, issuing key, issuing certificate; whatever a crash leaves is
//! completed at the next start: a key without its certificate gets one. A certificate without its key is kept and
//! trusted, it just can't sign (the root key may be taken away).

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use fieldgate_types::{BUILD_FLOOR, Clock, DeviceId, UnixMillis};

use crate::CaError;
use crate::authority::{Authority, AuthorityInfo, AuthorityKind};
use crate::encoding::certificate_pem;
use crate::folder::Folder;
use crate::instant::Judge;
use crate::keystore::{FileKeyStore, KeyStore};
use crate::making::Making;

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
        Self::open_with(&folder, &FileKeyStore::open(dir)?, gateway, clock)
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
        let clock_says = clock.now();
        let judge = Judge::new(clock, newest.unwrap_or(BUILD_FLOOR));
        let now = judge.now();
        if now > clock_says {
            // Once: every start on a box without a battery begins like this.
            tracing::warn!(
                clock = clock_says.0,
                judged_by = now.0,
                "the clock is behind a moment that is known to be past, certificates are issued and judged by that moment"
            );
        }
        let making = Making { folder, keys, gateway };

        if roots.is_empty() {
            if !issuing.is_empty() {
                // A new root here would be another plant's: every device would have to trust it anew.
                let path = folder.path(AuthorityKind::Root, 1);
                return Err(CaError::Damaged { path, reason: "is missing, though the issuing CA it signed is there" });
            }
            roots.push(making.root(1, now)?);
        }
        for root in &roots {
            if let Some(signer) = root.signer(now)
                && !folder.has_list(root.generation)?
            {
                making.revocation_list(&signer)?;
            }
        }
        for authority in &issuing {
            folder.check_signed(authority, &roots)?;
        }
        if !issuing.iter().any(|authority| authority.signer(now).is_some()) {
            let signer = roots.iter().rev().find_map(|root| root.signer(now));
            let signer = signer.ok_or_else(|| CaError::NoIssuingKey { dir: folder.dir.clone() })?;
            let generation = issuing.iter().map(|authority| authority.generation).max().unwrap_or(0).saturating_add(1);
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use fieldgate_types::ManualClock;
    use rcgen::{PublicKeyData, SignatureAlgorithm, SigningKey};

    use super::*;
    use crate::keystore::{CaKey, P256Key};

    /// Keys that are not files, and a token that can be pulled out.
    #[derive(Default)]
    struct Token {
        keys: Mutex<BTreeMap<String, Arc<P256Key>>>,
        creations_left: Mutex<usize>,
    }

    struct OnToken(Arc<P256Key>);

    impl PublicKeyData for OnToken {
        fn der_bytes(&self) -> &[u8] {
            self.0.der_bytes()
        }
        fn algorithm(&self) -> &'static SignatureAlgorithm {
            PublicKeyData::algorithm(&*self.0)
        }
    }

    impl SigningKey for OnToken {
        fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
            self.0.sign(message)
        }
    }

    impl KeyStore for Token {
        fn load(&self, name: &str) -> Result<Option<CaKey>, CaError> {
            let keys = self.keys.lock().unwrap();
            Ok(keys.get(name).map(|key| Box::new(OnToken(Arc::clone(key))) as CaKey))
        }

        fn create(&self, name: &str) -> Result<CaKey, CaError> {
            let mut left = self.creations_left.lock().unwrap();
            *left = left.checked_sub(1).ok_or(rcgen::Error::KeyGenerationUnavailable)?;
            let key = Arc::new(P256Key::generate()?.0);
            self.keys.lock().unwrap().insert(name.to_owned(), Arc::clone(&key));
            Ok(Box::new(OnToken(key)))
        }
    }

    /// Handshakes on many threads ask one CA.
    const fn shared_between_threads<T: Send + Sync>() {}
    const _: () = shared_between_threads::<Ca>();

    #[test]
    fn keys_may_live_elsewhere_and_creation_goes_on_where_it_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder { dir: dir.path().join("ca") };
        folder.prepare().unwrap();
        let token = Token::default();
        let open = || {
            let clock = Arc::new(ManualClock::new(BUILD_FLOOR));
            Ca::open_with(&folder, &token, &DeviceId::new("line-4").unwrap(), clock)
        };
        open().unwrap_err();
        *token.creations_left.lock().unwrap() = 1;
        open().unwrap_err();
        let root = folder.path(AuthorityKind::Root, 1);
        let made = std::fs::read(&root).unwrap();
        *token.creations_left.lock().unwrap() = 1;
        let ca = open().unwrap();
        assert_eq!(std::fs::read(&root).unwrap(), made);
        assert!(ca.authorities().iter().all(|info| info.key_present));
        let keys = std::fs::read_dir(&folder.dir)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "key"));
        assert_eq!(keys.count(), 0);
        assert_eq!(open().unwrap().authorities(), ca.authorities());
    }
}
