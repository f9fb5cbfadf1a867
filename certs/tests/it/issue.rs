//! What is in a device's certificate, and what is in its bundle.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use fieldgate_certs::{CertificateRecord, Fingerprint, IssueError, IssuerKey, Registry, RegistryError, Role, Serial};
use fieldgate_types::UnixMillis;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use crate::creation::time_after_2049;
use crate::plant::{DAY, NOW, Plant, YEAR, chain, id};

/// webpki's own verdict on a chain, with the first certificate of `trust` as the only anchor.
pub fn webpki_accepts(chain: &[CertificateDer<'_>], trust: &str, usage: KeyUsage, now: UnixMillis) -> bool {
    let roots = crate::plant::chain(trust);
    let anchor = webpki::anchor_from_trusted_cert(&roots[0]).unwrap();
    let leaf = EndEntityCert::try_from(&chain[0]).unwrap();
    let time = UnixTime::since_unix_epoch(Duration::from_millis(now.0));
    let algorithms = webpki::ALL_VERIFICATION_ALGS;
    leaf.verify_for_usage(algorithms, &[anchor], &chain[1..], time, usage, None, None).is_ok()
}

#[test]
fn a_device_certificate_says_who_for_what_and_nothing_more() {
    let plant = Plant::new();
    let issued = plant.issue("press-1");
    let certificates = chain(&issued.certificate_pem);
    assert_eq!(certificates.len(), 2, "leaf, then issuing CA");
    assert_eq!(certificates[1], chain(&plant.ca.trust_bundle_pem())[1]);
    let (rest, leaf) = X509Certificate::from_der(&certificates[0]).unwrap();
    let (_, issuing) = X509Certificate::from_der(&certificates[1]).unwrap();
    assert!(rest.is_empty());
    leaf.verify_signature(Some(issuing.public_key())).unwrap();

    assert_eq!(leaf.subject().to_string(), "CN=press-1");
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names, [GeneralName::URI("urn:fieldgate:device:press-1")]);
    let purposes = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.client_auth && !purposes.server_auth && !purposes.any && purposes.other.is_empty());
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical);
    assert_eq!(usage.value.flags, 1, "digitalSignature alone");
    let constraints = leaf.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && !constraints.value.ca);

    let key_id = |certificate: &X509Certificate<'_>| {
        certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        })
    };
    let authority = leaf.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0.to_vec()),
        _ => None,
    });
    assert_eq!(key_id(&leaf).unwrap().len(), 20);
    assert_eq!(authority, key_id(&issuing));
    assert_ne!(key_id(&leaf), key_id(&issuing));

    assert!(webpki_accepts(&certificates, &issued.ca_pem, KeyUsage::client_auth(), NOW));
    assert!(!webpki_accepts(&certificates, &issued.ca_pem, KeyUsage::server_auth(), NOW));
    assert!(!webpki_accepts(&certificates, &Plant::new().ca.trust_bundle_pem(), KeyUsage::client_auth(), NOW));

    let record = &issued.record;
    assert_eq!(record.serial, Serial::from_bytes(leaf.raw_serial()));
    assert_eq!(record.serial.as_bytes().len(), 16);
    assert_eq!(record.fingerprint, Fingerprint::of(&certificates[0]));
    assert_eq!(record.issuer, IssuerKey::of(issuing.public_key().raw));
    assert_eq!((record.role, record.revoked), (Role::Device, None));
    assert_eq!(record.not_before.as_secs(), leaf.validity().not_before.timestamp().unsigned_abs());
    assert_eq!(record.not_after.as_secs(), leaf.validity().not_after.timestamp().unsigned_abs());
    assert_eq!(record.not_after, NOW.plus(10 * YEAR));
    // A day back, but not before the CA's own beginning.
    assert_eq!(record.not_before, plant.ca.authorities()[1].not_before);
    assert_eq!(NOW.since(record.not_before), DAY);
    assert_eq!(plant.rows.certificate(&record.issuer, &record.serial).as_ref(), Some(record));
    assert!(!issued.clamped);
    let text = serde_json::to_string(record).unwrap();
    assert_eq!(&serde_json::from_str::<CertificateRecord>(&text).unwrap(), record);
}

