//! Messages on their way into a batch: what gathers, what is being packed, how much of it there may be.
//!
//! # When a batch goes
//! At once while nothing is on the wire; else when it is full, or after [`LINGER`]. So a quiet line adds no delay, and a busy one
//! gathers while answers are on their way. Batches are packed one at a time and go in order; more than [`INLINE`] bytes are packed
//! on a thread of their own.
//!
//! # What may not travel in one
//! What [`super::dialect::Dialect::batched`] says, and messages above [`LARGEST`]: such a message goes alone, after everything that was taken
//! before it, and nothing is taken meanwhile. Order on the wire is the order of the lease, whatever goes in which way.
//!
//! # How large
//! At most [`MOST_BYTES`] before compression and a line, a quarter of the window, what the upstream's Maximum Packet Size leaves, and what
//! [`Learned`] says: MQTT 3.1.1, and many a service, tells nobody how much it takes, and ends the connection instead.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use fieldgate_store::Record;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;

use super::pack::{Packed, Packer};

/// A batch is closed when its lines have so many bytes. One message more than that may be in it: with [`LARGEST`] and escaped to
/// the utmost it stays below 1 MiB, which `gateway/docs/batches.md` promises.
const MOST_BYTES: usize = 256 * 1024;
/// Messages in a batch. More would hardly compress better, and all of them are sent again when one connection ends.
const MOST_RECORDS: usize = 1024;
/// A larger message goes alone.
pub(super) const LARGEST: usize = 80 * 1024;
/// What a line has beside what is stored, about.
const LINE_OVERHEAD: usize = 128;
/// Packed by the publisher's own task: a tenth of a millisecond.
const INLINE: usize = 16 * 1024;
/// Batches on the wire, whatever the upstream allows: more of them would be smaller ones.
const MOST_BATCHES: usize = 16;
/// A batch that is not full waits so long for company while others are on the wire.
const LINGER: Duration = Duration::from_millis(50);
/// So many batches in a row that the upstream refused for good: it takes none.
const HOPELESS: u32 = 3;

/// What is remembered of an upstream beyond a connection: how large a batch may be.
#[derive(Debug, Clone)]
pub(super) struct Learned {
    most: usize,
    /// Connections in a row that ended before the first batch on them had its answer.
    strikes: u32,
    since: Instant,
}

/// Not less, however often connections end: no upstream takes so little, and a line may be at fault.
const LEAST_BYTES: usize = 4 * 1024;
/// What was learnt fades: twice as much is tried after each.
const FADES: Duration = Duration::from_secs(3_600);
/// Strikes that halve.
const STRIKES: u32 = 2;

impl Learned {
    pub fn new(now: Instant) -> Self {
        Self { most: MOST_BYTES, strikes: 0, since: now }
    }

    /// Bytes before compression.
    fn most(&self, now: Instant) -> usize {
        let faded = now.duration_since(self.since).as_secs() / FADES.as_secs();
        // More than any limit has bits.
        (self.most << faded.min(16)).min(MOST_BYTES)
    }

    /// A batch has its answer.
    fn answered(&mut self) {
        self.strikes = 0;
    }

    /// A connection has ended, and nobody answered its first batch, of so many bytes.
    fn lost(&mut self, raw: usize, now: Instant) {
        if raw <= LEAST_BYTES {
            return;
        }
        self.strikes += 1;
        if self.strikes >= STRIKES {
            self.strikes = 0;
            self.refused(raw, now);
            tracing::warn!(
                most_bytes = self.most,
                "connections end without an answer to their first batch; the next batches are smaller"
            );
        }
    }

    /// A batch of so many bytes is too large.
    fn refused(&mut self, raw: usize, now: Instant) {
        self.most = (raw.min(self.most(now)) / 2).max(LEAST_BYTES);
        self.since = now;
    }
}

/// What gathers on one connection.
pub(super) struct Gather {
    open: VecDeque<Record>,
    /// Of `open`, about.
    bytes: usize,
    /// Goes alone, when all of `open` is gone.
    held: Option<Record>,
    packing: Option<JoinHandle<Done>>,
    /// Messages that are being packed.
    in_packing: usize,
    /// Away while it packs.
    packer: Option<Packer>,
    most_records: usize,
    most_batches: usize,
    /// What of [`MOST_BYTES`] fits the upstream's Maximum Packet Size.
    fits: usize,
    /// Messages of the next batch, after one that didn't fit.
    fewer: Option<usize>,
    learned: Learned,
    /// The first batch of the connection, until something is answered.
    first: Option<usize>,
    /// Whether there has been one.
    begun: bool,
    /// When the last batch went.
    last: Option<Instant>,
    refused: u32,
}

