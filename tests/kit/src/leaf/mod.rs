//! A leaf device: an MQTT client over mTLS, version 5 or 3.1.1, for one connection.
//!
//! It never reconnects by itself: when its connection ends it says why, and whoever wants another connects again. So
//! what was acknowledged, and on which connection, is always known.

mod v311;
mod v5;

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use rumqttc::PublishProperties;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::{Bundle, PATIENCE, wait_until};

/// Which MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1
    V311,
    /// MQTT 5
    V5,
}

/// How a leaf answers a command: the payload for the result topic, or no answer at all.
pub type Answers = Arc<dyn Fn(&Received) -> Option<Vec<u8>> + Send + Sync>;

/// How a leaf connects and behaves.
#[derive(Clone)]
pub struct Options {
    /// Which MQTT.
    pub version: Version,
    /// Client id; the device's id where it is not set.
    pub client_id: Option<String>,
    /// Trusts this bundle's CA instead of its own.
    pub trust: Option<Bundle>,
    /// Answers commands with it, once [`Leaf::serve_commands`] was called.
    pub answers: Answers,
    /// Topic and payload of a will, QoS 1.
    pub will: Option<(String, Vec<u8>)>,
    /// User name and password.
    pub user: Option<(String, String)>,
}

impl Options {
    /// As a device of that version does by itself; commands are answered with `{"status":"ok"}`.
    pub fn new(version: Version) -> Self {
        let answers: Answers = Arc::new(|_| Some(br#"{"status":"ok"}"#.to_vec()));
        Self { version, client_id: None, trust: None, answers, will: None, user: None }
    }

    /// Answers commands with what `answer` gives.
    #[must_use]
    pub fn answering(self, answer: impl Fn(&Received) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self { answers: Arc::new(answer), ..self }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("version", &self.version).finish_non_exhaustive()
    }
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectError {
    /// The CONNACK says no; the name of its code.
    Refused(String),
    /// There was no CONNACK: TCP, TLS or the time-out ended it.
    Broken(String),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(code) => write!(f, "the CONNACK says {code}"),
            Self::Broken(why) => write!(f, "no CONNACK came: {why}"),
        }
    }
}

impl std::error::Error for ConnectError {}

/// What became of a publish with QoS 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// Acknowledged.
    Accepted,
    /// Acknowledged with this reason code, 0x80 or above (MQTT 5).
    Refused(u8),
    /// The connection ended before an acknowledgement came.
    Lost,
}

/// A message that came to the leaf.
#[derive(Debug, Clone)]
pub struct Received {
    /// Topic.
    pub topic: String,
    /// Payload.
    pub payload: Bytes,
    /// The retain flag.
    pub retain: bool,
}

/// What happened on the connection.
#[derive(Debug, Default)]
struct Log {
    received: Vec<Received>,
    ended: Option<(Instant, String)>,
}

/// The log of a connection, shared with the task that polls it.
#[derive(Debug, Clone, Default)]
struct Diary(Arc<Mutex<Log>>);

impl Diary {
    fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self, why: impl fmt::Display) {
        self.lock().ended.get_or_insert_with(|| (Instant::now(), why.to_string()));
    }

    /// Keeps the message, and says what to answer where: for a command alone.
    fn received(&self, message: Received, answers: &Answers) -> Option<(String, Vec<u8>)> {
        let levels: Vec<&str> = message.topic.split('/').collect();
        let command = matches!(levels.as_slice(), ["devices", _, "commands", _, _]);
        let answer = command.then(|| answers(&message)).flatten();
        let topic = format!("{}/result", message.topic);
        self.lock().received.push(message);
        answer.map(|payload| (topic, payload))
    }
}

/// A publish on its way.
#[derive(Debug)]
pub enum Sent {
    /// Over 3.1.1.
    V311(rumqttc_v4::PublishNotice),
    /// Over 5.
    V5(rumqttc::PublishNotice),
}

impl Sent {
    /// Waits for its acknowledgement, or the end of the connection.
    pub async fn acknowledged(self) -> Ack {
        match self {
            Self::V311(notice) => v311::ack(notice).await,
            Self::V5(notice) => v5::ack(notice).await,
        }
    }
}

enum Client {
    V311(rumqttc_v4::AsyncClient),
    V5(rumqttc::AsyncClient),
}

/// A connected leaf. Dropping it closes the socket without a DISCONNECT, as a power cut would.
pub struct Leaf {
    /// The device's id.
    pub id: String,
    client: Client,
    diary: Diary,
    events: JoinHandle<()>,
}

impl Leaf {
    /// Connects with `bundle` to the broker at `address`.
    pub async fn connect(bundle: &Bundle, address: SocketAddr, options: Options) -> Result<Self, ConnectError> {
        let broken = |error: anyhow::Error| ConnectError::Broken(format!("{error:#}"));
        let trust = options.trust.as_ref().unwrap_or(bundle);
        let identity = Some((bundle.certificate().map_err(broken)?, bundle.key().map_err(broken)?));
        let tls = Tls { ca: trust.ca().map_err(broken)?, identity };
        Self::connect_over(&bundle.id, Some(tls), address, options).await
    }

    /// Connects as a user with a password; over TLS where there is a CA (PEM) to trust.
    pub async fn connect_user(
        name: &str,
        password: &str,
        ca: Option<Vec<u8>>,
        address: SocketAddr,
        options: Options,
    ) -> Result<Self, ConnectError> {
        let options = Options { user: Some((name.to_owned(), password.to_owned())), ..options };
        Self::connect_over(name, ca.map(|ca| Tls { ca, identity: None }), address, options).await
    }

