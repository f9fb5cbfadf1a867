//! Handshakes between rustls and rustls in memory, TLS 1.2 and 1.3: who gets in, that nobody resumes, and that the server
//! certificate changes while connections stand.

use std::io::{Read, Write};
use std::sync::Arc;

use fieldgate_certs::{Issued, Refused, ServerCertificate};
use fieldgate_types::{Clock, UnixMillis};
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::server::ServerSessionMemoryCache;
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, Error, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
    SupportedProtocolVersion,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::plant::{NOW, Plant, YEAR, chain, good_params};

pub const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// The plant's clock, for the client: certificates of 2027 are to be judged in 2027.
#[derive(Debug)]
struct At(UnixMillis);

impl rustls::time_provider::TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_millis(self.0.0)))
    }
}

/// Sends what it is told, whatever the server asks for.
#[derive(Debug)]
pub struct Insists(pub Arc<rustls::sign::CertifiedKey>);

impl rustls::client::ResolvesClientCert for Insists {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn roots(pem: &str) -> RootCertStore {
    let mut store = RootCertStore::empty();
    store.add(chain(pem).swap_remove(0)).unwrap();
    store
}

pub fn client_builder(
    trust: &str,
    version: &'static SupportedProtocolVersion,
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    ClientConfig::builder_with_details(Arc::new(ring::default_provider()), Arc::new(At(NOW)))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots(trust))
}

/// A client with the issued key and `sent` as its chain.
pub fn client(
    issued: &Issued,
    sent: Vec<CertificateDer<'static>>,
    trust: &str,
    version: &'static SupportedProtocolVersion,
) -> Arc<ClientConfig> {
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_ref().unwrap().expose().as_bytes()).unwrap();
    let key = ring::sign::any_supported_type(&key).unwrap();
    let certified = Arc::new(rustls::sign::CertifiedKey::new(sent, key));
    let mut config = client_builder(trust, version).with_client_cert_resolver(Arc::new(Insists(certified)));
    config.resumption = Resumption::in_memory_sessions(16);
    Arc::new(config)
}

pub fn server(plant: &Plant) -> (Arc<ServerCertificate>, Arc<ServerConfig>) {
    let certificate = Arc::new(plant.ca.server_certificate(&["localhost".to_owned()], &[]).unwrap());
    let config = plant.ca.server_config(Arc::clone(&certificate)).unwrap();
    (certificate, Arc::new(config))
}

pub struct Pair {
    pub client: ClientConnection,
    pub server: ServerConnection,
}

impl Pair {
    /// Handshake until both are done, or one refuses. What the server says is the error.
    pub fn shake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Result<Self, Error> {
        let name = ServerName::try_from("localhost").unwrap();
        let client = ClientConnection::new(Arc::clone(client), name).unwrap();
        let mut pair = Self { client, server: ServerConnection::new(Arc::clone(server)).unwrap() };
        while pair.client.is_handshaking() || pair.server.is_handshaking() {
            pair.move_bytes()?;
        }
        // Tickets, if any, come after the handshake.
        pair.say(b"hello")?;
        Ok(pair)
    }

    fn move_bytes(&mut self) -> Result<(), Error> {
        let mut wire = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            self.server.read_tls(&mut rest).unwrap();
            self.server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        while self.server.wants_write() {
            self.server.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            self.client.read_tls(&mut rest).unwrap();
            self.client.process_new_packets()?;
        }
        Ok(())
    }

    /// There and back again.
    pub fn say(&mut self, words: &[u8]) -> Result<(), Error> {
        self.client.writer().write_all(words).unwrap();
        self.move_bytes()?;
        let mut heard = vec![0; words.len()];
        self.server.reader().read_exact(&mut heard).unwrap();
        assert_eq!(heard, words);
        self.server.writer().write_all(words).unwrap();
        self.move_bytes()?;
        self.client.reader().read_exact(&mut heard).unwrap();
        assert_eq!(heard, words);
        Ok(())
    }

    fn kinds(&self) -> (Option<HandshakeKind>, Option<HandshakeKind>) {
        (self.client.handshake_kind(), self.server.handshake_kind())
    }
}

#[test]
fn a_device_gets_in_with_its_chain_or_its_leaf_alone_or_any_company() {
    let plant = Plant::new();
    let issued = plant.issue("press-1");
    let whole = chain(&issued.certificate_pem);
    let foreign = chain(&Plant::new().ca.trust_bundle_pem());
    let crowd = [whole[..1].to_vec(), vec![foreign[1].clone(); 50]].concat();
    let (_, config) = server(&plant);
    for version in VERSIONS {
        for sent in [whole.clone(), whole[..1].to_vec(), crowd.clone()] {
            let client = client(&issued, sent, &issued.ca_pem, version);
            let pair = Pair::shake(&client, &config).unwrap();
            assert_eq!(pair.server.protocol_version(), Some(version.version));
            let presented = pair.server.peer_certificates().unwrap();
            let peer = plant.ca.identify(presented, &plant.rows, NOW).unwrap();
            assert_eq!(peer.id.as_str(), "press-1");
        }
    }
}

