//! MQTT 3.1.1 by rumqttc-v4-next.

use std::io;
use std::sync::{Mutex, PoisonError};

use rumqttc_v4::mqttbytes::Error as CodecError;
use rumqttc_v4::{
    AckMode, AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, LastWill, ManualAck, MqttOptions,
    NetworkOptions, Packet as Wired, PubAck, Publish, PublishNotice, PublishOptions, PublishResult, QoS, StateError,
    SubscribeReasonCode,
};

use super::dial::Stream;
use super::failure::{Failure, Refusal, Who};
use super::packet::Packet;
use super::transport::{
    Ack, Arrival, CONNECT_TIME, Gone, Hello, REQUEST_BATCH, Signal, Transport, Wanted, Welcome, Wire,
};

/// 3.1.1 can't announce a limit, and a larger packet would end this connection and, redelivered, each next one. So the
/// limit is far above [`super::transport::MAX_COMMAND`], which the subscriber holds commands to.
const MAX_INCOMING: usize = 16 << 20;
/// The protocol's own limit; larger ones are put aside before they get here.
const MAX_OUTGOING: usize = 268_435_455 + 5;

/// The asking part.
#[derive(Debug, Clone)]
pub(super) struct Client {
    client: AsyncClient,
}

/// The polled part.
pub(super) struct Loop {
    events: EventLoop,
    host: String,
    who: Who,
}

fn options(hello: &Hello, stream: Box<dyn Stream>) -> MqttOptions {
    let mut options = MqttOptions::new(hello.who.client_id.clone(), (hello.host.clone(), 0));
    let seconds = u16::try_from(hello.keep_alive.as_secs()).unwrap_or(u16::MAX);
    let will = &hello.will;
    options
        .set_keep_alive(seconds)
        .set_clean_session(false)
        .set_max_packet_size(MAX_INCOMING, MAX_OUTGOING)
        .set_ack_mode(AckMode::Manual)
        .set_max_request_batch(REQUEST_BATCH)
        .set_inflight(hello.window)
        .set_last_will(LastWill::new(will.topic.clone(), will.payload.to_vec(), QoS::AtLeastOnce, will.retain));
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

impl Transport for Client {
    type Wire = Loop;
    type Notice = PublishNotice;

    async fn connect(hello: &Hello, stream: Box<dyn Stream>) -> Result<(Self, Loop, Welcome), Failure> {
        let built =
            AsyncClient::builder(options(hello, stream)).capacity(usize::from(hello.window).max(64)).try_build();
        let (client, mut events) = built.map_err(|error| Failure::Lost(error.to_string()))?;
        // Also the library's limit for one flush, 5 s by default: an upstream that reads slowly is not lost before
        // the driver says so.
        let mut network = NetworkOptions::new();
        network.set_connection_timeout((hello.keep_alive * 2).max(CONNECT_TIME).as_secs());
        events.set_network_options(network);
        let mut events = Loop { events, host: hello.host.clone(), who: hello.who.clone() };
        match events.poll().await? {
            Event::Incoming(Wired::ConnAck(_)) => {
                let welcome = Welcome {
                    receive_maximum: u16::MAX,
                    maximum_packet: None,
                    retains: true,
                    keep_alive: hello.keep_alive,
                };
                Ok((Self { client }, events, welcome))
            }
            other => Err(Failure::Lost(format!("a CONNACK was expected, not {other:?}"))),
        }
    }

    async fn subscribe(&self, Wanted { filter, .. }: Wanted) -> Result<(), Failure> {
        let lost = |error: String| Failure::Lost(error);
        let asked = self.client.subscribe_tracked(filter.clone(), QoS::AtLeastOnce).await;
        let notice = asked.map_err(|error| lost(error.to_string()))?;
        let suback = notice.wait_async().await.map_err(|error| lost(error.to_string()))?;
        match suback.return_codes.as_slice() {
            [SubscribeReasonCode::Success(QoS::AtLeastOnce | QoS::ExactlyOnce)] => Ok(()),
            [SubscribeReasonCode::Success(QoS::AtMostOnce)] => {
                Err(Failure::Subscribe { filter, reason: "only QoS 0 is granted, messages would be lost".to_owned() })
            }
            _ => Err(Failure::Subscribe { filter, reason: "failure (0x80)".to_owned() }),
        }
    }

    async fn publish(&self, packet: Packet) -> Result<PublishNotice, Gone> {
        let options = PublishOptions::at_least_once().retain(packet.retain);
        self.client.publish_tracked(packet.topic, packet.payload, options).await.map_err(|_| Gone)
    }

    async fn outcome(notice: PublishNotice) -> Ack {
        match notice.wait_async().await {
            Ok(PublishResult::Qos1(_)) => Ack::Accepted,
            Ok(_) | Err(_) => Ack::Lost,
        }
    }

    async fn acknowledge(&self, packet_id: u16) -> Result<(), Gone> {
        self.client.manual_ack(ManualAck::PubAck(PubAck::new(packet_id))).await.map_err(|_| Gone)
    }

    async fn disconnect(&self) -> Result<(), Gone> {
        self.client.disconnect_now().await.map_err(|_| Gone)
    }
}

impl Wire for Loop {
    async fn next(&mut self) -> Result<Signal, Failure> {
        Ok(match self.poll().await? {
            Event::Incoming(Wired::Publish(publish)) => Signal::Arrival(arrival(publish)),
            Event::Incoming(_) => Signal::Received,
            Event::Outgoing(_) => Signal::Sent,
        })
    }
}

fn arrival(publish: Publish) -> Arrival {
    Arrival {
        topic: publish.topic,
        payload: publish.payload,
        retained: publish.retain,
        packet_id: (publish.qos != QoS::AtMostOnce).then_some(publish.pkid),
        response_topic: None,
        correlation: None,
        expiry: None,
        content_type: None,
        utf8: false,
        user: Vec::new(),
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
            ConnectionError::NetworkTimeout => Failure::Timeout { to: "CONNECT", within: CONNECT_TIME },
            ConnectionError::Io(error)
            | ConnectionError::MqttState(StateError::Io(error) | StateError::Deserialization(CodecError::Io(error))) => {
                Failure::lost(&self.host, &error)
            }
            ConnectionError::MqttState(StateError::ConnectionAborted) => {
                Failure::Lost("closed by the upstream".to_owned())
            }
            other => Failure::lost(&self.host, &other),
        }
    }
}

fn refusal(code: ConnectReturnCode) -> Refusal {
    match code {
        ConnectReturnCode::BadUserNamePassword => Refusal::BadCredentials,
        ConnectReturnCode::NotAuthorized => Refusal::NotAuthorized,
        ConnectReturnCode::BadClientId => Refusal::ClientId,
        ConnectReturnCode::RefusedProtocolVersion => Refusal::Version,
        ConnectReturnCode::ServiceUnavailable => Refusal::Busy("server unavailable (3)"),
        ConnectReturnCode::Success => Refusal::Other("success".to_owned()),
    }
}
