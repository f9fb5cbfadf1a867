//! The one upstream MQTT connection: what waits in the queue goes up, commands come down.
//!
//! # Life of a session
//!
//! 1. Files (CA, certificate, key, password) are read anew, the host is looked up, TCP and TLS are set up, CONNECT
//!    goes out with a retained Will on `{root}/{gateway}/state`. All of it has 15 s.
//! 2. SUBSCRIBE to `{root}/{gateway}/devices/+/commands/#` at QoS 1; the SUBACK must grant it.
//! 3. The birth, retained `{"online":true,"since":ms}`, and its PUBACK. The back-off starts anew only now.
//! 4. Data: records are leased, put into the dialect, published in order, settled after their PUBACK.
//! 5. Any error ends it: the client is dropped, what was acknowledged is settled, the queue is rewound, the back-off
//!    (250 ms … `retry_max`, with jitter) is waited for, and everything begins again with a fresh client.
//! 6. At a stop the queue is emptied as far as the drain time allows, then the retained state says
//!    `{"online":false,"reason":"stopped"}` and DISCONNECT keeps the Will from being needed.
//!
//! The queue alone remembers what is to be sent. The client lives as long as its TCP connection and never re-sends
//! anything. The upstream's session is persistent, so that commands survive an outage on its side.
//!
//! # What is retried, what is put aside
//!
//! | answer | what happens |
//! |---|---|
//! | PUBACK 0x00, 0x10 | settled |
//! | PUBACK 0x80, 0x83, 0x91, 0x97 | nothing is settled from this message on; what is on the wire is waited for, the queue is rewound, after a back-off all of it goes again in order |
//! | PUBACK 0x87, 0x90, 0x95, 0x99 | quarantined with the reason, counted, logged; its neighbours go on |
//! | the same to a batch | nothing is settled from it on; everything goes again in order, the messages of this batch singly |
//! | its own expiry passed while it waited here | counted as expired, not sent |
//! | body can't be decoded, unusable topic or property, larger than the upstream's Maximum Packet Size | quarantined without being sent |
//! | connection lost; no byte came, or could be written, or no PUBACK came for 1.5 × keep-alive; a packet that may not be sent | reconnect, unsettled messages go again in order |
//! | CONNACK: bad user name or password, not authorized, banned, … | tried again every `retry_max`, said in words in the status |
//!
//! Re-sends, those after a crash included, are at most `window`: a message that is acknowledged and whose settlement
//! is not durable yet keeps its place in it. What is on the wire is bounded by the upstream's Receive Maximum as well,
//! and by 16 MiB.
//!
//! # Batches
//!
//! With `batch = "zstd"` telemetry and what is forwarded go many in one publish on `{root}/{gateway}/batch`, everything else as always
//! (`gateway/docs/batches.md`, `docs/decisions/0018-batches.md`). One PUBACK settles all of them; what is sent again is sent again
//! with whatever then goes together. Order on the wire is that of the lease, so a message that goes singly ends the batch before it.
//!
//! # Commands
//!
//! A command is acknowledged upstream when whoever received the [`Downlink`] has accepted it; when that receiver
//! drops it instead, it stays unacknowledged and comes again with the next session. Retained commands are ignored:
//! they would be carried out again at each reconnect, because (device, rid) is remembered for 24 h only.
//!
//! # Parts
//!
//! `config` the section · `dialect` records and topics, pure · `dial`, `tls` the socket · `client` MQTT on it ·
//! `session` the life above · `publisher`, `backlog`, `flight`, `pace`, `share` the way up, `gather`, `pack`, `envelope` its batches, `gaps` what
//! will never go it · `subscriber` the way down · `status` what others may know · `failure` errors in words.

mod backlog;
mod client;
mod config;
mod dial;
mod dialect;
mod envelope;
mod failure;
mod flight;
mod gaps;
mod gather;
mod pace;
mod pack;
mod packet;
mod publisher;
mod session;
mod share;
mod status;
mod subscriber;
mod tls;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fieldgate_store::Queue;
use fieldgate_types::{Clock, DeviceId};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

