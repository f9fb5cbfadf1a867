//! The handle to the queue: asynchronous outside, one thread inside. Nothing here touches the disk but [`Queue::open`].

use std::cmp::Reverse;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread;

use fieldgate_types::{Clock, DeviceId, Pulse};
use tokio::sync::oneshot;

use crate::age::{RunningTime, millis};
use crate::aside::Verdict;
use crate::desk::{Ask, Desk, Exit};
use crate::faults::Faults;
use crate::inbox::{Inbox, Question};
use crate::opening;
use crate::shared::{Report, Shared};
use crate::stats::{LaneReport, LossKind};
use crate::writer::{Start, Writer};
use crate::{
    Aside, AsideError, Batch, CloseError, CommitError, Committed, DeviceLedger, Gap, Lane, LeaseError, OpenError,
    Options, Pairs, QueueStats, Record, RecordId, ScanError, SettleError,
};

/// Removals are written alone, at once, from this many on.
const REMOVALS_AT_ONCE: usize = 1024;
/// While more than this many removals wait for the disk, `settle` waits.
const MAX_LEAVING: usize = 64 * 1024;

/// The durable queue. Cheap to clone. When the last handle goes, the writer stores what waits and ends;
/// [`Queue::close`] does the same and says how it went.
#[derive(Debug, Clone)]
pub struct Queue {
    inner: Arc<Inner>,
}

/// A batch whose commit has begun; see [`Queue::begin`]. Dropping it doesn't undo the batch.
#[derive(Debug)]
#[must_use = "the batch is durable when this has resolved"]
pub struct Committing(Result<oneshot::Receiver<Result<Committed, CommitError>>, Option<CommitError>>);

impl Future for Committing {
    type Output = Result<Committed, CommitError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.get_mut().0 {
            Ok(answer) => Pin::new(answer).poll(context).map(|answer| answer.unwrap_or(Err(CommitError::Closed))),
            Err(refused) => Poll::Ready(Err(refused.take().unwrap_or(CommitError::Closed))),
        }
    }
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    running: RunningTime,
    boot: u64,
    max_batch: AtomicUsize,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.inbox.abandon();
    }
}

impl Queue {
    /// Opens `path` and starts its writer. Blocks on the disk: call it from a blocking task. A damaged file is set
    /// aside and a fresh one begun, see [`QueueStats::set_aside`].
    ///
    /// `boot` is [`crate::State::boot`]. Should the file hold records of a later one (state.db came from a backup), the next
    /// higher is used, so that (device, boot, seq) stays unique; see [`Queue::boot`].
    pub fn open(path: &Path, boot: u64, options: Options, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        Self::open_with(path, boot, options, clock, Faults::none())
    }

