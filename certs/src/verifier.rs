//! Judges client certificates during the handshake: rustls' own verifier, with our roots as the only anchors and our
//! issuing CAs as the only intermediates.
//!
//! What a client sends beyond its leaf is ignored: one that sends its leaf alone is completed, and one that sends fifty
//! certificates costs nothing. Revocation and identity are not judged here but by `Ca::identify`, after the handshake.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use std::sync::Arc;

#[derive(Debug)]
pub(crate) struct PlantVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    issuing: Vec<CertificateDer<'static>>,
}

impl PlantVerifier {
    /// `inner` knows the roots.
    pub(crate) fn new(inner: Arc<dyn ClientCertVerifier>, issuing: Vec<CertificateDer<'static>>) -> Self {
        Self { inner, issuing }
    }
}

impl ClientCertVerifier for PlantVerifier {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    /// None: a client that holds its leaf alone and is told the roots' names finds no match among them (Go's crypto/tls
    /// compares the leaf's issuer with the list) and sends no certificate at all.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.inner.verify_client_cert(end_entity, &self.issuing, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
