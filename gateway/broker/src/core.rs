//! What every part of the broker shares, and the way of a message through it that no connection drives: wills and
//! the gateway's own messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fieldgate_types::{Clock, Current};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::budget::Budget;
use crate::counters::Counters;
use crate::durable::{self, Scribe};
use crate::fanout::{self, Blocked};
use crate::inbox::Inbox;
use crate::penalties::Penalties;
use crate::registry::{Ended, Registry};
use crate::retained::Retained;
use crate::router::{Plan, Router};
use crate::session::{Queued, Routed};
use crate::{
    Change, CommitError, Decision, Delivery, DropReason, Durable, Event, Gate, Identity, Limits, Message, QoS,
    Sessions, Table, stored,
};

/// Shared by all tasks of one broker.
pub(crate) struct Core {
    /// For who comes from now on; a connection keeps those that it was let in with.
    pub limits: Current<Limits>,
    pub gate: Arc<dyn Gate>,
    pub sessions: Arc<dyn Sessions>,
    pub clock: Arc<dyn Clock>,
    pub router: Router,
    pub retained: Retained,
    pub registry: Registry,
    /// Writes changes of sessions that no message's commit carries.
    pub scribe: Arc<Scribe>,
    pub budget: Arc<Budget>,
    pub counters: Counters,
    /// Counts changes of rights; connections compare it with what they saw last.
    pub rights: AtomicU64,
    pub penalties: Penalties,
    /// Told when a session is parked: the janitor has a new deadline.
    pub parked: Notify,
    /// Every task, so that a stop can wait for them.
    pub tasks: TaskTracker,
    /// Cancelled when the broker stops accepting.
    pub stopping: CancellationToken,
}

impl Core {
    pub(crate) fn rights(&self) -> u64 {
        self.rights.load(Ordering::Acquire)
    }

    /// Counts and reports messages that a receiver lost.
    pub(crate) fn report_dropped(&self, id: &Arc<str>, reason: DropReason, count: u64) {
        if count > 0 {
            self.counters.dropped(reason, count);
            self.gate.event(Event::Dropped { id: Arc::clone(id), reason, count });
        }
    }

    /// Submits what a message makes durable in one transaction, by `commit`: its upstream record (the gate's part),
    /// its retained copy, its places in durable sessions. Their receivers are settled here, as the rows name them;
    /// for a message without such receivers they are looked up when it is routed. `None`: a limit on retained
    /// messages was met, and the offer is for all or nothing.
    pub(crate) fn submit<R>(
        &self,
        offer: Offer<'_>,
        commit: impl Fn(&Message, &[Change]) -> R,
    ) -> Option<(Publication, R)> {
        let Offer { routed, plan, owner, more, all_or_nothing } = offer;
        let message = &routed.message;
        let mut changes: Vec<Change> = more.into_iter().collect();
        let mut copies = None;
        if plan.durable && message.qos > QoS::AtMostOnce {
            let mut settled: Copies =
                fanout::copies(plan, &routed).map(|(inbox, queued)| (Arc::clone(inbox), queued)).collect();
            changes.extend(durable::hold(&self.scribe, &mut settled));
            copies = Some(settled);
        }
        if message.retain {
            let cost = (!message.payload.is_empty()).then(|| message.cost());
            let value = cost.map(|_| stored::write(message, owner));
            changes.push(Change { table: Table::Retained, key: message.topic.as_bytes().to_vec().into(), value });
            let submitted = self.retained.submit(&message.topic, owner, cost, || commit(message, &changes));
            if let Ok((sequence, committed)) = submitted {
                let retained = Some((sequence, Arc::clone(owner)));
                return Some((Publication { routed, copies, retained }, committed));
            }
            self.counters.retained_refused.one();
            if all_or_nothing {
                return None;
            }
            // Delivered with its retain flag, as it was published, but not kept.
            changes.pop();
        }
        let committed = commit(message, &changes);
        Some((Publication { routed, copies, retained: None }, committed))
    }

    /// A submitted commit failed: nothing of it is there.
    pub(crate) fn commit_failed(&self, publication: &Publication) {
        self.counters.commits_failed.one();
        self.give_up(publication);
    }

    /// Nobody waits for a commit any more, or it failed: its topic doesn't wait for it either.
    pub(crate) fn give_up(&self, publication: &Publication) {
        if publication.retained.is_some() {
            self.retained.abandon(&publication.routed.message.topic);
        }
    }

