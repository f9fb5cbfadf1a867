//! Packets from clients, brought to one form for both versions.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mqtt_protocol_core::mqtt::packet::{Property, Qos, RetainHandling, v3_1_1, v5_0};
use mqtt_protocol_core::mqtt::result_code::MqttError;

use super::connect::{connect, session_expiry};
use super::{Connect, Fault, Frame, Reader, text};
use crate::{Properties, QoS, Version, topic};

/// A packet from a client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming<'a> {
    Connect(Box<Connect>),
    Publish(Publish<'a>),
    PubAck(Ack),
    PubRec(Ack),
    PubRel(Ack),
    PubComp(Ack),
    Subscribe(Subscribe),
    Unsubscribe(Unsubscribe),
    PingReq,
    Disconnect(Disconnect),
    Auth,
}

/// PUBLISH. Topic and payload still lie in the read buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Publish<'a> {
    pub dup: bool,
    pub qos: QoS,
    pub retain: bool,
    /// 0 with QoS 0.
    pub packet_id: u16,
    /// Empty only together with an alias.
    pub topic: &'a str,
    pub alias: Option<u16>,
    pub properties: Option<Arc<Properties>>,
    pub payload: &'a [u8],
}

/// PUBACK, PUBREC, PUBREL, PUBCOMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ack {
    pub packet_id: u16,
    pub code: u8,
}

/// SUBSCRIBE.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Subscribe {
    pub packet_id: u16,
    pub identifier: Option<u32>,
    pub filters: Vec<FilterRequest>,
}

/// One filter and its options. MQTT 3.1.1 has QoS alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FilterRequest {
    pub filter: String,
    pub qos: QoS,
    pub no_local: bool,
    pub retain_as_published: bool,
    /// 0 always, 1 when the subscription is new, 2 never.
    pub retain_handling: u8,
}

/// UNSUBSCRIBE.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unsubscribe {
    pub packet_id: u16,
    pub filters: Vec<String>,
}

/// DISCONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disconnect {
    pub code: u8,
    pub session_expiry: Option<Duration>,
}

/// Properties of a message, and those of a PUBLISH that say nothing about the message.
#[derive(Debug, Default)]
pub(super) struct MessageProperties {
    pub properties: Properties,
    pub alias: Option<u16>,
}

/// Parses one whole packet of a connection with the given version (for a CONNECT: any).
pub(crate) fn decode(version: Version, frame: Frame, buffer: &[u8]) -> Result<Incoming<'_>, Fault> {
    let body = frame.body_of(buffer);
    let flags = frame.first & 0x0F;
    let v5 = version == Version::V5;
    if v5 && !frame.minimal() {
        return Err(Fault::Malformed);
    }
    let plain = |expected: u8| if flags == expected { Ok(()) } else { Err(Fault::Malformed) };
    match frame.first >> 4 {
        1 => plain(0).and_then(|()| Ok(Incoming::Connect(Box::new(connect(body)?)))),
        3 => Ok(Incoming::Publish(publish(v5, flags, body)?)),
        4 => plain(0).and_then(|()| Ok(Incoming::PubAck(ack(v5, body, v5_puback)?))),
        5 => plain(0).and_then(|()| Ok(Incoming::PubRec(ack(v5, body, v5_pubrec)?))),
        6 => plain(2).and_then(|()| Ok(Incoming::PubRel(ack(v5, body, v5_pubrel)?))),
        7 => plain(0).and_then(|()| Ok(Incoming::PubComp(ack(v5, body, v5_pubcomp)?))),
        8 => {
            plain(2).and_then(|()| Ok(Incoming::Subscribe(if v5 { subscribe_v5(body) } else { subscribe_v311(body) }?)))
        }
        10 => plain(2).and_then(|()| Ok(Incoming::Unsubscribe(unsubscribe(v5, body)?))),
        12 if body.is_empty() => plain(0).map(|()| Incoming::PingReq),
        14 => plain(0).and_then(|()| Ok(Incoming::Disconnect(disconnect(v5, body)?))),
        15 if v5 => {
            plain(0)?;
            let (packet, used) = v5_0::Auth::parse(body).map_err(fault)?;
            texts(packet.props().iter().flatten())?;
            if used == body.len() { Ok(Incoming::Auth) } else { Err(Fault::Malformed) }
        }
        // What only servers send.
        2 | 9 | 11 | 13 => Err(Fault::Protocol),
        _ => Err(Fault::Malformed),
    }
}

/// What a library error means for the connection.
pub(super) fn fault(error: MqttError) -> Fault {
    match error {
        MqttError::ProtocolError => Fault::Protocol,
        MqttError::UnsupportedProtocolVersion => Fault::Version,
        MqttError::PacketTooLarge => Fault::TooLarge,
        _ => Fault::Malformed,
    }
}

