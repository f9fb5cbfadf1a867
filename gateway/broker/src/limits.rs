//! What the broker is told: where to listen and every limit with its default (DESIGN section 8).

use std::net::SocketAddr;
use std::time::Duration;

/// Settings of the broker.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Addresses with mTLS; port 0 takes a free one, see [`crate::Broker::local_addrs`].
    pub listen: Vec<SocketAddr>,
    /// Addresses with TLS and passwords, see [`crate::Gate::identify_user`].
    pub users_tls: Vec<SocketAddr>,
    /// Addresses without TLS, with passwords.
    pub plain: Vec<SocketAddr>,
    /// Addresses with MQTT over WebSocket over mTLS.
    pub websocket: Vec<SocketAddr>,
    /// Web pages that may use `websocket`, as browsers name them (`https://hmi.example`), besides those of the host
    /// that the WebSocket is opened to.
    pub websocket_origins: Vec<String>,
    /// Threads for handshakes, so that a thousand of them don't stand before the packets of who is connected. Default:
    /// the runtime of everything else.
    pub handshakes_on: Option<tokio::runtime::Handle>,
    /// The limits.
    pub limits: Limits,
}

/// Every number that bounds what clients can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections with an attached session.
    pub connections: usize,
    /// Connections of one identity of role App; devices and gateways have one.
    pub connections_per_app: usize,
    /// Largest packet, fixed header included.
    pub packet: usize,
    /// Largest CONNECT.
    pub connect_packet: usize,
    /// Longest topic name or filter, in bytes.
    pub topic: usize,
    /// Most levels of a topic name or filter.
    pub topic_levels: usize,
    /// Subscriptions of one session.
    pub subscriptions: usize,
    /// Filters in one SUBSCRIBE.
    pub filters_per_subscribe: usize,
    /// Unacknowledged publishes from a client: Receive Maximum on MQTT 5, where reading pauses on 3.1.1.
    pub receive_maximum: u16,
    /// Unacknowledged publishes to a client; its own Receive Maximum counts when that is lower.
    pub in_flight: u16,
    /// Topic aliases that a client may set; also the most that are set towards it, where it allows any.
    pub topic_alias_maximum: u16,
    /// Messages waiting for one session.
    pub session_queue_messages: usize,
    /// Bytes waiting for one session.
    pub session_queue_bytes: usize,
    /// Longest session expiry; what a 3.1.1 client without clean session gets.
    pub session_expiry: Duration,
    /// Bytes encoded for one connection and not yet taken by it.
    pub output_buffer: usize,
    /// A receiver that takes no byte for so long is disconnected.
    pub receiver_stall: Duration,
    /// Publishers wait so long for a full queue of a live receiver, then it is disconnected.
    pub full_queue_wait: Duration,
    /// Retained messages stored by one client.
    pub retained_per_client: usize,
    /// Retained messages in all.
    pub retained_messages: usize,
    /// Bytes of retained messages in all.
    pub retained_bytes: usize,
    /// Server Keep Alive for MQTT 5 clients that ask for none.
    pub keep_alive: Duration,
    /// Messages per second of a device before its reading is slowed; 0 = off. Apps and gateways have none.
    pub message_rate: u32,
    /// Messages that a device may send at once before the rate counts.
    pub message_burst: u32,
    /// All buffers together: messages wherever they wait, input and output.
    pub buffers: usize,
    /// From accept to a finished TLS handshake, and on WebSocket to its HTTP request.
    pub client_hello_timeout: Duration,
    /// From the handshake to the CONNECT.
    pub connect_timeout: Duration,
    /// Sockets before their CONNECT; beyond it the oldest is closed.
    pub pending_sockets: usize,
    /// Handshakes that compute at the same time.
    pub handshakes: usize,
    /// Completed handshakes per second that go on to their CONNECT; 0 = no limit. The rest wait, pending.
    pub handshakes_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 2_000,
            connections_per_app: 8,
            packet: 256 << 10,
            connect_packet: 16 << 10,
            topic: 1 << 10,
            topic_levels: 16,
            subscriptions: 64,
            filters_per_subscribe: 16,
            receive_maximum: 32,
            in_flight: 32,
            topic_alias_maximum: 16,
            session_queue_messages: 1_000,
            session_queue_bytes: 1 << 20,
            session_expiry: Duration::from_secs(7 * 86_400),
            output_buffer: 256 << 10,
            receiver_stall: Duration::from_secs(10),
            full_queue_wait: Duration::from_secs(1),
            retained_per_client: 100,
            retained_messages: 10_000,
            retained_bytes: 16 << 20,
            keep_alive: Duration::from_secs(300),
            message_rate: 200,
            message_burst: 1_000,
            buffers: 64 << 20,
            client_hello_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            pending_sockets: 4_096,
            handshakes: 64,
            handshakes_per_second: 500,
        }
    }
}
