//! The session machine: packets in, steps and bytes out. No sockets, no clock, no locks, no async: time is an
//! argument, rights and durability are the caller's.
//!
//! [`Session`] is what outlives a connection, and knows no version, so that it can move between MQTT 3.1.1 and 5.
//! [`Machine`] is one connection's view of it: aliases, quotas, what is on its way. The caller feeds it packets
//! ([`Machine::handle`]), acts on the returned [`Step`], reports what became of publishes
//! ([`Machine::acknowledge`], in the order of the publishes) and hands over messages ([`Machine::deliver`]).

mod inbound;
mod outbound;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

pub(crate) use outbound::Sent;

use crate::budget::{Budget, Charge};
use crate::codec::{Connect, FilterRequest, Incoming, Subscribe, Unsubscribe, encode};
use crate::durable::Kept;
use crate::{DisconnectReason, Limits, Message, Properties, QoS, Version};

/// A message on its way, with the running time of its reception: expiry never follows a stepping wall clock.
#[derive(Debug)]
pub(crate) struct Routed {
    pub message: Message,
    pub at: Duration,
    _charge: Charge,
}

impl Routed {
    /// Counted in `budget` until the last holder lets it go.
    pub(crate) fn new(message: Message, at: Duration, budget: &Arc<Budget>) -> Self {
        let charge = budget.charge(message.cost());
        Self { message, at, _charge: charge }
    }

    /// What is left of the message's expiry; `None` when it has none.
    pub(crate) fn remaining(&self, now: Duration) -> Option<Duration> {
        let expiry = self.message.properties.as_ref()?.message_expiry?;
        Some(expiry.saturating_sub(now.saturating_sub(self.at)))
    }

    pub(crate) fn expired(&self, now: Duration) -> bool {
        self.remaining(now).is_some_and(|left| left.is_zero())
    }
}

/// A message waiting for one receiver.
#[derive(Debug, Clone)]
pub(crate) struct Queued {
    pub routed: Arc<Routed>,
    /// The lower of the message's and the subscription's.
    pub qos: QoS,
    /// The retain flag that the receiver gets to see.
    pub retain: bool,
    pub identifiers: Option<Arc<[u32]>>,
    /// Its place in its session, from which its packet id follows; 0 for QoS 0, which has neither.
    pub seq: u64,
    /// Set when the store holds it for this session.
    pub kept: Option<Arc<Kept>>,
}

/// Options of one subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SubscriptionOptions {
    pub qos: QoS,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub identifier: Option<u32>,
}

impl SubscriptionOptions {
    pub(crate) fn of(request: &FilterRequest, identifier: Option<u32>) -> Self {
        Self {
            qos: request.qos,
            no_local: request.no_local,
            retain_as_published: request.retain_as_published,
            identifier,
        }
    }
}

/// What outlives a connection.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// By whole filter, `$share/…` included.
    pub subscriptions: BTreeMap<Arc<str>, SubscriptionOptions>,
    /// QoS 2 packet ids of the client that are not released.
    received: HashMap<u16, Received>,
    /// What was sent and is not acknowledged, in the order of sending.
    in_flight: VecDeque<InFlight>,
    /// Their bytes.
    in_flight_bytes: usize,
}

impl Session {
    /// A session as the store kept it: QoS 2 ids that are not released, and what may have been sent, in its order,
    /// each with whether its PUBREL is due.
    pub(crate) fn restored(
        subscriptions: BTreeMap<Arc<str>, SubscriptionOptions>,
        received: impl Iterator<Item = u16>,
        sent: impl Iterator<Item = (Queued, bool)>,
    ) -> Self {
        let mut session = Self {
            subscriptions,
            received: received.map(|packet_id| (packet_id, Received::Done)).collect(),
            ..Self::default()
        };
        for (queued, released) in sent {
            let packet_id = outbound::packet_id(queued.seq);
            session.in_flight_bytes += queued.routed.message.cost();
            let stage = if released { Stage::Released(queued) } else { Stage::Published(queued) };
            session.in_flight.push_back(InFlight { packet_id, stage });
        }
        session
    }

