//! What the client sees: the broker's packets, parsed by the packet types of `mqtt-protocol-core` and by nothing that
//! wrote them, and what the client owes for them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use mqtt_protocol_core::mqtt::packet::{Property, Qos, v3_1_1, v5_0};

use crate::Version;
use crate::codec::{Ack, Connect, frame};

/// What stands between the client and the broker on one connection, as the client knows it.
#[derive(Debug)]
pub(super) struct Observer {
    version: Version,
    maximum_packet: usize,
    alias_maximum: u16,
    /// What the broker set on this connection.
    aliases: BTreeMap<u16, String>,
    /// Publishes above QoS 0 that this connection brought and the client has not finished.
    open: BTreeMap<u16, Open>,
    /// Ids that an earlier connection left open: these alone may come as duplicates.
    earlier: BTreeMap<u16, Open>,
    /// A good client's answers that it has not given yet.
    pub owed: VecDeque<[u8; 4]>,
    /// Acknowledgements of the client's own publishes: kind and id.
    pub acknowledged: Vec<(u8, u16)>,
}

/// How far the client is with a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Open {
    AtLeastOnce,
    ExactlyOnce,
    /// The broker has sent its PUBREL.
    Released,
}

/// More than one run can make it owe.
const MOST_OWED: usize = 1 << 16;

impl Observer {
    pub(super) fn new(connect: &Connect, earlier: BTreeMap<u16, Open>) -> Self {
        Self {
            version: connect.version,
            maximum_packet: connect.maximum_packet,
            alias_maximum: connect.topic_alias_maximum,
            aliases: BTreeMap::new(),
            open: BTreeMap::new(),
            earlier,
            owed: VecDeque::new(),
            acknowledged: Vec::new(),
        }
    }

    /// Publishes of this connection that the client has not finished.
    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    /// Ids that the next connection may bring again.
    pub(super) fn unfinished(&self) -> BTreeMap<u16, Open> {
        self.open.iter().chain(&self.earlier).map(|(id, open)| (*id, *open)).collect()
    }

