//! Packets from the upstream. Pure.
//!
//! As the broker reads clients: what is most of the traffic is read here in place, everything with properties by the
//! packet types of mqtt-protocol-core, plus the checks that they leave to their user.

use std::time::Duration;

use bytes::Bytes;
use fieldgate_broker::codec::{Fault, Frame, Reader, text};
use mqtt_protocol_core::mqtt::packet::{Property, v5_0};
use mqtt_protocol_core::mqtt::result_code::{MqttError, PubackReasonCode};

use super::{Arrival, Receipt};
use crate::northbound::Protocol;

/// A packet from the upstream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    Connack(Connack),
    Publish(Arrival),
    Puback {
        packet_id: u16,
        code: u8,
    },
    Pubrel {
        packet_id: u16,
    },
    /// One filter is asked for at a time.
    Suback {
        packet_id: u16,
        code: u8,
    },
    Pong,
    Disconnect {
        code: u8,
        reason: Option<String>,
    },
}

/// CONNACK.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Connack {
    pub code: u8,
    pub receive_maximum: Option<u16>,
    pub maximum_packet: Option<u32>,
    pub retains: bool,
    pub keep_alive: Option<u16>,
    /// It gives us another client id than the one we said.
    pub renamed: bool,
    /// The best QoS that it takes, where that is not 2.
    pub maximum_qos: Option<u8>,
    pub reason: Option<String>,
}

/// What can't be taken from the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{fault} ({packet})")]
pub(super) struct Broken {
    pub packet: &'static str,
    pub fault: Fault,
}

/// Packet too large (MQTT 5 section 2.4).
const TOO_LARGE: u8 = 0x95;
/// Longest reason string of the upstream's that is shown.
const MOST_REASON: usize = 200;

/// The name of a packet's type.
pub(super) fn name(first: u8) -> &'static str {
    const NAMES: [&str; 16] = [
        "type 0",
        "CONNECT",
        "CONNACK",
        "PUBLISH",
        "PUBACK",
        "PUBREC",
        "PUBREL",
        "PUBCOMP",
        "SUBSCRIBE",
        "SUBACK",
        "UNSUBSCRIBE",
        "UNSUBACK",
        "PINGREQ",
        "PINGRESP",
        "DISCONNECT",
        "AUTH",
    ];
    NAMES.get(usize::from(first >> 4)).copied().unwrap_or("type 0")
}

/// Parses one whole packet.
pub(super) fn decode(protocol: Protocol, frame: Frame, buffer: &[u8]) -> Result<Incoming, Broken> {
    begins(protocol, frame.first)?;
    parse(protocol == Protocol::V5, frame, frame.body_of(buffer))
        .map_err(|fault| Broken { packet: name(frame.first), fault })
}

/// Whether a packet from the upstream may begin so. Asked as soon as its first byte is there: what is no MQTT at all would
/// have its rest waited for.
pub(super) fn begins(protocol: Protocol, first: u8) -> Result<(), Broken> {
    let fault = match (first >> 4, first & 0x0F) {
        // QoS 3, and DUP at QoS 0.
        (3, flags) if flags & 6 == 6 || flags & 0x0E == 8 => Fault::Malformed,
        (2 | 4 | 9 | 13, 0) | (6, 2) | (3, _) => return Ok(()),
        (14, 0) if protocol == Protocol::V5 => return Ok(()),
        (0 | 2 | 4 | 6 | 9 | 13, _) => Fault::Malformed,
        // What clients send, and answers to what is never asked: QoS 2, UNSUBSCRIBE, AUTH.
        _ => Fault::Protocol,
    };
    Err(Broken { packet: name(first), fault })
}

/// `frame` is whole, and [`begins`] well.
fn parse(v5: bool, frame: Frame, body: &[u8]) -> Result<Incoming, Fault> {
    if v5 && !frame.minimal() {
        return Err(Fault::Malformed);
    }
    match frame.first >> 4 {
        2 => Ok(Incoming::Connack(if v5 { connack_v5(body) } else { connack_v311(body) }?)),
        3 => Ok(Incoming::Publish(publish(v5, frame.first & 0x0F, body)?)),
        4 => puback(v5, body),
        6 => pubrel(v5, body),
        9 => suback(v5, body),
        13 => whole(0, body).map(|()| Incoming::Pong),
        _ => disconnect(body),
    }
}

fn fault(error: MqttError) -> Fault {
    match error {
        MqttError::ProtocolError => Fault::Protocol,
        _ => Fault::Malformed,
    }
}

fn whole(used: usize, body: &[u8]) -> Result<(), Fault> {
    if used == body.len() { Ok(()) } else { Err(Fault::Malformed) }
}

/// For people: without control characters, and not long.
fn shown(reason: &str) -> String {
    reason.chars().filter(|c| !c.is_control()).take(MOST_REASON).collect()
}

fn connack_v311(body: &[u8]) -> Result<Connack, Fault> {
    match *body {
        [0 | 1, code] => Ok(Connack { code, retains: true, ..Connack::default() }),
        _ => Err(Fault::Malformed),
    }
}

