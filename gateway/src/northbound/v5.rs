//! MQTT 5 by rumqttc-v5-next.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rumqttc::mqttbytes::Error as CodecError;
use rumqttc::{
    AckMode, AsyncClient, ConnAck, ConnectReturnCode, ConnectionError, DisconnectReasonCode, Event, EventLoop,
    LastWill, LastWillProperties, ManualAck, MqttOptions, Packet as Wired, PersistedAckMode, PersistedSession, PubAck,
    PubAckReason, Publish, PublishNotice, PublishOptions, PublishProperties, PublishResult, QoS, RetainForwardRule,
    SessionStore, SessionStoreError, SessionStoreKey, StateError, SubscribeFilterInput, SubscribeReasonCode,
};

use super::dial::Stream;
use super::failure::{Failure, Refusal, Who};
use super::packet::{Packet, Properties};
use super::transport::{
    Ack, Arrival, CONNECT_TIME, Gone, Hello, MAX_COMMAND, RECEIVE_MAXIMUM, REQUEST_BATCH, Signal, Transport, Wanted,
    Welcome, Wire,
};

/// The upstream keeps commands for us for as long as it can: we may be away for months.
const SESSION_EXPIRY: u32 = u32::MAX;
/// Topic, properties and header around a command.
const COMMAND_OVERHEAD: usize = 64 * 1024;

/// The asking part.
#[derive(Debug, Clone)]
pub(super) struct Client {
    client: AsyncClient,
    host: String,
}

/// The polled part.
pub(super) struct Loop {
    events: EventLoop,
    host: String,
    who: Who,
}

/// Tells the library that its side of the persistent session is empty. Without a stored session it refuses to publish
/// on one that the upstream has kept. What it then wants to save is of no use: the queue is our memory.
#[derive(Debug)]
struct EmptySession {
    client_id: String,
    window: u16,
}

type Stored<'a, T> = std::pin::Pin<Box<dyn Future<Output = Result<T, SessionStoreError>> + Send + 'a>>;

impl SessionStore for EmptySession {
    fn load<'a>(&'a self, _key: &'a SessionStoreKey) -> Stored<'a, Option<PersistedSession>> {
        let session = PersistedSession {
            format_version: 1,
            client_id: self.client_id.clone(),
            clean_start: false,
            session_expiry_interval: Some(SESSION_EXPIRY),
            outgoing_inflight_upper_limit: Some(self.window),
            ack_mode: PersistedAckMode::Manual,
            last_pkid: 0,
            last_puback: 0,
            replay: Vec::new(),
            incoming_qos2: Vec::new(),
        };
        Box::pin(std::future::ready(Ok(Some(session))))
    }

    fn save<'a>(&'a self, _key: &'a SessionStoreKey, _session: &'a PersistedSession) -> Stored<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn clear<'a>(&'a self, _key: &'a SessionStoreKey) -> Stored<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
}

fn options(hello: &Hello, stream: Box<dyn Stream>) -> MqttOptions {
    let client_id = hello.who.client_id.clone();
    let mut options = MqttOptions::new(client_id.clone(), (hello.host.clone(), 0));
    let seconds = u16::try_from(hello.keep_alive.as_secs()).unwrap_or(u16::MAX);
    let largest = u32::try_from(MAX_COMMAND + COMMAND_OVERHEAD).unwrap_or(u32::MAX);
    options
        .set_keep_alive(seconds)
        .set_clean_start(false)
        .set_session_expiry_interval(Some(SESSION_EXPIRY))
        .set_receive_maximum(Some(RECEIVE_MAXIMUM))
        .set_max_packet_size(Some(largest))
        .set_ack_mode(AckMode::Manual)
        .set_connect_timeout(CONNECT_TIME)
        .set_max_request_batch(REQUEST_BATCH)
        .set_outgoing_inflight_upper_limit(hello.window)
        .set_session_store(EmptySession { client_id, window: hello.window })
        .set_last_will(will(&hello.will));
    if let Some((username, password)) = &hello.login {
        options.set_credentials(username.clone(), password.clone());
    }
    let once = Mutex::new(Some(stream));
    options.set_socket_connector(move |_, _| {
        let stream = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        std::future::ready(stream.ok_or_else(|| io::Error::other("a client is for one connection")))
    });
    options
}

