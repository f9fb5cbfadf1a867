//! The two ports that the broker needs and others implement: [`Gate`] (who is this, may it, make this durable,
//! this happened) and [`Sessions`] (rows that outlive the process). No implementation but [`MemorySessions`].

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use rustls_pki_types::CertificateDer;

use crate::{Decision, Event, Identity, Message, Refusal};

/// Rights, identity, durability and news. Called from connection tasks: none of these may block.
///
/// Decisions about topics are cached by the broker until [`crate::Broker::recheck`] is called.
pub trait Gate: Send + Sync + 'static {
    /// After the TLS handshake, before the CONNECT is read. On `Err`, which the implementation audits, the
    /// connection is refused after its CONNECT with a reason code (v5 0x87, 3.1.1 0x05), so that it is visible.
    fn identify(&self, chain: &[CertificateDer<'_>], peer: SocketAddr) -> Result<Identity, Refusal>;
    /// Why a TLS handshake failed, in words for people; `None` where those of `error` will do.
    fn explain_handshake(&self, error: &io::Error) -> Option<String> {
        let _: &io::Error = error;
        None
    }
    /// Who claims to be `name` on a listener without client certificates, and proves it with `password`; asked after
    /// the CONNECT. The identity's id is `name`. The check may take its time, in the future. On `Err` the CONNECT is
    /// refused with 0x86 (3.1.1: 0x04), or with the refusal's own code.
    fn identify_user(
        &self,
        name: &str,
        password: &[u8],
        peer: SocketAddr,
    ) -> BoxFuture<'static, Result<Identity, Refusal>> {
        // Who knows no users lets none in.
        let _: (&str, &[u8], SocketAddr) = (name, password, peer);
        async { Err(Refusal::new("there are no users here")) }.boxed()
    }
    /// Asked just before a session is attached and again after [`crate::Broker::recheck`]: revoked meanwhile?
    fn still_valid(&self, who: &Identity) -> Result<(), Refusal>;
    /// The topic on which messages that `who` publishes to `topic` go on, for devices whose firmware can't change;
    /// `None`: the same. Everything after it, rights included, knows the new topic alone. Cached like decisions.
    fn rename(&self, who: &Identity, topic: &str) -> Option<Arc<str>> {
        let _: (&Identity, &str) = (who, topic);
        None
    }
    /// May `who` publish to `topic`? Wills are asked at CONNECT and again when fired.
    fn may_publish(&self, who: &Identity, topic: &str) -> Decision;
    /// May `who` subscribe to `filter` (without a `$share/group/` prefix)?
    fn may_subscribe(&self, who: &Identity, filter: &str) -> Decision;
    /// May `who` still receive `topic`? Asked on delivery of what was granted before a change of rights.
    fn may_receive(&self, who: &Identity, topic: &str) -> Decision;
    /// Makes durable what must be, in one transaction: the upstream record (the implementation knows whether
    /// `message` goes up) and the rows in `durable`. The future resolves when that is on disk. `None`: nothing
    /// durable is needed, the message is acknowledged once it is queued for its live receivers. Commits are
    /// submitted in the order of one publisher's messages and must become durable in that order.
    fn commit(
        &self,
        who: &Identity,
        message: &Message,
        durable: &Durable<'_>,
    ) -> Option<BoxFuture<'static, Result<(), CommitError>>>;
    /// Something happened. Must return at once.
    fn event(&self, event: Event);
}

/// The part of a commit that the broker needs.
#[derive(Debug, Clone, Copy)]
pub struct Durable<'a> {
    /// Rows to put or delete, empty when the broker needs nothing durable for this message.
    pub changes: &'a [Change],
}

/// One row to put or delete. Keys and values are opaque to everybody but the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Where the row lives.
    pub table: Table,
    /// Its key, unique in the table.
    pub key: Bytes,
    /// The new value; `None` deletes the row.
    pub value: Option<Bytes>,
}

/// Tables of the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Retained messages, by topic.
    Retained,
    /// Sessions, their queues and in-flight state.
    Sessions,
}

impl Table {
    /// A name fit for a table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Retained => "retained",
            Self::Sessions => "sessions",
        }
    }
}

/// What was asked to be made durable is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// A limit with overflow "refuse" is reached: acknowledged with 0x97 on MQTT 5, not at all on 3.1.1.
    #[error("the buffer is full")]
    Full,
    /// The disk refuses. Nothing is acknowledged.
    #[error("the store failed: {0}")]
    Failed(String),
}

/// One row: key and value.
pub type Row = (Bytes, Bytes);

/// Rows that outlive the process: retained messages and sessions. Rows that belong to a client's message go through
/// [`Gate::commit`] instead, so that they share its transaction.
pub trait Sessions: Send + Sync + 'static {
    /// All rows of a table, once at start.
    fn load(&self, table: Table) -> BoxFuture<'static, Result<Vec<Row>, LoadError>>;
    /// Makes these changes durable, in one transaction: what no client's message carries. Submitted in the call
    /// itself: changes become durable in the order of the calls, and of those of [`Gate::commit`].
    fn persist(&self, changes: Vec<Change>) -> BoxFuture<'static, Result<(), CommitError>>;
}

/// The rows of a table can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("can't load table `{table}`: {words}")]
pub struct LoadError {
    /// Which table.
    pub table: &'static str,
    /// What went wrong.
    pub words: String,
}

/// Rows in memory, for tests.
#[derive(Debug, Default)]
pub struct MemorySessions {
    rows: Mutex<BTreeMap<(Table, Bytes), Bytes>>,
}

impl MemorySessions {
    /// No rows.
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies `changes` at once; a test's `Gate::commit` calls this for its rows.
    pub fn apply(&self, changes: &[Change]) {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            let key = (change.table, change.key.clone());
            match &change.value {
                Some(value) => rows.insert(key, value.clone()),
                None => rows.remove(&key),
            };
        }
    }

    /// Keys of the rows in `table`.
    pub fn keys(&self, table: Table) -> Vec<Bytes> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.keys().filter(|(of, _)| *of == table).map(|(_, key)| key.clone()).collect()
    }

    /// The same rows, apart from these: what a crash leaves.
    pub fn snapshot(&self) -> Self {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        Self { rows: Mutex::new(rows.clone()) }
    }

    /// Number of rows in `table`.
    pub fn count(&self, table: Table) -> usize {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.keys().filter(|(of, _)| *of == table).count()
    }
}

impl Sessions for MemorySessions {
    fn load(&self, table: Table) -> BoxFuture<'static, Result<Vec<Row>, LoadError>> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let of_table =
            |((of, key), value): (&(Table, Bytes), &Bytes)| (*of == table).then(|| (key.clone(), value.clone()));
        let rows: Vec<Row> = rows.iter().filter_map(of_table).collect();
        async move { Ok(rows) }.boxed()
    }

    fn persist(&self, changes: Vec<Change>) -> BoxFuture<'static, Result<(), CommitError>> {
        self.apply(&changes);
        async { Ok(()) }.boxed()
    }
}
