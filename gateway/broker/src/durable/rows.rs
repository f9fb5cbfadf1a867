//! Keys and values of the rows of sessions: versioned, length-prefixed layouts of our own.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use fieldgate_types::UnixMillis;

use crate::session::{Queued, SubscriptionOptions};
use crate::stored::{self, put, take};
use crate::{Change, Identity, Message, QoS, Role, Table};

const LAYOUT: u8 = 1;

/// What a row's key says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    Session(u64),
    Subscription(u64, Arc<str>),
    Message(u64),
    Place(u64, u64),
    Received(u64, u16),
}

/// A session as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    pub client_id: Arc<str>,
    pub who: Arc<Identity>,
    /// From the end of the connection on.
    pub expiry: Duration,
    /// Set while nobody is connected: since when, and the first place that was never sent.
    pub parked: Option<(UnixMillis, u64)>,
    pub will: Option<StoredWill>,
}

/// A will that is to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredWill {
    /// From the end of the connection on.
    pub delay: Duration,
    pub message: Message,
}

/// A message waiting in a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub message: u64,
    pub qos: QoS,
    pub retain: bool,
    /// Its PUBREC came.
    pub released: bool,
    pub identifiers: Option<Arc<[u32]>>,
}

fn change(key: BytesMut, value: Option<Bytes>) -> Change {
    Change { table: Table::Sessions, key: key.freeze(), value }
}

fn key(tag: u8, number: u64, more: &[u8]) -> BytesMut {
    let mut key = BytesMut::with_capacity(9 + more.len());
    key.put_u8(tag);
    key.put_u64(number);
    key.put_slice(more);
    key
}

pub(super) fn session(session: u64, meta: Option<&Meta>) -> Change {
    change(key(b's', session, &[]), meta.map(write_meta))
}

pub(super) fn subscription(session: u64, filter: &str, options: Option<&SubscriptionOptions>) -> Change {
    let value = options.map(|options| {
        let mut out = BytesMut::new();
        out.put_u8(LAYOUT);
        out.put_u8(options.qos.number());
        out.put_u8(u8::from(options.no_local) | u8::from(options.retain_as_published) << 1);
        out.put_u32(options.identifier.unwrap_or(0));
        out.freeze()
    });
    change(key(b'f', session, filter.as_bytes()), value)
}

pub(super) fn message(id: u64, message: &Message) -> Change {
    let mut out = BytesMut::new();
    put(&mut out, Some(message.topic.as_bytes()));
    out.put_u8(u8::from(message.retain));
    out.put_slice(&stored::write(message, ""));
    change(key(b'm', id, &[]), Some(out.freeze()))
}

pub(super) fn message_gone(id: u64) -> Change {
    change(key(b'm', id, &[]), None)
}

pub(super) fn place(session: u64, queued: &Queued, message: u64, released: bool) -> Change {
    let mut out = BytesMut::new();
    out.put_u8(LAYOUT);
    out.put_u64(message);
    out.put_u8(queued.qos.number() | u8::from(queued.retain) << 2 | u8::from(released) << 3);
    for identifier in queued.identifiers.as_deref().unwrap_or_default() {
        out.put_u32(*identifier);
    }
    change(key(b'q', session, &queued.seq.to_be_bytes()), Some(out.freeze()))
}

pub(super) fn place_gone(session: u64, seq: u64) -> Change {
    change(key(b'q', session, &seq.to_be_bytes()), None)
}

pub(super) fn received(session: u64, packet_id: u16, there: bool) -> Change {
    change(key(b'r', session, &packet_id.to_be_bytes()), there.then(|| Bytes::from_static(&[LAYOUT])))
}

/// `None`: not a key of ours.
pub(super) fn read_key(mut key: &[u8]) -> Option<Key> {
    let tag = key.try_get_u8().ok()?;
    let number = key.try_get_u64().ok()?;
    let key = match tag {
        b's' if key.is_empty() => Key::Session(number),
        b'f' => {
            let filter = std::str::from_utf8(key).ok()?;
            crate::topic::check_filter(filter).ok()?;
            Key::Subscription(number, filter.into())
        }
        b'm' if key.is_empty() => Key::Message(number),
        b'q' => Key::Place(number, u64::from_be_bytes(key.try_into().ok()?)),
        b'r' => Key::Received(number, u16::from_be_bytes(key.try_into().ok()?)),
        _ => return None,
    };
    Some(key)
}

pub(super) fn read_options(mut value: &[u8]) -> Option<SubscriptionOptions> {
    if value.try_get_u8().ok()? != LAYOUT {
        return None;
    }
    let qos = QoS::from_number(value.try_get_u8().ok()?)?;
    let flags = value.try_get_u8().ok()?;
    let identifier = Some(value.try_get_u32().ok()?).filter(|identifier| *identifier != 0);
    Some(SubscriptionOptions { qos, no_local: flags & 1 != 0, retain_as_published: flags & 2 != 0, identifier })
}

pub(super) fn read_message(mut value: Bytes) -> Option<Message> {
    let topic = take(&mut value)??;
    let retain = value.try_get_u8().ok()? == 1;
    let (message, _) = stored::read(&topic, value)?;
    Some(Message { retain, ..message })
}

pub(super) fn read_place(mut value: &[u8]) -> Option<Place> {
    if value.try_get_u8().ok()? != LAYOUT {
        return None;
    }
    let message = value.try_get_u64().ok()?;
    let flags = value.try_get_u8().ok()?;
    let mut identifiers = Vec::new();
    while !value.is_empty() {
        identifiers.push(value.try_get_u32().ok()?);
    }
    Some(Place {
        message,
        qos: QoS::from_number(flags & 3)?,
        retain: flags & 4 != 0,
        released: flags & 8 != 0,
        identifiers: (!identifiers.is_empty()).then(|| identifiers.into()),
    })
}

