//! What every part of the broker shares, and the way of a message through it that no connection drives: wills and
//! the gateway's own messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fieldgate_types::Clock;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::counters::Counters;
use crate::fanout;
use crate::penalties::Penalties;
use crate::registry::{Ended, Registry};
use crate::retained::Retained;
use crate::router::Router;
use crate::session::Routed;
use crate::{
    Change, CommitError, Decision, Delivery, DropReason, Durable, Event, Gate, Identity, Limits, Message, Sessions,
    Table, stored,
};

/// Shared by all tasks of one broker.
pub(crate) struct Core {
    pub limits: Limits,
    pub gate: Arc<dyn Gate>,
    pub sessions: Arc<dyn Sessions>,
    pub clock: Arc<dyn Clock>,
    pub router: Router,
    pub retained: Retained,
    pub registry: Registry,
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

    /// The row that keeps or clears a retained message.
    pub(crate) fn retained_change(message: &Message, owner: &str) -> Change {
        let value = (!message.payload.is_empty()).then(|| stored::write(message, owner));
        Change { table: Table::Retained, key: message.topic.as_bytes().to_vec().into(), value }
    }

    /// Fires a will: the same checks, commit and routing as a publish of its owner, whom nobody can tell of a
    /// failure any more.
    pub(crate) async fn fire_will(self: Arc<Self>, who: Arc<Identity>, message: Message) {
        let topic = Arc::clone(&message.topic);
        if self.gate.may_publish(&who, &topic) == Decision::Deny {
            self.counters.publish_refused.one();
            self.gate.event(Event::PublishRefused { who, topic, code: 0x87 });
            return;
        }
        let commit = |changes: &[Change]| self.gate.commit(&who, &message, &Durable { changes });
        let (sequence, committed) = if message.retain {
            let cost = (!message.payload.is_empty()).then(|| message.cost());
            let change = Self::retained_change(&message, &who.id);
            if let Ok((sequence, committed)) = self.retained.submit(&topic, &who.id, cost, || commit(&[change])) {
                (Some(sequence), committed)
            } else {
                self.counters.retained_refused.one();
                (None, commit(&[]))
            }
        } else {
            (None, commit(&[]))
        };
        if let Some(committed) = committed
            && committed.await.is_err()
        {
            self.counters.commits_failed.one();
            if sequence.is_some() {
                self.retained.abandon(&topic);
            }
            return;
        }
        let owner = Arc::clone(&who.id);
        self.route(message, sequence.map(|sequence| (sequence, owner))).await;
        self.counters.wills_fired.one();
        self.gate.event(Event::WillFired { who, topic });
    }

    /// Routes a message of the gateway itself.
    pub(crate) async fn publish_own(self: Arc<Self>, message: Message) -> Result<Delivery, CommitError> {
        if !message.retain {
            return Ok(self.route(message, None).await);
        }
        let topic = Arc::clone(&message.topic);
        let change = Self::retained_change(&message, "");
        let cost = (!message.payload.is_empty()).then(|| message.cost());
        // The gateway's own messages are never refused by the limits.
        let Ok((sequence, persisted)) = self.retained.submit(&topic, "", cost, || self.sessions.persist(vec![change]))
        else {
            return Err(CommitError::Full);
        };
        if let Err(error) = persisted.await {
            self.counters.commits_failed.one();
            self.retained.abandon(&topic);
            return Err(error);
        }
        Ok(self.route(message, Some((sequence, "".into()))).await)
    }

    /// Cleans up after a session that has ended; its will, if one is left, is published.
    pub(crate) fn end_session(self: &Arc<Self>, ended: Ended) {
        let Ended { who, inbox, session, will } = ended;
        self.router.unsubscribe(session.subscriptions.keys().map(|filter| &**filter), &inbox);
        let in_flight = u64::try_from(session.in_flight()).unwrap_or(u64::MAX);
        self.report_dropped(&who.id, DropReason::SessionEnded, inbox.close() + in_flight);
        if let Some(message) = will {
            self.tasks.spawn(Arc::clone(self).fire_will(who, message));
        }
    }

    async fn route(self: &Arc<Self>, message: Message, retained: Option<(u64, Arc<str>)>) -> Delivery {
        let routed = Arc::new(Routed { message, at: self.clock.monotonic() });
        if let Some((sequence, owner)) = retained {
            self.keep(&routed, sequence, owner);
        }
        let plan = self.router.plan(&routed.message.topic, None);
        let (mut delivery, blocked) = fanout::fan_out(self, &plan, &routed);
        if !blocked.is_empty() {
            let later = fanout::wait_and_deliver(Arc::clone(self), blocked).await;
            delivery.live += later.live;
            delivery.stored += later.stored;
            delivery.dropped += later.dropped;
        }
        delivery
    }

    /// A retained message is durable: memory follows.
    pub(crate) fn keep(&self, routed: &Arc<Routed>, sequence: u64, owner: Arc<str>) {
        let kept = (!routed.message.payload.is_empty()).then_some((routed, owner));
        self.retained.apply(&routed.message.topic, sequence, kept);
    }
}
