//! What clients receive: deliveries, their acknowledgements, and sending again after a resume.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use super::{InFlight, Machine, Queued, Saving, Stage, Step};
use crate::QoS;
use crate::codec::{Ack, encode};

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It is in the output.
    Out,
    /// Its expiry has passed: dropped.
    Expired,
    /// Larger than the client's Maximum Packet Size: dropped as if it were delivered [MQTT-3.1.2-25].
    TooLarge,
}

impl Machine {
    /// How many messages above QoS 0 may go out now.
    pub(crate) fn quota(&self) -> usize {
        if self.session.in_flight_bytes >= self.limits.in_flight_bytes {
            return 0;
        }
        self.limits.in_flight.saturating_sub(self.session.in_flight.len())
    }

    /// Sends a message. Above QoS 0 the caller has kept to [`Machine::quota`], and to
    /// [`Machine::must_resend`] in any case.
    pub(crate) fn deliver(&mut self, queued: Queued, now: Duration, out: &mut BytesMut) -> Sent {
        if queued.routed.expired(now) {
            self.done_with.extend(Some(queued).filter(|queued| queued.kept.is_some()));
            return Sent::Expired;
        }
        let packet_id = if queued.qos == QoS::AtMostOnce { 0 } else { self.free_packet_id(queued.seq) };
        let mut alias = self.alias(&queued.routed.message.topic);
        let mut write = |alias| {
            let shown = encode::Delivery { alias, ..shown(&queued, packet_id, false, now) };
            encode::publish(out, self.version, &queued.routed.message, shown, self.limits.maximum_packet)
        };
        let mut written = write(alias);
        if written.is_err() && matches!(alias, encode::Alias::Set(_)) {
            // The number costs three bytes that the name alone may still have.
            alias = encode::Alias::None;
            written = write(alias);
        }
        if written.is_err() {
            self.done_with.extend(Some(queued).filter(|queued| queued.kept.is_some()));
            return Sent::TooLarge;
        }
        if let encode::Alias::Set(number) = alias {
            self.aliases_set.insert(Arc::clone(&queued.routed.message.topic), number);
        }
        if packet_id != 0 {
            self.session.in_flight_bytes += queued.routed.message.cost();
            self.session.in_flight.push_back(InFlight { packet_id, stage: Stage::Published(queued) });
            self.sent_before += 1;
        }
        Sent::Out
    }

    /// What may stand for the topic: the first topics get the numbers that the client allows, and keep them.
    fn alias(&self, topic: &str) -> encode::Alias {
        if self.limits.aliases_set == 0 {
            return encode::Alias::None;
        }
        if let Some(number) = self.aliases_set.get(topic) {
            return encode::Alias::Known(*number);
        }
        let next = u16::try_from(self.aliases_set.len() + 1).unwrap_or(u16::MAX);
        if next <= self.limits.aliases_set { encode::Alias::Set(next) } else { encode::Alias::None }
    }

    /// After a resume: sends again what was not acknowledged, in the order of the first sending, as far as the
    /// client's quota goes [MQTT-4.4.0-1], [MQTT-4.6.0-1]. Returns true while something is left.
    pub(crate) fn resend(&mut self, now: Duration, out: &mut BytesMut, room: usize) -> bool {
        while let Some(entry) = self.session.in_flight.get(self.sent_before) {
            if out.len() >= room {
                return true;
            }
            match &entry.stage {
                // Its PUBREL follows when it is durable.
                Stage::Releasing(_) => {}
                Stage::Released(_) => encode::ack(out, self.version, encode::AckKind::Rel, entry.packet_id, 0),
                Stage::Published(queued) => {
                    if self.sent_before >= self.limits.in_flight {
                        return true;
                    }
                    let shown = shown(queued, entry.packet_id, true, now);
                    let limit = self.limits.maximum_packet;
                    if encode::publish(out, self.version, &queued.routed.message, shown, limit).is_err() {
                        self.remove(self.sent_before);
                        continue;
                    }
                }
            }
            self.sent_before += 1;
        }
        false
    }

