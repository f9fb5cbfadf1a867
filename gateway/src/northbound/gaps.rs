//! Gap markers: the upstream is told of what it will never get: how many messages of which device, from when to when, why.
//!
//! A marker is a message of its device on `devices/{id}/events`, stored like every other, in the same transaction that notes
//! that it was told: it is neither forgotten nor told twice. Nothing is told while the upstream is away, nor in the first minute
//! of a full buffer's draining: a marker would take the room of data, and the next one would say more.
//!
//! Among what is missing may be the state of the device, or its birth, and the upstream retains older ones: they are told again,
//! once there is room. In a buffer that is full for ever they would only drive out more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fieldgate_store::{Append, Batch, CommitError, Gap, Lane, LossKind, Queue};
use fieldgate_types::{Clock, DeviceId, UnixMillis};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::status::{UpstreamHandle, UpstreamState};
use crate::pipeline::record::Upbound;
use crate::pipeline::topic;

/// How often is looked for new gaps while the upstream is there.
const EVERY: Duration = Duration::from_secs(60);
/// And for room while the buffer is full.
const SOON: Duration = Duration::from_secs(1);
/// A buffer with less than one in so many parts free is full.
const FREE_PART: u64 = 8;

/// Tells of gaps.
pub struct Gaps {
    /// Where gaps are known, and markers go.
    pub queue: Queue,
    /// Called for a device of which something is missing.
    pub missing: Box<dyn Fn(&DeviceId) + Send + Sync>,
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
        // What is left of it: a buffer may be full for ever.
        let mut patience = EVERY;
        let mut again = BTreeSet::new();
        loop {
            let up = self.upstream.status().state == UpstreamState::Up;
            let full = self.is_full();
            let mut wait = EVERY;
            if up && full && !patience.is_zero() {
                wait = SOON;
                patience = patience.saturating_sub(SOON);
            } else if up {
                patience = EVERY;
                match self.tell().await {
                    Ok(devices) => again.extend(devices),
                    // The gaps stay what they are.
                    Err(error) => tracing::warn!(%error, "gap markers could not be stored"),
                }
            }
            if up && !full {
                std::mem::take(&mut again).iter().for_each(&self.missing);
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                there = self.upstream.changed() => if !there { return },
            }
        }
    }

    fn is_full(&self) -> bool {
        let stats = self.queue.stats();
        stats.used_bytes > stats.capacity_bytes - stats.capacity_bytes / FREE_PART
    }

    /// Of which devices.
    async fn tell(&self) -> Result<BTreeSet<DeviceId>, CommitError> {
        let gaps = self.queue.gaps();
        let devices = gaps.iter().map(|gap| gap.device.clone()).collect();
        if gaps.is_empty() {
            return Ok(devices);
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
        self.queue.commit(Batch { appends, told, ..Batch::default() }).await.map(|_| devices)
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
