//! Makes a CA with one bundle per kind of key and a server certificate, for `tests/openssl-check.sh` and for looking at:
//! `cargo run -p fieldgate-certs --example plant -- DIR [REQUEST.pem …]`.

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fieldgate_certs::{Ca, CertificateRecord, IssuerKey, Registry, RegistryError, Role, Serial};
use fieldgate_types::{DeviceId, SystemClock};

/// Forgets at exit: nothing will ever connect.
#[derive(Default)]
struct Forgetful(Mutex<Vec<CertificateRecord>>);

impl Registry for Forgetful {
    fn certificate(&self, issuer: &IssuerKey, serial: &Serial) -> Option<CertificateRecord> {
        let rows = self.0.lock().ok()?;
        rows.iter().find(|row| row.issuer == *issuer && row.serial == *serial).cloned()
    }

    fn record(&self, certificate: &CertificateRecord) -> Result<(), RegistryError> {
        self.0.lock().map_err(|_| RegistryError::new("poisoned"))?.push(certificate.clone());
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let dir = arguments.next().ok_or("usage: plant DIR [REQUEST.pem …]")?;
    let ca = Ca::open_or_create(&dir.join("ca"), &DeviceId::new("line-4")?, Arc::new(SystemClock::new()))?;
    let registry = Forgetful::default();
    let ten_years = Duration::from_hours(87_600);

    for (id, role, validity) in [
        ("press-1", Role::Device, ten_years),
        ("hmi", Role::App, ten_years),
        ("line-5", Role::Gateway, Duration::MAX),
        ("x".repeat(64).as_str(), Role::Device, Duration::from_hours(24)),
    ] {
        ca.issue(&registry, &DeviceId::new(id)?, role, validity)?.write_bundle(&dir.join("bundles").join(id))?;
    }
    for request in arguments {
        let id = request.file_stem().and_then(|stem| stem.to_str()).ok_or("a request needs a name")?;
        ca.issue_from_csr(&registry, &fs::read(&request)?, &DeviceId::new(id)?, Role::Device, ten_years)?
            .write_bundle(&dir.join("bundles").join(id))?;
    }

    let names = ["localhost".to_owned(), "gw.plant.example".to_owned()];
    let server = ca.server_certificate(&names, &["127.0.0.1".parse()?, "::1".parse()?])?;
    fs::write(dir.join("server.pem"), server.chain_pem())?;
    fs::write(dir.join("ca.pem"), ca.trust_bundle_pem())?;
    Ok(())
}
