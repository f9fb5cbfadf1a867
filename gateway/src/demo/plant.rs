//! The devices of the demo: each gives away a counter.
//!
//! A leaf publishes it. The Modbus device and the OPC UA server show the next number only when the one before has been
//! read or sampled, so that a number that was shown and didn't arrive is lost, and not merely missed in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use fieldgate_certs::Issued;
use fieldgate_modbus::sim::Simulator as ModbusSimulator;
use fieldgate_opcua::sim::Simulator as OpcuaSimulator;
use fieldgate_types::DeviceId;
use rumqttc::mqttbytes::v5::{Packet, Publish};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, PublishOptions, QoS, TlsConfiguration, Transport};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Each device gives away this many numbers a second: three devices stay far below 50 messages a second in all.
const PER_SECOND: u32 = 5;
/// Where the Modbus device shows its counter, as two registers.
pub const MODBUS_COUNT: u16 = 0;
/// Its writable register.
pub const MODBUS_SETPOINT: u16 = 10;
/// The variable of the OPC UA server that shows its counter.
pub const OPCUA_COUNT: &str = "counter";

/// The counters as they were given away; 0 before the first.
#[derive(Debug, Default)]
pub struct Counters {
    /// Of the leaf.
    pub leaf: AtomicU64,
    /// Of the Modbus device.
    pub modbus: AtomicU64,
    /// Of the OPC UA server.
    pub opcua: AtomicU64,
}

/// The simulated field devices; they count once they are told to.
pub struct Plant {
    /// The Modbus TCP device.
    pub modbus: Arc<ModbusSimulator>,
    /// The OPC UA server.
    pub opcua: Arc<OpcuaSimulator>,
}

/// What counts.
pub struct Counting {
    tasks: JoinSet<anyhow::Result<()>>,
    stop: CancellationToken,
}

impl Counting {
    /// Stops counting and waits until the last number is given away.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(())
    }
}

impl Plant {
    /// Every device counts up from `counters`.
    pub fn count(&self, leaf: Leaf, counters: &Arc<Counters>) -> Counting {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let (modbus, on) = (Arc::clone(&self.modbus), Arc::clone(counters));
        let stopped = stop.clone();
        tasks.spawn(async move {
            let mut tick = ticks();
            while stopped.run_until_cancelled(tick.tick()).await.is_some() {
                let count = on.modbus.load(Ordering::Relaxed) + 1;
                let words = [(count >> 16 & 0xffff) as u16, (count & 0xffff) as u16];
                modbus.set_holding(MODBUS_COUNT, &words);
                on.modbus.store(count, Ordering::Relaxed);
                let before = modbus.requests();
                until("the Modbus device", || modbus.requests() > before).await?;
            }
            Ok(())
        });
        let (opcua, on) = (Arc::clone(&self.opcua), Arc::clone(counters));
        let stopped = stop.clone();
        tasks.spawn(async move {
            let mut tick = ticks();
            while stopped.run_until_cancelled(tick.tick()).await.is_some() {
                let count = on.opcua.load(Ordering::Relaxed) + 1;
                opcua.set(OPCUA_COUNT, f64::from(u32::try_from(count)?))?;
                on.opcua.store(count, Ordering::Relaxed);
                until("the OPC UA server", || opcua.seen(OPCUA_COUNT)).await?;
            }
            Ok(())
        });
        let on = Arc::clone(counters);
        let stopped = stop.clone();
        tasks.spawn(async move { leaf.count(&on.leaf, &stopped).await });
        Counting { tasks, stop }
    }
}

fn ticks() -> tokio::time::Interval {
    let mut ticks = interval(Duration::from_secs(1) / PER_SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Waits until the gateway has read what `device` shows.
async fn until(device: &str, read: impl Fn() -> bool) -> anyhow::Result<()> {
    let reading = async {
        while !read() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(20), reading).await;
    in_time.with_context(|| format!("the gateway has stopped reading {device}"))
}

/// A leaf device: an MQTT 5 client that has connected over mTLS and answers its commands.
pub struct Leaf {
    id: DeviceId,
    client: AsyncClient,
    events: tokio::task::JoinHandle<()>,
}

impl Leaf {
    /// Connects to the gateway's broker at `port` with the bundle that was issued to `id`.
    pub fn connect(id: &DeviceId, port: u16, bundle: &Issued) -> anyhow::Result<Self> {
        let key = bundle.key_pem.as_ref().context("the bundle has no key")?;
        let mut options = MqttOptions::new(id.as_str(), ("localhost", port));
        options.set_keep_alive(30);
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Simple {
            ca: bundle.ca_pem.clone().into_bytes(),
            alpn: None,
            client_auth: Some((bundle.certificate_pem.clone().into_bytes(), key.expose().as_bytes().to_vec())),
        }));
        let (client, events) = AsyncClient::builder(options).capacity(64).build();
        let events = tokio::spawn(answer_commands(id.clone(), client.clone(), events));
        Ok(Self { id: id.clone(), client, events })
    }

    /// Publishes a number at a time, each acknowledged before the next.
    async fn count(self, counter: &AtomicU64, stop: &CancellationToken) -> anyhow::Result<()> {
        let topic = format!("devices/{}/telemetry/counter", self.id);
        let mut tick = ticks();
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let count = counter.load(Ordering::Relaxed) + 1;
            let payload = format!("{{\"count\":{count}}}");
            let notice =
                self.client.publish_tracked(topic.clone(), payload, PublishOptions::new(QoS::AtLeastOnce)).await?;
            let acknowledged = tokio::time::timeout(Duration::from_secs(20), notice.wait_async()).await;
            acknowledged.context("the gateway has stopped acknowledging the leaf")??;
            counter.store(count, Ordering::Relaxed);
        }
        self.events.abort();
        Ok(())
    }
}

async fn answer_commands(id: DeviceId, client: AsyncClient, mut events: EventLoop) {
    loop {
        let result = match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                client.subscribe(format!("devices/{id}/commands/+/+"), QoS::AtLeastOnce).await
            }
            Ok(Event::Incoming(Packet::Publish(Publish { topic, .. }))) => {
                let result = format!("{}/result", String::from_utf8_lossy(&topic));
                client
                    .publish(result, r#"{"status":"ok","value":"blinked"}"#, PublishOptions::new(QoS::AtLeastOnce))
                    .await
            }
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::warn!(%error, "the leaf lost its connection");
                tokio::time::sleep(Duration::from_millis(250)).await;
                Ok(())
            }
        };
        if let Err(error) = result {
            tracing::warn!(%error, "the leaf can't send");
        }
    }
}
