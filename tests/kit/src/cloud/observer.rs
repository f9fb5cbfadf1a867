//! Clients of the cloud: one that keeps what arrives, one that publishes. Both reconnect by themselves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rumqttc::PublishProperties;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::{Observed, Seen, Shared, lock};
use crate::Version;

/// Until rumqttd listens.
const RETRY: Duration = Duration::from_millis(20);

type Login = Option<(String, String)>;

impl Seen {
    fn take(&mut self, topic: &[u8], payload: bytes::Bytes, retain: bool, properties: Option<PublishProperties>) {
        let topic = String::from_utf8_lossy(topic).into_owned();
        let properties = properties.unwrap_or_default();
        self.messages.push(Observed { at: Instant::now(), topic, payload, retain, properties });
    }
}

/// Subscribes to `filter` and keeps what arrives in `seen`.
pub(super) fn watch(
    id: &str,
    filter: &str,
    version: Version,
    address: SocketAddr,
    login: Login,
    seen: Shared,
) -> JoinHandle<()> {
    match version {
        Version::V5 => tokio::spawn(watch_v5(options_v5(id, address, login), filter.to_owned(), seen)),
        Version::V311 => tokio::spawn(watch_v311(options_v311(id, address, login), filter.to_owned(), seen)),
    }
}

/// A client that publishes, and its polling task.
pub(super) fn publisher(address: SocketAddr, login: Login) -> (rumqttc::AsyncClient, JoinHandle<()>) {
    // Full: the test that publishes waits.
    let (client, mut events) =
        rumqttc::AsyncClient::builder(options_v5("publisher", address, login)).capacity(64).build();
    let task = tokio::spawn(async move {
        loop {
            if events.poll().await.is_err() {
                sleep(RETRY).await;
            }
        }
    });
    (client, task)
}

fn options_v5(id: &str, address: SocketAddr, login: Login) -> rumqttc::MqttOptions {
    let mut options = rumqttc::MqttOptions::new(id, (address.ip().to_string(), address.port()));
    options.set_keep_alive(30).set_max_packet_size(Some(2 << 20));
    if let Some((user, password)) = login {
        options.set_credentials(user, password);
    }
    options
}

fn options_v311(id: &str, address: SocketAddr, login: Login) -> rumqttc_v4::MqttOptions {
    let mut options = rumqttc_v4::MqttOptions::new(id, (address.ip().to_string(), address.port()));
    options.set_keep_alive(30).set_max_packet_size(2 << 20, 2 << 20);
    if let Some((user, password)) = login {
        options.set_credentials(user, password);
    }
    options
}

async fn watch_v5(options: rumqttc::MqttOptions, filter: String, seen: Arc<std::sync::Mutex<Seen>>) {
    use rumqttc::{Event, Packet, QoS};
    let (client, mut events) = rumqttc::AsyncClient::builder(options).capacity(4).build();
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                if client.try_subscribe(filter.clone(), QoS::AtLeastOnce).is_err() {
                    return;
                }
            }
            Ok(Event::Incoming(Packet::SubAck(_))) => lock(&seen).subscribed = true,
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                lock(&seen).take(&publish.topic, publish.payload, publish.retain, publish.properties);
            }
            Ok(_) => {}
            Err(_) => sleep(RETRY).await,
        }
    }
}

async fn watch_v311(options: rumqttc_v4::MqttOptions, filter: String, seen: Arc<std::sync::Mutex<Seen>>) {
    use rumqttc_v4::{Event, Packet, QoS};
    let (client, mut events) = rumqttc_v4::AsyncClient::builder(options).capacity(4).build();
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                if client.try_subscribe(filter.clone(), QoS::AtLeastOnce).is_err() {
                    return;
                }
            }
            Ok(Event::Incoming(Packet::SubAck(_))) => lock(&seen).subscribed = true,
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                lock(&seen).take(&publish.topic, publish.payload, publish.retain, None);
            }
            Ok(_) => {}
            Err(_) => sleep(RETRY).await,
        }
    }
}
