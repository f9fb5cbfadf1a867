//! The serial number of a certificate.

use std::fmt;
use std::str::FromStr;

use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use crate::hex::{self, InvalidHex};

/// A certificate's serial number: big-endian bytes without leading zeros. Written in hexadecimal, lower case.
///
/// Unique within one issuer only; the registry's key is (issuer, serial).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Serial(Box<[u8]>);

impl Serial {
    /// From big-endian bytes, such as the content of the DER INTEGER; leading zeros are dropped.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Self(bytes.get(zeros..).unwrap_or_default().into())
    }

    /// Big-endian, without leading zeros.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Sixteen random bytes, of which 126 bits are random: the two upper bits are 01, so that the number is positive
    /// (RFC 5280, 4.1.2.2) and always as long. `None` when the system has no random numbers to give.
    pub(crate) fn random() -> Option<Self> {
        let mut bytes = [0; 16];
        SystemRandom::new().fill(&mut bytes).ok()?;
        let [first, ..] = &mut bytes;
        *first = *first & 0x3f | 0x40;
        Some(Self(bytes.into()))
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("00") } else { hex::write(f, &self.0) }
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Serial {
    type Err = InvalidHex;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = hex::read(text).filter(|bytes| !bytes.is_empty());
        let bytes = bytes.ok_or_else(|| InvalidHex::new(text, "a serial number: hexadecimal digits, two per byte"))?;
        Ok(Self::from_bytes(&bytes))
    }
}

impl TryFrom<String> for Serial {
    type Error = InvalidHex;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Serial> for String {
    fn from(value: Serial) -> Self {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_zeros_make_no_difference() {
        assert_eq!(Serial::from_bytes(&[0, 0, 1, 0]), Serial::from_bytes(&[1, 0]));
        assert_eq!(Serial::from_bytes(&[1, 0]).to_string(), "0100");
        assert_eq!("000100".parse(), Ok(Serial::from_bytes(&[1, 0])));
        let zero = Serial::from_bytes(&[0]);
        assert_eq!(zero.to_string().parse(), Ok(zero));
        for bad in ["", "1", "0x01", "zz"] {
            assert!(bad.parse::<Serial>().is_err(), "{bad}");
        }
    }

    #[test]
    fn random_ones_are_positive_and_sixteen_bytes_long() {
        for _ in 0..1000 {
            let serial = Serial::random().unwrap();
            assert_eq!(serial.as_bytes().len(), 16);
            assert_eq!(serial.as_bytes()[0] & 0xc0, 0x40);
        }
    }
}
