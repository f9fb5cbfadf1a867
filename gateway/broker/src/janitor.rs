//! What falls due while nobody is connected: ends of sessions, delayed wills, expired retained messages.

use std::sync::Arc;
use std::time::Duration;

use crate::core::Core;
use crate::registry::Due;
use crate::{Change, DropReason, Table};

/// Expired retained messages are not delivered anyway; this frees them.
const SWEEP: Duration = Duration::from_secs(60);

/// How long full buffers may take to drain by themselves.
const RELIEF: Duration = Duration::from_secs(1);

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
                () = self.core.budget.pressed.notified() => self.relieve().await,
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

    /// All buffers are full. What connected clients hold drains within [`RELIEF`], or they are disconnected for being
    /// slow; absent ones then lose the oldest of what waits for them, the largest queues first.
    async fn relieve(&self) {
        tokio::time::sleep(RELIEF).await;
        while self.core.budget.full() {
            let Some((inbox, gone)) = self.core.registry.shed() else { return };
            for queued in &gone {
                self.core.scribe.forget(inbox.key, queued);
            }
            self.core.report_dropped(
                &inbox.owner,
                DropReason::BuffersFull,
                u64::try_from(gone.len()).unwrap_or(u64::MAX),
            );
        }
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
