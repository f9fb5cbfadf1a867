//! A revoked device that kept its TLS session, and offers it.

use std::sync::Arc;

use fieldgate_certs::{Refused, Role};
use rustls::HandshakeKind;

use crate::plant::{DAY, NOW, Plant, id};
use crate::tool::{Tool, meet, text};

#[test]
fn a_revoked_device_does_not_come_back_by_its_session() {
    let (plant, tool) = (Plant::new(), Tool::new());
    let certificate = plant.ca.server_certificate(&["localhost".to_owned()], &[]).unwrap();
    let config = Arc::new(plant.ca.server_config(Arc::new(certificate)).unwrap());
    let issued = plant.ca.issue(&plant.rows, &id("press-1"), Role::Device, DAY).unwrap();
    let dir = plant.data.path().join("press-1");
    issued.write_bundle(&dir).unwrap();
    let (certificate, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    let session = tool.file("session");
    let bundle = ["-cert", text(&certificate), "-key", text(&key)];
    for version in ["-tls1_2", "-tls1_3"] {
        let keep = [&bundle[..], &["-sess_out", text(&session)]].concat();
        let offer = [&bundle[..], &["-sess_in", text(&session)]].concat();
        let first = meet(&plant, &tool, &config, version, &keep);
        assert_eq!(first.outcome.unwrap().id, id("press-1"));
        plant.rows.change(&issued.record, |row| row.revoked = Some(NOW));
        // TLS 1.3 gives no ticket at all, so that there is nothing to offer.
        let offer = if session.exists() { offer } else { bundle.to_vec() };
        let again = meet(&plant, &tool, &config, version, &offer);
        assert_eq!(again.handshake, Some(HandshakeKind::Full), "{version}");
        assert!(matches!(again.outcome, Err(Refused::Revoked { .. })), "{version}");
        plant.rows.change(&issued.record, |row| row.revoked = None);
        drop(std::fs::remove_file(&session));
    }
}
