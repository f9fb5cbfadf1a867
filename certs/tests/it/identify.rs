//! Who is let in by its certificate, and every reason for which it is not.

use fieldgate_certs::{Ca, HandshakeRefusal, Origin, Peer, Refused, Role};
use fieldgate_types::UnixMillis;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;

use crate::plant::{DAY, NOW, Plant, YEAR, chain, good_params, id};

const URI: &str = "urn:fieldgate:device:press-1";

fn identify(plant: &Plant, chain: &[CertificateDer<'_>]) -> Result<Peer, Refused> {
    plant.ca.identify(chain, &plant.rows, plant.now())
}

#[test]
fn a_device_is_who_its_certificate_says() {
    let plant = Plant::new();
    for role in [Role::Device, Role::App, Role::Gateway] {
        let issued = plant.ca.issue(&plant.rows, &id("press-1"), role, DAY).unwrap();
        let certificates = chain(&issued.certificate_pem);
        let record = issued.record;
        let peer = Peer {
            id: id("press-1"),
            role,
            fingerprint: record.fingerprint,
            issuer: record.issuer,
            serial: record.serial,
            not_before: record.not_before,
            not_after: record.not_after,
            origin: Origin::Own,
            replaces: None,
        };
        // With its issuing CA, alone, and with the certificates of somebody else behind it.
        let foreign = chain(&Plant::new().ca.trust_bundle_pem());
        let mixed = [&certificates[..1], &foreign].concat();
        for sent in [&certificates[..], &certificates[..1], &mixed] {
            assert_eq!(identify(&plant, sent), Ok(peer.clone()));
        }
        // After a restart too.
        assert_eq!(plant.reopen().unwrap().identify(&certificates, &plant.rows, NOW), Ok(peer));
    }
}

#[test]
fn what_can_not_be_read_is_refused() {
    let plant = Plant::new();
    assert_eq!(identify(&plant, &[]), Err(Refused::NoCertificate));
    let whole = chain(&plant.issue("press-1").certificate_pem)[0].to_vec();
    let longer = [&whole[..], &[0]].concat();
    for bytes in [vec![], vec![0x30], longer, vec![0x30; 65_536]] {
        let refused = identify(&plant, &[bytes.into()]).unwrap_err();
        assert!(matches!(refused, Refused::Malformed(_)), "{refused}");
    }
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        assert!(identify(&plant, &[changed.into()]).is_err(), "byte {at}");
    }
    for end in 0..whole.len() {
        assert!(identify(&plant, &[whole[..end].to_vec().into()]).is_err());
    }
}

#[test]
fn a_ca_of_the_same_name_is_another_ca() {
    let plant = Plant::new();
    // The other plant's gateway has the same id. To have the same names in every letter as well, a forger signs with a
    // key of its own under a copy of our issuing CA's name.
    let other = Plant::new();
    let certificates = chain(&other.issue("press-1").certificate_pem);
    assert_eq!(identify(&plant, &certificates), Err(Refused::Foreign));

    let key = rcgen::KeyPair::generate().unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&plant.read("issuing-1.pem"), key).unwrap();
    let forged = good_params(&[URI]).signed_by(&rcgen::KeyPair::generate().unwrap(), &issuer).unwrap();
    let ours = chain(&plant.read("issuing-1.pem"));
    assert_eq!(identify(&plant, &[forged.der().clone(), ours[0].clone()]), Err(Refused::Foreign));

    let own = good_params(&[URI]).self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    assert_eq!(identify(&plant, &[own.der().clone()]), Err(Refused::Foreign));
}

#[test]
fn ca_certificates_are_nobody() {
    let plant = Plant::new();
    for authority in chain(&plant.ca.trust_bundle_pem()) {
        assert_eq!(identify(&plant, &[authority]), Err(Refused::Foreign));
    }
}

#[test]
fn the_forger_s_tool_makes_good_ones_when_nothing_is_spoilt() {
    let plant = Plant::new();
    let good = plant.forge("press-1", &good_params(&[URI]));
    assert_eq!(identify(&plant, &[good]).unwrap().id, id("press-1"));
}

