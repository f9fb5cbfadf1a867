//! One client's connection with the caller's part played for it: rights for everything, commits that end when the
//! input says so, a queue, and a second client of the other version that gets whatever is published.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fieldgate_types::UnixMillis;

use super::observer::{Observer, Open};
use super::ordinary;
use crate::budget::Budget;
use crate::codec::{Ack, Connect, Frame, Incoming, Subscribe, Unsubscribe, decode, encode, frame};
use crate::durable::Kept;
use crate::session::{Inbound, Machine, Queued, Routed, Saving, Sent, Session, Step, SubscriptionOptions, Ticket};
use crate::{DisconnectReason, Limits, Message, Properties, QoS, Version, topic};

/// Messages that may wait for the client: the oldest goes.
const QUEUE: usize = 16;
/// Reasons that a commit or the rights may refuse with.
const CODES: [u8; 5] = [0, 0x87, 0x97, 0x90, 0x99];

pub(super) struct World {
    machine: Machine,
    connect: Connect,
    limits: Limits,
    observer: Observer,
    out: BytesMut,
    now: Duration,
    /// Publishes that wait for their commit, in their order.
    pending: VecDeque<Waiting>,
    /// Steps of QoS 2 that are being saved, in their order.
    saving: VecDeque<Saving>,
    rest: Rest,
}

/// What is not of one connection alone.
struct Rest {
    /// Counts every message that anybody still holds.
    budget: Arc<Budget>,
    /// Whether the session outlives the process.
    durable: bool,
    queue: VecDeque<Queued>,
    last_seq: u64,
    /// Places of the session that the store holds.
    stored: BTreeSet<u64>,
    neighbour: Neighbour,
}

struct Waiting {
    ticket: Ticket,
    /// Already refused by the machine.
    refused: Option<u8>,
    routed: Arc<Routed>,
}

impl Rest {
    /// Of a new session.
    fn new(budget: Arc<Budget>, neighbour: Neighbour) -> Self {
        Self { budget, durable: false, queue: VecDeque::new(), last_seq: 0, stored: BTreeSet::new(), neighbour }
    }
}

impl World {
    pub(super) fn new(session: Session, connect: Connect, limits: Limits) -> Self {
        Self::with(
            session,
            connect,
            limits,
            BTreeMap::new(),
            Duration::ZERO,
            Rest::new(Arc::new(Budget::new(1 << 20)), Neighbour::default()),
        )
    }

    fn with(
        session: Session,
        connect: Connect,
        limits: Limits,
        earlier: BTreeMap<u16, Open>,
        now: Duration,
        mut rest: Rest,
    ) -> Self {
        rest.neighbour.be_other_than(connect.version, &limits);
        rest.durable = !connect.session_expiry.is_zero();
        let mut world = Self {
            machine: Machine::new(session, rest.durable, &connect, &limits),
            observer: Observer::new(&connect, earlier),
            connect,
            limits,
            out: BytesMut::new(),
            now,
            pending: VecDeque::new(),
            saving: VecDeque::new(),
            rest,
        };
        let details = encode::ConnackDetails {
            session_expiry: Some(1),
            receive_maximum: Some(world.limits.receive_maximum),
            maximum_packet: Some(4_096),
            assigned_client_id: Some("d1"),
            topic_alias_maximum: Some(world.limits.topic_alias_maximum),
            server_keep_alive: Some(300),
            reason: Some("why"),
        };
        encode::connack(&mut world.out, world.connect.version, true, 0, &details, usize::MAX);
        world.pump();
        world
    }

