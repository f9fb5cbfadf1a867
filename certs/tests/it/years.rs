//! Thirty years in a few seconds: everything that is to happen by itself happens on time, and nobody is refused who
//! should not be.

use std::collections::BTreeMap;
use std::time::Duration;

use fieldgate_certs::est::Event;
use fieldgate_certs::{Registry, SUPERSEDE_GRACE, Stage};
use rustls_pki_types::CertificateDer;
use webpki::KeyUsage;

use crate::enrolment::{Site, certificates};
use crate::issue::webpki_accepts;
use crate::plant::{DAY, NOW, YEAR, chain};

/// How a device behaves.
#[derive(Clone, Copy)]
struct Habit {
    /// Connects, and renews when due, every so many days.
    every: u32,
    /// What it got at first: by EST, or from `device add` for so long.
    added_for: Option<Duration>,
}

struct Device {
    habit: Habit,
    leaf: Vec<CertificateDer<'static>>,
    /// What it trusts was written down when it was added.
    trust: String,
    renewals: u32,
}

#[test]
fn thirty_years_go_by() {
    let site = Site::new();
    let plant = &site.plant;
    let names = ["localhost".to_owned()];
    let server = plant.ca.server_certificate(&names, &[]).unwrap();
    let est = |every| Habit { every, added_for: None };
    let habits = [
        ("daily", est(1)),
        ("weekly", est(7)),
        // Away for three months at a time, which is less than the third of a year in which it can renew.
        ("seasonal", est(90)),
        ("added", Habit { every: 30, added_for: Some(10 * YEAR) }),
        ("long", Habit { every: 30, added_for: Some(25 * YEAR) }),
    ];
    let mut devices: BTreeMap<&str, Device> = BTreeMap::new();
    for (name, habit) in habits {
        let leaf = match habit.added_for {
            None => certificates(&site.enrol(name, site.token(name).secret.expose()).0),
            Some(validity) => chain(&plant.issue_for(name, validity).unwrap().certificate_pem)[..1].to_vec(),
        };
        devices.insert(name, Device { habit, leaf, trust: plant.ca.trust_bundle_pem(), renewals: 0 });
    }

    let (mut rotations, mut servers) = (Vec::new(), 1);
    for day in 1..=30 * 366_u32 {
        plant.clock.advance(DAY);
        let now = plant.now();
        if now > NOW.plus(30 * YEAR) {
            break;
        }
        // What the gateway does by itself.
        if let Some(made) = plant.ca.rotate_if_due().unwrap() {
            rotations.push(now);
            assert!(made.not_after > now.plus(19 * YEAR));
        }
        if plant.ca.server_certificate_due(&server, &names, &[]) {
            server.replace(plant.ca.server_certificate(&names, &[]).unwrap());
            servers += 1;
        }
        assert!(server.life().stage(now) < Stage::Renew, "day {day}");
        assert!(plant.ca.alarms().iter().all(|alarm| alarm.kind.label() == "former-issuing-ends"), "day {day}");

        for (name, device) in devices.iter_mut().filter(|(_, device)| day % device.habit.every == 0) {
            let peer = plant.ca.identify(&device.leaf, &plant.rows, now);
            let peer = peer.unwrap_or_else(|refused| panic!("{name}, day {day}: {refused}"));
            if let Some(old) = peer.replaces.as_ref().and_then(|key| plant.rows.certificate(&key.issuer, &key.serial)) {
                plant.rows.change(&old, |row| {
                    assert!(row.supersede(now) || row.superseded < Some(now.plus(SUPERSEDE_GRACE)));
                });
            }
            // The server is trusted by what the device was given, be it thirty years ago.
            if day % 90 == 0 {
                let shown = chain(&server.chain_pem());
                assert!(webpki_accepts(&shown, &device.trust, KeyUsage::server_auth(), now), "{name}, day {day}");
            }
            if peer.life().stage(now) >= Stage::Renew {
                assert!(peer.life().stage(now) < Stage::Urgent, "{name}, day {day}: late");
                let (answer, event) = site.renew(&device.leaf);
                assert!(matches!(event, Some(Event::Renewed { .. })), "{name}, day {day}: {event:?}");
                device.leaf = certificates(&answer);
                device.renewals += 1;
            }
        }
    }

    let years: Vec<u64> = rotations.iter().map(|at| at.since(NOW).as_secs() / YEAR.as_secs()).collect();
    assert_eq!(years, [9, 19, 29], "half of twenty years and a day after the one before, each");
    // Every 20 days, the day of backdating not counted, and once more at each rotation.
    assert!((550..=590).contains(&servers), "{servers}");
    let renewals = |name: &str| devices[name].renewals;
    assert!((44..=46).contains(&renewals("daily")), "{}", renewals("daily"));
    assert!((40..=46).contains(&renewals("weekly")), "{}", renewals("weekly"));
    assert!((36..=46).contains(&renewals("seasonal")), "{}", renewals("seasonal"));
    assert!(renewals("added") > 30 && renewals("long") > 20);
    // The bundle for a device that is added today: the root, and the issuing CAs that are not over.
    assert_eq!(chain(&plant.ca.trust_bundle_pem()).len(), 3);
    assert_eq!(plant.reopen().unwrap().authorities(), plant.ca.authorities());
    let lists = plant.ca.revocation_lists(&plant.rows.all()).unwrap();
    assert!(lists.iter().all(|list| list.revoked.len() < 20), "what is long over is not listed");
}
