//! A real MQTT server (rumqttd, as in the demo), an observer on it, and a relay between it and us that can be cut.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

type Messages = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// Both versions on ports of their own. rumqttd can't be stopped: it lives until the test process ends.
pub struct Cloud {
    pub v4: u16,
    pub v5: u16,
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn server(name: &str, port: u16) -> (String, ServerSettings) {
    let settings = ServerSettings {
        name: name.to_owned(),
        listen: SocketAddr::from(([127, 0, 0, 1], port)),
        tls: None,
        next_connection_delay_ms: 0,
        connections: ConnectionSettings {
            connection_timeout_ms: 5000,
            max_payload_size: 1 << 20,
            max_inflight_count: 200,
            auth: None,
            external_auth: None,
            dynamic_filters: true,
        },
    };
    (name.to_owned(), settings)
}

impl Cloud {
    pub async fn start() -> Self {
        let (v4, v5) = (free_port(), free_port());
        let config = Config {
            id: 0,
            router: RouterConfig {
                max_connections: 20,
                max_outgoing_packet_count: 10_000,
                max_segment_size: 64 << 20,
                max_segment_count: 10,
                ..RouterConfig::default()
            },
            v4: Some(HashMap::from([server("v4", v4)])),
            v5: Some(HashMap::from([server("v5", v5)])),
            ..Config::default()
        };
        std::thread::spawn(move || Broker::new(config).start().unwrap());
        for port in [v4, v5] {
            let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                assert!(tokio::time::Instant::now() < deadline, "rumqttd does not listen");
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
        Self { v4, v5 }
    }
}

/// Everything that reaches the cloud below `fieldgate/#`, and a way to send commands.
pub struct Observer {
    messages: Messages,
    sender: Sender,
}

enum Sender {
    V4(rumqttc_v4::AsyncClient),
    V5(rumqttc::AsyncClient),
}

impl Observer {
    pub async fn v5(port: u16) -> Self {
        let mut options = rumqttc::MqttOptions::new("observer", ("127.0.0.1", port));
        options.set_max_packet_size(Some(1 << 20));
        let (client, mut events) = rumqttc::AsyncClient::builder(options).capacity(100).build();
        let messages = Messages::default();
        let kept = Arc::clone(&messages);
        let (ready, mut subscribed) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok(event) = events.poll().await {
                match event {
                    rumqttc::Event::Incoming(rumqttc::Packet::Publish(p)) => {
                        kept.lock().unwrap().push((String::from_utf8(p.topic.to_vec()).unwrap(), p.payload.to_vec()));
                    }
                    rumqttc::Event::Incoming(rumqttc::Packet::SubAck(_)) => ready.send_modify(|ready| *ready = true),
                    _ => {}
                }
            }
        });
        client.subscribe("fieldgate/#", rumqttc::QoS::AtLeastOnce).await.unwrap();
        subscribed.wait_for(|ready| *ready).await.unwrap();
        Self { messages, sender: Sender::V5(client) }
    }

    pub async fn v4(port: u16) -> Self {
        let mut options = rumqttc_v4::MqttOptions::new("observer", ("127.0.0.1", port));
        options.set_max_packet_size(1 << 20, 1 << 20);
        let (client, mut events) = rumqttc_v4::AsyncClient::builder(options).capacity(100).build();
        let messages = Messages::default();
        let kept = Arc::clone(&messages);
        let (ready, mut subscribed) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok(event) = events.poll().await {
                match event {
                    rumqttc_v4::Event::Incoming(rumqttc_v4::Packet::Publish(p)) => {
                        kept.lock().unwrap().push((String::from_utf8(p.topic.to_vec()).unwrap(), p.payload.to_vec()));
                    }
                    rumqttc_v4::Event::Incoming(rumqttc_v4::Packet::SubAck(_)) => {
                        ready.send_modify(|ready| *ready = true);
                    }
                    _ => {}
                }
            }
        });
        client.subscribe("fieldgate/#", rumqttc_v4::QoS::AtLeastOnce).await.unwrap();
        subscribed.wait_for(|ready| *ready).await.unwrap();
        Self { messages, sender: Sender::V4(client) }
    }

    pub async fn command(&self, topic: &str) {
        match &self.sender {
            Sender::V4(client) => {
                client.publish(topic, "{}", rumqttc_v4::PublishOptions::at_least_once()).await.unwrap();
            }
            Sender::V5(client) => client.publish(topic, "{}", rumqttc::PublishOptions::at_least_once()).await.unwrap(),
        }
    }

    pub fn numbers(&self) -> HashMap<String, Vec<u32>> {
        let messages = self.messages.lock().unwrap();
        super::numbers(messages.iter().map(|(topic, payload)| (topic.as_str(), payload.as_slice())))
    }

    /// Payloads of the gateway's state, in order.
    pub fn states(&self) -> Vec<String> {
        let messages = self.messages.lock().unwrap();
        let states = messages.iter().filter(|(topic, _)| topic == "fieldgate/line-4/state");
        states.map(|(_, payload)| String::from_utf8(payload.clone()).unwrap()).collect()
    }
}

/// Carries bytes both ways until it is cut; then it refuses until it is mended.
pub struct Relay {
    pub port: u16,
    mended: watch::Sender<bool>,
}

impl Relay {
    pub async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mended, state) = watch::channel(true);
        tokio::spawn(async move {
            let mut carried = JoinSet::new();
            let mut changes = state.clone();
            loop {
                tokio::select! {
                    changed = changes.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        carried.shutdown().await;
                    }
                    accepted = listener.accept() => {
                        let (mut near, _) = accepted.unwrap();
                        if *state.borrow() {
                            carried.spawn(async move {
                                let mut far = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                                near.set_nodelay(true).unwrap();
                                far.set_nodelay(true).unwrap();
                                // Ends with an error when either side leaves.
                                let _ended = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                            });
                        }
                    }
                }
            }
        });
        Self { port, mended }
    }

    pub fn cut(&self) {
        self.mended.send_replace(false);
    }

    pub fn mend(&self) {
        self.mended.send_replace(true);
    }
}
