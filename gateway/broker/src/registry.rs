//! Who is connected and whose session waits: one slot per MQTT client id.
//!
//! A slot is live (a connection owns the session) or parked (the session is here). A newcomer asks the live one to
//! end and waits until it has handed its session back, so that no two connections ever touch one session. Locks are
//! held for a few instructions. Nothing here sends or waits.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fieldgate_types::UnixMillis;
use tokio_util::sync::CancellationToken;

use crate::budget::Budget;
use crate::durable::{self, LoadedSession, Meta};
use crate::inbox::{self, Inbox, Kick, Presence};
use crate::session::{Queued, Session};
use crate::{Change, ConnectionInfo, DisconnectReason, Identity, Limits, Message, Role, Version};

/// All slots.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    state: Mutex<State>,
    last_key: AtomicU64,
    last_assigned: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    slots: HashMap<Arc<str>, Slot>,
    live: usize,
    closed: bool,
}

#[derive(Debug)]
struct Slot {
    who: Arc<Identity>,
    inbox: Arc<Inbox>,
    state: SlotState,
}

#[derive(Debug)]
enum SlotState {
    Live(Arc<Live>),
    Parked(Box<Parked>),
}

/// A connection, as others see it.
#[derive(Debug)]
pub(crate) struct Live {
    pub peer: SocketAddr,
    pub since: UnixMillis,
    pub version: Version,
    pub messages_in: AtomicU64,
    pub messages_out: AtomicU64,
    /// Cancelled when the session has been handed back.
    pub ended: CancellationToken,
}

/// A session without a connection.
#[derive(Debug)]
pub(crate) struct Parked {
    pub session: Session,
    /// Running time at which the session ends.
    pub expires: Duration,
    /// Running time at which the will is published, before the session's end or at it.
    pub will: Option<(Duration, Message)>,
}

/// Who wants in.
#[derive(Debug)]
pub(crate) struct Newcomer<'a> {
    pub who: &'a Arc<Identity>,
    pub client_id: &'a Arc<str>,
    pub clean: bool,
    /// Whether a session made for it outlives the process.
    pub durable: bool,
    pub live: &'a Arc<Live>,
}

/// Answer to a newcomer.
#[derive(Debug)]
pub(crate) enum Attach {
    /// In, with the session, and with what of an older session is to be cleaned up.
    In { session: Session, inbox: Arc<Inbox>, present: bool, replaced: Option<Box<Ended>> },
    /// An older connection was asked to end; ask again when this is cancelled.
    Wait(CancellationToken),
    /// A limit is reached, in words.
    Full(&'static str),
    /// The broker is stopping.
    Closed,
}

/// A session that has ended: its subscriptions are still in the tree.
#[derive(Debug)]
pub(crate) struct Ended {
    pub who: Arc<Identity>,
    pub inbox: Arc<Inbox>,
    pub session: Session,
    /// To be published now.
    pub will: Option<Message>,
}

/// What has fallen due.
#[derive(Debug)]
pub(crate) struct Due {
    /// Sessions whose time is over.
    pub over: Vec<Ended>,
    /// Wills whose delay is over, and their sessions without them.
    pub wills: Vec<(Arc<Identity>, Message, Change)>,
    /// Running time of the next of either.
    pub next: Option<Duration>,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a newcomer in, or says what stands in its way.
    pub(crate) fn attach(&self, newcomer: &Newcomer<'_>, limits: &Limits, budget: &Arc<Budget>) -> Attach {
        let mut state = self.lock();
        if state.closed {
            return Attach::Closed;
        }
        if let Some(slot) = state.slots.get(newcomer.client_id)
            && let SlotState::Live(live) = &slot.state
        {
            slot.inbox.kick(Kick { reason: DisconnectReason::TakenOver, drop_session: false });
            return Attach::Wait(live.ended.clone());
        }
        if state.live >= limits.connections {
            return Attach::Full("all connections are taken");
        }
        if budget.full() {
            return Attach::Full("all buffers are full");
        }
        let mut replaced = None;
        if newcomer.who.role == Role::App && !state.slots.contains_key(newcomer.client_id) {
            match state.make_place(&newcomer.who.id, limits.connections_per_app) {
                Ok(ended) => replaced = ended,
                Err(()) => return Attach::Full("all connections of this program are taken"),
            }
        }
        state.live += 1;
        let live = SlotState::Live(Arc::clone(newcomer.live));
        let old = state.slots.remove(newcomer.client_id);
        let (session, inbox, present) = match old.and_then(Slot::parked) {
            Some((_, inbox, parked)) if !newcomer.clean => {
                inbox.go_live();
                // The will dies when its client returns before the delay is over [MQTT-3.1.3-9].
                (parked.session, inbox, true)
            }
            old => {
                replaced = replaced.or_else(|| old.map(ended));
                let start = inbox::Start {
                    key: self.last_key.fetch_add(1, Ordering::Relaxed) + 1,
                    durable: newcomer.durable,
                    client_id: Arc::clone(newcomer.client_id),
                    owner: Arc::clone(&newcomer.who.id),
                    presence: Presence::Live,
                    queue: VecDeque::new(),
                    last_place: 0,
                };
                (Session::default(), Arc::new(Inbox::new(start, limits, budget)), false)
            }
        };
        let slot = Slot { who: Arc::clone(newcomer.who), inbox: Arc::clone(&inbox), state: live };
        state.slots.insert(Arc::clone(newcomer.client_id), slot);
        Attach::In { session, inbox, present, replaced: replaced.map(Box::new) }
    }

