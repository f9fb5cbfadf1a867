//! Counters and gauges of the broker, as plain numbers; names and labels are the gateway's business.

use std::net::SocketAddr;
use std::sync::Arc;

use fieldgate_types::UnixMillis;

use crate::{Role, Version};

/// A snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BrokerMetrics {
    /// Gauge: clients with an attached session.
    pub connections: u64,
    /// Gauge: sockets before their CONNECT.
    pub pending_sockets: u64,
    /// Gauge: sessions, connected or not.
    pub sessions: u64,
    /// Gauge: subscriptions.
    pub subscriptions: u64,
    /// Gauge: retained messages.
    pub retained_messages: u64,
    /// Gauge: bytes of retained messages.
    pub retained_bytes: u64,
    /// Gauge: bytes in all buffers together.
    pub buffer_bytes: u64,
    /// Sockets accepted.
    pub accepted: u64,
    /// Pending sockets closed for a newer one.
    pub pending_evicted: u64,
    /// Sockets that did not get to a handshake or a CONNECT in time.
    pub handshake_timeouts: u64,
    /// TLS handshakes that failed.
    pub handshake_failures: u64,
    /// Newcomers that waited behind their handshake for `handshakes_per_second`.
    pub handshakes_paced: u64,
    /// CONNECTs accepted.
    pub connected: u64,
    /// CONNECTs refused.
    pub refused: u64,
    /// Connections taken over by a newer one.
    pub took_over: u64,
    /// PUBLISH packets received.
    pub messages_in: u64,
    /// PUBLISH packets sent, first transmissions.
    pub messages_out: u64,
    /// Bytes received from connected clients.
    pub bytes_in: u64,
    /// Bytes sent to connected clients.
    pub bytes_out: u64,
    /// PUBLISH packets refused.
    pub publish_refused: u64,
    /// Filters refused.
    pub subscription_refused: u64,
    /// Times that a publisher waited for a full queue.
    pub queue_waits: u64,
    /// Times that a device was slowed by the message rate.
    pub rate_waits: u64,
    /// Times that a publish waited because all buffers were full.
    pub buffer_waits: u64,
    /// Receivers disconnected for being slow.
    pub slow_receivers: u64,
    /// Messages for sessions dropped because their queue was full.
    pub dropped_queue_full: u64,
    /// ... because all buffers together were full.
    pub dropped_buffers_full: u64,
    /// ... because they expired.
    pub dropped_expired: u64,
    /// ... because the rights were withdrawn.
    pub dropped_not_authorized: u64,
    /// ... because the session ended.
    pub dropped_session_ended: u64,
    /// ... because the receiver can't take packets of that size.
    pub dropped_too_large: u64,
    /// ... because the receiver was disconnected for being slow.
    pub dropped_slow_receiver: u64,
    /// Retained messages not kept because of a limit.
    pub retained_refused: u64,
    /// Wills published.
    pub wills_fired: u64,
    /// Commits that failed.
    pub commits_failed: u64,
}

/// One connected client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// Identity's id.
    pub id: Arc<str>,
    /// Identity's role.
    pub role: Role,
    /// MQTT client id.
    pub client_id: Arc<str>,
    /// From where.
    pub peer: SocketAddr,
    /// Since when.
    pub since: UnixMillis,
    /// MQTT 3.1.1 or 5.
    pub version: Version,
    /// PUBLISH packets received.
    pub messages_in: u64,
    /// PUBLISH packets sent.
    pub messages_out: u64,
}