/// A batch is packed.
pub(super) struct Done {
    packer: Packer,
    records: Vec<Record>,
    result: io::Result<Packed>,
}

/// What goes next.
pub(super) enum Batch {
    /// It is packed: [`Gather::payload`].
    Ready { records: Vec<Record>, packed: Packed },
    /// On a thread: [`Gather::packed`] tells.
    Packing,
}

/// When the messages that gather may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Now,
    At(Instant),
    /// When something is answered, or more has gathered.
    Later,
}

impl Gather {
    /// For a connection with `most` messages on the wire, and a window of so many.
    pub fn new(most: usize, window: usize, learned: Learned) -> Self {
        Self {
            open: VecDeque::new(),
            bytes: 0,
            held: None,
            packing: None,
            in_packing: 0,
            packer: None,
            // At least four in the window: it is never stopped by one that waits for its answer.
            most_records: (window / 4).clamp(1, MOST_RECORDS),
            most_batches: most.min(MOST_BATCHES),
            fits: MOST_BYTES,
            fewer: None,
            learned,
            first: None,
            begun: false,
            last: None,
            refused: 0,
        }
    }

    /// Messages that were taken and are not on the wire.
    pub fn taken(&self) -> usize {
        self.open.len() + self.in_packing + usize::from(self.held.is_some())
    }

    /// Nothing is left that goes before what comes next, but for what is held.
    pub fn is_clear(&self) -> bool {
        self.open.is_empty() && self.packing.is_none()
    }

    /// Nothing more can be taken before something has gone.
    pub fn is_closed(&self, now: Instant) -> bool {
        self.held.is_some() || self.is_full(now)
    }

    fn is_full(&self, now: Instant) -> bool {
        self.open.len() >= self.most_records || self.bytes >= self.limit(now)
    }

    fn limit(&self, now: Instant) -> usize {
        self.fits.min(self.learned.most(now))
    }

    /// Takes a message for a batch.
    pub fn add(&mut self, record: Record) {
        self.bytes += cost(&record);
        self.open.push_back(record);
    }

    /// Takes a message that goes alone, behind those in batches.
    pub fn hold(&mut self, record: Record) {
        self.held = Some(record);
    }

    /// Gives back the message that goes alone, when it is its turn.
    pub fn release(&mut self) -> Option<Record> {
        if self.is_clear() { self.held.take() } else { None }
    }

    /// When a batch may go, with so many packets on the wire; `more`: there are more messages at hand.
    pub fn due(&self, flying: usize, more: bool, now: Instant) -> Due {
        if self.open.is_empty() || self.packing.is_some() || flying >= self.most_batches {
            return Due::Later;
        }
        if self.is_closed(now) {
            return Due::Now;
        }
        match self.last {
            _ if more => Due::Later,
            Some(last) if flying > 0 && now < last + LINGER => Due::At(last + LINGER),
            _ => Due::Now,
        }
    }

    /// Packs what has gathered.
    pub fn pack(&mut self, now: Instant) -> io::Result<Batch> {
        let mut packer = match self.packer.take() {
            Some(packer) => packer,
            None => Packer::new()?,
        };
        let most = self.limit(now);
        let count = self.fewer.take().unwrap_or(self.most_records).min(self.open.len());
        let records: Vec<Record> = self.open.drain(..count).collect();
        let bytes: usize = records.iter().map(cost).sum();
        self.bytes -= bytes;
        let work = move || {
            let result = packer.pack(&records, most);
            Done { packer, records, result }
        };
        if bytes > INLINE {
            self.in_packing = count;
            self.packing = Some(tokio::task::spawn_blocking(work));
            return Ok(Batch::Packing);
        }
        let (records, packed) = self.take(work())?;
        Ok(Batch::Ready { records, packed })
    }

    /// Resolves when a batch is packed; for ever pending while none is. Cancel-safe.
    pub async fn packed(&mut self) -> Result<Done, JoinError> {
        let Some(packing) = &mut self.packing else { return std::future::pending().await };
        let done = packing.await;
        (self.packing, self.in_packing) = (None, 0);
        done
    }

    /// Takes the packer back, and what didn't fit.
    pub fn take(&mut self, done: Done) -> io::Result<(Vec<Record>, Packed)> {
        let Done { packer, mut records, result } = done;
        self.packer = Some(packer);
        let packed = result?;
        let left = records.split_off(packed.count.min(records.len()));
        self.put_back(left);
        Ok((records, packed))
    }

    fn put_back(&mut self, records: Vec<Record>) {
        for record in records.into_iter().rev() {
            self.bytes += cost(&record);
            self.open.push_front(record);
        }
    }

