//! CONNECT of both versions, brought to one form.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mqtt_protocol_core::mqtt::packet::{Property, v3_1_1, v5_0};
use mqtt_protocol_core::mqtt::result_code::MqttError;

use super::decode::{fault, message_properties, texts};
use super::{Fault, Reader, text};
use crate::{Properties, QoS, Version, topic};

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Connect {
    pub version: Version,
    pub clean: bool,
    pub keep_alive: u16,
    pub client_id: String,
    pub will: Option<Will>,
    /// MQTT 5: absent is zero. MQTT 3.1.1: zero when clean, else without end.
    pub session_expiry: Duration,
    pub receive_maximum: u16,
    pub maximum_packet: usize,
    /// Topic aliases that the server may set.
    pub topic_alias_maximum: u16,
    /// Whether reason strings are welcome.
    pub problem_information: bool,
    pub authentication_method: bool,
    pub user_name: Option<String>,
    pub password: Option<Password>,
}

/// What a client sends to prove its user name: never printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Password(Bytes);

impl Password {
    fn new(bytes: &[u8]) -> Self {
        Self(Bytes::copy_from_slice(bytes))
    }

    pub(crate) fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// The message to publish when the client is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Will {
    pub topic: Arc<str>,
    pub payload: Bytes,
    pub qos: QoS,
    pub retain: bool,
    pub delay: Duration,
    pub properties: Properties,
}

/// The version that a CONNECT names, as far as it can be told: for the answer to one that is not acceptable.
pub(crate) fn connect_version(body: &[u8]) -> Option<Version> {
    match body.get(..7) {
        Some([0, 4, b'M', b'Q', b'T', b'T', 4]) => Some(Version::V311),
        Some([0, 4, b'M', b'Q', b'T', b'T', 5]) => Some(Version::V5),
        _ => None,
    }
}

const SECONDS_WITHOUT_END: u32 = u32::MAX;

/// Parses the body of a CONNECT.
pub(crate) fn connect(body: &[u8]) -> Result<Connect, Fault> {
    let parse = match connect_version(body) {
        Some(Version::V311) => v311,
        Some(Version::V5) => v5,
        None => return Err(unserved(body)),
    };
    let flags = *body.get(7).ok_or(Fault::Malformed)?;
    let will_bits = flags & 0b0011_1000;
    // Reserved bit [MQTT-3.1.2-3]; will bits without a will [MQTT-3.1.2-11]; will QoS 3 [MQTT-3.1.2-12].
    if flags & 1 != 0 || (flags & 0b100 == 0 && will_bits != 0) || will_bits & 0b1_1000 == 0b1_1000 {
        return Err(Fault::Malformed);
    }
    // A password without a user name, which only MQTT 5 allows [MQTT-3.1.2-22].
    if body.get(6) == Some(&4) && flags & USER_NAME_AND_PASSWORD == PASSWORD {
        return Err(Fault::Malformed);
    }
    parse(body)
}

/// Another protocol, or another version of this one.
fn unserved(body: &[u8]) -> Fault {
    let mut reader = Reader::new(body);
    match (reader.text(), reader.peek()) {
        (Ok("MQTT" | "MQIsdp"), Some(_)) => Fault::Version,
        (Ok(_) | Err(_), _) => Fault::Malformed,
    }
}

fn v311(body: &[u8]) -> Result<Connect, Fault> {
    let (packet, used) = v3_1_1::Connect::parse(body).map_err(fault)?;
    whole(body, used)?;
    let clean = packet.clean_session();
    strings(packet.client_id(), packet.user_name())?;
    // [MQTT-3.1.3-8]: a session that is to be found again needs a name.
    if packet.client_id().is_empty() && !clean {
        return Err(Fault::ClientId);
    }
    let will = packet.will_flag().then(|| {
        will(
            packet.will_topic(),
            packet.will_payload(),
            packet.will_qos() as u8,
            packet.will_retain(),
            Duration::ZERO,
            Properties::default(),
        )
    });
    Ok(Connect {
        version: Version::V311,
        clean,
        keep_alive: packet.keep_alive(),
        client_id: packet.client_id().to_owned(),
        will: will.transpose()?,
        session_expiry: if clean { Duration::ZERO } else { Duration::MAX },
        receive_maximum: u16::MAX,
        maximum_packet: usize::MAX,
        topic_alias_maximum: 0,
        problem_information: false,
        authentication_method: false,
        user_name: packet.user_name().map(str::to_owned),
        password: packet.password().map(Password::new),
    })
}

const USER_NAME_AND_PASSWORD: u8 = 0b1100_0000;
const PASSWORD: u8 = 0b0100_0000;