    /// QoS 2 packet ids of the client that are not released.
    pub(crate) fn received(&self) -> impl Iterator<Item = u16> + '_ {
        self.received.keys().copied()
    }

    /// Takes what the client has not acknowledged.
    pub(crate) fn take_in_flight(&mut self) -> impl Iterator<Item = Queued> + '_ {
        self.in_flight_bytes = 0;
        self.in_flight.drain(..).map(|entry| match entry.stage {
            Stage::Published(queued) | Stage::Releasing(queued) | Stage::Released(queued) => queued,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Received {
    /// Being committed: no PUBREC yet.
    Pending,
    /// PUBREC sent.
    Done,
    /// Released, which is being committed: no PUBCOMP yet.
    Releasing,
}

#[derive(Debug)]
struct InFlight {
    packet_id: u16,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// PUBLISH sent; PUBACK or PUBREC awaited.
    Published(Queued),
    /// PUBREC came, which is being committed: no PUBREL yet.
    Releasing(Queued),
    /// PUBREL sent; PUBCOMP awaited.
    Released(Queued),
}

/// A step of QoS 2 in a durable session: its answer may go out once the store has it. After a crash the other side
/// has forgotten what was answered, so the store must know it.
#[derive(Debug, Clone)]
pub(crate) enum Saving {
    /// The client has the message (PUBREC): PUBREL is due.
    Sent { packet_id: u16, queued: Queued },
    /// The client has released its id (PUBREL): PUBCOMP is due.
    Received { packet_id: u16 },
}

/// How a publish is to be acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ticket {
    /// QoS 0.
    None,
    /// QoS 1.
    PubAck(u16),
    /// QoS 2.
    PubRec(u16),
}

/// A topic name that still lies in the read buffer, or one that an alias stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TopicName<'a> {
    Spelled(&'a str),
    Aliased(Arc<str>),
}

impl TopicName<'_> {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Spelled(name) => name,
            Self::Aliased(name) => name,
        }
    }
}

/// A publish for the caller to judge, commit, route, and then acknowledge.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Inbound<'a> {
    pub ticket: Ticket,
    pub topic: TopicName<'a>,
    pub qos: QoS,
    pub retain: bool,
    pub properties: Option<Arc<Properties>>,
    pub payload: &'a [u8],
}

/// What the caller has to do about a packet.
#[derive(Debug)]
pub(crate) enum Step<'a> {
    /// Nothing; answers are in the output.
    Done,
    /// Judge, commit, route, [`Machine::acknowledge`].
    Publish(Inbound<'a>),
    /// Already refused: acknowledge with `code` in its turn.
    Refused { ticket: Ticket, topic: TopicName<'a>, code: u8 },
    /// Grant or refuse each filter, then SUBACK.
    Subscribe(Subscribe),
    /// Remove each filter, then UNSUBACK.
    Unsubscribe(Unsubscribe),
    /// Make it durable, then [`Machine::saved`], in this order.
    Save(Saving),
    /// The connection ends.
    End(DisconnectReason),
}

/// One connection's machine.
#[derive(Debug)]
pub(crate) struct Machine {
    pub version: Version,
    pub session: Session,
    /// What the client is done with, or will never get, of what the store holds: to be forgotten there.
    pub done_with: Vec<Queued>,
    /// Whether the session outlives the process.
    durable: bool,
    /// After the connection has ended.
    pub session_expiry: Duration,
    expires_with_connection: bool,
    aliases: Vec<Option<Arc<str>>>,
    /// Set towards the client: the topics that came first.
    aliases_set: HashMap<Arc<str>, u16>,
    limits: MachineLimits,
    /// QoS 2 ids of earlier connections that are not released: they are outside this one's quota [MQTT-4.9.0-1].
    carried: HashSet<u16>,
    /// Entries of `in_flight` before this index went out on this connection.
    sent_before: usize,
}

/// The part of the limits that the machine keeps.
#[derive(Debug, Clone)]
struct MachineLimits {
    topic: usize,
    topic_levels: usize,
    receive_maximum: usize,
    /// Quota towards the client.
    in_flight: usize,
    in_flight_bytes: usize,
    maximum_packet: usize,
    aliases: usize,
    /// Towards the client.
    aliases_set: u16,
    session_expiry: Duration,
}

/// See [`Machine::sizes`].
#[cfg(any(test, feature = "fuzzing"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub received: usize,
    pub carried: usize,
    pub in_flight: usize,
    pub aliases: usize,
}