fn publish(v5: bool, flags: u8, body: &[u8]) -> Result<Publish<'_>, Fault> {
    let qos = QoS::from_number(flags >> 1 & 3).ok_or(Fault::Malformed)?;
    let dup = flags & 8 != 0;
    // [MQTT-3.3.1-2]: DUP must be 0 with QoS 0.
    if dup && qos == QoS::AtMostOnce {
        return Err(Fault::Malformed);
    }
    let mut reader = Reader::new(body);
    let topic = reader.text()?;
    let packet_id = if qos == QoS::AtMostOnce { 0 } else { reader.packet_id()? };
    let mut found = MessageProperties::default();
    let payload = if v5 {
        if reader.peek().ok_or(Fault::Malformed)? == 0 {
            reader.rest().get(1..).unwrap_or_default()
        } else {
            let (packet, _) = v5_0::Publish::parse(flags, body.into()).map_err(fault)?;
            found = message_properties(packet.props())?;
            let length = packet.payload().len();
            body.get(body.len() - length..).unwrap_or_default()
        }
    } else {
        reader.rest()
    };
    // The empty name stands for an alias, on MQTT 5 only; there it is a protocol error without one.
    match (topic, found.alias) {
        ("", Some(_)) => {}
        ("", None) if v5 => return Err(Fault::Protocol),
        _ => topic::check_name(topic).map_err(|_| Fault::Topic)?,
    }
    let properties = if found.properties.is_empty() { None } else { Some(Arc::new(found.properties)) };
    Ok(Publish { dup, qos, retain: flags & 1 != 0, packet_id, topic, alias: found.alias, properties, payload })
}

/// Reads the properties that travel with a message; shared by PUBLISH and the will.
pub(super) fn message_properties(list: &[Property]) -> Result<MessageProperties, Fault> {
    texts(list)?;
    let mut found = MessageProperties::default();
    let properties = &mut found.properties;
    for property in list {
        match property {
            Property::PayloadFormatIndicator(p) => properties.utf8_payload = Some(p.val() == 1),
            Property::MessageExpiryInterval(p) => {
                properties.message_expiry = Some(Duration::from_secs(u64::from(p.val())));
            }
            Property::ContentType(p) => properties.content_type = Some(p.val().into()),
            Property::ResponseTopic(p) => {
                topic::check_name(p.val()).map_err(|_| Fault::Protocol)?;
                properties.response_topic = Some(p.val().into());
            }
            Property::CorrelationData(p) => properties.correlation_data = Some(Bytes::copy_from_slice(p.val())),
            Property::UserProperty(p) => {
                properties.user.push((p.key().to_owned(), p.val().to_owned()));
            }
            Property::TopicAlias(p) => found.alias = Some(p.val()),
            Property::WillDelayInterval(_) => {}
            // A client may not send a Subscription Identifier [MQTT-3.3.4-6]; nothing else is legal here.
            _ => return Err(Fault::Protocol),
        }
    }
    Ok(found)
}

/// Checks every string among the properties; that they are UTF-8 the library has seen to.
pub(super) fn texts<'a>(list: impl IntoIterator<Item = &'a Property>) -> Result<(), Fault> {
    for property in list {
        match property {
            Property::ContentType(p) => text(p.val()).map(drop)?,
            Property::ResponseTopic(p) => text(p.val()).map(drop)?,
            Property::AuthenticationMethod(p) => text(p.val()).map(drop)?,
            Property::ReasonString(p) => text(p.val()).map(drop)?,
            Property::UserProperty(p) => text(p.key()).and_then(|_| text(p.val())).map(drop)?,
            // No strings, or strings that only servers send.
            _ => {}
        }
    }
    Ok(())
}

/// Reason code, properties, length.
type ParsedAck = (u8, Option<Vec<Property>>, usize);
type ParseAck = fn(&[u8]) -> Result<ParsedAck, MqttError>;

fn ack(v5: bool, body: &[u8], parse: ParseAck) -> Result<Ack, Fault> {
    let packet_id = Reader::new(body).packet_id()?;
    if body.len() == 2 {
        return Ok(Ack { packet_id, code: 0 });
    }
    if !v5 {
        return Err(Fault::Malformed);
    }
    let (code, properties, used) = parse(body).map_err(fault)?;
    texts(properties.iter().flatten())?;
    if used == body.len() { Ok(Ack { packet_id, code }) } else { Err(Fault::Malformed) }
}

fn v5_puback(body: &[u8]) -> Result<ParsedAck, MqttError> {
    let (packet, used) = v5_0::Puback::parse(body)?;
    Ok((packet.reason_code().map_or(0, |code| code as u8), packet.props().clone(), used))
}

fn v5_pubrec(body: &[u8]) -> Result<ParsedAck, MqttError> {
    let (packet, used) = v5_0::Pubrec::parse(body)?;
    Ok((packet.reason_code().map_or(0, |code| code as u8), packet.props().clone(), used))
}

