//! A CA that changes while it is open: rotation, the root key that comes and goes, revoked issuing CAs, alarms.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use fieldgate_certs::{Alarm, AlarmKind, AuthorityKind, CaError, Refused, Role, RotationError};
use fieldgate_types::UnixMillis;
use webpki::KeyUsage;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::issue::webpki_accepts;
use crate::plant::{DAY, NOW, Plant, YEAR, chain, id};
use crate::tls::{Pair, VERSIONS, client, server};

#[test]
fn both_generations_are_welcome_on_listeners_that_never_stopped() {
    let plant = Plant::new();
    let old = plant.issue("press-1");
    let (certificate, config) = server(&plant);
    for version in VERSIONS {
        let first = client(&old, chain(&old.certificate_pem), &old.ca_pem, version);
        let mut standing = Pair::shake(&first, &config).unwrap();
        let before = plant.ca.authorities().len();
        let made = plant.ca.rotate().unwrap();
        assert_eq!(plant.ca.authorities().len(), before + 1);
        let new = plant.issue("press-2");
        assert_eq!(new.record.issuer, made.issuer_key);
        assert_ne!(new.record.issuer, old.record.issuer);
        certificate.replace(plant.ca.server_certificate(&["localhost".to_owned()], &[]).unwrap());
        // The same configuration: by leaf alone, so that the server must know the new CA to complete the chain. Trust
        // as it was given to the device years ago.
        for issued in [&old, &new] {
            let client = client(issued, chain(&issued.certificate_pem)[..1].to_vec(), &old.ca_pem, version);
            let pair = Pair::shake(&client, &config).unwrap();
            plant.ca.identify(pair.server.peer_certificates().unwrap(), &plant.rows, NOW).unwrap();
            let shown = pair.client.peer_certificates().unwrap();
            assert_eq!(shown[1], chain(&new.certificate_pem)[1], "the server shows the new chain");
        }
        standing.say(b"still here").unwrap();
    }
    let bundle = chain(&plant.ca.trust_bundle_pem());
    assert_eq!(bundle.len(), 4, "a root and three issuing CAs");
    // Until the older ends.
    plant.clock.advance(20 * YEAR + DAY);
    assert_eq!(chain(&plant.ca.trust_bundle_pem()).len(), 1);
}

#[test]
fn what_was_rotated_is_there_after_a_restart() {
    let plant = Plant::new();
    let old = plant.issue("press-1");
    plant.clock.advance(10 * YEAR);
    let made = plant.ca.rotate().unwrap();
    assert_eq!(made.not_after, NOW.plus(30 * YEAR));
    assert_eq!((made.generation, made.key_present), (2, true));
    let again = plant.reopen().unwrap();
    assert_eq!(again.authorities(), plant.ca.authorities());
    assert_eq!(again.trust_bundle_pem(), plant.ca.trust_bundle_pem());
    let issued = again.issue(&plant.rows, &id("press-2"), Role::Device, 15 * YEAR).unwrap();
    assert!(webpki_accepts(&chain(&issued.certificate_pem), &issued.ca_pem, KeyUsage::client_auth(), plant.now()));
    let refused = again.identify(&chain(&old.certificate_pem), &plant.rows, plant.now());
    assert!(refused.is_ok(), "ten years and not a second too early: {refused:?}");
}

#[test]
fn the_root_signs_its_list_afresh_at_each_rotation() {
    let plant = Plant::new();
    let number = || {
        let list = &plant.ca.root_revocation_lists()[0];
        let (_, parsed) = CertificateRevocationList::from_der(&list.der).unwrap();
        assert_eq!(parsed.next_update().unwrap().timestamp().unsigned_abs(), NOW.plus(60 * YEAR).as_secs());
        assert_eq!(plant.read("root-1.crl"), list.pem());
        assert_eq!(list.file_name(), "root-1.crl");
        u64::try_from(parsed.crl_number().unwrap()).unwrap()
    };
    let mut before = number();
    for _ in 0..3 {
        plant.ca.rotate().unwrap();
        let now = number();
        assert!(now > before, "even within one millisecond");
        before = now;
    }
}

