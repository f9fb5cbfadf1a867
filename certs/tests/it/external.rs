//! Certificates of others: external CAs by an explicit map, single certificates by their fingerprint.

use std::sync::Arc;

use fieldgate_certs::{
    ExternalCa, ExternalError, ExternalName, ExternalTrust, Fingerprint, Holder, Origin, Refused, Role,
};
use fieldgate_types::UnixMillis;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::plant::{NOW, Plant, YEAR, at, good_params, id};
use crate::tls::{Insists, Pair, VERSIONS, client_builder, server};

fn holder(device: &str) -> Holder {
    Holder { device: id(device), role: Role::Device }
}

fn other_ca() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Plant 7 device CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = at(NOW);
    params.not_after = at(NOW.plus(3 * YEAR));
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn named(common: &str, names: &[SanType]) -> CertificateParams {
    let mut params = good_params(&[]);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common);
    params.subject_alt_names = names.to_vec();
    params
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().unwrap())
}

struct Leaf {
    der: CertificateDer<'static>,
    key: KeyPair,
}

fn leaf(ca: &CertifiedIssuer<'_, KeyPair>, params: &CertificateParams) -> Leaf {
    let key = KeyPair::generate().unwrap();
    Leaf { der: params.signed_by(&key, ca).unwrap().der().clone(), key }
}

fn connect(
    plant: &Plant,
    config: &Arc<rustls::ServerConfig>,
    leaf: &Leaf,
) -> Vec<Result<fieldgate_certs::Peer, Refused>> {
    let outcome = |version| {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf.key.serialize_der()));
        let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
        let certified = Arc::new(rustls::sign::CertifiedKey::new(vec![leaf.der.clone()], key));
        let client: ClientConfig = client_builder(&plant.ca.trust_bundle_pem(), version)
            .with_client_cert_resolver(Arc::new(Insists(certified)));
        match Pair::shake(&Arc::new(client), config) {
            Ok(pair) => plant.ca.identify(pair.server.peer_certificates().unwrap(), &plant.rows, plant.now()),
            Err(error) => Err(Refused::in_handshake(&error).unwrap_or_else(|| panic!("{error:?}"))),
        }
    };
    VERSIONS.into_iter().map(outcome).collect()
}

#[test]
fn an_external_ca_s_devices_are_who_the_map_says_and_nobody_without_it() {
    let plant = Plant::new();
    let ca = other_ca();
    let (_, config) = server(&plant);
    let by_dns = leaf(&ca, &named("whatever", &[dns("Press-1.plant7.example")]));
    let by_uri = leaf(&ca, &named("whatever", &[uri("urn:plant7:press-2")]));
    let by_name = leaf(&ca, &named("PRESS 3", &[]));
    let ours = leaf(&ca, &named("press-1", &[uri("urn:fieldgate:device:press-1")]));
    let both = leaf(&ca, &named("PRESS 3", &[uri("urn:plant7:press-2")]));
    for leaf in [&by_dns, &by_uri, &by_name, &ours] {
        assert!(
            connect(&plant, &config, leaf).iter().all(|outcome| *outcome == Err(Refused::Foreign)),
            "off by default"
        );
    }
    let names = vec![
        (ExternalName::Dns("press-1.Plant7.example".into()), holder("press-1")),
        (ExternalName::Uri("urn:plant7:press-2".into()), holder("press-2")),
        (ExternalName::Cn("PRESS 3".into()), Holder { device: id("hmi"), role: Role::App }),
    ];
    let trust = ExternalTrust { authorities: vec![ExternalCa { certificate_pem: ca.pem(), names }], pins: vec![] };
    plant.ca.trust_others(trust.clone()).unwrap();
    for (leaf, device) in [(&by_dns, "press-1"), (&by_uri, "press-2"), (&by_name, "hmi")] {
        for outcome in connect(&plant, &config, leaf) {
            let peer = outcome.unwrap();
            assert_eq!((peer.id, peer.origin), (id(device), Origin::External));
            assert_eq!(peer.fingerprint, Fingerprint::of(&leaf.der));
        }
    }
    assert!(connect(&plant, &config, &ours).iter().all(|outcome| *outcome == Err(Refused::Unmapped)));
    assert!(connect(&plant, &config, &both).iter().all(|outcome| *outcome == Err(Refused::Ambiguous)));

    // The rules for certificates stay.
    let mut wrong = named("PRESS 3", &[]);
    wrong.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    assert!(connect(&plant, &config, &leaf(&ca, &wrong)).iter().all(|outcome| *outcome == Err(Refused::Purpose)));
    let mut over = named("PRESS 3", &[]);
    (over.not_before, over.not_after) = (at(UnixMillis(NOW.0 - 9_000)), at(UnixMillis(NOW.0 - 1_000)));
    assert!(connect(&plant, &config, &leaf(&ca, &over)).iter().all(|o| o.as_ref().unwrap_err().label() == "expired"));
    // A CA of the same name and map is another CA.
    assert!(connect(&plant, &config, &leaf(&other_ca(), &named("PRESS 3", &[]))).iter().all(Result::is_err));
    // An older and a newer certificate of one CA, each with a map of its own.
    let map = |name: &str, device: &str| ExternalCa {
        certificate_pem: ca.pem(),
        names: vec![(ExternalName::Dns(name.into()), holder(device))],
    };
    let two = vec![map("other.example", "other"), map("press-1.plant7.example", "press-1")];
    plant.ca.trust_others(ExternalTrust { authorities: two, pins: vec![] }).unwrap();
    assert!(connect(&plant, &config, &by_dns).iter().all(|outcome| outcome.as_ref().unwrap().id == id("press-1")));
    assert!(connect(&plant, &config, &by_uri).iter().all(|outcome| *outcome == Err(Refused::Unmapped)));
    plant.ca.trust_others(trust).unwrap();
    // Revoked here, by a row of ours.
    plant.record("press-2", &by_uri.der);
    let mut row = plant.rows.all().remove(0);
    row.issuer = connect(&plant, &config, &by_uri)[0].as_ref().unwrap().issuer;
    row.revoked = Some(NOW);
    fieldgate_certs::Registry::record(&plant.rows, &row).unwrap();
    assert!(connect(&plant, &config, &by_uri).iter().all(|o| matches!(o, Err(Refused::Revoked { .. }))));
    // It survives a rotation, ends with the CA's own end, and can be taken back.
    plant.ca.rotate().unwrap();
    assert!(connect(&plant, &config, &by_dns)[0].is_ok());
    plant.ca.trust_others(ExternalTrust::default()).unwrap();
    assert!(connect(&plant, &config, &by_dns).iter().all(|outcome| *outcome == Err(Refused::Foreign)));
}

