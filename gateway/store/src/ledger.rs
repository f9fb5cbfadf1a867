//! The loss ledger: what became of each device's records, and its sequence numbers.
//!
//! The writer's master copy. Changes are part of the transaction that causes them: the first touch of a row in a
//! transaction keeps its old value, so that a transaction that fails leaves no trace here either.
//!
//! In the file the counters may be behind by transactions that only appended records of known devices: these can be
//! counted again from the records themselves, and a page of counters less in each transaction is a tenth of what a
//! gathered commit writes. Every other transaction writes all that is behind, and so does one in [`MOST_UNWRITTEN`] records.
//!
//! A record that is held (module `hold`) has its number and is waiting for whoever asks, but the counters that go into the
//! file know nothing of it before it is written, or has left without: a crash must not leave it waiting for ever.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use fieldgate_types::{DeviceId, Percent, UnixMillis};

use crate::record::RECORD_OVERHEAD;
use crate::stats::{DeviceLedger, Gap, Loss, LossKind};

/// Records that the counters in the file may be behind: they are read again at the next start.
pub(crate) const MOST_UNWRITTEN: u64 = 4096;

/// One device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub device: DeviceId,
    /// Boot of the last record, and its sequence number.
    pub boot: u64,
    pub seq: u64,
    pub received: u64,
    pub delivered: u64,
    /// Payload bytes waiting.
    pub bytes: u64,
    pub losses: Vec<Loss>,
    /// What the consumer has not told of yet. One of no record is to leave the file.
    pub gaps: Vec<Gap>,
    /// Records that are held, and their payload bytes: in memory alone.
    pub held: u64,
    pub held_bytes: u64,
}

impl Row {
    /// A device that nothing is known of.
    pub(crate) fn new(device: DeviceId) -> Self {
        Self {
            device,
            boot: 0,
            seq: 0,
            received: 0,
            delivered: 0,
            bytes: 0,
            losses: Vec::new(),
            gaps: Vec::new(),
            held: 0,
            held_bytes: 0,
        }
    }

    /// CRC32C over the counters: SQLite notices a flipped bit in a number no more than one in a body.
    pub(crate) fn checksum(&self) -> u32 {
        let mut crc = crc32c::crc32c(self.device.as_str().as_bytes());
        for number in [self.boot, self.seq, self.received, self.delivered, self.bytes] {
            crc = crc32c::crc32c_append(crc, &number.to_le_bytes());
        }
        let mut losses: Vec<_> = self.losses.iter().collect();
        losses.sort_unstable_by(|one, other| (one.kind, &one.reason).cmp(&(other.kind, &other.reason)));
        for loss in losses {
            crc = crc32c::crc32c_append(crc, &[loss.kind as u8]);
            crc = crc32c::crc32c_append(crc, loss.reason.as_bytes());
            crc = crc32c::crc32c_append(crc, &loss.count.to_le_bytes());
        }
        crc
    }

    fn lost(&self, kind: LossKind) -> u64 {
        self.losses.iter().filter(|loss| loss.kind == kind).map(|loss| loss.count).sum()
    }

    /// Records in the queue.
    pub(crate) fn waiting(&self) -> u64 {
        let lost: u64 = self.losses.iter().map(|loss| loss.count).sum();
        self.received.saturating_sub(self.delivered).saturating_sub(lost)
    }

    /// Records in the queue, held ones included.
    fn present(&self) -> u64 {
        self.waiting() + self.held
    }

    /// What its records take, held ones included, about.
    fn weight(&self) -> u64 {
        self.bytes + self.held_bytes + self.present() * RECORD_OVERHEAD as u64
    }

    /// As others see it.
    pub(crate) fn report(&self) -> DeviceLedger {
        // As the file has them; a salvage may have taken all of one back.
        let mut losses: Vec<_> = self.losses.iter().filter(|loss| loss.count > 0).cloned().collect();
        losses.sort_unstable_by(|one, other| (one.kind, &one.reason).cmp(&(other.kind, &other.reason)));
        DeviceLedger {
            device: self.device.clone(),
            received: self.received + self.held,
            delivered: self.delivered,
            waiting: self.present(),
            expired: self.lost(LossKind::Expired),
            evicted: self.lost(LossKind::Evicted),
            quarantined: self.lost(LossKind::Quarantined),
            losses,
            gaps: self.gaps.iter().filter(|gap| gap.count > 0).cloned().collect(),
        }
    }
}

