//! Signing requests, honest and hostile. The files were made by OpenSSL 3.0; each asks for `CA:TRUE`, `serverAuth` and
//! the names of somebody else, where nothing else is said.

use fieldgate_certs::{IssueError, Role};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};
use webpki::KeyUsage;
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::issue::webpki_accepts;
use crate::plant::{NOW, Plant, YEAR, chain, id};

macro_rules! request {
    ($name:literal) => {
        ($name, include_bytes!(concat!("../requests/", $name, ".pem")).as_slice())
    };
}

fn issue(plant: &Plant, request: &[u8]) -> Result<fieldgate_certs::Issued, IssueError> {
    plant.ca.issue_from_csr(&plant.rows, request, &id("press-1"), Role::Device, 10 * YEAR)
}

fn der(pem: &[u8]) -> Vec<u8> {
    x509_parser::pem::parse_x509_pem(pem).unwrap().1.contents
}

#[test]
fn only_the_key_is_taken_from_a_request() {
    let plant = Plant::new();
    for (name, pem) in [
        request!("p256"),
        request!("p384"),
        request!("ed25519"),
        request!("rsa2048"),
        request!("rsa4096"),
        request!("pss"),
    ] {
        let der = der(pem);
        for form in [pem, &der] {
            let issued = issue(&plant, form).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(issued.key_pem, None);
            let certificates = chain(&issued.certificate_pem);
            let (_, leaf) = X509Certificate::from_der(&certificates[0]).unwrap();
            let (_, request) = X509CertificationRequest::from_der(&der).unwrap();
            assert_eq!(leaf.public_key().raw, request.certification_request_info.subject_pki.raw, "{name}");
            assert_clean(&leaf);
            assert!(webpki_accepts(&certificates, &issued.ca_pem, KeyUsage::client_auth(), NOW), "{name}");
            plant.ca.identify(&certificates, &plant.rows, NOW).unwrap();
        }
    }
}

/// As if the request had asked for nothing.
fn assert_clean(leaf: &X509Certificate<'_>) {
    assert_eq!(leaf.subject().to_string(), "CN=press-1");
    assert!(!leaf.is_ca());
    let purposes = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.client_auth && !purposes.server_auth && !purposes.any && purposes.other.is_empty());
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names, [GeneralName::URI("urn:fieldgate:device:press-1")]);
    assert_eq!(leaf.key_usage().unwrap().unwrap().value.flags, 1);
    assert_eq!(leaf.extensions().len(), 6);
}

#[test]
fn a_request_may_carry_extensions_that_nobody_knows() {
    let plant = Plant::new();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any, ExtendedKeyUsagePurpose::ServerAuth];
    params.subject_alt_names = vec![
        SanType::URI("urn:fieldgate:device:boiler-7".try_into().unwrap()),
        SanType::IpAddress([127, 0, 0, 1].into()),
        SanType::DnsName("gw.plant.example".try_into().unwrap()),
    ];
    params.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99], vec![5, 0])];
    let request = params.serialize_request(&KeyPair::generate().unwrap()).unwrap();
    let issued = issue(&plant, request.der()).unwrap();
    let certificates = chain(&issued.certificate_pem);
    assert_clean(&X509Certificate::from_der(&certificates[0]).unwrap().1);
}

#[test]
fn weak_keys_are_refused_and_named() {
    let plant = Plant::new();
    for ((name, pem), says) in [
        (request!("rsa1024"), "RSA of 1024 bits"),
        (request!("rsa8192"), "RSA of 8192 bits"),
        (request!("secp256k1"), "on the curve 1.3.132.0.10"),
        (request!("p521"), "on the curve 1.3.132.0.35"),
        (request!("explicit"), "on a curve of its own"),
        (request!("compressed"), "compressed"),
        (request!("dsa"), "of the kind 1.2.840.10040.4.1"),
    ] {
        let error = issue(&plant, pem).unwrap_err();
        assert!(matches!(error, IssueError::WeakKey { .. }), "{name}: {error}");
        assert!(error.to_string().contains(says), "{name}: {error}");
    }
    assert_eq!(plant.rows.len(), 0);
}

#[test]
fn a_signature_that_proves_nothing_is_refused() {
    let plant = Plant::new();
    for (name, pem) in [request!("sha1-p256"), request!("sha1-rsa2048")] {
        let error = issue(&plant, pem).unwrap_err();
        assert!(matches!(error, IssueError::BadSignature), "{name}: {error}");
    }
    let (_, pem) = request!("p256");
    let whole = der(pem);
    let (_, request) = X509CertificationRequest::from_der(&whole).unwrap();
    let key = request.certification_request_info.subject_pki.raw;
    // The signed part follows the outermost header. Behind it stand the signature and its algorithm, which x509-parser
    // reads generously; there, a change may be harmless, but the key is still the one that was proved.
    let signed = 3 + request.certification_request_info.raw.len();
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        if let Ok(issued) = issue(&plant, &changed) {
            assert!(at >= signed, "byte {at}");
            let certificates = chain(&issued.certificate_pem);
            assert_eq!(X509Certificate::from_der(&certificates[0]).unwrap().1.public_key().raw, key, "byte {at}");
        }
    }
    let mut swapped = whole.clone();
    let last = swapped.len() - 1;
    swapped[last] ^= 1;
    assert!(matches!(issue(&plant, &swapped), Err(IssueError::BadSignature)));
}

#[test]
fn what_is_not_a_request_is_refused() {
    let plant = Plant::new();
    let (_, pem) = request!("p256");
    let whole = der(pem);
    let certificate = plant.issue("press-9").certificate_pem;
    let longer = [whole.as_slice(), &[0]].concat();
    let big = vec![0x30; 1 << 20];
    for bytes in [b"".as_slice(), b"0", b"hello", certificate.as_bytes(), &longer, &whole[..100], &big, &[0x30, 0x80]] {
        let error = issue(&plant, bytes).unwrap_err();
        assert!(matches!(error, IssueError::NotARequest), "{error}");
    }
    for end in 0..whole.len() {
        assert!(issue(&plant, &whole[..end]).is_err());
    }
    assert_eq!(plant.rows.len(), 1);
}
