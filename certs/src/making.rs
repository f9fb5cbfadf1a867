//! Making a root and an issuing CA. Each step leaves complete files; a key comes before its certificate.

use fieldgate_types::{DeviceId, UnixMillis};
use rcgen::CertificateParams;

use crate::authority::{Authority, AuthorityKind, Signer};
use crate::crl::{RevocationList, Revoked};
use crate::durable::{self, Existing};
use crate::encoding::certificate_pem;
use crate::folder::{Folder, name};
use crate::keystore::{CaKey, KeyStore};
use crate::template::{self, Lifetime};
use crate::{CaError, IssuerKey, Serial};

/// What making a CA needs.
pub(crate) struct Making<'a> {
    pub(crate) folder: &'a Folder,
    pub(crate) keys: &'a dyn KeyStore,
    pub(crate) gateway: &'a DeviceId,
}

impl Making<'_> {
    /// A new root.
    pub(crate) fn root(&self, generation: u32, now: UnixMillis) -> Result<Authority, CaError> {
        let (key, issuer_key, serial) = self.key(AuthorityKind::Root, generation)?;
        let lifetime = Lifetime::from_now(now, template::ROOT_LIFE);
        let params = template::root(self.gateway, &issuer_key, lifetime, &serial);
        let der = self_signed(&params, &key)?;
        self.keep(AuthorityKind::Root, generation, der, key)
    }

    /// A new issuing CA, signed by `root`. Its key may be there, left by an interruption.
    pub(crate) fn issuing(&self, root: &Signer<'_>, generation: u32, now: UnixMillis) -> Result<Authority, CaError> {
        let (key, issuer_key, serial) = self.key(AuthorityKind::Issuing, generation)?;
        let lifetime = root.clamp(Lifetime::from_now(now, template::ISSUING_LIFE));
        let params = template::issuing(self.gateway, &issuer_key, lifetime, &serial);
        let der = root.sign(&params, &&*key)?;
        self.keep(AuthorityKind::Issuing, generation, der, key)
    }

    /// The list of issuing CAs that a root has revoked. Signed while the root's key is here, and good until the root's
    /// end, so that strict verifiers find one when the key is gone. `before`: the one that it replaces.
    pub(crate) fn root_list(
        &self,
        root: &Signer<'_>,
        revoked: Vec<Revoked>,
        before: Option<&RevocationList>,
        now: UnixMillis,
    ) -> Result<RevocationList, CaError> {
        let after = before.map(|list| list.number);
        let list = root.sign_list(revoked, now, root.authority.info.not_after, after)?;
        let path = self.folder.list_path(root.authority.generation);
        durable::write(&path, list.pem().as_bytes(), 0o644, Existing::Replace).map_err(|source| CaError::Io {
            action: "write",
            path,
            source,
        })?;
        Ok(list)
    }

    /// Sees to it that the key of an issuing CA to come is there.
    pub(crate) fn prepare_issuing_key(&self, generation: u32) -> Result<(), CaError> {
        self.key(AuthorityKind::Issuing, generation).map(drop)
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