pub use config::{BatchMode, Login, Protocol, TlsFiles, UpstreamConfig};
pub use gaps::Gaps;
pub use pace::Replay;
pub use status::{ACK_BOUNDS, AckTimes, UpstreamHandle, UpstreamState, UpstreamStatus};

use dialect::Dialect;
use session::Session;

/// A command from upstream.
#[derive(Debug)]
pub struct Downlink {
    /// For whom.
    pub device: DeviceId,
    /// What.
    pub name: String,
    /// Request id; made by the router where it is missing.
    pub rid: Option<String>,
    /// As the upstream sent it.
    pub payload: Bytes,
    /// MQTT 5 response topic.
    pub response_topic: Option<String>,
    /// MQTT 5 correlation data.
    pub correlation: Option<Vec<u8>>,
    /// What was left of the MQTT 5 message expiry when it arrived.
    pub expiry: Option<Duration>,
    /// Fires when the command is durable here, which acknowledges it upstream; dropped: not acknowledged. `None` at
    /// QoS 0, where there is nothing to acknowledge.
    pub accepted: Option<oneshot::Sender<()>>,
}

/// A message of a tree that is fetched.
#[derive(Debug)]
pub struct Fetched {
    /// On which local topic.
    pub topic: String,
    /// As the upstream sent it.
    pub payload: Bytes,
    /// Whether it is retained here.
    pub retain: bool,
    /// MQTT 5 properties.
    pub properties: FetchedProperties,
    /// As [`Downlink::accepted`].
    pub accepted: Option<oneshot::Sender<()>>,
}

/// The MQTT 5 properties that go on to local subscribers; none from a 3.1.1 upstream.
#[derive(Debug, Default)]
pub struct FetchedProperties {
    /// Content type.
    pub content_type: Option<String>,
    /// Payload format indicator: UTF-8.
    pub utf8: bool,
    /// User properties in order.
    pub user: Vec<(String, String)>,
    /// Response topic.
    pub response_topic: Option<String>,
    /// Correlation data.
    pub correlation: Option<Vec<u8>>,
    /// What was left of the message expiry when it arrived.
    pub expiry: Option<Duration>,
}

/// Where to what comes down.
#[derive(Debug, Clone)]
pub struct Down {
    /// Commands.
    pub commands: mpsc::Sender<Downlink>,
    /// Messages of trees that are fetched.
    pub messages: mpsc::Sender<Fetched>,
}

/// Looks the upstream up and connects, with TLS where that is configured, and lets go again. Why not, in words, and whether
/// trying again later can't help: files or certificates are wrong.
pub async fn reach(config: &UpstreamConfig) -> Result<(), (String, bool)> {
    let reached = dial::dial(config).await;
    reached.map(drop).map_err(|failure| (failure.to_string(), failure.is_of_configuration()))
}

/// How long a stop goes on publishing unless [`Upstream::with_drain`] says otherwise: half of the 10 s that DESIGN
/// section 7 gives the whole gateway.
const DRAIN: Duration = Duration::from_secs(5);

/// The connection, as a task.
#[derive(Debug)]
pub struct Upstream {
    session: Session,
}

impl Upstream {
    /// For `gateway`, out of `queue`, and `down`. `replay` says how stored messages go. It connects
    /// in [`Upstream::run`] and ends when `stop` is cancelled.
    pub fn new(
        config: UpstreamConfig,
        gateway: DeviceId,
        queue: Queue,
        down: Down,
        replay: Replay,
        clock: Arc<dyn Clock>,
        stop: CancellationToken,
    ) -> (Self, UpstreamHandle) {
        let (board, handle) = status::board(Arc::clone(&clock));
        let dialect = Dialect::new(&config, &gateway);
        let session = Session { config, gateway, dialect, queue, down, replay, clock, stop, drain: DRAIN, board };
        (Self { session }, handle)
    }

    /// A stop goes on publishing for at most `drain`.
    pub fn with_drain(mut self, drain: Duration) -> Self {
        self.session.drain = drain;
        self
    }

    /// Connects, publishes, reconnects, until stopped.
    pub async fn run(self) {
        self.session.run().await;
    }
}