#[test]
fn a_pinned_certificate_is_accepted_to_the_letter_and_with_its_key_alone() {
    let plant = Plant::new();
    let (_, config) = server(&plant);
    let key = KeyPair::generate().unwrap();
    let params = named("press-1", &[]);
    let own = Leaf { der: params.self_signed(&key).unwrap().der().clone(), key };
    assert!(connect(&plant, &config, &own).iter().all(Result::is_err), "off by default");
    let pin = (Fingerprint::of(&own.der), holder("press-1"));
    plant.ca.trust_others(ExternalTrust { pins: vec![pin], ..ExternalTrust::default() }).unwrap();
    for outcome in connect(&plant, &config, &own) {
        let peer = outcome.unwrap();
        assert_eq!((peer.id, peer.origin), (id("press-1"), Origin::Pinned));
    }
    // The same certificate with another key, and another certificate with the same key.
    let thief = Leaf { der: own.der.clone(), key: KeyPair::generate().unwrap() };
    assert!(connect(&plant, &config, &thief).iter().all(|o| o.as_ref().unwrap_err().label() == "bad-signature"));
    let again = params.self_signed(&own.key).unwrap().der().clone();
    let again = Leaf { der: again, key: KeyPair::try_from(own.key.serialize_der()).unwrap() };
    if again.der != own.der {
        assert!(connect(&plant, &config, &again).iter().all(Result::is_err));
    }
    plant.clock.advance(YEAR + crate::plant::DAY);
    assert!(connect(&plant, &config, &own).iter().all(|o| o.as_ref().unwrap_err().label() == "expired"));
}

#[test]
fn a_configuration_that_makes_no_sense_is_refused_and_changes_nothing() {
    let plant = Plant::new();
    let ca = other_ca();
    let with = |pem: String, names| {
        plant
            .ca
            .trust_others(ExternalTrust { authorities: vec![ExternalCa { certificate_pem: pem, names }], pins: vec![] })
    };
    for pem in [String::new(), ca.pem() + &ca.pem(), plant.issue("press-1").certificate_pem] {
        assert!(matches!(with(pem, vec![]), Err(ExternalError::NotACa { number: 1, .. })));
    }
    assert!(matches!(with(plant.read("issuing-1.pem"), vec![]), Err(ExternalError::Own { number: 1 })));
    let name = |text: &str| ExternalName::Dns(text.to_owned());
    let twice = vec![(name("a.example"), holder("press-1")), (name("A.example"), holder("press-2"))];
    let error = with(ca.pem(), twice).unwrap_err();
    assert!(error.to_string().contains("`a.example` stands for `press-1` and for `press-2`"), "{error}");
}
