//! What falls due while nobody is connected: ends of sessions, delayed wills, expired retained messages.

use std::sync::Arc;
use std::time::Duration;

use crate::core::Core;
use crate::registry::Due;
use crate::{Change, Table};

/// Expired retained messages are not delivered anyway; this frees them.
const SWEEP: Duration = Duration::from_secs(60);

/// Runs until the broker stops.
pub(crate) struct Janitor {
    pub core: Arc<Core>,
}

impl Janitor {
    pub(crate) async fn run(self) {
        let mut swept = self.core.clock.monotonic();
        loop {
            let now = self.core.clock.monotonic();
            let next = self.attend(now);
            if now.saturating_sub(swept) >= SWEEP {
                swept = now;
                self.sweep(now).await;
            }
            let wait = next.map_or(SWEEP, |next| next.saturating_sub(now).min(SWEEP));
            tokio::select! {
                () = self.core.stopping.cancelled() => return,
                () = self.core.parked.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Ends sessions and fires wills; running time of the next.
    fn attend(&self, now: Duration) -> Option<Duration> {
        let Due { over, wills, next } = self.core.registry.due(now, self.core.clock.now());
        for ended in over {
            self.core.end_session(ended);
        }
        for (who, message, without_will) in wills {
            // A crash in between publishes it twice rather than never.
            self.core.scribe.later([without_will]);
            self.core.tasks.spawn(Arc::clone(&self.core).fire_will(who, message));
        }
        next
    }

    async fn sweep(&self, now: Duration) {
        let core = &self.core;
        for topic in core.retained.expired(now) {
            let change = Change { table: Table::Retained, key: topic.as_bytes().to_vec().into(), value: None };
            // Clearing is never refused by the limits.
            let Ok((sequence, deleted)) =
                core.retained.submit(&topic, "", None, || core.sessions.persist(vec![change]))
            else {
                continue;
            };
            match deleted.await {
                Ok(()) => core.retained.apply(&topic, sequence, None),
                Err(error) => {
                    tracing::warn!(%error, "can't delete an expired retained message");
                    core.retained.abandon(&topic);
                    return;
                }
            }
        }
    }
}
