//! One link: its driver, restarted when it panics or returns, and the way of its samples into the store.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use fieldgate_protocol::{
    Command, Driver, LinkInfo, Outcome, Point, PointName, Quality, Sample, Status, Tasks, Update, Uplink,
};
use fieldgate_types::{Backoff, Clock, DeviceId, Pulse};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::birth;
use super::declared::Declared;
use super::drivers::{LinkConfig, MakeDriver};
use super::leaf::Refusals;
use super::outlet::{Document, Outlet};
use super::presence::Presence;
use crate::pipeline::report::{LastReport, Reporter};
use crate::pipeline::{document, topic};

/// Births in one transaction: some of them are large.
const BIRTHS: usize = 16;
/// With nothing to do it turns this often, so that it can be seen that it turns.
const TURN: Duration = Duration::from_secs(5);
/// Who asks for last reports waits so long: a link that waits for the disk doesn't answer.
const LAST_REPORTS: Duration = Duration::from_millis(500);

/// A link that runs: what the rest of the gateway knows of it.
#[derive(Debug, Clone)]
pub struct LinkHandle {
    /// What it is called in logs and `status`.
    pub name: String,
    /// `modbus`, `opcua`
    pub protocol: &'static str,
    /// As configured.
    pub config: Arc<LinkConfig>,
    /// Of all time on the bus, what its plan asks for, in percent; over a network it is not known.
    pub load: Option<f64>,
    /// Its devices.
    pub devices: Vec<Declared>,
    /// Commands for them.
    pub commands: mpsc::Sender<Command>,
    /// Asks what its points last were.
    pub last: mpsc::Sender<AskLast>,
    again: Arc<Again>,
    /// How it is.
    pub state: watch::Receiver<LinkInfo>,
    /// Of its task and of its driver: whether they still turn.
    pub pulses: [Pulse; 2],
    /// Points reported as bad, by the name of their quality.
    pub errors: Arc<Refusals>,
    /// Ends it.
    pub end: Arc<End>,
}

/// What points of a device were when they were last reported. Nothing is asked of the device.
#[derive(Debug)]
pub struct AskLast {
    /// Which device.
    pub device: DeviceId,
    /// Which points.
    pub points: Vec<PointName>,
    /// What was last reported; points that never were are left out.
    pub reply: oneshot::Sender<Vec<LastReport>>,
}

/// Births that are to be told once more.
#[derive(Debug, Default)]
struct Again {
    devices: Mutex<BTreeSet<DeviceId>>,
    asked: Notify,
}

impl Again {
    fn devices(&self) -> MutexGuard<'_, BTreeSet<DeviceId>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LinkHandle {
    /// What one of its devices has is told once more, though nothing has changed: the upstream may know only what was before.
    pub fn tell_birth_again(&self, device: &DeviceId) {
        if self.devices.iter().any(|declared| declared.id == *device) {
            self.again.devices().insert(device.clone());
            self.again.asked.notify_one();
        }
    }

    /// What these points of a device were when they were last reported; `None` where the link is too busy to say.
    pub async fn last_reports(&self, device: &DeviceId, points: Vec<PointName>) -> Option<Vec<LastReport>> {
        let (reply, reports) = oneshot::channel();
        self.last.try_send(AskLast { device: device.clone(), points, reply }).ok()?;
        timeout(LAST_REPORTS, reports).await.ok()?.ok()
    }
}

/// The end of a link that is not the gateway's: another configuration has come.
#[derive(Debug)]
pub struct End {
    stop: CancellationToken,
    gone: OnceLock<BTreeSet<DeviceId>>,
    over: CancellationToken,
}

impl End {
    fn new(stop: CancellationToken) -> Self {
        Self { stop, gone: OnceLock::new(), over: CancellationToken::new() }
    }

    /// Ends the link, which tells that all its devices are offline: that they were removed, of those in `gone`. Resolves when
    /// it has.
    pub async fn end(&self, gone: BTreeSet<DeviceId>) {
        // The first one's word.
        let _first = self.gone.set(gone).is_ok();
        self.stop.cancel();
        self.over.cancelled().await;
    }

