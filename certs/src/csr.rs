//! The public key of a certificate signing request (PKCS #10, RFC 2986). Whatever else a request asks for, names,
//! purposes, to be a CA, is not even looked at.

use rcgen::SubjectPublicKeyInfo;
use x509_parser::asn1_rs::Tag;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION, OID_PKCS1_RSASSAPSS,
    OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA256,
    OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ED25519, Oid,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo as ParsedKey;

use crate::IssueError;
use crate::encoding::request_der;

/// No honest request is longer: one with an RSA-4096 key and some names has 2 KiB.
const LONGEST: usize = 64 * 1024;

/// The key, after proof that whoever made the request holds its private half.
pub(crate) fn public_key(request: &[u8]) -> Result<SubjectPublicKeyInfo, IssueError> {
    if request.len() > LONGEST {
        return Err(IssueError::NotARequest);
    }
    let der = request_der(request).ok_or(IssueError::NotARequest)?;
    let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|_| IssueError::NotARequest)?;
    if !rest.is_empty() {
        return Err(IssueError::NotARequest);
    }
    let key = &request.certification_request_info.subject_pki;
    let signatures = signatures_of(key)?;
    // x509-parser takes the algorithm from the signature alone, and SHA-1 too: hold it to what fits the key.
    if !signatures.contains(&request.signature_algorithm.algorithm) {
        return Err(IssueError::BadSignature);
    }
    request.verify_signature().map_err(|_| IssueError::BadSignature)?;
    SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| IssueError::NotARequest)
}

/// The signature algorithms that fit a key which is strong enough.
fn signatures_of(key: &ParsedKey<'_>) -> Result<&'static [Oid<'static>], IssueError> {
    static ECDSA: [Oid<'static>; 2] = [OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384];
    static ED25519: [Oid<'static>; 1] = [OID_SIG_ED25519];
    static RSA: [Oid<'static>; 4] =
        [OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA, OID_PKCS1_RSASSAPSS];

    let weak = |found: String| IssueError::WeakKey { found };
    let algorithm = &key.algorithm.algorithm;
    if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        // `as_oid` itself takes anything for an OID, explicit curve parameters included.
        let named = key.algorithm.parameters.as_ref().filter(|any| any.tag() == Tag::Oid);
        // An uncompressed point has one byte of 4 before its two coordinates (SEC 1, 2.3.3).
        let wanted = match named.and_then(|any| any.as_oid().ok()) {
            Some(curve) if curve == OID_EC_P256 => 65,
            Some(curve) if curve == OID_NIST_EC_P384 => 97,
            Some(curve) => return Err(weak(format!("on the curve {}", short(&curve)))),
            None => return Err(weak("on a curve of its own".to_owned())),
        };
        if key.subject_public_key.data.len() != wanted {
            return Err(weak("an incomplete or compressed curve point".to_owned()));
        }
        return Ok(&ECDSA);
    }
    if *algorithm == OID_SIG_ED25519 {
        return if key.subject_public_key.data.len() == 32 {
            Ok(&ED25519)
        } else {
            Err(weak("an incomplete Ed25519 key".to_owned()))
        };
    }
    if *algorithm == OID_PKCS1_RSAENCRYPTION {
        let Ok(PublicKey::RSA(rsa)) = key.parsed() else {
            return Err(weak("an unreadable RSA key".to_owned()));
        };
        let bits = bit_length(rsa.modulus);
        return if (2048..=4096).contains(&bits) { Ok(&RSA) } else { Err(weak(format!("RSA of {bits} bits"))) };
    }
    Err(weak(format!("of the kind {}", short(algorithm))))
}

/// For messages; what comes from outside may be of any length.
fn short(oid: &Oid<'_>) -> String {
    oid.to_string().chars().take(60).collect()
}

/// Of a big-endian number.
fn bit_length(number: &[u8]) -> usize {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let Some(first) = number.get(zeros) else { return 0 };
    (number.len() - zeros) * 8 - first.leading_zeros() as usize
}
