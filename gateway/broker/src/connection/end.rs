//! The end of a connection: the line of publishes is finished, the session goes back, the will is seen to.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use fieldgate_types::UnixMillis;

use super::Connection;
use super::pipeline::Settled;
use crate::codec::Will;
use crate::durable::{self, Meta, StoredWill};
use crate::registry::{Ended, Parked};
use crate::{DisconnectReason, Event, Message};

/// How long an ended connection waits for commits under way before its session is handed on without them.
const COMMIT_PATIENCE: Duration = Duration::from_secs(5);

impl Connection {
    /// Finishes what is under way, hands the session back and sees to the will. With `announced`, the end is
    /// reported, and that before the next connection of the same client can report its begin.
    pub(crate) async fn hand_back(mut self, reason: DisconnectReason, announced: bool) {
        let drop_session = self.inbox.kicked().is_some_and(|kick| kick.drop_session);
        let keep = !drop_session && !self.machine.session_expiry.is_zero();
        let core = Arc::clone(&self.publisher.core);
        let who = Arc::clone(&self.publisher.who);
        // First of all nobody waits for this client any more.
        if keep {
            self.inbox.go_away();
        } else {
            self.inbox.retire();
        }
        self.finish_pipeline().await;
        self.keep_placed();
        self.forget_done();
        let now = core.clock.monotonic();
        let will_dies = drop_session
            || match reason {
                DisconnectReason::Client | DisconnectReason::Revoked => true,
                DisconnectReason::ClientWithWill
                | DisconnectReason::Network
                | DisconnectReason::KeepAlive
                | DisconnectReason::TakenOver
                | DisconnectReason::CertificateEnded
                | DisconnectReason::Superseded
                | DisconnectReason::Administrative
                | DisconnectReason::ServerShutdown
                | DisconnectReason::NotAuthorized
                | DisconnectReason::SlowReceiver
                | DisconnectReason::Malformed
                | DisconnectReason::ProtocolError
                | DisconnectReason::ReceiveMaximumExceeded
                | DisconnectReason::TopicAliasInvalid
                | DisconnectReason::PacketTooLarge
                | DisconnectReason::TopicInvalid
                | DisconnectReason::StoreFailed => false,
            };
        let will = self.will.take().filter(|_| !will_dies).map(|will| (will.delay, will.message(core.clock.now())));
        let expiry = self.machine.session_expiry;
        let session = self.machine.into_session();
        if announced {
            core.gate.event(Event::Disconnected {
                who: Arc::clone(&who),
                client_id: Arc::clone(&self.inbox.client_id),
                peer: self.live.peer,
                reason,
            });
        }
        if !keep {
            let inbox = Arc::clone(&self.inbox);
            core.end_session(Ended { who, inbox, session, will: will.map(|(_, message)| message) });
            core.registry.release(&self.inbox, None);
            return;
        }
        let (due, fire_now) = match will {
            Some((delay, message)) if delay.is_zero() => (None, Some(message)),
            Some(will) => (Some(will), None),
            None => (None, None),
        };
        let meta = Meta {
            client_id: Arc::clone(&self.inbox.client_id),
            who: Arc::clone(&who),
            expiry,
            parked: Some((core.clock.now(), self.inbox.first_unsent())),
            will: due.clone().map(|(delay, message)| StoredWill { delay, message }),
        };
        core.scribe.later([durable::session(self.inbox.key, &meta)]);
        let will = due.map(|(delay, message)| (now.saturating_add(delay), message));
        core.registry.release(&self.inbox, Some(Parked { session, expires: now.saturating_add(expiry), will }));
        core.parked.notify_one();
        if let Some(message) = fire_now {
            core.tasks.spawn(Arc::clone(&core).fire_will(who, message));
        }
    }

    async fn finish_pipeline(&mut self) {
        if self.pipeline.is_empty() {
            return;
        }
        // Acknowledgements from here on change the session but reach nobody.
        let mut unsent = BytesMut::new();
        let (pipeline, machine, publisher) = (&mut self.pipeline, &mut self.machine, &self.publisher);
        let finished = poll_fn(|context| {
            while let Poll::Ready(settled) = pipeline.poll_next(publisher, context) {
                match settled {
                    Settled::Acknowledge(ticket, code) => machine.acknowledge(ticket, code, &mut unsent),
                    Settled::Refuse(ticket, topic, code) => {
                        publisher.report_refused(topic, code);
                        machine.acknowledge(ticket, code, &mut unsent);
                    }
                    Settled::End(_) => {}
                }
                unsent.clear();
            }
            if pipeline.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        });
        if tokio::time::timeout(COMMIT_PATIENCE, finished).await.is_err() {
            tracing::warn!(client_id = %self.inbox.client_id, "commits did not end, session goes on without them");
            let core = Arc::clone(&self.publisher.core);
            self.pipeline.abandon(&core);
        }
    }
}

impl Will {
    /// The message to publish, received when it fires.
    pub(crate) fn message(self, received: UnixMillis) -> Message {
        Message {
            topic: self.topic,
            payload: self.payload,
            qos: self.qos,
            retain: self.retain,
            properties: None,
            received,
        }
        .with_properties(self.properties)
    }
}