    /// A packet from the client.
    pub(super) fn packet(&mut self, found: Frame, bytes: &[u8]) -> Result<(), DisconnectReason> {
        let packet = decode(self.connect.version, found, bytes).map_err(|fault| self.end(fault.reason()))?;
        match &packet {
            Incoming::PubAck(ack) => self.observer.client_acknowledges(4, *ack),
            Incoming::PubRec(ack) => self.observer.client_acknowledges(5, *ack),
            Incoming::PubComp(ack) => self.observer.client_acknowledges(7, *ack),
            _ => {}
        }
        // The caller pauses reading while so many publishes and steps wait.
        if self.pending.len() + self.saving.len() >= usize::from(self.limits.receive_maximum) {
            self.settle(1, 0);
        }
        match self.machine.handle(packet, &mut self.out) {
            Step::Done => {}
            Step::Publish(inbound) => self.publish(inbound),
            Step::Refused { ticket, topic, code } => {
                let message = Message::new(topic.as_str(), Bytes::new(), UnixMillis(0));
                self.wait(ticket, Some(code), message);
            }
            Step::Subscribe(subscribe) => self.subscribe(&subscribe),
            Step::Unsubscribe(unsubscribe) => self.unsubscribe(&unsubscribe),
            Step::Save(saving) => {
                assert!(self.rest.durable && self.out.is_empty(), "nothing is answered before it is saved");
                self.saving.push_back(saving);
            }
            Step::End(reason) => return Err(self.end(reason)),
        }
        self.pump();
        Ok(())
    }

    fn end(&mut self, reason: DisconnectReason) -> DisconnectReason {
        if self.connect.version == Version::V5 {
            encode::disconnect(&mut self.out, reason.code(), Some(reason.word()), self.connect.maximum_packet);
        }
        self.observe();
        reason
    }

    fn publish(&mut self, inbound: Inbound<'_>) {
        let name = inbound.topic.as_str();
        assert_eq!(topic::check_name(name), Ok(()));
        assert!(name.len() <= self.limits.topic && topic::levels(name) <= self.limits.topic_levels);
        let message = Message {
            topic: name.into(),
            payload: Machine::payload(inbound.payload),
            qos: inbound.qos,
            retain: inbound.retain,
            properties: inbound.properties,
            received: UnixMillis(0),
        };
        self.wait(inbound.ticket, None, message);
    }

    fn wait(&mut self, ticket: Ticket, refused: Option<u8>, message: Message) {
        let id = |ticket: Ticket| match ticket {
            Ticket::None => None,
            Ticket::PubAck(id) => Some((1, id)),
            Ticket::PubRec(id) => Some((2, id)),
        };
        // A QoS 2 id is taken once until it is released; QoS 1 ids are the client's own business.
        if matches!(ticket, Ticket::PubRec(_)) {
            assert!(!self.pending.iter().any(|other| id(other.ticket) == id(ticket)), "{ticket:?} twice");
        }
        self.pending.push_back(Waiting {
            ticket,
            refused,
            routed: Arc::new(Routed::new(message, self.now, &self.rest.budget)),
        });
    }

    /// Commits and steps that are being saved end, in order.
    pub(super) fn settle(&mut self, count: usize, code: u8) {
        self.save(count);
        for _ in 0..count.min(self.pending.len()) {
            let Some(Waiting { ticket, refused, routed }) = self.pending.pop_front() else { return };
            let code = match self.connect.version {
                Version::V5 => refused.unwrap_or(CODES[usize::from(code) % CODES.len()]),
                // Refusals end a 3.1.1 connection instead.
                Version::V311 => 0,
            };
            self.observe();
            self.observer.acknowledged.clear();
            self.machine.acknowledge(ticket, code, &mut self.out);
            self.observe();
            let expected = match ticket {
                Ticket::None => vec![],
                Ticket::PubAck(id) => vec![(0x40, id)],
                Ticket::PubRec(id) => vec![(0x50, id)],
            };
            assert_eq!(self.observer.acknowledged, expected, "one publish, one acknowledgement");
            if code < 0x80 && refused.is_none() {
                self.route(&routed);
            }
        }
        self.pump();
    }

    fn save(&mut self, count: usize) {
        for _ in 0..count.min(self.saving.len()) {
            let Some(saving) = self.saving.pop_front() else { return };
            self.observe();
            self.machine.saved(&saving, &mut self.out);
            assert!(!self.out.is_empty(), "a saved step is answered");
            self.observe();
        }
    }