/// QoS 2 ids that a session may leave unreleased: over its connections, and on 3.1.1, which knows no Receive Maximum.
const UNRELEASED: usize = 1_024;

impl Machine {
    /// For a connection that was accepted with these limits.
    pub(crate) fn new(session: Session, durable: bool, connect: &Connect, limits: &Limits) -> Self {
        let session_expiry = connect.session_expiry.min(limits.session_expiry);
        Self {
            version: connect.version,
            carried: session.received().collect(),
            session,
            done_with: Vec::new(),
            durable,
            session_expiry,
            expires_with_connection: session_expiry.is_zero(),
            aliases: Vec::new(),
            aliases_set: HashMap::new(),
            limits: MachineLimits {
                topic: limits.topic,
                topic_levels: limits.topic_levels,
                receive_maximum: usize::from(limits.receive_maximum),
                in_flight: usize::from(limits.in_flight.min(connect.receive_maximum)),
                in_flight_bytes: limits.session_queue_bytes,
                maximum_packet: connect.maximum_packet,
                aliases: usize::from(limits.topic_alias_maximum),
                aliases_set: limits.topic_alias_maximum.min(connect.topic_alias_maximum),
                session_expiry: limits.session_expiry,
            },
            sent_before: 0,
        }
    }

    /// Takes one packet. `end` is set in the returned step at most once.
    pub(crate) fn handle<'a>(&mut self, packet: Incoming<'a>, out: &mut BytesMut) -> Step<'a> {
        match packet {
            Incoming::Publish(publish) => self.publish(publish, out),
            Incoming::PubAck(ack) => self.puback(ack),
            Incoming::PubRec(ack) => self.pubrec(ack, out),
            Incoming::PubRel(ack) => self.pubrel(ack, out),
            Incoming::PubComp(ack) => self.pubcomp(ack),
            Incoming::Subscribe(subscribe) if self.answerable(subscribe.filters.len()) => Step::Subscribe(subscribe),
            Incoming::Unsubscribe(unsubscribe) if self.answerable(unsubscribe.filters.len()) => {
                Step::Unsubscribe(unsubscribe)
            }
            // Its answer would be larger than the client takes [MQTT-3.1.2-24].
            Incoming::Subscribe(_) | Incoming::Unsubscribe(_) => Step::End(DisconnectReason::PacketTooLarge),
            Incoming::PingReq => {
                encode::pingresp(out);
                Step::Done
            }
            Incoming::Disconnect(disconnect) => self.disconnect(disconnect),
            // A second CONNECT [MQTT-3.1.0-2]; AUTH without an authentication method [MQTT 5, 4.12].
            Incoming::Connect(_) | Incoming::Auth => Step::End(DisconnectReason::ProtocolError),
        }
    }

    fn answerable(&self, filters: usize) -> bool {
        encode::answers_size(filters) <= self.limits.maximum_packet
    }

    /// Sizes of what it holds, for the harness that holds them to the limits.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn sizes(&self) -> Sizes {
        Sizes {
            received: self.session.received.len(),
            carried: self.carried.len(),
            in_flight: self.session.in_flight.len(),
            aliases: self.aliases.len(),
        }
    }

    /// The connection has ended: the session goes back. What was being committed is settled by then, or is
    /// forgotten: an id without PUBREC is a new publish when it comes again.
    ///
    /// What was being saved counts as not saved: the client comes again with its PUBREC or PUBREL.
    pub(crate) fn into_session(mut self) -> Session {
        self.session.received.retain(|_, state| *state != Received::Pending);
        self.session.received.values_mut().for_each(|state| *state = Received::Done);
        for entry in &mut self.session.in_flight {
            if let Stage::Releasing(queued) = &entry.stage {
                entry.stage = Stage::Published(queued.clone());
            }
        }
        self.session
    }

    /// The payload, copied out of the read buffer: a small payload must not keep a large buffer alive.
    pub(crate) fn payload(bytes: &[u8]) -> Bytes {
        if bytes.is_empty() { Bytes::new() } else { Bytes::copy_from_slice(bytes) }
    }
}

#[cfg(test)]
mod tests;