/// All devices.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    rows: Vec<Row>,
    index: HashMap<DeviceId, usize>,
    /// Rows touched in the open transaction with their old value; `None`: new.
    touched: BTreeMap<usize, Option<Row>>,
    /// Rows whose counters in the file are behind, and by how many records together.
    unwritten: BTreeSet<usize>,
    behind: u64,
    /// Records that are held, and the bytes of their bodies.
    held: u64,
    held_bytes: u64,
    /// Ids have been given out of turn: not every id below the newest one in the file is known to its counters or lies
    /// beside them. The next transaction writes them.
    due: bool,
    /// Ids given that no counter knows.
    base: u64,
    /// The same when the open transaction began.
    base_before: u64,
    messages: u64,
    bytes: u64,
}

impl Ledger {
    /// From the file, in the order of its numbers. `base`: ids given that no counter knows.
    pub(crate) fn load(rows: Vec<Row>, base: u64) -> Self {
        let index = rows.iter().enumerate().map(|(at, row)| (row.device.clone(), at)).collect();
        let messages = rows.iter().map(Row::waiting).sum();
        let bytes = rows.iter().map(|row| row.bytes).sum();
        let (touched, unwritten) = (BTreeMap::new(), BTreeSet::new());
        let (behind, held, held_bytes, due) = (0, 0, 0, false);
        Self {
            rows,
            index,
            touched,
            unwritten,
            behind,
            held,
            held_bytes,
            due,
            base,
            base_before: base,
            messages,
            bytes,
        }
    }

    /// Records waiting, all devices.
    pub(crate) fn messages(&self) -> u64 {
        self.messages
    }

    /// Their payload.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The ids given so far: one for each record that was ever received.
    pub(crate) fn given(&self) -> u64 {
        self.rows.iter().map(|row| row.received).sum::<u64>().saturating_add(self.base)
    }

    /// Ids given that no counter knows.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// Ids up to `newest` were given, whatever the counters say.
    pub(crate) fn raise(&mut self, newest: u64) {
        self.base += newest.saturating_sub(self.given());
        self.base_before = self.base;
    }

    /// Counts a record out of a damaged file as waiting again: it was counted as lost; or no counter knew it, then the id
    /// that it had has a counter now; or the counters were wrong. `false`: there is no room for it in the sums.
    pub(crate) fn bring_back(&mut self, at: usize, bytes: usize, reason: &str) -> bool {
        let mut base = self.base;
        let back = self.change(at, |row| {
            let lost = row
                .losses
                .iter_mut()
                .find(|loss| loss.kind == LossKind::Quarantined && loss.reason == reason && loss.count > 0);
            if let Some(loss) = lost {
                loss.count -= 1;
            } else if base > 0 {
                base -= 1;
                row.received += 1;
            } else if row.delivered > 0 {
                row.delivered -= 1;
            } else {
                return false;
            }
            row.bytes += bytes as u64;
            true
        });
        self.base = base;
        back.unwrap_or(false)
    }

    /// Counts a record that is kept aside as waiting again, under an id that no counter knows.
    pub(crate) fn send_again(&mut self, at: usize, bytes: usize, reason: &str) {
        self.base += u64::from(self.bring_back(at, bytes, reason));
    }

    /// Rows by their numbers in the file.
    pub(crate) fn numbers(&self) -> HashMap<i64, (usize, DeviceId)> {
        let rows = self.rows.iter().enumerate();
        rows.map(|(at, row)| (crate::schema::number(at), (at, row.device.clone()))).collect()
    }

    /// The newest boot that any record had.
    pub(crate) fn newest_boot(&self) -> u64 {
        self.rows.iter().map(|row| row.boot).max().unwrap_or(0)
    }

    /// The device at `row`, if there is one.
    pub(crate) fn device(&self, row: usize) -> Option<&DeviceId> {
        self.rows.get(row).map(|row| &row.device)
    }