#[test]
fn nobody_resumes() {
    let plant = Plant::new();
    let issued = plant.issue("press-1");
    let (_, config) = server(&plant);
    for version in VERSIONS {
        let client = client(&issued, chain(&issued.certificate_pem), &issued.ca_pem, version);
        for _ in 0..3 {
            let pair = Pair::shake(&client, &config).unwrap();
            assert_eq!(pair.kinds(), (Some(HandshakeKind::Full), Some(HandshakeKind::Full)), "{version:?}");
        }
        // And this test would notice: with a session store the same client does resume.
        let mut leaky = ServerConfig::clone(&config);
        leaky.session_storage = ServerSessionMemoryCache::new(16);
        leaky.send_tls13_tickets = 2;
        let leaky = Arc::new(leaky);
        Pair::shake(&client, &leaky).unwrap();
        let pair = Pair::shake(&client, &leaky).unwrap();
        assert_eq!(pair.server.handshake_kind(), Some(HandshakeKind::Resumed), "{version:?}");
        // What it brings from there opens nothing here.
        let pair = Pair::shake(&client, &config).unwrap();
        assert_eq!(pair.server.handshake_kind(), Some(HandshakeKind::Full), "{version:?}");
    }
}

#[test]
fn a_revoked_device_is_recognised_however_it_comes_back() {
    let plant = Plant::new();
    let issued = plant.issue("press-1");
    let (_, config) = server(&plant);
    for version in VERSIONS {
        let client = client(&issued, chain(&issued.certificate_pem), &issued.ca_pem, version);
        let pair = Pair::shake(&client, &config).unwrap();
        plant.ca.identify(pair.server.peer_certificates().unwrap(), &plant.rows, NOW).unwrap();
        plant.rows.change(&issued.record, |row| row.revoked = Some(NOW));
        let pair = Pair::shake(&client, &config).unwrap();
        let refused = plant.ca.identify(pair.server.peer_certificates().unwrap(), &plant.rows, NOW).unwrap_err();
        assert!(matches!(refused, Refused::Revoked { .. }), "{version:?}: {refused}");
        plant.rows.change(&issued.record, |row| row.revoked = None);
    }
}

#[test]
fn strangers_do_not_finish_the_handshake() {
    let plant = Plant::new();
    let ours = plant.issue("press-1");
    let other = Plant::new();
    let theirs = other.issue("press-1");
    let mut late = good_params(&["urn:fieldgate:device:press-1"]);
    late.not_after = crate::plant::at(UnixMillis(NOW.0 - 1000));
    late.not_before = crate::plant::at(UnixMillis(NOW.0 - 10_000));
    let server_only = plant.ca.server_certificate(&["localhost".to_owned()], &[]).unwrap();
    let (_, config) = server(&plant);
    for version in VERSIONS {
        // Nothing at all.
        let nobody = Arc::new(client_builder(&ours.ca_pem, version).with_no_client_auth());
        assert!(matches!(Pair::shake(&nobody, &config), Err(Error::NoCertificatesPresented)), "{version:?}");
        // Another plant's device, with its own issuing CA, with its whole trust bundle, and with our issuing CA.
        let theirs_chain = chain(&theirs.certificate_pem);
        let bundle = [theirs_chain[..1].to_vec(), chain(&theirs.ca_pem)].concat();
        let mixed = [theirs_chain[..1].to_vec(), chain(&ours.certificate_pem)[1..].to_vec()].concat();
        for sent in [theirs_chain, bundle, mixed] {
            let stranger = client(&theirs, sent, &ours.ca_pem, version);
            assert!(matches!(Pair::shake(&stranger, &config), Err(Error::InvalidCertificate(_))), "{version:?}");
        }
        // Our certificate without its key.
        let thief = client(&theirs, chain(&ours.certificate_pem), &ours.ca_pem, version);
        assert!(Pair::shake(&thief, &config).is_err(), "{version:?}");
        // Over, and for servers.
        for leaf in [plant.forge("press-1", &late), chain(&server_only.chain_pem()).swap_remove(0)] {
            let client = client(&ours, vec![leaf], &ours.ca_pem, version);
            assert!(matches!(Pair::shake(&client, &config), Err(Error::InvalidCertificate(_))), "{version:?}");
        }
    }
}

#[test]
fn the_server_certificate_changes_under_standing_connections() {
    let plant = Plant::new();
    let issued = plant.issue("press-1");
    let (certificate, config) = server(&plant);
    for version in VERSIONS {
        let client = client(&issued, chain(&issued.certificate_pem), &issued.ca_pem, version);
        let mut standing = Pair::shake(&client, &config).unwrap();
        let before = standing.client.peer_certificates().unwrap()[0].clone();
        certificate.replace(plant.ca.server_certificate(&["localhost".to_owned()], &[]).unwrap());
        let fresh = Pair::shake(&client, &config).unwrap();
        let after = fresh.client.peer_certificates().unwrap()[0].clone();
        assert_ne!(before, after);
        assert_eq!(after, chain(&certificate.chain_pem())[0]);
        standing.say(b"still here").unwrap();
    }
}

#[test]
fn a_box_whose_clock_stands_in_1970_lets_its_devices_in() {
    let plant = Plant::at(UnixMillis(0));
    assert!(!plant.clock.plausible());
    let issued = plant.issue_for("press-1", YEAR).unwrap();
    let (_, config) = server(&plant);
    for version in VERSIONS {
        let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_ref().unwrap().expose().as_bytes()).unwrap();
        // The device's own clock is right, some days after the gateway was built.
        let now = fieldgate_types::BUILD_FLOOR.plus(crate::plant::DAY * 3);
        let client = ClientConfig::builder_with_details(Arc::new(ring::default_provider()), Arc::new(At(now)))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots(&issued.ca_pem))
            .with_client_auth_cert(chain(&issued.certificate_pem), key)
            .unwrap();
        let pair = Pair::shake(&Arc::new(client), &config).unwrap();
        plant.ca.identify(pair.server.peer_certificates().unwrap(), &plant.rows, UnixMillis(0)).unwrap();
    }
}
