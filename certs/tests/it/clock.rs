//! Clocks that leap: sessions go on, devices are let in, and nothing is issued that is dated wrongly.

use fieldgate_certs::{IssueError, RotationError, Standing};
use fieldgate_types::{BUILD_FLOOR, UnixMillis};

use crate::plant::{DAY, NOW, Plant, YEAR, chain, id};
use crate::tls::{Pair, VERSIONS, client, server};

#[test]
fn a_leap_of_ten_years_either_way_refuses_nobody_and_issues_nothing() {
    for leapt in [NOW.plus(10 * YEAR), UnixMillis(NOW.0 - 315_000_000_000), UnixMillis(0)] {
        let plant = Plant::new();
        let issued = plant.issue_for("press-1", YEAR).unwrap();
        let (certificate, config) = server(&plant);
        for version in VERSIONS {
            let client = client(&issued, chain(&issued.certificate_pem), &issued.ca_pem, version);
            let mut standing = Pair::shake(&client, &config).unwrap();
            plant.clock.step_to(leapt);
            standing.say(b"still here").unwrap();
            let pair = Pair::shake(&client, &config).unwrap();
            plant.ca.identify(pair.server.peer_certificates().unwrap(), &plant.rows, plant.now()).unwrap();
            assert!(!certificate.renewal_due(plant.now()));
            if leapt < BUILD_FLOOR {
                // That time is known to be wrong: what is issued is dated by the time as it was going on.
                let again = plant.issue_for("press-2", YEAR).unwrap();
                assert_eq!(again.record.not_before, issued.record.not_before);
            } else {
                assert!(matches!(plant.issue_for("press-2", YEAR), Err(IssueError::Clock(_))));
                assert!(matches!(plant.ca.rotate_if_due(), Err(RotationError::Clock(_))));
                let server = plant.ca.server_certificate(&["localhost".to_owned()], &[]);
                assert!(matches!(server, Err(IssueError::Clock(_))));
            }
            plant.clock.step_to(NOW);
            plant.issue_for("press-2", YEAR).unwrap();
        }
    }
}

#[test]
fn a_time_written_down_holds_after_a_restart_without_a_clock() {
    let plant = Plant::new();
    plant.clock.advance(3 * YEAR);
    let issued = plant.issue_for("press-1", YEAR).unwrap();
    let reading = plant.ca.time().reading();
    assert_eq!(reading.standing, Standing::Sound);

    plant.clock.step_to(UnixMillis(0));
    let ca = plant.reopen().unwrap();
    ca.time().raise(reading.now);
    assert_eq!(ca.time().now(), reading.now);
    ca.identify(&chain(&issued.certificate_pem), &plant.rows, plant.now()).unwrap();
    let new = ca.issue(&plant.rows, &id("press-2"), fieldgate_certs::Role::Device, YEAR).unwrap();
    assert_eq!(new.record.not_after, reading.now.plus(YEAR));
    // The server certificate is replaced in time, by the running time alone.
    let server = ca.server_certificate(&["localhost".to_owned()], &[]).unwrap();
    plant.clock.advance(18 * DAY);
    assert!(!server.renewal_due(plant.now()));
    plant.clock.advance(DAY);
    assert!(server.renewal_due(plant.now()));
}
