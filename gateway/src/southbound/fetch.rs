//! Trees that come down: what the upstream publishes there reaches local subscribers, one message after the other.

use std::sync::Arc;

use fieldgate_broker::{Broker, Properties, QoS};
use fieldgate_types::{Clock, UnixMillis};
use tokio::sync::mpsc;

use super::outlet::gateway_message;
use crate::northbound::{Fetched, FetchedProperties};

/// Publishes what was fetched. The upstream gets its PUBACK once the message is retained and in every persistent session
/// that it belongs to, durably, and queued for everybody else who is there.
pub struct Fetch {
    broker: Broker,
    clock: Arc<dyn Clock>,
    messages: mpsc::Receiver<Fetched>,
}

impl Fetch {
    /// Takes `messages` to the subscribers of `broker`.
    pub fn new(broker: Broker, clock: Arc<dyn Clock>, messages: mpsc::Receiver<Fetched>) -> Self {
        Self { broker, clock, messages }
    }

    /// Until nobody can send any more.
    pub async fn run(mut self) {
        while let Some(message) = self.messages.recv().await {
            self.publish(message).await;
        }
    }

    async fn publish(&self, Fetched { topic, payload, retain, properties, accepted }: Fetched) {
        let now: UnixMillis = self.clock.now();
        let message = gateway_message(topic, payload, QoS::AtLeastOnce, retain, now).with_properties(local(properties));
        if let Err(error) = self.broker.publish(message).await {
            // Not acknowledged: it comes again with the next session.
            tracing::warn!(%error, "a message from upstream could not be published");
            return;
        }
        if let Some(accepted) = accepted {
            // When the connection is gone it comes again; MQTT says so for QoS 1.
            let _acknowledged = accepted.send(()).is_ok();
        }
    }
}

fn local(properties: FetchedProperties) -> Properties {
    let FetchedProperties { content_type, utf8, user, response_topic, correlation, expiry } = properties;
    Properties {
        utf8_payload: utf8.then_some(true),
        message_expiry: expiry,
        content_type: content_type.map(Into::into),
        response_topic: response_topic.map(Into::into),
        correlation_data: correlation.map(Into::into),
        user,
    }
}
