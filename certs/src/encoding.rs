//! Certificates and keys as PEM text.

use pem::{EncodeConfig, LineEnding, Pem};
use zeroize::{Zeroize, Zeroizing};

const CERTIFICATE: &str = "CERTIFICATE";
const PRIVATE_KEY: &str = "PRIVATE KEY";
/// OpenSSL and rcgen write the first, some older tools the second.
const REQUEST: [&str; 2] = ["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"];

fn encode(pem: &Pem) -> String {
    pem::encode_config(pem, EncodeConfig::new().set_line_ending(LineEnding::LF))
}

pub(crate) fn certificate_pem(der: &[u8]) -> String {
    encode(&Pem::new(CERTIFICATE, der))
}

pub(crate) fn key_pem(pkcs8: &[u8]) -> Zeroizing<String> {
    let pem = Pem::new(PRIVATE_KEY, pkcs8);
    let text = Zeroizing::new(encode(&pem));
    pem.into_contents().zeroize();
    text
}

/// The one certificate in `text`.
pub(crate) fn certificate_from_pem(text: &[u8]) -> Option<Vec<u8>> {
    match pem::parse_many(text).ok()?.as_slice() {
        [only] if only.tag() == CERTIFICATE => Some(only.contents().to_vec()),
        _ => None,
    }
}

/// The PKCS #8 key in `text`.
pub(crate) fn key_from_pem(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let pem = pem::parse(text).ok()?;
    let right = pem.tag() == PRIVATE_KEY;
    let key = Zeroizing::new(pem.into_contents());
    right.then_some(key)
}

/// The DER of a signing request given as PEM or DER.
pub(crate) fn request_der(request: &[u8]) -> Option<Vec<u8>> {
    // DER begins with the tag of a SEQUENCE, which no PEM text does.
    if request.first() == Some(&0x30) {
        return Some(request.to_vec());
    }
    let pem = pem::parse(request).ok()?;
    REQUEST.contains(&pem.tag()).then(|| pem.into_contents())
}
