//! The queue between publishers and one receiver. Bounded: what happens when it is full depends on the receiver.
//!
//! Connected: publishers wait (see [`crate::fanout`]), then the receiver is disconnected. Absent with a session that
//! persists: the oldest message is dropped and counted. Gone: nothing is taken any more. Locks are held for a few
//! instructions, never across an await.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use crate::budget::{Budget, Charge};
use crate::session::Queued;
use crate::{DisconnectReason, Limits, QoS};

/// Whether somebody is there to take messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// A connection takes them.
    Live,
    /// The session waits for its client.
    Away,
    /// The session has ended.
    Gone,
}

/// What became of a push.
#[derive(Debug)]
pub(crate) enum Pushed {
    /// Queued for a connected receiver.
    Live,
    /// Queued for an absent one, in the place of these, the oldest.
    Stored { dropped: Vec<Queued> },
    /// Full, and the receiver is connected: the message comes back.
    Full(Queued),
    /// Nobody wants it: the session is gone, or it is QoS 0 for an absent client.
    Unwanted(Queued),
}

/// A request to end the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kick {
    pub reason: DisconnectReason,
    /// The session goes too, without its will.
    pub drop_session: bool,
}

/// One receiver's queue; lives as long as its session.
#[derive(Debug)]
pub(crate) struct Inbox {
    /// One session; no other has it, not even after a restart.
    pub key: u64,
    /// Whether the session outlives the process.
    pub durable: bool,
    pub client_id: Arc<str>,
    /// Of the identity, for events.
    pub owner: Arc<str>,
    limit_messages: usize,
    limit_bytes: usize,
    state: Mutex<State>,
    /// Messages taken out so far: shows whether a full queue moves.
    taken: AtomicU64,
    /// The place that was given out last.
    last_place: AtomicU64,
}

/// What an entry of a queue takes besides its message, which is shared.
const ENTRY: usize = size_of::<Queued>();

/// What an inbox begins with.
#[derive(Debug)]
pub(crate) struct Start {
    pub key: u64,
    pub durable: bool,
    pub client_id: Arc<str>,
    pub owner: Arc<str>,
    pub presence: Presence,
    /// What an earlier run left.
    pub queue: VecDeque<Queued>,
    /// The last place that is in use.
    pub last_place: u64,
}

#[derive(Debug)]
struct State {
    queue: VecDeque<Queued>,
    bytes: usize,
    charge: Charge,
    presence: Presence,
    /// The connection's task, when it waits for something to come.
    receiver: Option<Waker>,
    /// Publishers that wait for room; at most one entry per publishing connection.
    waiting: Vec<Waker>,
    kick: Option<Kick>,
    /// Something around the receiver has changed since it last looked.
    nudged: bool,
}

impl Inbox {
    pub(crate) fn new(start: Start, limits: &Limits, budget: &Arc<Budget>) -> Self {
        let Start { key, durable, client_id, owner, presence, queue, last_place } = start;
        let state = State {
            bytes: queue.iter().map(|queued| queued.routed.message.cost()).sum(),
            charge: budget.charge(queue.len() * ENTRY),
            queue,
            presence,
            receiver: None,
            waiting: Vec::new(),
            kick: None,
            nudged: false,
        };
        Self {
            key,
            durable,
            client_id,
            owner,
            limit_messages: limits.session_queue_messages.max(1),
            limit_bytes: limits.session_queue_bytes,
            state: Mutex::new(state),
            taken: AtomicU64::new(0),
            last_place: AtomicU64::new(last_place),
        }
    }

