//! A message as a row, of the retained ones or of a session's: a versioned, length-prefixed layout of our own. Rows
//! from a newer or damaged store are refused, not guessed at.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use fieldgate_types::UnixMillis;

use crate::{Message, Properties, QoS};

const LAYOUT: u8 = 1;

/// The value of a row: message and owner. The topic is the key.
pub(crate) fn write(message: &Message, owner: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(message.cost() + owner.len());
    out.put_u8(LAYOUT);
    out.put_u8(message.qos.number());
    out.put_u64(message.received.0);
    put(&mut out, Some(owner.as_bytes()));
    let properties = message.properties();
    out.put_u8(match properties.utf8_payload {
        None => 0,
        Some(false) => 1,
        Some(true) => 2,
    });
    out.put_u64(properties.message_expiry.map_or(u64::MAX, |expiry| expiry.as_secs()));
    put(&mut out, properties.content_type.as_ref().map(|text| text.as_bytes()));
    put(&mut out, properties.response_topic.as_ref().map(|text| text.as_bytes()));
    put(&mut out, properties.correlation_data.as_deref());
    out.put_u32(u32::try_from(properties.user.len()).unwrap_or(u32::MAX));
    for (name, value) in &properties.user {
        put(&mut out, Some(name.as_bytes()));
        put(&mut out, Some(value.as_bytes()));
    }
    out.put_slice(&message.payload);
    out.freeze()
}

/// Message and owner of a row; `None` when it is not one.
pub(crate) fn read(key: &[u8], value: Bytes) -> Option<(Message, Arc<str>)> {
    let topic = std::str::from_utf8(key).ok()?;
    crate::topic::check_name(topic).ok()?;
    let mut value = value;
    if value.try_get_u8().ok()? != LAYOUT {
        return None;
    }
    let qos = QoS::from_number(value.try_get_u8().ok()?)?;
    let received = UnixMillis(value.try_get_u64().ok()?);
    let owner = text(take(&mut value)??)?;
    let utf8_payload = match value.try_get_u8().ok()? {
        0 => None,
        1 => Some(false),
        2 => Some(true),
        _ => return None,
    };
    let message_expiry = match value.try_get_u64().ok()? {
        u64::MAX => None,
        seconds => Some(Duration::from_secs(seconds)),
    };
    let content_type = optional_text(take(&mut value)?)?;
    let response_topic = optional_text(take(&mut value)?)?;
    let correlation_data = take(&mut value)?;
    let count = value.try_get_u32().ok()?;
    let mut user = Vec::new();
    for _ in 0..count {
        let name = take(&mut value)??;
        let content = take(&mut value)??;
        user.push((text(name)?.to_string(), text(content)?.to_string()));
    }
    let properties = Properties { utf8_payload, message_expiry, content_type, response_topic, correlation_data, user };
    let message = Message::new(topic, value, received).with_qos(qos).retained().with_properties(properties);
    Some((message, owner))
}

const ABSENT: u32 = u32::MAX;

pub(crate) fn put(out: &mut BytesMut, bytes: Option<&[u8]>) {
    match bytes {
        None => out.put_u32(ABSENT),
        Some(bytes) => {
            out.put_u32(u32::try_from(bytes.len()).unwrap_or(ABSENT));
            out.put_slice(bytes);
        }
    }
}

/// Outer `None`: cut off. Inner: absent.
#[allow(clippy::option_option)] // two different absences, both needed by the caller
pub(crate) fn take(value: &mut Bytes) -> Option<Option<Bytes>> {
    match value.try_get_u32().ok()? {
        ABSENT => Some(None),
        length => {
            let length = usize::try_from(length).ok()?;
            (length <= value.len()).then(|| Some(value.split_to(length)))
        }
    }
}

pub(crate) fn text(bytes: Bytes) -> Option<Arc<str>> {
    std::str::from_utf8(&bytes).ok().map(Arc::from)
}

#[allow(clippy::option_option)] // see `take`
pub(crate) fn optional_text(bytes: Option<Bytes>) -> Option<Option<Arc<str>>> {
    match bytes {
        None => Some(None),
        Some(bytes) => text(bytes).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_row_holds_the_whole_message() {
        let properties = Properties {
            utf8_payload: Some(true),
            message_expiry: Some(Duration::from_secs(60)),
            content_type: Some("text/plain".into()),
            response_topic: None,
            correlation_data: Some(Bytes::from_static(b"\0\x01")),
            user: vec![("a".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())],
        };
        let message = Message::new("a/b", "payload", UnixMillis(7))
            .with_qos(QoS::ExactlyOnce)
            .retained()
            .with_properties(properties);
        let row = write(&message, "press-1");
        assert_eq!(read(b"a/b", row.clone()), Some((message, "press-1".into())));
        for length in 0..40 {
            assert_eq!(read(b"a/b", row.slice(..length)), None, "{length}");
        }
    }

    proptest! {
        #[test]
        fn reading_rubbish_gives_nothing_or_a_message(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut row = vec![LAYOUT, 1];
            row.extend(bytes);
            let _ = read(b"t", row.into());
        }
    }
}
