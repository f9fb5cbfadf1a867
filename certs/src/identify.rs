//! Who a peer is, from the certificate it presented.

use fieldgate_types::{DeviceId, UnixMillis};
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName};
use x509_parser::prelude::FromDer;

use crate::external::Holder;
use crate::instant::from_seconds;
use crate::template::IDENTITY;
use crate::trust::Issuing;
use crate::{Ca, CertificateKey, Fingerprint, IssuerKey, Life, Refused, Registry, Role, Serial};

/// A certificate of ours has less than 2 KiB, one of others with an RSA-4096 key and dozens of names 8. Longer ones are
/// not even parsed.
pub(crate) const LONGEST_LEAF: usize = 16 * 1024;

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
    /// When the certificate's time begins.
    pub not_before: UnixMillis,
    /// When the certificate expires.
    pub not_after: UnixMillis,
    /// Who vouches for it.
    pub origin: Origin,
    /// The certificate in whose place its certificate was issued. That it is used proves that it has arrived: the other
    /// is to be marked in the registry ([`crate::CertificateRecord::supersede`]), unless it is already.
    pub replaces: Option<CertificateKey>,
}

impl Peer {
    /// From when to when its certificate is valid.
    pub fn life(&self) -> Life {
        Life { not_before: self.not_before, not_after: self.not_after }
    }
}

/// Who vouches for a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Our own CA.
    Own,
    /// An external CA, by the map.
    External,
    /// Its certificate is pinned.
    Pinned,
}

impl Ca {
    /// Who presented `chain`, leaf first, as `rustls` gives it after the handshake. To be asked after every handshake,
    /// because the registry, and not the TLS library, knows what is revoked.
    ///
    /// A method of the CA and not a function, because the issuer must be proved: the leaf's signature is checked once
    /// more against the keys of our own issuing CAs, and the one whose key fits is the issuer. What the client sent
    /// beyond its leaf is not looked at. Where they are configured, pins come next, then external CAs. `now` is the
    /// clock's, and is judged by [`crate::TimeFloor`].
    pub fn identify(
        &self,
        chain: &[CertificateDer<'_>],
        registry: &dyn Registry,
        now: UnixMillis,
    ) -> Result<Peer, Refused> {
        let der = chain.first().ok_or(Refused::NoCertificate)?;
        if der.len() > LONGEST_LEAF {
            return Err(Refused::Malformed("longer than 16 KiB"));
        }
        let (rest, leaf) = X509Certificate::from_der(der).map_err(|_| Refused::Malformed("not X.509"))?;
        if !rest.is_empty() {
            return Err(Refused::Malformed("bytes after its end"));
        }
        let trust = self.trust.get();
        let now = self.time.at(now);
        let leaf = Leaf { fingerprint: Fingerprint::of(der), life: life_of(&leaf), parsed: leaf };
        if let Some(issuer) = trust.issuing.iter().find(|issuing| issuing.authority.has_signed(&leaf.parsed)) {
            return own(issuer, &leaf, registry, now);
        }
        if let Some(holder) = trust.external.pin(&leaf.fingerprint) {
            let issuer = IssuerKey::of(leaf.parsed.public_key().raw);
            return leaf.foreign(Origin::Pinned, holder, issuer, leaf.life.not_after, registry, now);
        }
        let (other, holder) = trust.external.holder(&leaf.parsed)?;
        let last = leaf.life.not_after.min(other.authority.info.not_after);
        leaf.foreign(Origin::External, holder, other.authority.info.issuer_key, last, registry, now)
    }
}

struct Leaf<'a> {
    parsed: X509Certificate<'a>,
    fingerprint: Fingerprint,
    life: Life,
}

/// A leaf of one of our own issuing CAs.
fn own(issuer: &Issuing, leaf: &Leaf<'_>, registry: &dyn Registry, now: UnixMillis) -> Result<Peer, Refused> {
    check_purpose(&leaf.parsed, Usage::Stated)?;
    let id = identity(&leaf.parsed)?;
    let serial = Serial::from_bytes(leaf.parsed.raw_serial());
    let issuer_key = issuer.authority.info.issuer_key;
    if let Some(since) = issuer.revoked {
        return Err(Refused::IssuerRevoked { id, since });
    }
    let Some(record) = registry.certificate(&issuer_key, &serial) else {
        return Err(Refused::Unknown { id, serial });
    };
    if record.device != id || record.fingerprint != leaf.fingerprint {
        return Err(Refused::Mismatch { id, serial });
    }
    if let Some(since) = record.revoked {
        return Err(Refused::Revoked { id, since });
    }
    // Its issuer, or the root above, may end sooner only if others' tools made it.
    leaf.check_time(&id, leaf.life.not_after.min(issuer.ends), now)?;
    if let Some(since) = record.superseded.filter(|since| *since <= now) {
        return Err(Refused::Superseded { id, since });
    }
    Ok(Peer {
        id,
        role: record.role,
        fingerprint: leaf.fingerprint,
        issuer: issuer_key,
        serial,
        not_before: leaf.life.not_before,
        not_after: leaf.life.not_after,
        origin: Origin::Own,
        replaces: record.replaces,
    })
}

impl Leaf<'_> {
    /// A leaf that others issued, for the one who is meant by it. Nothing of it needs to be in the registry, but what
    /// stands there counts.
    fn foreign(
        &self,
        origin: Origin,
        holder: &Holder,
        issuer: IssuerKey,
        last: UnixMillis,
        registry: &dyn Registry,
        now: UnixMillis,
    ) -> Result<Peer, Refused> {
        check_purpose(&self.parsed, Usage::StatedOrNot)?;
        let id = holder.device.clone();
        let serial = Serial::from_bytes(self.parsed.raw_serial());
        let revoked = registry.certificate(&issuer, &serial).and_then(|record| record.revoked);
        if let Some(since) = revoked.or_else(|| registry.barred(&id)) {
            return Err(Refused::Revoked { id, since });
        }
        self.check_time(&id, last, now)?;
        Ok(Peer {
            id,
            role: holder.role,
            fingerprint: self.fingerprint,
            issuer,
            serial,
            not_before: self.life.not_before,
            not_after: self.life.not_after,
            origin,
            replaces: None,
        })
    }

    fn check_time(&self, id: &DeviceId, last: UnixMillis, now: UnixMillis) -> Result<(), Refused> {
        let not_before = self.life.not_before;
        if now < not_before {
            return Err(Refused::NotYetValid { id: id.clone(), not_before });
        }
        if (Life { not_before, not_after: last }).expired(now) {
            return Err(Refused::Expired { id: id.clone(), not_after: last });
        }
        Ok(())
    }
}

/// From when to when.
pub(crate) fn life_of(certificate: &X509Certificate<'_>) -> Life {
    let validity = certificate.validity();
    Life {
        not_before: from_seconds(validity.not_before.timestamp()),
        not_after: from_seconds(validity.not_after.timestamp()),
    }
}

/// Whether the key's usage must be stated: ours always is; without it, any is meant (RFC 5280, 4.2.1.3).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Usage {
    Stated,
    StatedOrNot,
}

/// For clients, for nothing else, and no CA.
fn check_purpose(leaf: &X509Certificate<'_>, wanted: Usage) -> Result<(), Refused> {
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
    let stated = leaf.key_usage().map_err(twice)?;
    let signs = stated.map_or(wanted == Usage::StatedOrNot, |usage| usage.value.digital_signature());
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
