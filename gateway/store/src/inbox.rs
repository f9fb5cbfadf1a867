//! What waits for the writer: batches, questions, nudges.
//!
//! A batch is queued in the call itself, in the order of the calls: a place in a line that a caller had to be woken for
//! would go unused until somebody polls it. The line has no bound of its own: each batch in it is one that its caller
//! holds and waits for, so it is bounded by what callers may have open. Bounded here is what the writer takes in hand.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::aside::Verdict;
use crate::error::{AsideError, CloseError, CommitError, ScanError};
use crate::hold::Held;
use crate::options::Options;
use crate::record::{Aside, Batch, Committed, Pairs, RecordId};
use crate::spacing::Spacing;

/// Removals wait this long for company. Not every commit takes them along: each transaction with removals in it writes the
/// pages that they lie on and all counters that have changed.
const REMOVALS_LINGER: Duration = Duration::from_millis(50);

/// A batch and its caller.
#[derive(Debug)]
pub(crate) struct Job {
    pub batch: Batch,
    pub bytes: usize,
    pub done: oneshot::Sender<Result<Committed, CommitError>>,
    /// Set when the writer takes it; it gives the place back when it is answered.
    pub place: Option<Place>,
    /// Set while it is held in memory.
    pub held: Option<Held>,
}

/// A place among the batches in the writer's hands.
#[derive(Debug)]
pub(crate) struct Place {
    in_hand: Arc<InHand>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct InHand {
    batches: AtomicUsize,
    bytes: AtomicUsize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.in_hand.batches.fetch_sub(1, Ordering::AcqRel);
        self.in_hand.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// What the writer is asked besides commits. A caller that went away needs no answer.
#[derive(Debug)]
pub(crate) enum Question {
    /// A small table.
    Scan(&'static str, oneshot::Sender<Result<Pairs, ScanError>>),
    /// What is kept aside, after this id.
    List(RecordId, oneshot::Sender<Result<Vec<Aside>, ScanError>>),
    /// What becomes of it.
    Judge(Verdict, Vec<RecordId>, oneshot::Sender<Result<usize, AsideError>>),
}

/// What the writer found when it woke.
#[derive(Debug, Default)]
pub(crate) struct Woke {
    pub jobs: VecDeque<Job>,
    pub questions: Vec<Question>,
    /// Other bounds from now on.
    pub options: Option<Options>,
    /// Removals are due.
    pub removals: bool,
    /// Everything should end.
    pub closing: bool,
}

#[derive(Debug)]
struct State {
    jobs: VecDeque<Job>,
    spacing: Spacing,
    questions: Vec<Question>,
    /// Not yet taken by the writer; the newest alone counts.
    options: Option<Options>,
    nudged: bool,
    removals_since: Option<Instant>,
    removals_now: bool,
    closing: bool,
    closers: Vec<oneshot::Sender<Result<(), CloseError>>>,
    /// The writer waits and was not woken since: waking costs a call of the kernel, needed or not.
    asleep: bool,
}

/// The writer's inbox.
#[derive(Debug)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    wake: Condvar,
    /// At most `queued_batches` and `queued_bytes`; the rest stays in the line.
    in_hand: Arc<InHand>,
    max_batches: usize,
    max_bytes: usize,
}

impl Inbox {
    pub(crate) fn new(max_batches: usize, max_bytes: usize, spacing: Duration) -> Self {
        let (max_batches, max_bytes) = (max_batches.max(1), max_bytes.max(1));
        let state = State {
            jobs: VecDeque::new(),
            spacing: Spacing::new(spacing),
            questions: Vec::new(),
            options: None,
            nudged: false,
            removals_since: None,
            removals_now: false,
            closing: false,
            closers: Vec::new(),
            asleep: false,
        };
        Self { state: Mutex::new(state), wake: Condvar::new(), in_hand: Arc::default(), max_batches, max_bytes }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a change of the state: the writer looks at it, if it waits.
    fn wake(&self, mut state: MutexGuard<'_, State>) {
        let asleep = std::mem::take(&mut state.asleep);
        drop(state);
        if asleep {
            self.wake.notify_one();
        }
    }

    /// The writer waits for a change, for `longest` at most.
    fn sleep<'a>(&self, mut state: MutexGuard<'a, State>, longest: Duration) -> MutexGuard<'a, State> {
        state.asleep = true;
        let mut state = self.wake.wait_timeout(state, longest).unwrap_or_else(PoisonError::into_inner).0;
        state.asleep = false;
        state
    }

    /// Batches and questions that wait, those in the writer's hands included.
    pub(crate) fn waiting(&self) -> usize {
        let state = self.lock();
        state.jobs.len() + state.questions.len() + self.in_hand.batches.load(Ordering::Acquire)
    }

    /// Queues a batch of so many [`Batch::bytes`]; the answer comes through the receiver.
    pub(crate) fn submit(
        &self,
        batch: Batch,
        bytes: usize,
    ) -> Result<oneshot::Receiver<Result<Committed, CommitError>>, CommitError> {
        let (done, answer) = oneshot::channel();
        let (now, urgent) = (Instant::now(), batch.urgent());
        let mut state = self.lock();
        if state.closing {
            return Err(CommitError::Closed);
        }
        state.spacing.arrived(now, bytes, urgent);
        state.jobs.push_back(Job { batch, bytes, done, place: None, held: None });
        self.wake(state);
        Ok(answer)
    }

    /// Queues a question; dropped, with the sender in it, when the end has begun.
    pub(crate) fn ask(&self, question: Question) {
        let mut state = self.lock();
        if state.closing {
            return;
        }
        state.questions.push(question);
        self.wake(state);
    }

    /// Other bounds from now on. Those of what is taken in hand at once stay.
    pub(crate) fn rebound(&self, options: Options) {
        let mut state = self.lock();
        state.spacing.set_interval(options.spacing);
        state.options = Some(options);
        self.wake(state);
    }

    /// The desk has something for the writer at once.
    pub(crate) fn nudge(&self) {
        let mut state = self.lock();
        state.nudged = true;
        self.wake(state);
    }

    /// Removals wait on the desk: they are due soon, or `now`.
    pub(crate) fn removals(&self, now: bool) {
        let mut state = self.lock();
        if state.removals_since.is_some() && (!now || state.removals_now) {
            return;
        }
        state.removals_now |= now;
        state.removals_since.get_or_insert_with(Instant::now);
        self.wake(state);
    }

    /// Begins the end; the answer comes when the writer is done.
    pub(crate) fn close(&self) -> oneshot::Receiver<Result<(), CloseError>> {
        let (done, answer) = oneshot::channel();
        let mut state = self.lock();
        state.closing = true;
        state.closers.push(done);
        self.wake(state);
        answer
    }

    /// Everybody has let go of the queue.
    pub(crate) fn abandon(&self) {
        let mut state = self.lock();
        state.closing = true;
        self.wake(state);
    }

    /// Whether the end has begun.
    pub(crate) fn closing(&self) -> bool {
        self.lock().closing
    }

    /// Batches were answered.
    pub(crate) fn answered(&self) {
        self.lock().spacing.answered(Instant::now());
    }

    /// Waits for something to do, for `longest` at most. `spaced`: batches may wait for company.
    pub(crate) fn wait(&self, longest: Duration, spaced: bool) -> Woke {
        let begin = Instant::now();
        let mut state = self.lock();
        loop {
            let due =
                state.removals_now || state.removals_since.is_some_and(|since| since.elapsed() >= REMOVALS_LINGER);
            let passed = begin.elapsed();
            let company = if spaced { state.spacing.wait(Instant::now()) } else { Duration::ZERO };
            let here = state.jobs.front().is_some_and(|first| self.fits(first));
            let jobs = here && (company.is_zero() || due || state.closing);
            let asked = !state.questions.is_empty() || state.options.is_some();
            let ready = jobs || asked || state.nudged || due || state.closing;
            if ready || passed >= longest {
                state.nudged = false;
                let removals = due || state.closing;
                if removals {
                    state.removals_since = None;
                    state.removals_now = false;
                }
                let jobs = if jobs { self.take(&mut state) } else { VecDeque::new() };
                return Woke {
                    jobs,
                    questions: std::mem::take(&mut state.questions),
                    options: state.options.take(),
                    removals,
                    closing: state.closing,
                };
            }
            let mut pause = longest.saturating_sub(passed);
            if here {
                pause = pause.min(company);
            }
            if let Some(since) = state.removals_since {
                pause = pause.min(REMOVALS_LINGER.saturating_sub(since.elapsed()));
            }
            let pause = pause.max(Duration::from_millis(1));
            state = self.sleep(state, pause);
        }
    }

    /// Whether the writer may take a batch in hand: any one, however large, when it holds none.
    fn fits(&self, job: &Job) -> bool {
        let batches = self.in_hand.batches.load(Ordering::Acquire);
        let bytes = self.in_hand.bytes.load(Ordering::Acquire);
        batches == 0 || (batches < self.max_batches && bytes + job.bytes <= self.max_bytes)
    }

    fn take(&self, state: &mut State) -> VecDeque<Job> {
        state.spacing.taken(Instant::now());
        let mut jobs = VecDeque::new();
        while state.jobs.front().is_some_and(|first| self.fits(first)) {
            let Some(mut job) = state.jobs.pop_front() else { break };
            self.in_hand.batches.fetch_add(1, Ordering::AcqRel);
            self.in_hand.bytes.fetch_add(job.bytes, Ordering::AcqRel);
            job.place = Some(Place { in_hand: Arc::clone(&self.in_hand), bytes: job.bytes });
            jobs.push_back(job);
        }
        jobs
    }

    /// While the disk refuses: waits for the next try, or for the beginning of the end. Batches stay where they are.
    pub(crate) fn pause(&self, pause: Duration) {
        let end = Instant::now() + pause;
        let mut state = self.lock();
        while !state.closing {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.sleep(state, left);
        }
    }

    /// The writer ends: whoever still comes is told, whoever waits gets `result`.
    pub(crate) fn ended(&self, result: &Result<(), CloseError>) {
        let closers = {
            let mut state = self.lock();
            state.closing = true;
            state.jobs.clear();
            state.questions.clear();
            std::mem::take(&mut state.closers)
        };
        for closer in closers {
            // A caller that went away needs no answer.
            drop(closer.send(result.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn inbox() -> Inbox {
        Inbox::new(8, 1 << 20, Duration::ZERO)
    }

    #[test]
    fn a_commit_leaves_removals_for_later_and_a_consumer_in_a_hurry_does_not_wait_for_company() {
        let inbox = inbox();
        let begin = Instant::now();
        inbox.removals(false);
        let _answer = inbox.submit(Batch::default(), 1).unwrap();
        let woke = inbox.wait(Duration::ZERO, false);
        assert_eq!(woke.jobs.len(), 1);
        assert!(!woke.removals || begin.elapsed() >= REMOVALS_LINGER);
        inbox.removals(true);
        assert!(inbox.wait(Duration::ZERO, false).removals);
        inbox.removals(false);
        inbox.removals(true);
        assert!(inbox.wait(Duration::ZERO, false).removals, "though they had begun to wait");
    }

    #[test]
    fn a_writer_that_waits_is_woken_by_whatever_comes() {
        let inbox = Arc::new(inbox());
        let begin = Instant::now();
        let (told, heard) = std::sync::mpsc::channel();
        let writer = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || {
                loop {
                    let woke = inbox.wait(Duration::from_secs(30), false);
                    let (jobs, closing) = (woke.jobs.len(), woke.closing);
                    drop(woke);
                    if closing || told.send(jobs).is_err() {
                        return;
                    }
                }
            })
        };
        for round in 0..300 {
            match round % 3 {
                0 => inbox.nudge(),
                1 => inbox.removals(true),
                _ => drop(inbox.submit(Batch::default(), 1).unwrap()),
            }
            // One that is not woken sleeps for thirty seconds.
            heard.recv_timeout(Duration::from_secs(10)).unwrap();
        }
        inbox.abandon();
        writer.join().unwrap();
        assert!(begin.elapsed() < Duration::from_secs(30));
    }
}
