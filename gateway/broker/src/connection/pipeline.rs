//! Publishes between reception and acknowledgement, in order: committed, then routed, then acknowledged.
//!
//! A message is routed after its commit, so that no subscriber and no retained copy knows what a crash could undo,
//! and each step happens at the head of the line alone: order holds for commits, receivers and acknowledgements.
//! The line is bounded by the connection, which stops reading.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;

use crate::core::{Core, Publication};
use crate::fanout;
use crate::router::Plan;
use crate::session::Ticket;
use crate::{CommitError, Delivery, DisconnectReason, Event, Identity};

/// One publish on its way.
pub(super) struct Entry {
    pub ticket: Ticket,
    pub stage: Stage,
}

/// What it waits for.
pub(super) enum Stage {
    /// Its commit.
    Committing(BoxFuture<'static, Result<(), CommitError>>, Publication),
    /// Its turn.
    Ready(Publication),
    /// Room in the queues of its receivers.
    Delivering(BoxFuture<'static, Delivery>),
    /// Its turn to be refused.
    Refused(Arc<str>, u8),
    /// Its turn to be acknowledged.
    Done(u8),
}

/// Who publishes.
pub(super) struct Publisher {
    pub core: Arc<Core>,
    pub who: Arc<Identity>,
    /// Key of its session.
    pub session: u64,
}

/// The line.
#[derive(Default)]
pub(super) struct Pipeline {
    entries: VecDeque<Entry>,
}

/// What left the line.
pub(super) enum Settled {
    /// Acknowledge with this code.
    Acknowledge(Ticket, u8),
    /// Tell the publisher of the refusal.
    Refuse(Ticket, Arc<str>, u8),
    /// End the connection: this can't be acknowledged, nor anything behind it.
    End(DisconnectReason),
}

impl Pipeline {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.entries.push_back(entry);
    }

    /// The next publish that is through. Pending: the head waits, or the line is empty.
    pub(super) fn poll_next(&mut self, publisher: &Publisher, context: &mut Context<'_>) -> Poll<Settled> {
        loop {
            let Some(Entry { ticket, stage }) = self.entries.pop_front() else { return Poll::Pending };
            let stage = match stage {
                Stage::Refused(topic, code) => return Poll::Ready(Settled::Refuse(ticket, topic, code)),
                Stage::Done(code) => return Poll::Ready(Settled::Acknowledge(ticket, code)),
                Stage::Ready(publication) => publisher.route(publication, None),
                Stage::Committing(mut commit, publication) => match commit.as_mut().poll(context) {
                    Poll::Pending => {
                        self.entries.push_front(Entry { ticket, stage: Stage::Committing(commit, publication) });
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(())) => Stage::Ready(publication),
                    Poll::Ready(Err(error)) => match publisher.commit_failed(ticket, &publication, &error) {
                        Some(stage) => stage,
                        None => return Poll::Ready(Settled::End(DisconnectReason::StoreFailed)),
                    },
                },
                Stage::Delivering(mut delivery) => match delivery.as_mut().poll(context) {
                    Poll::Pending => {
                        self.entries.push_front(Entry { ticket, stage: Stage::Delivering(delivery) });
                        return Poll::Pending;
                    }
                    Poll::Ready(_) => Stage::Done(0),
                },
            };
            self.entries.push_front(Entry { ticket, stage });
        }
    }

    /// The connection is gone for good and a commit did not end in time: gives up what is left. Sequence numbers
    /// of retained messages are returned, so that the topic doesn't wait for them.
    pub(super) fn abandon(&mut self, core: &Core) {
        for entry in self.entries.drain(..) {
            if let Stage::Committing(_, publication) | Stage::Ready(publication) = entry.stage {
                core.give_up(&publication);
            }
        }
    }
}

impl Publisher {
    /// Keeps and routes a message whose commit is done. `plan` may be given when it is fresh.
    pub(super) fn route(&self, publication: Publication, plan: Option<&Plan>) -> Stage {
        let (_, blocked) = self.core.route(publication, Some(self.session), plan);
        if blocked.is_empty() {
            return Stage::Done(0);
        }
        Stage::Delivering(Box::pin(fanout::wait_and_deliver(Arc::clone(&self.core), blocked)))
    }

    /// Nothing is acknowledged that is not durable. A full buffer is told on MQTT 5 (0x97); a QoS 0 message is
    /// lost, and counted; everything else ends the connection, so that the client sends it again.
    fn commit_failed(&self, ticket: Ticket, publication: &Publication, error: &CommitError) -> Option<Stage> {
        self.core.commit_failed(publication);
        let topic = &publication.routed.message.topic;
        match (ticket, error) {
            (Ticket::None, _) => Some(Stage::Done(0)),
            (Ticket::PubAck(_) | Ticket::PubRec(_), CommitError::Full) => Some(Stage::Refused(Arc::clone(topic), 0x97)),
            (Ticket::PubAck(_) | Ticket::PubRec(_), CommitError::Failed(_)) => None,
        }
    }

    /// Counts and reports a refused publish.
    pub(super) fn report_refused(&self, topic: Arc<str>, code: u8) {
        self.core.counters.publish_refused.one();
        self.core.gate.event(Event::PublishRefused { who: Arc::clone(&self.who), topic, code });
    }
}
