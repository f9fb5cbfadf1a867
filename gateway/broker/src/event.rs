//! What the broker tells the gateway: one closed enum, from which audit lines, presence and metrics are made.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::{Identity, Version};

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A client is connected and its session attached.
    Connected {
        /// Who.
        who: Arc<Identity>,
        /// Its MQTT client id.
        client_id: Arc<str>,
        /// From where.
        peer: SocketAddr,
        /// MQTT 3.1.1 or 5.
        version: Version,
        /// Whether an older session was resumed.
        session_present: bool,
    },
    /// A connected client is gone.
    Disconnected {
        /// Who.
        who: Arc<Identity>,
        /// Its MQTT client id.
        client_id: Arc<str>,
        /// From where.
        peer: SocketAddr,
        /// Why.
        reason: DisconnectReason,
    },
    /// A connection was refused before its session was attached.
    Refused {
        /// The id, where that is proven.
        who: Option<Arc<str>>,
        /// From where.
        peer: SocketAddr,
        /// MQTT 5 reason code, on 3.1.1 its equivalent; `None` when the connection never got to its CONNECT.
        code: Option<u8>,
        /// For people.
        words: String,
    },
    /// A filter in a SUBSCRIBE was refused.
    SubscriptionRefused {
        /// Who.
        who: Arc<Identity>,
        /// The whole filter as sent.
        filter: String,
        /// MQTT 5 reason code.
        code: u8,
    },
    /// A PUBLISH, or a will, was refused.
    PublishRefused {
        /// Who.
        who: Arc<Identity>,
        /// Its topic.
        topic: Arc<str>,
        /// MQTT 5 reason code.
        code: u8,
    },
    /// An older connection with the same client id was closed for a newer one.
    TookOver {
        /// Who.
        who: Arc<Identity>,
        /// The client id of both.
        client_id: Arc<str>,
        /// Where the newer one comes from.
        by: SocketAddr,
    },
    /// A will was published.
    WillFired {
        /// Whose.
        who: Arc<Identity>,
        /// Where.
        topic: Arc<str>,
    },
    /// Messages were dropped for one receiver.
    Dropped {
        /// Its identity's id.
        id: Arc<str>,
        /// Why.
        reason: DropReason,
        /// How many.
        count: u64,
    },
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DisconnectReason {
    /// The client sent DISCONNECT.
    Client,
    /// The client sent DISCONNECT and asked for its will.
    ClientWithWill,
    /// The socket closed or failed without a DISCONNECT.
    Network,
    /// Nothing was heard for one and a half keep-alives.
    KeepAlive,
    /// A newer connection of the same client took over.
    TakenOver,
    /// The identity was revoked.
    Revoked,
    /// The certificate has ended.
    CertificateEnded,
    /// Another certificate took the place of its own, and the time is over in which both were good.
    Superseded,
    /// Somebody with the right to do so closed it.
    Administrative,
    /// The server is stopping.
    ServerShutdown,
    /// It published where it may not (only 3.1.1, which has no other answer).
    NotAuthorized,
    /// It took no byte, or its full queue did not move, for too long.
    SlowReceiver,
    /// The bytes were no MQTT.
    Malformed,
    /// The packets broke the protocol.
    ProtocolError,
    /// More unacknowledged publishes than the Receive Maximum.
    ReceiveMaximumExceeded,
    /// A topic alias outside the announced range.
    TopicAliasInvalid,
    /// A packet beyond the announced size.
    PacketTooLarge,
    /// A topic name or filter that is not acceptable.
    TopicInvalid,
    /// The store refuses; nothing can be acknowledged.
    StoreFailed,
}

impl DisconnectReason {
    /// MQTT 5 reason code.
    pub fn code(self) -> u8 {
        match self {
            Self::Client => 0x00,
            Self::ClientWithWill => 0x04,
            Self::Network => 0x80,
            Self::Malformed => 0x81,
            Self::ProtocolError => 0x82,
            Self::StoreFailed => 0x83,
            Self::Revoked | Self::CertificateEnded | Self::Superseded | Self::NotAuthorized => 0x87,
            Self::ServerShutdown => 0x8B,
            Self::KeepAlive => 0x8D,
            Self::TakenOver => 0x8E,
            Self::TopicInvalid => 0x90,
            Self::ReceiveMaximumExceeded => 0x93,
            Self::TopicAliasInvalid => 0x94,
            Self::PacketTooLarge => 0x95,
            Self::SlowReceiver => 0x97,
            Self::Administrative => 0x98,
        }
    }

    /// One word for logs and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::ClientWithWill => "client-with-will",
            Self::Network => "network",
            Self::KeepAlive => "keep-alive",
            Self::TakenOver => "taken-over",
            Self::Revoked => "revoked",
            Self::CertificateEnded => "certificate-ended",
            Self::Superseded => "superseded",
            Self::Administrative => "administrative",
            Self::ServerShutdown => "server-shutdown",
            Self::NotAuthorized => "not-authorized",
            Self::SlowReceiver => "slow-receiver",
            Self::Malformed => "malformed",
            Self::ProtocolError => "protocol-error",
            Self::ReceiveMaximumExceeded => "receive-maximum-exceeded",
            Self::TopicAliasInvalid => "topic-alias-invalid",
            Self::PacketTooLarge => "packet-too-large",
            Self::TopicInvalid => "topic-invalid",
            Self::StoreFailed => "store-failed",
        }
    }
}

/// Why messages did not reach a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// The queue of an offline session was full: the oldest went.
    QueueFull,
    /// All buffers together were full: the older half of a large queue went.
    BuffersFull,
    /// The message expired in the queue.
    Expired,
    /// The rights were withdrawn before delivery.
    NotAuthorized,
    /// The session ended with messages in it.
    SessionEnded,
    /// The message is larger than the receiver's Maximum Packet Size.
    TooLarge,
    /// The receiver was disconnected for being slow, this message met its full queue.
    SlowReceiver,
}

impl DropReason {
    /// All of them, for counters.
    pub const ALL: [Self; 7] = [
        Self::QueueFull,
        Self::BuffersFull,
        Self::Expired,
        Self::NotAuthorized,
        Self::SessionEnded,
        Self::TooLarge,
        Self::SlowReceiver,
    ];

    /// One word for logs and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::BuffersFull => "buffers-full",
            Self::Expired => "expired",
            Self::NotAuthorized => "not-authorized",
            Self::SessionEnded => "session-ended",
            Self::TooLarge => "too-large",
            Self::SlowReceiver => "slow-receiver",
        }
    }
}
