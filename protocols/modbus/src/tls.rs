//! Modbus/TCP Security: TLS towards a device (rustls with ring). The files are read anew for each connection, so that a
//! replaced one counts.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fieldgate_types::Section;
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::HostPort;

/// The files of a `mbaps://` link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Who may have signed the device's certificate.
    pub ca: PathBuf,
    /// The gateway's certificate and key, which the specification asks for.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name in the device's certificate, where it is not the host of the URL.
    pub server_name: Option<String>,
}

impl TlsFiles {
    /// Reads `ca`, `cert`, `key` and `server_name`. None of them has a meaning on other links (`wanted` false).
    pub(crate) fn read(section: &Section, wanted: bool) -> Self {
        if !wanted {
            for key in ["ca", "cert", "key", "server_name"] {
                if section.has(key) {
                    section.problem(key, "has a meaning for mbaps:// links alone, leave it out");
                }
            }
            return Self::default();
        }
        let ca = section.path("ca");
        if ca.is_none() {
            section.problem("ca", "is missing: name the file with the CA certificate of the device");
        }
        let pair = (section.path("cert"), section.path("key"));
        match &pair {
            (Some(_), None) => section.problem("cert", "its private key is missing, add `key`"),
            (None, Some(_)) => section.problem("key", "its certificate is missing, add `cert`"),
            (Some(_), Some(_)) | (None, None) => {}
        }
        let server_name: Option<String> = section.get("server_name");
        if let Some(name) = &server_name
            && ServerName::try_from(name.as_str()).is_err()
        {
            section.problem("server_name", format_args!("`{name}` is neither a host name nor an address"));
        }
        let (cert, key) = pair;
        Self { ca: ca.unwrap_or_default(), identity: cert.zip(key), server_name }
    }
}

/// Makes a TLS session on `stream`.
pub(crate) async fn handshake(
    files: &TlsFiles,
    host: &HostPort,
    stream: TcpStream,
) -> io::Result<TlsStream<TcpStream>> {
    let owned = files.clone();
    let config = tokio::task::spawn_blocking(move || client_config(&owned)).await.map_err(io::Error::other)??;
    let name = files.server_name.clone().unwrap_or_else(|| host.host.clone());
    let name = ServerName::try_from(name).map_err(io::Error::other)?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

fn client_config(files: &TlsFiles) -> io::Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots(&files.ca)?);
    let mut config = match &files.identity {
        Some((cert, key)) => {
            let (chain, key) = certified(cert, key)?;
            builder.with_client_auth_cert(chain, key).map_err(io::Error::other)?
        }
        None => builder.with_no_client_auth(),
    };
    // A resumed session would keep using a certificate that has been replaced.
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn roots(path: &Path) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| at(path, &error))?;
    }
    Ok(roots)
}

type Certified = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn certified(cert: &Path, key: &Path) -> io::Result<Certified> {
    let chain = certificates(cert)?;
    let bytes = std::fs::read(key).map_err(|error| at(key, &error))?;
    let private = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| at(key, &error))?;
    rustls::sign::CertifiedKey::from_der(chain.clone(), private.clone_key(), &ring::default_provider())
        .map_err(|error| at(key, &error))?;
    Ok((chain, private))
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let bytes = std::fs::read(path).map_err(|error| at(path, &error))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if found.is_empty() => Err(at(path, &"it holds no certificate in PEM")),
        Ok(found) => Ok(found),
        Err(error) => Err(at(path, &error)),
    }
}

fn at(path: &Path, problem: &impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("`{}`: {problem}", path.display()))
}
