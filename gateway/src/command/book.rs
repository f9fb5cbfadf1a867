//! The book of commands: a (device, rid) from upstream is accepted once, answered once, and remembered 24 h.
//!
//! Rows live in state.db (`commands`), written before the command is acknowledged upstream. The mark that a
//! command was answered lives in queue.db (`answered`), in the same transaction as the answer. At start, a
//! command that was accepted and never answered is answered `failed`: it may or may not have been done.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fieldgate_protocol::{Outcome, Status};
use fieldgate_store::{Append, Batch, CommitError, Delete, Put, Queue, ScanError, State, StateError};
use fieldgate_types::{Clock, Current, DeviceId, UnixMillis};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::oneshot;

use super::outcome;
use crate::audit::{Audit, Event};
use crate::pipeline::record::{Destination, Upbound};
use crate::pipeline::route::{self, Outbound};
use crate::pipeline::topic;

const COMMANDS: &str = "commands";
const ANSWERED: &str = "answered";
const REMEMBER: Duration = Duration::from_secs(86_400);
/// Open and remembered commands together; beyond it new ones are refused until old ones are forgotten.
const MAX_ROWS: usize = 100_000;

/// A command as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// For whom.
    pub device: DeviceId,
    /// What.
    pub name: String,
    /// Request id, unique per device for 24 h.
    pub rid: String,
    /// When it was accepted.
    pub accepted: UnixMillis,
    /// MQTT 5 response topic of the request.
    pub response_topic: Option<String>,
    /// MQTT 5 correlation data of the request.
    pub correlation: Option<Vec<u8>>,
}

impl Row {
    fn key(&self) -> Key {
        (self.device.clone(), self.rid.clone())
    }

    fn stored_key(&self) -> Vec<u8> {
        format!("{}/{}", self.device, self.rid).into_bytes()
    }
}

type Key = (DeviceId, String);

#[derive(Debug)]
struct Known {
    row: Row,
    open: bool,
    /// Told when the answer has come.
    waiting: Option<oneshot::Sender<()>>,
}

