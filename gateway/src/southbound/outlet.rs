//! The gateway's own messages: telemetry of field devices, states. Stored first, then shown to local subscribers.

use std::sync::Arc;

use bytes::Bytes;
use fieldgate_broker::{Broker, Message, PublishError, QoS};
use fieldgate_store::{Append, Batch, CommitError, Put, Queue};
use fieldgate_types::{Clock, Current, DeviceId, UnixMillis};
use thiserror::Error;

use crate::pipeline::record::{HISTORY, Upbound};
use crate::pipeline::route::{self, Outbound};
use crate::pipeline::topic::LocalTopic;

/// A JSON document of the gateway's on a local topic.
#[derive(Debug, Clone)]
pub struct Document {
    /// Whose.
    pub device: DeviceId,
    /// Local topic.
    pub topic: String,
    /// JSON.
    pub payload: Vec<u8>,
    /// Retained, locally and upstream.
    pub retain: bool,
    /// Of a time that is past: it is marked as what was replayed is.
    pub history: bool,
}

/// Why a document could not be sent.
#[derive(Debug, Error)]
pub enum OutletError {
    /// The store has stopped.
    #[error("the document can't be stored")]
    Commit(#[from] CommitError),
    /// The record body can't be encoded.
    #[error("the document can't be encoded")]
    Encode(#[from] postcard::Error),
    /// The broker did not take it.
    #[error("the document can't be published locally")]
    Publish(#[from] PublishError),
}

/// The way out for the gateway's own messages. Cheap to clone.
#[derive(Clone)]
pub struct Outlet {
    queue: Queue,
    broker: Broker,
    clock: Arc<dyn Clock>,
    /// Nothing goes up from a local-only gateway.
    outbound: Arc<Current<Outbound>>,
}

impl Outlet {
    /// Into `queue` when there is an upstream, and to the subscribers of `broker`.
    pub fn new(queue: Queue, broker: Broker, clock: Arc<dyn Clock>, outbound: Arc<Current<Outbound>>) -> Self {
        Self { queue, broker, clock, outbound }
    }

    /// Sends documents in order, with `puts` in the same transaction. Waits until they are durable.
    pub async fn send(&self, documents: Vec<Document>, puts: Vec<Put>) -> Result<(), OutletError> {
        let now = self.clock.now();
        let mut batch = Batch { puts, ..Batch::default() };
        let upstream = self.outbound.get().upstream;
        for document in documents.iter().filter(|_| upstream) {
            let Some(up) = route::upward(&LocalTopic::parse(&document.topic)) else { continue };
            let mut message = Upbound::json(&document.topic, &document.payload, up.retain);
            message.user.extend(document.history.then_some(HISTORY));
            let body = message.encode()?;
            batch.appends.push(Append { device: up.device, lane: up.lane, time: now, expires: None, body });
        }
        if !batch.appends.is_empty() || !batch.puts.is_empty() {
            self.queue.commit(batch).await?;
        }
        for document in documents {
            let message =
                gateway_message(document.topic, document.payload.into(), QoS::AtLeastOnce, document.retain, now);
            self.broker.publish(message).await?;
        }
        Ok(())
    }
}

/// A message of the gateway's own for local subscribers.
pub fn gateway_message(topic: String, payload: Bytes, qos: QoS, retain: bool, received: UnixMillis) -> Message {
    let message = Message::new(topic, payload, received).with_qos(qos);
    if retain { message.retained() } else { message }
}
