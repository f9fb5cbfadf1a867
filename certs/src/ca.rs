//! The CA: its certificates and keys in one directory, made at the first start.
//!
//! Files: `root-<n>.key`, `.pem` and `.crl`, `issuing-<n>.key` and `.pem`, each complete or absent. They are made in the
//! order root key, root certificate, root's revocation list, issuing key, issuing certificate; whatever a crash leaves is
//! completed at the next start: a key without its certificate gets one. A certificate without its key is kept and
//! trusted, it just can't sign (the root key may be taken away).
//!
//! How it changes while it is open is in `rotation`.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use fieldgate_types::{Clock, DeviceId, UnixMillis};
use rustls::crypto::{CryptoProvider, ring};

use crate::authority::{AuthorityInfo, AuthorityKind};
use crate::encoding::certificate_pem;
use crate::external::{External, ExternalTrust};
use crate::floor::{Standing, TimeFloor};
use crate::folder::Folder;
use crate::keystore::{FileKeyStore, KeyStore};
use crate::making::Making;
use crate::trust::{SharedTrust, Trust};
use crate::{CaError, ExternalError};

/// The plant's CA: its roots, its issuing CAs and their keys.
///
/// Cheap to ask, safe to share. All of it is in memory: a disk that fails later stops no handshake.
pub struct Ca {
    pub(crate) gateway: DeviceId,
    pub(crate) time: Arc<TimeFloor>,
    pub(crate) trust: Arc<SharedTrust>,
    pub(crate) provider: Arc<CryptoProvider>,
    /// Held for the whole of a change, so that changes come one after the other. Nothing else waits for it.
    pub(crate) stores: Mutex<Stores>,
}

/// Where the CA lies.
pub(crate) struct Stores {
    pub(crate) folder: Folder,
    pub(crate) keys: Box<dyn KeyStore>,
}

impl Stores {
    pub(crate) fn making<'a>(&'a self, gateway: &'a DeviceId) -> Making<'a> {
        Making { folder: &self.folder, keys: &*self.keys, gateway }
    }
}

impl Ca {
    /// Opens the CA in `dir`, and creates it, or completes its creation, when needed. Keys are files in `dir`.
    ///
    /// `gateway` stands in the names of new CAs and in server certificates.
    pub fn open_or_create(dir: &Path, gateway: &DeviceId, clock: Arc<dyn Clock>) -> Result<Self, CaError> {
        let folder = Folder { dir: dir.to_owned() };
        folder.prepare()?;
        let keys = Box::new(FileKeyStore::open(dir)?);
        Self::open(Stores { folder, keys }, gateway, clock)
    }

