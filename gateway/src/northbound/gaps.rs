//! Gap markers: the upstream is told of what it will never get: how many messages of which device, from when to when, why.
//!
//! A marker is a message of its device on `devices/{id}/events`, stored like every other, in the same transaction that notes
//! that it was told: it is neither forgotten nor told twice. Nothing is told while the upstream is away: a marker would
//! take the room of data, and the next one would say more.

use std::sync::Arc;
use std::time::Duration;

use fieldgate_store::{Append, Batch, CommitError, Gap, Lane, LossKind, Queue};
use fieldgate_types::{Clock, UnixMillis};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::status::{UpstreamHandle, UpstreamState};
use crate::pipeline::record::Upbound;
use crate::pipeline::topic;

/// How often is looked for new gaps while the upstream is there.
const EVERY: Duration = Duration::from_secs(60);

/// Tells of gaps.
#[derive(Debug)]
pub struct Gaps {
    /// Where gaps are known, and markers go.
    pub queue: Queue,
    /// Whether there is somebody to tell.
    pub upstream: UpstreamHandle,
    /// For the time of a marker.
    pub clock: Arc<dyn Clock>,
    /// Ends it.
    pub stop: CancellationToken,
}

impl Gaps {
    /// Until stopped.
    pub async fn run(mut self) {
        loop {
            if self.upstream.status().state == UpstreamState::Up
                && let Err(error) = self.tell().await
            {
                // The gaps stay what they are.
                tracing::warn!(%error, "gap markers could not be stored");
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
                there = self.upstream.changed() => if !there { return },
            }
        }
    }

    async fn tell(&self) -> Result<(), CommitError> {
        let gaps = self.queue.gaps();
        if gaps.is_empty() {
            return Ok(());
        }
        let now = self.clock.now();
        let (mut appends, mut told) = (Vec::with_capacity(gaps.len()), Vec::with_capacity(gaps.len()));
        for gap in gaps {
            let (topic, payload) = (topic::events(&gap.device), payload(&gap, now));
            let body = match Upbound::json(&topic, payload.as_bytes(), false).encode() {
                Ok(body) => body,
                Err(error) => {
                    tracing::error!(%error, "a gap marker can't be encoded");
                    continue;
                }
            };
            appends.push(Append { device: gap.device.clone(), lane: Lane::Live, time: now, expires: None, body });
            told.push(gap);
        }
        self.queue.commit(Batch { appends, told, ..Batch::default() }).await.map(|_| ())
    }
}

/// `{"ts","event":"gap","kind","reason","count","first","last"}`, times in ms.
fn payload(gap: &Gap, now: UnixMillis) -> String {
    let kind = match gap.kind {
        LossKind::Expired => "expired",
        LossKind::Evicted => "evicted",
        LossKind::Quarantined => "quarantined",
    };
    json!({
        "ts": now.0,
        "event": "gap",
        "kind": kind,
        "reason": gap.reason,
        "count": gap.count,
        "first": gap.first.0,
        "last": gap.last.0,
    })
    .to_string()
}
