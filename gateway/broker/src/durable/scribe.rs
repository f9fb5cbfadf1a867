//! The writer of the broker's own changes: one line of changes, in order, into one transaction after the other.
//!
//! What somebody waits for is written at once, together with whatever has come by then; the rest within [`LINGER`].
//! Bounded by what it is about: rows that exist are deleted once, and rows that are put are waited for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use super::rows;
use crate::session::Queued;
use crate::{Change, CommitError, Sessions};

/// Deletions that nobody waits for share their transaction with what comes within this time. A crash before it sends
/// again what was acknowledged, which QoS 1 allows and QoS 2 ids make harmless.
const LINGER: Duration = Duration::from_millis(50);
/// Changes in one transaction: some hundred kilobytes.
const AT_ONCE: usize = 4_096;

/// Where changes are left for the writer.
#[derive(Debug, Default)]
pub(crate) struct Scribe {
    state: Mutex<State>,
    wake: Notify,
    hurry: Notify,
    last_message: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    changes: Vec<Change>,
    waiting: Vec<oneshot::Sender<Result<(), CommitError>>>,
}

impl Scribe {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a message row.
    pub(super) fn next_message(&self) -> u64 {
        self.last_message.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Numbers begin behind `last`.
    pub(crate) fn begin_after(&self, last: u64) {
        self.last_message.store(last, Ordering::Relaxed);
    }

    /// Writes these soon.
    pub(crate) fn later(&self, changes: impl IntoIterator<Item = Change>) {
        let mut state = self.lock();
        state.changes.extend(changes);
        let many = state.changes.len() >= AT_ONCE;
        drop(state);
        self.wake.notify_one();
        if many {
            self.hurry.notify_one();
        }
    }

    /// Writes these now; resolves when they are durable, and with them all that came before.
    pub(crate) fn write(
        &self,
        changes: impl IntoIterator<Item = Change>,
    ) -> BoxFuture<'static, Result<(), CommitError>> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock();
        state.changes.extend(changes);
        state.waiting.push(sender);
        drop(state);
        self.wake.notify_one();
        self.hurry.notify_one();
        async { receiver.await.unwrap_or_else(|_| Err(CommitError::Failed("the broker has stopped".to_owned()))) }
            .boxed()
    }

    /// `session` no longer holds this message.
    pub(crate) fn forget(&self, session: u64, queued: &Queued) {
        let Some(kept) = &queued.kept else { return };
        let message = kept.let_go().then(|| rows::message_gone(kept.id));
        self.later([rows::place_gone(session, queued.seq)].into_iter().chain(message));
    }

    /// Writes until `stop` and all that came before it.
    pub(crate) async fn run(self: Arc<Self>, sessions: Arc<dyn Sessions>, stop: CancellationToken) {
        loop {
            let (empty, awaited) = {
                let state = self.lock();
                (state.changes.is_empty() && state.waiting.is_empty(), !state.waiting.is_empty())
            };
            if empty {
                tokio::select! {
                    biased;
                    () = self.wake.notified() => continue,
                    () = stop.cancelled() => return,
                }
            }
            if !awaited {
                tokio::select! {
                    () = self.hurry.notified() => {}
                    () = tokio::time::sleep(LINGER) => {}
                    () = stop.cancelled() => {}
                }
            }
            let State { changes, waiting } = std::mem::take(&mut *self.lock());
            let written = persist(&*sessions, changes).await;
            if let Err(error) = &written {
                // Nobody was told that these are durable. A deletion that is lost is made up for at the next start.
                tracing::error!(%error, "session changes can't be stored");
            }
            for waits in waiting {
                // Its connection may be gone.
                drop(waits.send(written.clone()));
            }
        }
    }
}

async fn persist(sessions: &dyn Sessions, mut changes: Vec<Change>) -> Result<(), CommitError> {
    while !changes.is_empty() {
        let rest = changes.split_off(changes.len().min(AT_ONCE));
        sessions.persist(changes).await?;
        changes = rest;
    }
    Ok(())
}
