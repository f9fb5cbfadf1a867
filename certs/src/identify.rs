//! Who a peer is, from the certificate it presented.

use fieldgate_types::{DeviceId, UnixMillis};
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName};
use x509_parser::prelude::FromDer;

use crate::instant::{from_seconds, whole_seconds};
use crate::template::IDENTITY;
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
    /// Who presented `chain`, leaf first, as `rustls` gives it after the handshake. To be asked after every handshake,
    /// because the registry, and not the TLS library, knows what is revoked.
    ///
    /// A method of the CA and not a function, because the issuer must be proved: the leaf's signature is checked once
    /// more against the keys of our own issuing CAs, and the one whose key fits is the issuer. What the client sent
    /// beyond its leaf is not looked at. `now` is taken as not earlier than the newest moment known to be past.
    pub fn identify(
        &self,
        chain: &[CertificateDer<'_>],
        registry: &dyn Registry,
        now: UnixMillis,
    ) -> Result<Peer, Refused> {
        let der = chain.first().ok_or(Refused::NoCertificate)?;
        let (rest, leaf) = X509Certificate::from_der(der).map_err(|_| Refused::Malformed("not X.509"))?;
        if !rest.is_empty() {
            return Err(Refused::Malformed("bytes after its end"));
        }
        let issuer = self.issuing.iter().find(|authority| authority.has_signed(&leaf)).ok_or(Refused::Foreign)?;
        check_purpose(&leaf)?;
        let id = identity(&leaf)?;
        let serial = Serial::from_bytes(leaf.raw_serial());
        let issuer_key = issuer.info.issuer_key;
        let Some(record) = registry.certificate(&issuer_key, &serial) else {
            return Err(Refused::Unknown { id, serial });
        };
        let fingerprint = Fingerprint::of(der);
        if record.device != id || record.fingerprint != fingerprint {
            return Err(Refused::Mismatch { id, serial });
        }
        if let Some(since) = record.revoked {
            return Err(Refused::Revoked { id, since });
        }
        let now = self.judge.at(now);
        let not_before = from_seconds(leaf.validity().not_before.timestamp());
        let not_after = from_seconds(leaf.validity().not_after.timestamp());
        if now < not_before {
            return Err(Refused::NotYetValid { id, not_before });
        }
        // The last second belongs to it (RFC 5280, 4.1.2.5). Its issuer may end sooner only if others' tools made it.
        let last = not_after.min(issuer.info.not_after);
        if whole_seconds(now) > last {
            return Err(Refused::Expired { id, not_after: last });
        }
        Ok(Peer { id, role: record.role, fingerprint, issuer: issuer_key, serial, not_after })
    }
}

/// For clients, for nothing else, and no CA.
fn check_purpose(leaf: &X509Certificate<'_>) -> Result<(), Refused> {
    let twice = |_| Refused::Malformed("an extension occurs twice or can't be read");
    let usage = leaf.extended_key_usage().map_err(twice)?.ok_or(Refused::Purpose)?.value;
    let client_alone = ExtendedKeyUsage {
        any: false,
        server_auth: false,
        client_auth: true,
        code_signing: false,
        email_protection: false,
        time_stamping: false,
        ocsp_signing: false,
        other: Vec::new(),
    };
    let signs = leaf.key_usage().map_err(twice)?.is_some_and(|usage| usage.value.digital_signature());
    let authority = leaf.basic_constraints().map_err(twice)?.is_some_and(|constraints| constraints.value.ca);
    if *usage == client_alone && signs && !authority { Ok(()) } else { Err(Refused::Purpose) }
}

/// The id in the only URI among the subject's alternative names.
fn identity(leaf: &X509Certificate<'_>) -> Result<DeviceId, Refused> {
    let names = leaf
        .subject_alternative_name()
        .map_err(|_| Refused::Malformed("an extension occurs twice or can't be read"))?
        .ok_or(Refused::NoIdentity)?;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let (Some(uri), None) = (uris.next(), uris.next()) else { return Err(Refused::NoIdentity) };
    let id = uri.strip_prefix(IDENTITY).ok_or(Refused::NoIdentity)?;
    DeviceId::new(id).map_err(|_| Refused::NoIdentity)
}
