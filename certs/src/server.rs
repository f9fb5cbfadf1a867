//! The gateway's own server certificate and the TLS configuration of its listeners.

use std::net::IpAddr;
use std::sync::Arc;

use fieldgate_types::UnixMillis;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::{Ca, CaError, IssueError};

/// The certificate that every TLS listener shows. Can be replaced while they run.
#[derive(Debug)]
pub struct ServerCertificate {}

impl ServerCertificate {
    /// When the present one expires.
    pub fn not_after(&self) -> UnixMillis {
        unimplemented!()
    }

    /// Whether two thirds of its life are over.
    pub fn renewal_due(&self, now: UnixMillis) -> bool {
        let _ = now;
        unimplemented!()
    }

    /// Shows `newer` from the next handshake on; connections that stand are not touched.
    pub fn replace(&self, newer: Self) {
        let _ = newer;
        unimplemented!()
    }

    /// The names and addresses it is valid for, sorted.
    pub fn names(&self) -> Vec<String> {
        unimplemented!()
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        unimplemented!()
    }
}

impl Ca {
    /// A certificate for this gateway's listeners.
    pub fn server_certificate(&self, names: &[String], addresses: &[IpAddr]) -> Result<ServerCertificate, IssueError> {
        let _ = (names, addresses);
        unimplemented!()
    }

    /// TLS 1.2 and 1.3, client certificate required, no resumption.
    pub fn server_config(&self, certificate: Arc<ServerCertificate>) -> Result<rustls::ServerConfig, CaError> {
        let _ = certificate;
        unimplemented!()
    }
}