#[test]
fn rotates_by_itself_at_half_of_its_life_and_not_before() {
    let plant = Plant::new();
    let due = plant.ca.rotation_due_at().unwrap();
    plant.clock.advance(due.since(NOW).checked_sub(Duration::from_millis(1)).unwrap());
    assert_eq!(plant.ca.rotate_if_due().unwrap(), None);
    plant.clock.advance(Duration::from_millis(1));
    let made = plant.ca.rotate_if_due().unwrap().unwrap();
    assert_eq!(made.generation, 2);
    assert_eq!(plant.ca.rotate_if_due().unwrap(), None);
    assert!(plant.ca.alarms().is_empty(), "the former one ends in ten years");
}

#[test]
fn rotations_end_where_the_root_ends() {
    let plant = Plant::new();
    let mut made = 0;
    for _ in 0..59 * 12 {
        plant.clock.advance(YEAR / 12);
        made += usize::from(plant.ca.rotate_if_due().unwrap().is_some());
    }
    // At about 10, 20, 30 and 40 years; the last one lives until the root ends.
    assert_eq!(made, 4);
    assert_eq!(plant.ca.rotation_due_at(), None);
    assert_eq!(plant.ca.issuing_not_after(), NOW.plus(60 * YEAR));
    let kinds: Vec<_> = plant.ca.alarms().iter().map(|alarm| alarm.kind).collect();
    assert_eq!(kinds, [AlarmKind::IssuingEnds, AlarmKind::RootEnds]);
}

#[test]
fn without_the_root_key_everything_goes_on_and_somebody_is_told_a_year_ahead() {
    let plant = Plant::new();
    let key = plant.ca.export_root_key().unwrap();
    plant.ca.remove_root_key().unwrap();
    assert!(!plant.dir().join("root-1.key").exists());
    assert!(!plant.ca.authorities()[0].key_present);
    assert!(matches!(plant.ca.export_root_key(), Err(RotationError::NoRootKey { .. })));
    let error = plant.ca.rotate().unwrap_err();
    assert!(matches!(error, RotationError::NoRootKey { .. }));
    assert!(error.to_string().contains("fieldgate ca rotate --root-key FILE"), "{error}");

    let due = plant.ca.rotation_due_at().unwrap();
    plant.clock.advance(due.since(NOW).checked_sub(YEAR + Duration::from_millis(1)).unwrap());
    assert!(plant.ca.alarms().is_empty());
    plant.clock.advance(Duration::from_millis(1));
    let alarm = Alarm { kind: AlarmKind::RootKeyNeeded, generation: 1, at: due };
    assert_eq!(plant.ca.alarms(), std::slice::from_ref(&alarm));
    assert!(alarm.to_string().contains("root key"), "{alarm}");
    // Due, and late: the same alarm, no error, and no outage.
    plant.clock.advance(5 * YEAR);
    assert_eq!(plant.ca.rotate_if_due().unwrap(), None);
    assert_eq!(plant.ca.alarms(), [alarm]);
    plant.issue_for("press-1", YEAR).unwrap();
    plant.clock.advance(5 * YEAR + DAY);
    let kinds: Vec<_> = plant.ca.alarms().iter().map(|alarm| alarm.kind).collect();
    assert_eq!(kinds, [AlarmKind::RootKeyNeeded, AlarmKind::IssuingEnds]);

    // Given for once, it is not kept.
    let made = plant.ca.rotate_with_root_key(key.expose().as_bytes()).unwrap();
    assert_eq!(made.generation, 2);
    assert!(!plant.dir().join("root-1.key").exists());
    let kinds: Vec<_> = plant.ca.alarms().iter().map(|alarm| alarm.kind).collect();
    assert_eq!(kinds, [AlarmKind::FormerIssuingEnds]);
    assert!(matches!(plant.ca.rotate(), Err(RotationError::NoRootKey { .. })));
    // Kept again, it is as before.
    plant.ca.restore_root_key(key.expose().as_bytes()).unwrap();
    plant.ca.restore_root_key(key.expose().as_bytes()).unwrap();
    assert_eq!(plant.ca.rotate().unwrap().generation, 3);
    assert_eq!(plant.reopen().unwrap().authorities(), plant.ca.authorities());
}

