//! A plant to test with: a CA in a temporary directory, a registry in memory, a clock that stands, and the means to
//! sign what the CA itself never would.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fieldgate_certs::{Ca, CaError, CertificateRecord, Fingerprint, Issued, IssuerKey, Registry, RegistryError, Role};
use fieldgate_certs::{IssueError, Serial};
use fieldgate_types::{Clock, DeviceId, ManualClock, UnixMillis};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tempfile::TempDir;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

/// 2027-01-15T08:00:00Z.
pub const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
pub const DAY: Duration = Duration::from_hours(24);
pub const YEAR: Duration = Duration::from_hours(8766);

pub fn id(text: &str) -> DeviceId {
    DeviceId::new(text).unwrap()
}

/// Rows in memory.
#[derive(Default)]
pub struct Rows {
    rows: Mutex<BTreeMap<(IssuerKey, Serial), CertificateRecord>>,
}

impl Rows {
    pub fn change(&self, record: &CertificateRecord, change: impl FnOnce(&mut CertificateRecord)) {
        change(self.rows.lock().unwrap().get_mut(&(record.issuer, record.serial.clone())).unwrap());
    }

    pub fn forget(&self, record: &CertificateRecord) {
        self.rows.lock().unwrap().remove(&(record.issuer, record.serial.clone())).unwrap();
    }

    pub fn all(&self) -> Vec<CertificateRecord> {
        self.rows.lock().unwrap().values().cloned().collect()
    }

    pub fn len(&self) -> usize {
        self.rows.lock().unwrap().len()
    }
}

impl Registry for Rows {
    fn certificate(&self, issuer: &IssuerKey, serial: &Serial) -> Option<CertificateRecord> {
        self.rows.lock().unwrap().get(&(*issuer, serial.clone())).cloned()
    }

    fn record(&self, certificate: &CertificateRecord) -> Result<(), RegistryError> {
        let key = (certificate.issuer, certificate.serial.clone());
        self.rows.lock().unwrap().insert(key, certificate.clone());
        Ok(())
    }
}

pub struct Plant {
    pub data: TempDir,
    pub clock: Arc<ManualClock>,
    pub rows: Rows,
    pub ca: Ca,
}

impl Plant {
    pub fn new() -> Self {
        Self::at(NOW)
    }

    pub fn at(now: UnixMillis) -> Self {
        let data = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(now));
        let ca = Ca::open_or_create(&data.path().join("ca"), &id("line-4"), Arc::clone(&clock) as _).unwrap();
        Self { data, clock, rows: Rows::default(), ca }
    }

    pub fn dir(&self) -> PathBuf {
        self.data.path().join("ca")
    }

    pub fn reopen(&self) -> Result<Ca, CaError> {
        Ca::open_or_create(&self.dir(), &id("line-4"), Arc::clone(&self.clock) as _)
    }

    pub fn issue(&self, device: &str) -> Issued {
        self.issue_for(device, 10 * YEAR).unwrap()
    }

    pub fn issue_for(&self, device: &str, validity: Duration) -> Result<Issued, IssueError> {
        self.ca.issue(&self.rows, &id(device), Role::Device, validity)
    }

    pub fn read(&self, file: &str) -> String {
        fs::read_to_string(self.dir().join(file)).unwrap()
    }

    /// A certificate signed with the issuing CA's own key, and recorded, whatever `params` say.
    pub fn forge(&self, device: &str, params: &CertificateParams) -> CertificateDer<'static> {
        let key = KeyPair::from_pem(&self.read("issuing-1.key")).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&self.read("issuing-1.pem"), key).unwrap();
        let der = params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der().clone();
        self.record(device, &der);
        der
    }

    /// As if it had been issued.
    pub fn record(&self, device: &str, der: &CertificateDer<'_>) {
        let (_, certificate) = X509Certificate::from_der(der).unwrap();
        let record = CertificateRecord {
            issuer: self.ca.authorities()[1].issuer_key,
            serial: Serial::from_bytes(certificate.raw_serial()),
            device: id(device),
            role: Role::Device,
            fingerprint: Fingerprint::of(der),
            not_before: NOW,
            not_after: NOW.plus(YEAR),
            revoked: None,
            replaces: None,
            superseded: None,
        };
        self.rows.record(&record).unwrap();
    }

    pub fn now(&self) -> UnixMillis {
        self.clock.now()
    }
}

/// What a good device certificate asks for; tests spoil one thing each.
pub fn good_params(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = at(NOW);
    params.not_after = at(NOW.plus(YEAR));
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    params
}

pub fn at(moment: UnixMillis) -> time::OffsetDateTime {
    time::OffsetDateTime::from_unix_timestamp(i64::try_from(moment.as_secs()).unwrap()).unwrap()
}

/// The certificates of a PEM text.
pub fn chain(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().unwrap()
}
