//! All links to field devices: begun at the start, and one by one when the configuration changes. Those that stay the same
//! are not touched.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fieldgate_types::{Clock, Current, DeviceId};
use futures_util::future::join_all;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::declared::Declared;
use super::drivers::{LinkConfig, LinkKey};
use super::link::{Link, LinkHandle};
use super::{Outlet, Presence};
use crate::command::FieldTarget;

/// For a link to tell that its devices are offline, once its driver has ended. Longer only when the store refuses.
const ENDING: Duration = Duration::from_secs(10);

/// The links that run.
pub struct Links {
    outlet: Outlet,
    presence: Arc<Presence>,
    clock: Arc<dyn Clock>,
    data_dir: PathBuf,
    tasks: TaskTracker,
    stop: CancellationToken,
    running: Current<Vec<(LinkKey, LinkHandle)>>,
}

impl Links {
    /// None yet. They run in `tasks` until `stop`.
    pub fn new(
        (outlet, presence, clock): (Outlet, Arc<Presence>, Arc<dyn Clock>),
        data_dir: PathBuf,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self { outlet, presence, clock, data_dir, tasks, stop, running: Current::default() }
    }

    /// Those that run, in the order of the configuration.
    pub fn all(&self) -> Arc<Vec<(LinkKey, LinkHandle)>> {
        self.running.get()
    }

    /// From now on `wanted`, of which those in `kept` run already and go on untouched. All others are ended first, so that no
    /// device is asked by two, and no serial line opened twice.
    pub async fn change(&self, wanted: Vec<(LinkKey, LinkConfig)>, kept: &BTreeSet<LinkKey>) {
        let staying: BTreeSet<DeviceId> = wanted.iter().flat_map(|(_, link)| link.device_ids()).collect();
        let running = self.running.get();
        let ending = running.iter().filter(|(key, _)| !kept.contains(key)).map(|(_, link)| async {
            let ids = link.devices.iter().map(|device| device.id.clone());
            let gone = ids.filter(|id| !staying.contains(id)).collect();
            if timeout(ENDING, link.end.end(gone)).await.is_err() {
                // Its driver has ended; what it still has to say waits for the disk.
                tracing::error!(link = link.name, "the link did not end in time, the next begins without it");
            }
        });
        join_all(ending).await;
        let mut running: BTreeMap<LinkKey, LinkHandle> = Vec::clone(&running).into_iter().collect();
        let next = wanted.into_iter().map(|(key, config)| {
            let same = running.remove(&key).filter(|_| kept.contains(&key));
            let handle = same.unwrap_or_else(|| self.begin(config));
            (key, handle)
        });
        let next = next.collect();
        self.running.set(next);
    }

    fn begin(&self, config: LinkConfig) -> LinkHandle {
        let config = Arc::new(config);
        let (link, handle) = Link::new(
            config,
            &self.data_dir,
            self.outlet.clone(),
            Arc::clone(&self.presence),
            Arc::clone(&self.clock),
            self.stop.child_token(),
        );
        self.tasks.spawn(link.run());
        handle
    }

    /// What a field device has is told once more; of others there is nothing to tell.
    pub fn tell_birth_again(&self, device: &DeviceId) {
        for (_, link) in self.running.get().iter() {
            link.tell_birth_again(device);
        }
    }

    /// Every field device and the way to it.
    pub fn targets(&self) -> Vec<FieldTarget> {
        let running = self.running.get();
        let target = |link: &LinkHandle, device: &Declared| FieldTarget {
            device: device.clone(),
            commands: link.commands.clone(),
        };
        running.iter().flat_map(|(_, link)| link.devices.iter().map(|device| target(link, device))).collect()
    }
}
