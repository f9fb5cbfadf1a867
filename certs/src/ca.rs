//! The CA.

use std::path::Path;
use std::sync::Arc;

use fieldgate_types::{Clock, DeviceId, UnixMillis};
use serde::Serialize;

use crate::{CaError, Fingerprint, IssuerKey, Serial};

/// The plant's CA: its roots, its issuing CAs and their keys.
#[derive(Debug)]
pub struct Ca {}

/// What a CA certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthorityKind {
    /// Signs issuing CAs; what devices trust.
    Root,
    /// Signs devices' and servers' certificates.
    Issuing,
}

/// One CA certificate, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
}

impl Ca {
    /// Opens the CA in `dir`, and creates it, or completes its creation, when needed.
    pub fn open_or_create(dir: &Path, gateway: &DeviceId, clock: Arc<dyn Clock>) -> Result<Self, CaError> {
        let _ = (dir, gateway, clock);
        unimplemented!()
    }

    /// What peers should trust, in PEM: valid roots, then valid issuing CAs.
    pub fn trust_bundle_pem(&self) -> String {
        unimplemented!()
    }

    /// Every CA certificate here, for `ca show`.
    pub fn authorities(&self) -> Vec<AuthorityInfo> {
        unimplemented!()
    }

    /// When the CA that issues now will expire.
    pub fn issuing_not_after(&self) -> UnixMillis {
        unimplemented!()
    }
}
