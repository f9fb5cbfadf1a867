//! The server certificate.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fieldgate_certs::{IssueError, ServerCertificate};
use rustls_pki_types::ServerName;
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::issue::webpki_accepts;
use crate::plant::{DAY, NOW, Plant, chain};

fn make(plant: &Plant, names: &[&str], addresses: &[&str]) -> Result<ServerCertificate, IssueError> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
    plant.ca.server_certificate(&names, &addresses)
}

#[test]
fn is_valid_for_what_it_names_and_for_servers_alone() {
    let plant = Plant::new();
    let names = ["localhost", "GW.plant.example.", "localhost", "192.0.2.7"];
    let server = make(&plant, &names, &["127.0.0.1", "::1", "192.0.2.7"]).unwrap();
    assert_eq!(server.names(), ["gw.plant.example", "localhost", "127.0.0.1", "192.0.2.7", "::1"]);
    let certificates = chain(&server.chain_pem());
    let trust = plant.ca.trust_bundle_pem();
    assert_eq!(certificates.len(), 2);
    assert!(webpki_accepts(&certificates, &trust, KeyUsage::server_auth(), NOW));
    assert!(!webpki_accepts(&certificates, &trust, KeyUsage::client_auth(), NOW));
    let leaf = EndEntityCert::try_from(&certificates[0]).unwrap();
    for name in ["localhost", "gw.plant.example", "127.0.0.1", "::1", "192.0.2.7"] {
        leaf.verify_is_valid_for_subject_name(&ServerName::try_from(name).unwrap()).unwrap();
    }
    for name in ["plant.example", "127.0.0.2"] {
        leaf.verify_is_valid_for_subject_name(&ServerName::try_from(name).unwrap()).unwrap_err();
    }
    // It identifies nobody as a client.
    let refused = plant.ca.identify(&certificates, &plant.rows, NOW).unwrap_err();
    assert_eq!(refused.label(), "purpose");
}

#[test]
fn lives_thirty_days_and_is_due_at_two_thirds() {
    let plant = Plant::new();
    let server = make(&plant, &["localhost"], &[]).unwrap();
    let certificates = chain(&server.chain_pem());
    let (_, leaf) = X509Certificate::from_der(&certificates[0]).unwrap();
    let life = leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
    assert_eq!(life, 30 * 86_400);
    assert_eq!(server.not_after(), NOW.plus(29 * DAY));
    assert!(!server.renewal_due(plant.now()));
    plant.clock.advance((19 * DAY).checked_sub(Duration::from_millis(1)).unwrap());
    assert!(!server.renewal_due(plant.now()));
    plant.clock.advance(Duration::from_millis(1));
    assert!(server.renewal_due(plant.now()));
    server.replace(make(&plant, &["localhost", "gw"], &[]).unwrap());
    assert!(!server.renewal_due(plant.now()));
    assert_eq!(server.not_after(), NOW.plus(48 * DAY));
    assert_eq!(server.names(), ["gw", "localhost"]);
}

#[test]
fn names_that_are_none_are_refused_by_name() {
    let plant = Plant::new();
    for bad in ["", ".", "a b", "*.plant.example", "gw..example", "-gw", "grün.example", "gw:8883", "mqtts://gw", "a/b"]
    {
        let error = make(&plant, &["localhost", bad], &[]).unwrap_err();
        assert!(matches!(&error, IssueError::BadName(name) if name == bad), "{bad}: {error}");
    }
    assert!(matches!(make(&plant, &[], &[]), Err(IssueError::NoNames)));
    make(&plant, &[], &["127.0.0.1"]).unwrap();
}

#[test]
fn a_configuration_says_what_it_must() {
    let plant = Plant::new();
    let server = Arc::new(make(&plant, &["localhost"], &[]).unwrap());
    let config = plant.ca.server_config(server).unwrap();
    assert_eq!(config.send_tls13_tickets, 0);
    assert!(!config.ticketer.enabled());
    assert!(!config.session_storage.can_cache());
    assert_eq!(config.max_early_data_size, 0);
}

#[test]
fn is_due_when_names_or_addresses_change_or_another_ca_issues() {
    let plant = Plant::new();
    let names = ["localhost".to_owned(), "GW.plant.example.".to_owned()];
    let addresses = ["127.0.0.1".parse().unwrap()];
    let server = plant.ca.server_certificate(&names, &addresses).unwrap();
    let due =
        |names: &[String], addresses: &[std::net::IpAddr]| plant.ca.server_certificate_due(&server, names, addresses);
    assert!(!due(&names, &addresses));
    // In another order, written otherwise, an address among the names: the same.
    let same = ["gw.plant.example".to_owned(), "localhost".to_owned(), "127.0.0.1".to_owned()];
    assert!(!due(&same, &[]));
    assert!(due(&names[..1], &addresses));
    assert!(due(&names, &[addresses[0], "192.0.2.7".parse().unwrap()]));
    plant.ca.rotate().unwrap();
    assert!(due(&names, &addresses));
    server.replace(plant.ca.server_certificate(&names, &addresses).unwrap());
    assert!(!due(&names, &addresses));
    plant.clock.advance(19 * DAY);
    assert!(due(&names, &addresses));
}
