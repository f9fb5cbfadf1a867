//! What waits for the writer: batches, scans, nudges. Both bounds of the queue's memory are here.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::error::{CloseError, CommitError, ScanError};
use crate::record::{Batch, Committed, Pairs};

/// Removals wait this long for a commit to ride along with.
const REMOVALS_LINGER: Duration = Duration::from_millis(50);

/// A batch and its caller. Its permits bound the memory and go back when it is answered.
#[derive(Debug)]
pub(crate) struct Job {
    pub batch: Batch,
    pub bytes: usize,
    pub done: oneshot::Sender<Result<Committed, CommitError>>,
    pub permits: [OwnedSemaphorePermit; 2],
}

/// A table to be read for a caller.
#[derive(Debug)]
pub(crate) struct Scan {
    pub table: &'static str,
    pub done: oneshot::Sender<Result<Pairs, ScanError>>,
    pub permit: OwnedSemaphorePermit,
}

/// What the writer found when it woke.
#[derive(Debug, Default)]
pub(crate) struct Woke {
    pub jobs: VecDeque<Job>,
    pub scans: Vec<Scan>,
    /// Removals are due.
    pub removals: bool,
    /// Everything should end.
    pub closing: bool,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    scans: Vec<Scan>,
    nudged: bool,
    removals_since: Option<Instant>,
    removals_now: bool,
    closing: bool,
    closers: Vec<oneshot::Sender<Result<(), CloseError>>>,
}

/// The writer's inbox.
#[derive(Debug)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    wake: Condvar,
    /// Held while a caller waits for its places, so that batches arrive in the order in which they were begun.
    turn: tokio::sync::Mutex<()>,
    /// Bounded by `queued_batches`: the next caller waits.
    slots: Arc<Semaphore>,
    /// Bounded by `queued_bytes`: the next caller waits.
    bytes: Arc<Semaphore>,
    max_slots: usize,
    max_bytes: usize,
}

impl Inbox {
    pub(crate) fn new(max_slots: usize, max_bytes: usize) -> Self {
        let max_slots = max_slots.clamp(1, Semaphore::MAX_PERMITS);
        // One caller takes its bytes with one u32.
        let max_bytes = max_bytes.clamp(1, (u32::MAX as usize).min(Semaphore::MAX_PERMITS));
        Self {
            state: Mutex::default(),
            wake: Condvar::new(),
            turn: tokio::sync::Mutex::new(()),
            slots: Arc::new(Semaphore::new(max_slots)),
            bytes: Arc::new(Semaphore::new(max_bytes)),
            max_slots,
            max_bytes,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Batches and scans that wait, those in the writer's hands included.
    pub(crate) fn waiting(&self) -> usize {
        self.max_slots.saturating_sub(self.slots.available_permits())
    }

    /// Largest batch.
    pub(crate) fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Queues a batch, waiting for room; the answer comes through the receiver. Cancel-safe.
    pub(crate) async fn submit(
        &self,
        batch: Batch,
    ) -> Result<oneshot::Receiver<Result<Committed, CommitError>>, CommitError> {
        let bytes = batch.bytes();
        let needed = u32::try_from(bytes.clamp(1, self.max_bytes)).unwrap_or(u32::MAX);
        let turn = self.turn.lock().await;
        let slot = Arc::clone(&self.slots).acquire_owned().await.map_err(|_| CommitError::Closed)?;
        let room = Arc::clone(&self.bytes).acquire_many_owned(needed).await.map_err(|_| CommitError::Closed)?;
        let (done, answer) = oneshot::channel();
        {
            let mut state = self.lock();
            if state.closing {
                return Err(CommitError::Closed);
            }
            state.jobs.push_back(Job { batch, bytes, done, permits: [slot, room] });
        }
        drop(turn);
        self.wake.notify_one();
        Ok(answer)
    }

    /// Queues a scan.
    pub(crate) async fn scan(
        &self,
        table: &'static str,
    ) -> Result<oneshot::Receiver<Result<Pairs, ScanError>>, ScanError> {
        let permit = Arc::clone(&self.slots).acquire_owned().await.map_err(|_| ScanError::Closed)?;
        let (done, answer) = oneshot::channel();
        {
            let mut state = self.lock();
            if state.closing {
                return Err(ScanError::Closed);
            }
            state.scans.push(Scan { table, done, permit });
        }
        self.wake.notify_one();
        Ok(answer)
    }

    /// The desk has something for the writer at once.
    pub(crate) fn nudge(&self) {
        self.lock().nudged = true;
        self.wake.notify_one();
    }

    /// Removals wait on the desk: with the next commit, or alone soon, or alone `now`.
    pub(crate) fn removals(&self, now: bool) {
        {
            let mut state = self.lock();
            state.removals_now |= now;
            if !now && state.removals_since.is_some() {
                return;
            }
            state.removals_since.get_or_insert_with(Instant::now);
        }
        self.wake.notify_one();
    }

    /// Begins the end; the answer comes when the writer is done.
    pub(crate) fn close(&self) -> oneshot::Receiver<Result<(), CloseError>> {
        let (done, answer) = oneshot::channel();
        {
            let mut state = self.lock();
            state.closing = true;
            state.closers.push(done);
        }
        self.slots.close();
        self.bytes.close();
        self.wake.notify_one();
        answer
    }

    /// Everybody has let go of the queue.
    pub(crate) fn abandon(&self) {
        self.lock().closing = true;
        self.wake.notify_one();
    }

    /// Whether the end has begun.
    pub(crate) fn closing(&self) -> bool {
        self.lock().closing
    }

    /// Waits for something to do, for `longest` at most.
    pub(crate) fn wait(&self, longest: Duration) -> Woke {
        let begin = Instant::now();
        let mut state = self.lock();
        loop {
            let due =
                state.removals_now || state.removals_since.is_some_and(|since| since.elapsed() >= REMOVALS_LINGER);
            let passed = begin.elapsed();
            let ready = !state.jobs.is_empty() || !state.scans.is_empty() || state.nudged || due || state.closing;
            if ready || passed >= longest {
                state.nudged = false;
                // A commit takes the removals along.
                let removals = due || !state.jobs.is_empty() || state.closing;
                if removals {
                    state.removals_since = None;
                    state.removals_now = false;
                }
                return Woke {
                    jobs: std::mem::take(&mut state.jobs),
                    scans: std::mem::take(&mut state.scans),
                    removals,
                    closing: state.closing,
                };
            }
            let mut pause = longest.saturating_sub(passed);
            if let Some(since) = state.removals_since {
                pause = pause.min(REMOVALS_LINGER.saturating_sub(since.elapsed()));
            }
            let pause = pause.max(Duration::from_millis(1));
            state = self.wake.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// While the disk refuses: waits for the next try, or for the beginning of the end. Batches stay where they are.
    pub(crate) fn pause(&self, pause: Duration) {
        let state = self.lock();
        let (_state, _timeout) =
            self.wake.wait_timeout_while(state, pause, |state| !state.closing).unwrap_or_else(PoisonError::into_inner);
    }

    /// The writer ends: whoever still comes is told, whoever waits gets `result`.
    pub(crate) fn ended(&self, result: &Result<(), CloseError>) {
        let closers = {
            let mut state = self.lock();
            state.closing = true;
            state.jobs.clear();
            state.scans.clear();
            std::mem::take(&mut state.closers)
        };
        self.slots.close();
        self.bytes.close();
        for closer in closers {
            // A caller that went away needs no answer.
            drop(closer.send(result.clone()));
        }
    }
}
