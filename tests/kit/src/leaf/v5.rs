//! MQTT 5 by rumqttc.

use std::net::SocketAddr;

use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, LastWill, MqttOptions, Outgoing, Packet, PublishNotice,
    PublishOptions, PublishResult, QoS, SubscribeReasonCode as Reason, TlsConfiguration, Transport,
};
use tokio::task::JoinHandle;

use super::{Ack, Answers, CAPACITY, ConnectError, Diary, Options, Received, Tls};

/// Connects, and polls the connection until it ends.
pub(super) async fn connect(
    id: &str,
    address: SocketAddr,
    tls: Option<Tls>,
    options: &Options,
    diary: Diary,
) -> Result<(AsyncClient, JoinHandle<()>), ConnectError> {
    let mut mqtt = MqttOptions::new(id, (address.ip().to_string(), address.port()));
    mqtt.set_keep_alive(30);
    if let Some(Tls { ca, identity: client_auth }) = tls {
        mqtt.set_transport(Transport::tls_with_config(TlsConfiguration::Simple { ca, alpn: None, client_auth }));
    }
    if let Some((name, password)) = &options.user {
        mqtt.set_credentials(name.clone(), password.clone());
    }
    if let Some((topic, payload)) = &options.will {
        mqtt.set_last_will(LastWill::new(topic.clone(), payload.clone(), QoS::AtLeastOnce, false, None));
    }
    let (client, mut events) = AsyncClient::builder(mqtt).capacity(CAPACITY).build();
    match events.poll().await {
        Ok(Event::Incoming(Packet::ConnAck(_))) => {}
        Ok(other) => return Err(ConnectError::Broken(format!("a CONNACK was expected, not {other:?}"))),
        Err(ConnectionError::ConnectionRefused(code)) => return Err(ConnectError::Refused(format!("{code:?}"))),
        Err(error) => return Err(ConnectError::Broken(error.to_string())),
    }
    let task = tokio::spawn(poll(events, client.clone(), options.answers.clone(), diary));
    Ok((client, task))
}

async fn poll(mut events: EventLoop, client: AsyncClient, answers: Answers, diary: Diary) {
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                let message = Received {
                    topic: String::from_utf8_lossy(&publish.topic).into_owned(),
                    payload: publish.payload,
                    retain: publish.retain,
                };
                let Some((topic, payload)) = diary.received(message, &answers) else { continue };
                let answer = client.try_publish(topic, payload, PublishOptions::new(QoS::AtLeastOnce));
                if let Err(error) = answer {
                    return diary.ended(format_args!("an answer could not be sent: {error}"));
                }
            }
            Ok(Event::Outgoing(Outgoing::Disconnect)) => return diary.ended("disconnected"),
            Ok(_) => {}
            Err(error) => return diary.ended(format_args!("{error:?}")),
        }
    }
}

pub(super) async fn ack(notice: PublishNotice) -> Ack {
    match notice.wait_async().await {
        // 0x10 (no matching subscribers) is an acknowledgement (MQTT 5 section 3.4.2.1).
        Ok(PublishResult::Qos1(puback)) if (puback.reason as u8) < 0x80 => Ack::Accepted,
        Ok(PublishResult::Qos1(puback)) => Ack::Refused(puback.reason as u8),
        Ok(_) | Err(_) => Ack::Lost,
    }
}

pub(super) async fn subscribe(client: &AsyncClient, filter: &str) -> anyhow::Result<u8> {
    let suback = client.subscribe_tracked(filter.to_owned(), QoS::AtLeastOnce).await?.wait_async().await?;
    Ok(match suback.return_codes.as_slice() {
        [Reason::Success(qos)] => *qos as u8,
        [Reason::ImplementationSpecific] => 0x83,
        [Reason::NotAuthorized] => 0x87,
        [Reason::TopicFilterInvalid] => 0x8f,
        [Reason::PkidInUse] => 0x91,
        [Reason::QuotaExceeded] => 0x97,
        [Reason::SharedSubscriptionsNotSupported] => 0x9e,
        [Reason::SubscriptionIdNotSupported] => 0xa1,
        [Reason::WildcardSubscriptionsNotSupported] => 0xa2,
        _ => 0x80,
    })
}