    /// The rows of devices that hold more than the `share` of all that waits, the heaviest `most` of them, ascending; none where
    /// nobody else has anything.
    pub(crate) fn above(&self, share: Percent, most: usize) -> Vec<usize> {
        let all = self.bytes + self.messages * RECORD_OVERHEAD as u64;
        let weights = self.rows.iter().map(Row::weight).enumerate();
        let heavy = weights.filter(|(_, weight)| weight * 100 > all * u64::from(share.hundredths()) && *weight < all);
        let mut heavy: Vec<(usize, u64)> = heavy.collect();
        heavy.sort_unstable_by_key(|(_, weight)| std::cmp::Reverse(*weight));
        heavy.truncate(most);
        let mut rows: Vec<usize> = heavy.into_iter().map(|(at, _)| at).collect();
        rows.sort_unstable();
        rows
    }

    /// All rows.
    pub(crate) fn reports(&self) -> Vec<DeviceLedger> {
        self.rows.iter().map(Row::report).collect()
    }

    /// Counts a record of `device` with a body of `bytes`; its row and sequence number in `boot`.
    pub(crate) fn receive(&mut self, device: &DeviceId, boot: u64, bytes: usize) -> (usize, u64) {
        let at = match self.index.get(device) {
            Some(at) => *at,
            None => self.add(device),
        };
        let seq = self.change(at, |row| {
            row.seq = if row.boot == boot { row.seq + 1 } else { 1 };
            row.boot = boot;
            row.received += 1;
            row.bytes += bytes as u64;
            row.seq
        });
        (at, seq.unwrap_or_default())
    }

    /// At the start: counts a record that the counters in the file don't know yet. `name`: its boot and sequence
    /// number, where they can be trusted.
    pub(crate) fn recount(&mut self, at: usize, name: Option<(u64, u64)>, bytes: usize) {
        self.change(at, |row| {
            row.received += 1;
            row.bytes += bytes as u64;
            if let Some(name) = name.filter(|name| *name > (row.boot, row.seq)) {
                (row.boot, row.seq) = name;
            }
        });
        self.touched.clear();
        self.unwritten.insert(at);
        self.behind += 1;
    }

    /// Between two transactions: names a record of `device` that is held.
    pub(crate) fn hold(&mut self, device: &DeviceId, boot: u64, bytes: usize) -> (usize, u64) {
        let (at, seq) = self.receive(device, boot, bytes);
        self.change(at, |row| {
            row.received -= 1;
            row.bytes -= bytes as u64;
            row.held += 1;
            row.held_bytes += bytes as u64;
        });
        self.held += 1;
        self.held_bytes += bytes as u64;
        self.kept(at);
        (at, seq)
    }

    /// Between two transactions: a held record was delivered, and is never written.
    pub(crate) fn pass(&mut self, at: usize, bytes: usize) {
        self.write_held(at, bytes);
        self.deliver(at, 1, bytes as u64);
        self.kept(at);
    }

    /// A held record is written.
    pub(crate) fn write_held(&mut self, at: usize, bytes: usize) {
        self.held = self.held.saturating_sub(1);
        self.held_bytes = self.held_bytes.saturating_sub(bytes as u64);
        self.change(at, |row| {
            row.held = row.held.saturating_sub(1);
            row.held_bytes = row.held_bytes.saturating_sub(bytes as u64);
            row.received += 1;
            row.bytes += bytes as u64;
        });
    }

    /// A change that no transaction makes or takes back.
    fn kept(&mut self, at: usize) {
        self.touched.clear();
        self.unwritten.insert(at);
        self.due = true;
    }

    /// Records that are held, and what they occupy in memory, about.
    pub(crate) fn held(&self) -> (usize, usize) {
        let number = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        (number(self.held), number(self.held_bytes).saturating_add(number(self.held) * RECORD_OVERHEAD))
    }

    /// What others should see of a device.
    pub(crate) fn seen(&self, at: usize) -> Option<DeviceLedger> {
        self.rows.get(at).map(Row::report)
    }

    fn add(&mut self, device: &DeviceId) -> usize {
        let at = self.rows.len();
        self.index.insert(device.clone(), at);
        self.rows.push(Row::new(device.clone()));
        self.touched.insert(at, None);
        at
    }