    /// Keeps the retained copy of a message whose commit is done, and queues it for its receivers. `plan` may be
    /// given when it is fresh.
    pub(crate) fn route(
        &self,
        publication: Publication,
        publisher: Option<u64>,
        plan: Option<&Plan>,
    ) -> (Delivery, Vec<Blocked>) {
        let Publication { routed, copies, retained } = publication;
        if let Some((sequence, owner)) = retained {
            let kept = (!routed.message.payload.is_empty()).then_some((&routed, owner));
            self.retained.apply(&routed.message.topic, sequence, kept);
        }
        if let Some(copies) = copies {
            return fanout::fan_out(self, copies.into_iter());
        }
        if let Some(plan) = plan {
            return fanout::fan_out(self, fanout::copies(plan, &routed));
        }
        let plan = self.router.plan(&routed.message.topic, publisher);
        fanout::fan_out(self, fanout::copies(&plan, &routed))
    }

    /// Fires a will: the same checks, commit and routing as a publish of its owner, whom nobody can tell of a
    /// failure any more. Its expiry counts from now [MQTT 5, 3.1.3.2.4].
    pub(crate) async fn fire_will(self: Arc<Self>, who: Arc<Identity>, will: Message) {
        let topic = Arc::clone(&will.topic);
        if self.gate.may_publish(&who, &topic) == Decision::Deny {
            self.counters.publish_refused.one();
            self.gate.event(Event::PublishRefused { who, topic, code: 0x87 });
            return;
        }
        let message = Message { received: self.clock.now(), ..will };
        let routed = Arc::new(Routed::new(message, self.clock.monotonic(), &self.budget));
        let plan = self.router.plan(&topic, None);
        let offer = Offer { routed, plan: &plan, owner: &who.id, more: None, all_or_nothing: false };
        let commit = |message: &Message, changes: &[Change]| self.gate.commit(&who, message, &Durable { changes });
        let Some((publication, committed)) = self.submit(offer, commit) else { return };
        if let Some(committed) = committed
            && committed.await.is_err()
        {
            self.commit_failed(&publication);
            return;
        }
        self.deliver(publication).await;
        self.counters.wills_fired.one();
        self.gate.event(Event::WillFired { who, topic });
    }

    /// Routes a message of the gateway itself.
    pub(crate) async fn publish_own(self: Arc<Self>, message: Message) -> Result<Delivery, CommitError> {
        let routed = Arc::new(Routed::new(message, self.clock.monotonic(), &self.budget));
        let plan = self.router.plan(&routed.message.topic, None);
        let owner = Arc::from("");
        // Its retained messages are never refused by the limits.
        let offer = Offer { routed, plan: &plan, owner: &owner, more: None, all_or_nothing: false };
        let commit =
            |_: &Message, changes: &[Change]| (!changes.is_empty()).then(|| self.sessions.persist(changes.to_vec()));
        let Some((publication, committed)) = self.submit(offer, commit) else { return Err(CommitError::Full) };
        if let Some(committed) = committed
            && let Err(error) = committed.await
        {
            self.commit_failed(&publication);
            return Err(error);
        }
        Ok(self.deliver(publication).await)
    }

    /// Routes what no connection drives, and waits for full queues of its receivers.
    async fn deliver(self: &Arc<Self>, publication: Publication) -> Delivery {
        let (mut delivery, blocked) = self.route(publication, None, None);
        if !blocked.is_empty() {
            let later = fanout::wait_and_deliver(Arc::clone(self), blocked).await;
            delivery.live += later.live;
            delivery.stored += later.stored;
            delivery.dropped += later.dropped;
        }
        delivery
    }

    /// Cleans up after a session that has ended; its will, if one is left, is published.
    pub(crate) fn end_session(self: &Arc<Self>, ended: Ended) {
        let Ended { who, inbox, mut session, will } = ended;
        self.router.unsubscribe(session.subscriptions.keys().map(|filter| &**filter), &inbox);
        if inbox.durable {
            self.scribe.later(durable::ended(inbox.key, &session));
        }
        let mut lost = 0;
        for queued in inbox.close().into_iter().chain(session.take_in_flight()) {
            self.scribe.forget(inbox.key, &queued);
            lost += 1;
        }
        self.report_dropped(&who.id, DropReason::SessionEnded, lost);
        if let Some(message) = will {
            self.tasks.spawn(Arc::clone(self).fire_will(who, message));
        }
    }
}

/// A message to be submitted.
pub(crate) struct Offer<'a> {
    pub routed: Arc<Routed>,
    pub plan: &'a Plan,
    /// Of its retained copy; empty for the gateway.
    pub owner: &'a Arc<str>,
    /// A row of the publisher's own session.
    pub more: Option<Change>,
    /// Whether a retained message that may not be kept is not to be submitted at all.
    pub all_or_nothing: bool,
}

/// A submitted message.
pub(crate) struct Publication {
    pub routed: Arc<Routed>,
    /// Settled where rows name the receivers.
    copies: Option<Copies>,
    /// Of a retained message: its sequence number and owner.
    retained: Option<(u64, Arc<str>)>,
}

/// Who gets what.
pub(crate) type Copies = Vec<(Arc<Inbox>, Queued)>;
