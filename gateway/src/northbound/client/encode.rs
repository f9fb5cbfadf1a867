//! Packets to the upstream, written into an output buffer.

use bytes::{BufMut, BytesMut};
use fieldgate_broker::codec::{length_of_length, put_bytes, put_length, put_text};

use super::{COMMAND_OVERHEAD, Hello, MAX_COMMAND, RECEIVE_MAXIMUM, Receipt, SESSION_EXPIRY, Wanted};
use crate::northbound::Protocol;
use crate::northbound::packet::{Packet, Properties};

/// PINGREQ.
pub(super) const PINGREQ: [u8; 2] = [0xC0, 0];
/// DISCONNECT without a reason: normal disconnection, in both versions.
pub(super) const DISCONNECT: [u8; 2] = [0xE0, 0];

/// The largest packet that may come, header included.
pub(super) fn largest_incoming() -> usize {
    MAX_COMMAND + COMMAND_OVERHEAD
}

/// CONNECT, with a will and a session that the upstream keeps.
pub(super) fn connect(out: &mut BytesMut, hello: &Hello<'_>) {
    let v5 = hello.protocol == Protocol::V5;
    let mut body = BytesMut::with_capacity(256);
    put_text(&mut body, "MQTT");
    body.put_u8(if v5 { 5 } else { 4 });
    // Will at QoS 1; no clean start.
    let will = &hello.will;
    let mut flags = 0x04 | 0x08 | u8::from(will.retain) << 5;
    if hello.login.is_some() {
        flags |= 0xC0;
    }
    body.put_u8(flags);
    body.put_u16(u16::try_from(hello.keep_alive.as_secs()).unwrap_or(u16::MAX));
    if v5 {
        body.put_u8(5 + 3 + 5);
        body.put_u8(0x11);
        body.put_u32(SESSION_EXPIRY);
        body.put_u8(0x21);
        body.put_u16(RECEIVE_MAXIMUM);
        body.put_u8(0x27);
        body.put_u32(u32::try_from(largest_incoming()).unwrap_or(u32::MAX));
    }
    put_text(&mut body, &hello.who.client_id);
    if v5 {
        put_length(&mut body, will.properties.length());
        put_properties(&mut body, &will.properties);
    }
    put_text(&mut body, &will.topic());
    put_bytes(&mut body, &will.payload);
    if let Some((user, password)) = &hello.login {
        put_text(&mut body, user);
        put_bytes(&mut body, password);
    }
    out.put_u8(0x10);
    put_length(out, body.len());
    out.put_slice(&body);
}

/// PUBLISH at QoS 1. [`Packet::check`] has said that it fits.
pub(super) fn publish(out: &mut BytesMut, protocol: Protocol, packet: &Packet<'_>, packet_id: u16) {
    let v5 = protocol == Protocol::V5;
    let body = packet.remaining_length(v5);
    out.reserve(1 + length_of_length(body) + body);
    out.put_u8(0x32 | u8::from(packet.retain));
    put_length(out, body);
    let [prefix, rest] = packet.topic;
    out.put_u16(u16::try_from(prefix.len() + rest.len()).unwrap_or(u16::MAX));
    out.put_slice(prefix.as_bytes());
    out.put_slice(rest.as_bytes());
    out.put_u16(packet_id);
    if v5 {
        put_length(out, packet.properties.length());
        put_properties(out, &packet.properties);
    }
    out.put_slice(&packet.payload);
}

fn put_properties(out: &mut BytesMut, properties: &Properties<'_>) {
    if properties.utf8 {
        out.put_slice(&[0x01, 1]);
    }
    if let Some(seconds) = properties.expiry {
        out.put_u8(0x02);
        out.put_u32(seconds);
    }
    if let Some(content_type) = properties.content_type {
        out.put_u8(0x03);
        put_text(out, content_type);
    }
    if let Some(data) = properties.correlation {
        out.put_u8(0x09);
        put_bytes(out, data);
    }
    for (name, value) in &properties.user {
        out.put_u8(0x26);
        put_text(out, name);
        put_text(out, value);
    }
}

