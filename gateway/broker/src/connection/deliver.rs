//! Messages to the client: what an earlier connection left unacknowledged, retained messages for new subscriptions,
//! then the inbox; as far as the output buffer and the client's quota go.

use std::sync::Arc;
use std::task::Context;

use super::Connection;
use super::answers::Answer;
use crate::core::Copies;
use crate::session::{Queued, Sent};
use crate::{Decision, DisconnectReason, DropReason, QoS, Role, durable};

/// Retained entries looked at in one go: about 0.1 ms.
const WALK: usize = 512;
/// Output while all buffers are full.
const SMALL: usize = 4 << 10;

/// Messages of one batch that went out or not.
#[derive(Debug, Default)]
struct Tally {
    sent: u64,
    expired: u64,
    denied: u64,
    too_large: u64,
}

impl Connection {
    /// Fills the output buffer; registers to be woken when there is nothing to fill it with.
    pub(super) fn deliver(&mut self, context: &mut Context<'_>) -> bool {
        let core = &self.publisher.core;
        // While all buffers are full, one that takes nothing is not given more.
        let limit = if core.budget.full() { SMALL } else { self.limits.output_buffer };
        let limit = limit.min(self.limits.output_buffer);
        let before = self.output.len();
        let mut tally = Tally::default();
        if self.machine.must_resend() {
            self.machine.resend(self.now, &mut self.output, limit);
        }
        let walked = self.walk(limit, &mut tally);
        // While retained messages are still to come, or old ones to be sent again, the inbox waits: it is newer.
        let blocked = self.machine.must_resend() || !self.walks.is_empty() || self.placing > 0;
        let room = if blocked { 0 } else { limit.saturating_sub(self.output.len()) };
        let mut batch = std::mem::take(&mut self.batch);
        let look_again = self.inbox.take(&mut batch, self.machine.quota(), room, context.waker());
        for queued in batch.drain(..) {
            self.send(queued, &mut tally);
        }
        if batch.capacity() <= 1_024 {
            self.batch = batch;
        }
        self.report(&tally);
        walked || look_again || self.output.len() != before || tally.expired + tally.denied + tally.too_large > 0
    }

    fn send(&mut self, queued: Queued, tally: &mut Tally) {
        let publisher = &self.publisher;
        // Rights may have changed since this connection looked: what was published after that is seen only with it.
        if self.guarded || publisher.core.rights() != self.rights_seen {
            let topic = &queued.routed.message.topic;
            if publisher.core.gate.may_receive(&publisher.who, topic) == Decision::Deny {
                tally.denied += 1;
                publisher.core.scribe.forget(self.inbox.key, &queued);
                return;
            }
        }
        match self.machine.deliver(queued, self.now, &mut self.output) {
            Sent::Out => tally.sent += 1,
            Sent::Expired => tally.expired += 1,
            Sent::TooLarge => tally.too_large += 1,
        }
    }

    /// Goes on with the retained messages for new subscriptions. True when it got anywhere.
    fn walk(&mut self, limit: usize, tally: &mut Tally) -> bool {
        let mut moved = false;
        let mut places = Copies::new();
        // No Local goes by client id [MQTT-3.8.3-3], which is the identity's but for apps, which may have several.
        let own = self.publisher.who.role != Role::App;
        let mut placed = 0;
        while let Some((mut walk, options)) = self.walks.pop_front() {
            if self.machine.must_resend() || self.output.len() + placed >= limit {
                self.walks.push_front((walk, options));
                break;
            }
            let core = Arc::clone(&self.publisher.core);
            let mut stuck = false;
            let more = core.retained.step(&mut walk, self.now, WALK, |routed, owner| {
                if own && options.no_local && *owner == *self.publisher.who.id {
                    return true;
                }
                let qos = routed.message.qos.min(options.qos);
                let counted = qos > QoS::AtMostOnce;
                let quota = self.machine.quota().saturating_sub(self.placing + places.len());
                if (counted && quota == 0) || self.output.len() + placed >= limit {
                    stuck = true;
                    return false;
                }
                let queued = Queued {
                    routed: Arc::clone(routed),
                    qos,
                    retain: true,
                    identifiers: options.identifier.map(|identifier| Arc::from([identifier])),
                    seq: if counted { self.inbox.next_place() } else { 0 },
                    kept: None,
                };
                if counted && self.inbox.durable {
                    placed += routed.message.cost();
                    places.push((Arc::clone(&self.inbox), queued));
                } else {
                    self.send(queued, tally);
                }
                moved = true;
                true
            });
            if more {
                self.walks.push_front((walk, options));
                // Not stuck means that the budget is spent: another round goes on.
                moved |= !stuck;
                break;
            }
            moved = true;
        }
        self.place(places);
        moved
    }

    /// Gives retained messages their places in a durable session; they go out when these are durable.
    fn place(&mut self, mut places: Copies) {
        if places.is_empty() {
            return;
        }
        self.placing += places.len();
        let mut changes = Vec::new();
        for place in places.chunks_mut(1) {
            changes.extend(durable::hold(&self.publisher.core.scribe, place));
        }
        self.save(changes, Answer::Retained(places.into_iter().map(|(_, queued)| queued).collect()));
    }

    /// Retained messages have their places.
    pub(super) fn send_placed(&mut self, batch: Vec<Queued>) {
        let mut tally = Tally::default();
        self.placing = self.placing.saturating_sub(batch.len());
        for queued in batch {
            self.send(queued, &mut tally);
        }
        self.report(&tally);
    }

    fn report(&self, tally: &Tally) {
        let Tally { sent, expired, denied, too_large } = *tally;
        if sent > 0 {
            self.count_out(sent);
        }
        let id = &self.publisher.who.id;
        self.publisher.core.report_dropped(id, DropReason::Expired, expired);
        self.publisher.core.report_dropped(id, DropReason::NotAuthorized, denied);
        self.publisher.core.report_dropped(id, DropReason::TooLarge, too_large);
    }

    /// After a change of rights: is this still who it was, and may it still have all that it subscribed to?
    pub(super) fn look_at_rights(&mut self) -> Result<(), DisconnectReason> {
        let rights = self.publisher.core.rights();
        if rights == self.rights_seen {
            return Ok(());
        }
        self.rights_seen = rights;
        if self.publisher.core.gate.still_valid(&self.publisher.who).is_err() {
            return Err(DisconnectReason::Revoked);
        }
        self.guarded = self.some_subscription_denied();
        Ok(())
    }

    pub(super) fn some_subscription_denied(&self) -> bool {
        let publisher = &self.publisher;
        self.machine.session.subscriptions.keys().any(|filter| {
            crate::topic::split_share(filter)
                .is_ok_and(|(_, inner)| publisher.core.gate.may_subscribe(&publisher.who, inner) == Decision::Deny)
        })
    }
}