    /// The next place in the session.
    pub(crate) fn next_place(&self) -> u64 {
        self.last_place.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The first place that was never handed to a connection, but for what is on its way here.
    pub(crate) fn first_unsent(&self) -> u64 {
        let first = self.lock().queue.iter().map(|queued| queued.seq).find(|seq| *seq != 0);
        first.unwrap_or_else(|| self.last_place.load(Ordering::Relaxed) + 1)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a message.
    pub(crate) fn push(&self, queued: Queued) -> Pushed {
        let cost = queued.routed.message.cost();
        let mut state = self.lock();
        match state.presence {
            Presence::Gone => Pushed::Unwanted(queued),
            Presence::Live => {
                if self.full(&state, cost) {
                    return Pushed::Full(queued);
                }
                state.bytes += cost;
                state.queue.push_back(queued);
                state.count();
                let receiver = state.receiver.take();
                drop(state);
                if let Some(receiver) = receiver {
                    receiver.wake();
                }
                Pushed::Live
            }
            Presence::Away if queued.qos == QoS::AtMostOnce => Pushed::Unwanted(queued),
            Presence::Away => {
                let mut dropped = Vec::new();
                while self.full(&state, cost) {
                    let Some(oldest) = state.queue.pop_front() else { break };
                    state.bytes = state.bytes.saturating_sub(oldest.routed.message.cost());
                    dropped.push(oldest);
                }
                state.bytes += cost;
                state.queue.push_back(queued);
                state.count();
                Pushed::Stored { dropped }
            }
        }
    }

    /// An empty queue takes any one message, however large: its size is bounded by the packet limit.
    fn full(&self, state: &State, cost: usize) -> bool {
        !state.queue.is_empty() && (state.queue.len() >= self.limit_messages || state.bytes + cost > self.limit_bytes)
    }

    /// Asks to be woken when there is room (half of the queue: one wake-up then serves many messages), or when
    /// the receiver is no longer live. False when that is so already.
    pub(crate) fn wait_for_room(&self, waker: &Waker) -> bool {
        let mut state = self.lock();
        if state.presence != Presence::Live || self.roomy(&state) {
            return false;
        }
        if !state.waiting.iter().any(|waiting| waiting.will_wake(waker)) {
            state.waiting.push(waker.clone());
        }
        true
    }

    fn roomy(&self, state: &State) -> bool {
        state.queue.len() <= self.limit_messages / 2 && state.bytes <= self.limit_bytes / 2
    }

    /// Messages taken out so far.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Moves messages into `batch`: at most `quota` above QoS 0, about `room` bytes, never out of order. When
    /// nothing is there to take, `waker` is woken by the next message, and by a kick or nudge in any case. True
    /// when one of these came before `waker` was known here: the receiver has to look again.
    pub(crate) fn take(&self, batch: &mut Vec<Queued>, mut quota: usize, mut room: usize, waker: &Waker) -> bool {
        let mut state = self.lock();
        if state.presence == Presence::Gone {
            return true;
        }
        let mut count = 0;
        while let Some(first) = state.queue.front() {
            let counted = first.qos != QoS::AtMostOnce;
            if room == 0 || (counted && quota == 0) {
                break;
            }
            quota -= usize::from(counted);
            let Some(queued) = state.queue.pop_front() else { break };
            let cost = queued.routed.message.cost();
            state.bytes = state.bytes.saturating_sub(cost);
            room = room.saturating_sub(cost);
            count += 1;
            batch.push(queued);
        }
        if !state.receiver.as_ref().is_some_and(|earlier| earlier.will_wake(waker)) {
            state.receiver = Some(waker.clone());
        }
        let look_again = std::mem::take(&mut state.nudged) || state.kick.is_some();
        if count == 0 {
            return look_again;
        }
        state.count();
        self.taken.fetch_add(count, Ordering::Relaxed);
        let waiting = if self.roomy(&state) { std::mem::take(&mut state.waiting) } else { Vec::new() };
        if state.queue.is_empty() && state.queue.capacity() > 256 {
            state.queue = VecDeque::new();
        }
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
        look_again
    }

    /// Asks the connection to end. The first reason stands. With `drop_session` nothing more is queued.
    pub(crate) fn kick(&self, kick: Kick) {
        let mut state = self.lock();
        if state.kick.is_none_or(|earlier| kick.drop_session && !earlier.drop_session) {
            state.kick = Some(kick);
        }
        let waiting = if kick.drop_session {
            state.presence = Presence::Gone;
            std::mem::take(&mut state.waiting)
        } else {
            Vec::new()
        };
        let receiver = state.receiver.take();
        drop(state);
        waiting.into_iter().chain(receiver).for_each(Waker::wake);
    }

    /// Wakes the receiver's task, so that it looks at what has changed around it.
    pub(crate) fn nudge(&self) {
        let receiver = {
            let mut state = self.lock();
            state.nudged = true;
            state.receiver.take()
        };
        if let Some(receiver) = receiver {
            receiver.wake();
        }
    }

    /// The request to end, if there is one.
    pub(crate) fn kicked(&self) -> Option<Kick> {
        self.lock().kick
    }

    /// The connection is there again.
    pub(crate) fn go_live(&self) {
        let mut state = self.lock();
        state.presence = Presence::Live;
        state.kick = None;
    }

    /// The connection is gone, the session stays. QoS 0 is not kept.
    pub(crate) fn go_away(&self) {
        let waiting = {
            let mut state = self.lock();
            if state.presence == Presence::Gone {
                return;
            }
            state.presence = Presence::Away;
            state.queue.retain(|queued| queued.qos != QoS::AtMostOnce);
            state.bytes = state.queue.iter().map(|queued| queued.routed.message.cost()).sum();
            state.count();
            state.receiver = None;
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// The session is about to end: nothing is taken any more, and nobody waits.
    pub(crate) fn retire(&self) {
        let waiting = {
            let mut state = self.lock();
            state.presence = Presence::Gone;
            state.receiver = None;
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// The session has ended: nothing is taken any more, and nobody waits. Returns what was waiting in it.
    pub(crate) fn close(&self) -> VecDeque<Queued> {
        let (left, waiting) = {
            let mut state = self.lock();
            state.presence = Presence::Gone;
            state.bytes = 0;
            state.receiver = None;
            state.charge.set(0);
            (std::mem::take(&mut state.queue), std::mem::take(&mut state.waiting))
        };
        waiting.into_iter().for_each(Waker::wake);
        left
    }

    pub(crate) fn presence(&self) -> Presence {
        self.lock().presence
    }

    /// Bytes that wait here.
    pub(crate) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Takes the older half of an absent client's queue, one message at least.
    pub(crate) fn shed(&self) -> Vec<Queued> {
        let mut state = self.lock();
        if state.presence != Presence::Away {
            return Vec::new();
        }
        let count = state.queue.len().div_ceil(2);
        let gone: Vec<Queued> = state.queue.drain(..count).collect();
        state.bytes = state.queue.iter().map(|queued| queued.routed.message.cost()).sum();
        state.count();
        gone
    }
}

impl State {
    /// Counts the entries of the queue.
    fn count(&mut self) {
        let bytes = self.queue.len() * ENTRY;
        self.charge.set(bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fieldgate_types::UnixMillis;

    use super::*;
    use crate::Message;
    use crate::session::Routed;

    fn budget() -> Arc<Budget> {
        Arc::new(Budget::new(usize::MAX))
    }

    fn inbox() -> Inbox {
        let start = Start {
            key: 1,
            durable: false,
            client_id: "d".into(),
            owner: "d".into(),
            presence: Presence::Live,
            queue: VecDeque::new(),
            last_place: 0,
        };
        Inbox::new(start, &Limits { session_queue_messages: 4, ..Limits::default() }, &budget())
    }

    fn queued(qos: QoS) -> Queued {
        let routed = Arc::new(Routed::new(Message::new("t", "x", UnixMillis(0)), Duration::ZERO, &budget()));
        Queued { routed, qos, retain: false, identifiers: None, seq: 0, kept: None }
    }

    fn take(inbox: &Inbox, quota: usize) -> (usize, bool) {
        let mut batch = Vec::new();
        let look_again = inbox.take(&mut batch, quota, 1 << 20, Waker::noop());
        (batch.len(), look_again)
    }

    #[test]
    fn a_kick_or_nudge_is_never_missed() {
        let inbox = inbox();
        assert_eq!(take(&inbox, 9), (0, false));
        inbox.nudge();
        assert_eq!(take(&inbox, 9), (0, true));
        assert_eq!(take(&inbox, 9), (0, false));
        inbox.kick(Kick { reason: DisconnectReason::TakenOver, drop_session: false });
        assert_eq!(take(&inbox, 9), (0, true));
        // A revocation on top of another reason still drops the session.
        inbox.kick(Kick { reason: DisconnectReason::Revoked, drop_session: true });
        inbox.kick(Kick { reason: DisconnectReason::TakenOver, drop_session: false });
        assert_eq!(inbox.kicked().map(|kick| kick.reason), Some(DisconnectReason::Revoked));
        assert!(matches!(inbox.push(queued(QoS::AtLeastOnce)), Pushed::Unwanted(_)));
    }

    #[test]
    fn a_full_queue_gives_back_or_drops_the_oldest() {
        let inbox = inbox();
        for _ in 0..4 {
            assert!(matches!(inbox.push(queued(QoS::AtLeastOnce)), Pushed::Live));
        }
        assert!(matches!(inbox.push(queued(QoS::AtMostOnce)), Pushed::Full(_)));
        assert!(inbox.wait_for_room(Waker::noop()));
        assert_eq!(take(&inbox, 2).0, 2);
        assert!(!inbox.wait_for_room(Waker::noop()));
        assert!(matches!(inbox.push(queued(QoS::AtMostOnce)), Pushed::Live));
        inbox.go_away();
        assert!(matches!(inbox.push(queued(QoS::AtMostOnce)), Pushed::Unwanted(_)));
        for dropped in [0, 0, 1] {
            let pushed = inbox.push(queued(QoS::AtLeastOnce));
            assert!(matches!(pushed, Pushed::Stored { dropped: ref gone } if gone.len() == dropped), "{pushed:?}");
        }
        assert_eq!(inbox.close().len(), 4);
    }
}
