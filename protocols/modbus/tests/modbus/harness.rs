//! Runs a driver as the gateway does, and waits for what it says.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fieldgate_modbus::{ModbusConfig, ModbusDriver};
use fieldgate_protocol::{
    Command, Driver, FieldDevice, LinkInfo, LinkState, Outcome, PointName, Quality, Request, Sample, Tasks, Update,
    Uplink, Value,
};
use fieldgate_types::{DeviceId, ManualClock, Pulse, Sources, SystemClock, UnixMillis};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Nothing here takes longer unless it is broken.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A running driver.
pub struct Rig {
    pub updates: mpsc::Receiver<Update>,
    pub state: watch::Receiver<LinkInfo>,
    commands: mpsc::Sender<Command>,
    stop: CancellationToken,
    driver: JoinHandle<()>,
    /// What the driver stamps, and the clock by which it does.
    pub pulse: Pulse,
    pub pulse_clock: Arc<ManualClock>,
    /// Everything received so far, readings with the names of their points.
    pub seen: Vec<Update>,
    devices: Vec<FieldDevice>,
}

/// Reads a `[[modbus]]` table for a device on `address`.
pub fn config(address: impl std::fmt::Display, rest: &str) -> ModbusConfig {
    link(&format!("tcp://{address}"), rest)
}

/// Reads a `[[modbus]]` table for a link.
fn link(url: &str, rest: &str) -> ModbusConfig {
    let text = format!("[[modbus]]\nurl = \"{url}\"\n{rest}");
    let sources = Sources::new(Box::new(|path| std::fs::read_to_string(path)));
    let root = sources.root("test.toml", Path::new("."), &text);
    let config = root.sections("modbus").first().and_then(ModbusConfig::read);
    drop(root);
    assert_eq!(sources.problems(), []);
    config.unwrap()
}

impl Rig {
    /// Starts a driver for a device on `address`.
    pub fn start(address: impl std::fmt::Display, rest: &str) -> Self {
        Self::run(config(address, rest))
    }

    /// Starts a driver for a link.
    pub fn open(url: &str, rest: &str) -> Self {
        Self::run(link(url, rest))
    }

    fn run(config: ModbusConfig) -> Self {
        // Small, so that waiting for room happens too.
        let (uplink, updates) = mpsc::channel(4);
        let (commands, receiver) = mpsc::channel(4);
        let (state_sender, state) = watch::channel(LinkInfo::default());
        let stop = CancellationToken::new();
        let pulse_clock = Arc::new(ManualClock::new(UnixMillis(0)));
        let pulse = Pulse::new(Arc::clone(&pulse_clock) as _);
        let tasks = Tasks {
            uplink: Uplink::new(uplink),
            commands: receiver,
            state: state_sender,
            clock: Arc::new(SystemClock::new()),
            pulse: pulse.clone(),
            stop: stop.clone(),
        };
        let mut driver = ModbusDriver::new(config);
        let devices = driver.devices();
        let driver = tokio::spawn(async move { driver.run(tasks).await });
        Self { updates, state, commands, stop, driver, pulse, pulse_clock, seen: Vec::new(), devices }
    }

    /// The next update.
    pub async fn next(&mut self) -> Update {
        let update = timeout(DEADLINE, self.updates.recv()).await.expect("an update in time").expect("a driver");
        let update = named(update, &self.devices);
        self.seen.push(update.clone());
        update
    }

    /// Waits until an update is as wanted, and gives it.
    pub async fn until(&mut self, what: &str, wanted: impl Fn(&Update) -> bool) -> Update {
        let end = Instant::now() + DEADLINE;
        loop {
            let update = timeout(end.saturating_duration_since(Instant::now()), self.updates.recv()).await;
            let update = update.unwrap_or_else(|_| panic!("{what}; seen: {:#?}", self.seen)).expect("a driver");
            let update = named(update, &self.devices);
            self.seen.push(update.clone());
            if wanted(&update) {
                return update;
            }
        }
    }

    /// Waits for a good value of a point.
    pub async fn until_value(&mut self, device: &str, point: &str, value: &Value) {
        let what = format!("{device} {point} = {value:?}");
        self.until(&what, |update| samples(update, device).iter().any(|s| is(s, point, value))).await;
    }