    pub(crate) fn open_with(
        path: &Path,
        boot: u64,
        options: Options,
        clock: Arc<dyn Clock>,
        faults: Faults,
    ) -> Result<Self, OpenError> {
        crate::sqlite::require_version()?;
        let opened = opening::open_or_replace(path, &options, clock.now())?;
        let loaded = opened.loaded;
        let pulse = Pulse::new(Arc::clone(&clock));
        let running = RunningTime::resume(clock, loaded.clock, loaded.newest_born);
        let ledger = opened.ledger;
        let next_id = ledger.given() + 1;
        let boot = if ledger.newest_boot() > boot {
            let used = ledger.newest_boot() + 1;
            tracing::warn!(boot, used, "boot counter is behind the queue's records");
            used
        } else {
            boot
        };
        let mut report = Report::default();
        for row in ledger.reports() {
            report.ledger.insert(row.device.clone(), row);
        }
        report.stats.messages = ledger.messages();
        report.stats.bytes = ledger.bytes();
        report.stats.oldest = loaded.oldest;
        report.stats.set_aside = opened.set_aside;
        let mut desk = Desk::new(next_id, millis(options.max_age), options.most_leased(), running.now());
        if opened.salvage.is_some() {
            desk.hold_back();
        }
        let shared = Arc::new(Shared::new(desk, report, pulse));
        let inbox = Arc::new(Inbox::new(options.queued_batches, options.queued_bytes, options.spacing));
        let max_batch = AtomicUsize::new(options.largest_batch());
        let start = Start {
            path: path.to_owned(),
            boot,
            options,
            running: running.clone(),
            ledger,
            next_id,
            conn: opened.conn,
            footing: opened.footing,
            salvage: opened.salvage,
            room: opened.room,
            faults,
        };
        let writer = Writer::new(Arc::clone(&shared), Arc::clone(&inbox), start);
        let end = End { shared: Arc::clone(&shared), inbox: Arc::clone(&inbox), result: None };
        thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                let mut end = end;
                end.result = Some(writer.run());
            })
            .map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
        Ok(Self { inner: Arc::new(Inner { shared, inbox, running, boot, max_batch }) })
    }

    /// Other bounds from now on: size, age, what happens when it is full, how long batches wait. Nothing is lost but what the
    /// new bounds say: with a smaller size the oldest go with the next transactions, or, with [`crate::Overflow::Refuse`],
    /// commits wait until it fits. `queued_batches` and `queued_bytes` stay as they were.
    pub fn rebound(&self, options: Options) {
        self.inner.max_batch.store(options.largest_batch(), Ordering::Relaxed);
        self.inner.inbox.rebound(options);
    }

    /// The boot that new records carry.
    pub fn boot(&self) -> u64 {
        self.inner.boot
    }

    /// Resolves when all of `batch` is durable, or, with [`Options::hold`], when the consumer has settled all of it if that is
    /// earlier. While the buffer refuses or the disk fails, it waits.
    ///
    /// Batches are committed in the order in which these futures were first polled, and the first poll queues: it need not
    /// be polled again for the commit to happen. Dropping the future doesn't undo
    /// a batch that has been queued.
    pub async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        self.begin(batch).await
    }

    /// As [`Queue::commit`], and queued in this call: no poll is needed for the commit to happen. Batches are committed in the
    /// order of the calls.
    pub fn begin(&self, batch: Batch) -> Committing {
        let bytes = batch.bytes();
        let limit = self.inner.max_batch.load(Ordering::Relaxed);
        let begun = if bytes > limit {
            Err(CommitError::TooLarge { bytes, limit })
        } else {
            self.inner.inbox.submit(batch, bytes)
        };
        Committing(begun.map_err(Some))
    }

    /// All keys and values of a table, sorted by key, after all batches committed so far.
    pub async fn scan(&self, table: &'static str) -> Result<Pairs, ScanError> {
        let (done, answer) = oneshot::channel();
        self.inner.inbox.ask(Question::Scan(table, done));
        answer.await.unwrap_or(Err(ScanError::Closed))
    }

    /// What is kept aside, from the first id after `after` on, in order: 1 MiB of bodies at a time. Empty: no more.
    pub async fn aside(&self, after: RecordId) -> Result<Vec<Aside>, ScanError> {
        let (done, answer) = oneshot::channel();
        self.inner.inbox.ask(Question::List(after, done));
        answer.await.unwrap_or(Err(ScanError::Closed))
    }

    /// Sends records that are kept aside once more, all of them or none: at the end of their lane, under a new id and with
    /// their old boot and sequence number. How many were still there.
    pub async fn retry(&self, ids: Vec<RecordId>) -> Result<usize, AsideError> {
        self.judge(Verdict::Retry, ids).await
    }

    /// Lets go of records that are kept aside; the ledger keeps counting them as quarantined. How many were still there.
    pub async fn forget(&self, ids: Vec<RecordId>) -> Result<usize, AsideError> {
        self.judge(Verdict::Drop, ids).await
    }

    async fn judge(&self, verdict: Verdict, ids: Vec<RecordId>) -> Result<usize, AsideError> {
        let (done, answer) = oneshot::channel();
        self.inner.inbox.ask(Question::Judge(verdict, ids, done));
        answer.await.unwrap_or(Err(AsideError::Closed))
    }

    /// Waits for at least one record of `lane` and hands out up to `max_messages`, or `max_bytes` of bodies (one record
    /// at least), in commit order. They are not handed out again before [`Queue::rewind`]. Cancel-safe.
    ///
    /// The queue serves one consumer so far: the first name that leases. It also waits while 65,536 records or 64 MiB
    /// (a quarter of `max_size` where that is less) are leased and not settled: eviction spares leased records.
    pub async fn lease(
        &self,
        consumer: &'static str,
        lane: Lane,
        max_messages: usize,
        max_bytes: usize,
    ) -> Result<Vec<Record>, LeaseError> {
        let inner = &*self.inner;
        let _waiting = Waiting::begin(inner);
        loop {
            let mut arrival = std::pin::pin!(inner.shared.arrival(lane).notified());
            // From here on no arrival is missed.
            arrival.as_mut().enable();
            let taken = {
                let mut desk = inner.shared.desk();
                if desk.closed || inner.inbox.closing() {
                    return Err(LeaseError::Closed);
                }
                let holder = *desk.consumer.get_or_insert(consumer);
                if holder != consumer {
                    return Err(LeaseError::OtherConsumer { asked: consumer, holder });
                }
                let mut taken = desk.take(lane, Ask { max_messages, max_bytes, now: inner.running.now() });
                taken.nudge |= desk.has_released();
                taken
            };
            if taken.nudge {
                inner.inbox.nudge();
            }
            if taken.expired {
                inner.inbox.removals(false);
            }
            if !taken.records.is_empty() {
                return Ok(taken.records);
            }
            arrival.await;
        }
    }

    /// The records are delivered. They leave the queue 50 ms later at most while the disk works, together with what else
    /// leaves then; a crash before that leases them again. Ids in any order; those that are not leased now (settled before, or
    /// from before a rewind) are ignored: nothing is counted twice.
    ///
    /// Waits only while 65,536 records have left and the disk has not followed.
    pub async fn settle(&self, consumer: &'static str, ids: Vec<RecordId>) -> Result<(), SettleError> {
        self.release(consumer, &ids, &Exit::Delivered).await
    }

    /// A leased record can't be delivered: it is kept aside with its body (the youngest 1,000 are) and counted under
    /// `reason`. Otherwise as [`Queue::settle`].
    pub async fn quarantine(
        &self,
        consumer: &'static str,
        id: RecordId,
        reason: &'static str,
    ) -> Result<(), SettleError> {
        self.release(consumer, &[id], &Exit::Lost(LossKind::Quarantined, reason)).await
    }

    /// A leased record's time was over before it could be delivered: counted as expired under `reason`. Otherwise as
    /// [`Queue::settle`].
    pub async fn expire(&self, consumer: &'static str, id: RecordId, reason: &'static str) -> Result<(), SettleError> {
        self.release(consumer, &[id], &Exit::Lost(LossKind::Expired, reason)).await
    }

    async fn release(&self, consumer: &'static str, ids: &[RecordId], exit: &Exit) -> Result<(), SettleError> {
        let inner = &*self.inner;
        let (waiting, released, short) = {
            let mut desk = inner.shared.desk();
            if desk.closed {
                return Err(SettleError::Closed);
            }
            if desk.consumer == Some(consumer) {
                desk.sees(inner.running.now());
                for id in ids {
                    desk.release(*id, exit.clone());
                }
            }
            (desk.removals(), desk.has_released(), desk.was_short())
        };
        if released {
            // Somebody waits for this word.
            inner.inbox.nudge();
        }
        if waiting > 0 {
            inner.inbox.removals(waiting >= REMOVALS_AT_ONCE);
        }
        if short {
            // A lease may have waited for this.
            inner.shared.arrived();
        }
        loop {
            let mut eased = std::pin::pin!(inner.shared.eased().notified());
            eased.as_mut().enable();
            {
                let desk = inner.shared.desk();
                if desk.closed || desk.leaving() <= MAX_LEAVING {
                    return Ok(());
                }
            }
            eased.await;
        }
    }

    /// Everything that `consumer` holds will be leased again, in order. For a lost connection.
    pub fn rewind(&self, consumer: &'static str) {
        {
            let mut desk = self.inner.shared.desk();
            if desk.consumer != Some(consumer) {
                return;
            }
            desk.rewind();
        }
        self.inner.inbox.nudge();
        self.inner.shared.arrived();
    }

    /// Everything that `consumer` holds is leased again, and from now on what waits in the live lane is history: it is leased
    /// from [`Lane::History`], in order, marked as replayed, and [`Lane::Live`] gives what comes from now on alone. For a
    /// new connection of a consumer that wants live records first. A restart undoes it.
    pub fn part(&self, consumer: &'static str) {
        {
            let mut desk = self.inner.shared.desk();
            if *desk.consumer.get_or_insert(consumer) != consumer {
                return;
            }
            desk.part();
        }
        self.inner.inbox.nudge();
        self.inner.shared.arrived();
    }

    /// The queue in figures.
    pub fn stats(&self) -> QueueStats {
        let mut stats = self.inner.shared.report().stats.clone();
        {
            let desk = self.inner.shared.desk();
            stats.leased = desk.leased();
            stats.settling = desk.leaving();
            stats.salvaging = desk.is_held_back();
        }
        stats.queued_batches = self.inner.inbox.waiting();
        stats
    }

    /// Of [`Queue::stats`]: records settled whose removal is not durable yet.
    pub fn settling(&self) -> usize {
        self.inner.shared.desk().leaving()
    }

    /// What was settled is written at once, instead of within 50 ms: the consumer has no room for more before.
    pub fn write_settled(&self) {
        if self.inner.shared.desk().removals() > 0 {
            self.inner.inbox.removals(true);
        }
    }

    /// Each way through the queue, the most urgent first.
    pub fn lanes(&self) -> [LaneReport; 4] {
        self.inner.shared.desk().lanes()
    }

    /// Whether the writer still turns.
    pub fn pulse(&self) -> &Pulse {
        &self.inner.shared.pulse
    }

    /// The loss ledger, sorted by device.
    pub fn ledger(&self) -> Vec<DeviceLedger> {
        self.inner.shared.report().ledger.values().cloned().collect()
    }

    /// Its row for one device, at the price of a look.
    pub fn ledger_of(&self, device: &DeviceId) -> Option<DeviceLedger> {
        self.inner.shared.report().ledger.get(device).cloned()
    }

    /// Of the devices with `text` (in lower case) in their id: the rows of those with the most waiting, and how many there are.
    pub fn deepest(&self, text: &str, most: usize) -> (Vec<DeviceLedger>, usize) {
        let depth = |row: &&DeviceLedger| Reverse((row.waiting, row.quarantined + row.evicted + row.expired));
        let wanted = |row: &&DeviceLedger| text.is_empty() || row.device.as_str().to_ascii_lowercase().contains(text);
        let report = self.inner.shared.report();
        let mut rows: Vec<&DeviceLedger> = report.ledger.values().filter(wanted).collect();
        let found = rows.len();
        if found > most {
            rows.select_nth_unstable_by_key(most, depth);
            rows.truncate(most);
        }
        rows.sort_by_key(depth);
        (rows.into_iter().cloned().collect(), found)
    }

    /// How many records of each device were committed, sorted by device: of the ledger what a chart needs, at the price of a pass.
    pub fn received(&self) -> Vec<(DeviceId, u64)> {
        self.inner.shared.report().ledger.iter().map(|(device, row)| (device.clone(), row.received)).collect()
    }

    /// What expired or was evicted since the consumer was last told, by device. Durable with the loss itself; it goes when a
    /// batch with it in [`Batch::told`] is durable.
    pub fn gaps(&self) -> Vec<Gap> {
        self.inner.shared.report().ledger.values().flat_map(|row| row.gaps.iter().cloned()).collect()
    }

    /// Stores what waits, tidies the files and ends the writer. Later commits and leases fail with `Closed`. Settle
    /// before: what is leased now is leased again at the next start.
    pub async fn close(&self) -> Result<(), CloseError> {
        let answer = self.inner.inbox.close();
        answer.await.unwrap_or(Err(CloseError::WriterLost))
    }
}

/// A consumer in [`Queue::lease`]; also when its future is dropped, it ends.
#[derive(Debug)]
struct Waiting<'a>(&'a Inner);

impl<'a> Waiting<'a> {
    fn begin(inner: &'a Inner) -> Self {
        inner.shared.desk().waits();
        Self(inner)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let now = self.0.running.now();
        self.0.shared.desk().waited(now);
    }
}

/// Lives in the writer's thread: tells everybody that it has ended, also when it panicked.
#[derive(Debug)]
struct End {
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    result: Option<Result<(), CloseError>>,
}

impl Drop for End {
    fn drop(&mut self) {
        let result = self.result.take().unwrap_or_else(|| {
            tracing::error!("store writer ended early");
            Err(CloseError::WriterLost)
        });
        // Whoever is told of the end finds it.
        self.shared.close();
        self.inbox.ended(&result);
    }
}
