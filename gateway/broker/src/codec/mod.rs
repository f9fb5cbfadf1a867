//! Bytes to packets and back, for MQTT 3.1.1 and 5. Pure.
//!
//! Parsing rests on the packet types of `mqtt-protocol-core` (never its `Connection`), plus every check that they
//! leave to their user: packet id 0, reserved bits, will QoS 3, a DUP on QoS 0, bytes after the end, topic names.
//! A PUBLISH without properties is parsed here, in place: it is most of the traffic, and the library would copy
//! packet and topic. What goes out is written straight into the connection's one output buffer: it is small,
//! fixed, and can't fail. Limits of topics, rights and state are the business of the session machine.
//!
//! What both ends of a connection have in common is public, for the gateway's own client: frames, fields, lengths.

mod connect;
mod decode;
pub(crate) mod encode;

pub use encode::{length_of_length, put_bytes, put_length, put_text};

pub(crate) use connect::{Connect, Will, connect_version};
pub(crate) use decode::{Ack, Disconnect, FilterRequest, Incoming, Publish, Subscribe, Unsubscribe, decode};

use crate::DisconnectReason;

/// Bytes that are not an acceptable packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It can't be read.
    #[error("malformed packet")]
    Malformed,
    /// It can be read, and may not be sent, or not here.
    #[error("protocol error")]
    Protocol,
    /// A CONNECT of a version that isn't known.
    #[error("unsupported protocol version")]
    Version,
    /// A CONNECT with a client identifier that isn't one.
    #[error("client identifier not valid")]
    ClientId,
    /// Larger than the limit.
    #[error("packet too large")]
    TooLarge,
    /// A topic name that isn't one.
    #[error("topic name not valid")]
    Topic,
}

impl Fault {
    /// MQTT 5 reason code.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Malformed => 0x81,
            Self::Protocol => 0x82,
            Self::Version => 0x84,
            Self::ClientId => 0x85,
            Self::Topic => 0x90,
            Self::TooLarge => 0x95,
        }
    }

    /// Why an attached client that sends this is disconnected.
    pub(crate) fn reason(self) -> DisconnectReason {
        match self {
            Self::Malformed => DisconnectReason::Malformed,
            Self::Protocol | Self::Version | Self::ClientId => DisconnectReason::ProtocolError,
            Self::TooLarge => DisconnectReason::PacketTooLarge,
            Self::Topic => DisconnectReason::TopicInvalid,
        }
    }
}

/// Where the first packet in a buffer lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Packet type and flags.
    pub first: u8,
    /// Length of the fixed header.
    pub header: usize,
    /// Remaining length.
    pub body: usize,
}

impl Frame {
    /// Bytes in all.
    #[expect(clippy::len_without_is_empty, reason = "a packet is never empty")]
    pub fn len(self) -> usize {
        self.header + self.body
    }

    /// Whether the remaining length takes no more bytes than it needs [MQTT-1.5.5-1]. 3.1.1 does not ask for it.
    pub fn minimal(self) -> bool {
        self.header == 1 + encode::length_of_length(self.body)
    }

    /// The bytes behind the fixed header.
    pub fn body_of(self, buffer: &[u8]) -> &[u8] {
        buffer.get(self.header..self.len()).unwrap_or_default()
    }
}

/// Finds the first packet of `buffer`; `None` while its header is incomplete. The body may still be on its way:
/// the claimed length is judged against `limit` before anybody reserves memory for it.
pub fn frame(buffer: &[u8], limit: usize) -> Result<Option<Frame>, Fault> {
    let Some((&first, rest)) = buffer.split_first() else { return Ok(None) };
    let mut body = 0_usize;
    for (index, byte) in rest.iter().take(4).enumerate() {
        body |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            let frame = Frame { first, header: index + 2, body };
            return if frame.len() > limit { Err(Fault::TooLarge) } else { Ok(Some(frame)) };
        }
    }
    if rest.len() >= 4 { Err(Fault::Malformed) } else { Ok(None) }
}

/// No string holds U+0000 [MQTT-1.5.4-2], in 3.1.1 [MQTT-1.5.3-2].
pub fn text(text: &str) -> Result<&str, Fault> {
    if text.bytes().any(|b| b == 0) { Err(Fault::Malformed) } else { Ok(text) }
}

/// Reads fields off the front of a slice.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// At the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next `length` bytes.
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Fault::Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    /// A two byte integer.
    pub fn u16(&mut self) -> Result<u16, Fault> {
        let bytes: [u8; 2] = self.take(2)?.try_into().map_err(|_| Fault::Malformed)?;
        Ok(u16::from_be_bytes(bytes))
    }

    /// A packet identifier, which is never 0.
    pub fn packet_id(&mut self) -> Result<u16, Fault> {
        match self.u16()? {
            0 => Err(Fault::Malformed),
            id => Ok(id),
        }
    }

    /// A UTF-8 string with its length.
    pub fn text(&mut self) -> Result<&'a str, Fault> {
        let length = usize::from(self.u16()?);
        text(std::str::from_utf8(self.take(length)?).map_err(|_| Fault::Malformed)?)
    }

    /// All that is left.
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// The next byte, which stays.
    pub fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_frames_and_judges_claimed_lengths_before_they_arrive() {
        assert_eq!(frame(&[], 100), Ok(None));
        assert_eq!(frame(&[0xC0], 100), Ok(None));
        assert_eq!(frame(&[0xC0, 0], 100), Ok(Some(Frame { first: 0xC0, header: 2, body: 0 })));
        assert_eq!(frame(&[0x30, 0xFF, 0x01], 1000), Ok(Some(Frame { first: 0x30, header: 3, body: 255 })));
        assert_eq!(frame(&[0x10, 0xFF, 0xFF, 0xFF, 0x7F], 16_384), Err(Fault::TooLarge));
        assert_eq!(frame(&[0x10, 0xFF, 0xFF, 0xFF], 16_384), Ok(None));
        assert_eq!(frame(&[0x10, 0xFF, 0xFF, 0xFF, 0xFF], 16_384), Err(Fault::Malformed));
        assert_eq!(frame(&[0x30, 98], 100), Ok(Some(Frame { first: 0x30, header: 2, body: 98 })));
        assert_eq!(frame(&[0x30, 99], 100), Err(Fault::TooLarge));
    }
}