    fn reason(&self, device: &DeviceId) -> &'static str {
        match self.gone.get() {
            _ if !self.stop.is_cancelled() => "the driver ended",
            None => "the gateway stopped",
            Some(gone) if gone.contains(device) => "it was removed from the configuration",
            Some(_) => "its link is restarted with another configuration",
        }
    }
}

/// The task of a link.
pub struct Link {
    make: MakeDriver,
    protocol: &'static str,
    name: String,
    reporters: HashMap<DeviceId, Reporter>,
    devices: Vec<Declared>,
    /// Those whose points are not all known yet, and were told by nobody in this run: what an earlier one told, retained, stands.
    growing: BTreeSet<DeviceId>,
    commands: mpsc::Receiver<Command>,
    last: mpsc::Receiver<AskLast>,
    again: Arc<Again>,
    state: watch::Sender<LinkInfo>,
    pulses: [Pulse; 2],
    errors: Arc<Refusals>,
    outlet: Outlet,
    presence: Arc<Presence>,
    clock: Arc<dyn Clock>,
    end: Arc<End>,
}

/// A driver in its own task, and the ways to and from it.
struct Running {
    task: JoinHandle<()>,
    commands: mpsc::Sender<Command>,
    updates: mpsc::Receiver<Update>,
}

/// What woke the link.
enum Woke {
    Update(Update),
    Command(Command),
    Asked(AskLast),
    BirthsAgain,
    ReportDue,
    DriverEnded,
}

impl Link {
    /// A link as configured; runs by [`Link::run`] until `stop` is cancelled.
    pub fn new(
        config: Arc<LinkConfig>,
        data_dir: &Path,
        outlet: Outlet,
        presence: Arc<Presence>,
        clock: Arc<dyn Clock>,
        stop: CancellationToken,
    ) -> (Self, LinkHandle) {
        let make = Arc::clone(&config).maker(data_dir);
        let driver = make();
        let devices = driver.devices();
        // Full: the router answers `failed` at once, see FieldTarget.
        let (sender, commands) = mpsc::channel(32);
        // Full: who asks is told that the link is busy.
        let (ask, last) = mpsc::channel(8);
        let (state, watched) = watch::channel(LinkInfo::default());
        let (protocol, name) = (driver.protocol(), driver.link());
        let declared: Vec<Declared> = devices.iter().cloned().map(Declared::new).collect();
        let end = Arc::new(End::new(stop));
        let pulses = [Pulse::new(Arc::clone(&clock)), Pulse::new(Arc::clone(&clock))];
        let (errors, again): (Arc<Refusals>, Arc<Again>) = Default::default();
        let handle = LinkHandle {
            name: name.clone(),
            protocol,
            load: config.plan().filter(|plan| plan.timed).map(|plan| plan.load_percent),
            config,
            devices: declared.clone(),
            commands: sender,
            last: ask,
            again: Arc::clone(&again),
            state: watched,
            pulses: pulses.clone(),
            errors: Arc::clone(&errors),
            end: Arc::clone(&end),
        };
        let growing = devices.iter().filter(|device| device.grows).map(|device| device.id.clone()).collect();
        let reporters =
            devices.iter().map(|device| (device.id.clone(), Reporter::new(device, driver.subscribes()))).collect();
        let link = Self {
            make,
            protocol,
            name,
            reporters,
            devices: declared,
            growing,
            commands,
            last,
            again,
            state,
            pulses,
            errors,
            outlet,
            presence,
            clock,
            end,
        };
        (link, handle)
    }

