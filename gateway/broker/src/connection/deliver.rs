//! Messages to the client: what an earlier connection left unacknowledged, retained messages for new subscriptions,
//! then the inbox; as far as the output buffer and the client's quota go.

use std::task::Context;

use super::Connection;
use crate::session::{Queued, Sent};
use crate::{Decision, DisconnectReason, DropReason, QoS};

/// Retained entries looked at in one go: about 0.1 ms.
const WALK: usize = 512;

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
        let limit = self.publisher.core.limits.output_buffer;
        let before = self.output.len();
        let mut tally = Tally::default();
        if self.machine.must_resend() {
            self.machine.resend(self.now, &mut self.output, limit);
        }
        let walked = self.walk(limit, &mut tally);
        // While retained messages are still to come, or old ones to be sent again, the inbox waits: it is newer.
        let blocked = self.machine.must_resend() || !self.walks.is_empty();
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
        if self.guarded {
            let topic = &queued.routed.message.topic;
            if publisher.core.gate.may_receive(&publisher.who, topic) == Decision::Deny {
                tally.denied += 1;
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
        while let Some((mut walk, options)) = self.walks.pop_front() {
            if self.machine.must_resend() || self.output.len() >= limit {
                self.walks.push_front((walk, options));
                return moved;
            }
            let core = std::sync::Arc::clone(&self.publisher.core);
            let mut stuck = false;
            let more = core.retained.step(&mut walk, self.now, WALK, |routed| {
                let qos = routed.message.qos.min(options.qos);
                if (qos > QoS::AtMostOnce && self.machine.quota() == 0) || self.output.len() >= limit {
                    stuck = true;
                    return false;
                }
                let identifiers = options.identifier.map(|identifier| std::sync::Arc::from([identifier]));
                let queued = Queued { routed: std::sync::Arc::clone(routed), qos, retain: true, identifiers };
                self.send(queued, tally);
                moved = true;
                true
            });
            if more {
                self.walks.push_front((walk, options));
                // Not stuck means that the budget is spent: another round goes on.
                return moved || !stuck;
            }
            moved = true;
        }
        moved
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