fn will(packet: &Packet) -> LastWill {
    let properties = LastWillProperties {
        delay_interval: None,
        payload_format_indicator: packet.properties.utf8.then_some(1),
        message_expiry_interval: None,
        content_type: packet.properties.content_type.clone(),
        response_topic: None,
        correlation_data: None,
        user_properties: Vec::new(),
    };
    LastWill::new(packet.topic.clone(), packet.payload.to_vec(), QoS::AtLeastOnce, packet.retain, Some(properties))
}

fn welcome(connack: &ConnAck, hello: &Hello) -> Welcome {
    let properties = connack.properties.as_ref();
    let keep_alive = properties.and_then(|p| p.server_keep_alive);
    Welcome {
        receive_maximum: properties.and_then(|p| p.receive_max).unwrap_or(u16::MAX),
        maximum_packet: properties.and_then(|p| p.max_packet_size),
        retains: properties.and_then(|p| p.retain_available) != Some(0),
        keep_alive: keep_alive.map_or(hello.keep_alive, |seconds| Duration::from_secs(seconds.into())),
    }
}

impl Transport for Client {
    type Wire = Loop;
    type Notice = PublishNotice;

    async fn connect(hello: &Hello, stream: Box<dyn Stream>) -> Result<(Self, Loop, Welcome), Failure> {
        let built =
            AsyncClient::builder(options(hello, stream)).capacity(usize::from(hello.window).max(64)).try_build();
        let (client, events) = built.map_err(|error| Failure::Lost(error.to_string()))?;
        let mut events = Loop { events, host: hello.host.clone(), who: hello.who.clone() };
        match events.poll().await? {
            Event::Incoming(Wired::ConnAck(connack)) => {
                // From here on it would be asked to save a copy of the window for every message.
                events.events.options.clear_session_store();
                let client = Self { client, host: hello.host.clone() };
                Ok((client, events, welcome(&connack, hello)))
            }
            other => Err(Failure::Lost(format!("a CONNACK was expected, not {other:?}"))),
        }
    }

    async fn subscribe(&self, Wanted { filter, retained }: Wanted) -> Result<(), Failure> {
        // No Local: our results, and what we forward, lie below the filters.
        let rule = if retained { RetainForwardRule::OnEverySubscribe } else { RetainForwardRule::Never };
        let asked = SubscribeFilterInput::new(filter.clone(), QoS::AtLeastOnce)
            .no_local(true)
            .preserve_retain(retained)
            .retain_forward_rule(rule);
        let lost = |error: String| Failure::Lost(error);
        let notice = self.client.subscribe_many_tracked([asked]).await.map_err(|error| lost(error.to_string()))?;
        let suback = notice.wait_async().await.map_err(|error| lost(error.to_string()))?;
        match suback.return_codes.as_slice() {
            [SubscribeReasonCode::Success(QoS::AtLeastOnce | QoS::ExactlyOnce)] => Ok(()),
            [SubscribeReasonCode::Success(QoS::AtMostOnce)] => {
                Err(Failure::Subscribe { filter, reason: "only QoS 0 is granted, messages would be lost".to_owned() })
            }
            codes => Err(Failure::Subscribe { filter, reason: format!("{codes:?}") }),
        }
    }

    async fn publish(&self, packet: Packet) -> Result<PublishNotice, Gone> {
        let Packet { topic, payload, retain, properties } = packet;
        let options = PublishOptions::at_least_once().retain(retain).properties(wire_properties(properties));
        self.client.publish_tracked(topic, payload, options).await.map_err(|_| Gone)
    }

    async fn outcome(notice: PublishNotice) -> Ack {
        match notice.wait_async().await {
            Ok(PublishResult::Qos1(PubAck { reason, .. })) => match reason {
                PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Ack::Accepted,
                PubAckReason::UnspecifiedError => Ack::Busy("unspecified error (0x80)"),
                PubAckReason::ImplementationSpecificError => Ack::Busy("implementation specific error (0x83)"),
                PubAckReason::PacketIdentifierInUse => Ack::Busy("packet identifier in use (0x91)"),
                PubAckReason::QuotaExceeded => Ack::Busy("quota exceeded (0x97)"),
                PubAckReason::NotAuthorized => Ack::Poison("upstream: not authorized (0x87)"),
                PubAckReason::TopicNameInvalid => Ack::Poison("upstream: topic name invalid (0x90)"),
                PubAckReason::PayloadFormatInvalid => Ack::Poison("upstream: payload format invalid (0x99)"),
            },
            Ok(_) | Err(_) => Ack::Lost,
        }
    }

