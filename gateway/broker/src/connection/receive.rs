//! Packets from the client: parsed from the batch, run through the machine, acted upon.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::time::Instant;

use super::pipeline::{Entry, Stage};
use super::{CHUNK_MIN, Connection};
use crate::codec::{Incoming, decode, frame};
use crate::core::Offer;
use crate::durable;
use crate::session::{Inbound, Machine, Routed, Step, Ticket};
use crate::{Decision, DisconnectReason, Durable, Message, Version};

const PUBLISH: u8 = 3;
/// While all buffers are full, a publish waits so long for another look.
const BUFFERS_RETRY: Duration = Duration::from_millis(20);

impl Connection {
    /// Handles every whole packet that was read, unless something makes reading wait.
    pub(super) fn receive(&mut self) -> Result<bool, DisconnectReason> {
        if self.input.is_empty() {
            return Ok(false);
        }
        // Taken out, so that packets may borrow from it while the rest of `self` works on them.
        let mut input = std::mem::take(&mut self.input);
        let mut used = 0;
        let mut messages = 0;
        let mut ended = None;
        while !self.paused() {
            match self.receive_one(input.get(used..).unwrap_or_default(), &mut messages) {
                Ok(0) => break,
                Ok(length) => used += length,
                Err(reason) => {
                    ended = Some(reason);
                    break;
                }
            }
        }
        if used > 0 {
            // Whole packets count, bytes don't [MQTT-3.1.2-22].
            self.heard = Instant::now();
        }
        input.advance(used);
        if input.is_empty() && input.capacity() > CHUNK_MIN * 4 && self.chunk <= CHUNK_MIN * 4 {
            // An idle client keeps a small buffer.
            input = BytesMut::new();
        }
        self.input = input;
        if messages > 0 {
            self.publisher.core.counters.messages_in.add(messages);
            self.live.messages_in.fetch_add(messages, Ordering::Relaxed);
        }
        match ended {
            Some(reason) => Err(reason),
            None => Ok(used > 0),
        }
    }

    /// Handles the first packet of `input`; its length, or 0 when it isn't there in full.
    fn receive_one(&mut self, input: &[u8], messages: &mut u64) -> Result<usize, DisconnectReason> {
        let limit = self.limits.packet;
        let Some(frame) = frame(input, limit).map_err(super::super::codec::Fault::reason)? else { return Ok(0) };
        if input.len() < frame.len() {
            return Ok(0);
        }
        if frame.first >> 4 == PUBLISH && self.publisher.core.budget.full() {
            self.publisher.core.counters.buffer_waits.one();
            self.publisher.core.budget.pressed.notify_one();
            self.slowed_until = Some(Instant::now() + BUFFERS_RETRY);
            return Ok(0);
        }
        let packet = decode(self.machine.version, frame, input).map_err(super::super::codec::Fault::reason)?;
        if matches!(packet, Incoming::Publish(_)) {
            *messages += 1;
            self.spend_rate();
        }
        match self.machine.handle(packet, &mut self.output) {
            Step::Done => {}
            Step::Publish(inbound) => self.publish(inbound)?,
            Step::Refused { ticket, topic, code } => {
                self.refuse_in_turn(ticket, topic.as_str().into(), code)?;
            }
            Step::Subscribe(subscribe) => self.subscribe(subscribe),
            Step::Unsubscribe(unsubscribe) => self.unsubscribe(unsubscribe),
            Step::Save(saving) => self.save_step(saving),
            Step::End(reason) => return Err(reason),
        }
        Ok(frame.len())
    }

    fn spend_rate(&mut self) {
        let Some(bucket) = &mut self.bucket else { return };
        bucket.spend();
        let wait = bucket.wait(self.now);
        if !wait.is_zero() {
            self.publisher.core.counters.rate_waits.one();
            self.slowed_until = Some(Instant::now() + wait);
        }
    }

    fn publish(&mut self, inbound: Inbound<'_>) -> Result<(), DisconnectReason> {
        let publisher = &self.publisher;
        let core = &publisher.core;
        let route = self.routes.get(core, &publisher.who, publisher.session, inbound.topic.as_str());
        if route.decision == Decision::Deny {
            return self.refuse_in_turn(inbound.ticket, route.topic, 0x87);
        }
        let message = Message {
            topic: route.topic,
            payload: Machine::payload(inbound.payload),
            qos: inbound.qos,
            retain: inbound.retain,
            properties: inbound.properties,
            received: self.wall,
        };
        let who = &publisher.who;
        // In a durable session the id of a QoS 2 message is as durable as the message.
        let more = match inbound.ticket {
            Ticket::PubRec(packet_id) if self.inbox.durable => Some(durable::received(self.inbox.key, packet_id)),
            Ticket::PubRec(_) | Ticket::PubAck(_) | Ticket::None => None,
        };
        let topic = Arc::clone(&message.topic);
        let offer = Offer {
            routed: Arc::new(Routed::new(message, self.now, &core.budget)),
            plan: &route.plan,
            owner: &who.id,
            more,
            // Told where there is a way to tell; otherwise delivered, but not kept.
            all_or_nothing: self.machine.version == Version::V5 && inbound.ticket != Ticket::None,
        };
        let submitted = core.submit(offer, |message, changes| core.gate.commit(who, message, &Durable { changes }));
        let Some((publication, commit)) = submitted else {
            return self.refuse_in_turn(inbound.ticket, topic, 0x97);
        };
        let stage = match commit {
            Some(commit) => Stage::Committing(commit, publication),
            None if self.pipeline.is_empty() => publisher.route(publication, Some(&route.plan)),
            None => Stage::Ready(publication),
        };
        if let Stage::Done(code) = stage {
            self.machine.acknowledge(inbound.ticket, code, &mut self.output);
        } else {
            self.pipeline.push(Entry { ticket: inbound.ticket, stage });
        }
        Ok(())
    }

    /// Refuses a publish, behind those before it.
    fn refuse_in_turn(&mut self, ticket: Ticket, topic: Arc<str>, code: u8) -> Result<(), DisconnectReason> {
        if self.pipeline.is_empty() {
            return self.refuse(ticket, topic, code);
        }
        self.pipeline.push(Entry { ticket, stage: Stage::Refused(topic, code) });
        Ok(())
    }

    /// Makes a refusal visible: in the acknowledgement on MQTT 5, by a disconnect where there is none that could
    /// say it (QoS 0, and all of 3.1.1).
    pub(super) fn refuse(&mut self, ticket: Ticket, topic: Arc<str>, code: u8) -> Result<(), DisconnectReason> {
        self.publisher.report_refused(topic, code);
        if self.machine.version == Version::V5 && ticket != Ticket::None {
            self.machine.acknowledge(ticket, code, &mut self.output);
            return Ok(());
        }
        Err(match code {
            0x87 => {
                if self.machine.version == Version::V311 {
                    self.publisher.core.penalties.note(&self.publisher.who.id, self.now);
                }
                DisconnectReason::NotAuthorized
            }
            0x90 => DisconnectReason::TopicInvalid,
            0x97 => DisconnectReason::StoreFailed,
            _ => DisconnectReason::Malformed,
        })
    }
}