/// Why the book can't be kept.
#[derive(Debug, Error)]
pub enum BookError {
    /// state.db refuses.
    #[error("the command can't be remembered")]
    State(#[from] StateError),
    /// queue.db can't be read.
    #[error("the answered commands can't be read")]
    Scan(#[from] ScanError),
    /// queue.db has stopped.
    #[error("the answer can't be stored")]
    Queue(#[from] CommitError),
    /// A row can't be written as JSON, or read.
    #[error("a command row is damaged")]
    Row(#[from] serde_json::Error),
    /// A record body can't be encoded.
    #[error("the answer can't be encoded")]
    Record(#[from] postcard::Error),
    /// A background task was cancelled: the gateway stops.
    #[error("the gateway is stopping")]
    Stopping,
}

/// What became of an attempt to accept a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// New: do it.
    New,
    /// This (device, rid) was here before: not done again.
    Again,
    /// Too many are remembered.
    Full,
}

/// What an answer was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// For an open command: now answered.
    Given,
    /// For a command that has its answer already: dropped.
    Late,
    /// For no command from upstream.
    Unknown,
}

/// All commands of the last 24 h.
pub struct Book {
    state: Arc<State>,
    queue: Queue,
    audit: Audit,
    clock: Arc<dyn Clock>,
    /// Answers go up when there is one.
    outbound: Arc<Current<Outbound>>,
    known: Mutex<HashMap<Key, Known>>,
    /// Held until a row is durable: the same command again must not be acknowledged before its row is.
    accepting: tokio::sync::Mutex<()>,
}

impl Book {
    /// Reads the rows. What a crash left unanswered stays open until [`Book::answer_abandoned`].
    pub async fn open(
        state: Arc<State>,
        queue: Queue,
        audit: Audit,
        clock: Arc<dyn Clock>,
        outbound: Arc<Current<Outbound>>,
    ) -> Result<Self, BookError> {
        let answered: HashSet<Vec<u8>> = queue.scan(ANSWERED).await?.into_iter().map(|(key, _)| key).collect();
        let mut known = HashMap::new();
        for (stored, value) in state.scan(COMMANDS)? {
            let row: Row = serde_json::from_slice(&value)?;
            let open = !answered.contains(&stored);
            known.insert(row.key(), Known { row, open, waiting: None });
        }
        Ok(Self {
            state,
            queue,
            audit,
            clock,
            outbound,
            known: Mutex::new(known),
            accepting: tokio::sync::Mutex::default(),
        })
    }

    /// Answers what an earlier run accepted and did not answer. To be called once, before the first command; waits
    /// for the disk, so not in the way of anything else.
    pub async fn answer_abandoned(&self, before: UnixMillis) -> Result<(), BookError> {
        let abandoned: Vec<Key> = {
            let known = self.known();
            let open = known.values().filter(|entry| entry.open && entry.row.accepted < before);
            open.map(|entry| entry.row.key()).collect()
        };
        for (device, rid) in abandoned {
            let reason = "the gateway stopped before the command was answered; it may have been carried out";
            self.answer(&device, &rid, Outcome::not(Status::Failed, reason)).await?;
        }
        Ok(())
    }

    /// Where commands are written down.
    pub(super) fn audit(&self) -> &Audit {
        &self.audit
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Key, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts `row` durably, once.
    pub async fn accept(&self, row: Row) -> Result<Accepted, BookError> {
        let key = row.key();
        let _one_at_a_time = self.accepting.lock().await;
        {
            let mut known = self.known();
            if known.contains_key(&key) {
                return Ok(Accepted::Again);
            }
            if known.len() >= MAX_ROWS {
                return Ok(Accepted::Full);
            }
            known.insert(key.clone(), Known { row: row.clone(), open: true, waiting: None });
        }
        let put = Put { table: COMMANDS, key: row.stored_key(), value: serde_json::to_vec(&row)? };
        let written = self.change_state(vec![put], Vec::new()).await;
        if written.is_err() {
            self.known().remove(&key);
        }
        written.map(|()| Accepted::New)
    }

    /// Resolves when the command has its answer; with an error at once when it has one already or is not known.
    pub fn answered(&self, device: &DeviceId, rid: &str) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        if let Some(entry) = self.known().get_mut(&(device.clone(), rid.to_owned())).filter(|entry| entry.open) {
            entry.waiting = Some(sender);
        }
        receiver
    }

    /// Gives the answer to an open command: the first one counts.
    pub async fn answer(&self, device: &DeviceId, rid: &str, outcome: Outcome) -> Result<Answer, BookError> {
        let row = {
            let mut known = self.known();
            match known.get_mut(&(device.clone(), rid.to_owned())) {
                None => return Ok(Answer::Unknown),
                Some(entry) if !entry.open => return Ok(Answer::Late),
                Some(entry) => {
                    entry.open = false;
                    if let Some(waiting) = entry.waiting.take() {
                        let _still_waiting = waiting.send(()).is_ok();
                    }
                    entry.row.clone()
                }
            }
        };
        self.audit.record(Event::Command {
            device: row.device.clone(),
            name: row.name.clone(),
            rid: row.rid.clone(),
            status: format!("{:?}", outcome.status).to_lowercase(),
            reason: outcome.reason.clone(),
        });
        self.commit_answer(&row, &outcome).await?;
        Ok(Answer::Given)
    }

    /// The answer and the mark that there is one, in one transaction.
    async fn commit_answer(&self, row: &Row, outcome: &Outcome) -> Result<(), BookError> {
        let payload = outcome::encode(&row.rid, outcome);
        let local = topic::result(&row.device, &row.name, &row.rid);
        let message = Upbound { correlation: row.correlation.as_deref(), ..Upbound::json(&local, &payload, false) };
        let response = row
            .response_topic
            .as_deref()
            .map(|response| Upbound { destination: Destination::Absolute(response), ..message.clone() });
        let lane = route::upward(&topic::LocalTopic::parse(&local)).map_or(fieldgate_store::Lane::Live, |up| up.lane);
        let mut batch = Batch::default();
        let upstream = self.outbound.get().upstream;
        for message in response.into_iter().chain([message]).filter(|_| upstream) {
            let time = self.clock.now();
            batch.appends.push(Append {
                device: row.device.clone(),
                lane,
                time,
                expires: None,
                body: message.encode()?,
            });
        }
        batch.puts.push(Put {
            table: ANSWERED,
            key: row.stored_key(),
            value: self.clock.now().to_string().into_bytes(),
        });
        self.queue.commit(batch).await?;
        Ok(())
    }

    /// Forgets what was accepted more than 24 h ago; open commands stay.
    pub async fn forget_old(&self) -> Result<usize, BookError> {
        let now = self.clock.now();
        let old: Vec<Row> = {
            let mut known = self.known();
            let old: Vec<Row> = known
                .values()
                .filter(|entry| !entry.open && now.since(entry.row.accepted) > REMEMBER)
                .map(|entry| entry.row.clone())
                .collect();
            for row in &old {
                known.remove(&row.key());
            }
            old
        };
        if old.is_empty() {
            return Ok(0);
        }
        let deletes = |table| old.iter().map(|row| Delete { table, key: row.stored_key() }).collect::<Vec<_>>();
        // state.db first: a mark without its row is harmless, a row without its mark would be answered again.
        self.change_state(Vec::new(), deletes(COMMANDS)).await?;
        self.queue.commit(Batch { deletes: deletes(ANSWERED), ..Batch::default() }).await?;
        Ok(old.len())
    }

    /// Commands without an answer yet.
    pub fn open_count(&self) -> usize {
        self.known().values().filter(|entry| entry.open).count()
    }

    async fn change_state(&self, puts: Vec<Put>, deletes: Vec<Delete>) -> Result<(), BookError> {
        let state = Arc::clone(&self.state);
        let written = tokio::task::spawn_blocking(move || state.commit(&puts, &deletes)).await;
        Ok(written.map_err(|_| BookError::Stopping)??)
    }
}
