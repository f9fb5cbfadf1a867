//! The MQTT client of the upstream connection, versions 3.1.1 and 5. It lives as long as its TCP connection, never
//! reconnects and never sends again.
//!
//! Two parts share a [`book::Book`] behind one lock, which is held for one packet by the first and for one batch by
//! the second, never across an await:
//! - [`Client`], the part that is asked: it writes packets into the book's output and takes answers out of it.
//! - [`Wire`], the part that owns the socket: it takes all of the output at once, writes it, reads, and enters the answers.
//!
//! `encode` and `decode` are the packets, pure, on the framing of [`fieldgate_broker::codec`].
//!
//! # Bounds
//! | what | bound | at it |
//! |---|---|---|
//! | messages on the wire | 65,000, and what the publisher allows | [`Client::publish`] is [`Gone`]; the publisher never comes there |
//! | output that the socket hasn't taken | [`OUTPUT_HIGH`] and one packet | [`Client::room`] waits; so do acknowledgements |
//! | our own replies (PINGREQ, PUBCOMP) | [`REPLIES_MOST`] | the connection ends: the upstream sends and doesn't read |
//! | a packet from upstream | what CONNECT announces, 16 MiB with 3.1.1 | the connection ends before memory is reserved |
//! | arrivals | their channel | one that finds it full stays unacknowledged and comes again with the next session |

mod book;
mod decode;
mod encode;
mod handle;
mod wire;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::Protocol;
use super::failure::Who;
use super::packet::Packet;
use super::status::Counters;

pub(super) use handle::Client;
pub(super) use wire::connect;

/// For DNS, TCP, TLS, CONNECT and CONNACK together, and again for each of SUBACK and the birth's PUBACK.
pub(super) const CONNECT_TIME: Duration = Duration::from_secs(15);
/// Largest command that is taken. The packet around it may be larger by topic and properties.
pub(super) const MAX_COMMAND: usize = 256 * 1024;
/// Topic, properties and header around a command.
const COMMAND_OVERHEAD: usize = 64 * 1024;
/// 3.1.1 can't announce a limit, and a larger packet would end this connection and, redelivered, each next one. So the
/// limit is far above [`MAX_COMMAND`], which the subscriber holds commands to.
const MAX_INCOMING_V311: usize = 16 << 20;
/// Commands that the upstream may send before the first is acknowledged (v5 Receive Maximum).
const RECEIVE_MAXIMUM: u16 = 64;
/// The upstream keeps commands for us for as long as it can: we may be away for months.
const SESSION_EXPIRY: u32 = u32::MAX;
/// Messages on the wire, whatever the upstream allows: below the 65,535 packet ids by more than anything else that needs one.
const MOST_IN_FLIGHT: u16 = 65_000;
/// Output that waits for the socket: four of its writes. More would only be older when it goes out.
const OUTPUT_HIGH: usize = 256 * 1024;
/// Our own replies that wait for the socket: 16,384 PUBCOMPs.
const REPLIES_MOST: usize = 64 * 1024;

/// What goes into CONNECT.
#[derive(Debug)]
pub(super) struct Hello<'a> {
    /// Of MQTT.
    pub protocol: Protocol,
    /// For messages.
    pub host: String,
    /// Who we are.
    pub who: Who,
    /// User name and password.
    pub login: Option<(String, Bytes)>,
    /// Keep-alive.
    pub keep_alive: Duration,
    /// Published by the upstream, retained, when we vanish.
    pub will: Packet<'a>,
}

/// Where things that come go.
#[derive(Debug)]
pub(super) struct Inward {
    /// One that finds it full stays unacknowledged and comes again with the next session.
    pub arrivals: mpsc::Sender<Arrival>,
    /// Counts those.
    pub counters: Arc<Counters>,
}

/// What the upstream's CONNACK allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Welcome {
    /// Most messages in flight that the upstream takes.
    pub receive_maximum: u16,
    /// Largest packet that it takes.
    pub maximum_packet: Option<u32>,
    /// Whether it retains.
    pub retains: bool,
    /// Keep-alive in force: the upstream may set another. Zero switches it off.
    pub keep_alive: Duration,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ack {
    /// PUBACK with success.
    Accepted,
    /// Refused for now: to be sent again, later.
    Busy(&'static str),
    /// Refused for good.
    Poison(&'static str),
    /// Refused for good, since it is too large.
    TooLarge(&'static str),
    /// The connection ended before an answer came.
    Lost,
}

/// Owed to the upstream for a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Receipt {
    /// Of the PUBLISH.
    pub packet_id: u16,
    /// QoS 2: PUBREC instead of PUBACK. We ask for QoS 1, but an upstream may have kept another's subscription for our client id.
    pub exactly_once: bool,
}

/// A PUBLISH that came down.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    /// Full topic.
    pub topic: String,
    /// Payload.
    pub payload: Bytes,
    /// It was retained before we subscribed.
    pub retained: bool,
    /// To be acknowledged with; none at QoS 0.
    pub receipt: Option<Receipt>,
    /// Response topic.
    pub response_topic: Option<String>,
    /// Correlation data.
    pub correlation: Option<Vec<u8>>,
    /// Message expiry.
    pub expiry: Option<Duration>,
    /// Content type.
    pub content_type: Option<String>,
    /// Payload format indicator: UTF-8.
    pub utf8: bool,
    /// User properties in order.
    pub user: Vec<(String, String)>,
}

/// What we subscribe to, at QoS 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Upstream filter.
    pub filter: String,
    /// Whether retained messages come, and come as retained.
    pub retained: bool,
}

/// The connection is over; its wire says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;
