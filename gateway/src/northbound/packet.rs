//! A message as it goes on the wire, in both versions of MQTT, and whether it can go there at all.

use std::borrow::Cow;
use std::ops::Deref;

use fieldgate_broker::codec::length_of_length;
use thiserror::Error;

/// A PUBLISH at QoS 1 without its packet id. It borrows: it is written once, from the record to the output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packet<'a> {
    /// Full topic, in two pieces: what is before the local one, which may be nothing, and the rest.
    pub topic: [&'a str; 2],
    /// Payload.
    pub payload: Cow<'a, [u8]>,
    /// RETAIN.
    pub retain: bool,
    /// MQTT 5 properties; ignored by 3.1.1.
    pub properties: Properties<'a>,
}

/// The MQTT 5 properties in use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Properties<'a> {
    /// Payload format indicator: UTF-8.
    pub utf8: bool,
    /// Message expiry interval in seconds.
    pub expiry: Option<u32>,
    /// Content type.
    pub content_type: Option<&'a str>,
    /// Correlation data.
    pub correlation: Option<&'a [u8]>,
    /// User properties in order.
    pub user: Vec<(&'a str, Text<'a>)>,
}

/// A property's value: somebody's text, or a number of ours, which is written without an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text<'a> {
    Borrowed(&'a str),
    Number(Digits),
}

/// A number in decimal, at the end of the longest there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Digits {
    bytes: [u8; 20],
    begin: usize,
}

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Self {
        Self::Borrowed(text)
    }
}

impl From<u64> for Text<'_> {
    fn from(number: u64) -> Self {
        let mut digits = Digits { bytes: [b'0'; 20], begin: 20 };
        let mut rest = number;
        for place in digits.bytes.iter_mut().rev() {
            *place = b'0' + (rest % 10) as u8;
            digits.begin -= 1;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        Self::Number(digits)
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Number(Digits { bytes, begin }) => {
                let digits = bytes.get(*begin..).unwrap_or_default();
                // Digits alone.
                std::str::from_utf8(digits).unwrap_or_default()
            }
        }
    }
}

/// Why a message can never be sent, whatever the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum Unsendable {
    /// Topic empty, too long, with wildcards or U+0000.
    #[error("not a valid topic")]
    Topic,
    /// A property too long, or with U+0000.
    #[error("not a valid MQTT property")]
    Property,
    /// More than 268,435,455 bytes, or than the upstream takes.
    #[error("larger than the upstream's maximum packet size")]
    Size,
}

/// The largest remaining length (MQTT 5 section 1.5.5).
const MAX_REMAINING: usize = 268_435_455;

fn text(value: &str) -> bool {
    // MQTT 5 section 1.5.4: at most 65,535 bytes, no U+0000.
    u16::try_from(value.len()).is_ok() && !value.as_bytes().contains(&0)
}

impl Properties<'_> {
    /// Bytes of all of them, without the length in front.
    pub fn length(&self) -> usize {
        usize::from(self.utf8) * 2
            + self.expiry.map_or(0, |_| 5)
            + self.content_type.map_or(0, |text| 3 + text.len())
            + self.correlation.map_or(0, |data| 3 + data.len())
            + self.user.iter().map(|(key, value)| 5 + key.len() + value.len()).sum::<usize>()
    }
}

impl Packet<'_> {
    /// The topic in one piece.
    pub fn topic(&self) -> String {
        self.topic.concat()
    }

    /// Whether it fits the protocol and `maximum`, the upstream's Maximum Packet Size. Asked before publishing: an
    /// upstream ends the connection on each of these, and the same message would end the next one too.
    pub fn check(&self, v5: bool, maximum: Option<u32>) -> Result<(), Unsendable> {
        let [prefix, rest] = self.topic;
        let length = prefix.len() + rest.len();
        let valid = |piece: &str| !piece.bytes().any(|byte| matches!(byte, b'+' | b'#' | 0));
        if length == 0 || u16::try_from(length).is_err() || !valid(prefix) || !valid(rest) {
            return Err(Unsendable::Topic);
        }
        let p = &self.properties;
        let fits = |length: usize| u16::try_from(length).is_ok();
        let valid = p.content_type.is_none_or(text)
            && p.correlation.is_none_or(|data| fits(data.len()))
            && p.user.iter().all(|(key, value)| text(key) && text(value));
        if v5 && !valid {
            return Err(Unsendable::Property);
        }
        let remaining = self.remaining_length(v5);
        let size = 1 + length_of_length(remaining) + remaining;
        let limit = maximum.and_then(|maximum| usize::try_from(maximum).ok());
        if remaining > MAX_REMAINING || limit.is_some_and(|limit| size > limit) {
            return Err(Unsendable::Size);
        }
        Ok(())
    }

    /// Bytes behind the fixed header.
    pub fn remaining_length(&self, v5: bool) -> usize {
        // Topic with its length, packet id, payload.
        let base = 2 + self.topic.iter().map(|piece| piece.len()).sum::<usize>() + 2 + self.payload.len();
        if !v5 {
            return base;
        }
        let properties = self.properties.length();
        base + length_of_length(properties) + properties
    }

    /// Bytes it keeps in memory while it is on the wire, about.
    pub fn weight(&self) -> usize {
        self.remaining_length(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(topic: &str) -> Packet<'_> {
        Packet {
            topic: ["", topic],
            payload: Cow::Owned(vec![7; 100]),
            retain: false,
            properties: Properties::default(),
        }
    }

    #[test]
    fn refuses_what_no_broker_takes() {
        for topic in ["", "a/+", "#", "a\0b"] {
            assert_eq!(packet(topic).check(true, None), Err(Unsendable::Topic), "{topic:?}");
        }
        assert_eq!(packet(&"x".repeat(65_536)).check(false, None), Err(Unsendable::Topic));
        let mut long = packet("a");
        let value = "v".repeat(65_536);
        long.properties.user = vec![("k", value.as_str().into())];
        assert_eq!(long.check(true, None), Err(Unsendable::Property));
        assert_eq!(long.check(false, None), Ok(()));
    }

    #[test]
    fn numbers_are_written_as_they_are_read() {
        for number in [0, 1, 9, 10, 1_800_000_000_123, u64::MAX] {
            assert_eq!(&*Text::from(number), number.to_string());
        }
    }
}
