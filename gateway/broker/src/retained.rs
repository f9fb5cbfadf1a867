//! Retained messages: the last one of each topic, bounded per client and in all. In memory, with rows in the store
//! (see [`crate::stored`]) as the durable copy; the rows travel with the commits.
//!
//! Two publishers may commit the same topic in one order and finish in the other. Sequence numbers, given out under
//! the lock under which the commit is submitted, keep memory and disk agreed on the last one.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::session::Routed;
use crate::{Limits, topic};

/// The store.
#[derive(Debug)]
pub(crate) struct Retained {
    state: Mutex<State>,
}

/// What clients may keep there.
#[derive(Debug, Clone, Copy, Default)]
struct Bounds {
    per_client: usize,
    messages: usize,
    bytes: usize,
}

impl Bounds {
    fn of(limits: &Limits) -> Self {
        Self {
            per_client: limits.retained_per_client,
            messages: limits.retained_messages,
            bytes: limits.retained_bytes,
        }
    }
}

#[derive(Debug, Default)]
struct State {
    bounds: Bounds,
    by_topic: BTreeMap<Arc<str>, Entry>,
    /// Topics with commits under way: how many, and the newest sequence applied meanwhile.
    under_way: HashMap<Arc<str>, UnderWay>,
    owners: HashMap<Arc<str>, usize>,
    sequence: u64,
    bytes: usize,
    client_messages: usize,
    client_bytes: usize,
}

#[derive(Debug)]
struct Entry {
    routed: Arc<Routed>,
    /// Empty: the gateway itself.
    owner: Arc<str>,
    sequence: u64,
    cost: usize,
}

#[derive(Debug, Default)]
struct UnderWay {
    commits: usize,
    applied: u64,
}

/// The limits don't allow another retained message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused;

/// A place in the walk over the messages that a new subscription gets.
#[derive(Debug, Clone)]
pub(crate) struct Walk {
    pub filter: Arc<str>,
    after: Option<Arc<str>>,
    upto: u64,
}

