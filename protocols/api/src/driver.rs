//! The contract between a driver and the gateway.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use fieldgate_types::{Clock, DeviceId, Pulse, UnixMillis};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{Command, Event, Point, PointName, Reading, Sample};

/// A field device as its driver declares it, before anything is connected.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldDevice {
    /// Its identity on the gateway.
    pub id: DeviceId,
    /// Its points, in the order of the configuration; shared, since there may be tens of thousands.
    pub points: Vec<Arc<Point>>,
    /// The methods that may be called; protocols without any have none.
    pub methods: Vec<PointName>,
    /// Whether the driver finds further points once it is connected, and tells them with [`Update::Points`].
    pub grows: bool,
}

impl FieldDevice {
    /// The point of this name.
    pub fn point(&self, name: &PointName) -> Option<&Point> {
        self.points.iter().map(Arc::as_ref).find(|point| point.name == *name)
    }
}

/// One link and the devices on it. A future protocol is one more implementation.
pub trait Driver: fmt::Debug + Send + 'static {
    /// `"modbus"`, `"opcua"`: the `via` of its devices' state.
    fn protocol(&self) -> &'static str;
    /// What the link is called in logs and in `status`: its URL, without any password.
    fn link(&self) -> String;
    /// The devices on it.
    fn devices(&self) -> Vec<FieldDevice>;
    /// Whether it hands over changes alone, because the device tells them (a subscription): then the gateway repeats
    /// the value that still holds at each heartbeat. A driver that polls has a fresh reading for that.
    fn subscribes(&self) -> bool {
        false
    }
    /// Runs until `tasks.stop` is cancelled. Connects, reconnects with back-off, polls, serves commands; never
    /// ends because of what a device did. A panic or an early return makes the supervisor start a fresh one,
    /// which is why `self` is borrowed.
    fn run<'a>(&'a mut self, tasks: Tasks) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
}

/// What a running driver is given.
#[derive(Debug)]
pub struct Tasks {
    /// Where samples and presence go.
    pub uplink: Uplink,
    /// Commands for the devices of this link. Bounded; the router answers `failed` when it is full.
    pub commands: mpsc::Receiver<Command>,
    /// How the link is, for `status` and metrics.
    pub state: watch::Sender<LinkInfo>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// To be stamped at each turn of the driver's loop: one that hangs is found by it, and named.
    pub pulse: Pulse,
    /// Cancelled when the gateway stops: close the connection and return within a second.
    pub stop: CancellationToken,
}

/// What a driver tells the gateway.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    /// The points of a device that [grows](FieldDevice::grows), all of them: at least once after each connect, before
    /// any value of those that are new. What is told by name or place from here on is about this list. The driver
    /// keeps a point that it has told, under the same name, for as long as it runs: one that is gone is bad.
    Points {
        /// Which.
        device: DeviceId,
        /// Those that it declared before first, in the same order; then what was found since.
        points: Vec<Arc<Point>>,
    },
    /// The device answers. Sent before its first samples after a start or reconnect.
    Online {
        /// Which.
        device: DeviceId,
    },
    /// The device stopped answering. The gateway reports every point as bad with this quality's name.
    Offline {
        /// Which.
        device: DeviceId,
        /// Why, for people: short, lower case.
        reason: String,
    },
    /// Readings of one device, in the order in which they arose. One batch per poll or notification.
    Samples {
        /// Which.
        device: DeviceId,
        /// The readings, at least one.
        samples: Vec<Sample>,
    },
    /// Readings of one device that is polled, in the order in which they arose. One batch per poll.
    Readings {
        /// Which.
        device: DeviceId,
        /// When the newest was received.
        received: UnixMillis,
        /// The readings, at least one.
        readings: Vec<Reading>,
    },
    /// Readings from the time when the device was away, which it has kept: of each point in their order, and all before
    /// the next of [`Update::Samples`] of that point.
    History {
        /// Which.
        device: DeviceId,
        /// The readings, at least one.
        samples: Vec<Sample>,
    },
    /// Events of one device, in their order.
    Events {
        /// Which.
        device: DeviceId,
        /// The events, at least one.
        events: Vec<Event>,
    },
}

/// The way up. Bounded: when the gateway can't take more (disk refuses, queue full) the driver waits here, and
/// polls less often; what it then reads is fresh, so nothing is lost that was ever had.
#[derive(Debug, Clone)]
pub struct Uplink(mpsc::Sender<Update>);

impl Uplink {
    /// Sends into `channel`.
    pub fn new(channel: mpsc::Sender<Update>) -> Self {
        Self(channel)
    }

    /// Hands an update over, waiting for room. `false` when the gateway has stopped listening: return from `run`.
    pub async fn send(&self, update: Update) -> bool {
        self.0.send(update).await.is_ok()
    }

    /// As [`Uplink::send`] from a synchronous callback: `false` when there is no room now or nobody listens.
    pub fn try_send(&self, update: Update) -> bool {
        self.0.try_send(update).is_ok()
    }
}

/// How a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// Not tried yet, or trying.
    Connecting,
    /// Up.
    Up,
    /// Down; trying again after a while.
    Down,
    /// Down in a way that trying again can't mend (certificate refused, wrong password): tried seldom.
    Refused,
}

/// How a link is, with figures.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkInfo {
    /// How it is.
    pub state: LinkState,
    /// The last reason for being down, in words; kept while up until the next.
    pub last_error: Option<String>,
    /// Connections made so far.
    pub connects: u64,
    /// Requests (or notifications) answered.
    pub answers: u64,
    /// Requests that failed: time-outs, exceptions, bad frames.
    pub failures: u64,
    /// How long all those answers took together; zero where nothing is asked for each.
    pub response: Duration,
    /// Polls that began late because the one before had not ended.
    pub overruns: u64,
    /// What the far side does otherwise than it was asked, in words; since the last connect.
    pub notes: Vec<String>,
}

impl Default for LinkInfo {
    fn default() -> Self {
        Self {
            state: LinkState::Connecting,
            last_error: None,
            connects: 0,
            answers: 0,
            failures: 0,
            response: Duration::ZERO,
            overruns: 0,
            notes: Vec::new(),
        }
    }
}
