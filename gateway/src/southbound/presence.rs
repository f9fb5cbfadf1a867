//! Which device is online: told locally and upstream on `devices/{id}/state`, retained.
//!
//! Whoever learns of a change calls [`Presence::set`], from any thread, without waiting. One task tells the
//! world; several changes of a device while it is busy are told as the last one. What was last told is kept in
//! queue.db with the message, so that after a crash the devices that are still shown as online are put right.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fieldgate_store::{Put, Queue};
use fieldgate_types::{DeviceId, UnixMillis};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::outlet::{Document, Outlet};
use crate::pipeline::topic;

const TABLE: &str = "presence";

/// How a device is (DESIGN section 5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Whether it is connected, or answers.
    pub online: bool,
    /// Since when.
    pub since: UnixMillis,
    /// `mqtt`, `modbus`, `opcua`
    pub via: String,
    /// Why it is offline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Default)]
struct Inner {
    states: BTreeMap<DeviceId, State>,
    untold: BTreeSet<DeviceId>,
}

/// The states of all devices that were heard of.
#[derive(Default)]
pub struct Presence {
    inner: Mutex<Inner>,
    changed: Notify,
}

impl Presence {
    /// Starts with what was last told; whoever was online is offline until heard of again.
    pub async fn open(queue: &Queue, now: UnixMillis) -> Result<Arc<Self>, fieldgate_store::ScanError> {
        let presence = Self::default();
        for (key, value) in queue.scan(TABLE).await? {
            let id = String::from_utf8(key).ok().and_then(|key| DeviceId::new(&key).ok());
            let state = serde_json::from_slice::<State>(&value).ok();
            let Some((id, state)) = id.zip(state) else {
                tracing::warn!("a presence row can't be read and is ignored");
                continue;
            };
            let was_online = state.online;
            presence.inner().states.insert(id.clone(), state.clone());
            if was_online {
                let reason = Some("the gateway restarted".to_owned());
                presence.set(id, State { online: false, since: now, reason, ..state });
            }
        }
        Ok(Arc::new(presence))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device is like this now. The same again is no news.
    pub fn set(&self, device: DeviceId, state: State) {
        let mut inner = self.inner();
        let same = |old: &State| old.online == state.online && old.via == state.via && old.reason == state.reason;
        if inner.states.get(&device).is_some_and(same) {
            return;
        }
        inner.states.insert(device.clone(), state);
        inner.untold.insert(device);
        self.changed.notify_one();
    }

    /// The device has been online since `now`.
    pub fn online(&self, device: DeviceId, via: &str, now: UnixMillis) {
        self.set(device, State { online: true, since: now, via: via.to_owned(), reason: None });
    }

    /// The device has been offline since `now`.
    pub fn offline(&self, device: DeviceId, via: &str, reason: String, now: UnixMillis) {
        self.set(device, State { online: false, since: now, via: via.to_owned(), reason: Some(reason) });
    }

    /// How the device is is told once more, though nothing has changed: the upstream may know only what was before.
    pub fn tell_again(&self, device: &DeviceId) {
        let mut inner = self.inner();
        if inner.states.contains_key(device) {
            inner.untold.insert(device.clone());
            self.changed.notify_one();
        }
    }

    /// How a device is, if it was heard of.
    pub fn get(&self, device: &DeviceId) -> Option<State> {
        self.inner().states.get(device).cloned()
    }

    /// Devices online now.
    pub fn online_count(&self) -> usize {
        self.inner().states.values().filter(|state| state.online).count()
    }

    fn take_untold(&self) -> Vec<(DeviceId, State)> {
        let mut inner = self.inner();
        let untold = std::mem::take(&mut inner.untold);
        untold.into_iter().filter_map(|id| inner.states.get(&id).cloned().map(|state| (id, state))).collect()
    }

    /// Tells changes through `outlet` until `stop` resolves; then tells the last ones and returns.
    pub async fn run(self: Arc<Self>, outlet: Outlet, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        let mut stopping = false;
        loop {
            for batch in self.take_untold().chunks(256) {
                if let Err(error) = tell(&outlet, batch).await {
                    tracing::error!(%error, devices = batch.len(), "device states could not be told");
                }
            }
            if stopping {
                return;
            }
            tokio::select! {
                () = self.changed.notified() => {}
                () = &mut stop => stopping = true,
            }
        }
    }
}

async fn tell(outlet: &Outlet, states: &[(DeviceId, State)]) -> anyhow::Result<()> {
    let mut documents = Vec::with_capacity(states.len());
    let mut puts = Vec::with_capacity(states.len());
    for (device, state) in states {
        let payload = serde_json::to_vec(state)?;
        puts.push(Put { table: TABLE, key: device.as_str().as_bytes().to_vec(), value: payload.clone() });
        documents.push(Document {
            device: device.clone(),
            topic: topic::state(device),
            payload,
            retain: true,
            history: false,
        });
    }
    outlet.send(documents, puts).await?;
    Ok(())
}
