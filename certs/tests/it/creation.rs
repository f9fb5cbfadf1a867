//! The CA's files: their making, completing after a crash, and what is refused.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use fieldgate_certs::{AuthorityKind, Ca, CaError, IssueError};
use fieldgate_types::{BUILD_FLOOR, UnixMillis};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::plant::{DAY, NOW, Plant, YEAR, chain, id};

const FILES: [&str; 5] = ["root-1.key", "root-1.pem", "root-1.crl", "issuing-1.key", "issuing-1.pem"];

#[test]
fn the_first_start_makes_a_root_and_an_issuing_ca() {
    let plant = Plant::new();
    let bundle = chain(&plant.ca.trust_bundle_pem());
    assert_eq!(bundle.len(), 2);
    let (_, root) = X509Certificate::from_der(&bundle[0]).unwrap();
    let (_, issuing) = X509Certificate::from_der(&bundle[1]).unwrap();
    root.verify_signature(None).unwrap();
    issuing.verify_signature(Some(root.public_key())).unwrap();

    for (authority, path_length, life) in [(&root, 1, 60 * YEAR), (&issuing, 0, 20 * YEAR)] {
        let constraints = authority.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, Some(path_length));
        let usage = authority.key_usage().unwrap().unwrap();
        assert!(usage.critical);
        assert_eq!(usage.value.flags, 0b110_0000, "keyCertSign and cRLSign");
        assert!(authority.extended_key_usage().unwrap().is_none());
        assert_eq!(authority.raw_serial().len(), 16);
        assert_eq!(authority.validity().not_after.timestamp().unsigned_abs(), NOW.plus(life).as_secs());
        let has = |wanted: fn(&ParsedExtension<'_>) -> bool| {
            authority.extensions().iter().filter(|extension| wanted(extension.parsed_extension())).count()
        };
        assert_eq!(has(|e| matches!(e, ParsedExtension::SubjectKeyIdentifier(_))), 1);
        assert_eq!(has(|e| matches!(e, ParsedExtension::AuthorityKeyIdentifier(_))), 1);
    }
    assert_eq!(plant.ca.issuing_not_after(), NOW.plus(20 * YEAR));

    // 2087 is beyond what UTCTime can say: GeneralizedTime (tag 0x18, 15 characters), without fractions.
    let text = time_after_2049(&bundle[0]);
    assert_eq!(text, ["20870115080000Z"]);

    let kinds: Vec<_> = plant.ca.authorities().iter().map(|info| (info.kind, info.key_present)).collect();
    assert_eq!(kinds, [(AuthorityKind::Root, true), (AuthorityKind::Issuing, true)]);
    assert!(!format!("{:?}", plant.ca).contains("PRIVATE"));
}

/// The GeneralizedTimes in a certificate.
pub fn time_after_2049(der: &[u8]) -> Vec<String> {
    let starts = der.windows(2).enumerate().filter(|(_, pair)| *pair == [0x18, 15]).map(|(at, _)| at + 2);
    let texts = starts.filter_map(|at| std::str::from_utf8(der.get(at..at + 15)?).ok());
    texts.filter(|text| text.ends_with('Z')).map(str::to_owned).collect()
}

#[test]
fn the_root_signs_a_revocation_list_for_as_long_as_it_lives() {
    let plant = Plant::new();
    let (_, pem) = x509_parser::pem::parse_x509_pem(plant.read("root-1.crl").as_bytes()).unwrap();
    assert_eq!(pem.label, "X509 CRL");
    let (_, list) = CertificateRevocationList::from_der(&pem.contents).unwrap();
    let root = &chain(&plant.read("root-1.pem"))[0];
    let (_, root) = X509Certificate::from_der(root).unwrap();
    list.verify_signature(root.public_key()).unwrap();
    assert_eq!(list.issuer(), root.subject());
    assert_eq!(list.iter_revoked_certificates().count(), 0);
    assert_eq!(list.next_update().unwrap().timestamp(), root.validity().not_after.timestamp());
    // Without the root's key there is nobody to sign another, and no need.
    fs::remove_file(plant.dir().join("root-1.key")).unwrap();
    fs::remove_file(plant.dir().join("root-1.crl")).unwrap();
    plant.reopen().unwrap();
    assert!(!plant.dir().join("root-1.crl").exists());
}