fn v5(body: &[u8]) -> Result<Connect, Fault> {
    let mut body = Cow::Borrowed(body);
    let lone = body.get(7).is_some_and(|flags| flags & USER_NAME_AND_PASSWORD == PASSWORD);
    if lone && let Some(flags) = body.to_mut().get_mut(7) {
        // The library refuses a password without a user name, which MQTT 5 allows: it is read here.
        *flags &= !PASSWORD;
    }
    let (packet, mut used) = v5_0::Connect::parse(&body).map_err(fault)?;
    let mut password = packet.password().map(Password::new);
    if lone {
        let mut rest = Reader::new(body.get(used..).unwrap_or_default());
        let length = usize::from(rest.u16()?);
        let alone = rest.take(length)?;
        used += 2 + alone.len();
        password = Some(Password::new(alone));
    }
    whole(&body, used)?;
    strings(packet.client_id(), packet.user_name())?;
    texts(packet.props())?;
    let mut authentication_data = false;
    let mut connect = Connect {
        version: Version::V5,
        clean: packet.clean_start(),
        keep_alive: packet.keep_alive(),
        client_id: packet.client_id().to_owned(),
        will: None,
        session_expiry: Duration::ZERO,
        receive_maximum: u16::MAX,
        maximum_packet: usize::MAX,
        topic_alias_maximum: 0,
        problem_information: true,
        authentication_method: false,
        user_name: packet.user_name().map(str::to_owned),
        password,
    };
    for property in packet.props() {
        match property {
            Property::SessionExpiryInterval(p) => connect.session_expiry = session_expiry(p.val()),
            Property::ReceiveMaximum(p) => connect.receive_maximum = p.val(),
            Property::MaximumPacketSize(p) => {
                connect.maximum_packet = usize::try_from(p.val()).unwrap_or(usize::MAX);
            }
            Property::RequestProblemInformation(p) => connect.problem_information = p.val() != 0,
            Property::AuthenticationMethod(_) => connect.authentication_method = true,
            Property::AuthenticationData(_) => authentication_data = true,
            Property::TopicAliasMaximum(p) => connect.topic_alias_maximum = p.val(),
            // Request Response Information: none is given. User properties of a CONNECT have no meaning here.
            _ => {}
        }
    }
    let data_alone = authentication_data && !connect.authentication_method;
    if connect.receive_maximum == 0 || connect.maximum_packet == 0 || data_alone {
        return Err(Fault::Protocol);
    }
    if packet.will_flag() {
        let delay = packet.will_props().iter().find_map(|property| match property {
            Property::WillDelayInterval(p) => Some(u64::from(p.val())),
            _ => None,
        });
        connect.will = Some(will(
            packet.will_topic(),
            packet.will_payload(),
            packet.will_qos() as u8,
            packet.will_retain(),
            Duration::from_secs(delay.unwrap_or(0)),
            message_properties(packet.will_props())?.properties,
        )?);
    }
    Ok(connect)
}

/// Session Expiry Interval in seconds; all ones is "does not expire".
pub(crate) fn session_expiry(seconds: u32) -> Duration {
    if seconds == SECONDS_WITHOUT_END { Duration::MAX } else { Duration::from_secs(u64::from(seconds)) }
}

fn will(
    name: Option<&str>,
    payload: Option<&[u8]>,
    qos: u8,
    retain: bool,
    delay: Duration,
    properties: Properties,
) -> Result<Will, Fault> {
    let name = text(name.ok_or(Fault::Malformed)?)?;
    topic::check_name(name).map_err(|_| Fault::Topic)?;
    Ok(Will {
        topic: name.into(),
        payload: Bytes::copy_from_slice(payload.unwrap_or_default()),
        qos: QoS::from_number(qos).ok_or(Fault::Malformed)?,
        retain,
        delay,
        properties,
    })
}

fn strings(client_id: &str, user_name: Option<&str>) -> Result<(), Fault> {
    text(client_id)?;
    text(user_name.unwrap_or_default())?;
    Ok(())
}

fn whole(body: &[u8], used: usize) -> Result<(), Fault> {
    if used == body.len() { Ok(()) } else { Err(Fault::Malformed) }
}

impl From<MqttError> for Fault {
    fn from(error: MqttError) -> Self {
        fault(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(bytes: &[u8]) -> Vec<u8> {
        let length = u16::try_from(bytes.len()).unwrap();
        [&length.to_be_bytes()[..], bytes].concat()
    }

    fn body(level: u8, flags: u8, fields: &[&[u8]]) -> Vec<u8> {
        let mut body = [&field(b"MQTT")[..], &[level, flags, 0, 10]].concat();
        body.extend((level == 5).then_some(0));
        body.extend(fields.iter().flat_map(|bytes| field(bytes)));
        body
    }

    #[test]
    fn takes_a_password_without_a_user_name_on_version_5_alone() {
        let with = connect(&body(5, 0x42, &[b"d1", b"se\0cret"])).unwrap();
        assert_eq!((with.user_name, with.client_id.as_str()), (None, "d1"));
        assert_eq!(with.password.unwrap().expose(), b"se\0cret");
        // [MQTT-3.1.2-22] of 3.1.1.
        assert!(connect(&body(4, 0x42, &[b"d1", b"secret"])).is_err());
        for bad in [
            &body(5, 0x42, &[b"d1"])[..],
            &[&body(5, 0x42, &[b"d1", b"secret"])[..], b"x"].concat(),
            &[&body(5, 0x42, &[b"d1"])[..], &[0, 9, b'x']].concat(),
        ] {
            assert_eq!(connect(bad), Err(Fault::Malformed), "{bad:02x?}");
        }
    }

    #[test]
    fn reads_user_name_and_password_and_prints_no_password() {
        for level in [4, 5] {
            let read = connect(&body(level, 0xC2, &[b"", b"hmi", b"secret"])).unwrap();
            assert_eq!(read.user_name.as_deref(), Some("hmi"));
            assert_eq!(read.password.as_ref().unwrap().expose(), b"secret");
            assert!(!format!("{read:?}").contains("secret"));
            let alone = connect(&body(level, 0x82, &[b"", b"hmi"])).unwrap();
            assert_eq!((alone.user_name.as_deref(), alone.password), (Some("hmi"), None));
        }
    }
}