impl Retained {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { state: Mutex::new(State { bounds: Bounds::of(limits), ..State::default() }) }
    }

    /// Other limits from now on; what is kept already stays.
    pub(crate) fn set_limits(&self, limits: &Limits) {
        self.lock().bounds = Bounds::of(limits);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Messages and bytes.
    pub(crate) fn size(&self) -> (usize, usize) {
        let state = self.lock();
        (state.by_topic.len(), state.bytes)
    }

    /// Reserves the next sequence number for `topic` and submits its commit under the same lock. `cost` is `None`
    /// when the message clears. The gateway's own messages (`owner` empty) are not limited.
    pub(crate) fn submit<R>(
        &self,
        topic: &Arc<str>,
        owner: &str,
        cost: Option<usize>,
        commit: impl FnOnce() -> R,
    ) -> Result<(u64, R), Refused> {
        let mut state = self.lock();
        if let Some(cost) = cost.filter(|_| !owner.is_empty()) {
            let old = state.by_topic.get(topic).filter(|old| !old.owner.is_empty());
            let (old_messages, old_bytes) = old.map_or((0, 0), |old| (1, old.cost));
            let own = state.owners.get(owner).copied().unwrap_or(0);
            let own_old = usize::from(old.is_some_and(|old| &*old.owner == owner));
            if own - own_old >= state.bounds.per_client
                || state.client_messages - old_messages >= state.bounds.messages
                || state.client_bytes - old_bytes + cost > state.bounds.bytes
            {
                return Err(Refused);
            }
        }
        state.sequence += 1;
        let sequence = state.sequence;
        state.under_way.entry(Arc::clone(topic)).or_default().commits += 1;
        Ok((sequence, commit()))
    }

    /// A submitted commit is durable: the message replaces the topic's, or clears it when there is none.
    pub(crate) fn apply(&self, topic: &Arc<str>, sequence: u64, message: Option<(&Arc<Routed>, Arc<str>)>) {
        let mut state = self.lock();
        let newest = state.finish(topic, sequence);
        if !newest {
            return;
        }
        state.remove(topic);
        if let Some((routed, owner)) = message {
            state.insert(topic, Entry { routed: Arc::clone(routed), owner, sequence, cost: routed.message.cost() });
        }
    }

    /// A submitted commit failed.
    pub(crate) fn abandon(&self, topic: &Arc<str>) {
        self.lock().finish(topic, 0);
    }

    /// Takes a row at start; no limits, they were kept when it was written.
    pub(crate) fn load(&self, routed: Routed, owner: Arc<str>) {
        let mut state = self.lock();
        state.sequence += 1;
        let (topic, cost, sequence) = (Arc::clone(&routed.message.topic), routed.message.cost(), state.sequence);
        state.remove(&topic);
        state.insert(&topic, Entry { routed: Arc::new(routed), owner, sequence, cost });
    }

    /// Begins the walk for a new subscription (filter without `$share/group/`). It sees what is stored now; what
    /// is stored later is delivered live.
    pub(crate) fn walk(&self, filter: Arc<str>) -> Walk {
        Walk { filter, after: None, upto: self.lock().sequence }
    }

    /// Goes on: gives matching messages, with their owners, while `give` returns true, looking at no more than `budget` entries.
    /// False when the walk has come to its end.
    pub(crate) fn step(
        &self,
        walk: &mut Walk,
        now: Duration,
        budget: usize,
        mut give: impl FnMut(&Arc<Routed>, &str) -> bool,
    ) -> bool {
        let filter = Arc::clone(&walk.filter);
        let state = self.lock();
        let prefix = filter.find(['+', '#']).map_or(&*filter, |at| filter.get(..at).unwrap_or_default());
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let from: Bound<&str> = match &walk.after {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(prefix),
        };
        for (seen, (name, entry)) in state.by_topic.range::<str, _>((from, Bound::Unbounded)).enumerate() {
            if !name.starts_with(prefix) {
                return false;
            }
            if seen >= budget {
                return true;
            }
            let wanted = entry.sequence <= walk.upto && topic::matches(&filter, name) && !entry.routed.expired(now);
            if wanted && !give(&entry.routed, &entry.owner) {
                return true;
            }
            walk.after = Some(Arc::clone(name));
        }
        false
    }

    /// Topics of messages that have expired.
    pub(crate) fn expired(&self, now: Duration) -> Vec<Arc<str>> {
        let state = self.lock();
        let expired = state.by_topic.iter().filter(|(_, entry)| entry.routed.expired(now));
        expired.map(|(topic, _)| Arc::clone(topic)).collect()
    }

    /// Owner of a topic's message.
    #[cfg(test)]
    fn owner(&self, topic: &str) -> Option<Arc<str>> {
        self.lock().by_topic.get(topic).map(|entry| Arc::clone(&entry.owner))
    }
}

impl State {
    /// One commit of the topic less is under way; whether `sequence` is the newest of them so far.
    fn finish(&mut self, topic: &Arc<str>, sequence: u64) -> bool {
        let Some(under_way) = self.under_way.get_mut(topic) else { return true };
        let newest = sequence > under_way.applied;
        under_way.applied = under_way.applied.max(sequence);
        under_way.commits = under_way.commits.saturating_sub(1);
        if under_way.commits == 0 {
            self.under_way.remove(topic);
        }
        newest
    }

    fn insert(&mut self, topic: &Arc<str>, entry: Entry) {
        self.bytes += entry.cost;
        if !entry.owner.is_empty() {
            self.client_messages += 1;
            self.client_bytes += entry.cost;
            *self.owners.entry(Arc::clone(&entry.owner)).or_default() += 1;
        }
        self.by_topic.insert(Arc::clone(topic), entry);
    }

