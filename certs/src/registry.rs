//! What is remembered about every certificate that was issued, and the port to where it is remembered.
//!
//! The gateway implements [`Registry`] over `state.db`. The registry is the truth: a certificate that it doesn't know is
//! refused, however well signed, and a row with `revoked` set IS the revocation (DESIGN section 4).

use std::error::Error as StdError;
use std::time::Duration;

use fieldgate_types::{DeviceId, UnixMillis};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Fingerprint, IssuerKey, Life, Role, Serial};

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
    /// The certificate in whose place it was issued.
    #[serde(default)]
    pub replaces: Option<CertificateKey>,
    /// From when on it is not accepted any more, because another took its place.
    #[serde(default)]
    pub superseded: Option<UnixMillis>,
}

/// For how long a certificate is still good after the one in its place was first used.
pub const SUPERSEDE_GRACE: Duration = Duration::from_hours(7 * 24);

/// What a row is found by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CertificateKey {
    /// The CA that signed it.
    pub issuer: IssuerKey,
    /// Unique within the issuer.
    pub serial: Serial,
}

impl CertificateRecord {
    /// What the row is found by.
    pub fn key(&self) -> CertificateKey {
        CertificateKey { issuer: self.issuer, serial: self.serial.clone() }
    }

    /// From when to when it is valid.
    pub fn life(&self) -> Life {
        Life { not_before: self.not_before, not_after: self.not_after }
    }

    /// Marks it as replaced, now that its successor was used at `now`. False when it was before, and nothing is to be
    /// written.
    pub fn supersede(&mut self, now: UnixMillis) -> bool {
        let before = self.superseded;
        self.superseded.get_or_insert(now.plus(SUPERSEDE_GRACE));
        before.is_none()
    }
}

/// Where issued certificates are remembered.
pub trait Registry: Send + Sync {
    /// The row of this key. Answered from memory, without IO: it is asked after every handshake.
    fn certificate(&self, issuer: &IssuerKey, serial: &Serial) -> Option<CertificateRecord>;
    /// Adds a row. Durable before it returns; called before the certificate is handed out.
    fn record(&self, certificate: &CertificateRecord) -> Result<(), RegistryError>;
    /// For how long this device's renewed certificates are good, where that was said for it alone. From memory.
    fn validity(&self, device: &DeviceId) -> Option<Duration> {
        let _ = device;
        None
    }
    /// Since when the device is revoked. Asked, from memory too, for those that have no row here because an external CA
    /// issued their certificate, or it is pinned, and for those that come with a token.
    fn barred(&self, device: &DeviceId) -> Option<UnixMillis> {
        let _ = device;
        None
    }
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
