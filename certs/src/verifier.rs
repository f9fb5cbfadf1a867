//! Judges client certificates during the handshake: rustls' own verifier, with our valid roots as the only anchors and
//! our issuing CAs as the only intermediates; where they are configured, external CAs as anchors for what they issued
//! themselves, and pinned certificates by their fingerprint.
//!
//! What a client sends beyond its leaf is ignored: one that sends its leaf alone is completed, and one that sends fifty
//! certificates costs nothing. What is trusted is asked at every handshake anew. Revocation of leaves and identity are
//! not judged here but by `Ca::identify`, after the handshake.

use std::sync::Arc;

use fieldgate_types::UnixMillis;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::identify::{LONGEST_LEAF, life_of};
use crate::trust::{SharedTrust, Trust};
use crate::{Fingerprint, Stage};

#[derive(Debug)]
pub(crate) struct PlantVerifier {
    trust: Arc<SharedTrust>,
    provider: Arc<CryptoProvider>,
    /// Whether a client must have a certificate. Where it need not, one that it shows is judged all the same.
    mandatory: bool,
}

impl PlantVerifier {
    pub(crate) fn new(trust: Arc<SharedTrust>, provider: Arc<CryptoProvider>, mandatory: bool) -> Self {
        Self { trust, provider, mandatory }
    }
}

impl ClientCertVerifier for PlantVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
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
        if end_entity.len() > LONGEST_LEAF {
            return Err(CertificateError::BadEncoding.into());
        }
        let trust = self.trust.get();
        if trust.external.pin(&Fingerprint::of(end_entity)).is_some() {
            return pinned(end_entity, now);
        }
        let at = moment(now);
        let roots = trust.roots.iter().filter(|root| root.authority.valid(at));
        let own = roots.map(|root| (&root.verifier, trust.intermediates.as_slice()));
        let others = trust.external.authorities().filter(|other| other.authority.valid(at));
        let others = others.map(|other| (&other.verifier, [].as_slice()));
        let mut verdict = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        for (verifier, intermediates) in own.chain(others) {
            match verifier.verify_client_cert(end_entity, intermediates, now) {
                Ok(verified) => return Ok(verified),
                Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {}
                Err(reason) => verdict = reason,
            }
        }
        Err(issuer_gone(&trust, end_entity, at).unwrap_or(verdict))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn moment(now: UnixTime) -> UnixMillis {
    UnixMillis(now.as_secs().saturating_mul(1000))
}

/// A pinned certificate needs no issuer; its time must be now, all the same.
fn pinned(end_entity: &CertificateDer<'_>, now: UnixTime) -> Result<ClientCertVerified, Error> {
    let (_, leaf) = X509Certificate::from_der(end_entity).map_err(|_| CertificateError::BadEncoding)?;
    match life_of(&leaf).stage(moment(now)) {
        Stage::Expired => Err(CertificateError::Expired.into()),
        Stage::NotYet => Err(CertificateError::NotValidYet.into()),
        Stage::Fresh | Stage::Renew | Stage::Warn | Stage::Urgent => Ok(ClientCertVerified::assertion()),
    }
}

/// Why a leaf of one of our own issuing CAs finds no way to a root: that CA is revoked, or it or its root is over.
fn issuer_gone(trust: &Trust, end_entity: &CertificateDer<'_>, now: UnixMillis) -> Option<Error> {
    let (_, leaf) = X509Certificate::from_der(end_entity).ok()?;
    let issuer = trust.issuing.iter().find(|issuing| issuing.authority.has_signed(&leaf))?;
    if issuer.revoked.is_some() {
        return Some(CertificateError::Revoked.into());
    }
    (now.as_secs() > issuer.ends.as_secs()).then(|| CertificateError::Expired.into())
}
