//! A message as it goes on the wire, in both versions of MQTT, and whether it can go there at all.

use bytes::Bytes;
use thiserror::Error;

/// A PUBLISH at QoS 1 without its packet id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packet {
    /// Full topic.
    pub topic: String,
    /// Payload.
    pub payload: Bytes,
    /// RETAIN.
    pub retain: bool,
    /// MQTT 5 properties; ignored by 3.1.1.
    pub properties: Properties,
}

/// The MQTT 5 properties in use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Properties {
    /// Payload format indicator: UTF-8.
    pub utf8: bool,
    /// Message expiry interval in seconds.
    pub expiry: Option<u32>,
    /// Content type.
    pub content_type: Option<String>,
    /// Correlation data.
    pub correlation: Option<Bytes>,
    /// User properties in order.
    pub user: Vec<(String, String)>,
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
    u16::try_from(value.len()).is_ok() && !value.contains('\0')
}

/// Bytes of a variable byte integer.
fn varint(value: usize) -> usize {
    match value {
        0..=0x7f => 1,
        0x80..=0x3fff => 2,
        0x4000..=0x1f_ffff => 3,
        _ => 4,
    }
}

impl Packet {
    /// Whether it fits the protocol and `maximum`, the upstream's Maximum Packet Size. Asked before publishing: the
    /// library ends the connection on each of these, and the same message would end the next one too.
    pub fn check(&self, v5: bool, maximum: Option<u32>) -> Result<(), Unsendable> {
        if self.topic.is_empty() || !text(&self.topic) || self.topic.contains(['+', '#']) {
            return Err(Unsendable::Topic);
        }
        let p = &self.properties;
        let fits = |length: usize| u16::try_from(length).is_ok();
        let valid = p.content_type.as_deref().is_none_or(text)
            && p.correlation.as_ref().is_none_or(|data| fits(data.len()))
            && p.user.iter().all(|(key, value)| text(key) && text(value));
        if v5 && !valid {
            return Err(Unsendable::Property);
        }
        let remaining = self.remaining_length(v5);
        let size = 1 + varint(remaining) + remaining;
        let limit = maximum.and_then(|maximum| usize::try_from(maximum).ok());
        if remaining > MAX_REMAINING || limit.is_some_and(|limit| size > limit) {
            return Err(Unsendable::Size);
        }
        Ok(())
    }

    fn remaining_length(&self, v5: bool) -> usize {
        // Topic with its length, packet id, payload.
        let base = 2 + self.topic.len() + 2 + self.payload.len();
        if !v5 {
            return base;
        }
        let p = &self.properties;
        let user: usize = p.user.iter().map(|(key, value)| 5 + key.len() + value.len()).sum();
        let properties = usize::from(p.utf8) * 2
            + p.expiry.map_or(0, |_| 5)
            + p.content_type.as_ref().map_or(0, |text| 3 + text.len())
            + p.correlation.as_ref().map_or(0, |data| 3 + data.len())
            + user;
        base + varint(properties) + properties
    }

    /// Bytes it keeps in memory while it is on the wire, about.
    pub fn weight(&self) -> usize {
        self.remaining_length(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(topic: &str) -> Packet {
        Packet {
            topic: topic.to_owned(),
            payload: Bytes::from(vec![7; 100]),
            retain: false,
            properties: Properties::default(),
        }
    }

    #[test]
    fn counts_the_bytes_that_the_library_will_write() {
        let mut ours = packet("a/b");
        ours.properties = Properties {
            utf8: true,
            expiry: Some(5),
            content_type: Some("text/plain".to_owned()),
            correlation: Some(Bytes::from_static(b"xyz")),
            user: vec![("k".repeat(100), "v".repeat(30))],
        };
        let properties = rumqttc::PublishProperties {
            payload_format_indicator: Some(1),
            message_expiry_interval: Some(5),
            content_type: Some("text/plain".to_owned()),
            correlation_data: Some(Bytes::from_static(b"xyz")),
            user_properties: ours.properties.user.clone(),
            ..Default::default()
        };
        let mut theirs =
            rumqttc::Publish::new("a/b", rumqttc::QoS::AtLeastOnce, ours.payload.clone(), Some(properties));
        theirs.pkid = 9;
        let size = u32::try_from(theirs.size()).unwrap();
        assert_eq!(ours.check(true, Some(size)), Ok(()));
        assert_eq!(ours.check(true, Some(size - 1)), Err(Unsendable::Size));
        // 3.1.1 has no properties.
        assert_eq!(ours.check(false, Some(109)), Ok(()));
        assert_eq!(ours.check(false, Some(108)), Err(Unsendable::Size));
    }

    #[test]
    fn refuses_what_no_broker_takes() {
        for topic in ["", "a/+", "#", "a\0b"] {
            assert_eq!(packet(topic).check(true, None), Err(Unsendable::Topic), "{topic:?}");
        }
        assert_eq!(packet(&"x".repeat(65_536)).check(false, None), Err(Unsendable::Topic));
        let mut long = packet("a");
        long.properties.user = vec![("k".to_owned(), "v".repeat(65_536))];
        assert_eq!(long.check(true, None), Err(Unsendable::Property));
        assert_eq!(long.check(false, None), Ok(()));
    }
}
