//! The body of a stored record: a message for the upstream, before any dialect. It is decoded when it is sent,
//! perhaps by a newer program and for a differently configured upstream, so it begins with a version.
//!
//! It borrows: each message is encoded and decoded once, and its parts were allocations that cost more than the work.

use bytes::Bytes;
use serde::{Deserialize, Serialize, Serializer};
use thiserror::Error;

/// Where a record goes upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Destination<'a> {
    /// A local topic, which the dialect puts below its root.
    Local(&'a str),
    /// A full upstream topic: the response topic of an MQTT 5 command.
    Absolute(&'a str),
}

impl<'a> Destination<'a> {
    /// The topic, of whichever kind.
    pub fn topic(self) -> &'a str {
        match self {
            Self::Local(topic) | Self::Absolute(topic) => topic,
        }
    }
}

/// A message for the upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upbound<'a> {
    /// Where to.
    #[serde(borrow)]
    pub destination: Destination<'a>,
    /// Payload, as the device sent it or as the gateway made it.
    #[serde(serialize_with = "bytes")]
    pub payload: &'a [u8],
    /// Whether the upstream shall retain it.
    pub retain: bool,
    /// MQTT 5 content type.
    pub content_type: Option<&'a str>,
    /// MQTT 5 payload format indicator: the sender says that the payload is UTF-8.
    pub utf8: bool,
    /// MQTT 5 correlation data: of the command that this answers.
    pub correlation: Option<&'a [u8]>,
    /// MQTT 5 user properties of the sender, in order.
    pub user: Vec<(&'a str, &'a str)>,
    /// `fg-id`: SHA-256 of the leaf certificate, `user` for password users; none for the gateway's own.
    pub identity: Option<&'a str>,
}

/// The bytes are not a record body.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// Written by a newer program.
    #[error("record format {0} is not known to this version")]
    Version(u8),
    /// Damaged.
    #[error("the record can't be decoded")]
    Body(#[from] postcard::Error),
    /// Nothing there.
    #[error("the record is empty")]
    Empty,
}

const VERSION: u8 = 1;

/// The user property of what is of a time that is past.
pub const HISTORY: (&str, &str) = ("fg-hist", "1");

/// The same bytes as those of a sequence, in one piece.
fn bytes<S: Serializer>(payload: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(payload)
}

impl<'a> Upbound<'a> {
    /// A message of the gateway's own: JSON text on a local topic.
    pub fn json(topic: &'a str, payload: &'a [u8], retain: bool) -> Self {
        Self {
            destination: Destination::Local(topic),
            payload,
            retain,
            content_type: Some("application/json"),
            utf8: true,
            correlation: None,
            user: Vec::new(),
            identity: None,
        }
    }

    /// Whether it is the gateway's own and of a time that is past, however soon it is sent.
    pub fn is_history(&self) -> bool {
        self.identity.is_none() && self.user.contains(&HISTORY)
    }

    /// As bytes for the store.
    pub fn encode(&self) -> Result<Bytes, postcard::Error> {
        // Topic, identity (64) and lengths; more only where there are user properties.
        let mut room = Vec::with_capacity(self.payload.len() + self.destination.topic().len() + 96);
        room.push(VERSION);
        postcard::to_extend(self, room).map(Bytes::from)
    }

    /// From bytes of the store.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        match bytes.split_first() {
            Some((&VERSION, body)) => Ok(postcard::from_bytes(body)?),
            Some((&version, _)) => Err(DecodeError::Version(version)),
            None => Err(DecodeError::Empty),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn decodes_what_it_encoded(payload: Vec<u8>, retain: bool, topic: String, user: Vec<(String, String)>, correlation: Option<Vec<u8>>) {
            let mut message = Upbound::json(&topic, &payload, retain);
            message.user = user.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            message.correlation = correlation.as_deref();
            message.destination = Destination::Absolute(&topic);
            let bytes = message.encode().unwrap();
            prop_assert_eq!(Upbound::decode(&bytes).unwrap(), message);
        }

        #[test]
        fn never_panics_on_damage(bytes: Vec<u8>) {
            let _outcome = Upbound::decode(&bytes).is_ok();
        }
    }

    /// Queues outlive programs.
    #[test]
    fn the_format_is_what_it_was_byte_by_byte() {
        let body = b"\x01\x00\x04a/bc\x03\x01\x02\x03\x01\x01\x01t\x00\x01\x02\x07\x08\x01\x01k\x01v\x01\x04ab12";
        let message = Upbound {
            destination: Destination::Local("a/bc"),
            payload: &[1, 2, 3],
            retain: true,
            content_type: Some("t"),
            utf8: false,
            correlation: Some(&[7, 8]),
            user: vec![("k", "v")],
            identity: Some("ab12"),
        };
        assert_eq!(Upbound::decode(body).unwrap(), message);
        assert_eq!(&message.encode().unwrap()[..], body);
    }

    #[test]
    fn refuses_a_newer_format() {
        assert!(matches!(Upbound::decode(&[9, 0]), Err(DecodeError::Version(9))));
    }
}