    /// Reads what the broker wrote: whole packets, all valid.
    pub(super) fn read(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let found = frame(rest, usize::MAX).expect("a length").expect("a whole header");
            assert!(found.len() <= rest.len(), "a packet cut off: {rest:02x?}");
            let body = found.body_of(rest);
            // The caller refuses a client that does not even take a CONNACK or an acknowledgement.
            let sized = matches!(found.first >> 4, 3 | 9 | 11 | 14);
            assert!(!sized || found.len() <= self.maximum_packet, "larger than the client takes: {rest:02x?}");
            match found.first >> 4 {
                3 => self.publish(found.first & 0x0F, body),
                2 => self.whole(body, v3_1_1::Connack::parse, v5_0::Connack::parse),
                4 => {
                    self.whole(body, v3_1_1::Puback::parse, v5_0::Puback::parse);
                    self.acknowledged.push((found.first, packet_id(body)));
                }
                5 => {
                    self.whole(body, v3_1_1::Pubrec::parse, v5_0::Pubrec::parse);
                    self.acknowledged.push((found.first, packet_id(body)));
                    if body.get(2).is_none_or(|code| *code < 0x80) {
                        self.owe(0x62, packet_id(body));
                    }
                }
                6 => {
                    assert_eq!(found.first, 0x62, "flags of PUBREL");
                    self.whole(body, v3_1_1::Pubrel::parse, v5_0::Pubrel::parse);
                    if let Some(open) = self.opened(packet_id(body)) {
                        *open = Open::Released;
                    }
                    self.owe(0x70, packet_id(body));
                }
                7 => self.whole(body, v3_1_1::Pubcomp::parse, v5_0::Pubcomp::parse),
                9 => self.whole(body, v3_1_1::Suback::parse, v5_0::Suback::parse),
                11 => self.whole(body, v3_1_1::Unsuback::parse, v5_0::Unsuback::parse),
                13 => assert!(body.is_empty(), "PINGRESP with a body"),
                14 => {
                    assert_eq!(self.version, Version::V5, "3.1.1 servers send no DISCONNECT");
                    v5_0::Disconnect::parse(body).expect("a DISCONNECT");
                }
                other => panic!("a server never sends packet type {other}"),
            }
            rest = &rest[found.len()..];
        }
    }

    fn whole<A, B, E>(
        &self,
        body: &[u8],
        v311: impl Fn(&[u8]) -> Result<(A, usize), E>,
        v5: impl Fn(&[u8]) -> Result<(B, usize), E>,
    ) where
        E: std::fmt::Debug,
    {
        let used = match self.version {
            Version::V311 => v311(body).map(|(_, used)| used),
            Version::V5 => v5(body).map(|(_, used)| used),
        };
        assert_eq!(used.expect("a valid packet"), body.len(), "bytes behind the end: {body:02x?}");
    }

    fn publish(&mut self, flags: u8, body: &[u8]) {
        let shared: Arc<[u8]> = body.into();
        let (topic, qos, id, dup) = match self.version {
            Version::V311 => {
                let (packet, _) = v3_1_1::Publish::parse(flags, shared).expect("a PUBLISH");
                (packet.topic_name().to_owned(), packet.qos(), packet.packet_id(), packet.dup())
            }
            Version::V5 => {
                let (packet, _) = v5_0::Publish::parse(flags, shared).expect("a PUBLISH");
                let topic = self.unalias(packet.topic_name(), packet.props());
                (topic, packet.qos(), packet.packet_id(), packet.dup())
            }
        };
        assert_eq!(crate::topic::check_name(&topic), Ok(()));
        if qos == Qos::AtMostOnce {
            assert!(!dup && id.is_none(), "DUP or an id at QoS 0");
            return;
        }
        let id = id.expect("an id above QoS 0");
        assert_ne!(id, 0);
        assert_eq!(
            dup,
            self.earlier.remove(&id).is_some(),
            "DUP marks what an earlier connection sent, and nothing else"
        );
        let open = if qos == Qos::AtLeastOnce { Open::AtLeastOnce } else { Open::ExactlyOnce };
        assert_eq!(self.open.insert(id, open), None, "packet id {id} is in use twice");
        self.owe(if qos == Qos::AtLeastOnce { 0x40 } else { 0x50 }, id);
    }

    fn unalias(&mut self, topic: &str, properties: &[Property]) -> String {
        let alias = properties.iter().find_map(|property| match property {
            Property::TopicAlias(p) => Some(p.val()),
            _ => None,
        });
        let Some(alias) = alias else { return topic.to_owned() };
        assert!((1..=self.alias_maximum).contains(&alias), "alias {alias} of {}", self.alias_maximum);
        if !topic.is_empty() {
            self.aliases.insert(alias, topic.to_owned());
        }
        self.aliases.get(&alias).expect("an alias that was set").clone()
    }

    /// An acknowledgement that the client sends, good or not: what it closes.
    pub(super) fn client_acknowledges(&mut self, kind: u8, ack: Ack) {
        // A PUBREC alone closes nothing: until the PUBREL the message may come again. A PUBCOMP before it means nothing.
        match (kind, self.opened(ack.packet_id)) {
            (5, Some(Open::ExactlyOnce)) if ack.code < 0x80 => {}
            (4, Some(Open::AtLeastOnce)) | (5, Some(Open::ExactlyOnce)) | (7, Some(Open::Released)) => {
                let earlier = self.open.remove(&ack.packet_id).is_none();
                if earlier {
                    self.earlier.remove(&ack.packet_id);
                }
            }
            _ => {}
        }
    }

    /// A publish that the client has not finished. What an earlier connection left may end before it comes again.
    fn opened(&mut self, id: u16) -> Option<&mut Open> {
        self.open.get_mut(&id).or_else(|| self.earlier.get_mut(&id))
    }

    fn owe(&mut self, first: u8, id: u16) {
        assert!(self.owed.len() < MOST_OWED, "answers beget answers");
        let [high, low] = id.to_be_bytes();
        self.owed.push_back([first, 2, high, low]);
    }
}

fn packet_id(body: &[u8]) -> u16 {
    u16::from_be_bytes([body[0], body[1]])
}