    async fn connect_over(
        own: &str,
        tls: Option<Tls>,
        address: SocketAddr,
        options: Options,
    ) -> Result<Self, ConnectError> {
        let id = options.client_id.clone().unwrap_or_else(|| own.to_owned());
        let diary = Diary::default();
        let connecting = async {
            Ok::<_, ConnectError>(match options.version {
                Version::V311 => {
                    let (client, events) = v311::connect(&id, address, tls, &options, diary.clone()).await?;
                    (Client::V311(client), events)
                }
                Version::V5 => {
                    let (client, events) = v5::connect(&id, address, tls, &options, diary.clone()).await?;
                    (Client::V5(client), events)
                }
            })
        };
        let slow = |_| ConnectError::Broken(format!("not within {PATIENCE:?}"));
        let (client, events) = timeout(PATIENCE, connecting).await.map_err(slow)??;
        Ok(Self { id: own.to_owned(), client, diary, events })
    }

    /// Publishes with QoS 1 and waits for the acknowledgement.
    pub async fn publish(&self, topic: &str, payload: impl Into<Vec<u8>>) -> anyhow::Result<Ack> {
        self.acknowledged(self.send(topic, payload).await?).await
    }

    /// Publishes with QoS 1 and MQTT 5 properties, and waits for the acknowledgement.
    pub async fn publish_with(
        &self,
        topic: &str,
        payload: impl Into<Vec<u8>>,
        properties: PublishProperties,
    ) -> anyhow::Result<Ack> {
        let Client::V5(client) = &self.client else { bail!("3.1.1 has no properties") };
        let options = rumqttc::PublishOptions::at_least_once().properties(properties);
        let notice = client.publish_tracked(topic.to_owned(), payload.into(), options).await?;
        self.acknowledged(Sent::V5(notice)).await
    }

    async fn acknowledged(&self, sent: Sent) -> anyhow::Result<Ack> {
        timeout(PATIENCE, sent.acknowledged()).await.with_context(|| format!("no PUBACK for {}", self.id))
    }

    /// Publishes with QoS 1, without waiting.
    pub async fn send(&self, topic: &str, payload: impl Into<Vec<u8>>) -> anyhow::Result<Sent> {
        let (topic, payload) = (topic.to_owned(), payload.into());
        Ok(match &self.client {
            Client::V311(client) => {
                let options = rumqttc_v4::PublishOptions::at_least_once();
                Sent::V311(client.publish_tracked(topic, payload, options).await?)
            }
            Client::V5(client) => {
                let options = rumqttc::PublishOptions::at_least_once();
                Sent::V5(client.publish_tracked(topic, payload, options).await?)
            }
        })
    }

    /// Publishes retained, with QoS 1, and waits for the acknowledgement.
    pub async fn publish_retained(&self, topic: &str, payload: impl Into<Vec<u8>>) -> anyhow::Result<Ack> {
        let (topic, payload) = (topic.to_owned(), payload.into());
        let sent = match &self.client {
            Client::V311(client) => {
                let options = rumqttc_v4::PublishOptions::at_least_once().retain(true);
                Sent::V311(client.publish_tracked(topic, payload, options).await?)
            }
            Client::V5(client) => {
                let options = rumqttc::PublishOptions::at_least_once().retain(true);
                Sent::V5(client.publish_tracked(topic, payload, options).await?)
            }
        };
        self.acknowledged(sent).await
    }

    /// Subscribes with QoS 1; the reason code of the SUBACK.
    pub async fn subscribe(&self, filter: &str) -> anyhow::Result<u8> {
        let asked = async {
            match &self.client {
                Client::V311(client) => v311::subscribe(client, filter).await,
                Client::V5(client) => v5::subscribe(client, filter).await,
            }
        };
        timeout(PATIENCE, asked).await.with_context(|| format!("no SUBACK for {filter}"))?
    }

    /// Subscribes to its commands, which are then answered as its [`Options`] say.
    pub async fn serve_commands(&self) -> anyhow::Result<()> {
        let code = self.subscribe(&format!("devices/{}/commands/+/+", self.id)).await?;
        if code > 2 {
            bail!("the subscription to its commands was refused with 0x{code:02x}");
        }
        Ok(())
    }

    /// Everything that came, in order.
    pub fn received(&self) -> Vec<Received> {
        self.diary.lock().received.clone()
    }

    /// When and why the connection ended, if it did.
    pub fn ended(&self) -> Option<(Instant, String)> {
        self.diary.lock().ended.clone()
    }

    /// Waits until the connection has ended; when and why.
    pub async fn wait_ended(&self, limit: Duration) -> anyhow::Result<(Instant, String)> {
        wait_until(&format!("the end of the connection of {}", self.id), limit, || self.ended()).await
    }

    /// Ends with a DISCONNECT.
    pub async fn disconnect(self) -> anyhow::Result<()> {
        match &self.client {
            Client::V311(client) => client.disconnect().await?,
            Client::V5(client) => client.disconnect().await?,
        }
        self.wait_ended(PATIENCE).await?;
        Ok(())
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        self.events.abort();
    }
}

/// What the TLS side of a client needs, PEM.
struct Tls {
    ca: Vec<u8>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// Messages that wait for room in the client's window; a leaf's sender waits for room.
const CAPACITY: usize = 64;
