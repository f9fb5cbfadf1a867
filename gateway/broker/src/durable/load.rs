//! Sessions as an earlier run left them: rows are put together, what belongs to nobody is found.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fieldgate_types::Clock;

use super::rows::{self, Key, Meta, Place};
use super::{Kept, stopped_for};
use crate::budget::Budget;
use crate::session::{Queued, Routed, Session, SubscriptionOptions};
use crate::{Change, Limits, Message, QoS, Row};

/// Everything that was there.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub sessions: Vec<LoadedSession>,
    /// No session had a higher key, no message a higher number.
    pub last_session: u64,
    pub last_message: u64,
    /// Rows that belong to nothing, to be deleted.
    pub orphans: Vec<Change>,
    /// Rows that can't be read; they are left alone.
    pub unreadable: u64,
}

/// One session.
#[derive(Debug)]
pub(crate) struct LoadedSession {
    pub key: u64,
    pub meta: Meta,
    pub session: Session,
    pub queue: VecDeque<Queued>,
    pub last_place: u64,
    /// Until its end, and until its will is published.
    pub expires_in: Duration,
    pub will: Option<(Duration, Message)>,
}

/// What belongs to one session.
#[derive(Debug, Default)]
struct Parts {
    meta: Option<Meta>,
    subscriptions: BTreeMap<Arc<str>, SubscriptionOptions>,
    places: BTreeMap<u64, Place>,
    received: Vec<u16>,
}

/// Puts the rows of [`crate::Table::Sessions`] together.
pub(crate) fn load(table: Vec<Row>, clock: &dyn Clock, limits: &Limits, budget: &Arc<Budget>) -> Loaded {
    let mut loaded = Loaded::default();
    let mut parts: HashMap<u64, Parts> = HashMap::new();
    let mut messages: HashMap<u64, (Arc<Kept>, Arc<Routed>, bool)> = HashMap::new();
    for (key, value) in table {
        let read = rows::read_key(&key).and_then(|key| {
            match &key {
                Key::Session(session) => parts.entry(*session).or_default().meta = Some(rows::read_meta(value)?),
                Key::Subscription(session, filter) => {
                    let options = rows::read_options(&value)?;
                    parts.entry(*session).or_default().subscriptions.insert(Arc::clone(filter), options);
                }
                Key::Message(id) => {
                    let routed = Arc::new(revived(clock, rows::read_message(value)?, budget));
                    messages.insert(*id, (Arc::new(Kept::new(*id)), routed, false));
                }
                Key::Place(session, seq) => {
                    parts.entry(*session).or_default().places.insert(*seq, rows::read_place(&value)?);
                }
                Key::Received(session, packet_id) => parts.entry(*session).or_default().received.push(*packet_id),
            }
            Some(key)
        });
        match read {
            Some(Key::Session(key) | Key::Subscription(key, _) | Key::Place(key, _) | Key::Received(key, _)) => {
                loaded.last_session = loaded.last_session.max(key);
            }
            Some(Key::Message(id)) => loaded.last_message = loaded.last_message.max(id),
            None => loaded.unreadable += 1,
        }
    }
    // Two sessions of one client id: the older one's deletion did not get through.
    let mut newest: HashMap<Arc<str>, u64> = HashMap::new();
    for (key, of_session) in &parts {
        if let Some(meta) = &of_session.meta {
            let newest = newest.entry(Arc::clone(&meta.client_id)).or_default();
            *newest = (*newest).max(*key);
        }
    }
    for (key, mut of_session) in parts {
        let meta = of_session.meta.take().filter(|meta| newest.get(&meta.client_id) == Some(&key));
        match meta {
            Some(meta) => {
                let session = put_together(key, meta, of_session, &mut messages, clock, limits, &mut loaded.orphans);
                loaded.sessions.push(session);
            }
            None => loaded.orphans.extend(of_session.gone(key)),
        }
    }
    let unheld = messages.iter().filter(|(_, (_, _, held))| !held);
    loaded.orphans.extend(unheld.map(|(id, _)| rows::message_gone(*id)));
    loaded
}

fn put_together(
    key: u64,
    meta: Meta,
    parts: Parts,
    messages: &mut HashMap<u64, (Arc<Kept>, Arc<Routed>, bool)>,
    clock: &dyn Clock,
    limits: &Limits,
    orphans: &mut Vec<Change>,
) -> LoadedSession {
    let mut sent = Vec::new();
    let mut queue = VecDeque::new();
    let last_place = parts.places.last_key_value().map_or(0, |(seq, _)| *seq);
    for (seq, place) in parts.places {
        let Some((kept, routed, held)) = messages.get_mut(&place.message) else {
            // Its message can't be read.
            orphans.push(rows::place_gone(key, seq));
            continue;
        };
        *held = true;
        kept.hold();
        let Place { qos, retain, released, identifiers, .. } = place;
        let queued = Queued { routed: Arc::clone(routed), qos, retain, identifiers, seq, kept: Some(Arc::clone(kept)) };
        // What may have been sent is sent again first, marked as a duplicate. Where the connection was cut with the
        // process, that is as much as could be in flight.
        let was_sent = match meta.parked {
            Some((_, unsent)) => seq < unsent,
            None => sent.len() < usize::from(limits.in_flight),
        };
        if released || (was_sent && qos != QoS::AtMostOnce) {
            sent.push((queued, released));
        } else {
            queue.push_back(queued);
        }
    }
    let away = meta.parked.map_or(Duration::ZERO, |(since, _)| stopped_for(clock, since));
    let will = meta.will.as_ref().map(|will| (will.delay.saturating_sub(away), will.message.clone()));
    let expires_in = meta.expiry.saturating_sub(away);
    let session = Session::restored(parts.subscriptions, parts.received.into_iter(), sent.into_iter());
    LoadedSession { key, meta, session, queue, last_place, expires_in, will }
}

impl Parts {
    /// All rows of a session that is not there.
    fn gone(self, key: u64) -> Vec<Change> {
        let filters = self.subscriptions.keys().map(|filter| rows::subscription(key, filter, None));
        let places = self.places.keys().map(|seq| rows::place_gone(key, *seq));
        let received = self.received.iter().map(|packet_id| rows::received(key, *packet_id, false));
        filters.chain(places).chain(received).chain([rows::session(key, None)]).collect()
    }
}

/// A message of an earlier run. Running time starts near zero: what is older than this process keeps its age in its
/// expiry.
pub(crate) fn revived(clock: &dyn Clock, message: Message, budget: &Arc<Budget>) -> Routed {
    let now = clock.monotonic();
    let age = stopped_for(clock, message.received);
    let at = now.saturating_sub(age);
    let before = age.saturating_sub(now);
    let Some(expiry) = message.properties.as_ref().and_then(|p| p.message_expiry) else {
        return Routed::new(message, at, budget);
    };
    let mut properties = message.properties().clone();
    properties.message_expiry = Some(expiry.saturating_sub(before));
    Routed::new(message.with_properties(properties), at, budget)
}
