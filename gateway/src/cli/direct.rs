//! Field devices for verbs: asked through the running gateway, or where none runs by their drivers, which run here then for
//! as long as the verb does. The data directory is locked meanwhile, so that no device is asked by two.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use fieldgate_protocol::{LinkInfo, Outcome, PointName, Tasks, Update, Uplink};
use fieldgate_store::{DirectoryLock, State};
use fieldgate_types::{Clock, DeviceId, Pulse, SystemClock};
use serde_json::Value as Json;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::client::Client;
use crate::admin::api::PointEntry;
use crate::audit::Audit;
use crate::command::FieldTarget;
use crate::config::Config;
use crate::southbound::Declared;
use crate::southbound::drivers::links;

/// For the first word of a device; then a command says by itself what is wrong.
const FIRST_WORD: Duration = Duration::from_secs(12);
/// For a driver to end.
const ENDING: Duration = Duration::from_secs(2);

/// Field devices, and the way to them.
pub enum Field {
    /// A gateway runs on this data directory.
    Running(PathBuf),
    /// None does.
    Here(Here),
}

/// Drivers of one's own.
pub struct Here {
    targets: BTreeMap<DeviceId, (FieldTarget, watch::Receiver<Heard>)>,
    audit: Audit,
    timeout: Duration,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    _lock: DirectoryLock,
}

/// The devices of a link that have said whether they are there.
type Heard = Vec<DeviceId>;

impl Field {
    /// The devices and points that `wanted` takes, without a name those that have to be found; a running gateway asks its own.
    pub async fn reach(config: &Config, wanted: impl Fn(&DeviceId, Option<&str>) -> bool) -> anyhow::Result<Self> {
        if Client::connect(&config.data_dir).await?.is_some() {
            return Ok(Self::Running(config.data_dir.clone()));
        }
        eprintln!("fieldgate: no gateway runs on `{}`, the devices are asked directly", config.data_dir.display());
        Ok(Self::Here(Here::start(config, wanted)?))
    }

    /// What there is.
    pub async fn points(&self) -> anyhow::Result<Vec<PointEntry>> {
        match self {
            Self::Running(data_dir) => Client::required(data_dir).await?.get("/api/v1/points").await,
            Self::Here(here) => here.points().await,
        }
    }

    /// Commands one.
    pub async fn ask(&self, device: &DeviceId, command: &str, body: &Json) -> anyhow::Result<Outcome> {
        match self {
            Self::Running(data_dir) => {
                let client = Client::required(data_dir).await?;
                client.post(&format!("/api/v1/points/{device}/{command}"), body).await
            }
            Self::Here(here) => here.ask(device, command, body).await,
        }
    }

    /// Lets go of the devices.
    pub async fn close(self) {
        if let Self::Here(mut here) = self {
            here.stop.cancel();
            let ended = async { while here.tasks.join_next().await.is_some() {} };
            if timeout(ENDING, ended).await.is_err() {
                tracing::debug!("a driver did not end in time");
            }
            // The audit line is written before the verb returns.
            here.audit.close();
        }
    }
}

impl Here {
    fn start(config: &Config, wanted: impl Fn(&DeviceId, Option<&str>) -> bool) -> anyhow::Result<Self> {
        let lock = config.lock_data_dir()?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let state = Arc::new(State::open(&config.data_dir.join("state.db"), Arc::clone(&clock))?);
        let audit = Audit::open(&config.data_dir.join("audit"), state, Arc::clone(&clock))?;
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let mut targets = BTreeMap::new();
        for (_, link) in links(config) {
            let Some(link) = link.only(|device, point| wanted(device, point.map(PointName::as_str))) else { continue };
            let mut driver = Arc::new(link).maker(&config.data_dir)();
            // Full: the driver waits.
            let (uplink, updates) = mpsc::channel(16);
            // One command at a time is asked.
            let (commands, receiver) = mpsc::channel(1);
            let (hears, heard) = watch::channel(Heard::new());
            let devices: Vec<Declared> = driver.devices().into_iter().map(Declared::new).collect();
            for device in devices.iter().cloned() {
                let target = FieldTarget { device, commands: commands.clone() };
                targets.insert(target.device.id.clone(), (target, heard.clone()));
            }
            let tasks_of = Tasks {
                uplink: Uplink::new(uplink),
                commands: receiver,
                state: watch::channel(LinkInfo::default()).0,
                clock: Arc::clone(&clock),
                pulse: Pulse::new(Arc::clone(&clock)),
                stop: stop.clone(),
            };
            tasks.spawn(async move { driver.run(tasks_of).await });
            tasks.spawn(hear(updates, devices, hears));
        }
        Ok(Self { targets, audit, timeout: config.command_timeout, stop, tasks, _lock: lock })
    }

    /// Waits for those that have to be found.
    async fn points(&self) -> anyhow::Result<Vec<PointEntry>> {
        let mut points = Vec::new();
        for (device, (target, heard)) in &self.targets {
            if target.device.now().grows {
                first_word(device, heard).await?;
            }
            points.extend(PointEntry::of(&target.device.now()));
        }
        Ok(points)
    }

    async fn ask(&self, device: &DeviceId, command: &str, body: &Json) -> anyhow::Result<Outcome> {
        let Some((target, heard)) = self.targets.get(device) else {
            bail!("`{device}` is no field device with this point; `fieldgate point list` shows all");
        };
        first_word(device, heard).await?;
        let payload = serde_json::to_vec(body)?;
        let deadline = Instant::now() + self.timeout;
        Ok(target.carry_out(command, &payload, deadline, ("admin", &self.audit)).await)
    }
}

/// Waits until a device has said whether it is there; when it takes long, no more is waited for.
async fn first_word(device: &DeviceId, heard: &watch::Receiver<Heard>) -> anyhow::Result<()> {
    let mut heard = heard.clone();
    match timeout(FIRST_WORD, heard.wait_for(|heard| heard.contains(device))).await {
        Ok(Ok(_)) | Err(_) => Ok(()),
        Ok(Err(_)) => Err(anyhow!("the driver of `{device}` has ended")),
    }
}

/// Takes what a driver tells, until it ends: of interest is who has said anything at all, and which points were found.
async fn hear(mut updates: mpsc::Receiver<Update>, devices: Vec<Declared>, heard: watch::Sender<Heard>) {
    while let Some(update) = updates.recv().await {
        let declared = |id: &DeviceId| devices.iter().find(|declared| declared.id == *id);
        let device = match update {
            // Whether it answers is not known before.
            Update::Online { .. } => continue,
            Update::Points { device, points } => {
                if let Some(declared) = declared(&device) {
                    declared.set_points(points);
                }
                device
            }
            // The points that it is asked for may not be found yet.
            Update::Samples { device, .. } | Update::Readings { device, .. }
                if declared(&device).is_some_and(|declared| declared.now().grows) =>
            {
                continue;
            }
            Update::Offline { device, .. }
            | Update::Samples { device, .. }
            | Update::Readings { device, .. }
            | Update::History { device, .. }
            | Update::Events { device, .. } => device,
        };
        heard.send_if_modified(|heard| {
            let new = !heard.contains(&device);
            heard.extend(new.then_some(device));
            new
        });
    }
}
