//! What clients send: publishes, their QoS 2 hand-shake, DISCONNECT.

use bytes::BytesMut;

use super::{Inbound, Machine, Received, Saving, Step, Ticket, TopicName, UNRELEASED};
use crate::codec::{Ack, Disconnect, Publish, encode};
use crate::{DisconnectReason, QoS, Version, topic};

impl Machine {
    pub(super) fn publish<'a>(&mut self, publish: Publish<'a>, out: &mut BytesMut) -> Step<'a> {
        let topic = match self.resolve(publish.topic, publish.alias) {
            Ok(topic) => topic,
            Err(reason) => return Step::End(reason),
        };
        let ticket = match publish.qos {
            QoS::AtMostOnce => Ticket::None,
            QoS::AtLeastOnce => match self.over_receive_maximum() {
                Some(reason) => return Step::End(reason),
                None => Ticket::PubAck(publish.packet_id),
            },
            QoS::ExactlyOnce => match self.session.received.get(&publish.packet_id) {
                // The PUBREC follows when the first copy is committed.
                Some(Received::Pending | Received::Releasing) => return Step::Done,
                Some(Received::Done) => {
                    encode::ack(out, self.version, encode::AckKind::Rec, publish.packet_id, 0);
                    return Step::Done;
                }
                None => {
                    if let Some(reason) = self.over_receive_maximum() {
                        return Step::End(reason);
                    }
                    self.session.received.insert(publish.packet_id, Received::Pending);
                    Ticket::PubRec(publish.packet_id)
                }
            },
        };
        let name = topic.as_str();
        if name.len() > self.limits.topic || topic::levels(name) > self.limits.topic_levels {
            return Step::Refused { ticket, topic, code: 0x90 };
        }
        let claims_utf8 = publish.properties.as_ref().is_some_and(|p| p.utf8_payload == Some(true));
        if claims_utf8 && std::str::from_utf8(publish.payload).is_err() {
            return Step::Refused { ticket, topic, code: 0x99 };
        }
        Step::Publish(Inbound {
            ticket,
            topic,
            qos: publish.qos,
            retain: publish.retain,
            properties: publish.properties,
            payload: publish.payload,
        })
    }

    /// QoS 1 alone can't exceed it: its PUBACK needs nothing more from the client, so the caller just stops reading
    /// (paho, back after a while, sends all that it was given meanwhile at once, and would never get in again). QoS 2
    /// needs its PUBREL, which would stand behind what is not read: it counts.
    fn over_receive_maximum(&self) -> Option<DisconnectReason> {
        let unreleased = self.session.received.len();
        let open = unreleased.saturating_sub(self.carried.len());
        // No such thing on 3.1.1.
        let over = self.version == Version::V5 && open >= self.limits.receive_maximum;
        (over || unreleased >= UNRELEASED).then_some(DisconnectReason::ReceiveMaximumExceeded)
    }

    fn resolve<'a>(&mut self, name: &'a str, alias: Option<u16>) -> Result<TopicName<'a>, DisconnectReason> {
        let Some(alias) = alias else { return Ok(TopicName::Spelled(name)) };
        let index = usize::from(alias).wrapping_sub(1);
        // 0 and what is above the announced maximum are invalid [MQTT-3.3.2-8], [MQTT-3.3.2-9].
        if index >= self.limits.aliases {
            return Err(DisconnectReason::TopicAliasInvalid);
        }
        if name.is_empty() {
            let known = self.aliases.get(index).cloned().flatten();
            return known.map(TopicName::Aliased).ok_or(DisconnectReason::ProtocolError);
        }
        if name.len() > self.limits.topic {
            // Not stored: the publish is refused for its length anyway. The alias no longer means what it meant.
            if let Some(slot) = self.aliases.get_mut(index) {
                *slot = None;
            }
            return Ok(TopicName::Spelled(name));
        }
        if self.aliases.len() <= index {
            self.aliases.resize(index + 1, None);
        }
        if let Some(slot) = self.aliases.get_mut(index)
            && slot.as_deref() != Some(name)
        {
            *slot = Some(name.into());
        }
        Ok(TopicName::Spelled(name))
    }

    /// A publish is committed and routed (`code` below 0x80) or refused: its acknowledgement goes out. Called in
    /// the order of the publishes [MQTT-4.6.0-2].
    pub(crate) fn acknowledge(&mut self, ticket: Ticket, code: u8, out: &mut BytesMut) {
        match ticket {
            Ticket::None => {}
            Ticket::PubAck(packet_id) => {
                encode::ack(out, self.version, encode::AckKind::Ack, packet_id, code);
            }
            Ticket::PubRec(packet_id) => {
                if code < 0x80 {
                    self.session.received.insert(packet_id, Received::Done);
                } else {
                    // Refused: the id is free at once [MQTT 5, 4.3.3].
                    self.session.received.remove(&packet_id);
                }
                encode::ack(out, self.version, encode::AckKind::Rec, packet_id, code);
            }
        }
    }

    pub(super) fn pubrel(&mut self, ack: Ack, out: &mut BytesMut) -> Step<'static> {
        let code = match self.session.received.get(&ack.packet_id) {
            Some(Received::Done) if self.durable => {
                self.session.received.insert(ack.packet_id, Received::Releasing);
                return Step::Save(Saving::Received { packet_id: ack.packet_id });
            }
            Some(Received::Done) => {
                self.release(ack.packet_id);
                0
            }
            // The PUBCOMP is on its way to the store.
            Some(Received::Releasing) => return Step::Done,
            // Released before it was received: nothing to release, the PUBREC is still to come.
            Some(Received::Pending) => return Step::End(DisconnectReason::ProtocolError),
            None => 0x92,
        };
        encode::ack(out, self.version, encode::AckKind::Comp, ack.packet_id, code);
        Step::Done
    }

    fn release(&mut self, packet_id: u16) {
        self.session.received.remove(&packet_id);
        self.carried.remove(&packet_id);
    }

    /// A step is durable: its answer goes out.
    pub(crate) fn saved(&mut self, saving: &Saving, out: &mut BytesMut) {
        match saving {
            Saving::Received { packet_id } => {
                self.release(*packet_id);
                encode::ack(out, self.version, encode::AckKind::Comp, *packet_id, 0);
            }
            Saving::Sent { packet_id, .. } => {
                self.released(*packet_id);
                encode::ack(out, self.version, encode::AckKind::Rel, *packet_id, 0);
            }
        }
    }

    pub(super) fn disconnect(&mut self, disconnect: Disconnect) -> Step<'static> {
        if let Some(expiry) = disconnect.session_expiry {
            // [MQTT-3.14.2-2]: a session that was to end with the connection can't be prolonged.
            if self.expires_with_connection && !expiry.is_zero() {
                return Step::End(DisconnectReason::ProtocolError);
            }
            self.session_expiry = expiry.min(self.limits.session_expiry);
        }
        // Only 0x00 deletes the will [MQTT-3.14.4-3].
        Step::End(if disconnect.code == 0 { DisconnectReason::Client } else { DisconnectReason::ClientWithWill })
    }
}