    /// Of the batch that was packed last.
    pub fn payload(&self) -> &[u8] {
        self.packer.as_ref().map_or(&[], Packer::payload)
    }

    /// It is larger than the upstream's Maximum Packet Size: the next one is smaller. Of a single message: it goes alone.
    pub fn oversized(&mut self, mut records: Vec<Record>, packed: Packed) -> Option<Record> {
        if records.len() <= 1 {
            return records.pop();
        }
        self.fits = (packed.raw / 2).max(1);
        // The first half of the bytes may be less than the first message.
        self.fewer = Some(records.len() / 2);
        self.put_back(records);
        None
    }

    /// The batch is on the wire.
    pub fn sent(&mut self, packed: Packed, now: Instant) {
        if packed.raw >= self.fits {
            // Slowly: data that compresses badly comes and goes, and each try beyond is packed in vain.
            self.fits = (self.fits + self.fits / 16 + 1).min(MOST_BYTES);
        }
        if !self.begun {
            (self.begun, self.first) = (true, Some(packed.raw));
        }
        self.last = Some(now);
    }

    /// The upstream took a batch.
    pub fn accepted(&mut self) {
        self.refused = 0;
    }

    /// The upstream has an answer to a batch, whatever it is.
    pub fn answered(&mut self) {
        self.first = None;
        self.learned.answered();
    }

    /// The upstream refused a batch of so many bytes for good; `true`: it takes none at all.
    pub fn refused(&mut self, raw: usize, too_large: bool, now: Instant) -> bool {
        if too_large && raw > LEAST_BYTES {
            self.learned.refused(raw, now);
            return false;
        }
        self.refused += 1;
        self.refused >= HOPELESS
    }

    /// Forgets what has gathered: all of it is leased again.
    pub fn clear(&mut self) {
        self.open.clear();
        (self.bytes, self.held, self.packing, self.in_packing, self.fewer) = (0, None, None, 0, None);
    }

    /// After the connection: what is known for the next one.
    pub fn conclude(&self, now: Instant) -> Learned {
        let mut learned = self.learned.clone();
        if let Some(raw) = self.first {
            learned.lost(raw, now);
        }
        learned
    }
}

/// Bytes of a line, about.
fn cost(record: &Record) -> usize {
    record.body.len() + LINE_OVERHEAD
}

#[cfg(test)]
mod tests {
    use fieldgate_store::{Header, Lane, RecordId};
    use fieldgate_types::{DeviceId, UnixMillis};

    use super::*;
    use crate::pipeline::record::Upbound;

    fn record(id: u64, length: usize) -> Record {
        let device = DeviceId::new("press-1").unwrap();
        let header = Header { device, lane: Lane::Live, boot: 1, seq: id, time: UnixMillis(1), expires: None };
        let payload = vec![b'1'; length];
        let body = Upbound::json("devices/press-1/telemetry/t", &payload, false).encode().unwrap();
        Record { id: RecordId(id), header, body, replayed: false, remaining: None }
    }

    fn gather(window: usize) -> (Gather, Instant) {
        let now = Instant::now();
        (Gather::new(100, window, Learned::new(now)), now)
    }

    fn ready(batch: Batch) -> (Vec<Record>, Packed) {
        let Batch::Ready { records, packed } = batch else { panic!("packed elsewhere") };
        (records, packed)
    }

    #[test]
    fn goes_at_once_on_a_quiet_line_when_full_or_after_a_while() {
        let (mut gather, now) = gather(40);
        assert_eq!(gather.due(0, false, now), Due::Later, "there is nothing");
        gather.add(record(1, 4));
        assert_eq!(gather.due(0, true, now), Due::Later, "there is more at hand");
        assert_eq!(gather.due(0, false, now), Due::Now);
        let (records, packed) = ready(gather.pack(now).unwrap());
        assert_eq!((records.len(), packed.count), (1, 1));
        gather.sent(packed, now);
        gather.add(record(2, 4));
        assert_eq!(gather.due(1, false, now), Due::At(now + LINGER));
        assert_eq!(gather.due(1, false, now + LINGER), Due::Now);
        assert_eq!(gather.due(MOST_BATCHES, false, now + LINGER), Due::Later);
        for id in 3..=11 {
            assert!(!gather.is_closed(now));
            gather.add(record(id, 4));
        }
        assert!(gather.is_closed(now), "a quarter of the window");
        assert_eq!(gather.due(1, true, now), Due::Now);
        assert_eq!(gather.taken(), 10);
    }

