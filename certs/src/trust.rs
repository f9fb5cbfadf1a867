//! What is trusted at one moment, and the one place where that changes.
//!
//! A [`Trust`] never changes. A rotation, a revoked issuing CA or a new configuration makes another and puts it in the
//! place of the old one; every handshake takes the present one when it asks. So the listeners' `ServerConfig` stays the
//! same, and connections that stand are not touched.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use fieldgate_types::UnixMillis;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::CertificateDer;

use crate::CaError;
use crate::authority::{Authority, AuthorityInfo, Signer};
use crate::crl::RevocationList;
use crate::external::External;

/// A root with the list that it signed last.
pub(crate) type Listed = (Arc<Authority>, Option<RevocationList>);

/// A root: an anchor of its own, so that one that is over can be left out at any moment. (webpki doesn't look at the
/// validity of an anchor.)
pub(crate) struct Root {
    pub(crate) authority: Arc<Authority>,
    pub(crate) list: Option<RevocationList>,
    pub(crate) verifier: Arc<dyn ClientCertVerifier>,
}

/// An issuing CA.
pub(crate) struct Issuing {
    pub(crate) authority: Arc<Authority>,
    /// Its end, or its root's where that is sooner.
    pub(crate) ends: UnixMillis,
    /// Since when its root's list has it.
    pub(crate) revoked: Option<UnixMillis>,
}

pub(crate) struct Trust {
    /// Oldest generation first, as all of them.
    pub(crate) roots: Vec<Root>,
    pub(crate) issuing: Vec<Issuing>,
    /// The issuing CAs that are not revoked.
    pub(crate) intermediates: Vec<CertificateDer<'static>>,
    pub(crate) external: Arc<External>,
}

impl Trust {
    pub(crate) fn new(
        roots: Vec<Listed>,
        issuing: impl IntoIterator<Item = Arc<Authority>>,
        external: Arc<External>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, CaError> {
        let roots = roots.into_iter().map(|(authority, list)| {
            let verifier = anchor(&authority.der, provider)?;
            Ok(Root { authority, list, verifier })
        });
        let roots = roots.collect::<Result<Vec<_>, CaError>>()?;
        let issuing: Vec<_> = issuing
            .into_iter()
            .map(|authority| {
                let root = roots.iter().find(|root| root.authority.has_issued(&authority.der));
                let ends = root.map_or(UnixMillis(0), |root| root.authority.info.not_after);
                let lists = roots.iter().filter(|root| root.authority.has_issued(&authority.der));
                let mut entries = lists.filter_map(|root| root.list.as_ref()).flat_map(|list| &list.revoked);
                let revoked = entries.find(|entry| entry.serial == authority.info.serial).map(|entry| entry.since);
                Issuing { ends: ends.min(authority.info.not_after), revoked, authority }
            })
            .collect();
        let good = issuing.iter().filter(|issuing| issuing.revoked.is_none());
        let intermediates = good.map(|issuing| issuing.authority.der.clone()).collect();
        Ok(Self { roots, issuing, intermediates, external })
    }

    /// The parts from which another can be made.
    pub(crate) fn parts(&self) -> (Vec<Listed>, Vec<Arc<Authority>>) {
        let roots = self.roots.iter().map(|root| (Arc::clone(&root.authority), root.list.clone())).collect();
        (roots, self.issuing.iter().map(|issuing| Arc::clone(&issuing.authority)).collect())
    }

    /// The newest issuing CA that has its key, and time left, and is not revoked.
    pub(crate) fn signer(&self, now: UnixMillis) -> Option<Signer<'_>> {
        let good = self.issuing.iter().rev().filter(|issuing| issuing.revoked.is_none());
        good.filter(|issuing| now < issuing.ends).find_map(|issuing| issuing.authority.signer(now))
    }

    /// The root with a key, and time left, whose end is the latest.
    pub(crate) fn root_signer(&self, now: UnixMillis) -> Option<(&Root, Signer<'_>)> {
        let able = self.roots.iter().filter_map(|root| Some((root, root.authority.signer(now)?)));
        able.max_by_key(|(root, _)| root.authority.info.not_after)
    }

    /// The issuing CA that is used now, were it not for its end or a missing key.
    pub(crate) fn newest(&self) -> Option<&Issuing> {
        let with_key = |issuing: &&Issuing| issuing.revoked.is_none() && issuing.authority.key.is_some();
        self.issuing.iter().rev().find(with_key)
    }

    /// What peers should trust: valid roots, then valid issuing CAs.
    pub(crate) fn bundle(&self, now: UnixMillis) -> Vec<CertificateDer<'static>> {
        let roots = self.roots.iter().map(|root| &root.authority);
        let issuing = self.issuing.iter().filter(|issuing| issuing.revoked.is_none()).map(|issuing| &issuing.authority);
        roots.chain(issuing).filter(|authority| authority.valid(now)).map(|authority| authority.der.clone()).collect()
    }

    pub(crate) fn infos(&self) -> Vec<AuthorityInfo> {
        let roots = self.roots.iter().map(|root| root.authority.info.clone());
        let issuing = self
            .issuing
            .iter()
            .map(|issuing| AuthorityInfo { revoked: issuing.revoked, ..issuing.authority.info.clone() });
        roots.chain(issuing).collect()
    }
}

/// rustls' own verifier with this certificate as its only anchor.
pub(crate) fn anchor(
    der: &CertificateDer<'static>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, CaError> {
    let mut store = RootCertStore::empty();
    store.add(der.clone())?;
    Ok(WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider)).build()?)
}

/// The present [`Trust`].
pub(crate) struct SharedTrust {
    /// Held to copy or to put a pointer, nothing else.
    present: RwLock<Arc<Trust>>,
}

impl SharedTrust {
    pub(crate) fn new(trust: Trust) -> Self {
        Self { present: RwLock::new(Arc::new(trust)) }
    }

    pub(crate) fn get(&self) -> Arc<Trust> {
        Arc::clone(&self.present.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// In force for handshakes from now on.
    pub(crate) fn put(&self, trust: Trust) {
        *self.present.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(trust);
    }
}

impl fmt::Debug for SharedTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.get().infos()).finish()
    }
}
