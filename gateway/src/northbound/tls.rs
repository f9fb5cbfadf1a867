//! TLS towards the upstream: rustls with ring, files read anew for each connection so that a replaced one counts.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::client::ResolvesClientCert;
use rustls::crypto::{CryptoProvider, ring};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::pem::{Error as PemError, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::config::TlsFiles;
use super::failure::Failure;

/// A client configuration from the files as they are now. Blocking: small files.
pub(super) fn client_config(files: &TlsFiles) -> Result<ClientConfig, Failure> {
    let provider = Arc::new(ring::default_provider());
    let identity = match &files.identity {
        Some((cert, key)) => Some(identity(cert, key, &provider)?),
        None => None,
    };
    let mut config = match &files.ca {
        Some(path) => {
            let problem = |problem: String| Failure::Content { key: "ca", path: path.clone(), problem };
            with_roots(roots(path)?, provider).map_err(problem)?
        }
        None => with_roots(native()?, provider).map_err(Failure::NativeRoots)?,
    };
    if let Some(identity) = identity {
        config.client_auth_cert_resolver = identity;
    }
    // A resumed session would keep using a certificate that has been replaced.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

fn with_roots(roots: RootCertStore, provider: Arc<CryptoProvider>) -> Result<ClientConfig, String> {
    let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|error| error.to_string())?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_webpki_verifier(verifier)
        .with_no_client_auth();
    Ok(config)
}

/// The machine's trust store. One certificate in it that can't be used is no reason to do without the others.
fn native() -> Result<RootCertStore, Failure> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, ignored) = roots.add_parsable_certificates(found.certs);
    if added > 0 {
        return Ok(roots);
    }
    Err(Failure::NativeRoots(match found.errors.first() {
        Some(error) => error.to_string(),
        None => format!("none found, {ignored} that can't be used"),
    }))
}

fn roots(path: &PathBuf) -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("ca", path)? {
        roots.add(certificate).map_err(|error| Failure::Content {
            key: "ca",
            path: path.clone(),
            problem: format!("a certificate in it can't be used: {error}"),
        })?;
    }
    Ok(roots)
}

fn identity(cert: &PathBuf, key: &PathBuf, provider: &CryptoProvider) -> Result<Arc<dyn ResolvesClientCert>, Failure> {
    let chain = certificates("cert", cert)?;
    let bytes = read("key", key)?;
    let content = |problem: String| Failure::Content { key: "key", path: key.clone(), problem };
    // PKCS#8, SEC1 (EC PRIVATE KEY) and PKCS#1 (RSA PRIVATE KEY).
    let private = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
        content(match error {
            PemError::NoItemsFound => "it holds no private key in PEM without a passphrase".to_owned(),
            other => other.to_string(),
        })
    })?;
    let certified = CertifiedKey::from_der(chain, private, provider).map_err(|error| {
        content(match error {
            rustls::Error::InconsistentKeys(_) => format!("it is not the key of `{}`", cert.display()),
            other => other.to_string(),
        })
    })?;
    Ok(Arc::new(SingleCertAndKey::from(certified)))
}

fn certificates(key: &'static str, path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let bytes = read(key, path)?;
    let content = |problem: String| Failure::Content { key, path: path.clone(), problem };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if found.is_empty() => Err(content("it holds no certificate in PEM".to_owned())),
        Ok(found) => Ok(found),
        Err(error) => Err(content(error.to_string())),
    }
}

fn read(key: &'static str, path: &PathBuf) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|source| Failure::File { key, path: path.clone(), source })
}