    fn remove(&mut self, topic: &str) {
        let Some(old) = self.by_topic.remove(topic) else { return };
        self.bytes -= old.cost;
        if old.owner.is_empty() {
            return;
        }
        self.client_messages -= 1;
        self.client_bytes -= old.cost;
        if let Some(count) = self.owners.get_mut(&old.owner) {
            *count -= 1;
            if *count == 0 {
                self.owners.remove(&old.owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use fieldgate_types::UnixMillis;

    use super::*;
    use crate::Message;
    use crate::budget::Budget;

    fn store(limits: Limits) -> Retained {
        Retained::new(&limits)
    }

    fn put(store: &Retained, topic: &str, owner: &str) -> Result<(), Refused> {
        let topic: Arc<str> = topic.into();
        let message = Message::new(Arc::clone(&topic), "x", UnixMillis(0));
        let routed = Arc::new(Routed::new(message, Duration::ZERO, &Arc::new(Budget::new(1))));
        let (sequence, ()) = store.submit(&topic, owner, Some(routed.message.cost()), || ())?;
        store.apply(&topic, sequence, Some((&routed, owner.into())));
        Ok(())
    }

    fn topics(store: &Retained, filter: &str) -> Vec<String> {
        let mut walk = store.walk(filter.into());
        let mut found = Vec::new();
        while store.step(&mut walk, Duration::ZERO, 2, |routed, _| {
            found.push(routed.message.topic.to_string());
            true
        }) {}
        found
    }

    #[test]
    fn walks_in_steps_and_finds_what_matches() {
        let store = store(Limits::default());
        for topic in ["a", "a/b", "a/b/c", "ab", "b/a", "$s/a"] {
            put(&store, topic, "").unwrap();
        }
        assert_eq!(topics(&store, "a/#"), ["a", "a/b", "a/b/c"]);
        assert_eq!(topics(&store, "#"), ["a", "a/b", "a/b/c", "ab", "b/a"]);
        assert_eq!(topics(&store, "+/+"), ["a/b", "b/a"]);
        assert_eq!(topics(&store, "a/b"), ["a/b"]);
        assert_eq!(topics(&store, "$s/#"), ["$s/a"]);
        assert_eq!(topics(&store, "x"), [""; 0]);
    }

    #[test]
    fn a_walk_does_not_see_what_is_stored_after_its_begin() {
        let store = store(Limits::default());
        put(&store, "a", "").unwrap();
        let mut walk = store.walk("#".into());
        put(&store, "b", "").unwrap();
        let mut found = 0;
        assert!(!store.step(&mut walk, Duration::ZERO, 100, |_, _| {
            found += 1;
            true
        }));
        assert_eq!(found, 1);
    }

    #[test]
    fn limits_count_per_client_and_free_what_is_cleared() {
        let limits = Limits { retained_per_client: 2, retained_messages: 3, ..Limits::default() };
        let store = store(limits);
        put(&store, "a", "d1").unwrap();
        put(&store, "b", "d1").unwrap();
        assert_eq!(put(&store, "c", "d1"), Err(Refused));
        put(&store, "a", "d1").unwrap();
        put(&store, "c", "d2").unwrap();
        assert_eq!(put(&store, "d", "d2"), Err(Refused));
        put(&store, "d", "").unwrap();
        let topic: Arc<str> = "a".into();
        let (sequence, ()) = store.submit(&topic, "d1", None, || ()).unwrap();
        store.apply(&topic, sequence, None);
        put(&store, "e", "d2").unwrap();
        assert_eq!(store.owner("e").as_deref(), Some("d2"));
    }

    #[test]
    fn the_last_submitted_wins_whichever_finishes_first() {
        let store = store(Limits::default());
        let topic: Arc<str> = "a".into();
        let routed =
            Arc::new(Routed::new(Message::new("a", "old", UnixMillis(0)), Duration::ZERO, &Arc::new(Budget::new(1))));
        let (first, ()) = store.submit(&topic, "", Some(1), || ()).unwrap();
        let (second, ()) = store.submit(&topic, "", None, || ()).unwrap();
        store.apply(&topic, second, None);
        store.apply(&topic, first, Some((&routed, "".into())));
        assert_eq!(store.size(), (0, 0));
    }
}
