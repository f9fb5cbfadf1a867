//! CA, certificates and a running broker.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fieldgate_broker::{Broker, Config, Limits, MemorySessions, StartError};
use fieldgate_types::SystemClock;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::{Client, TestGate};

pub struct Plant {
    issuer: Issuer<'static, KeyPair>,
    roots: Arc<RootCertStore>,
    pub broker: Broker,
    pub gate: Arc<TestGate>,
    pub sessions: Arc<MemorySessions>,
    pub address: SocketAddr,
    tls: Arc<ServerConfig>,
    limits: Limits,
}

impl Plant {
    pub async fn new() -> Self {
        Self::with_limits(Limits::default()).await
    }

    pub async fn with_limits(limits: Limits) -> Self {
        Self::with_config(Config { limits, ..Config::default() }).await
    }

    /// With these settings, and one mTLS address.
    pub async fn with_config(config: Config) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test root");
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(root.der().clone()).unwrap();
        let roots = Arc::new(roots);
        let issuer = Issuer::new(params, key);
        let (chain, key) = certificate(&issuer, "localhost");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build().unwrap();
        let mut tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .unwrap();
        tls.send_tls13_tickets = 0;
        let sessions = Arc::new(MemorySessions::new());
        let gate = Arc::new(TestGate::new(Arc::clone(&sessions)));
        let tls = Arc::new(tls);
        let limits = config.limits.clone();
        let config = Config { listen: vec!["127.0.0.1:0".parse().unwrap()], ..config };
        let clock = Arc::new(SystemClock::new());
        let broker = Broker::start(config, tls.clone(), gate.clone(), sessions.clone(), clock).await.unwrap();
        let address = broker.local_addrs()[0];
        Self { issuer, roots, broker, gate, sessions, address, tls, limits }
    }

    /// With an app that may do everything.
    pub async fn open() -> Self {
        Self::open_with(Limits::default()).await
    }

    pub async fn open_with(limits: Limits) -> Self {
        let plant = Self::with_limits(limits).await;
        plant.gate.role("app", fieldgate_broker::Role::App);
        for filter in ["#", "$sys/#"] {
            plant.gate.allow("app", filter);
        }
        plant
    }

    /// The app, connected with a clean start as `app/name`, in version 4 or 5.
    pub async fn app(&self, level: u8, name: &str) -> Client {
        self.app_with(super::packets::Connect::of(level, &format!("app/{name}"))).await.0
    }

    /// The app, connected as asked; session present.
    pub async fn app_with(&self, connect: super::packets::Connect) -> (Client, bool) {
        let mut client = self.socket("app").await;
        let connack = client.connect(connect).await;
        (client, connack[0] == 1)
    }

    /// Another broker with the same gate and rows.
    pub async fn start_on(&self, address: SocketAddr) -> Result<Broker, StartError> {
        let config = Config { listen: vec![address], limits: self.limits.clone(), ..Config::default() };
        let clock = Arc::new(SystemClock::new());
        Broker::start(config, self.tls.clone(), self.gate.clone(), self.sessions.clone(), clock).await
    }

    /// The same plant with a new broker.
    pub async fn restarted(self) -> Self {
        let broker = self.start_on("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = broker.local_addrs()[0];
        Self { broker, address, ..self }
    }

    /// A crash: the rows as they are now, and a new broker on them. The old one goes on with rows of its own.
    pub async fn crashed(mut self) -> Self {
        self.sessions = Arc::new(self.sessions.snapshot());
        self.gate = Arc::new(self.gate.with_rows(Arc::clone(&self.sessions)));
        self.restarted().await
    }

    /// The same, once changes that nobody waits for are in the store.
    pub async fn settled_and_crashed(self) -> Self {
        tokio::time::sleep(Duration::from_millis(200)).await;
        self.crashed().await
    }

    /// TLS settings of a client with a certificate for `id`.
    pub fn client_config(&self, id: &str) -> ClientConfig {
        let (chain, key) = certificate(&self.issuer, id);
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(Arc::clone(&self.roots))
            .with_client_auth_cert(chain, key)
            .unwrap()
    }

    /// TLS settings of a client without a certificate.
    pub fn nameless_config(&self) -> ClientConfig {
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(Arc::clone(&self.roots))
            .with_no_client_auth()
    }

    /// A client after its handshake, before its CONNECT.
    pub async fn socket(&self, id: &str) -> Client {
        Client::open(self.address, self.client_config(id)).await
    }

    /// A connected MQTT 5 client with a clean start.
    pub async fn v5(&self, id: &str) -> Client {
        let mut client = self.socket(id).await;
        client.connect(super::packets::Connect::v5(id)).await;
        client
    }

    /// A connected MQTT 3.1.1 client with a clean session.
    pub async fn v311(&self, id: &str) -> Client {
        let mut client = self.socket(id).await;
        client.connect(super::packets::Connect::v311(id)).await;
        client
    }
}

fn certificate(
    issuer: &Issuer<'static, KeyPair>,
    name: &str,
) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![if name == "localhost" {
        SanType::DnsName(name.try_into().unwrap())
    } else {
        SanType::URI(format!("urn:fieldgate:device:{name}").try_into().unwrap())
    }];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    (vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
}