fn connack_v5(body: &[u8]) -> Result<Connack, Fault> {
    if body.first().is_some_and(|flags| flags & 0xFE != 0) {
        return Err(Fault::Malformed);
    }
    let (packet, used) = v5_0::Connack::parse(body).map_err(fault)?;
    whole(used, body)?;
    let mut found = Connack { code: packet.reason_code() as u8, retains: true, ..Connack::default() };
    for property in packet.props() {
        match property {
            Property::ReceiveMaximum(p) => found.receive_maximum = Some(p.val()),
            Property::MaximumPacketSize(p) => found.maximum_packet = Some(p.val()),
            Property::RetainAvailable(p) => found.retains = p.val() != 0,
            Property::ServerKeepAlive(p) => found.keep_alive = Some(p.val()),
            Property::AssignedClientIdentifier(_) => found.renamed = true,
            Property::MaximumQos(p) => found.maximum_qos = Some(p.val()),
            Property::ReasonString(p) => found.reason = Some(shown(p.val())),
            // What we don't use: aliases, subscription options, where else to go.
            _ => {}
        }
    }
    if found.receive_maximum == Some(0) || found.maximum_packet == Some(0) {
        return Err(Fault::Protocol);
    }
    Ok(found)
}

fn publish(v5: bool, flags: u8, body: &[u8]) -> Result<Arrival, Fault> {
    let qos = flags >> 1 & 3;
    let mut reader = Reader::new(body);
    let topic = reader.text()?;
    let receipt = match qos {
        0 => None,
        _ => Some(Receipt { packet_id: reader.packet_id()?, exactly_once: qos == 2 }),
    };
    let mut arrival = Arrival {
        topic: topic.to_owned(),
        payload: Bytes::new(),
        retained: flags & 1 != 0,
        receipt,
        response_topic: None,
        correlation: None,
        expiry: None,
        content_type: None,
        utf8: false,
        user: Vec::new(),
    };
    let payload = if !v5 {
        reader.rest()
    } else if reader.peek().ok_or(Fault::Malformed)? == 0 {
        reader.rest().get(1..).unwrap_or_default()
    } else {
        let (packet, _) = v5_0::Publish::parse(flags, body.into()).map_err(fault)?;
        properties(packet.props(), &mut arrival)?;
        body.len().checked_sub(packet.payload().len()).and_then(|at| body.get(at..)).ok_or(Fault::Malformed)?
    };
    // An empty name stands for an alias, of which we allow none.
    fieldgate_broker::topic::check_name(topic).map_err(|_| Fault::Topic)?;
    arrival.payload = Bytes::copy_from_slice(payload);
    Ok(arrival)
}

fn properties(list: &[Property], arrival: &mut Arrival) -> Result<(), Fault> {
    for property in list {
        match property {
            Property::PayloadFormatIndicator(p) => arrival.utf8 = p.val() == 1,
            Property::MessageExpiryInterval(p) => arrival.expiry = Some(Duration::from_secs(p.val().into())),
            Property::ContentType(p) => arrival.content_type = Some(text(p.val())?.to_owned()),
            Property::ResponseTopic(p) => arrival.response_topic = Some(text(p.val())?.to_owned()),
            Property::CorrelationData(p) => arrival.correlation = Some(p.val().to_vec()),
            Property::UserProperty(p) => arrival.user.push((text(p.key())?.to_owned(), text(p.val())?.to_owned())),
            // Of a subscription for our client id that somebody else made; ours has none.
            Property::SubscriptionIdentifier(_) => {}
            // A topic alias: our maximum is 0 [MQTT-3.3.2-8].
            _ => return Err(Fault::Protocol),
        }
    }
    Ok(())
}

fn puback(v5: bool, body: &[u8]) -> Result<Incoming, Fault> {
    let packet_id = Reader::new(body).packet_id()?;
    if body.len() == 2 {
        return Ok(Incoming::Puback { packet_id, code: 0 });
    }
    if !v5 {
        return Err(Fault::Malformed);
    }
    // Not a reason of PUBACK, and yet what mosquitto answers to more than its `message_size_limit`. The rest is read as if it
    // were one: taken for a broken packet, the same message would end each next connection too.
    if let [high, low, TOO_LARGE, rest @ ..] = body {
        let read = [&[*high, *low, PubackReasonCode::PayloadFormatInvalid as u8], rest].concat();
        let (_, used) = v5_0::Puback::parse(&read).map_err(fault)?;
        whole(used, &read)?;
        return Ok(Incoming::Puback { packet_id, code: TOO_LARGE });
    }
    let (packet, used) = v5_0::Puback::parse(body).map_err(fault)?;
    whole(used, body)?;
    Ok(Incoming::Puback { packet_id, code: packet.reason_code().map_or(0, |code| code as u8) })
}

fn pubrel(v5: bool, body: &[u8]) -> Result<Incoming, Fault> {
    let packet_id = Reader::new(body).packet_id()?;
    if v5 {
        let (_, used) = v5_0::Pubrel::parse(body).map_err(fault)?;
        whole(used, body)?;
    } else {
        whole(2, body)?;
    }
    Ok(Incoming::Pubrel { packet_id })
}

fn suback(v5: bool, body: &[u8]) -> Result<Incoming, Fault> {
    let mut reader = Reader::new(body);
    let packet_id = reader.packet_id()?;
    let codes = if v5 {
        let (packet, _) = v5_0::Suback::parse(body).map_err(fault)?;
        packet.reason_codes().into_iter().map(|code| code as u8).collect()
    } else {
        reader.rest().to_vec()
    };
    match *codes {
        [code @ (0..=2 | 0x80)] => Ok(Incoming::Suback { packet_id, code }),
        [code] if v5 => Ok(Incoming::Suback { packet_id, code }),
        _ => Err(Fault::Malformed),
    }
}

fn disconnect(body: &[u8]) -> Result<Incoming, Fault> {
    let (packet, used) = v5_0::Disconnect::parse(body).map_err(fault)?;
    whole(used, body)?;
    let reason = packet.props().iter().flatten().find_map(|property| match property {
        Property::ReasonString(p) => Some(shown(p.val())),
        _ => None,
    });
    Ok(Incoming::Disconnect { code: packet.reason_code().map_or(0, |code| code as u8), reason })
}