#[test]
fn exactly_one_identity_is_wanted() {
    let plant = Plant::new();
    for uris in [
        &[][..],
        &[URI, URI],
        &[URI, "urn:fieldgate:device:press-2"],
        &[URI, "https://plant.example/press-1"],
        &["urn:other:device:press-1"],
        &["URN:fieldgate:device:press-1"],
        &["urn:fieldgate:device:"],
        &["urn:fieldgate:device:+"],
        &["urn:fieldgate:device:a/#"],
        &["urn:fieldgate:device:press-1\0"],
        &["urn:fieldgate:device:-press"],
        &["urn:fieldgate:device:press-1 "],
        &["prefix urn:fieldgate:device:press-1"],
    ] {
        let leaf = plant.forge("press-1", &good_params(uris));
        assert_eq!(identify(&plant, &[leaf]), Err(Refused::NoIdentity), "{uris:?}");
    }
    let long = format!("urn:fieldgate:device:{}", "x".repeat(65));
    assert_eq!(identify(&plant, &[plant.forge("press-1", &good_params(&[&long]))]), Err(Refused::NoIdentity));
    // Names of other kinds say nothing.
    let mut names = good_params(&[]);
    names.subject_alt_names = vec![SanType::DnsName("press-1".try_into().unwrap())];
    names.distinguished_name.push(rcgen::DnType::CommonName, "press-1");
    assert_eq!(identify(&plant, &[plant.forge("press-1", &names)]), Err(Refused::NoIdentity));
}

#[test]
fn exactly_one_purpose_is_wanted() {
    use ExtendedKeyUsagePurpose::{Any, ClientAuth, CodeSigning, Other, ServerAuth};
    let plant = Plant::new();
    for purposes in [
        vec![],
        vec![ServerAuth],
        vec![Any],
        vec![ClientAuth, ServerAuth],
        vec![ClientAuth, Any],
        vec![ClientAuth, CodeSigning],
        vec![ClientAuth, Other(vec![1, 3, 6, 1, 4, 1, 99])],
    ] {
        let mut params = good_params(&[URI]);
        params.extended_key_usages.clone_from(&purposes);
        assert_eq!(identify(&plant, &[plant.forge("press-1", &params)]), Err(Refused::Purpose), "{purposes:?}");
    }
    let mut ca = good_params(&[URI]);
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    assert_eq!(identify(&plant, &[plant.forge("press-1", &ca)]), Err(Refused::Purpose));
    let mut usage = good_params(&[URI]);
    usage.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
    assert_eq!(identify(&plant, &[plant.forge("press-1", &usage)]), Err(Refused::Purpose));
}

#[test]
fn an_extension_that_stands_twice_is_refused() {
    let plant = Plant::new();
    // A second subjectAltName (2.5.29.17): SEQUENCE { [6] "urn:fieldgate:device:x" }.
    let mut names = vec![0x30, 24, 0x86, 22];
    names.extend_from_slice(b"urn:fieldgate:device:x");
    // A second extendedKeyUsage (2.5.29.37): SEQUENCE { serverAuth }.
    let purpose = vec![0x30, 10, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 1];
    for (oid, content) in [([2, 5, 29, 17], names), ([2, 5, 29, 37], purpose)] {
        let mut params: CertificateParams = good_params(&[URI]);
        params.custom_extensions = vec![CustomExtension::from_oid_content(&oid, content)];
        let refused = identify(&plant, &[plant.forge("press-1", &params)]).unwrap_err();
        assert!(matches!(refused, Refused::Malformed(_)), "{oid:?}: {refused}");
    }
}

