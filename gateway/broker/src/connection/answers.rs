//! Answers that wait for a durable session to be durable: SUBACK, UNSUBACK, PUBREL, PUBCOMP. In the order of what
//! they answer; the connection stops reading when the line is as long as the one of publishes may be.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::Connection;
use crate::inbox::Pushed;
use crate::retained::Walk;
use crate::session::{Queued, Saving, SubscriptionOptions};
use crate::{Change, CommitError, DisconnectReason, durable};

/// What is to be done once its rows are durable.
pub(super) enum Answer {
    /// A step of QoS 2.
    Step(Saving),
    /// An encoded packet, and the retained messages that follow it.
    Packet(Bytes, Vec<(Walk, SubscriptionOptions)>),
    /// Retained messages that have got their places in the session: they go out.
    Retained(Vec<Queued>),
}

/// One of them, waiting.
pub(super) struct Waiting {
    written: BoxFuture<'static, Result<(), CommitError>>,
    answer: Answer,
}

/// The line.
#[derive(Default)]
pub(super) struct Answers {
    line: VecDeque<Waiting>,
}

impl Answers {
    pub(super) fn len(&self) -> usize {
        self.line.len()
    }

    fn push(&mut self, written: BoxFuture<'static, Result<(), CommitError>>, answer: Answer) {
        self.line.push_back(Waiting { written, answer });
    }

    /// The first, when it is durable. Pending: it waits, or there is none.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Answer, CommitError>> {
        let Some(first) = self.line.front_mut() else { return Poll::Pending };
        let Poll::Ready(written) = first.written.as_mut().poll(context) else { return Poll::Pending };
        match self.line.pop_front() {
            Some(first) => Poll::Ready(written.map(|()| first.answer)),
            None => Poll::Pending,
        }
    }
}

impl Connection {
    /// Makes a step of QoS 2 durable, then answers it.
    pub(super) fn save_step(&mut self, saving: Saving) {
        let change = durable::saving(self.inbox.key, &saving);
        self.save(change, Answer::Step(saving));
    }

    /// Writes `changes`; `answer` follows when they are durable.
    pub(super) fn save(&mut self, changes: impl IntoIterator<Item = Change>, answer: Answer) {
        let written = self.publisher.core.scribe.write(changes);
        self.answers.push(written, answer);
    }

    /// The connection has ended: retained messages that got places stay in the session.
    pub(super) fn keep_placed(&mut self) {
        for Waiting { answer, .. } in self.answers.line.drain(..) {
            let Answer::Retained(batch) = answer else { continue };
            for queued in batch {
                if let Pushed::Unwanted(queued) | Pushed::Full(queued) = self.inbox.push(queued) {
                    self.publisher.core.scribe.forget(self.inbox.key, &queued);
                }
            }
        }
    }

    /// Gives the answers that are due.
    pub(super) fn answer(&mut self, context: &mut Context<'_>) -> Result<bool, DisconnectReason> {
        let mut moved = false;
        while let Poll::Ready(answer) = self.answers.poll_next(context) {
            moved = true;
            match answer.map_err(|_| DisconnectReason::StoreFailed)? {
                Answer::Step(saving) => self.machine.saved(&saving, &mut self.output),
                Answer::Packet(packet, walks) => {
                    self.output.extend_from_slice(&packet);
                    self.begin_walks(walks);
                }
                Answer::Retained(batch) => self.send_placed(batch),
            }
        }
        Ok(moved)
    }
}
