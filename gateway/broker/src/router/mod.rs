//! Who gets a message: the subscription tree and the plans made from it.
//!
//! A plan is the list of receivers of one topic, with overlapping subscriptions of a session merged. Publishers keep
//! plans while the tree does not change, so that a steady stream costs no lookup at all. No rights here: filters
//! were judged when they were subscribed.

mod tree;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tree::{Match, Tree};

use crate::QoS;
use crate::inbox::Inbox;
use crate::session::SubscriptionOptions;
use crate::topic;

/// All subscriptions.
#[derive(Debug, Default)]
pub(crate) struct Router {
    tree: RwLock<Tree<Subscriber>>,
    /// Counts changes; plans of an older version are stale.
    version: AtomicU64,
}

#[derive(Debug)]
struct Subscriber {
    inbox: Arc<Inbox>,
    options: SubscriptionOptions,
}

/// The receivers of one topic.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    version: u64,
    /// Whether a durable session may be among the receivers.
    pub durable: bool,
    pub receivers: Vec<Receiver>,
    pub groups: Vec<GroupPlan>,
}

/// One session that gets the message.
#[derive(Debug, Clone)]
pub(crate) struct Receiver {
    pub inbox: Arc<Inbox>,
    /// The highest of its matching subscriptions.
    pub qos: QoS,
    pub retain_as_published: bool,
    /// Of all its matching subscriptions that have one.
    pub identifiers: Option<Arc<[u32]>>,
}

/// A shared subscription: one of the members gets the message, in turn.
#[derive(Debug)]
pub(crate) struct GroupPlan {
    pub members: Vec<Receiver>,
    pub turn: AtomicUsize,
}

impl Router {
    /// Adds or replaces a subscription to a valid filter; true when it is new.
    pub(crate) fn subscribe(&self, filter: &str, inbox: &Arc<Inbox>, options: SubscriptionOptions) -> bool {
        let Ok((group, inner)) = topic::split_share(filter) else { return false };
        let subscriber = Subscriber { inbox: Arc::clone(inbox), options };
        let mut tree = self.tree.write().unwrap_or_else(PoisonError::into_inner);
        let new = tree.insert(inner, group, inbox.key, subscriber);
        self.version.fetch_add(1, Ordering::Release);
        new
    }

    /// Removes subscriptions of `inbox`; how many there were.
    pub(crate) fn unsubscribe<'a>(&self, filters: impl Iterator<Item = &'a str>, inbox: &Inbox) -> usize {
        let mut tree = self.tree.write().unwrap_or_else(PoisonError::into_inner);
        let mut removed = 0;
        for filter in filters {
            if let Ok((group, inner)) = topic::split_share(filter) {
                removed += usize::from(tree.remove(inner, group, inbox.key));
            }
        }
        if removed > 0 {
            self.version.fetch_add(1, Ordering::Release);
        }
        removed
    }

    /// Number of subscriptions.
    pub(crate) fn len(&self) -> usize {
        self.tree.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether a plan still holds.
    pub(crate) fn fresh(&self, plan: &Plan) -> bool {
        plan.version == self.version.load(Ordering::Acquire)
    }

    /// The receivers of `name` when `publisher` (a session key) publishes to it.
    pub(crate) fn plan(&self, name: &str, publisher: Option<u64>) -> Plan {
        let tree = self.tree.read().unwrap_or_else(PoisonError::into_inner);
        // Changes happen under the write lock, so this is the version of what is read here.
        let mut plan = Plan { version: self.version.load(Ordering::Acquire), ..Plan::default() };
        let mut places: HashMap<u64, usize> = HashMap::new();
        tree.matches(name, |found| match found {
            Match::Plain(key, subscriber) => {
                if subscriber.options.no_local && publisher == Some(key) {
                    return;
                }
                plan.durable |= subscriber.inbox.durable && subscriber.options.qos > QoS::AtMostOnce;
                if let Some(receiver) = places.get(&key).and_then(|place| plan.receivers.get_mut(*place)) {
                    receiver.merge(&subscriber.options);
                } else {
                    places.insert(key, plan.receivers.len());
                    plan.receivers.push(Receiver::of(subscriber));
                }
            }
            Match::Shared(members) => {
                let members: Vec<Receiver> = members.iter().map(|(_, subscriber)| Receiver::of(subscriber)).collect();
                plan.durable |= members.iter().any(|member| member.inbox.durable && member.qos > QoS::AtMostOnce);
                // Plans of different publishers start at different members.
                let turn = AtomicUsize::new(publisher.and_then(|key| usize::try_from(key).ok()).unwrap_or(0));
                plan.groups.push(GroupPlan { members, turn });
            }
        });
        plan
    }
}

impl Receiver {
    fn of(subscriber: &Subscriber) -> Self {
        Self {
            inbox: Arc::clone(&subscriber.inbox),
            qos: subscriber.options.qos,
            retain_as_published: subscriber.options.retain_as_published,
            identifiers: subscriber.options.identifier.map(|identifier| Arc::from([identifier])),
        }
    }

    /// Another subscription of the same session matches: one copy, with the highest QoS [MQTT-3.3.4-2] and all
    /// identifiers [MQTT-3.3.4-3].
    fn merge(&mut self, options: &SubscriptionOptions) {
        self.qos = self.qos.max(options.qos);
        self.retain_as_published |= options.retain_as_published;
        if let Some(identifier) = options.identifier {
            let earlier = self.identifiers.as_deref().unwrap_or_default();
            self.identifiers = Some(earlier.iter().copied().chain([identifier]).collect());
        }
    }
}