    /// Counts `records` with bodies of `bytes` as delivered.
    pub(crate) fn deliver(&mut self, row: usize, records: u64, bytes: u64) {
        self.change(row, |row| {
            // No more leaves than came: what a damaged page shows twice counts once.
            let records = records.min(row.waiting());
            row.delivered += records;
            row.bytes = row.bytes.saturating_sub(bytes);
        });
    }

    /// Counts a record that was received at `time` as lost, in the gaps too unless it is kept aside.
    pub(crate) fn lose(&mut self, row: usize, kind: LossKind, reason: &'static str, bytes: u64, time: UnixMillis) {
        self.lose_some(row, kind, reason, 1, bytes);
        match kind {
            LossKind::Quarantined => return,
            LossKind::Expired | LossKind::Evicted => {}
        }
        self.change(row, |row| match row.gaps.iter_mut().find(|gap| gap.kind == kind && gap.reason == reason) {
            Some(gap) if gap.count > 0 => {
                gap.count += 1;
                gap.first = gap.first.min(time);
                gap.last = gap.last.max(time);
            }
            Some(gap) => (gap.count, gap.first, gap.last) = (1, time, time),
            None => {
                let (device, reason) = (row.device.clone(), Cow::Borrowed(reason));
                row.gaps.push(Gap { device, kind, reason, count: 1, first: time, last: time });
            }
        });
    }

    /// The consumer has told of `gap`; what was lost since stays.
    pub(crate) fn told(&mut self, gap: &Gap) {
        let Some(at) = self.index.get(&gap.device).copied() else { return };
        self.change(at, |row| {
            let same = |known: &&mut Gap| known.kind == gap.kind && known.reason == gap.reason;
            if let Some(known) = row.gaps.iter_mut().find(same) {
                known.count = known.count.saturating_sub(gap.count);
                known.first = known.first.max(gap.last).min(known.last);
            }
        });
    }

    fn lose_some(&mut self, row: usize, kind: LossKind, reason: &'static str, records: u64, bytes: u64) {
        self.change(row, |row| {
            // As with what is delivered.
            let records = records.min(row.waiting());
            if records == 0 {
                return;
            }
            row.bytes = row.bytes.saturating_sub(bytes);
            match row.losses.iter_mut().find(|loss| loss.kind == kind && loss.reason == reason) {
                Some(loss) => loss.count += records,
                None => row.losses.push(Loss { kind, reason: Cow::Borrowed(reason), count: records }),
            }
        });
    }

    /// The file is gone with all that waited in it.
    pub(crate) fn lose_all(&mut self, kind: LossKind, reason: &'static str) {
        for at in 0..self.rows.len() {
            let waiting = self.rows.get(at).map_or(0, Row::waiting);
            // Also a row without loss is touched: the fresh file has none of them.
            self.change(at, |row| row.bytes = 0);
            if waiting > 0 {
                self.lose_some(at, kind, reason, waiting, 0);
            }
        }
    }

    fn change<T>(&mut self, at: usize, change: impl FnOnce(&mut Row) -> T) -> Option<T> {
        let row = self.rows.get_mut(at)?;
        self.touched.entry(at).or_insert_with(|| Some(row.clone()));
        self.messages = self.messages.wrapping_sub(row.present());
        self.bytes = self.bytes.wrapping_sub(row.bytes + row.held_bytes);
        let result = change(row);
        self.messages = self.messages.wrapping_add(row.present());
        self.bytes = self.bytes.wrapping_add(row.bytes + row.held_bytes);
        Some(result)
    }

    /// Whether the open transaction, one that only appended `records`, may leave the counters for later.
    pub(crate) fn may_wait(&self, records: usize) -> bool {
        !self.due && self.behind + records as u64 <= MOST_UNWRITTEN && self.touched.values().all(Option::is_some)
    }

    /// Whether the file is behind.
    pub(crate) fn is_behind(&self) -> bool {
        self.behind > 0 || self.due
    }

    /// The rows that differ from the file.
    pub(crate) fn to_write(&self) -> impl Iterator<Item = (usize, &Row)> {
        let all = self.touched.keys().chain(self.unwritten.iter().filter(|at| !self.touched.contains_key(at)));
        all.filter_map(|at| self.rows.get(*at).map(|row| (*at, row)))
    }