#[test]
fn opening_again_changes_nothing() {
    let plant = Plant::new();
    let before = FILES.map(|file| plant.read(file));
    plant.clock.advance(5 * YEAR);
    let again = plant.reopen().unwrap();
    assert_eq!(FILES.map(|file| plant.read(file)), before);
    assert_eq!(again.authorities(), plant.ca.authorities());
    assert_eq!(fs::read_dir(plant.dir()).unwrap().count(), FILES.len());
}

#[test]
fn every_state_that_a_crash_can_leave_opens_and_is_completed() {
    for done in 0..=FILES.len() {
        for unfinished in [false, true] {
            let plant = Plant::new();
            let keys = ["root-1.key", "issuing-1.key"].map(|file| plant.read(file));
            for file in &FILES[done..] {
                fs::remove_file(plant.dir().join(file)).unwrap();
            }
            if unfinished && let Some(next) = FILES.get(done) {
                fs::write(plant.dir().join(format!("{next}.new")), "-----BEGIN PRIV").unwrap();
            }
            let ca = plant.reopen().unwrap_or_else(|error| panic!("{done} files, {unfinished}: {error}"));
            let issued = ca.issue(&plant.rows, &id("press-1"), fieldgate_certs::Role::Device, DAY).unwrap();
            ca.identify(&chain(&issued.certificate_pem), &plant.rows, NOW).unwrap();
            assert_eq!(fs::read_dir(plant.dir()).unwrap().count(), FILES.len(), "{done} files, {unfinished}");
            // A key that was there is used, not replaced.
            assert_eq!(plant.read("root-1.key") == keys[0], done >= 1);
            assert_eq!(plant.read("issuing-1.key") == keys[1], done >= 4);
            // And it stays so.
            assert_eq!(plant.reopen().unwrap().authorities(), ca.authorities());
        }
    }
}

#[test]
fn the_root_key_may_be_taken_away() {
    let plant = Plant::new();
    fs::remove_file(plant.dir().join("root-1.key")).unwrap();
    let ca = plant.reopen().unwrap();
    assert!(!ca.authorities()[0].key_present);
    let issued = ca.issue(&plant.rows, &id("press-1"), fieldgate_certs::Role::Device, DAY).unwrap();
    ca.identify(&chain(&issued.certificate_pem), &plant.rows, NOW).unwrap();

    fs::remove_file(plant.dir().join("issuing-1.key")).unwrap();
    let error = plant.reopen().unwrap_err();
    assert!(matches!(error, CaError::NoIssuingKey { .. }), "{error}");
}

#[test]
fn a_lost_or_expired_issuing_ca_is_followed_by_another() {
    let plant = Plant::new();
    let old = plant.issue("press-1");
    fs::remove_file(plant.dir().join("issuing-1.key")).unwrap();
    let ca = plant.reopen().unwrap();
    assert_eq!(ca.authorities().len(), 3);
    // Devices of the lost one are still known.
    ca.identify(&chain(&old.certificate_pem), &plant.rows, NOW).unwrap();
    let new = ca.issue(&plant.rows, &id("press-2"), fieldgate_certs::Role::Device, DAY).unwrap();
    assert_ne!(new.record.issuer, old.record.issuer);
    ca.identify(&chain(&new.certificate_pem), &plant.rows, NOW).unwrap();

    let plant = Plant::new();
    plant.clock.advance(21 * YEAR);
    let expired = plant.ca.issue(&plant.rows, &id("press-1"), fieldgate_certs::Role::Device, DAY).unwrap_err();
    assert!(matches!(expired, IssueError::IssuerExpired { .. }), "{expired}");
    let ca = plant.reopen().unwrap();
    assert_eq!(ca.issuing_not_after(), NOW.plus(41 * YEAR));
    assert_eq!(chain(&ca.trust_bundle_pem()).len(), 2, "the expired one is not for trusting");
}

#[test]
fn an_expired_root_is_dropped() {
    let plant = Plant::new();
    let later = Plant::at(NOW.plus(50 * YEAR));
    // Trusting a second root is what a rotation of the root will need.
    fs::copy(later.dir().join("root-1.pem"), plant.dir().join("root-2.pem")).unwrap();
    let ca = plant.reopen();
    // Its beginning is fifty years ahead, which proves that the clock is wrong by as much.
    let ca = ca.unwrap();
    let server = |ca: &Ca| {
        let certificate = ca.server_certificate(&["localhost".to_owned()], &[])?;
        Ok::<_, Box<dyn std::error::Error>>(ca.server_config(certificate.into())?)
    };
    server(&ca).unwrap();
    plant.clock.advance(11 * YEAR);
    let bundle = chain(&ca.trust_bundle_pem());
    assert_eq!(bundle, chain(&later.read("root-1.pem")));
    server(&ca).unwrap_err();
    plant.clock.advance(139 * YEAR);
    assert_eq!(ca.trust_bundle_pem(), "");
    let error = plant.reopen().unwrap_err();
    assert!(matches!(error, CaError::NoIssuingKey { .. }), "{error}");
}