    fn route(&mut self, routed: &Arc<Routed>) {
        self.rest.neighbour.receive(routed, self.now);
        let name = &*routed.message.topic;
        let matching = |filter: &str| topic::split_share(filter).is_ok_and(|(_, inner)| topic::matches(inner, name));
        let found: Vec<SubscriptionOptions> = (self.machine.session.subscriptions.iter())
            .filter(|(filter, options)| !options.no_local && matching(filter))
            .map(|(_, options)| options.clone())
            .collect();
        let Some(qos) = found.iter().map(|options| options.qos).max() else { return };
        let retain = found.iter().any(|options| options.retain_as_published) && routed.message.retain;
        let identifiers = found.iter().filter_map(|options| options.identifier).collect();
        self.enqueue(Arc::clone(routed), qos.min(routed.message.qos), retain, Some(identifiers));
    }

    fn enqueue(&mut self, routed: Arc<Routed>, qos: QoS, retain: bool, identifiers: Option<Arc<[u32]>>) {
        let rest = &mut self.rest;
        if rest.queue.len() >= QUEUE
            && let Some(oldest) = rest.queue.pop_front()
        {
            rest.stored.remove(&oldest.seq);
        }
        let (mut seq, mut kept) = (0, None);
        if qos != QoS::AtMostOnce {
            rest.last_seq += 1;
            seq = rest.last_seq;
            if rest.durable {
                rest.stored.insert(seq);
                kept = Some(Arc::new(Kept::new(seq)));
            }
        }
        rest.queue.push_back(Queued { routed, qos, retain, identifiers, seq, kept });
    }

    /// A message of somebody else.
    pub(super) fn message_from_elsewhere(&mut self, flags: u8, payload: &[u8]) {
        let properties = Properties {
            message_expiry: (flags & 0x08 != 0).then(|| Duration::from_secs(u64::from(flags >> 4))),
            utf8_payload: (flags & 0x20 != 0).then_some(true),
            user: if flags & 0x40 == 0 { Vec::new() } else { vec![("a".to_owned(), "b".to_owned()); 2] },
            response_topic: (flags & 0x80 != 0).then(|| "r".into()),
            ..Properties::default()
        };
        let qos = QoS::from_number(flags & 3).unwrap_or(QoS::AtLeastOnce);
        let message = Message::new("elsewhere", Machine::payload(payload), UnixMillis(0))
            .with_qos(qos)
            .with_properties(properties);
        let routed = Arc::new(Routed::new(message, self.now, &self.rest.budget));
        let identifiers = (flags & 0x10 != 0).then(|| Arc::from([1, 268_435_455]));
        self.enqueue(routed, qos, flags & 4 != 0, identifiers);
        self.pump();
    }

    /// Delivers what the client's quota allows, as the connection does.
    fn pump(&mut self) {
        if self.machine.must_resend() {
            self.machine.resend(self.now, &mut self.out, 64 << 10);
        }
        while !self.machine.must_resend() {
            let Some(first) = self.rest.queue.front() else { break };
            if first.qos != QoS::AtMostOnce && self.machine.quota() == 0 {
                break;
            }
            let Some(queued) = self.rest.queue.pop_front() else { break };
            let before = self.out.len();
            let expired = queued.routed.expired(self.now);
            match self.machine.deliver(queued, self.now, &mut self.out) {
                Sent::Out => assert!(!expired && self.out.len() > before),
                Sent::Expired => assert!(expired && self.out.len() == before),
                Sent::TooLarge => assert!(!expired && self.out.len() == before),
            }
        }
        for queued in self.machine.done_with.drain(..) {
            assert!(self.rest.stored.remove(&queued.seq), "the store forgets place {} twice", queued.seq);
        }
        self.observe();
    }

    fn observe(&mut self) {
        let bytes = self.out.split();
        self.observer.read(&bytes);
    }

    /// The answers that a good client owes, the oldest first.
    pub(super) fn good_client(&mut self, count: usize) {
        for _ in 0..count {
            let Some(answer) = self.observer.owed.pop_front() else { return };
            let found = frame(&answer, 64).expect("a length").expect("a header");
            if self.packet(found, &answer).is_err() {
                return;
            }
        }
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.pump();
    }