    /// The transaction is durable; `written`, with the counters, or else so many records more are not in them. What
    /// others should see now.
    pub(crate) fn commit(&mut self, written: Result<(), usize>) -> Vec<DeviceLedger> {
        self.base_before = self.base;
        let touched = std::mem::take(&mut self.touched);
        match written {
            Ok(()) => {
                for at in touched.keys().chain(&self.unwritten) {
                    if let Some(row) = self.rows.get_mut(*at) {
                        row.gaps.retain(|gap| gap.count > 0);
                    }
                }
                self.unwritten.clear();
                self.behind = 0;
                self.due = self.held > 0;
            }
            Err(records) => {
                self.unwritten.extend(touched.keys());
                self.behind += records as u64;
            }
        }
        touched.keys().filter_map(|at| self.rows.get(*at)).map(Row::report).collect()
    }

    /// The transaction did not happen.
    pub(crate) fn rollback(&mut self) {
        self.base = self.base_before;
        // Backwards, so that new rows leave from the end.
        for (at, old) in std::mem::take(&mut self.touched).into_iter().rev() {
            match old {
                Some(old) => {
                    if let Some(row) = self.rows.get_mut(at) {
                        *row = old;
                    }
                }
                None => {
                    if let Some(row) = self.rows.pop() {
                        self.index.remove(&row.device);
                    }
                }
            }
        }
        self.held = self.rows.iter().map(|row| row.held).sum();
        self.held_bytes = self.rows.iter().map(|row| row.held_bytes).sum();
        self.messages = self.rows.iter().map(Row::present).sum();
        self.bytes = self.rows.iter().map(|row| row.bytes + row.held_bytes).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_leaves_than_came() {
        let mut ledger = Ledger::default();
        ledger.receive(&DeviceId::new("a").unwrap(), 1, 10);
        ledger.deliver(0, 1, 10);
        ledger.lose(0, LossKind::Quarantined, "bad-crc", 10, UnixMillis(0));
        ledger.deliver(0, 1, 10);
        let row = ledger.reports().remove(0);
        assert_eq!((row.received, row.delivered, row.quarantined, row.losses), (1, 1, 0, vec![]));
    }

    #[test]
    fn whoever_holds_more_than_its_share_is_named_unless_it_is_alone() {
        let mut ledger = Ledger::default();
        let ids = ["a", "b", "c"].map(|id| DeviceId::new(id).unwrap());
        let [a, b, c] = &ids;
        for _ in 0..6 {
            ledger.receive(b, 1, 4);
        }
        assert_eq!(ledger.above(Percent::clamped(1), 9), [], "there is nobody to give way to");
        for device in [a, a, a, c] {
            ledger.receive(device, 1, 4);
        }
        let above = |percent| ledger.above(Percent::clamped(percent), 9);
        assert_eq!([above(60), above(59), above(29), above(9)], [vec![], vec![0], vec![0, 1], vec![0, 1, 2]]);
        assert_eq!(ledger.above(Percent::clamped(9), 2), [0, 1], "the heaviest");
        ledger.deliver(0, 4, 16);
        assert_eq!(ledger.above(Percent::clamped(40), 9), [1]);
    }

    #[test]
    fn a_rollback_leaves_no_trace() {
        let (a, b) = (DeviceId::new("a").unwrap(), DeviceId::new("b").unwrap());
        let mut ledger = Ledger::default();
        assert_eq!(ledger.receive(&a, 1, 10), (0, 1));
        assert_eq!(ledger.receive(&a, 1, 10), (0, 2));
        assert_eq!(ledger.commit(Ok(())).len(), 1);
        assert_eq!(ledger.receive(&b, 1, 5), (1, 1));
        ledger.deliver(0, 1, 10);
        ledger.lose(0, LossKind::Evicted, "max-size", 10, UnixMillis(5));
        assert_eq!((ledger.messages(), ledger.bytes()), (1, 5));
        ledger.rollback();
        assert_eq!((ledger.messages(), ledger.bytes()), (2, 20));
        assert_eq!(ledger.reports().len(), 1);
        assert_eq!(ledger.receive(&b, 1, 5), (1, 1));
        assert_eq!(ledger.receive(&a, 2, 5), (0, 1), "sequence numbers begin anew with each boot");
    }
}
