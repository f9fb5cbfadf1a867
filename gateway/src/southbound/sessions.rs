//! The broker's rows in queue.db: retained messages and sessions. Opaque to us.

use bytes::Bytes;
use fieldgate_broker::{Change, CommitError, LoadError, Row, Sessions, Table};
use fieldgate_store::{Batch, Delete, Put, Queue};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

/// Rows in tables of the queue.
pub struct StoredSessions {
    queue: Queue,
}

impl StoredSessions {
    /// In `queue`.
    pub fn new(queue: Queue) -> Self {
        Self { queue }
    }
}

impl Sessions for StoredSessions {
    fn load(&self, table: Table) -> BoxFuture<'static, Result<Vec<Row>, LoadError>> {
        let queue = self.queue.clone();
        async move {
            let name = table.name();
            let rows = queue.scan(name).await.map_err(|error| LoadError { table: name, words: error.to_string() })?;
            Ok(rows.into_iter().map(|(key, value)| (Bytes::from(key), Bytes::from(value))).collect())
        }
        .boxed()
    }

    fn persist(&self, changes: Vec<Change>) -> BoxFuture<'static, Result<(), CommitError>> {
        let mut batch = Batch::default();
        add_changes(&mut batch, &changes);
        commit(&self.queue, batch)
    }
}

/// The broker's changes, as part of a batch.
pub fn add_changes(batch: &mut Batch, changes: &[Change]) {
    for change in changes {
        let (table, key) = (change.table.name(), change.key.to_vec());
        match &change.value {
            Some(value) => batch.puts.push(Put { table, key, value: value.to_vec() }),
            None => batch.deletes.push(Delete { table, key }),
        }
    }
}

/// Commits `batch`, begun now: the broker polls the commits of one publisher one after the other, and means the order of its
/// calls. Begun here, they wait for the same transaction.
pub fn commit(queue: &Queue, batch: Batch) -> BoxFuture<'static, Result<(), CommitError>> {
    queue.begin(batch).map(|done| done.map(drop).map_err(commit_error)).boxed()
}

/// Begins `work` now.
pub fn begun(
    work: impl Future<Output = Result<(), CommitError>> + Send + 'static,
) -> BoxFuture<'static, Result<(), CommitError>> {
    let mut work = work.boxed();
    match (&mut work).now_or_never() {
        Some(result) => std::future::ready(result).boxed(),
        None => work,
    }
}

/// The store's refusal in the broker's words.
fn commit_error(error: fieldgate_store::CommitError) -> CommitError {
    CommitError::Failed(error.to_string())
}