#[test]
fn the_registry_has_the_last_word() {
    let plant = Plant::new();
    let issued = plant.issue("press-1");
    let certificates = chain(&issued.certificate_pem);
    let record = &issued.record;
    let serial = record.serial.clone();

    plant.rows.change(record, |row| row.revoked = Some(NOW));
    let revoked = identify(&plant, &certificates).unwrap_err();
    assert_eq!(revoked, Refused::Revoked { id: id("press-1"), since: NOW });
    assert!(revoked.to_string().contains("2027-01-15T08:00:00Z"), "{revoked}");
    assert_eq!((revoked.device(), revoked.label()), (Some(&id("press-1")), "revoked"));
    // For good, not until its time is over, and whatever the clock says.
    for now in [UnixMillis(0), NOW, NOW.plus(100 * YEAR)] {
        assert!(matches!(plant.ca.identify(&certificates, &plant.rows, now), Err(Refused::Revoked { .. })));
    }
    plant.rows.change(record, |row| row.revoked = None);
    identify(&plant, &certificates).unwrap();

    let mismatch = Err(Refused::Mismatch { id: id("press-1"), serial: serial.clone() });
    plant.rows.change(record, |row| row.device = id("press-2"));
    assert_eq!(identify(&plant, &certificates), mismatch);
    plant.rows.change(record, |row| row.device = id("press-1"));
    plant.rows.change(record, |row| row.fingerprint.0[31] ^= 1);
    assert_eq!(identify(&plant, &certificates), mismatch);

    plant.rows.forget(record);
    assert_eq!(identify(&plant, &certificates), Err(Refused::Unknown { id: id("press-1"), serial }));
}

#[test]
fn time_is_judged_to_the_second() {
    let plant = Plant::new();
    let issued = plant.issue_for("press-1", YEAR).unwrap();
    let certificates = chain(&issued.certificate_pem);
    let at = |ca: &Ca| ca.identify(&certificates, &plant.rows, plant.now());
    let (first, last) = (issued.record.not_before, issued.record.not_after);
    assert!(plant.ca.identify(&certificates, &plant.rows, first).is_ok());
    plant.clock.advance(UnixMillis(last.0 + 999).since(NOW));
    assert!(at(&plant.ca).is_ok(), "the last second belongs to it");
    plant.clock.advance(std::time::Duration::from_millis(1));
    assert_eq!(at(&plant.ca), Err(Refused::Expired { id: id("press-1"), not_after: last }));

    // Before its beginning, with a clock that can be right: it was made while the clock was a week ahead.
    let plant = Plant::new();
    let server_before = plant.now();
    plant.clock.step_to(NOW.plus(7 * DAY));
    let later = plant.issue("press-2");
    plant.clock.step_to(server_before);
    let early = plant.ca.identify(&chain(&later.certificate_pem), &plant.rows, plant.now());
    assert_eq!(early, Err(Refused::NotYetValid { id: id("press-2"), not_before: later.record.not_before }));
    // A clock that was set back by some hours breaks nothing.
    plant.clock.step_to(UnixMillis(NOW.plus(7 * DAY).0 - 20 * 3_600_000));
    plant.ca.identify(&chain(&later.certificate_pem), &plant.rows, plant.now()).unwrap();
}

#[test]
fn refusals_say_what_to_do_and_have_words_for_metrics() {
    let press = id("press-1");
    let serial = fieldgate_certs::Serial::from_bytes(&[1]);
    let all = [
        Refused::NoCertificate,
        Refused::Malformed("not X.509"),
        Refused::Foreign,
        Refused::NoIdentity,
        Refused::Purpose,
        Refused::Unknown { id: press.clone(), serial: serial.clone() },
        Refused::Mismatch { id: press.clone(), serial },
        Refused::Revoked { id: press.clone(), since: NOW },
        Refused::Expired { id: press.clone(), not_after: NOW },
        Refused::NotYetValid { id: press.clone(), not_before: NOW },
        Refused::Superseded { id: press.clone(), since: NOW },
        Refused::IssuerRevoked { id: press, since: NOW },
        Refused::Unmapped,
        Refused::Ambiguous,
        Refused::Handshake(HandshakeRefusal::Weak),
        Refused::Handshake(HandshakeRefusal::BadSignature),
        Refused::Handshake(HandshakeRefusal::Broken),
    ];
    let labels: std::collections::BTreeSet<_> = all.iter().map(Refused::label).collect();
    assert_eq!(labels.len(), all.len());
    for refused in &all {
        assert!(refused.to_string().contains(':') || refused.label() == "broken", "{refused}");
        assert_eq!(refused.device().is_some(), refused.to_string().contains("`press-1`"), "{refused}");
    }
}