    /// Waits for a quality of a point.
    pub async fn until_quality(&mut self, device: &str, point: &str, quality: &str) {
        let what = format!("{device} {point} is {quality}");
        let wanted = |s: &Sample| s.point.as_str() == point && s.quality.as_str() == quality;
        self.until(&what, |update| samples(update, device).iter().any(wanted)).await;
    }

    pub async fn until_online(&mut self, device: &str) {
        self.until(&format!("{device} online"), |u| matches!(u, Update::Online { device: d } if d.as_str() == device))
            .await;
    }

    pub async fn until_offline(&mut self, device: &str) -> String {
        let wanted = |u: &Update| matches!(u, Update::Offline { device: d, .. } if d.as_str() == device);
        match self.until(&format!("{device} offline"), wanted).await {
            Update::Offline { reason, .. } => reason,
            other => panic!("{other:?}"),
        }
    }

    pub async fn until_link(&mut self, wanted: LinkState) -> LinkInfo {
        let mut state = self.state.clone();
        let info = timeout(DEADLINE, state.wait_for(|info| info.state == wanted)).await;
        info.expect("the link state in time").expect("a driver").clone()
    }

    /// Sends a command and waits for its answer, while updates are taken as the gateway does.
    pub async fn command(&mut self, device: &str, request: Request) -> Outcome {
        self.command_by(device, request, Instant::now() + DEADLINE).await
    }

    pub async fn command_by(&mut self, device: &str, request: Request, deadline: Instant) -> Outcome {
        let (reply, mut outcome) = oneshot::channel();
        let command = Command { device: DeviceId::new(device).unwrap(), request, deadline, reply };
        self.commands.send(command).await.unwrap();
        let wait = async {
            loop {
                tokio::select! {
                    biased;
                    outcome = &mut outcome => return outcome.unwrap(),
                    update = self.updates.recv() => {
                        self.seen.push(named(update.expect("a driver"), &self.devices));
                    }
                }
            }
        };
        timeout(DEADLINE, wait).await.expect("an answer in time")
    }

    pub async fn write(&mut self, device: &str, point: &str, value: Value) -> Outcome {
        let point = PointName::new(point).unwrap();
        self.command(device, Request::Write { point, value }).await
    }

    pub async fn read(&mut self, device: &str, points: &[&str]) -> Outcome {
        let points = points.iter().map(|point| PointName::new(point).unwrap()).collect();
        self.command(device, Request::Read { points }).await
    }

    /// Stops the driver, which must be done within a second.
    pub async fn stop(mut self) {
        self.stop_now();
        self.ended().await;
    }

    /// Tells the driver to stop.
    pub fn stop_now(&self) {
        self.stop.cancel();
    }

    /// The driver must end within a second.
    pub async fn ended(&mut self) {
        timeout(Duration::from_secs(1), &mut self.driver).await.expect("ends within a second").unwrap();
    }

    /// Every good value of a point so far.
    pub fn values(&self, device: &str, point: &str) -> Vec<Value> {
        let samples = self.seen.iter().flat_map(|update| samples(update, device));
        let good = samples.filter(|s| s.point.as_str() == point && s.quality.usable());
        good.filter_map(|s| s.value.clone()).collect()
    }
}

/// Readings as samples.
fn named(update: Update, devices: &[FieldDevice]) -> Update {
    let Update::Readings { device, received, readings } = update else { return update };
    let points = &devices.iter().find(|of| of.id == device).unwrap().points;
    let samples = readings.into_iter().map(|reading| {
        let point = points[reading.place].name.clone();
        match reading.value {
            Ok(value) => Sample { value: Some(value), ..Sample::bad(point, Quality::GOOD, received) },
            Err(quality) => Sample::bad(point, quality, received),
        }
    });
    Update::Samples { samples: samples.collect(), device }
}

/// The samples of an update, if they are of this device.
pub fn samples<'a>(update: &'a Update, device: &str) -> &'a [Sample] {
    match update {
        Update::Samples { device: of, samples } if of.as_str() == device => samples,
        _ => &[],
    }
}

pub fn is(sample: &Sample, point: &str, value: &Value) -> bool {
    sample.point.as_str() == point && sample.quality.usable() && sample.value.as_ref() == Some(value)
}

/// Waits until something holds.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
