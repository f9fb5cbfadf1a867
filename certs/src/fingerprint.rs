//! SHA-256 values that name things: a certificate, and the key of the CA that issued it.

use std::fmt;
use std::str::FromStr;

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::hex::{self, InvalidHex};

/// SHA-256 of a certificate's DER. Written as 64 hexadecimal digits, lower case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(pub [u8; 32]);

/// Which CA issued: SHA-256 of its SubjectPublicKeyInfo (DER). Two CAs of the same name differ in it; a CA certificate
/// renewed with the same key doesn't. Written as 64 hexadecimal digits, lower case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IssuerKey([u8; 32]);

impl Fingerprint {
    /// Of this certificate.
    pub fn of(certificate_der: &[u8]) -> Self {
        Self(sha256(certificate_der))
    }
}

impl IssuerKey {
    /// Of this SubjectPublicKeyInfo.
    pub fn of(public_key_info_der: &[u8]) -> Self {
        Self(sha256(public_key_info_der))
    }

    /// The 32 bytes, as stored in a registry row.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for IssuerKey {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut sum = [0; 32];
    // SHA-256 has 32 bytes, so the two lengths agree.
    sum.copy_from_slice(digest(&SHA256, bytes).as_ref());
    sum
}

fn read(text: &str, wanted: &'static str) -> Result<[u8; 32], InvalidHex> {
    hex::read(text).and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| InvalidHex::new(text, wanted))
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex::write(f, &self.0)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex::write(f, &self.0)
    }
}

impl FromStr for Fingerprint {
    type Err = InvalidHex;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        read(text, "a SHA-256 fingerprint: 64 hexadecimal digits").map(Self)
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = InvalidHex;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(value: Fingerprint) -> Self {
        value.to_string()
    }
}

impl fmt::Display for IssuerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex::write(f, &self.0)
    }
}

impl fmt::Debug for IssuerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex::write(f, &self.0)
    }
}

impl FromStr for IssuerKey {
    type Err = InvalidHex;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        read(text, "an issuer key: the SHA-256 of a public key, 64 hexadecimal digits").map(Self)
    }
}

impl TryFrom<String> for IssuerKey {
    type Error = InvalidHex;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<IssuerKey> for String {
    fn from(value: IssuerKey) -> Self {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        // FIPS 180-2, appendix B.1.
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let fingerprint = Fingerprint::of(b"abc");
        assert_eq!(fingerprint.to_string(), text);
        assert_eq!(text.parse(), Ok(fingerprint));
        assert_eq!(text.to_uppercase().parse(), Ok(fingerprint));
        let issuer = IssuerKey::of(b"abc");
        assert_eq!(serde_json::to_string(&issuer).unwrap(), format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<IssuerKey>(&format!("\"{text}\"")).unwrap(), issuer);
        for bad in ["", "ba", &text[1..], &format!("{text}00"), &text.replace('b', "g"), &"ä".repeat(32)] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
            assert!(bad.parse::<IssuerKey>().is_err(), "{bad}");
        }
    }
}
