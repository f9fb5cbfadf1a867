//! Packets to clients, written into the connection's output buffer.

use std::time::Duration;

use bytes::{BufMut, BytesMut};

use crate::{Message, QoS, Version};

/// Kinds of acknowledgement, with their fixed headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AckKind {
    Ack = 0x40,
    Rec = 0x50,
    Rel = 0x62,
    Comp = 0x70,
}

/// PUBACK, PUBREC, PUBREL, PUBCOMP. The reason code exists on MQTT 5 only, where 0 is left out.
pub(crate) fn ack(out: &mut BytesMut, version: Version, kind: AckKind, packet_id: u16, code: u8) {
    out.put_u8(kind as u8);
    if version == Version::V311 || code == 0 {
        out.put_u8(2);
        out.put_u16(packet_id);
    } else {
        out.put_u8(3);
        out.put_u16(packet_id);
        out.put_u8(code);
    }
}

/// PINGRESP.
pub(crate) fn pingresp(out: &mut BytesMut) {
    out.put_slice(&[0xD0, 0]);
}

/// What a CONNACK of MQTT 5 says beyond its code.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConnackDetails<'a> {
    pub session_expiry: Option<u32>,
    pub receive_maximum: Option<u16>,
    pub maximum_packet: Option<u32>,
    pub assigned_client_id: Option<&'a str>,
    pub topic_alias_maximum: Option<u16>,
    pub server_keep_alive: Option<u16>,
    pub reason: Option<&'a str>,
}

/// CONNACK; `code` is the one of MQTT 5. 3.1.1 gets its nearest equivalent, and nothing at all where there is none:
/// such a connection is closed without a CONNACK [MQTT-3.2.2-6]. The reason string is left out when the packet would
/// be larger than `limit` with it [MQTT-3.2.2-19].
pub(crate) fn connack(
    out: &mut BytesMut,
    version: Version,
    present: bool,
    code: u8,
    details: &ConnackDetails<'_>,
    limit: usize,
) {
    if version == Version::V311 {
        if let Some(code) = connack_code_v311(code) {
            out.put_slice(&[0x20, 2, u8::from(present), code]);
        }
        return;
    }
    let mut properties = BytesMut::new();
    if let Some(seconds) = details.session_expiry {
        properties.put_u8(0x11);
        properties.put_u32(seconds);
    }
    if let Some(maximum) = details.receive_maximum {
        properties.put_u8(0x21);
        properties.put_u16(maximum);
    }
    if let Some(maximum) = details.maximum_packet {
        properties.put_u8(0x27);
        properties.put_u32(maximum);
    }
    if let Some(id) = details.assigned_client_id {
        properties.put_u8(0x12);
        put_text(&mut properties, id);
    }
    if let Some(maximum) = details.topic_alias_maximum {
        properties.put_u8(0x22);
        properties.put_u16(maximum);
    }
    if let Some(seconds) = details.server_keep_alive {
        properties.put_u8(0x13);
        properties.put_u16(seconds);
    }
    let size = |properties: usize| {
        let body = 2 + length_of_length(properties) + properties;
        1 + length_of_length(body) + body
    };
    if let Some(reason) = details.reason.filter(|reason| size(properties.len() + 3 + reason.len()) <= limit) {
        properties.put_u8(0x1F);
        put_text(&mut properties, reason);
    }
    out.put_u8(0x20);
    put_length(out, 2 + length_of_length(properties.len()) + properties.len());
    out.put_slice(&[u8::from(present), code]);
    put_length(out, properties.len());
    out.put_slice(&properties);
}

/// The return code of 3.1.1 that comes nearest ([MQTT 3.1.1, table 3.1]). What is wrong with the packet itself has
/// none [MQTT-3.1.4-1].
fn connack_code_v311(code: u8) -> Option<u8> {
    match code {
        0 => Some(0),
        0x84 => Some(1),
        0x85 => Some(2),
        0x83 | 0x88 | 0x89 | 0x97 | 0x9F => Some(3),
        0x86 => Some(4),
        0x87 | 0x8A | 0x8C => Some(5),
        _ => None,
    }
}

/// Size of a SUBACK or UNSUBACK of MQTT 5 for so many filters.
pub(crate) fn answers_size(filters: usize) -> usize {
    let body = 3 + filters;
    1 + length_of_length(body) + body
}

/// SUBACK. Codes are those of MQTT 5; 3.1.1 knows 0x80 alone for every refusal.
pub(crate) fn suback(out: &mut BytesMut, version: Version, packet_id: u16, codes: &[u8]) {
    match version {
        Version::V311 => {
            out.put_u8(0x90);
            put_length(out, 2 + codes.len());
            out.put_u16(packet_id);
            out.extend(codes.iter().map(|code| if *code >= 0x80 { 0x80 } else { *code }));
        }
        Version::V5 => {
            out.put_u8(0x90);
            put_length(out, 3 + codes.len());
            out.put_u16(packet_id);
            out.put_u8(0);
            out.put_slice(codes);
        }
    }
}

/// UNSUBACK; 3.1.1 has no codes.
pub(crate) fn unsuback(out: &mut BytesMut, version: Version, packet_id: u16, codes: &[u8]) {
    out.put_u8(0xB0);
    match version {
        Version::V311 => {
            out.put_u8(2);
            out.put_u16(packet_id);
        }
        Version::V5 => {
            put_length(out, 3 + codes.len());
            out.put_u16(packet_id);
            out.put_u8(0);
            out.put_slice(codes);
        }
    }
}