#[test]
fn a_key_that_is_not_the_root_s_is_refused() {
    let plant = Plant::new();
    let other = Plant::new().ca.export_root_key().unwrap();
    let issuing = plant.read("issuing-1.key");
    plant.ca.remove_root_key().unwrap();
    for key in [other.expose(), &issuing] {
        assert!(matches!(plant.ca.rotate_with_root_key(key.as_bytes()), Err(RotationError::OtherKey)));
        assert!(matches!(plant.ca.restore_root_key(key.as_bytes()), Err(RotationError::OtherKey)));
    }
    for nonsense in ["", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", &plant.read("root-1.pem")] {
        assert!(matches!(plant.ca.rotate_with_root_key(nonsense.as_bytes()), Err(RotationError::NotAKey)));
    }
    assert_eq!(plant.ca.authorities().len(), 2);
    assert!(!plant.dir().join("issuing-2.pem").exists());
}

#[test]
fn a_revoked_issuing_ca_is_gone_with_all_its_devices_and_for_good() {
    let plant = Plant::new();
    let stolen = plant.issue("press-1");
    let issuer = stolen.record.issuer;
    assert!(matches!(plant.ca.revoke_issuing(&issuer), Err(RotationError::LastIssuing)));
    plant.ca.rotate().unwrap();
    let good = plant.issue("press-2");
    let (_, config) = server(&plant);
    let info = plant.ca.revoke_issuing(&issuer).unwrap();
    assert_eq!((info.issuer_key, info.revoked), (issuer, Some(NOW)));
    let nobody = Plant::new().issue("press-1").record.issuer;
    assert!(matches!(plant.ca.revoke_issuing(&nobody), Err(RotationError::UnknownIssuing { .. })));

    for ca in [&plant.ca, &plant.reopen().unwrap()] {
        let refused = ca.identify(&chain(&stolen.certificate_pem), &plant.rows, NOW).unwrap_err();
        assert!(matches!(refused, Refused::IssuerRevoked { .. }), "{refused}");
        ca.identify(&chain(&good.certificate_pem), &plant.rows, NOW).unwrap();
        assert_eq!(chain(&ca.trust_bundle_pem()).len(), 2);
        let shown: Vec<_> = ca
            .authorities()
            .iter()
            .filter(|info| info.kind == AuthorityKind::Issuing)
            .map(|i| i.revoked.is_some())
            .collect();
        assert_eq!(shown, [true, false]);
        assert_eq!(ca.root_revocation_lists()[0].revoked.len(), 1);
    }
    for version in VERSIONS {
        let client = client(&stolen, chain(&stolen.certificate_pem), &good.ca_pem, version);
        let error = Pair::shake(&client, &config).err().unwrap();
        assert_eq!(Refused::in_handshake(&error).unwrap().label(), "issuer-revoked", "{error:?}");
    }
    // A later rotation does not forget it.
    plant.ca.rotate().unwrap();
    assert_eq!(plant.ca.root_revocation_lists()[0].revoked.len(), 1);
}

#[test]
fn a_root_s_list_that_is_another_s_is_refused() {
    let plant = Plant::new();
    for text in [Plant::new().read("root-1.crl"), plant.read("root-1.pem"), String::new()] {
        fs::write(plant.dir().join("root-1.crl"), text).unwrap();
        let error = plant.reopen().unwrap_err();
        assert!(matches!(&error, CaError::Damaged { path, .. } if path.ends_with("root-1.crl")), "{error}");
    }
}

#[test]
fn many_threads_see_the_old_or_the_new_trust() {
    let plant = Arc::new(Plant::new());
    let issued = plant.issue("press-1");
    let certificates = chain(&issued.certificate_pem);
    std::thread::scope(|scope| {
        let rotating = scope.spawn(|| (0..5).for_each(|_| drop(plant.ca.rotate().unwrap())));
        let mut asked = 0;
        while !rotating.is_finished() || asked == 0 {
            plant.ca.identify(&certificates, &plant.rows, UnixMillis(NOW.0)).unwrap();
            asked += 1;
        }
        rotating.join().unwrap();
    });
    assert_eq!(plant.ca.authorities().len(), 7);
}
