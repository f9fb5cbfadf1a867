//! Who the clients of the load are: certificates from the gateway's CA, which mosquitto trusts too.
//!
//! All clients share one key: what a broker keeps for a client does not depend on it, and ten thousand keys would
//! only cost the load's own time. Each has a certificate of its own, issued as `fieldgate device add --csr` does it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use rcgen::{CertificateParams, KeyPair};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore};

/// Certificates by identity.
pub struct Identities {
    key: KeyPair,
    csr: String,
    /// The gateway's trust bundle, PEM.
    ca: String,
    /// For mosquitto's listener.
    server: (CertificateDer<'static>, KeyPair),
    clients: HashMap<String, Arc<ClientConfig>>,
}

/// Where mosquitto finds what it needs.
pub struct Files {
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Identities {
    pub fn new() -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let csr = CertificateParams::new(Vec::new())?.serialize_request(&key)?.pem()?;
        let server_key = KeyPair::generate()?;
        let server = CertificateParams::new(vec!["localhost".to_owned()])?.self_signed(&server_key)?;
        let server = (server.der().clone(), server_key);
        Ok(Self { key, csr, ca: String::new(), server, clients: HashMap::new() })
    }

    /// The signing request of every client.
    pub fn csr(&self) -> &str {
        &self.csr
    }

    /// Takes a certificate (with its issuing CA) and the trust bundle, PEM.
    pub fn add(&mut self, id: &str, certificate: &str, ca: &str) -> anyhow::Result<()> {
        ca.clone_into(&mut self.ca);
        let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<_, _>>()?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
            roots.add(certificate?)?;
        }
        roots.add(self.server.0.clone())?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        // A device that resumes would skip what is measured.
        config.resumption = Resumption::disabled();
        self.clients.insert(id.to_owned(), Arc::new(config));
        Ok(())
    }

    /// As whom `id` connects.
    pub fn client(&self, id: &str) -> anyhow::Result<Arc<ClientConfig>> {
        Ok(Arc::clone(self.clients.get(id).with_context(|| format!("`{id}` was not added"))?))
    }

    /// Whether `id` has a certificate.
    pub fn knows(&self, id: &str) -> bool {
        self.clients.contains_key(id)
    }

    /// Writes the trust bundle and mosquitto's own certificate and key.
    pub fn write_for_mosquitto(&self, folder: &Path) -> anyhow::Result<Files> {
        let files =
            Files { ca: folder.join("ca.pem"), certificate: folder.join("server.pem"), key: folder.join("server.key") };
        std::fs::write(&files.ca, &self.ca)?;
        std::fs::write(&files.certificate, pem_of(&self.server.0))?;
        std::fs::write(&files.key, self.server.1.serialize_pem())?;
        Ok(files)
    }
}

fn pem_of(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for (index, character) in text.chars().enumerate() {
        if index > 0 && index % 64 == 0 {
            pem.push('\n');
        }
        pem.push(character);
    }
    pem + "\n-----END CERTIFICATE-----\n"
}
