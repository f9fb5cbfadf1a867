//! SUBSCRIBE and UNSUBSCRIBE: each filter is checked, judged, put into the tree, and answered.

use std::sync::Arc;

use bytes::BytesMut;

use super::Connection;
use super::answers::Answer;
use crate::codec::{FilterRequest, Subscribe, Unsubscribe, encode};
use crate::retained::Walk;
use crate::session::SubscriptionOptions;
use crate::{Change, Decision, Event, durable, topic};

impl Connection {
    pub(super) fn subscribe(&mut self, subscribe: Subscribe) {
        let limits = &self.limits;
        let too_many = subscribe.filters.len() > limits.filters_per_subscribe;
        let mut codes = Vec::with_capacity(subscribe.filters.len());
        let mut walks = Vec::new();
        let mut changes = Vec::new();
        for request in &subscribe.filters {
            let judged = if too_many { Err(0x97) } else { self.judge(request) };
            codes.push(match judged {
                Ok(()) => {
                    changes.push(self.grant(request, subscribe.identifier, &mut walks));
                    request.qos.number()
                }
                Err(code) => {
                    self.publisher.core.counters.subscription_refused.one();
                    self.publisher.core.gate.event(Event::SubscriptionRefused {
                        who: Arc::clone(&self.publisher.who),
                        filter: request.filter.clone(),
                        code,
                    });
                    code
                }
            });
        }
        let mut suback = BytesMut::new();
        encode::suback(&mut suback, self.machine.version, subscribe.packet_id, &codes);
        self.answer_with(suback, walks, changes);
    }

    /// Answers a change of subscriptions: in a durable session when the change is durable.
    fn answer_with(&mut self, packet: BytesMut, walks: Vec<(Walk, SubscriptionOptions)>, changes: Vec<Change>) {
        if self.inbox.durable && !changes.is_empty() {
            self.save(changes, Answer::Packet(packet.freeze(), walks));
        } else {
            self.output.extend_from_slice(&packet);
            self.begin_walks(walks);
        }
    }

    /// Retained messages follow the SUBACK. A filter that is subscribed again begins anew, so that there are never
    /// more walks than subscriptions.
    pub(super) fn begin_walks(&mut self, walks: Vec<(Walk, SubscriptionOptions)>) {
        for (walk, options) in walks {
            self.walks.retain(|(earlier, _)| earlier.filter != walk.filter);
            self.walks.push_back((walk, options));
        }
    }

    fn judge(&self, request: &FilterRequest) -> Result<(), u8> {
        let limits = &self.limits;
        let filter = &*request.filter;
        let (_, inner) = topic::check_filter(filter).and_then(|()| topic::split_share(filter)).map_err(|_| 0x8F)?;
        if filter.len() > limits.topic || topic::levels(inner) > limits.topic_levels {
            return Err(0x8F);
        }
        let subscriptions = &self.machine.session.subscriptions;
        if subscriptions.len() >= limits.subscriptions && !subscriptions.contains_key(filter) {
            return Err(0x97);
        }
        match self.publisher.core.gate.may_subscribe(&self.publisher.who, inner) {
            Decision::Allow => Ok(()),
            Decision::Deny => Err(0x87),
        }
    }

    fn grant(
        &mut self,
        request: &FilterRequest,
        identifier: Option<u32>,
        walks: &mut Vec<(Walk, SubscriptionOptions)>,
    ) -> Change {
        let core = &self.publisher.core;
        let filter: Arc<str> = request.filter.as_str().into();
        let options = SubscriptionOptions::of(request, identifier);
        let new = core.router.subscribe(&filter, &self.inbox, options.clone());
        let wants_retained = match request.retain_handling {
            0 => true,
            1 => new,
            _ => false,
        };
        // Shared subscriptions get no retained messages [MQTT 5, 4.8.2].
        if wants_retained && !filter.starts_with("$share/") {
            walks.push((core.retained.walk(Arc::clone(&filter)), options.clone()));
        }
        let change = durable::subscription(self.inbox.key, &filter, Some(&options));
        self.machine.session.subscriptions.insert(filter, options);
        change
    }

    pub(super) fn unsubscribe(&mut self, unsubscribe: Unsubscribe) {
        let mut codes = Vec::with_capacity(unsubscribe.filters.len());
        let mut changes = Vec::new();
        for filter in &unsubscribe.filters {
            let filter = filter.as_str();
            codes.push(if topic::check_filter(filter).is_err() {
                0x8F
            } else if self.machine.session.subscriptions.remove(filter).is_some() {
                self.publisher.core.router.unsubscribe(std::iter::once(filter), &self.inbox);
                self.walks.retain(|(walk, _)| &*walk.filter != filter);
                changes.push(durable::subscription(self.inbox.key, filter, None));
                0
            } else {
                0x11
            });
        }
        let mut unsuback = BytesMut::new();
        encode::unsuback(&mut unsuback, self.machine.version, unsubscribe.packet_id, &codes);
        self.answer_with(unsuback, Vec::new(), changes);
    }
}