    /// New sessions get keys behind `last`.
    pub(crate) fn begin_after(&self, last: u64) {
        self.last_key.store(last, Ordering::Relaxed);
    }

    /// Takes a session of an earlier run, nobody connected; `now` in running time. Its inbox.
    pub(crate) fn restore(
        &self,
        loaded: LoadedSession,
        now: Duration,
        limits: &Limits,
        budget: &Arc<Budget>,
    ) -> Arc<Inbox> {
        let LoadedSession { key, meta, session, queue, last_place, expires_in, will } = loaded;
        let start = inbox::Start {
            key,
            durable: true,
            client_id: Arc::clone(&meta.client_id),
            owner: Arc::clone(&meta.who.id),
            presence: Presence::Away,
            queue,
            last_place,
        };
        let inbox = Arc::new(Inbox::new(start, limits, budget));
        let will = will.map(|(delay, message)| (now.saturating_add(delay), message));
        let parked = Parked { session, expires: now.saturating_add(expires_in), will };
        let slot = Slot { who: meta.who, inbox: Arc::clone(&inbox), state: SlotState::Parked(Box::new(parked)) };
        self.lock().slots.insert(meta.client_id, slot);
        inbox
    }

    /// A client id `id/…` of an app that no session has. Two callers never get the same.
    pub(crate) fn unused_client_id(&self, id: &str) -> Arc<str> {
        let state = self.lock();
        loop {
            let number = self.last_assigned.fetch_add(1, Ordering::Relaxed);
            let candidate: Arc<str> = format!("{id}/{number}").into();
            if !state.slots.contains_key(&candidate) {
                return candidate;
            }
        }
    }

    /// A connection has ended: its session waits here, or (`None`) is gone.
    pub(crate) fn release(&self, inbox: &Inbox, parked: Option<Parked>) {
        let mut state = self.lock();
        let Some(slot) = state.slots.get_mut(&inbox.client_id).filter(|slot| slot.inbox.key == inbox.key) else {
            return;
        };
        let SlotState::Live(live) = &slot.state else { return };
        let ended = live.ended.clone();
        match parked {
            Some(parked) => slot.state = SlotState::Parked(Box::new(parked)),
            None => {
                state.slots.remove(&inbox.client_id);
            }
        }
        state.live = state.live.saturating_sub(1);
        drop(state);
        ended.cancel();
    }

    /// Asks every connection of `id` to end; with `drop_session` its parked sessions end here and now, without
    /// their wills. Returns whether anything was there, and the ended sessions.
    pub(crate) fn disconnect(&self, id: &str, kick: Kick) -> (bool, Vec<Ended>) {
        let mut state = self.lock();
        let mut any = false;
        let mut parked = Vec::new();
        for (client_id, slot) in state.slots.iter().filter(|(_, slot)| &*slot.who.id == id) {
            any = true;
            match &slot.state {
                SlotState::Live(_) => slot.inbox.kick(kick),
                SlotState::Parked(_) => parked.push(Arc::clone(client_id)),
            }
        }
        let gone = if kick.drop_session { state.take_parked(&parked) } else { Vec::new() };
        let without_will = |(who, inbox, parked): (Arc<Identity>, Arc<Inbox>, Parked)| Ended {
            who,
            inbox,
            session: parked.session,
            will: None,
        };
        (any, gone.into_iter().map(without_will).collect())
    }

    /// Asks every live connection of those that `of` says to end; their sessions stay. How many.
    pub(crate) fn disconnect_all(&self, reason: DisconnectReason, of: impl Fn(&Identity) -> bool) -> usize {
        let state = self.lock();
        let live = |slot: &&Slot| matches!(slot.state, SlotState::Live(_)) && of(&slot.who);
        let ending = state.slots.values().filter(live);
        ending.map(|slot| slot.inbox.kick(Kick { reason, drop_session: false })).count()
    }

