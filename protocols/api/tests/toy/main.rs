//! A third protocol, whole: `toy` is its folder. What is in it is what a driver is made of, see protocols/README.md.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // a test

mod device;
mod toy;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fieldgate_protocol::{Command, Driver, LinkInfo, LinkState, Outcome, PointName, Quality, Request, Status};
use fieldgate_protocol::{Tasks, Update, Uplink, Value};
use fieldgate_types::{DeviceId, Pulse, Sources, SystemClock};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use device::Device;
use toy::{Toy, ToyConfig};

/// What the gateway holds of a running driver.
struct Running {
    updates: mpsc::Receiver<Update>,
    commands: mpsc::Sender<Command>,
    state: watch::Receiver<LinkInfo>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn start(mut driver: impl Driver) -> Running {
    let (uplink, updates) = mpsc::channel(16);
    let (commands, receiver) = mpsc::channel(4);
    let (state, watched) = watch::channel(LinkInfo::default());
    let stop = CancellationToken::new();
    let tasks = Tasks {
        uplink: Uplink::new(uplink),
        commands: receiver,
        state,
        clock: Arc::new(SystemClock::new()),
        pulse: Pulse::new(Arc::new(SystemClock::new())),
        stop: stop.clone(),
    };
    let task = tokio::spawn(async move { driver.run(tasks).await });
    Running { updates, commands, state: watched, stop, task }
}

impl Running {
    async fn next(&mut self) -> Update {
        tokio::time::timeout(Duration::from_secs(10), self.updates.recv()).await.expect("an update").unwrap()
    }

    /// The value of `level` in the next samples.
    async fn level(&mut self) -> (Option<Value>, Quality) {
        loop {
            if let Update::Samples { samples, .. } = self.next().await {
                let sample = samples.into_iter().find(|sample| sample.point.as_str() == "level").unwrap();
                return (sample.value, sample.quality);
            }
        }
    }

    async fn ask(&self, request: Request) -> Outcome {
        let (reply, answer) = oneshot::channel();
        let deadline = Instant::now() + Duration::from_secs(5);
        self.commands.send(Command { device: id(), request, deadline, reply }).await.unwrap();
        answer.await.unwrap()
    }
}

fn id() -> DeviceId {
    DeviceId::new("tank-1").unwrap()
}

fn name(text: &str) -> PointName {
    PointName::new(text).unwrap()
}

fn config(address: &str) -> ToyConfig {
    let text = format!(
        "address = \"{address}\"\nid = \"tank-1\"\ninterval = \"20ms\"\n[[point]]\nname = \"level\"\naccess = \"rw\"\n\
         [[point]]\nname = \"gone\"\n"
    );
    let sources = Sources::new(Box::new(|_| Err(std::io::Error::other("none"))));
    let read = ToyConfig::read(&sources.root("gateway.toml", Path::new("."), &text));
    assert_eq!(sources.problems(), []);
    read.unwrap()
}

#[tokio::test]
async fn it_reads_writes_loses_the_device_finds_it_again_and_stops() {
    let mut device = Device::start("127.0.0.1:0", 21.5).await;
    let mut running = start(Toy::new(config(&device.address)));
    assert_eq!(running.next().await, Update::Online { device: id() });
    assert_eq!(running.level().await, (Some(Value::Float(21.5)), Quality::GOOD));
    assert_eq!(running.state.borrow().state, LinkState::Up);

    let written = running.ask(Request::Write { point: name("level"), value: Value::Float(30.0) }).await;
    assert_eq!((written.status, written.value), (Status::Ok, Some(30.0.into())));
    let read = running.ask(Request::Read { points: vec![name("level"), name("gone")] }).await;
    assert_eq!(read.value, Some(serde_json::json!({ "level": 30.0, "gone": null })));

    let address = device.address.clone();
    device.stop().await;
    let offline = loop {
        if let Update::Offline { device, reason } = running.next().await {
            break (device, reason);
        }
    };
    assert_eq!(offline.0, id());
    assert!(!offline.1.is_empty());
    let refused = running.ask(Request::Read { points: vec![name("level")] }).await;
    assert_eq!(refused.status, Status::Failed);

    let _again = Device::start(&address, 7.0).await;
    loop {
        if running.next().await == (Update::Online { device: id() }) {
            break;
        }
    }
    assert_eq!(running.level().await.0, Some(Value::Float(7.0)));
    running.stop.cancel();
    tokio::time::timeout(Duration::from_secs(1), running.task).await.expect("it returns within a second").unwrap();
}

#[tokio::test]
async fn points_that_it_finds_are_told_before_their_values_and_keep_their_places_over_a_reconnect() {
    let mut device = Device::start("127.0.0.1:0", 21.5).await;
    let mut config = config(&device.address);
    config.find = true;
    let toy = Toy::new(config);
    assert!(toy.devices()[0].grows);
    let mut running = start(toy);
    let address = device.address.clone();
    for _connection in 0..2 {
        let points = loop {
            match running.next().await {
                Update::Points { points, .. } => break points,
                Update::Samples { samples, .. } => {
                    assert!(samples.len() == 4, "before they were told: {samples:?}");
                }
                _ => {}
            }
        };
        let names: Vec<&str> = points.iter().map(|point| point.name.as_str()).collect();
        assert_eq!(names, ["level", "gone", "speed", "pressure"]);
        loop {
            if let Update::Samples { samples, .. } = running.next().await {
                assert_eq!(samples[3].value, Some(Value::Float(8.0)), "{samples:?}");
                break;
            }
        }
        device.stop().await;
        device = Device::start(&address, 7.0).await;
    }
    running.stop.cancel();
    tokio::time::timeout(Duration::from_secs(1), running.task).await.expect("it returns within a second").unwrap();
}

#[test]
fn what_is_wrong_in_its_configuration_is_located() {
    let sources = Sources::new(Box::new(|_| Err(std::io::Error::other("none"))));
    let text = "address = \"here\"\nid = \"tank-1\"\ninterval = \"1ms\"\n";
    assert!(ToyConfig::read(&sources.root("gateway.toml", Path::new("."), text)).is_none());
    let problems: Vec<String> = sources.problems().iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].contains("gateway.toml:1") && problems[1].contains("gateway.toml:3"), "{problems:?}");
}
