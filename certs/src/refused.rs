//! Why a certificate was not accepted.

use fieldgate_types::{DeviceId, UnixMillis};
use thiserror::Error;

use crate::Serial;
use crate::instant::rfc3339;

/// The peer's certificate doesn't identify anybody who may come in. The texts are for the audit log and for people.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refused {
    /// No certificate was presented.
    #[error("no client certificate was presented: configure the client with cert.pem and key.pem of its bundle")]
    NoCertificate,
    /// The certificate can't be read.
    #[error("the certificate can't be read ({0}): issue a new one with `fieldgate device add`")]
    Malformed(&'static str),
    /// No CA of this gateway signed it.
    #[error(
        "the certificate was not issued by this gateway's CA: issue one here with `fieldgate device add`, \
         or `device add --csr` for a key made elsewhere"
    )]
    Foreign,
    /// Not exactly one identity.
    #[error(
        "the certificate names no device: exactly one URI `urn:fieldgate:device:<id>` is expected in its subject \
         alternative names; issue a new one with `fieldgate device add`"
    )]
    NoIdentity,
    /// Not made for a client.
    #[error(
        "the certificate is not for clients: its extended key usage must be clientAuth alone, and it must not be a CA"
    )]
    Purpose,
    /// Signed by us, not in the registry.
    #[error(
        "certificate {serial} of `{id}` is not in the registry, which may be older than the certificate (a restored \
         back-up): issue a new one with `fieldgate device add {id}`"
    )]
    Unknown {
        /// The id in the certificate.
        id: DeviceId,
        /// Its serial number.
        serial: Serial,
    },
    /// The registry's row of this issuer and serial describes another certificate.
    #[error(
        "certificate {serial} of `{id}` differs from what the registry holds under that number: \
         revoke it and issue a new one"
    )]
    Mismatch {
        /// The id in the certificate.
        id: DeviceId,
        /// Its serial number.
        serial: Serial,
    },
    /// Revoked.
    #[error("the certificate of `{id}` was revoked at {}: issue a new one with `fieldgate device add {id}` if that is no longer meant", rfc3339(*since))]
    Revoked {
        /// Whose certificate.
        id: DeviceId,
        /// Since when.
        since: UnixMillis,
    },
    /// Its time, or its issuer's, is over.
    #[error("the certificate of `{id}` expired at {}: issue a new one with `fieldgate device add {id}`", rfc3339(*not_after))]
    Expired {
        /// Whose certificate.
        id: DeviceId,
        /// When its time ended.
        not_after: UnixMillis,
    },
    /// Its time has not begun.
    #[error("the certificate of `{id}` is valid from {} on only: check the clock of this gateway", rfc3339(*not_before))]
    NotYetValid {
        /// Whose certificate.
        id: DeviceId,
        /// When its time begins.
        not_before: UnixMillis,
    },
}

impl Refused {
    /// Who it claims to be, where that claim is signed by our CA.
    pub fn device(&self) -> Option<&DeviceId> {
        match self {
            Self::NoCertificate | Self::Malformed(_) | Self::Foreign | Self::NoIdentity | Self::Purpose => None,
            Self::Unknown { id, .. }
            | Self::Mismatch { id, .. }
            | Self::Revoked { id, .. }
            | Self::Expired { id, .. }
            | Self::NotYetValid { id, .. } => Some(id),
        }
    }

    /// One of a closed set of words, for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no-certificate",
            Self::Malformed(_) => "malformed",
            Self::Foreign => "foreign",
            Self::NoIdentity => "no-identity",
            Self::Purpose => "purpose",
            Self::Unknown { .. } => "unknown",
            Self::Mismatch { .. } => "mismatch",
            Self::Revoked { .. } => "revoked",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not-yet-valid",
        }
    }
}