    /// Takes what has fallen due.
    pub(crate) fn due(&self, now: Duration, wall: UnixMillis) -> Due {
        let mut state = self.lock();
        let mut over = Vec::new();
        let mut wills = Vec::new();
        let mut next: Option<Duration> = None;
        for (client_id, slot) in &mut state.slots {
            let SlotState::Parked(parked) = &mut slot.state else { continue };
            if parked.expires <= now {
                over.push(Arc::clone(client_id));
                continue;
            }
            let mut deadline = parked.expires;
            if let Some((due, message)) = parked.will.take() {
                if due <= now {
                    let meta = Meta {
                        client_id: Arc::clone(client_id),
                        who: Arc::clone(&slot.who),
                        expiry: parked.expires.saturating_sub(now),
                        parked: Some((wall, slot.inbox.first_unsent())),
                        will: None,
                    };
                    wills.push((Arc::clone(&slot.who), message, durable::session(slot.inbox.key, &meta)));
                } else {
                    deadline = deadline.min(due);
                    parked.will = Some((due, message));
                }
            }
            next = Some(next.map_or(deadline, |next| next.min(deadline)));
        }
        let gone = state.take_parked(&over).into_iter().map(ended).collect();
        Due { over: gone, wills, next }
    }

    /// Lets nobody in any more and asks every connection to end.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        for slot in state.slots.values().filter(|slot| matches!(slot.state, SlotState::Live(_))) {
            slot.inbox.kick(Kick { reason: DisconnectReason::ServerShutdown, drop_session: false });
        }
    }

    /// Takes from the largest queue of an absent client, or what one of them was sent and has not acknowledged when
    /// no queue holds anything. `None`: there is nothing to take.
    pub(crate) fn shed(&self) -> Option<(Arc<Inbox>, Vec<Queued>)> {
        let mut state = self.lock();
        let parked = || state.slots.values().filter(|slot| matches!(slot.state, SlotState::Parked(_)));
        let largest = parked().map(|slot| (slot.inbox.bytes(), &slot.inbox)).max_by_key(|(bytes, _)| *bytes);
        if let Some((_, inbox)) = largest.filter(|(bytes, _)| *bytes > 0) {
            return Some((Arc::clone(inbox), inbox.shed()));
        }
        state.slots.values_mut().find_map(|slot| match &mut slot.state {
            SlotState::Live(_) => None,
            SlotState::Parked(parked) => {
                let sent: Vec<Queued> = parked.session.take_in_flight().collect();
                (!sent.is_empty()).then(|| (Arc::clone(&slot.inbox), sent))
            }
        })
    }

    /// Wakes every connection: rights have changed.
    pub(crate) fn nudge(&self) {
        let state = self.lock();
        state.slots.values().for_each(|slot| slot.inbox.nudge());
    }

    /// The connected clients.
    pub(crate) fn connections(&self) -> Vec<ConnectionInfo> {
        let state = self.lock();
        let info = |(client_id, slot): (&Arc<str>, &Slot)| match &slot.state {
            SlotState::Parked(_) => None,
            SlotState::Live(live) => Some(ConnectionInfo {
                id: Arc::clone(&slot.who.id),
                role: slot.who.role,
                client_id: Arc::clone(client_id),
                peer: live.peer,
                since: live.since,
                version: live.version,
                messages_in: live.messages_in.load(Ordering::Relaxed),
                messages_out: live.messages_out.load(Ordering::Relaxed),
            }),
        };
        state.slots.iter().filter_map(info).collect()
    }

    /// Whether somebody with that id is connected.
    pub(crate) fn is_connected(&self, id: &str) -> bool {
        let state = self.lock();
        state.slots.values().any(|slot| matches!(slot.state, SlotState::Live(_)) && &*slot.who.id == id)
    }

    /// Connections and sessions.
    pub(crate) fn count(&self) -> (usize, usize) {
        let state = self.lock();
        (state.live, state.slots.len())
    }
}

impl State {
    /// A place for one more session of an app: when all are taken, the parked one that ends first goes.
    fn make_place(&mut self, id: &str, most: usize) -> Result<Option<Ended>, ()> {
        let own = || self.slots.iter().filter(|(_, slot)| &*slot.who.id == id);
        if own().count() < most {
            return Ok(None);
        }
        let parked = own().filter_map(|(client_id, slot)| match &slot.state {
            SlotState::Parked(parked) => Some((parked.expires, Arc::clone(client_id))),
            SlotState::Live(_) => None,
        });
        let (_, first) = parked.min().ok_or(())?;
        Ok(self.slots.remove(&first).and_then(Slot::parked).map(ended))
    }

    fn take_parked(&mut self, client_ids: &[Arc<str>]) -> Vec<(Arc<Identity>, Arc<Inbox>, Parked)> {
        client_ids.iter().filter_map(|client_id| self.slots.remove(client_id).and_then(Slot::parked)).collect()
    }
}

impl Slot {
    fn parked(self) -> Option<(Arc<Identity>, Arc<Inbox>, Parked)> {
        match self.state {
            SlotState::Parked(parked) => Some((self.who, self.inbox, *parked)),
            SlotState::Live(_) => None,
        }
    }
}

/// A parked session is over: its will is due at the latest now [MQTT-3.1.2-8].
fn ended((who, inbox, parked): (Arc<Identity>, Arc<Inbox>, Parked)) -> Ended {
    Ended { who, inbox, session: parked.session, will: parked.will.map(|(_, message)| message) }
}