/// SUBSCRIBE with one filter.
pub(super) fn subscribe(out: &mut BytesMut, protocol: Protocol, wanted: &Wanted, packet_id: u16) {
    let v5 = protocol == Protocol::V5;
    out.put_u8(0x82);
    put_length(out, 2 + usize::from(v5) + 2 + wanted.filter.len() + 1);
    out.put_u16(packet_id);
    if v5 {
        out.put_u8(0);
    }
    put_text(out, &wanted.filter);
    // QoS 1. No Local: our results, and what we forward, lie below the filters. Retain as published where retained
    // messages are wanted, none of them where not.
    out.put_u8(match (v5, wanted.retained) {
        (false, _) => 0x01,
        (true, true) => 0x01 | 0x04 | 0x08,
        (true, false) => 0x01 | 0x04 | 0x20,
    });
}

/// PUBACK, or PUBREC at QoS 2.
pub(super) fn receipt(out: &mut BytesMut, receipt: Receipt) {
    out.put_slice(&[if receipt.exactly_once { 0x50 } else { 0x40 }, 2]);
    out.put_u16(receipt.packet_id);
}

/// PUBCOMP.
pub(super) fn pubcomp(out: &mut BytesMut, packet_id: u16) {
    out.put_slice(&[0x70, 2]);
    out.put_u16(packet_id);
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::time::Duration;

    use bytes::Bytes;
    use mqtt_protocol_core::mqtt::packet::{Property, Qos, RetainHandling, v3_1_1, v5_0};

    use super::*;
    use crate::northbound::failure::Who;

    const LONG: &str = match std::str::from_utf8(&[b'v'; 200]) {
        Ok(text) => text,
        Err(_) => "",
    };

    fn message(retain: bool) -> Packet<'static> {
        Packet {
            topic: ["fieldgate/line-4/", "state"],
            payload: Cow::Borrowed(b"{}"),
            retain,
            properties: Properties {
                utf8: true,
                expiry: Some(7),
                content_type: Some("application/json"),
                correlation: Some(b"xyz"),
                user: vec![("a", "1".into()), ("k", LONG.into())],
            },
        }
    }

    fn hello(protocol: Protocol, login: bool) -> Hello<'static> {
        let mut will = message(true);
        will.properties = Properties { utf8: true, content_type: Some("text/plain"), ..Properties::default() };
        Hello {
            protocol,
            host: "cloud".to_owned(),
            who: Who { client_id: "line-4".to_owned(), login: None, certificate: None },
            login: login.then(|| ("gw".to_owned(), Bytes::from_static(b"secret"))),
            keep_alive: Duration::from_secs(30),
            will,
        }
    }

    /// The body of the one packet in `out`, and its first byte.
    fn body(out: &BytesMut) -> (u8, &[u8]) {
        let frame = fieldgate_broker::codec::frame(out, usize::MAX).unwrap().unwrap();
        assert_eq!(frame.len(), out.len());
        (frame.first, frame.body_of(out))
    }

    #[test]
    fn another_parser_reads_our_connects() {
        for login in [true, false] {
            let mut out = BytesMut::new();
            connect(&mut out, &hello(Protocol::V5, login));
            let (first, bytes) = body(&out);
            let (packet, used) = v5_0::Connect::parse(bytes).unwrap();
            assert_eq!((first, used), (0x10, bytes.len()));
            assert_eq!((packet.client_id(), packet.clean_start(), packet.keep_alive()), ("line-4", false, 30));
            assert_eq!((packet.will_topic(), packet.will_retain()), (Some("fieldgate/line-4/state"), true));
            assert_eq!((packet.will_qos(), packet.will_payload()), (Qos::AtLeastOnce, Some(&b"{}"[..])));
            assert_eq!(
                (packet.user_name(), packet.password()),
                (login.then_some("gw"), login.then_some(&b"secret"[..]))
            );
            assert_eq!((packet.props().len(), packet.will_props().len()), (3, 2));
            let limit = packet.props().iter().find_map(|p| match p {
                Property::MaximumPacketSize(p) => Some(p.val()),
                _ => None,
            });
            assert_eq!(limit, Some(320 * 1024));
            let mut out = BytesMut::new();
            connect(&mut out, &hello(Protocol::V311, login));
            let (_, bytes) = body(&out);
            let (packet, used) = v3_1_1::Connect::parse(bytes).unwrap();
            assert_eq!((packet.client_id(), packet.clean_session(), used), ("line-4", false, bytes.len()));
            assert_eq!(
                (packet.will_topic(), packet.password()),
                (Some("fieldgate/line-4/state"), login.then_some(&b"secret"[..]))
            );
        }
    }

    #[test]
    fn another_parser_reads_our_messages_and_their_size_is_the_one_that_is_checked() {
        for retain in [true, false] {
            let packet = message(retain);
            let mut out = BytesMut::new();
            publish(&mut out, Protocol::V5, &packet, 77);
            let size = u32::try_from(out.len()).unwrap();
            assert_eq!(packet.check(true, Some(size)), Ok(()));
            assert!(packet.check(true, Some(size - 1)).is_err());
            let (first, bytes) = body(&out);
            let (read, _) = v5_0::Publish::parse(first & 0x0F, bytes.into()).unwrap();
            assert_eq!(
                (read.topic_name(), read.packet_id(), read.qos()),
                ("fieldgate/line-4/state", Some(77), Qos::AtLeastOnce)
            );
            assert_eq!((read.retain(), read.dup(), read.payload().as_slice()), (retain, false, &b"{}"[..]));
            assert_eq!(read.props().len(), 6);
            let mut out = BytesMut::new();
            publish(&mut out, Protocol::V311, &packet, 78);
            assert_eq!(packet.check(false, Some(u32::try_from(out.len()).unwrap())), Ok(()));
            assert!(packet.check(false, Some(u32::try_from(out.len()).unwrap() - 1)).is_err());
            let (first, bytes) = body(&out);
            let (read, _) = v3_1_1::Publish::parse(first & 0x0F, bytes.into()).unwrap();
            assert_eq!(
                (read.topic_name(), read.packet_id(), read.payload().as_slice()),
                ("fieldgate/line-4/state", Some(78), &b"{}"[..])
            );
        }
    }

    #[test]
    fn another_parser_reads_our_subscriptions() {
        for (retained, handling) in [(true, RetainHandling::SendRetained), (false, RetainHandling::DoNotSendRetained)] {
            let wanted = Wanted { filter: "a/+/b/#".to_owned(), retained };
            let mut out = BytesMut::new();
            subscribe(&mut out, Protocol::V5, &wanted, 5);
            let (first, bytes) = body(&out);
            let (packet, used) = v5_0::Subscribe::parse(bytes).unwrap();
            assert_eq!((first, used, packet.packet_id()), (0x82, bytes.len(), 5));
            let options = packet.entries()[0].sub_opts();
            assert_eq!((packet.entries()[0].topic_filter(), options.qos()), ("a/+/b/#", Qos::AtLeastOnce));
            assert_eq!((options.nl(), options.rap(), options.rh()), (true, retained, handling));
            let mut out = BytesMut::new();
            subscribe(&mut out, Protocol::V311, &wanted, 6);
            let (_, bytes) = body(&out);
            let (packet, used) = v3_1_1::Subscribe::parse(bytes).unwrap();
            assert_eq!((used, packet.packet_id(), packet.entries()[0].sub_opts().to_buffer()), (bytes.len(), 6, &[1]));
        }
    }
}
