//! Records into the payload of a batch: a line each, compressed.

use std::io;

use fieldgate_store::Record;
use zstd::bulk::Compressor;

use super::envelope::put_line;
use crate::pipeline::record::Upbound;

/// On telemetry as small as level 3, and faster (`docs/decisions/0018-batches.md`).
const LEVEL: i32 = 1;

/// Keeps its buffers from batch to batch.
pub(super) struct Packer {
    compressor: Compressor<'static>,
    lines: String,
    payload: Vec<u8>,
}

/// What was packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packed {
    /// The first so many of the records.
    pub count: usize,
    /// Bytes before compression.
    pub raw: usize,
}

impl Packer {
    pub fn new() -> io::Result<Self> {
        Ok(Self { compressor: Compressor::new(LEVEL)?, lines: String::new(), payload: Vec::new() })
    }

    /// Packs records from the first on, until their lines have `most` bytes; one at least. Each can be decoded, or it is left
    /// out.
    pub fn pack(&mut self, records: &[Record], most: usize) -> io::Result<Packed> {
        self.lines.clear();
        let mut count = 0;
        for record in records {
            if let Ok(message) = Upbound::decode(&record.body) {
                put_line(&mut self.lines, record, &message);
            }
            count += 1;
            if self.lines.len() >= most {
                break;
            }
        }
        self.payload.clear();
        self.payload.reserve(zstd::zstd_safe::compress_bound(self.lines.len()));
        self.compressor.compress_to_buffer(self.lines.as_bytes(), &mut self.payload)?;
        Ok(Packed { count, raw: self.lines.len() })
    }

    /// Of the last batch.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }
}
