//! Why a certificate was not accepted.

use fieldgate_types::{DeviceId, UnixMillis};
use rustls::{CertificateError, Error};

use crate::Serial;
use crate::instant::rfc3339;

/// The peer's certificate doesn't identify anybody who may come in. The texts are for the audit log and for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
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
    /// Another certificate took its place.
    #[error("the certificate of `{id}` was replaced by another, and is not accepted since {}: use the newer one, or issue a new one with `fieldgate device add {id}`", rfc3339(*since))]
    Superseded {
        /// Whose certificate.
        id: DeviceId,
        /// Since when.
        since: UnixMillis,
    },
    /// The CA that issued it is revoked.
    #[error("the CA that issued the certificate of `{id}` was revoked at {}: issue a new one with `fieldgate device add {id}`", rfc3339(*since))]
    IssuerRevoked {
        /// Whose certificate.
        id: DeviceId,
        /// Since when.
        since: UnixMillis,
    },
    /// An external CA signed it, and the map has no name of it.
    #[error(
        "the certificate is an external CA's, and none of its names is in that CA's map: add it to the configuration"
    )]
    Unmapped,
    /// Its names mean different ids.
    #[error(
        "the certificate is an external CA's, and its names mean different ids by that CA's map: leave all but one out"
    )]
    Ambiguous,
    /// The handshake failed, so that nobody is known by id.
    #[error("{0}")]
    Handshake(HandshakeRefusal),
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
            Self::NoCertificate
            | Self::Malformed(_)
            | Self::Foreign
            | Self::NoIdentity
            | Self::Purpose
            | Self::Unmapped
            | Self::Ambiguous
            | Self::Handshake(_) => None,
            Self::Unknown { id, .. }
            | Self::Superseded { id, .. }
            | Self::IssuerRevoked { id, .. }
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
            Self::Superseded { .. } => "superseded",
            Self::IssuerRevoked { .. } => "issuer-revoked",
            Self::Unmapped => "unmapped",
            Self::Ambiguous => "ambiguous",
            Self::Handshake(refusal) => refusal.label(),
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not-yet-valid",
        }
    }
}

/// Why a handshake failed because of the client's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeRefusal {
    /// Its time, or its issuer's, is over.
    #[error("the certificate, or the CA that issued it, has expired: issue a new one with `fieldgate device add`")]
    Expired,
    /// Its time has not begun.
    #[error("the certificate is not valid yet: check the clock of this gateway")]
    NotYetValid,
    /// The CA that issued it is revoked.
    #[error("the CA that issued the certificate was revoked: issue a new one with `fieldgate device add`")]
    IssuerRevoked,
    /// It is signed in a way, or has a key, that is not relied on any more.
    #[error(
        "the certificate is signed with an algorithm, or has a key, that is too weak: use P-256, P-384, Ed25519 or RSA \
         of 2048 bits with SHA-256"
    )]
    Weak,
    /// The client doesn't hold the certificate's key, or a signature is wrong.
    #[error(
        "a signature is wrong: the client may hold another key than the certificate's, or a CA of the same name issued it"
    )]
    BadSignature,
    /// Nothing that can be told from a broken or hostile client.
    #[error("what the client sent is no TLS handshake with a readable certificate")]
    Broken,
}

impl HandshakeRefusal {
    /// One of a closed set of words, for metrics. Where `Refused` has a word for it, the same.
    pub fn label(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::NotYetValid => "not-yet-valid",
            Self::IssuerRevoked => "issuer-revoked",
            Self::Weak => "weak",
            Self::BadSignature => "bad-signature",
            Self::Broken => "broken",
        }
    }
}

impl Refused {
    /// Why the handshake failed, when the client's certificate is the reason; `None` for all else that can go wrong.
    pub fn in_handshake(error: &Error) -> Option<Self> {
        use CertificateError as Cert;
        let handshake = |refusal| Some(Self::Handshake(refusal));
        match error {
            Error::NoCertificatesPresented => Some(Self::NoCertificate),
            Error::InvalidCertificate(reason) => match reason {
                Cert::UnknownIssuer => Some(Self::Foreign),
                Cert::InvalidPurpose | Cert::InvalidPurposeContext { .. } => Some(Self::Purpose),
                Cert::BadEncoding => Some(Self::Malformed("not X.509")),
                Cert::UnhandledCriticalExtension => Some(Self::Malformed("a critical extension is not known")),
                Cert::Expired | Cert::ExpiredContext { .. } => handshake(HandshakeRefusal::Expired),
                Cert::NotValidYet | Cert::NotValidYetContext { .. } => handshake(HandshakeRefusal::NotYetValid),
                Cert::Revoked => handshake(HandshakeRefusal::IssuerRevoked),
                Cert::BadSignature => handshake(HandshakeRefusal::BadSignature),
                Cert::UnsupportedSignatureAlgorithmContext { .. }
                | Cert::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => handshake(HandshakeRefusal::Weak),
                // What is left is webpki's own: CA certificates as leaves, path lengths, names within constraints.
                _ => Some(Self::Malformed("it breaks the rules for certificates")),
            },
            Error::PeerIncompatible(_) => handshake(HandshakeRefusal::Weak),
            Error::InvalidMessage(_) | Error::PeerMisbehaved(_) => handshake(HandshakeRefusal::Broken),
            _ => None,
        }
    }
}