    async fn acknowledge(&self, packet_id: u16) -> Result<(), Gone> {
        self.client.manual_ack(ManualAck::PubAck(PubAck::new(packet_id, None))).await.map_err(|_| Gone)
    }

    async fn disconnect(&self) -> Result<(), Gone> {
        tracing::debug!(host = self.host, "disconnecting");
        self.client.disconnect_now().await.map_err(|_| Gone)
    }
}

fn wire_properties(properties: Properties) -> PublishProperties {
    PublishProperties {
        payload_format_indicator: properties.utf8.then_some(1),
        message_expiry_interval: properties.expiry,
        correlation_data: properties.correlation,
        user_properties: properties.user,
        content_type: properties.content_type,
        ..PublishProperties::default()
    }
}

impl Wire for Loop {
    async fn next(&mut self) -> Result<Signal, Failure> {
        Ok(match self.poll().await? {
            Event::Incoming(Wired::Publish(publish)) => Signal::Arrival(arrival(publish)),
            Event::Incoming(_) | Event::Auth(_) => Signal::Received,
            Event::Outgoing(_) => Signal::Sent,
        })
    }
}

fn arrival(publish: Publish) -> Arrival {
    let properties = publish.properties.unwrap_or_default();
    Arrival {
        topic: publish.topic,
        payload: publish.payload,
        retained: publish.retain,
        packet_id: (publish.qos != QoS::AtMostOnce).then_some(publish.pkid),
        response_topic: properties.response_topic,
        correlation: properties.correlation_data.map(|data: Bytes| data.to_vec()),
        expiry: properties.message_expiry_interval.map(|seconds| Duration::from_secs(seconds.into())),
        content_type: properties.content_type,
        utf8: properties.payload_format_indicator == Some(1),
        user: properties.user_properties,
    }
}

impl Loop {
    async fn poll(&mut self) -> Result<Event, Failure> {
        self.events.poll().await.map_err(|error| self.failure(error))
    }

    fn failure(&self, error: ConnectionError) -> Failure {
        match error {
            ConnectionError::ConnectionRefused(code) => {
                Failure::Refused { refusal: refusal(code), who: self.who.clone() }
            }
            ConnectionError::Timeout(_) => Failure::Timeout { to: "CONNECT", within: CONNECT_TIME },
            ConnectionError::Io(error)
            | ConnectionError::MqttState(StateError::Io(error) | StateError::Deserialization(CodecError::Io(error))) => {
                Failure::lost(&self.host, &error)
            }
            ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, reason_string }) => {
                if reason_code == DisconnectReasonCode::SessionTakenOver {
                    return Failure::TakenOver(self.who.client_id.clone());
                }
                let code = reason_code as u8;
                let said = reason_string.map(|text| format!(": {text}")).unwrap_or_default();
                Failure::Lost(format!("the upstream disconnected with {reason_code:?} (0x{code:02x}){said}"))
            }
            ConnectionError::MqttState(StateError::ConnectionAborted) => {
                Failure::Lost("closed by the upstream".to_owned())
            }
            other => Failure::lost(&self.host, &other),
        }
    }
}

fn refusal(code: ConnectReturnCode) -> Refusal {
    use ConnectReturnCode as Code;
    match code {
        Code::BadUserNamePassword => Refusal::BadCredentials,
        Code::NotAuthorized => Refusal::NotAuthorized,
        Code::Banned => Refusal::Banned,
        Code::BadClientId | Code::ClientIdentifierNotValid => Refusal::ClientId,
        Code::RefusedProtocolVersion | Code::UnsupportedProtocolVersion => Refusal::Version,
        Code::BadAuthenticationMethod => Refusal::AuthenticationMethod,
        Code::ServiceUnavailable | Code::ServerUnavailable => Refusal::Busy("server unavailable (0x88)"),
        Code::ServerBusy => Refusal::Busy("server busy (0x89)"),
        Code::QuotaExceeded => Refusal::Busy("quota exceeded (0x97)"),
        Code::ConnectionRateExceeded => Refusal::Busy("connection rate exceeded (0x9f)"),
        other => Refusal::Other(format!("{other:?}")),
    }
}
