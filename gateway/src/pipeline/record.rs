//! The body of a stored record: a message for the upstream, before any dialect. It is decoded when it is sent,
//! perhaps by a newer program and for a differently configured upstream, so it begins with a version.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Where a record goes upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Destination {
    /// A local topic, which the dialect puts below its root.
    Local(String),
    /// A full upstream topic: the response topic of an MQTT 5 command.
    Absolute(String),
}

/// A message for the upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upbound {
    /// Where to.
    pub destination: Destination,
    /// Payload, as the device sent it or as the gateway made it.
    pub payload: Vec<u8>,
    /// Whether the upstream shall retain it.
    pub retain: bool,
    /// MQTT 5 content type.
    pub content_type: Option<String>,
    /// MQTT 5 payload format indicator: the sender says that the payload is UTF-8.
    pub utf8: bool,
    /// MQTT 5 correlation data: of the command that this answers.
    pub correlation: Option<Vec<u8>>,
    /// MQTT 5 user properties of the sender, in order.
    pub user: Vec<(String, String)>,
    /// `fg-id`: SHA-256 of the leaf certificate, `user` for password users; none for the gateway's own.
    pub identity: Option<String>,
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

impl Upbound {
    /// A message of the gateway's own: JSON text on a local topic.
    pub fn json(topic: String, payload: Vec<u8>, retain: bool) -> Self {
        Self {
            destination: Destination::Local(topic),
            payload,
            retain,
            content_type: Some("application/json".to_owned()),
            utf8: true,
            correlation: None,
            user: Vec::new(),
            identity: None,
        }
    }

    /// As bytes for the store.
    pub fn encode(&self) -> Result<Bytes, postcard::Error> {
        let room = Vec::with_capacity(self.payload.len() + 128);
        postcard::to_extend(self, {
            let mut bytes = room;
            bytes.push(VERSION);
            bytes
        })
        .map(Bytes::from)
    }

    /// From bytes of the store.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
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
            let mut message = Upbound::json(topic.clone(), payload, retain);
            message.user = user;
            message.correlation = correlation;
            message.destination = Destination::Absolute(topic);
            prop_assert_eq!(Upbound::decode(&message.encode().unwrap()).unwrap(), message);
        }

        #[test]
        fn never_panics_on_damage(bytes: Vec<u8>) {
            let _outcome = Upbound::decode(&bytes).is_ok();
        }
    }

    #[test]
    fn refuses_a_newer_format() {
        assert!(matches!(Upbound::decode(&[9, 0]), Err(DecodeError::Version(9))));
    }
}
