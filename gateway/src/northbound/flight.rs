//! What is between the queue and the upstream's word: messages on the wire, and ids on their way back to the queue.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use fieldgate_store::{Queue, RecordId, SettleError};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::client::{Ack, Client, Gone};
use super::packet::Packet;
use super::session::CONSUMER;

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Packets on the wire, in the order in which they were sent, which is the order of their answers.
pub(super) struct Flight {
    client: Client,
    sent: VecDeque<Sent>,
    messages: usize,
    weight: usize,
}

/// What a packet carries.
#[derive(Debug)]
pub(super) enum Cargo {
    /// One message, on its own topic.
    One(RecordId),
    /// A batch, and its bytes before compression.
    Many(Vec<RecordId>, usize),
}

impl Cargo {
    /// Of its messages.
    pub fn ids(&self) -> &[RecordId] {
        match self {
            Self::One(id) => std::slice::from_ref(id),
            Self::Many(ids, _) => ids,
        }
    }
}

#[derive(Debug)]
struct Sent {
    cargo: Cargo,
    weight: usize,
    at: Instant,
}

/// A packet has its answer.
#[derive(Debug)]
pub(super) struct Landed {
    /// What it carried.
    pub cargo: Cargo,
    /// The answer.
    pub ack: Ack,
    /// Since it was sent.
    pub took: Duration,
}

impl Flight {
    /// Of messages that `client` carries, and nobody else gives it any.
    pub fn new(client: Client) -> Self {
        Self { client, sent: VecDeque::new(), messages: 0, weight: 0 }
    }

    /// Packets.
    pub fn len(&self) -> usize {
        self.sent.len()
    }

    /// Messages in them.
    pub fn messages(&self) -> usize {
        self.messages
    }

    pub fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// Bytes, about.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// Sends a packet; as [`Client::publish`].
    pub fn start(&mut self, cargo: Cargo, packet: &Packet<'_>, now: Instant) -> Result<bool, Gone> {
        let room = self.client.publish(packet)?;
        let weight = packet.weight();
        self.weight += weight;
        self.messages += cargo.ids().len();
        self.sent.push_back(Sent { cargo, weight, at: now });
        Ok(room)
    }

    /// The answers that have come, at least one, at most `most`. For ever pending while nothing is on the wire.
    /// Cancel-safe.
    pub async fn land(&mut self, most: usize) -> Vec<Landed> {
        if self.sent.is_empty() {
            return std::future::pending().await;
        }
        let answers = self.client.answers(most).await.unwrap_or_else(|| vec![Ack::Lost; self.sent.len().min(most)]);
        let now = Instant::now();
        let mut landed = Vec::with_capacity(answers.len());
        for ack in answers {
            let Some(Sent { cargo, weight, at }) = self.sent.pop_front() else { break };
            self.weight = self.weight.saturating_sub(weight);
            self.messages = self.messages.saturating_sub(cargo.ids().len());
            landed.push(Landed { cargo, ack, took: now.duration_since(at) });
        }
        landed
    }
}

/// Tells the queue what became of records, in batches and without holding up the wire: while one settlement is under
/// way the next one grows.
pub(super) struct Settler {
    queue: Queue,
    accepted: Vec<RecordId>,
    running: FuturesUnordered<Boxed<(Work, Result<(), SettleError>)>>,
    settling: bool,
    unsettled: usize,
}

enum Work {
    Settle(usize),
    PutAside,
}

impl Settler {
    pub fn new(queue: Queue) -> Self {
        Self { queue, accepted: Vec::new(), running: FuturesUnordered::new(), settling: false, unsettled: 0 }
    }

    /// Records whose fate the queue has not taken note of.
    pub fn unsettled(&self) -> usize {
        self.unsettled
    }

    /// Records that a crash would send again although they have their answer; they count for the window. The queue
    /// takes note of a settlement at once and writes it within 50 ms.
    pub fn exposed(&self) -> usize {
        self.unsettled + self.queue.settling()
    }

    /// The upstream has them.
    pub fn accept(&mut self, ids: &[RecordId]) {
        self.unsettled += ids.len();
        self.accepted.extend_from_slice(ids);
    }

    /// The upstream will never take it.
    pub fn quarantine(&mut self, id: RecordId, reason: &'static str) {
        self.unsettled += 1;
        let queue = self.queue.clone();
        self.running.push(Box::pin(async move { (Work::PutAside, queue.quarantine(CONSUMER, id, reason).await) }));
    }

    /// Its time was over before it could be sent.
    pub fn expire(&mut self, id: RecordId) {
        self.unsettled += 1;
        let queue = self.queue.clone();
        self.running.push(Box::pin(async move { (Work::PutAside, queue.expire(CONSUMER, id, "unsent").await) }));
    }

    fn start(&mut self) {
        if self.settling || self.accepted.is_empty() {
            return;
        }
        self.settling = true;
        let ids = std::mem::take(&mut self.accepted);
        let (queue, count) = (self.queue.clone(), ids.len());
        self.running.push(Box::pin(async move { (Work::Settle(count), queue.settle(CONSUMER, ids).await) }));
    }

    /// Resolves when something was confirmed; for ever pending while there is nothing to confirm. Cancel-safe.
    pub async fn next(&mut self) -> Result<(), SettleError> {
        self.start();
        let Some((work, result)) = self.running.next().await else { return std::future::pending().await };
        match work {
            Work::Settle(count) => {
                self.settling = false;
                self.unsettled = self.unsettled.saturating_sub(count);
            }
            Work::PutAside => self.unsettled = self.unsettled.saturating_sub(1),
        }
        result
    }

    /// Until everything is confirmed.
    pub async fn finish(&mut self) -> Result<(), SettleError> {
        while self.unsettled > 0 {
            self.next().await?;
        }
        Ok(())
    }
}