#[test]
fn keys_that_others_can_reach_are_refused_with_the_command_that_helps() {
    let plant = Plant::new();
    for (file, right, wrong) in
        [("root-1.key", 0o600, 0o640), ("issuing-1.key", 0o600, 0o604), ("", 0o700, 0o755), ("", 0o700, 0o710)]
    {
        let path = if file.is_empty() { plant.dir() } else { plant.dir().join(file) };
        fs::set_permissions(&path, Permissions::from_mode(wrong)).unwrap();
        let error = plant.reopen().unwrap_err();
        assert!(matches!(error, CaError::Exposed { .. }), "{error}");
        let command = format!("run `chmod {right:o} {}`", path.display());
        assert!(error.to_string().contains(&command), "{error}");
        fs::set_permissions(&path, Permissions::from_mode(right)).unwrap();
        plant.reopen().unwrap();
    }
    for file in FILES {
        let mode = fs::metadata(plant.dir().join(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, if file.contains("key") { 0o600 } else { 0o644 }, "{file}");
    }
}

#[test]
fn what_is_not_a_crash_is_not_repaired() {
    type Spoil<'a> = (&'static str, Box<dyn Fn(&Plant) + 'a>);
    let other = Plant::new();
    let copy = |plant: &Plant, file: &str| fs::write(plant.dir().join(file), other.read(file)).unwrap();
    let spoil: [Spoil<'_>; 6] = [
        ("root-1.pem", Box::new(|plant| fs::remove_file(plant.dir().join("root-1.pem")).unwrap())),
        ("issuing-1.pem", Box::new(|plant| copy(plant, "issuing-1.pem"))),
        ("root-1.pem", Box::new(|plant| copy(plant, "root-1.pem"))),
        ("root-1.pem", Box::new(|plant| fs::write(plant.dir().join("root-1.pem"), "-----BEGIN CERT").unwrap())),
        ("issuing-1.key", Box::new(|plant| fs::write(plant.dir().join("issuing-1.key"), "").unwrap())),
        (
            "issuing-1.pem",
            Box::new(|plant| {
                let leaf = plant.issue("press-1").certificate_pem;
                let leaf = leaf.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap();
                fs::remove_file(plant.dir().join("issuing-1.key")).unwrap();
                fs::write(plant.dir().join("issuing-1.pem"), leaf).unwrap();
            }),
        ),
    ];
    for (file, spoil) in spoil {
        let plant = Plant::new();
        spoil(&plant);
        let error = plant.reopen().unwrap_err();
        assert!(matches!(&error, CaError::Damaged { path, .. } if path.ends_with(file)), "{file}: {error}");
    }
}

#[test]
fn files_that_are_not_the_ca_s_are_left_alone() {
    let plant = Plant::new();
    fs::write(plant.dir().join("root-01.pem"), "not read").unwrap();
    fs::write(plant.dir().join("notes.txt"), "not read").unwrap();
    assert_eq!(plant.reopen().unwrap().authorities(), plant.ca.authorities());
    assert_eq!(plant.read("notes.txt"), "not read");
}

#[test]
fn a_box_without_a_clock_makes_certificates_that_are_valid_now() {
    let plant = Plant::at(UnixMillis(0));
    let issued = plant.issue("press-1");
    assert!(issued.record.not_before < BUILD_FLOOR && BUILD_FLOOR < issued.record.not_after);
    plant.ca.identify(&chain(&issued.certificate_pem), &plant.rows, UnixMillis(0)).unwrap();
    plant.clock.step_to(NOW);
    plant.ca.identify(&chain(&issued.certificate_pem), &plant.rows, NOW).unwrap();

    // Made in 2027, restarted in 1970.
    let plant = Plant::new();
    let old = plant.issue("press-1");
    plant.clock.step_to(UnixMillis(0));
    let ca = plant.reopen().unwrap();
    ca.identify(&chain(&old.certificate_pem), &plant.rows, UnixMillis(0)).unwrap();
    let new = ca.issue(&plant.rows, &id("press-2"), fieldgate_certs::Role::Device, YEAR).unwrap();
    assert!(new.record.not_before >= ca.authorities()[1].not_before);
    assert!(new.record.not_after > NOW);
}
