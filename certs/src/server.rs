//! The gateway's own server certificate and the TLS configuration of its listeners.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use fieldgate_types::UnixMillis;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::{DnsName, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::encoding::certificate_pem;
use crate::keystore::P256Key;
use crate::template::{self, Lifetime};
use crate::verifier::PlantVerifier;
use crate::{Ca, CaError, IssueError, Life, Serial, TimeFloor, life};

/// The certificate that every TLS listener shows. Can be replaced while they run. Its key is in memory only: a new
/// certificate is made at each start.
#[derive(Debug)]
pub struct ServerCertificate {
    shown: RwLock<Arc<Shown>>,
    time: Arc<TimeFloor>,
}

#[derive(Debug)]
struct Shown {
    certified: Arc<CertifiedKey>,
    life: Life,
    names: Vec<String>,
}

impl ServerCertificate {
    fn shown(&self) -> Arc<Shown> {
        Arc::clone(&self.shown.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// When the present one expires.
    pub fn not_after(&self) -> UnixMillis {
        self.shown().life.not_after
    }

    /// From when to when the present one is valid.
    pub fn life(&self) -> Life {
        self.shown().life
    }

    /// Whether two thirds of its life are over. `now` is the clock's; it is judged by [`TimeFloor`].
    pub fn renewal_due(&self, now: UnixMillis) -> bool {
        self.shown().life.past(life::RENEW, self.time.at(now))
    }

    /// Shows `newer` from the next handshake on; connections that stand are not touched.
    pub fn replace(&self, newer: Self) {
        let newer = newer.shown.into_inner().unwrap_or_else(PoisonError::into_inner);
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = newer;
    }

    /// The DNS names, then the addresses, that it is valid for; each sorted.
    pub fn names(&self) -> Vec<String> {
        self.shown().names.clone()
    }

    /// The certificate and its issuing CA, as clients see them, in PEM.
    pub fn chain_pem(&self) -> String {
        self.shown().certified.cert.iter().map(|certificate| certificate_pem(certificate)).collect()
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.shown().certified))
    }
}

impl Ca {
    /// A certificate for this gateway's listeners: 30 days from first to last moment, or less at the issuing CA's end.
    ///
    /// An IP address among `names` is taken as an address. What is neither that nor a DNS name is refused.
    pub fn server_certificate(&self, names: &[String], addresses: &[IpAddr]) -> Result<ServerCertificate, IssueError> {
        let names = Names::read(names, addresses)?;
        let all = names.all();
        if all.is_empty() {
            return Err(IssueError::NoNames);
        }
        let hosts: Vec<String> = names.hosts.into_iter().collect();
        let addresses: Vec<IpAddr> = names.addresses.into_iter().collect();

        let now = self.time.for_issuing()?;
        let trust = self.trust.get();
        let signer = trust.signer(now).ok_or_else(|| self.no_signer())?;
        let lifetime = signer.clamp(Lifetime::in_all(now, template::SERVER_LIFE));
        let serial = Serial::random().ok_or(rcgen::Error::RingUnspecified)?;
        let (key, pkcs8) = P256Key::generate()?;
        let params = template::server(&self.gateway, &hosts, &addresses, lifetime, &serial)?;
        let leaf = signer.sign(&params, &key)?;
        if lifetime.clamped {
            tracing::warn!(not_after = lifetime.not_after.0, "server certificate cut at the end of the issuing CA");
        }

        let chain = vec![leaf.into(), signer.authority.der.clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.as_slice()));
        let certified = CertifiedKey::new(chain, ring::sign::any_ecdsa_type(&key)?);
        let shown = Shown { certified: Arc::new(certified), life: lifetime.life(), names: all };
        Ok(ServerCertificate { shown: RwLock::new(Arc::new(shown)), time: Arc::clone(&self.time) })
    }

    /// Whether `shown` should be replaced by a new one: two thirds of its life are over, names or addresses have
    /// changed, or another CA issues now.
    pub fn server_certificate_due(&self, shown: &ServerCertificate, names: &[String], addresses: &[IpAddr]) -> bool {
        let present = shown.shown();
        let signer = self.trust.get().newest().map(|newest| newest.authority.der.clone());
        // Names that are none are found when the new one is made.
        let names = Names::read(names, addresses).map(|names| names.all());
        shown.renewal_due(self.time.now())
            || present.certified.cert.get(1) != signer.as_ref()
            || names.is_ok_and(|names| names != present.names)
    }

    /// TLS 1.2 and 1.3, client certificate required, no resumption: with it, a revoked device came back without any
    /// verifier being asked. The caller sets ALPN where its protocol has one.
    ///
    /// It stays right for as long as the gateway runs: rotations and other changes of trust count from the next
    /// handshake on.
    pub fn server_config(&self, certificate: Arc<ServerCertificate>) -> Result<ServerConfig, CaError> {
        self.tls(certificate, true)
    }

    /// For the enrolment port: as [`Self::server_config`], but a client may come without a certificate. One that it does
    /// show is judged.
    pub fn enrolment_config(&self, certificate: Arc<ServerCertificate>) -> Result<ServerConfig, CaError> {
        let mut config = self.tls(certificate, false)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    /// For HTTP where who asks proves himself otherwise: no certificate is asked for, so that no browser offers a choice
    /// of them. As [`Self::server_config`] in all else.
    pub fn web_config(&self, certificate: Arc<ServerCertificate>) -> Result<ServerConfig, CaError> {
        let provider = Arc::clone(&self.provider);
        let builder = ServerConfig::builder_with_details(provider, Arc::clone(&self.time) as _)
            .with_protocol_versions(&[&TLS13, &TLS12])?;
        let mut config = without_resumption(builder.with_no_client_auth().with_cert_resolver(certificate));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    fn tls(&self, certificate: Arc<ServerCertificate>, mandatory: bool) -> Result<ServerConfig, CaError> {
        let provider = Arc::clone(&self.provider);
        let verifier = PlantVerifier::new(Arc::clone(&self.trust), Arc::clone(&provider), mandatory);
        let config = ServerConfig::builder_with_details(provider, Arc::clone(&self.time) as _)
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(certificate);
        Ok(without_resumption(config))
    }
}

fn without_resumption(mut config: ServerConfig) -> ServerConfig {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

/// What a server certificate is valid for, in its order.
struct Names {
    hosts: BTreeSet<String>,
    addresses: BTreeSet<IpAddr>,
}

impl Names {
    /// An IP address among `names` is taken as an address.
    fn read(names: &[String], addresses: &[IpAddr]) -> Result<Self, IssueError> {
        let mut read = Self { hosts: BTreeSet::new(), addresses: addresses.iter().copied().collect() };
        for name in names {
            if let Ok(address) = name.parse() {
                read.addresses.insert(address);
            } else {
                read.hosts.insert(dns_name(name)?);
            }
        }
        Ok(read)
    }

    fn all(&self) -> Vec<String> {
        self.hosts.iter().cloned().chain(self.addresses.iter().map(ToString::to_string)).collect()
    }
}

/// Lower case, without the dot that may end a name in DNS but not in a certificate.
fn dns_name(name: &str) -> Result<String, IssueError> {
    let lower = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    match DnsName::try_from(lower.as_str()) {
        Ok(_) => Ok(lower),
        Err(_) => Err(IssueError::BadName(name.to_owned())),
    }
}