/// DISCONNECT of MQTT 5; 3.1.1 servers have none and just close. The reason is left out when the packet would be
/// larger than `limit` with it [MQTT-3.14.2-3].
pub(crate) fn disconnect(out: &mut BytesMut, code: u8, reason: Option<&str>, limit: usize) {
    out.put_u8(0xE0);
    // Reasons are words: no length here takes a second byte.
    if let Some(reason) = reason.filter(|reason| reason.len() < 100 && 7 + reason.len() <= limit) {
        let properties = 3 + reason.len();
        put_length(out, 2 + properties);
        out.put_u8(code);
        put_length(out, properties);
        out.put_u8(0x1F);
        put_text(out, reason);
    } else {
        out.put_u8(1);
        out.put_u8(code);
    }
}

/// How one receiver gets a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Delivery<'a> {
    pub dup: bool,
    pub qos: QoS,
    pub retain: bool,
    pub packet_id: u16,
    pub identifiers: &'a [u32],
    /// What is left of the message's expiry.
    pub expiry: Option<Duration>,
    /// MQTT 5 only.
    pub alias: Alias,
}

/// What stands for the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alias {
    /// Its name alone.
    None,
    /// Its name, and a number that stands for it from now on.
    Set(u16),
    /// The number alone.
    Known(u16),
}

/// PUBLISH. Returns its size, and writes nothing when that is beyond `limit`.
pub(crate) fn publish(
    out: &mut BytesMut,
    version: Version,
    message: &Message,
    delivery: Delivery<'_>,
    limit: usize,
) -> Result<usize, usize> {
    let id_length = if delivery.qos == QoS::AtMostOnce { 0 } else { 2 };
    let properties = if version == Version::V5 { properties_length(message, delivery) } else { 0 };
    let properties_field = if version == Version::V5 { length_of_length(properties) + properties } else { 0 };
    let topic = if matches!(delivery.alias, Alias::Known(_)) { "" } else { &*message.topic };
    let body = 2 + topic.len() + id_length + properties_field + message.payload.len();
    let size = 1 + length_of_length(body) + body;
    if size > limit {
        return Err(size);
    }
    out.reserve(size);
    let flags = u8::from(delivery.dup) << 3 | delivery.qos.number() << 1 | u8::from(delivery.retain);
    out.put_u8(0x30 | flags);
    put_length(out, body);
    put_text(out, topic);
    if id_length > 0 {
        out.put_u16(delivery.packet_id);
    }
    if version == Version::V5 {
        put_length(out, properties);
        put_properties(out, message, delivery);
    }
    out.put_slice(&message.payload);
    Ok(size)
}

fn properties_length(message: &Message, delivery: Delivery<'_>) -> usize {
    let identifiers: usize = delivery.identifiers.iter().map(|id| 1 + length_of_length(as_usize(*id))).sum();
    let own = identifiers + if delivery.alias == Alias::None { 0 } else { 3 };
    let Some(properties) = &message.properties else { return own };
    own + properties.utf8_payload.map_or(0, |_| 2)
        + delivery.expiry.map_or(0, |_| 5)
        + properties.content_type.as_ref().map_or(0, |text| 3 + text.len())
        + properties.response_topic.as_ref().map_or(0, |text| 3 + text.len())
        + properties.correlation_data.as_ref().map_or(0, |data| 3 + data.len())
        + properties.user.iter().map(|(name, value)| 5 + name.len() + value.len()).sum::<usize>()
}

fn put_properties(out: &mut BytesMut, message: &Message, delivery: Delivery<'_>) {
    for identifier in delivery.identifiers {
        out.put_u8(0x0B);
        put_length(out, as_usize(*identifier));
    }
    if let Alias::Set(alias) | Alias::Known(alias) = delivery.alias {
        out.put_u8(0x23);
        out.put_u16(alias);
    }
    let Some(properties) = &message.properties else { return };
    if let Some(utf8) = properties.utf8_payload {
        out.put_slice(&[0x01, u8::from(utf8)]);
    }
    if let Some(expiry) = delivery.expiry {
        out.put_u8(0x02);
        // Rounded up: a second that has only begun is still left, and a message on its way never says 0.
        out.put_u32(u32::try_from(expiry.as_millis().div_ceil(1000)).unwrap_or(u32::MAX));
    }
    if let Some(content_type) = &properties.content_type {
        out.put_u8(0x03);
        put_text(out, content_type);
    }
    if let Some(topic) = &properties.response_topic {
        out.put_u8(0x08);
        put_text(out, topic);
    }
    if let Some(data) = &properties.correlation_data {
        out.put_u8(0x09);
        put_bytes(out, data);
    }
    for (name, value) in &properties.user {
        out.put_u8(0x26);
        put_text(out, name);
        put_text(out, value);
    }
}

fn as_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// A UTF-8 string with its length, as [`put_bytes`].
pub fn put_text(out: &mut BytesMut, text: &str) {
    put_bytes(out, text.as_bytes());
}

/// Length and bytes. Nothing longer than 65,535 bytes gets into a message; were it so, it would be cut, never
/// written with a wrong length.
pub fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.put_u16(length);
    out.put_slice(bytes.get(..usize::from(length)).unwrap_or(bytes));
}

/// Bytes of a variable byte integer.
pub fn length_of_length(length: usize) -> usize {
    match length {
        0..128 => 1,
        128..16_384 => 2,
        16_384..2_097_152 => 3,
        _ => 4,
    }
}

/// Variable byte integer.
pub fn put_length(out: &mut BytesMut, mut length: usize) {
    loop {
        let low = u8::try_from(length & 0x7F).unwrap_or(0);
        length >>= 7;
        if length == 0 {
            out.put_u8(low);
            return;
        }
        out.put_u8(low | 0x80);
    }
}