fn v5_pubrel(body: &[u8]) -> Result<ParsedAck, MqttError> {
    let (packet, used) = v5_0::Pubrel::parse(body)?;
    Ok((packet.reason_code().map_or(0, |code| code as u8), packet.props().clone(), used))
}

fn v5_pubcomp(body: &[u8]) -> Result<ParsedAck, MqttError> {
    let (packet, used) = v5_0::Pubcomp::parse(body)?;
    Ok((packet.reason_code().map_or(0, |code| code as u8), packet.props().clone(), used))
}

fn qos_of(qos: Qos) -> QoS {
    match qos {
        Qos::AtMostOnce => QoS::AtMostOnce,
        Qos::AtLeastOnce => QoS::AtLeastOnce,
        Qos::ExactlyOnce => QoS::ExactlyOnce,
    }
}

fn subscribe_v311(body: &[u8]) -> Result<Subscribe, Fault> {
    let packet_id = Reader::new(body).packet_id()?;
    let (packet, _) = v3_1_1::Subscribe::parse(body).map_err(fault)?;
    let mut filters = Vec::with_capacity(packet.entries().len());
    for entry in packet.entries() {
        let options = entry.sub_opts();
        // [MQTT-3-8.3-4]: the upper six bits are reserved; the library reads them as options of MQTT 5.
        if options.to_buffer().iter().any(|byte| byte & 0xFC != 0) {
            return Err(Fault::Malformed);
        }
        filters.push(FilterRequest {
            filter: text(entry.topic_filter())?.to_owned(),
            qos: qos_of(options.qos()),
            no_local: false,
            retain_as_published: false,
            retain_handling: 0,
        });
    }
    Ok(Subscribe { packet_id, identifier: None, filters })
}

fn subscribe_v5(body: &[u8]) -> Result<Subscribe, Fault> {
    let packet_id = Reader::new(body).packet_id()?;
    let (packet, _) = v5_0::Subscribe::parse(body).map_err(fault)?;
    texts(packet.props())?;
    let mut identifiers = packet.props().iter().filter_map(|property| match property {
        Property::SubscriptionIdentifier(p) => Some(p.val()),
        _ => None,
    });
    let identifier = identifiers.next();
    // Once at most, and not zero [MQTT 5, 3.8.2.1.2].
    if identifier == Some(0) || identifiers.next().is_some() {
        return Err(Fault::Protocol);
    }
    let mut filters = Vec::with_capacity(packet.entries().len());
    for entry in packet.entries() {
        let options = entry.sub_opts();
        // [MQTT-3.8.3-4]: No Local on a shared subscription is a protocol error.
        if options.nl() && entry.topic_filter().starts_with("$share/") {
            return Err(Fault::Protocol);
        }
        filters.push(FilterRequest {
            filter: text(entry.topic_filter())?.to_owned(),
            qos: qos_of(options.qos()),
            no_local: options.nl(),
            retain_as_published: options.rap(),
            retain_handling: match options.rh() {
                RetainHandling::SendRetained => 0,
                RetainHandling::SendRetainedIfNotExists => 1,
                RetainHandling::DoNotSendRetained => 2,
            },
        });
    }
    Ok(Subscribe { packet_id, identifier, filters })
}

fn unsubscribe(v5: bool, body: &[u8]) -> Result<Unsubscribe, Fault> {
    let packet_id = Reader::new(body).packet_id()?;
    let entries = if v5 {
        let (packet, _) = v5_0::Unsubscribe::parse(body).map_err(fault)?;
        texts(packet.props())?;
        packet.entries().clone()
    } else {
        v3_1_1::Unsubscribe::parse(body).map_err(fault)?.0.entries().clone()
    };
    let filters: Result<Vec<String>, Fault> =
        entries.iter().map(|entry| Ok(text(entry.as_str())?.to_owned())).collect();
    Ok(Unsubscribe { packet_id, filters: filters? })
}

fn disconnect(v5: bool, body: &[u8]) -> Result<Disconnect, Fault> {
    if body.is_empty() {
        return Ok(Disconnect { code: 0, session_expiry: None });
    }
    if !v5 {
        return Err(Fault::Malformed);
    }
    let (packet, used) = v5_0::Disconnect::parse(body).map_err(fault)?;
    if used != body.len() {
        return Err(Fault::Malformed);
    }
    texts(packet.props().iter().flatten())?;
    let mut expiry = None;
    for property in packet.props().iter().flatten() {
        match property {
            Property::SessionExpiryInterval(p) => expiry = Some(session_expiry(p.val())),
            Property::ReasonString(_) | Property::UserProperty(_) => {}
            // Server Reference is for servers.
            _ => return Err(Fault::Protocol),
        }
    }
    Ok(Disconnect { code: packet.reason_code().map_or(0, |code| code as u8), session_expiry: expiry })
}