    fn subscribe(&mut self, subscribe: &Subscribe) {
        let too_many = subscribe.filters.len() > self.limits.filters_per_subscribe;
        let mut codes = Vec::new();
        for request in &subscribe.filters {
            let filter = &*request.filter;
            let subscriptions = &mut self.machine.session.subscriptions;
            let full = subscriptions.len() >= self.limits.subscriptions && !subscriptions.contains_key(filter);
            codes.push(if too_many || full {
                0x97
            } else if topic::check_filter(filter).is_err() || filter.len() > self.limits.topic {
                0x8F
            } else {
                let options = SubscriptionOptions::of(request, subscribe.identifier);
                subscriptions.insert(filter.into(), options);
                request.qos.number()
            });
        }
        encode::suback(&mut self.out, self.connect.version, subscribe.packet_id, &codes);
    }

    fn unsubscribe(&mut self, unsubscribe: &Unsubscribe) {
        let subscriptions = &mut self.machine.session.subscriptions;
        let code = |filter: &String| if subscriptions.remove(&**filter).is_some() { 0 } else { 0x11 };
        let codes: Vec<u8> = unsubscribe.filters.iter().map(code).collect();
        encode::unsuback(&mut self.out, self.connect.version, unsubscribe.packet_id, &codes);
    }

    /// The connection ends and another one comes: bit 0 resumes, bit 1 changes the version, bits 2 and 3 lower the
    /// client's Receive Maximum and Maximum Packet Size, bit 4 lets commits end in between, bit 5 asks for a session that ends
    /// with its connection, bit 6 for topic aliases.
    pub(super) fn reconnect(mut self, flags: u8) -> Self {
        let resume = flags & 1 != 0 && !self.machine.session_expiry.is_zero();
        let durable = if resume { self.rest.durable } else { flags & 32 == 0 };
        if flags & 16 != 0 {
            // As the connection does at its end: what is under way is finished, and told to nobody.
            let mut unsent = BytesMut::new();
            while let Some(Waiting { ticket, refused, routed }) = self.pending.pop_front() {
                self.machine.acknowledge(ticket, refused.unwrap_or(0), &mut unsent);
                if refused.is_none() {
                    self.rest.neighbour.receive(&routed, self.now);
                }
            }
        }
        let version = match (flags & 2 != 0, self.connect.version) {
            (false, version) => version,
            (true, Version::V5) => Version::V311,
            (true, Version::V311) => Version::V5,
        };
        let mut connect = ordinary(version);
        if version == Version::V5 && flags & 4 != 0 {
            connect.receive_maximum = 2;
        }
        if version == Version::V5 && flags & 8 != 0 {
            connect.maximum_packet = 24;
        }
        if version == Version::V5 && flags & 64 != 0 {
            connect.topic_alias_maximum = 3;
        }
        if !durable {
            connect.session_expiry = Duration::ZERO;
        }
        let earlier = self.observer.unfinished();
        let mut rest = self.rest;
        rest.queue.retain(|queued| queued.qos != QoS::AtMostOnce);
        if resume {
            let session = self.machine.into_session();
            return Self::with(session, connect, self.limits, earlier, self.now, rest);
        }
        let rest = Rest::new(rest.budget, rest.neighbour);
        Self::with(Session::default(), connect, self.limits, BTreeMap::new(), self.now, rest)
    }

    /// What holds at any moment.
    pub(super) fn check(&self) {
        let quota = usize::from(self.limits.in_flight.min(self.connect.receive_maximum));
        assert!(self.observer.open() <= quota, "{} open, {quota} allowed", self.observer.open());
        let sizes = self.machine.sizes();
        let limits = &self.limits;
        let receive_maximum = usize::from(limits.receive_maximum);
        assert!(sizes.received <= 1_024, "{sizes:?}");
        // What a session brings along is outside the quota; nothing is added to it.
        let open = sizes.received.saturating_sub(sizes.carried);
        assert!(self.connect.version == Version::V311 || open <= receive_maximum, "{sizes:?}");
        assert!(sizes.in_flight <= usize::from(limits.in_flight), "{sizes:?}");
        assert!(sizes.aliases <= usize::from(limits.topic_alias_maximum), "{sizes:?}");
        assert!(self.machine.session.subscriptions.len() <= limits.subscriptions);
        assert!(self.pending.len() + self.saving.len() <= receive_maximum && self.rest.queue.len() <= QUEUE);
        let held = self.rest.queue.len() + sizes.in_flight;
        assert!(self.rest.stored.len() <= held, "the store holds {:?}, the session {held}", self.rest.stored);
    }

