//! The driver: a device that is asked in lines of text over TCP.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use fieldgate_protocol::{
    Access, Command, Driver, FieldDevice, LinkInfo, LinkState, Outcome, Point, PointName, Quality, Report, Request,
    Sample, Status, Tasks, Update, Value,
};
use fieldgate_types::{Backoff, DeviceId, Section};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::MissedTickBehavior;

/// For connecting, and for each answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// `[[toy]]`: one link with one device.
#[derive(Debug, Clone)]
pub struct ToyConfig {
    address: SocketAddr,
    id: DeviceId,
    interval: Duration,
    points: Vec<Arc<Point>>,
    /// Whether the device is asked for what else it has.
    pub find: bool,
}

impl ToyConfig {
    /// Reads the section; what is wrong in it is noted there, with its place.
    pub fn read(section: &Section) -> Option<Self> {
        let address = section.required_with("address", |value| value.parse("host:port", str::parse));
        let id = section.required("id");
        let second = Duration::from_secs(1);
        let interval = section.duration("interval", second / 100..=second * 3600, second);
        let points = section.sections("point");
        let points = points.iter().filter_map(|point| Point::read(point, &Report::default()).map(Arc::new)).collect();
        let find = section.get_or("find", false);
        Some(Self { address: address?, id: id?, interval, points, find })
    }
}

/// See the module.
#[derive(Debug)]
pub struct Toy {
    config: ToyConfig,
}

impl Toy {
    pub fn new(config: ToyConfig) -> Self {
        Self { config }
    }

    /// Until the connection fails, with the reason.
    async fn serve(&mut self, tasks: &mut Tasks, info: &mut LinkInfo) -> std::io::Result<()> {
        let connecting = TcpStream::connect(self.config.address);
        let mut device = BufReader::new(within(connecting).await?);
        if self.config.find {
            self.find(&mut device).await?;
            let points = self.config.points.clone();
            tasks.uplink.send(Update::Points { device: self.config.id.clone(), points }).await;
        }
        info.connects += 1;
        info.state = LinkState::Up;
        tasks.state.send_replace(info.clone());
        let mut online = false;
        let mut polls = tokio::time::interval(self.config.interval);
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = polls.tick() => {
                    let samples = self.poll(&mut device, tasks, info).await?;
                    if !online {
                        online = true;
                        tasks.uplink.send(Update::Online { device: self.config.id.clone() }).await;
                    }
                    // Waits while the gateway has no room.
                    tasks.uplink.send(Update::Samples { device: self.config.id.clone(), samples }).await;
                }
                Some(command) = tasks.commands.recv() => execute(&mut device, command).await?,
            }
        }
    }

    /// Points for what the device has and nobody has configured: behind those that are known, which keep their places.
    async fn find(&mut self, device: &mut BufReader<TcpStream>) -> std::io::Result<()> {
        for name in ask(device, "LIST").await?.split(' ').filter_map(|name| PointName::new(name).ok()) {
            if self.config.points.iter().all(|point| point.name != name) {
                let (unit, description, kind, range) = (None, None, None, None);
                let (access, report) = (Access::Read, Report::default());
                self.config.points.push(Arc::new(Point { name, unit, description, kind, access, range, report }));
            }
        }
        Ok(())
    }

    async fn poll(
        &self,
        device: &mut BufReader<TcpStream>,
        tasks: &Tasks,
        info: &mut LinkInfo,
    ) -> std::io::Result<Vec<Sample>> {
        let mut samples = Vec::new();
        for point in &self.config.points {
            let value = get(device, &point.name).await?;
            info.answers += 1;
            let received = tasks.clock.now();
            samples.push(match value {
                Some(value) => Sample {
                    point: point.name.clone(),
                    value: Some(value),
                    quality: Quality::GOOD,
                    source_time: None,
                    received,
                },
                None => Sample::bad(point.name.clone(), Quality::BAD_NODE_ID_UNKNOWN, received),
            });
        }
        tasks.state.send_replace(info.clone());
        Ok(samples)
    }
}

