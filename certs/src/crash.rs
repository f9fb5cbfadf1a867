//! Tests: the process dies before any step of any change to the disk, and the CA is opened again.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fieldgate_types::{DeviceId, ManualClock, UnixMillis};
use rustls_pki_types::CertificateDer;

use crate::durable::fault;
use crate::encoding::certificates_from_pem;
use crate::registry::{CertificateRecord, Registry, RegistryError};
use crate::{AuthorityKind, Ca, CaError, IssuerKey, Role, RotationError, Serial};

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
const DAY: Duration = Duration::from_hours(24);

#[derive(Default)]
struct Rows(std::sync::Mutex<Vec<CertificateRecord>>);

impl Registry for Rows {
    fn certificate(&self, issuer: &IssuerKey, serial: &Serial) -> Option<CertificateRecord> {
        self.0.lock().unwrap().iter().find(|row| row.issuer == *issuer && row.serial == *serial).cloned()
    }
    fn record(&self, certificate: &CertificateRecord) -> Result<(), RegistryError> {
        self.0.lock().unwrap().push(certificate.clone());
        Ok(())
    }
}

fn open(dir: &Path) -> Result<Ca, CaError> {
    Ca::open_or_create(dir, &DeviceId::new("line-4").unwrap(), Arc::new(ManualClock::new(NOW)))
}

/// A device that is issued by `ca`, and is let in by it.
fn device(ca: &Ca, rows: &Rows) -> Vec<CertificateDer<'static>> {
    let issued = ca.issue(rows, &DeviceId::new("press-1").unwrap(), Role::Device, DAY).unwrap();
    let chain: Vec<_> = certificates_from_pem(issued.certificate_pem.as_bytes())
        .unwrap()
        .into_iter()
        .map(CertificateDer::from)
        .collect();
    ca.identify(&chain, rows, NOW).unwrap();
    chain
}

fn issuing(ca: &Ca) -> usize {
    ca.authorities().iter().filter(|info| info.kind == AuthorityKind::Issuing && info.revoked.is_none()).count()
}

/// Dies before step 0, 1, 2, … of `change` until it comes through, and looks at what is found then: `old` or `new` holds,
/// devices are let in, and `change` can be made after all.
fn at_every_step(
    prepare: impl Fn(&Ca),
    change: impl Fn(&Ca) -> Result<(), RotationError>,
    old: impl Fn(&Ca) -> bool,
    new: impl Fn(&Ca) -> bool,
) {
    let mut seen = (0, 0);
    for steps in 0.. {
        let data = tempfile::tempdir().unwrap();
        let dir = data.path().join("ca");
        let ca = open(&dir).unwrap();
        let rows = Rows::default();
        let before = device(&ca, &rows);
        prepare(&ca);
        assert!(old(&ca) && !new(&ca));

        fault::kill_after(Some(steps));
        let result = change(&ca);
        let killed = fault::killed();
        fault::kill_after(None);
        drop(ca);

        let ca = open(&dir).unwrap_or_else(|error| panic!("dead before step {steps}: {error}"));
        assert!(old(&ca) != new(&ca), "dead before step {steps}: neither or both");
        if old(&ca) {
            seen.0 += 1;
        } else {
            seen.1 += 1;
        }
        if ca.authorities().iter().any(|info| info.kind == AuthorityKind::Issuing && info.revoked.is_some()) {
            ca.identify(&before, &rows, NOW).unwrap_err();
        } else {
            ca.identify(&before, &rows, NOW).unwrap();
        }
        device(&ca, &rows);
        if old(&ca) {
            change(&ca).unwrap_or_else(|error| panic!("dead before step {steps}, again: {error}"));
            assert!(new(&ca));
            device(&ca, &rows);
        }
        assert!(new(&open(&dir).unwrap()));
        let unfinished = std::fs::read_dir(&dir)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "new"));
        assert_eq!(unfinished.count(), 0);
        if result.is_ok() && !killed {
            assert!(seen.0 > 0 && seen.1 > 0, "both were seen: {seen:?}");
            return;
        }
    }
}

#[test]
fn a_rotation_that_dies_leaves_the_old_or_the_new_state() {
    at_every_step(|_| {}, |ca| ca.rotate().map(drop), |ca| issuing(ca) == 1, |ca| issuing(ca) == 2);
}

#[test]
fn taking_the_root_key_away_leaves_it_there_or_away() {
    let here = |ca: &Ca| ca.authorities().iter().any(|info| info.kind == AuthorityKind::Root && info.key_present);
    at_every_step(|_| {}, Ca::remove_root_key, here, |ca| !here(ca));
}

#[test]
fn bringing_the_root_key_back_leaves_it_away_or_there() {
    let here = |ca: &Ca| ca.authorities().iter().any(|info| info.kind == AuthorityKind::Root && info.key_present);
    let key = std::cell::RefCell::new(None);
    at_every_step(
        |ca| {
            *key.borrow_mut() = Some(ca.export_root_key().unwrap());
            ca.remove_root_key().unwrap();
        },
        |ca| ca.restore_root_key(key.borrow().as_ref().unwrap().expose().as_bytes()).map(drop),
        |ca| !here(ca),
        here,
    );
}

#[test]
fn revoking_an_issuing_ca_is_done_or_not() {
    at_every_step(
        |ca| drop(ca.rotate().unwrap()),
        |ca| {
            let first = ca.authorities().into_iter().find(|info| info.kind == AuthorityKind::Issuing).unwrap();
            ca.revoke_issuing(&first.issuer_key).map(drop)
        },
        |ca| issuing(ca) == 2,
        |ca| issuing(ca) == 1,
    );
}

#[test]
fn a_creation_that_dies_is_completed_by_the_next_start() {
    for steps in 0.. {
        let data = tempfile::tempdir().unwrap();
        let dir = data.path().join("ca");
        fault::kill_after(Some(steps));
        let result = open(&dir);
        let killed = fault::killed();
        fault::kill_after(None);
        let ca = open(&dir).unwrap_or_else(|error| panic!("dead before step {steps}: {error}"));
        device(&ca, &Rows::default());
        assert_eq!(ca.authorities().len(), 2);
        if result.is_ok() && !killed {
            assert!(steps > 25, "every step counts");
            return;
        }
    }
}
