//! One CA certificate, read and checked, with its key where that is here.

use std::path::Path;

use fieldgate_types::UnixMillis;
use rcgen::{CertificateParams, CertificateRevocationListParams, Issuer, PublicKeyData, SigningKey};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::instant::from_seconds;
use crate::keystore::CaKey;
use crate::template::Lifetime;
use crate::{CaError, Fingerprint, IssuerKey, Life, Serial};

/// What a CA certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthorityKind {
    /// Signs issuing CAs; what devices trust.
    Root,
    /// Signs devices' and servers' certificates.
    Issuing,
}

impl AuthorityKind {
    /// As in file names.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Issuing => "issuing",
        }
    }
}

/// One CA certificate, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityInfo {
    /// Root or issuing.
    pub kind: AuthorityKind,
    /// Its distinguished name.
    pub subject: String,
    /// SHA-256 of the certificate.
    pub fingerprint: Fingerprint,
    /// What registry rows call this issuer.
    pub issuer_key: IssuerKey,
    /// The certificate's number.
    pub serial: Serial,
    /// First moment of validity.
    pub not_before: UnixMillis,
    /// Last moment of validity.
    pub not_after: UnixMillis,
    /// Whether its private key is here.
    pub key_present: bool,
    /// 1, 2, …: the number in its files' names.
    #[serde(default)]
    pub generation: u32,
    /// Since when its root has revoked it.
    #[serde(default)]
    pub revoked: Option<UnixMillis>,
}

impl AuthorityInfo {
    /// From when to when it is valid.
    pub fn life(&self) -> Life {
        Life { not_before: self.not_before, not_after: self.not_after }
    }
}

pub(crate) struct Authority {
    pub(crate) info: AuthorityInfo,
    /// 1, 2, …: the number in its files' names.
    pub(crate) generation: u32,
    pub(crate) der: CertificateDer<'static>,
    pub(crate) key: Option<CaKey>,
}

impl Authority {
    /// Reads the certificate of `path` and joins it with its key.
    pub(crate) fn new(
        kind: AuthorityKind,
        generation: u32,
        der: Vec<u8>,
        key: Option<CaKey>,
        path: &Path,
    ) -> Result<Self, CaError> {
        let damaged = |reason| CaError::Damaged { path: path.to_owned(), reason };
        let unreadable = "doesn't hold a certificate";
        let (rest, certificate) = X509Certificate::from_der(&der).map_err(|_| damaged(unreadable))?;
        if !rest.is_empty() {
            return Err(damaged(unreadable));
        }
        if !certificate.is_ca() {
            return Err(damaged("holds a certificate that is not a CA's"));
        }
        let issuer_key = IssuerKey::of(certificate.public_key().raw);
        if key.as_ref().is_some_and(|key| IssuerKey::of(&key.subject_public_key_info()) != issuer_key) {
            return Err(damaged("doesn't belong to the key beside it"));
        }
        let info = AuthorityInfo {
            kind,
            subject: certificate.subject().to_string(),
            fingerprint: Fingerprint::of(&der),
            issuer_key,
            serial: Serial::from_bytes(certificate.raw_serial()),
            not_before: from_seconds(certificate.validity().not_before.timestamp()),
            not_after: from_seconds(certificate.validity().not_after.timestamp()),
            key_present: key.is_some(),
            generation,
            revoked: None,
        };
        Ok(Self { info, generation, der: der.into(), key })
    }

    /// Whether `certificate` names this CA as its issuer and is signed with its key.
    pub(crate) fn has_signed(&self, certificate: &X509Certificate<'_>) -> bool {
        X509Certificate::from_der(&self.der).is_ok_and(|(_, own)| {
            own.subject().as_raw() == certificate.issuer().as_raw()
                && certificate.signature_algorithm == certificate.tbs_certificate.signature
                && certificate.verify_signature(Some(own.public_key())).is_ok()
        })
    }

    /// The same CA with this key, or without one.
    pub(crate) fn with_key(&self, key: Option<CaKey>) -> Self {
        let info = AuthorityInfo { key_present: key.is_some(), ..self.info.clone() };
        Self { info, generation: self.generation, der: self.der.clone(), key }
    }

    /// Whether its time is not over.
    pub(crate) fn valid(&self, now: UnixMillis) -> bool {
        !self.info.life().expired(now)
    }

    /// As [`Self::has_signed`].
    pub(crate) fn has_issued(&self, der: &[u8]) -> bool {
        X509Certificate::from_der(der).is_ok_and(|(_, certificate)| self.has_signed(&certificate))
    }

    /// For signing, when it has its key, and time left.
    pub(crate) fn signer(&self, now: UnixMillis) -> Option<Signer<'_>> {
        let key: &(dyn SigningKey + Send + Sync) = self.key.as_deref()?;
        (now < self.info.not_after).then_some(Signer { authority: self, key })
    }

    /// For signing with a key that is not kept; `None` when it isn't this CA's.
    pub(crate) fn signer_with<'a>(&'a self, key: &'a CaKey, now: UnixMillis) -> Option<Signer<'a>> {
        let own = IssuerKey::of(&key.subject_public_key_info()) == self.info.issuer_key;
        (own && now < self.info.not_after).then_some(Signer { authority: self, key: &**key })
    }
}

/// A CA that can sign.
pub(crate) struct Signer<'a> {
    pub(crate) authority: &'a Authority,
    key: &'a (dyn SigningKey + Send + Sync),
}

impl Signer<'_> {
    /// The DER of a certificate for `subject`.
    pub(crate) fn sign(
        &self,
        params: &CertificateParams,
        subject: &impl PublicKeyData,
    ) -> Result<Vec<u8>, rcgen::Error> {
        let issuer = Issuer::from_ca_cert_der(&self.authority.der, self.key)?;
        Ok(params.signed_by(subject, &issuer)?.der().to_vec())
    }

    /// The DER of a revocation list.
    pub(crate) fn sign_list_params(&self, params: &CertificateRevocationListParams) -> Result<Vec<u8>, rcgen::Error> {
        let issuer = Issuer::from_ca_cert_der(&self.authority.der, self.key)?;
        Ok(params.signed_by(&issuer)?.der().to_vec())
    }

    /// `lifetime`, cut at this CA's end.
    pub(crate) fn clamp(&self, lifetime: Lifetime) -> Lifetime {
        lifetime.within(self.authority.info.not_before, self.authority.info.not_after)
    }
}
