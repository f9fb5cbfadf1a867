//! Records that are kept aside, by API: what they are, and what becomes of them.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use fieldgate_store::{Aside, AsideError, RecordId, ScanError};
use fieldgate_types::{DeviceId, UnixMillis};
use serde::{Deserialize, Serialize};

use super::api::Failed;
use super::overview::Overview;
use crate::audit::Event;
use crate::pipeline::record::Upbound;

/// Ids in one request.
pub const MOST: usize = 1000;

/// One of them; its payload stays where it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    /// Its number in the buffer.
    pub id: u64,
    /// Whose message it is.
    pub device: DeviceId,
    /// With the sequence number, its name for ever.
    pub boot: u64,
    /// Counts the device's messages.
    pub seq: u64,
    /// Where it was to go; none where that can't be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Size of the payload in bytes.
    pub bytes: usize,
    /// When it was received.
    pub received: UnixMillis,
    /// Since when it lies aside.
    pub since: UnixMillis,
    /// Why.
    pub reason: String,
    /// Damaged: it can only be dropped.
    pub spoiled: bool,
}

impl From<Aside> for Entry {
    fn from(aside: Aside) -> Self {
        let message = if aside.spoiled { None } else { Upbound::decode(&aside.body).ok() };
        Self {
            id: aside.id.0,
            device: aside.header.device,
            boot: aside.header.boot,
            seq: aside.header.seq,
            topic: message.as_ref().map(|message| message.destination.topic().to_owned()),
            bytes: message.map_or(aside.body.len(), |message| message.payload.len()),
            received: aside.header.time,
            since: aside.since,
            reason: aside.reason,
            spoiled: aside.spoiled,
        }
    }
}

/// Which page.
#[derive(Debug, Deserialize)]
pub struct Page {
    #[serde(default)]
    after: u64,
}

/// A page of them; the next one begins behind its last id. Empty: no more.
pub async fn list(State(overview): State<Arc<Overview>>, Query(page): Query<Page>) -> Result<Json<Vec<Entry>>, Failed> {
    let found = overview.queue.aside(RecordId(page.after)).await;
    let failed = |error: ScanError| Failed(StatusCode::SERVICE_UNAVAILABLE, error.to_string());
    Ok(Json(found.map_err(failed)?.into_iter().map(Entry::from).collect()))
}

/// Which ones.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chosen {
    /// At most [`MOST`].
    pub ids: Vec<u64>,
}

/// How many of them were still there.
#[derive(Debug, Serialize, Deserialize)]
pub struct Judged {
    /// The number.
    pub records: usize,
}

impl From<AsideError> for Failed {
    fn from(error: AsideError) -> Self {
        let code = match &error {
            AsideError::Spoiled { .. } => StatusCode::CONFLICT,
            AsideError::Closed | AsideError::Refused(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self(code, error.to_string())
    }
}

/// As the store knows them; at most [`MOST`].
pub fn ids(ids: Vec<u64>) -> Result<Vec<RecordId>, Failed> {
    if ids.len() > MOST {
        return Err(Failed(StatusCode::BAD_REQUEST, format!("at most {MOST} ids at a time")));
    }
    Ok(ids.into_iter().map(RecordId).collect())
}

/// What was decided about so many records is a line in the audit log, unless they were gone.
pub fn decided(overview: &Overview, records: usize, event: fn(usize) -> Event) {
    if records > 0 {
        overview.audit.record(event(records));
    }
}

/// They go to the upstream once more.
pub async fn retry(State(overview): State<Arc<Overview>>, Json(chosen): Json<Chosen>) -> Result<Json<Judged>, Failed> {
    let records = overview.queue.retry(ids(chosen.ids)?).await?;
    decided(&overview, records, |records| Event::QuarantineRetried { records });
    Ok(Json(Judged { records }))
}

/// They are let go of.
pub async fn forget(State(overview): State<Arc<Overview>>, Json(chosen): Json<Chosen>) -> Result<Json<Judged>, Failed> {
    let records = overview.queue.forget(ids(chosen.ids)?).await?;
    decided(&overview, records, |records| Event::QuarantineDropped { records });
    Ok(Json(Judged { records }))
}
