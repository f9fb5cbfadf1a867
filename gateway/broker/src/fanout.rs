//! One message to its receivers: queues that take it get it at once; for full queues of connected receivers the
//! publisher waits, a bounded time, then such a receiver is disconnected (DESIGN section 3).

use std::borrow::Borrow;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use crate::core::Core;
use crate::inbox::{Inbox, Kick, Presence, Pushed};
use crate::router::{GroupPlan, Plan, Receiver};
use crate::session::{Queued, Routed};
use crate::{Delivery, DisconnectReason, DropReason, QoS};

/// A copy that waits for room.
#[derive(Debug)]
pub(crate) struct Blocked {
    inbox: Arc<Inbox>,
    queued: Queued,
    /// What the receiver had taken when the wait began.
    taken: u64,
}

/// A copy for each receiver of the plan.
pub(crate) fn copies<'a>(
    plan: &'a Plan,
    routed: &'a Arc<Routed>,
) -> impl Iterator<Item = (&'a Arc<Inbox>, Queued)> + 'a {
    let chosen = plan.groups.iter().filter_map(choose);
    plan.receivers.iter().chain(chosen).map(|receiver| {
        let qos = routed.message.qos.min(receiver.qos);
        let queued = Queued {
            routed: Arc::clone(routed),
            qos,
            retain: routed.message.retain && receiver.retain_as_published,
            identifiers: receiver.identifiers.clone(),
            seq: if qos == QoS::AtMostOnce { 0 } else { receiver.inbox.next_place() },
            kept: None,
        };
        (&receiver.inbox, queued)
    })
}

/// Queues each copy; returns those that met a full queue.
pub(crate) fn fan_out<I: Borrow<Arc<Inbox>>>(
    core: &Core,
    copies: impl Iterator<Item = (I, Queued)>,
) -> (Delivery, Vec<Blocked>) {
    let mut delivery = Delivery::default();
    let mut blocked = Vec::new();
    for (inbox, queued) in copies {
        let inbox = inbox.borrow();
        if let Some(queued) = push(core, inbox, queued, &mut delivery) {
            blocked.push(Blocked { inbox: Arc::clone(inbox), queued, taken: inbox.taken() });
        }
    }
    (delivery, blocked)
}

/// The member whose turn it is; a connected one if there is any.
fn choose(group: &GroupPlan) -> Option<&Receiver> {
    let count = group.members.len();
    let first = group.turn.fetch_add(1, Ordering::Relaxed);
    let turns = (0..count).filter_map(|step| group.members.get((first.wrapping_add(step)) % count));
    turns.clone().find(|member| member.inbox.presence() == Presence::Live).or_else(|| turns.clone().next())
}

/// Queues one copy; gives it back when the queue of a connected receiver is full.
fn push(core: &Core, inbox: &Inbox, queued: Queued, delivery: &mut Delivery) -> Option<Queued> {
    match inbox.push(queued) {
        Pushed::Live => delivery.live += 1,
        Pushed::Stored { dropped } => {
            delivery.stored += 1;
            for oldest in &dropped {
                core.scribe.forget(inbox.key, oldest);
            }
            core.report_dropped(&inbox.owner, DropReason::QueueFull, u64::try_from(dropped.len()).unwrap_or(u64::MAX));
        }
        Pushed::Unwanted(queued) => core.scribe.forget(inbox.key, &queued),
        Pushed::Full(queued) => return Some(queued),
    }
    None
}

/// Waits for room for all of them, [`crate::Limits::full_queue_wait`] at most: a receiver that is still full then
/// and has not even taken a quarter of its queue is disconnected, and its copy goes into what remains of its
/// session. One that moves on is waited for: it is busy, not dead.
pub(crate) async fn wait_and_deliver(core: Arc<Core>, mut blocked: Vec<Blocked>) -> Delivery {
    core.counters.queue_waits.one();
    let mut delivery = Delivery::default();
    let limits = core.limits.get();
    let patience = limits.full_queue_wait;
    let moving = u64::try_from(limits.session_queue_messages / 4).unwrap_or(u64::MAX).max(1);
    let mut timeout = pin!(tokio::time::sleep(patience));
    while !blocked.is_empty() {
        let timed_out = poll_fn(|context| {
            if timeout.as_mut().poll(context).is_ready() {
                return Poll::Ready(true);
            }
            // Every one is asked, so that every one wakes this task.
            let roomy = blocked.iter().filter(|one| !one.inbox.wait_for_room(context.waker())).count();
            if roomy > 0 { Poll::Ready(false) } else { Poll::Pending }
        })
        .await;
        let mut still = Vec::new();
        for one in blocked {
            let Blocked { inbox, queued, taken } = one;
            let Some(queued) = push(&core, &inbox, queued, &mut delivery) else { continue };
            if !timed_out {
                still.push(Blocked { inbox, queued, taken });
                continue;
            }
            let now_taken = inbox.taken();
            if now_taken.saturating_sub(taken) >= moving {
                still.push(Blocked { inbox, queued, taken: now_taken });
                continue;
            }
            disconnect(&core, &inbox);
            if let Some(queued) = push(&core, &inbox, queued, &mut delivery) {
                // It is connected again already, and full again.
                delivery.dropped += 1;
                core.scribe.forget(inbox.key, &queued);
                core.report_dropped(&inbox.owner, DropReason::SlowReceiver, 1);
            }
        }
        blocked = still;
        if timed_out {
            timeout.as_mut().reset(tokio::time::Instant::now() + patience);
        }
    }
    delivery
}

/// Disconnects a receiver whose queue does not move; from now on its queue is that of an absent client.
fn disconnect(core: &Core, inbox: &Inbox) {
    core.counters.slow_receivers.one();
    inbox.kick(Kick { reason: DisconnectReason::SlowReceiver, drop_session: false });
    inbox.go_away();
}
