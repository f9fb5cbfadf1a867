//! The gateway's own server certificate and the TLS configuration of its listeners.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use fieldgate_types::UnixMillis;
use rustls::crypto::ring;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::{DnsName, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::encoding::certificate_pem;
use crate::keystore::P256Key;
use crate::template::{self, Lifetime};
use crate::verifier::PlantVerifier;
use crate::{Ca, CaError, IssueError, Serial};

/// The certificate that every TLS listener shows. Can be replaced while they run. Its key is in memory only: a new
/// certificate is made at each start.
#[derive(Debug)]
pub struct ServerCertificate {
    shown: RwLock<Arc<Shown>>,
}

#[derive(Debug)]
struct Shown {
    certified: Arc<CertifiedKey>,
    lifetime: Lifetime,
    names: Vec<String>,
}

impl ServerCertificate {
    fn shown(&self) -> Arc<Shown> {
        Arc::clone(&self.shown.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// When the present one expires.
    pub fn not_after(&self) -> UnixMillis {
        self.shown().lifetime.not_after
    }

    /// Whether two thirds of its life are over.
    pub fn renewal_due(&self, now: UnixMillis) -> bool {
        let Lifetime { not_before, not_after, .. } = self.shown().lifetime;
        now >= not_before.plus(not_after.since(not_before) * 2 / 3)
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
        let mut addresses: BTreeSet<IpAddr> = addresses.iter().copied().collect();
        let mut hosts = BTreeSet::new();
        for name in names {
            if let Ok(address) = name.parse() {
                addresses.insert(address);
            } else {
                hosts.insert(dns_name(name)?);
            }
        }
        if hosts.is_empty() && addresses.is_empty() {
            return Err(IssueError::NoNames);
        }
        let addresses: Vec<IpAddr> = addresses.into_iter().collect();
        let hosts: Vec<String> = hosts.into_iter().collect();

        let now = self.judge.now();
        let signer = self.signer(now)?;
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
        let names = hosts.into_iter().chain(addresses.iter().map(ToString::to_string)).collect();
        let shown = Shown { certified: Arc::new(certified), lifetime, names };
        Ok(ServerCertificate { shown: RwLock::new(Arc::new(shown)) })
    }

    /// TLS 1.2 and 1.3, client certificate required, no resumption: with it, a revoked device came back without any
    /// verifier being asked. The caller sets ALPN where its protocol has one.
    pub fn server_config(&self, certificate: Arc<ServerCertificate>) -> Result<ServerConfig, CaError> {
        let provider = Arc::new(ring::default_provider());
        let now = self.judge.now();
        let mut roots = RootCertStore::empty();
        // webpki does not look at the validity of an anchor.
        for root in self.roots.iter().filter(|root| now <= root.info.not_after) {
            roots.add(root.der.clone())?;
        }
        let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
        let issuing = self.issuing.iter().map(|authority| authority.der.clone()).collect();
        let mut config = ServerConfig::builder_with_details(provider, Arc::clone(&self.judge) as _)
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_client_cert_verifier(Arc::new(PlantVerifier::new(inner, issuing)))
            .with_cert_resolver(certificate);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
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
