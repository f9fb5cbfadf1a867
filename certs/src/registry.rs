//! What is remembered about every certificate that was issued, and the port to where it is remembered.
//!
//! The gateway implements [`Registry`] over `state.db`. The registry is the truth: a certificate that it doesn't know is
//! refused, however well signed, and a row with `revoked` set IS the revocation (DESIGN section 4).

use std::error::Error as StdError;

use fieldgate_types::{DeviceId, UnixMillis};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Fingerprint, IssuerKey, Role, Serial};

/// One issued certificate. (issuer, serial) is its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRecord {
    /// The CA that signed it.
    pub issuer: IssuerKey,
    /// Unique within the issuer.
    pub serial: Serial,
    /// Whose it is.
    pub device: DeviceId,
    /// What its holder is.
    pub role: Role,
    /// SHA-256 of the certificate.
    pub fingerprint: Fingerprint,
    /// First moment of validity, in whole seconds, as the certificate says.
    pub not_before: UnixMillis,
    /// Last moment of validity, in whole seconds, as the certificate says.
    pub not_after: UnixMillis,
    /// Since when it is revoked.
    pub revoked: Option<UnixMillis>,
}

/// Where issued certificates are remembered.
pub trait Registry: Send + Sync {
    /// The row of this key. Answered from memory, without IO: it is asked after every handshake.
    fn certificate(&self, issuer: &IssuerKey, serial: &Serial) -> Option<CertificateRecord>;
    /// Adds a row. Durable before it returns; called before the certificate is handed out.
    fn record(&self, certificate: &CertificateRecord) -> Result<(), RegistryError>;
}

/// The registry didn't take a row.
#[derive(Debug, Error)]
#[error("the registry did not take the certificate, nothing was issued")]
pub struct RegistryError(#[source] Box<dyn StdError + Send + Sync>);

impl RegistryError {
    /// Wraps what went wrong.
    pub fn new(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self(source.into())
    }
}