    #[test]
    fn what_goes_alone_waits_for_all_before_it() {
        let (mut gather, now) = gather(4096);
        gather.add(record(1, 4));
        gather.hold(record(2, 4));
        assert!(gather.is_closed(now) && gather.release().is_none());
        assert_eq!(gather.due(3, true, now), Due::Now, "it ends the batch");
        let (_, packed) = ready(gather.pack(now).unwrap());
        gather.sent(packed, now);
        assert_eq!(gather.release().map(|record| record.id), Some(RecordId(2)));
        assert!(!gather.is_closed(now) && gather.taken() == 0);
    }

    #[tokio::test]
    async fn what_does_not_fit_stays_in_its_place() {
        let (mut gather, now) = gather(4096);
        for id in 0..10 {
            gather.add(record(id, 60_000));
        }
        assert!(gather.is_closed(now));
        let mut sent = Vec::new();
        while gather.taken() > 0 {
            assert!(matches!(gather.pack(now).unwrap(), Batch::Packing));
            let done = gather.packed().await.unwrap();
            let (records, packed) = gather.take(done).unwrap();
            assert!(packed.raw < 1 << 20 && packed.count == records.len());
            assert!((4..=5).contains(&records.len()) || sent.len() + records.len() == 10, "{}", records.len());
            sent.extend(records.into_iter().map(|record| record.id.0));
        }
        assert_eq!(sent, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn an_oversized_batch_is_halved_until_one_message_is_left_which_goes_alone() {
        let (mut gather, now) = gather(4096);
        for id in 0..8 {
            gather.add(record(id, 4));
        }
        let mut counts = Vec::new();
        loop {
            let (records, packed) = ready(gather.pack(now).unwrap());
            counts.push(records.len());
            if let Some(alone) = gather.oversized(records, packed) {
                assert_eq!(alone.id, RecordId(0));
                break;
            }
        }
        assert_eq!(counts, [8, 4, 2, 1]);
        assert_eq!(gather.taken(), 7);
        let fits = gather.fits;
        for _ in 0..200 {
            gather.sent(Packed { count: 1, raw: MOST_BYTES }, now);
        }
        assert!(fits < 1000 && gather.fits == MOST_BYTES, "it grows again");
    }

    #[test]
    fn a_small_message_before_a_large_one_goes_without_it() {
        let (mut gather, now) = gather(4096);
        gather.add(record(0, 10));
        gather.add(record(1, 2000));
        let (records, packed) = ready(gather.pack(now).unwrap());
        assert!(records.len() == 2 && gather.oversized(records, packed).is_none());
        let (records, packed) = ready(gather.pack(now).unwrap());
        assert_eq!((records.len(), records[0].id, packed.count), (1, RecordId(0), 1));
        assert_eq!(gather.taken(), 1);
    }

    #[test]
    fn two_connections_without_an_answer_halve_and_an_hour_mends() {
        let (mut gather, mut now) = gather(4096);
        let mut sizes = Vec::new();
        for _ in 0..20 {
            let raw = gather.limit(now);
            gather.sent(Packed { count: 9, raw }, now);
            let learned = gather.conclude(now);
            gather = Gather::new(100, 4096, learned);
            sizes.push(gather.limit(now) / 1024);
        }
        assert_eq!(sizes[..13], [256, 128, 128, 64, 64, 32, 32, 16, 16, 8, 8, 4, 4]);
        assert_eq!(sizes[19], 4, "not below");
        now += FADES;
        assert_eq!(gather.limit(now), 8 * 1024);
        now += FADES * 1_000;
        assert_eq!(gather.limit(now), MOST_BYTES);
    }

    #[test]
    fn answers_small_batches_and_single_losses_teach_nothing() {
        let (mut gather, now) = gather(4096);
        for (raw, answered) in
            [(MOST_BYTES, false), (MOST_BYTES, true), (MOST_BYTES, false), (100, false), (100, false)]
        {
            gather.sent(Packed { count: 9, raw }, now);
            if answered {
                gather.answered();
            }
            gather = Gather::new(100, 4096, gather.conclude(now));
        }
        assert_eq!(gather.limit(now), MOST_BYTES);
    }

    #[test]
    fn refusals_in_a_row_end_it_unless_the_size_is_to_blame() {
        let (mut gather, now) = gather(4096);
        assert!(!gather.refused(100_000, false, now) && !gather.refused(100_000, false, now));
        gather.accepted();
        assert!(!gather.refused(100_000, false, now) && !gather.refused(100_000, false, now));
        assert!(!gather.refused(100_000, true, now));
        assert_eq!(gather.limit(now), 50_000);
        assert!(gather.refused(100_000, false, now));
        let (mut small, now) = self::gather(4096);
        assert!(!small.refused(100, true, now) && !small.refused(100, true, now) && small.refused(100, true, now));
    }
}