    /// Whether something of an earlier connection is still to be sent again.
    pub(crate) fn must_resend(&self) -> bool {
        self.sent_before < self.session.in_flight.len()
    }

    pub(super) fn puback(&mut self, ack: Ack) -> Step<'static> {
        self.settle(ack.packet_id, |stage| matches!(stage, Stage::Published(queued) if queued.qos == QoS::AtLeastOnce));
        Step::Done
    }

    pub(super) fn pubcomp(&mut self, ack: Ack) -> Step<'static> {
        self.settle(ack.packet_id, |stage| matches!(stage, Stage::Released(_)));
        Step::Done
    }

    pub(super) fn pubrec(&mut self, ack: Ack, out: &mut BytesMut) -> Step<'static> {
        let found = self.session.in_flight.iter_mut().find(|entry| entry.packet_id == ack.packet_id);
        let code = match found {
            Some(entry) => match &entry.stage {
                Stage::Published(queued) if queued.qos == QoS::ExactlyOnce => {
                    if ack.code >= 0x80 {
                        self.settle(ack.packet_id, |_| true);
                        return Step::Done;
                    }
                    let queued = queued.clone();
                    if queued.kept.is_some() {
                        entry.stage = Stage::Releasing(queued.clone());
                        return Step::Save(Saving::Sent { packet_id: ack.packet_id, queued });
                    }
                    entry.stage = Stage::Released(queued);
                    0
                }
                Stage::Published(_) | Stage::Releasing(_) => return Step::Done,
                Stage::Released(_) => 0,
            },
            // A refusal ends the hand-shake, known or not.
            None if ack.code >= 0x80 => return Step::Done,
            None => 0x92,
        };
        encode::ack(out, self.version, encode::AckKind::Rel, ack.packet_id, code);
        Step::Done
    }

    /// Forgets an entry. An id that is not known is no error: the client may repeat itself after a resume.
    fn settle(&mut self, packet_id: u16, right_stage: impl Fn(&Stage) -> bool) {
        // Clients acknowledge in order, so the first entries are the likely ones.
        let matching = |entry: &InFlight| entry.packet_id == packet_id && right_stage(&entry.stage);
        if let Some(index) = self.session.in_flight.iter().position(matching) {
            self.remove(index);
            if index < self.sent_before {
                self.sent_before -= 1;
            }
        }
    }

    fn remove(&mut self, index: usize) {
        let Some(entry) = self.session.in_flight.remove(index) else { return };
        let (Stage::Published(queued) | Stage::Releasing(queued) | Stage::Released(queued)) = entry.stage;
        self.session.in_flight_bytes -= queued.routed.message.cost();
        if queued.kept.is_some() {
            self.done_with.push(queued);
        }
    }

    /// The PUBREC of `packet_id` is durable.
    pub(super) fn released(&mut self, packet_id: u16) {
        let entry = self.session.in_flight.iter_mut().find(|entry| entry.packet_id == packet_id);
        if let Some(entry) = entry
            && let Stage::Releasing(queued) = &entry.stage
        {
            entry.stage = Stage::Released(queued.clone());
        }
    }

    /// The packet id of a place; the next free one where an entry 65,535 places earlier is still not acknowledged.
    fn free_packet_id(&self, seq: u64) -> u16 {
        let mut id = packet_id(seq);
        while self.session.in_flight.iter().any(|entry| entry.packet_id == id) {
            id = id.checked_add(1).unwrap_or(1);
        }
        id
    }
}

/// Packet ids follow from places, so that a message keeps its id over a crash without a word in the store.
pub(super) fn packet_id(seq: u64) -> u16 {
    u16::try_from(seq.wrapping_sub(1) % 65_535 + 1).unwrap_or(1)
}

fn shown(queued: &Queued, packet_id: u16, dup: bool, now: Duration) -> encode::Delivery<'_> {
    encode::Delivery {
        dup,
        qos: queued.qos,
        retain: queued.retain,
        packet_id,
        identifiers: queued.identifiers.as_deref().unwrap_or_default(),
        expiry: queued.routed.remaining(now),
        alias: encode::Alias::None,
    }
}
