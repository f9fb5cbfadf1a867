//! Issuing certificates to devices, programs and nested gateways.

use std::io;
use std::path::Path;
use std::time::Duration;

use fieldgate_types::{DeviceId, Secret};

use crate::{Ca, CertificateRecord, IssueError, Registry, Role};

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
    /// when absent. Durable when it returns. Refuses to overwrite a `key.pem`.
    pub fn write_bundle(&self, dir: &Path) -> io::Result<()> {
        let _ = dir;
        unimplemented!()
    }
}

impl Ca {
    /// A certificate with a new P-256 key. The registry holds it when this returns.
    pub fn issue(
        &self,
        registry: &dyn Registry,
        id: &DeviceId,
        role: Role,
        validity: Duration,
    ) -> Result<Issued, IssueError> {
        let _ = (registry, id, role, validity);
        unimplemented!()
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
        let _ = (registry, csr, id, role, validity);
        unimplemented!()
    }
}