const WITHOUT_END: u64 = u64::MAX;

fn write_meta(meta: &Meta) -> Bytes {
    let Meta { client_id, who, expiry, parked, will } = meta;
    let mut out = BytesMut::new();
    out.put_u8(LAYOUT);
    put(&mut out, Some(client_id.as_bytes()));
    put(&mut out, Some(who.id.as_bytes()));
    out.put_u8(match who.role {
        Role::Device => 0,
        Role::App => 1,
        Role::Gateway => 2,
    });
    put(&mut out, who.fingerprint.as_ref().map(String::as_bytes));
    out.put_u64(who.not_after.map_or(WITHOUT_END, |end| end.0));
    out.put_u64(expiry.as_secs());
    let (since, unsent) = parked.map_or((WITHOUT_END, 0), |(since, unsent)| (since.0, unsent));
    out.put_u64(since);
    out.put_u64(unsent);
    if let Some(StoredWill { delay, message }) = will {
        out.put_u8(1);
        out.put_u64(delay.as_secs());
        put(&mut out, Some(message.topic.as_bytes()));
        out.put_u8(u8::from(message.retain));
        out.put_slice(&stored::write(message, ""));
    } else {
        out.put_u8(0);
    }
    out.freeze()
}

pub(super) fn read_meta(mut value: Bytes) -> Option<Meta> {
    if value.try_get_u8().ok()? != LAYOUT {
        return None;
    }
    let client_id = stored::text(take(&mut value)??)?;
    let id = stored::text(take(&mut value)??)?;
    let role = match value.try_get_u8().ok()? {
        0 => Role::Device,
        1 => Role::App,
        2 => Role::Gateway,
        _ => return None,
    };
    let fingerprint = stored::optional_text(take(&mut value)?)?.map(|text| text.to_string());
    let not_after = Some(value.try_get_u64().ok()?).filter(|end| *end != WITHOUT_END).map(UnixMillis);
    let expiry = Duration::from_secs(value.try_get_u64().ok()?);
    let since = value.try_get_u64().ok()?;
    let unsent = value.try_get_u64().ok()?;
    let parked = (since != WITHOUT_END).then_some((UnixMillis(since), unsent));
    let will = match value.try_get_u8().ok()? {
        0 => None,
        1 => {
            let delay = Duration::from_secs(value.try_get_u64().ok()?);
            Some(StoredWill { delay, message: read_message(value)? })
        }
        _ => return None,
    };
    let who = Arc::new(Identity { id, role, fingerprint, not_after });
    Some(Meta { client_id, who, expiry, parked, will })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Properties;
    use crate::budget::Budget;
    use crate::session::Routed;

    fn meta(will: bool) -> Meta {
        let properties = Properties { content_type: Some("text".into()), ..Properties::default() };
        let message = Message::new("a/b", "gone", UnixMillis(5)).retained().with_properties(properties);
        Meta {
            client_id: "hmi/1".into(),
            who: Arc::new(Identity {
                id: "hmi".into(),
                role: Role::App,
                fingerprint: Some("00ff".to_owned()),
                not_after: Some(UnixMillis(9)),
            }),
            expiry: Duration::from_secs(60),
            parked: Some((UnixMillis(7), 3)),
            will: will.then(|| StoredWill { delay: Duration::from_secs(5), message }),
        }
    }

    #[test]
    fn rows_come_back_as_they_were_written() {
        for will in [false, true] {
            let row = session(7, Some(&meta(will)));
            assert_eq!(read_key(&row.key), Some(Key::Session(7)));
            assert_eq!(read_meta(row.value.unwrap()), Some(meta(will)));
        }
        let options = SubscriptionOptions {
            qos: QoS::ExactlyOnce,
            no_local: true,
            retain_as_published: false,
            identifier: Some(9),
        };
        let row = subscription(7, "$share/g/a/+", Some(&options));
        assert_eq!(read_key(&row.key), Some(Key::Subscription(7, "$share/g/a/+".into())));
        assert_eq!(read_options(&row.value.unwrap()), Some(options));
        let sent = Message::new("a", "x", UnixMillis(1)).with_qos(QoS::AtLeastOnce);
        for sent in [sent.clone(), sent.retained()] {
            let row = message(3, &sent);
            assert_eq!(read_key(&row.key), Some(Key::Message(3)));
            assert_eq!(read_message(row.value.unwrap()), Some(sent.clone()));
            let identifiers = Some(Arc::from([1, 268_435_455]));
            let routed = Arc::new(Routed::new(sent, Duration::ZERO, &Arc::new(Budget::new(1))));
            let queued = Queued {
                routed,
                qos: QoS::AtLeastOnce,
                retain: true,
                identifiers: identifiers.clone(),
                seq: 8,
                kept: None,
            };
            let row = place(7, &queued, 3, true);
            assert_eq!(read_key(&row.key), Some(Key::Place(7, 8)));
            let wanted = Place { message: 3, qos: QoS::AtLeastOnce, retain: true, released: true, identifiers };
            assert_eq!(read_place(&row.value.unwrap()), Some(wanted));
        }
        assert_eq!(read_key(&received(7, 9, true).key), Some(Key::Received(7, 9)));
    }

    proptest! {
        #[test]
        fn reading_rubbish_gives_nothing_or_a_row(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let with_layout: Vec<u8> = [LAYOUT].into_iter().chain(bytes.iter().copied()).collect();
            let _ = (read_key(&bytes), read_options(&with_layout), read_place(&with_layout));
            let _ = (read_meta(with_layout.into()), read_message(bytes.into()));
        }
    }
}