#[test]
fn two_certificates_share_nothing() {
    let plant = Plant::new();
    let (one, two) = (plant.issue("press-1"), plant.issue("press-1"));
    assert_ne!(one.record.serial, two.record.serial);
    assert_ne!(one.key_pem, two.key_pem);
    assert_eq!(plant.rows.len(), 2);
}

#[test]
fn nothing_outlives_its_issuer() {
    let plant = Plant::new();
    for validity in [21 * YEAR, Duration::MAX] {
        let issued = plant.issue_for("press-1", validity).unwrap();
        assert!(issued.clamped);
        assert_eq!(issued.record.not_after, plant.ca.issuing_not_after());
        let certificates = chain(&issued.certificate_pem);
        assert!(webpki_accepts(&certificates, &issued.ca_pem, KeyUsage::client_auth(), NOW.plus(19 * YEAR)));
    }
    assert!(!plant.issue_for("press-1", 20 * YEAR).unwrap().clamped);
    for nothing in [Duration::ZERO, Duration::from_millis(10)] {
        assert!(matches!(plant.issue_for("press-1", nothing), Err(IssueError::NoLifetime)));
    }
    plant.clock.advance(19 * YEAR + 364 * DAY);
    let server = plant.ca.server_certificate(&["localhost".to_owned()], &[]).unwrap();
    assert_eq!(server.not_after(), plant.ca.issuing_not_after());
}

#[test]
fn moments_after_2049_are_generalized_time_and_those_before_utc_time() {
    // 2049-05-31, so that one end lies before 2050 and the other after.
    let plant = Plant::at(UnixMillis(2_506_032_000_000));
    let issued = plant.issue_for("press-1", YEAR).unwrap();
    let leaf = &chain(&issued.certificate_pem)[0];
    assert_eq!(time_after_2049(leaf), ["20500531060000Z"]);
    // The day before, in UTCTime (tag 0x17, 13 characters).
    assert!(leaf.windows(15).any(|bytes| bytes == b"\x17\x0d490530000000Z"));
    let now = UnixMillis(2_506_032_000_000);
    assert!(webpki_accepts(&chain(&issued.certificate_pem), &issued.ca_pem, KeyUsage::client_auth(), now));
    plant.ca.identify(&chain(&issued.certificate_pem), &plant.rows, now).unwrap();
}

#[test]
fn a_registry_that_fails_means_nothing_was_issued() {
    struct Full;
    impl Registry for Full {
        fn certificate(&self, _: &IssuerKey, _: &Serial) -> Option<CertificateRecord> {
            None
        }
        fn record(&self, _: &CertificateRecord) -> Result<(), RegistryError> {
            Err(RegistryError::new("no space left"))
        }
    }
    let plant = Plant::new();
    let error = plant.ca.issue(&Full, &id("press-1"), Role::Device, DAY).unwrap_err();
    assert!(matches!(error, IssueError::Registry(_)), "{error}");
}

#[test]
fn a_bundle_is_complete_private_and_never_loses_a_key() {
    let plant = Plant::new();
    let issued = plant.issue("press-1");
    let dir = plant.data.path().join("out").join("press-1");
    issued.write_bundle(&dir).unwrap();
    let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap();
    let mode = |file: &str| fs::metadata(dir.join(file)).unwrap().permissions().mode() & 0o777;
    assert_eq!(read("ca.pem"), plant.ca.trust_bundle_pem());
    assert_eq!(read("cert.pem"), issued.certificate_pem);
    assert_eq!(mode("key.pem"), 0o600);
    let key = PrivateKeyDer::from_pem_slice(read("key.pem").as_bytes()).unwrap();
    let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
    rustls::sign::CertifiedKey::new(chain(&read("cert.pem")), key).keys_match().unwrap();
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 3);

    let error = plant.issue("press-1").write_bundle(&dir).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.to_string().contains("key.pem"), "{error}");
    assert_eq!(read("cert.pem"), issued.certificate_pem, "the first bundle is untouched");
    assert!(!format!("{issued:?}").contains("PRIVATE"));
}
