//! Certificates and keys as PEM text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pem::{EncodeConfig, LineEnding, Pem};
use zeroize::{Zeroize, Zeroizing};

const CERTIFICATE: &str = "CERTIFICATE";
const REVOCATION_LIST: &str = "X509 CRL";
const PRIVATE_KEY: &str = "PRIVATE KEY";
/// OpenSSL and rcgen write the first, some older tools the second.
const REQUEST: [&str; 2] = ["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"];

fn encode(pem: &Pem) -> String {
    pem::encode_config(pem, EncodeConfig::new().set_line_ending(LineEnding::LF))
}

pub(crate) fn certificate_pem(der: &[u8]) -> String {
    encode(&Pem::new(CERTIFICATE, der))
}

pub(crate) fn list_pem(der: &[u8]) -> String {
    encode(&Pem::new(REVOCATION_LIST, der))
}

/// The one revocation list in `text`.
pub(crate) fn list_from_pem(text: &[u8]) -> Option<Vec<u8>> {
    match pem::parse_many(text).ok()?.as_slice() {
        [only] if only.tag() == REVOCATION_LIST => Some(only.contents().to_vec()),
        _ => None,
    }
}

pub(crate) fn key_pem(pkcs8: &[u8]) -> Zeroizing<String> {
    let pem = Pem::new(PRIVATE_KEY, pkcs8);
    let text = Zeroizing::new(encode(&pem));
    pem.into_contents().zeroize();
    text
}

/// The certificates in `text`, when it holds nothing else.
pub(crate) fn certificates_from_pem(text: &[u8]) -> Option<Vec<Vec<u8>>> {
    let blocks = pem::parse_many(text).ok()?;
    blocks.into_iter().map(|block| (block.tag() == CERTIFICATE).then(|| block.into_contents())).collect()
}

/// The one certificate in `text`.
pub(crate) fn certificate_from_pem(text: &[u8]) -> Option<Vec<u8>> {
    match certificates_from_pem(text)?.as_slice() {
        [only] => Some(only.clone()),
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

/// The DER of a signing request given as PEM, DER, or base64 alone (as EST sends it, RFC 7030, 4.2.1), with or without
/// line breaks.
pub(crate) fn request_der(request: &[u8]) -> Option<Vec<u8>> {
    // DER begins with the tag of a SEQUENCE, which is the digit 0: no PEM text begins with it, and base64 of a request
    // begins with M.
    if request.first() == Some(&0x30) {
        return Some(request.to_vec());
    }
    if request.contains(&b'-') {
        let pem = pem::parse(request).ok()?;
        return REQUEST.contains(&pem.tag()).then(|| pem.into_contents());
    }
    let digits: Vec<u8> = request.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    if digits.is_empty() { None } else { STANDARD.decode(digits).ok() }
}

/// In lines of 76 characters, as MIME wants them (RFC 2045, 6.8): receivers of either habit read it (RFC 8951).
pub(crate) fn base64_lines(bytes: &[u8]) -> String {
    let digits = STANDARD.encode(bytes);
    let mut lines = String::with_capacity(digits.len() + digits.len() / 38 + 2);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && at % 76 == 0 {
            lines.push_str("\r\n");
        }
        lines.push(digit);
    }
    lines.push_str("\r\n");
    lines
}
