//! Issuing certificates to devices, programs and nested gateways.

use std::io;
use std::path::Path;
use std::time::Duration;

use fieldgate_types::{DeviceId, Secret};
use rcgen::PublicKeyData;

use crate::durable::{self, Existing};
use crate::encoding::{certificate_pem, key_pem};
use crate::instant::whole_seconds;
use crate::keystore::P256Key;
use crate::template::{self, Lifetime};
use crate::{Ca, CertificateKey, CertificateRecord, Fingerprint, IssueError, Peer, Registry, Role, Serial, csr};

/// A certificate that was just issued, with all that its holder needs.
#[derive(Debug, Clone)]
pub struct Issued {
    /// As the registry holds it.
    pub record: CertificateRecord,
    /// The leaf, then its issuing CA.
    pub certificate_pem: String,
    /// The key in PKCS #8, when it was made here. Exists nowhere else.
    pub key_pem: Option<Secret>,
    /// The trust bundle: valid roots, then issuing CAs.
    pub ca_pem: String,
    /// Whether the asked validity was cut at the issuing CA's end.
    pub clamped: bool,
}

impl Issued {
    /// Writes `ca.pem`, `cert.pem` and, when the key was made here, `key.pem` (mode 0600) into `dir`, which is made
    /// when absent. Durable when it returns. Refuses to overwrite a `key.pem`: it may be the only copy of a key in use.
    pub fn write_bundle(&self, dir: &Path) -> io::Result<()> {
        durable::make_private_folder(dir)?;
        // First, so that of two writers one fails before it has changed anything.
        if let Some(key) = &self.key_pem {
            let path = dir.join("key.pem");
            durable::write(&path, key.expose().as_bytes(), 0o600, Existing::Keep).map_err(|error| {
                if error.kind() == io::ErrorKind::AlreadyExists {
                    let text = format!("`{}` exists and is not overwritten: choose another directory", path.display());
                    return io::Error::new(io::ErrorKind::AlreadyExists, text);
                }
                error
            })?;
        }
        durable::write(&dir.join("cert.pem"), self.certificate_pem.as_bytes(), 0o644, Existing::Replace)?;
        durable::write(&dir.join("ca.pem"), self.ca_pem.as_bytes(), 0o644, Existing::Replace)
    }
}

impl Ca {
    /// A certificate with a new P-256 key. The registry holds it when this returns. `validity` is this device's own;
    /// it is cut at the issuing CA's end, with a warning ([`Issued::clamped`]).
    pub fn issue(
        &self,
        registry: &dyn Registry,
        id: &DeviceId,
        role: Role,
        validity: Duration,
    ) -> Result<Issued, IssueError> {
        let (key, pkcs8) = P256Key::generate()?;
        let mut issued = self.issue_for(registry, &key, id, role, validity, None)?;
        issued.key_pem = Some(Secret::new(key_pem(&pkcs8).as_str()));
        Ok(issued)
    }

    /// A certificate for the public key of `csr` (PKCS #10, PEM or DER). Everything else in the request is ignored.
    pub fn issue_from_csr(
        &self,
        registry: &dyn Registry,
        csr: &[u8],
        id: &DeviceId,
        role: Role,
        validity: Duration,
    ) -> Result<Issued, IssueError> {
        let key = csr::public_key(csr)?;
        self.issue_for(registry, &key, id, role, validity, None)
    }

    /// As [`Self::issue_from_csr`], in the place of the certificate by which `peer` came. Both are good until the new one
    /// has been used ([`Peer::replaces`]), so that an answer that is lost on the way locks nobody out.
    pub fn renew_from_csr(
        &self,
        registry: &dyn Registry,
        csr: &[u8],
        peer: &Peer,
        validity: Duration,
    ) -> Result<Issued, IssueError> {
        let key = csr::public_key(csr)?;
        let replaces = CertificateKey { issuer: peer.issuer, serial: peer.serial.clone() };
        self.issue_for(registry, &key, &peer.id, peer.role, validity, Some(replaces))
    }

    fn issue_for(
        &self,
        registry: &dyn Registry,
        key: &impl PublicKeyData,
        id: &DeviceId,
        role: Role,
        validity: Duration,
        replaces: Option<CertificateKey>,
    ) -> Result<Issued, IssueError> {
        let now = self.time.for_issuing()?;
        let trust = self.trust.get();
        let signer = trust.signer(now).ok_or_else(|| self.no_signer())?;
        let lifetime = signer.clamp(Lifetime::from_now(now, validity));
        if lifetime.not_after <= whole_seconds(now) {
            return Err(IssueError::NoLifetime);
        }
        let serial = Serial::random().ok_or(rcgen::Error::RingUnspecified)?;
        let der = signer.sign(&template::client(id, lifetime, &serial)?, key)?;
        let issuer = &signer.authority.info;
        let record = CertificateRecord {
            issuer: issuer.issuer_key,
            serial,
            device: id.clone(),
            role,
            fingerprint: Fingerprint::of(&der),
            not_before: lifetime.not_before,
            not_after: lifetime.not_after,
            revoked: None,
            replaces,
            superseded: None,
        };
        registry.record(&record)?;
        if lifetime.clamped {
            tracing::warn!(
                device = %id,
                not_after = lifetime.not_after.0,
                "validity cut at the end of the issuing CA"
            );
        }
        let certificate_pem = certificate_pem(&der) + &certificate_pem(&signer.authority.der);
        Ok(Issued {
            record,
            certificate_pem,
            key_pem: None,
            ca_pem: self.trust_bundle_pem(),
            clamped: lifetime.clamped,
        })
    }

    /// Why nothing can be issued.
    pub(crate) fn no_signer(&self) -> IssueError {
        IssueError::IssuerExpired { not_after: self.issuing_not_after() }
    }
}
