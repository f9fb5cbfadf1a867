//! What is between the queue and the upstream's word: messages on the wire, and ids on their way back to the queue.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use fieldgate_store::{Queue, RecordId, SettleError};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::session::CONSUMER;
use super::transport::{Ack, Transport};

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Messages on the wire, in the order in which they were sent. Only the oldest is waited for, which costs no task and
/// no wake-up per message; upstreams acknowledge in order (MQTT 5 section 4.6), one that doesn't is settled late.
pub(super) struct Flight<T: Transport> {
    oldest: Option<(Sent, Boxed<Ack>)>,
    others: VecDeque<(Sent, T::Notice)>,
    weight: usize,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    id: RecordId,
    weight: usize,
    at: Instant,
}

/// A message has its answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Landed {
    /// Of the record.
    pub id: RecordId,
    /// The answer.
    pub ack: Ack,
    /// Since it was sent.
    pub took: Duration,
}

impl<T: Transport> Flight<T> {
    pub fn new() -> Self {
        Self { oldest: None, others: VecDeque::new(), weight: 0 }
    }

    pub fn len(&self) -> usize {
        self.others.len() + usize::from(self.oldest.is_some())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes, about.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// A message has been sent.
    pub fn start(&mut self, id: RecordId, weight: usize, notice: T::Notice) {
        self.weight += weight;
        self.others.push_back((Sent { id, weight, at: Instant::now() }, notice));
    }

    /// The answers that have come, at least one, at most `most`. For ever pending while nothing is on the wire.
    /// Cancel-safe.
    pub async fn land(&mut self, most: usize) -> Vec<Landed> {
        std::future::poll_fn(|context| self.poll_land(context, most)).await
    }

    fn poll_land(&mut self, context: &mut Context<'_>, most: usize) -> Poll<Vec<Landed>> {
        let mut landed = Vec::new();
        while landed.len() < most {
            if self.oldest.is_none() {
                let Some((sent, notice)) = self.others.pop_front() else { break };
                self.oldest = Some((sent, Box::pin(T::outcome(notice))));
            }
            let Some((sent, outcome)) = &mut self.oldest else { break };
            let Poll::Ready(ack) = outcome.as_mut().poll(context) else { break };
            landed.push(Landed { id: sent.id, ack, took: sent.at.elapsed() });
            self.weight = self.weight.saturating_sub(sent.weight);
            self.oldest = None;
        }
        if landed.is_empty() { Poll::Pending } else { Poll::Ready(landed) }
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
    /// takes note of a settlement at once and writes it with its next transaction.
    pub fn exposed(&self) -> usize {
        self.unsettled + self.queue.stats().settling
    }

    /// The upstream has it.
    pub fn accept(&mut self, id: RecordId) {
        self.unsettled += 1;
        self.accepted.push(id);
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
