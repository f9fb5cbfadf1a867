//! What each test needs: a simulator, a running driver, and waiting for a condition with a deadline.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fieldgate_opcua::sim::{Options, Simulator};
use fieldgate_opcua::{OpcuaConfig, OpcuaDriver};
use fieldgate_protocol::{
    Command, Driver, LinkInfo, LinkState, Outcome, Request, Sample, Tasks, Update, Uplink, Value,
};
use fieldgate_types::{DeviceId, Pulse, Sources, SystemClock};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longer than anything that a test waits for may take.
pub const DEADLINE: Duration = Duration::from_secs(25);

pub fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

pub fn simulator(dir: &Path) -> Simulator {
    Simulator::start(loopback(), Options::new(dir.join("sim"))).unwrap()
}

/// The configuration of a session with one device; `keys` are further lines of the session.
pub fn config(endpoint: &str, keys: &str, points: &[(&str, &str, &str)]) -> OpcuaConfig {
    config_with(endpoint, keys, points, "")
}

/// The same with further tables of the device.
pub fn config_with(endpoint: &str, keys: &str, points: &[(&str, &str, &str)], tables: &str) -> OpcuaConfig {
    let mut text = format!(
        "[[opcua]]\nendpoint = \"{endpoint}\"\n{keys}\n[[opcua.device]]\nid = \"boiler-7\"\npublishing = \"50ms\"\nsampling = \"20ms\"\n"
    );
    for (name, node, more) in points {
        let node = if node.contains('=') { (*node).to_owned() } else { format!("nsu=urn:fieldgate:sim;s={node}") };
        writeln!(text, "[[opcua.device.point]]\nname = \"{name}\"\nnode = \"{node}\"\n{more}").unwrap();
    }
    text.push_str(tables);
    let sources = Sources::new(Box::new(|_| Err(std::io::Error::other("none"))));
    let root = sources.root("test.toml", Path::new("."), &text);
    let config = OpcuaConfig::read(&root.sections("opcua")[0]);
    drop(root);
    assert_eq!(sources.problems(), [], "{text}");
    config.unwrap()
}

pub const NONE: &str = "security = \"None\"";
pub const PLAIN: &[(&str, &str, &str)] = &[("level", "level", ""), ("temperature", "temperature", "")];

/// A driver that runs.
pub struct Rig {
    pub updates: mpsc::Receiver<Update>,
    pub info: watch::Receiver<LinkInfo>,
    commands: mpsc::Sender<Command>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Rig {
    pub fn start(config: OpcuaConfig, dir: &Path) -> Self {
        Self::with_room(config, dir, 1024)
    }

    /// One whose way up has room for so many updates.
    pub fn with_room(config: OpcuaConfig, dir: &Path, room: usize) -> Self {
        let mut driver = OpcuaDriver::new(config, dir.join("opcua"));
        let (up, updates) = mpsc::channel(room);
        let (commands, receiver) = mpsc::channel(16);
        let (state, info) = watch::channel(LinkInfo::default());
        let stop = CancellationToken::new();
        let tasks = Tasks {
            uplink: Uplink::new(up),
            commands: receiver,
            state,
            clock: Arc::new(SystemClock::new()),
            pulse: Pulse::new(Arc::new(SystemClock::new())),
            stop: stop.clone(),
        };
        let task = tokio::spawn(async move { driver.run(tasks).await });
        Self { updates, info, commands, stop, task }
    }

    /// Waits for an update that `wanted` takes.
    pub async fn expect<T>(&mut self, what: &str, mut wanted: impl FnMut(&Update) -> Option<T>) -> T {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        let mut seen = Vec::new();
        loop {
            match tokio::time::timeout_at(deadline, self.updates.recv()).await {
                Ok(Some(update)) => match wanted(&update) {
                    Some(found) => return found,
                    None => seen.push(update),
                },
                other => panic!("{what}: {other:?}; {:?}; seen: {seen:#?}", self.info.borrow()),
            }
        }
    }

    /// The samples of the next update that has some.
    pub async fn samples(&mut self) -> Vec<Sample> {
        self.expect("samples", |update| match update {
            Update::Samples { samples, .. } => Some(samples.clone()),
            _ => None,
        })
        .await
    }

    /// Waits for a sample of `point` that `wanted` takes.
    pub async fn sample(&mut self, point: &str, wanted: impl Fn(&Sample) -> bool) -> Sample {
        self.expect(point, |update| match update {
            Update::Samples { samples, .. } => {
                samples.iter().find(|sample| sample.point.as_str() == point && wanted(sample)).cloned()
            }
            _ => None,
        })
        .await
    }

    pub async fn value(&mut self, point: &str, value: f64) -> Sample {
        self.sample(point, |sample| sample.value == Some(Value::Float(value)) && sample.quality.usable()).await
    }

    pub async fn quality(&mut self, point: &str, quality: &str) -> Sample {
        self.sample(point, |sample| sample.quality.as_str() == quality).await
    }

    pub async fn online(&mut self) {
        self.expect("online", |update| matches!(update, Update::Online { .. }).then_some(())).await;
    }

    pub async fn offline(&mut self) -> String {
        self.expect("offline", |update| match update {
            Update::Offline { reason, .. } => Some(reason.clone()),
            _ => None,
        })
        .await
    }

    pub async fn state(&mut self, state: LinkState) -> LinkInfo {
        let mut info = self.info.clone();
        let reached = tokio::time::timeout(DEADLINE, info.wait_for(|info| info.state == state)).await;
        let Ok(reached) = reached else { panic!("{state:?} not reached: {:?}", self.info.borrow()) };
        reached.unwrap().clone()
    }

    pub async fn command(&self, request: Request) -> Outcome {
        let (reply, answer) = oneshot::channel();
        let device = DeviceId::new("boiler-7").unwrap();
        let deadline = Instant::now() + DEADLINE;
        self.commands.send(Command { device, request, deadline, reply }).await.unwrap();
        tokio::time::timeout(DEADLINE, answer).await.unwrap().unwrap()
    }

    /// Stops the driver, which must not take longer than a second.
    pub async fn stop(self) {
        let began = Instant::now();
        self.stop.cancel();
        tokio::time::timeout(DEADLINE, self.task).await.unwrap().unwrap();
        assert!(began.elapsed() < Duration::from_secs(1), "stopping took {:?}", began.elapsed());
    }
}
