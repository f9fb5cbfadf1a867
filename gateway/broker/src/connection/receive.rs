//! Packets from the client: parsed from the batch, run through the machine, acted upon.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf, BytesMut};
use tokio::time::Instant;

use super::pipeline::{Entry, Publication, Stage};
use super::{CHUNK_MIN, Connection};
use crate::codec::{Incoming, decode, frame};
use crate::session::{Inbound, Machine, Routed, Step, Ticket};
use crate::{Decision, DisconnectReason, Durable, Message, Version};

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
        let limit = self.publisher.core.limits.packet;
        let Some(frame) = frame(input, limit).map_err(super::super::codec::Fault::reason)? else { return Ok(0) };
        if input.len() < frame.len() {
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
        let (retained, commit) = if message.retain {
            let cost = (!message.payload.is_empty()).then(|| message.cost());
            let change = crate::core::Core::retained_change(&message, &who.id);
            let submit = || core.gate.commit(who, &message, &Durable { changes: &[change] });
            if let Ok((sequence, commit)) = core.retained.submit(&message.topic, &who.id, cost, submit) {
                (Some(sequence), commit)
            } else {
                core.counters.retained_refused.one();
                // Told where there is a way to tell; otherwise delivered, but not kept.
                if self.machine.version == Version::V5 && inbound.ticket != Ticket::None {
                    return self.refuse_in_turn(inbound.ticket, message.topic, 0x97);
                }
                (None, core.gate.commit(who, &message, &Durable { changes: &[] }))
            }
        } else {
            (None, core.gate.commit(who, &message, &Durable { changes: &[] }))
        };
        let publication = Publication { routed: Arc::new(Routed { message, at: self.now }), retained };
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