    /// As [`Self::open_or_create`], with the keys in a store of the caller's. Certificates and lists lie in `dir`.
    pub fn open_with_keys(
        dir: &Path,
        keys: Box<dyn KeyStore>,
        gateway: &DeviceId,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CaError> {
        let folder = Folder { dir: dir.to_owned() };
        folder.prepare()?;
        Self::open(Stores { folder, keys }, gateway, clock)
    }

    fn open(stores: Stores, gateway: &DeviceId, clock: Arc<dyn Clock>) -> Result<Self, CaError> {
        let provider = Arc::new(ring::default_provider());
        let (folder, keys) = (&stores.folder, &*stores.keys);
        let mut roots = folder.load(AuthorityKind::Root, keys)?;
        let mut issuing = folder.load(AuthorityKind::Issuing, keys)?;
        let time = TimeFloor::new(clock);
        // Time has got at least as far as any CA's beginning.
        for authority in roots.iter().chain(&issuing) {
            time.raise(authority.info.not_before);
        }
        let reading = time.reading();
        let now = reading.now;
        if let Standing::Behind { clock } = reading.standing {
            // Once: every start on a box without a battery begins like this.
            tracing::warn!(
                clock = clock.0,
                judged_by = now.0,
                "the clock is behind a moment that is known to be past, certificates are issued and judged by that moment"
            );
        }
        let making = stores.making(gateway);

        if roots.is_empty() {
            if !issuing.is_empty() {
                // A new root here would be another plant's: every device would have to trust it anew.
                let path = folder.path(AuthorityKind::Root, 1);
                return Err(CaError::Damaged { path, reason: "is missing, though the issuing CA it signed is there" });
            }
            roots.push(making.root(1, now)?);
        }
        let mut listed = Vec::new();
        for root in roots {
            let mut list = folder.load_list(&root)?;
            if let (None, Some(signer)) = (&list, root.signer(now)) {
                list = Some(making.root_list(&signer, Vec::new(), None, now)?);
            }
            listed.push((Arc::new(root), list));
        }
        for authority in &issuing {
            folder.check_signed(authority, listed.iter().map(|(root, _)| &**root))?;
        }
        let next = issuing.iter().map(|authority| authority.generation).max().unwrap_or(0).saturating_add(1);
        let issuing: Vec<_> = issuing.drain(..).map(Arc::new).collect();
        let build = |roots, issuing| Trust::new(roots, issuing, Arc::new(External::default()), &provider);
        let mut trust = build(listed, issuing)?;
        if trust.signer(now).is_none() {
            let no_key = || CaError::NoIssuingKey { dir: folder.dir.clone() };
            let made = making.issuing(&trust.root_signer(now).ok_or_else(no_key)?.1, next, now)?;
            let (roots, mut issuing) = trust.parts();
            issuing.push(Arc::new(made));
            trust = build(roots, issuing)?;
        }
        Ok(Self {
            gateway: gateway.clone(),
            time: Arc::new(time),
            trust: Arc::new(SharedTrust::new(trust)),
            provider,
            stores: Mutex::new(stores),
        })
    }

    /// What peers should trust, in PEM: valid roots, then valid issuing CAs.
    pub fn trust_bundle_pem(&self) -> String {
        self.trust.get().bundle(self.time.now()).iter().map(|der| certificate_pem(der)).collect()
    }

    /// Every CA certificate here, roots first, for `ca show`.
    pub fn authorities(&self) -> Vec<AuthorityInfo> {
        self.trust.get().infos()
    }

    /// When the CA that issues now will expire.
    pub fn issuing_not_after(&self) -> UnixMillis {
        self.trust.get().newest().map(|newest| newest.authority.info.not_after).unwrap_or_default()
    }

    /// The time by which is issued and judged. To be given its proofs at start ([`TimeFloor::raise`]): the time written
    /// down by the last run, and the beginning of the newest certificate in the registry.
    pub fn time(&self) -> &Arc<TimeFloor> {
        &self.time
    }

    /// Trusts external CAs and pins from now on, in the place of those trusted before. Handshakes that follow see it,
    /// connections that stand are the caller's.
    pub fn trust_others(&self, others: ExternalTrust) -> Result<(), ExternalError> {
        let external = External::new(others, &self.provider)?;
        self.change(|_, trust| {
            let (roots, issuing) = trust.parts();
            let own = roots.iter().map(|(root, _)| root).chain(&issuing);
            let own: Vec<_> = own.map(|authority| authority.info.issuer_key).collect();
            let twice = external.authorities().position(|other| own.contains(&other.authority.info.issuer_key));
            if let Some(at) = twice {
                return Err(ExternalError::Own { number: at + 1 });
            }
            Ok((Trust::new(roots, issuing, Arc::new(external), &self.provider)?, ()))
        })
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

    use fieldgate_types::{BUILD_FLOOR, ManualClock};
    use rcgen::{PublicKeyData, SignatureAlgorithm, SigningKey};
    use zeroize::Zeroizing;

    use super::*;
    use crate::keystore::{CaKey, P256Key};

    /// Keys that are not files, and a token that can be pulled out.
    #[derive(Default)]
    struct Token {
        keys: Mutex<BTreeMap<String, Arc<P256Key>>>,
        creations_left: Mutex<usize>,
    }

    /// The reader into which it is put.
    struct Reader(Arc<Token>);

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

    impl KeyStore for Reader {
        fn load(&self, name: &str) -> Result<Option<CaKey>, CaError> {
            let keys = self.0.keys.lock().unwrap();
            Ok(keys.get(name).map(|key| Arc::new(OnToken(Arc::clone(key))) as CaKey))
        }

        fn create(&self, name: &str) -> Result<CaKey, CaError> {
            let mut left = self.0.creations_left.lock().unwrap();
            *left = left.checked_sub(1).ok_or(rcgen::Error::KeyGenerationUnavailable)?;
            let key = Arc::new(P256Key::generate()?.0);
            self.0.keys.lock().unwrap().insert(name.to_owned(), Arc::clone(&key));
            Ok(Arc::new(OnToken(key)))
        }

        fn import(&self, name: &str, _: &[u8]) -> Result<CaKey, CaError> {
            Err(CaError::KeyStore { name: name.to_owned(), source: "takes no keys from outside".into() })
        }

        fn export(&self, _: &str) -> Result<Option<Zeroizing<String>>, CaError> {
            Ok(None)
        }

        fn remove(&self, name: &str) -> Result<(), CaError> {
            self.0.keys.lock().unwrap().remove(name);
            Ok(())
        }
    }

    /// Handshakes on many threads ask one CA.
    const fn shared_between_threads<T: Send + Sync>() {}
    const _: () = shared_between_threads::<Ca>();

    #[test]
    fn keys_may_live_elsewhere_and_creation_goes_on_where_it_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder { dir: dir.path().join("ca") };
        let token = Arc::new(Token::default());
        let open = || {
            let clock = Arc::new(ManualClock::new(BUILD_FLOOR));
            let keys = Box::new(Reader(Arc::clone(&token)));
            Ca::open_with_keys(&folder.dir, keys, &DeviceId::new("line-4").unwrap(), clock)
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
