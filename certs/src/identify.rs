//! Who a peer is, from the certificate it presented.

use fieldgate_types::{DeviceId, UnixMillis};
use rustls_pki_types::CertificateDer;

use crate::{Ca, Fingerprint, IssuerKey, Refused, Registry, Role, Serial};

/// Who is at the other end of a TLS connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its identity.
    pub id: DeviceId,
    /// As recorded when the certificate was issued.
    pub role: Role,
    /// Of its certificate.
    pub fingerprint: Fingerprint,
    /// The CA that issued the certificate.
    pub issuer: IssuerKey,
    /// The certificate's number.
    pub serial: Serial,
    /// When the certificate expires.
    pub not_after: UnixMillis,
}

impl Ca {
    /// Who presented `chain`, leaf first, as `rustls` gives it after the handshake. To be asked after every handshake.
    pub fn identify(
        &self,
        chain: &[CertificateDer<'_>],
        registry: &dyn Registry,
        now: UnixMillis,
    ) -> Result<Peer, Refused> {
        let _ = (chain, registry, now);
        Err(Refused::NoCertificate)
    }
}