impl Driver for Toy {
    fn protocol(&self) -> &'static str {
        "toy"
    }

    fn link(&self) -> String {
        format!("toy://{}", self.config.address)
    }

    fn devices(&self) -> Vec<FieldDevice> {
        let ToyConfig { id, points, find, .. } = self.config.clone();
        vec![FieldDevice { id, points, methods: Vec::new(), grows: find }]
    }

    fn run<'a>(&'a mut self, mut tasks: Tasks) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            let mut backoff = Backoff::field_link();
            let mut info = LinkInfo::default();
            let stop = tasks.stop.clone();
            loop {
                let connects = info.connects;
                let ended = stop.run_until_cancelled(self.serve(&mut tasks, &mut info)).await;
                let Some(Err(error)) = ended else { return };
                if info.connects > connects {
                    backoff.reset();
                    let device = self.config.id.clone();
                    tasks.uplink.send(Update::Offline { device, reason: error.to_string() }).await;
                }
                info.failures += 1;
                (info.state, info.last_error) = (LinkState::Down, Some(error.to_string()));
                tasks.state.send_replace(info.clone());
                let wait = tokio::time::sleep(backoff.next_wait());
                tokio::pin!(wait);
                loop {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = &mut wait => break,
                        Some(command) = tasks.commands.recv() => {
                            let outcome = Outcome::not(Status::Failed, "the device is not connected");
                            // Whoever asked may have gone.
                            drop(command.reply.send(outcome));
                        }
                    }
                }
            }
        })
    }
}

/// Carries a command out and answers it. A time-out is an answer too, and ends the connection: what comes later belongs to
/// nothing.
async fn execute(device: &mut BufReader<TcpStream>, command: Command) -> std::io::Result<()> {
    let done = match &command.request {
        Request::Write { point, value } => write(device, point, value).await,
        Request::Read { points } => read(device, points).await,
        Request::Call { .. } => Ok(Outcome::not(Status::Rejected, "this device has no methods")),
    };
    let (outcome, result) = match done {
        Ok(outcome) => (outcome, Ok(())),
        Err(error) => (Outcome::not(Status::Timeout, error.to_string()), Err(error)),
    };
    drop(command.reply.send(outcome));
    result
}

/// Writes, then reads back.
async fn write(device: &mut BufReader<TcpStream>, point: &PointName, value: &Value) -> std::io::Result<Outcome> {
    let Some(number) = value.as_f64() else { return Ok(Outcome::not(Status::Rejected, "a number is needed")) };
    if ask(device, &format!("SET {point} {number}")).await? != "OK" {
        return Ok(Outcome::not(Status::Failed, "the device refuses"));
    }
    let now = get(device, point).await?;
    Ok(Outcome::ok(now.as_ref().and_then(Value::to_json)))
}

async fn read(device: &mut BufReader<TcpStream>, points: &[PointName]) -> std::io::Result<Outcome> {
    let mut values = serde_json::Map::new();
    for point in points {
        let value = get(device, point).await?.as_ref().and_then(Value::to_json);
        values.insert(point.to_string(), value.unwrap_or_default());
    }
    Ok(Outcome::ok(Some(values.into())))
}

/// `None`: the device has no such point.
async fn get(device: &mut BufReader<TcpStream>, point: &PointName) -> std::io::Result<Option<Value>> {
    Ok(ask(device, &format!("GET {point}")).await?.parse().ok().map(Value::Float))
}

async fn ask(device: &mut BufReader<TcpStream>, line: &str) -> std::io::Result<String> {
    within(async {
        device.write_all(format!("{line}\n").as_bytes()).await?;
        let mut answer = String::new();
        if device.read_line(&mut answer).await? == 0 {
            return Err(std::io::Error::other("closed by the device"));
        }
        Ok(answer.trim_end().to_owned())
    })
    .await
}

async fn within<T>(work: impl Future<Output = std::io::Result<T>>) -> std::io::Result<T> {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(std::io::Error::other("no answer in time")))
}