    /// A good client takes all that is left, on this connection and on the next: nothing may be stuck.
    pub(super) fn finish(mut self) {
        self.settle(usize::MAX, 0);
        self.take_all();
        self = self.reconnect(1);
        self.take_all();
        assert_eq!(self.rest.budget.used(), 0, "somebody still holds a message");
    }

    fn take_all(&mut self) {
        for _ in 0..10_000 {
            if self.observer.owed.is_empty() && self.saving.is_empty() {
                break;
            }
            self.good_client(1);
            self.settle(1, 0);
        }
        self.check();
        assert!(self.rest.queue.is_empty() && !self.machine.must_resend(), "a message is stuck");
        assert_eq!(self.machine.sizes().in_flight, 0, "an id is stuck: {:?}", self.machine);
    }
}

/// A client of the other version that is subscribed to everything and acknowledges at once.
#[derive(Default)]
struct Neighbour {
    machine: Option<Machine>,
    last_seq: u64,
}

impl Neighbour {
    fn be_other_than(&mut self, version: Version, limits: &Limits) {
        let other = if version == Version::V5 { Version::V311 } else { Version::V5 };
        let session = self.machine.take().map(Machine::into_session).unwrap_or_default();
        self.machine = Some(Machine::new(session, false, &ordinary(other), limits));
    }

    /// Gets the message, and finds in it what the publisher sent.
    fn receive(&mut self, routed: &Arc<Routed>, now: Duration) {
        let Some(machine) = &mut self.machine else { return };
        let message = &routed.message;
        self.last_seq += 1;
        let (routed_to, seq) = (Arc::clone(routed), self.last_seq);
        let queued = Queued { routed: routed_to, qos: message.qos, retain: false, identifiers: None, seq, kept: None };
        let mut out = BytesMut::new();
        if machine.deliver(queued, now, &mut out) == Sent::Expired {
            assert!(routed.expired(now));
            return;
        }
        let found = frame(&out, usize::MAX).expect("a length").expect("a header");
        assert_eq!(found.len(), out.len());
        let Ok(Incoming::Publish(got)) = decode(machine.version, found, &out) else { panic!("no PUBLISH: {out:02x?}") };
        assert_eq!((got.topic, got.payload), (&*message.topic, &*message.payload));
        assert_eq!((got.qos, got.dup, got.retain, got.alias), (message.qos, false, false, None));
        match machine.version {
            Version::V311 => assert_eq!(got.properties, None),
            Version::V5 => {
                let mut expected = message.properties().clone();
                // Whole seconds travel, rounded up.
                let seconds =
                    |left: Duration| Duration::from_secs(u64::try_from(left.as_millis().div_ceil(1_000)).unwrap());
                expected.message_expiry = routed.remaining(now).map(seconds);
                assert_eq!(got.properties.as_deref().cloned().unwrap_or_default(), expected);
            }
        }
        let ack = Ack { packet_id: got.packet_id, code: 0 };
        let mut answers = BytesMut::new();
        match message.qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => assert!(matches!(machine.handle(Incoming::PubAck(ack), &mut answers), Step::Done)),
            QoS::ExactlyOnce => {
                assert!(matches!(machine.handle(Incoming::PubRec(ack), &mut answers), Step::Done));
                assert!(matches!(machine.handle(Incoming::PubComp(ack), &mut answers), Step::Done));
            }
        }
        assert_eq!(machine.sizes().in_flight, 0);
    }
}
