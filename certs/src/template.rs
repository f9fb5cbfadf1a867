//! What stands in each kind of certificate (RFC 5280), and for how long it is valid.

use std::net::IpAddr;
use std::time::Duration;

use fieldgate_types::{DeviceId, UnixMillis};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod,
    KeyUsagePurpose, SanType, SerialNumber,
};

use crate::instant::{date_time, whole_seconds};
use crate::{IssuerKey, Life, Serial};

const DAY: Duration = Duration::from_hours(24);

/// How far before its issue a certificate begins to be valid. Field devices with their local time set as UTC are up to
/// fourteen hours behind; with a few minutes only, they would refuse each new server certificate for half a day.
pub(crate) const BACKDATING: Duration = DAY;
/// 60 years of 365.25 days.
pub(crate) const ROOT_LIFE: Duration = Duration::from_hours(60 * 8766);
/// 20 years of 365.25 days.
pub(crate) const ISSUING_LIFE: Duration = Duration::from_hours(20 * 8766);
/// From first to last moment of a server certificate, the backdated day included.
pub(crate) const SERVER_LIFE: Duration = Duration::from_hours(30 * 24);

/// From when to when, in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lifetime {
    pub(crate) not_before: UnixMillis,
    pub(crate) not_after: UnixMillis,
    /// Whether it would have outlived its issuer.
    pub(crate) clamped: bool,
}

impl Lifetime {
    /// Valid for `validity` from `now` on.
    pub(crate) fn from_now(now: UnixMillis, validity: Duration) -> Self {
        Self { not_before: backdated(now), not_after: whole_seconds(now.plus(validity)), clamped: false }
    }

    /// `life` long, of which the backdated part is over already.
    pub(crate) fn in_all(now: UnixMillis, life: Duration) -> Self {
        let not_before = backdated(now);
        Self { not_before, not_after: not_before.plus(life), clamped: false }
    }

    pub(crate) fn life(self) -> Life {
        Life { not_before: self.not_before, not_after: self.not_after }
    }

    /// Cut to lie within its issuer's.
    pub(crate) fn within(self, not_before: UnixMillis, not_after: UnixMillis) -> Self {
        Self {
            not_before: self.not_before.max(not_before),
            not_after: self.not_after.min(not_after),
            clamped: self.not_after > not_after,
        }
    }
}

/// A day earlier, in whole seconds.
pub(crate) fn backdated(now: UnixMillis) -> UnixMillis {
    whole_seconds(UnixMillis(now.since(UnixMillis(0).plus(BACKDATING)).as_millis().try_into().unwrap_or_default()))
}

/// What every certificate has: a random serial number, key identifiers of both sides (strict verifiers ask for them).
fn any(lifetime: Lifetime, serial: &Serial, name: DistinguishedName) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = date_time(lifetime.not_before);
    params.not_after = date_time(lifetime.not_after);
    params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
    params.distinguished_name = name;
    params.use_authority_key_identifier_extension = true;
    params.key_identifier_method = KeyIdMethod::Sha256;
    params
}

fn authority(
    word: &str,
    gateway: &DeviceId,
    key: &IssuerKey,
    lifetime: Lifetime,
    serial: &Serial,
) -> CertificateParams {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Fieldgate");
    name.push(DnType::OrganizationalUnitName, gateway.as_str());
    // Part of the key's hash makes names unique: after a rotation, or when a gateway is set up anew under the same id,
    // trust stores that look CAs up by name still tell them apart.
    let short: String = key.to_string().chars().take(8).collect();
    name.push(DnType::CommonName, format!("Fieldgate {word} CA {short}"));
    let mut params = any(lifetime, serial, name);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// A root: signs issuing CAs only.
pub(crate) fn root(gateway: &DeviceId, key: &IssuerKey, lifetime: Lifetime, serial: &Serial) -> CertificateParams {
    let mut params = authority("root", gateway, key, lifetime, serial);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params
}

/// An issuing CA: signs devices' and servers' certificates only.
pub(crate) fn issuing(gateway: &DeviceId, key: &IssuerKey, lifetime: Lifetime, serial: &Serial) -> CertificateParams {
    let mut params = authority("issuing", gateway, key, lifetime, serial);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params
}

fn leaf(id: &DeviceId, purpose: ExtendedKeyUsagePurpose, lifetime: Lifetime, serial: &Serial) -> CertificateParams {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, id.as_str());
    let mut params = any(lifetime, serial, name);
    // rcgen writes the subject's key identifier only where it writes basicConstraints.
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    params
}

/// The URI by which a certificate names its holder.
pub(crate) fn identity_uri(id: &str) -> String {
    format!("{IDENTITY}{id}")
}

/// What comes before the id in the URI.
pub(crate) const IDENTITY: &str = "urn:fieldgate:device:";

/// A client certificate whose holder is `id`.
pub(crate) fn client(id: &DeviceId, lifetime: Lifetime, serial: &Serial) -> Result<CertificateParams, rcgen::Error> {
    let mut params = leaf(id, ExtendedKeyUsagePurpose::ClientAuth, lifetime, serial);
    params.subject_alt_names = vec![SanType::URI(identity_uri(id.as_str()).try_into()?)];
    Ok(params)
}

/// A server certificate.
pub(crate) fn server(
    gateway: &DeviceId,
    names: &[String],
    addresses: &[IpAddr],
    lifetime: Lifetime,
    serial: &Serial,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = leaf(gateway, ExtendedKeyUsagePurpose::ServerAuth, lifetime, serial);
    for name in names {
        params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
    }
    params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
    Ok(params)
}