    /// Runs the driver, starting it again whenever it ends, and takes in what it reads.
    pub async fn run(mut self) {
        let _over = self.end.over.clone().drop_guard();
        let stop = self.end.stop.clone();
        // Before anything of its devices.
        self.announce(|_| true).await;
        let mut backoff = Backoff::field_link();
        loop {
            let mut running = self.start_driver();
            loop {
                let [pulse, _] = &self.pulses;
                pulse.rest(TURN);
                match self.next(&mut running).await {
                    Woke::Update(update) => {
                        backoff.reset();
                        self.apply(update).await;
                    }
                    Woke::Command(command) => hand_over(&running.commands, command),
                    Woke::Asked(ask) => self.tell(ask),
                    Woke::BirthsAgain => {
                        let again = std::mem::take(&mut *self.again.devices());
                        self.announce(|device| again.contains(device)).await;
                    }
                    Woke::ReportDue => self.report_due().await,
                    Woke::DriverEnded => break,
                }
            }
            if let Err(error) = running.task.await {
                tracing::error!(link = self.name, %error, "the driver panicked");
            }
            for device in self.reporters.keys().cloned().collect::<Vec<_>>() {
                let reason = self.end.reason(&device).to_owned();
                self.offline(device, reason).await;
            }
            let [pulse, driver] = &self.pulses;
            driver.end();
            if stop.is_cancelled() {
                pulse.end();
                return;
            }
            let wait = backoff.next_wait();
            pulse.rest(wait);
            tracing::warn!(link = self.name, wait_ms = wait.as_millis(), "the driver is started again");
            if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return;
            }
        }
    }

    /// What these of its devices have; of those that grow once it is known.
    async fn announce(&self, which: impl Fn(&DeviceId) -> bool) {
        let known = self.devices.iter().filter(|device| !self.growing.contains(&device.id) && which(&device.id));
        for devices in known.collect::<Vec<&Declared>>().chunks(BIRTHS) {
            self.tell_birth(devices).await;
        }
    }

    async fn tell_birth(&self, devices: &[&Declared]) {
        let births = devices.iter().map(|device| birth::of(&device.now(), self.protocol, &self.name)).collect();
        let [pulse, _] = &self.pulses;
        let _waiting = pulse.excuse();
        if let Err(error) = self.outlet.send(births, Vec::new()).await {
            tracing::error!(link = self.name, %error, "births could not be stored");
        }
    }

    /// The driver has found points, or looked for them at least.
    async fn declare(&mut self, device: &DeviceId, points: Vec<Arc<Point>>) {
        let Some(declared) = self.devices.iter().find(|declared| declared.id == *device).cloned() else { return };
        let changed = declared.set_points(points);
        if let (true, Some(reporter)) = (changed, self.reporters.get_mut(device)) {
            reporter.declare(&declared.now().points);
        }
        if self.growing.remove(device) || changed {
            self.tell_birth(&[&declared]).await;
        }
    }

    fn start_driver(&self) -> Running {
        let mut driver: Box<dyn Driver> = (self.make)();
        // Full: the driver waits and polls less often, see `Uplink`.
        let (uplink, updates) = mpsc::channel(16);
        // Full: the command fails at once, see `hand_over`.
        let (commands, receiver) = mpsc::channel(32);
        let tasks = Tasks {
            uplink: Uplink::new(uplink),
            commands: receiver,
            state: self.state.clone(),
            clock: Arc::clone(&self.clock),
            pulse: {
                let [_, driver] = &self.pulses;
                driver.beat();
                driver.clone()
            },
            stop: self.end.stop.clone(),
        };
        let task = tokio::spawn(async move { driver.run(tasks).await });
        Running { task, commands, updates }
    }

    async fn next(&mut self, running: &mut Running) -> Woke {
        let now = self.clock.monotonic();
        let due = self.reporters.values().filter_map(Reporter::wakes_at).min();
        let wait = due.map_or(TURN, |at| at.saturating_sub(now)).min(TURN);
        tokio::select! {
            update = running.updates.recv() => update.map_or(Woke::DriverEnded, Woke::Update),
            Some(command) = self.commands.recv() => Woke::Command(command),
            Some(ask) = self.last.recv() => Woke::Asked(ask),
            () = self.again.asked.notified() => Woke::BirthsAgain,
            () = tokio::time::sleep(wait) => Woke::ReportDue,
        }
    }

    fn tell(&self, AskLast { device, points, reply }: AskLast) {
        let now = self.clock.monotonic();
        let reporter = self.reporters.get(&device);
        let reports = points.iter().filter_map(|point| reporter?.last(point, now)).collect();
        // Who asked may have gone.
        let _heard = reply.send(reports).is_ok();
    }

    async fn apply(&mut self, update: Update) {
        let now = self.clock.monotonic();
        match update {
            Update::Online { device } => {
                if let Some(reporter) = self.reporters.get_mut(&device) {
                    reporter.online(now);
                    self.presence.online(device, self.protocol, self.clock.now());
                }
            }
            Update::Offline { device, reason } => self.offline(device, reason).await,
            Update::Points { device, points } => self.declare(&device, points).await,
            Update::Samples { device, samples } => {
                let Some(reporter) = self.reporters.get_mut(&device) else { return };
                let samples = reporter.samples(samples, self.clock.now(), now);
                self.send(&device, samples).await;
            }
            Update::Readings { device, received, readings } => {
                let Some(reporter) = self.reporters.get_mut(&device) else { return };
                let samples = reporter.readings(readings, received, self.clock.now(), now);
                self.send(&device, samples).await;
            }
            Update::History { device, samples } => {
                let Some(reporter) = self.reporters.get_mut(&device) else { return };
                let samples = reporter.history(samples);
                let documents = document::history(&samples, self.clock.plausible());
                self.store(&device, topic::POINTS, documents, true).await;
            }
            Update::Events { device, events } => {
                let documents = document::events(&events, self.clock.plausible());
                self.store(&device, topic::EVENTS, documents, false).await;
            }
        }
    }

    async fn offline(&mut self, device: DeviceId, reason: String) {
        let Some(reporter) = self.reporters.get_mut(&device) else { return };
        let at = self.clock.now();
        let samples = reporter.offline(&Quality::BAD_NO_COMMUNICATION, at, self.clock.monotonic());
        self.send(&device, samples).await;
        self.presence.offline(device, self.protocol, reason, at);
    }

    async fn report_due(&mut self) {
        let (at, now) = (self.clock.now(), self.clock.monotonic());
        let due: Vec<(DeviceId, Vec<Sample>)> =
            self.reporters.iter_mut().map(|(device, reporter)| (device.clone(), reporter.due(at, now))).collect();
        for (device, samples) in due {
            self.send(&device, samples).await;
        }
    }

    async fn send(&self, device: &DeviceId, samples: Vec<Sample>) {
        for sample in samples.iter().filter(|sample| !sample.quality.usable()) {
            self.errors.add(point_error(&sample.quality));
        }
        self.store(device, topic::POINTS, document::documents(&samples, self.clock.plausible()), false).await;
    }

    async fn store(&self, device: &DeviceId, stream: &str, payloads: Vec<Vec<u8>>, history: bool) {
        if payloads.is_empty() {
            return;
        }
        let topic = topic::telemetry(device, stream);
        let document =
            |payload| Document { device: device.clone(), topic: topic.clone(), payload, retain: false, history };
        let documents: Vec<_> = payloads.into_iter().map(document).collect();
        // The store has a pulse of its own.
        let [pulse, _] = &self.pulses;
        let _waiting = pulse.excuse();
        if let Err(error) = self.outlet.send(documents, Vec::new()).await {
            tracing::error!(link = self.name, %device, %error, "readings could not be stored");
        }
    }
}

/// Why a point is bad, for metrics: the qualities that happen often by name, so that their number is bounded.
fn point_error(quality: &Quality) -> &'static str {
    let known = [
        "BadNoCommunication",
        "BadTimeout",
        "BadDeviceFailure",
        "BadNodeIdUnknown",
        "BadNotSupported",
        "BadOutOfRange",
        "BadDecodingError",
        "BadConfigurationError",
        "BadWaitingForInitialData",
        "BadSensorFailure",
        "BadUserAccessDenied",
        "BadNotReadable",
    ];
    known.into_iter().find(|name| *name == quality.as_str()).unwrap_or("other")
}

fn hand_over(driver: &mpsc::Sender<Command>, command: Command) {
    if let Err(refused) = driver.try_send(command) {
        let command = match refused {
            mpsc::error::TrySendError::Full(command) | mpsc::error::TrySendError::Closed(command) => command,
        };
        let outcome = Outcome::not(Status::Failed, "the link is busy with other commands");
        // Gone when the command has timed out meanwhile; it has its answer then.
        let _heard = command.reply.send(outcome).is_ok();
    }
}
