//! A record as it lies in memory and on disk, and its checksum.
//!
//! SQLite does not notice rot inside a row (29 of 30 flipped bits pass its own check), so each record carries a CRC32C
//! over header and body, written at the append and verified at each read from disk.

use std::time::Duration;

use bytes::Bytes;
use fieldgate_types::{DeviceId, UnixMillis};

use crate::age::millis;
use crate::record::{Append, Header, Lane, REPLAYED_AFTER, Record, RecordId};

/// One record with everything that is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub id: u64,
    pub lane: Lane,
    /// Index of the device in the ledger; its row in the file has the same number.
    pub row: usize,
    pub device: DeviceId,
    pub boot: u64,
    pub seq: u64,
    pub time: UnixMillis,
    pub expires: Option<UnixMillis>,
    /// Running time at the commit.
    pub born: u64,
    /// Running time at which it expires.
    pub deadline: Option<u64>,
    /// It belongs to the same batch as the record before it in this lane: the two are evicted together.
    pub continues: bool,
    pub body: Bytes,
}

impl Entry {
    /// A record that gets its number, and its name in the ledger: row, boot and sequence number.
    pub(crate) fn new(
        append: &Append,
        id: u64,
        (row, boot, seq): (usize, u64, u64),
        born: u64,
        continues: bool,
    ) -> Self {
        let &Append { ref device, lane, time, expires, ref body } = append;
        let deadline = expires.map(|expires| born.saturating_add(millis(expires.since(time))));
        let (device, body) = (device.clone(), body.clone());
        Self { id, lane, row, device, boot, seq, time, expires, born, deadline, continues, body }
    }

    /// What it occupies in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        self.body.len() + crate::record::RECORD_OVERHEAD
    }

    /// Whether it is not live any more at running time `now`. Ids below `start` were stored before this start.
    pub(crate) fn is_late(&self, now: u64, start: u64) -> bool {
        self.id < start || now.saturating_sub(self.born) > millis(REPLAYED_AFTER)
    }

    /// As the consumer sees it at running time `now`.
    pub(crate) fn into_record(self, now: u64, replayed: bool) -> Record {
        let remaining = self.deadline.map(|deadline| Duration::from_millis(deadline.saturating_sub(now)));
        let Self { id, lane, device, boot, seq, time, expires, body, .. } = self;
        Record {
            id: RecordId(id),
            header: Header { device, lane, boot, seq, time, expires },
            body,
            replayed,
            remaining,
        }
    }

    /// CRC32C over all that matters, each part with a fixed length or its length before it.
    pub(crate) fn checksum(&self) -> u32 {
        checksum(
            &Checked {
                id: self.id,
                lane: self.lane,
                device: &self.device,
                boot: self.boot,
                seq: self.seq,
                time: self.time,
                expires: self.expires,
                born: self.born,
                deadline: self.deadline,
                continues: self.continues,
            },
            &self.body,
        )
    }
}

/// The header as it goes into the checksum.
pub(crate) struct Checked<'a> {
    pub id: u64,
    pub lane: Lane,
    pub device: &'a DeviceId,
    pub boot: u64,
    pub seq: u64,
    pub time: UnixMillis,
    pub expires: Option<UnixMillis>,
    pub born: u64,
    pub deadline: Option<u64>,
    pub continues: bool,
}

/// CRC32C over header and body.
pub(crate) fn checksum(header: &Checked<'_>, body: &[u8]) -> u32 {
    let numbers = [
        header.id,
        header.lane as u64,
        u64::from(header.continues),
        header.boot,
        header.seq,
        header.time.0,
        u64::from(header.expires.is_some()),
        header.expires.unwrap_or_default().0,
        header.born,
        u64::from(header.deadline.is_some()),
        header.deadline.unwrap_or_default(),
        header.device.as_str().len() as u64,
    ];
    // In one piece: each call costs as much as the eight bytes.
    let mut bytes = [0; 12 * 8];
    for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes), header.device.as_str().as_bytes());
    crc32c::crc32c_append(crc, body)
}
