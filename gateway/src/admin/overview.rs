//! Handles to every part of a running gateway, and the status made from them.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fieldgate_broker::Broker;
use fieldgate_certs::{ServerCertificate, life};
use fieldgate_protocol::LinkState;
use fieldgate_store::{Health, Queue};
use fieldgate_types::{Clock, Current, DeviceId, Pulse, UnixMillis, pulse};
use serde::{Deserialize, Serialize};

use crate::audit::Audit;
use crate::command::{Book, Router};
use crate::config::plan::Step;
use crate::console::Console;
use crate::console::charts::Charts;
use crate::identity::{Authority, Rights, Users, ending};
use crate::moment::date;
use crate::northbound::UpstreamHandle;
use crate::reload::Reload;
use crate::southbound::leaf::Refusals;
use crate::southbound::link::LinkHandle;
use crate::southbound::taps::Taps;
use crate::southbound::{Links, Presence};
use crate::upline::Upline;

/// Everything that can be asked. Held in an `Arc` by the API.
pub struct Overview {
    /// CA and registry.
    pub authority: Arc<Authority>,
    /// Rights of all.
    pub rights: Arc<Current<Rights>>,
    /// Who comes in with a password.
    pub users: Arc<Users>,
    /// The MQTT server.
    pub broker: Broker,
    /// The buffer.
    pub queue: Queue,
    /// Devices' states.
    pub presence: Arc<Presence>,
    /// Links to field devices.
    pub links: Arc<Links>,
    /// The upstream connection.
    pub upline: Upline,
    /// Commands.
    pub router: Router,
    /// Accepted commands.
    pub book: Arc<Book>,
    /// The certificate of every TLS listener.
    pub server_certificate: Arc<ServerCertificate>,
    /// Configured names of the server certificate.
    pub names: Arc<Current<Vec<String>>>,
    /// Where another configuration is asked for.
    pub reload: Reload,
    /// Counts of what leaves were refused.
    pub leaf: Arc<Refusals>,
    /// Counts of what was refused at the admin address.
    pub refused_requests: Arc<Refusals>,
    /// Of the task that looks after certificates and the like: whether it still turns.
    pub upkeep: Pulse,
    /// What devices send, for who looks at one.
    pub taps: Arc<Taps>,
    /// What the console remembers.
    pub console: Console,
    /// What the console's charts show.
    pub charts: Charts,
    /// The audit log.
    pub audit: Audit,
    /// Its folder.
    pub audit_folder: PathBuf,
    /// When this process began.
    pub started: UnixMillis,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Set once the listeners serve.
    pub serving: AtomicBool,
}

/// How the gateway is: `fieldgate status --json` and `GET /api/v1/status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// The gateway's id.
    pub gateway: DeviceId,
    /// Version of the program.
    pub version: String,
    /// When it started.
    pub started: UnixMillis,
    /// Its clock.
    pub now: UnixMillis,
    /// What is wrong, in words; empty when nothing is.
    pub problems: Vec<String>,
    /// The upstream; absent for a local-only gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Upstream>,
    /// The buffer.
    pub buffer: Buffer,
    /// The MQTT server.
    pub broker: Leaves,
    /// Links to field devices.
    pub links: Vec<Link>,
    /// Every device that is known.
    pub devices: Vec<Device>,
    /// Commands without an answer yet.
    pub open_commands: usize,
    /// When certificates end.
    pub certificates: Certificates,
    /// What of the configuration waits for the next start of the process.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<Step>,
}

/// The upstream connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Upstream {
    /// `connecting`, `up`, `down`
    pub state: String,
    /// Since when.
    pub since: UnixMillis,
    /// Why it was last lost, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Connections made.
    pub connects: u64,
    /// Messages sent, re-sends included.
    pub published: u64,
    /// Messages acknowledged.
    pub acknowledged: u64,
    /// Messages on the wire.
    pub in_flight: u64,
    /// Messages put aside because the upstream refuses them for good.
    pub quarantined: u64,
    /// Commands received.
    pub commands: u64,
}

/// The buffer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Buffer {
    /// Messages waiting.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Size of the file.
    pub file_bytes: u64,
    /// Hours that the whole buffer holds at the present rate of reception, an average over about an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds_hours: Option<f64>,
    /// Hours until it is full at that rate, should nothing leave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_hours: Option<f64>,
    /// A damaged buffer was set aside here, and what could be read was taken over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_aside: Option<PathBuf>,
    /// Time of the oldest.
    pub oldest: Option<UnixMillis>,
    /// Whether it takes messages; when not, nothing is acknowledged.
    pub healthy: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The MQTT server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Leaves {
    /// Where it listens, with certificates.
    pub listen: Vec<String>,
    /// With passwords over TLS.
    #[serde(default)]
    pub users_tls: Vec<String>,
    /// With passwords, without TLS.
    #[serde(default)]
    pub plain: Vec<String>,
    /// WebSocket, with certificates.
    #[serde(default)]
    pub websocket: Vec<String>,
    /// Connections now.
    pub connections: u64,
    /// Connections refused so far.
    pub refused: u64,
}

/// A link.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Link {
    /// Its URL.
    pub link: String,
    /// `modbus`, `opcua`
    pub protocol: String,
    /// `connecting`, `up`, `down`, `refused`
    pub state: String,
    /// Why it was last down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Connections made.
    pub connects: u64,
    /// Requests answered.
    pub answers: u64,
    /// Requests failed.
    pub failures: u64,
    /// Polls that began late.
    pub overruns: u64,
    /// What the far side does otherwise than it was asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Device {
    /// Its id.
    pub id: DeviceId,
    /// `mqtt`, `modbus`, `opcua`
    pub via: String,
    /// Whether it is connected, or answers.
    pub online: bool,
    /// Since when; absent when it was never heard of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<UnixMillis>,
    /// Why it is offline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// When certificates end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Certificates {
    /// Of the listeners.
    pub server_not_after: UnixMillis,
    /// Of the CA that issues.
    pub issuing_not_after: UnixMillis,
}

/// What kind of loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoopKind {
    /// Accepts leaf devices.
    Broker,
    /// Writes the queue.
    Store,
    /// Holds the upstream connection.
    Upstream,
    /// A link to field devices, or its driver.
    Link,
    /// Looks after certificates.
    Upkeep,
    /// Reads the figures of the charts.
    Sampler,
}

impl LoopKind {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Broker, Self::Store, Self::Upstream, Self::Link, Self::Upkeep, Self::Sampler];

    /// Word for labels.
    pub fn word(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::Store => "store",
            Self::Upstream => "upstream",
            Self::Link => "link",
            Self::Upkeep => "upkeep",
            Self::Sampler => "sampler",
        }
    }
}

impl Overview {
    /// Whether the listeners serve and the store accepts.
    pub fn ready(&self) -> Result<(), String> {
        if !self.serving.load(Ordering::Acquire) {
            return Err("starting".to_owned());
        }
        self.healthy()
    }

    /// The loops that hang: their kind, from a closed set, and in words which and for how long.
    pub fn stuck(&self) -> Vec<(LoopKind, String)> {
        let mut stuck = Vec::new();
        let mut judge = |kind: LoopKind, name: &str, pulse: &Pulse| {
            if let Some(late) = pulse.overdue() {
                stuck.push((kind, format!("{name} has made no turn for {} s", (late + pulse::TURN).as_secs())));
            }
        };
        for (place, pulse) in self.broker.pulses().iter().enumerate() {
            judge(LoopKind::Broker, &format!("the broker's listener {}", place + 1), pulse);
        }
        judge(LoopKind::Store, "the store's writer", self.queue.pulse());
        if let Some(upstream) = self.upline.handle().as_ref() {
            judge(LoopKind::Upstream, "the upstream session", upstream.pulse());
        }
        for (_, link) in self.links.all().iter() {
            for (what, pulse) in ["the link", "the driver of"].into_iter().zip(&link.pulses) {
                judge(LoopKind::Link, &format!("{what} {}", link.name), pulse);
            }
        }
        judge(LoopKind::Upkeep, "the upkeep of certificates", &self.upkeep);
        judge(LoopKind::Sampler, "the sampler of the charts", &self.charts.pulse);
        stuck
    }

    /// Whether every loop turns and the store accepts.
    pub fn healthy(&self) -> Result<(), String> {
        let stuck: Vec<String> = self.stuck().into_iter().map(|(_, words)| words).collect();
        if !stuck.is_empty() {
            return Err(stuck.join("; "));
        }
        match self.queue.stats().health {
            Health::Ok => Ok(()),
            Health::Refusing { reason, .. } => Err(format!("the store refuses: {reason}")),
        }
    }

    /// The status now.
    pub fn status(&self) -> Status {
        Status { devices: self.devices(), ..self.brief() }
    }

    /// The status now, without devices.
    pub fn brief(&self) -> Status {
        let buffer = self.buffer();
        let upstream = self.upline.handle().as_ref().map(upstream);
        let links: Vec<Link> = self.links.all().iter().map(|(_, handle)| link(handle)).collect();
        let mut problems = Vec::new();
        if let Some(kept) = &buffer.set_aside {
            let kept = kept.display();
            problems.push(format!(
                "the buffer was damaged: its file is kept as `{kept}`, what could be read was taken over"
            ));
        }
        if let Some(reason) = &buffer.reason {
            problems.push(format!("the buffer takes no messages, so nothing is acknowledged: {reason}"));
        }
        if let Some(upstream) = upstream.as_ref().filter(|upstream| upstream.state != "up") {
            let why = upstream.last_error.as_deref().unwrap_or("not connected yet");
            problems.push(format!("the upstream is not connected: {why}"));
        }
        for link in links.iter().filter(|link| link.state != "up") {
            let why = link.last_error.as_deref().unwrap_or("not connected yet");
            problems.push(format!("{} is {}: {why}", link.link, link.state));
        }
        problems
            .extend(self.stuck().into_iter().map(|(_, words)| format!("{words}: restart the gateway, and report it")));
        if !self.clock.plausible() {
            problems.push("the clock is earlier than this program; time stamps are marked until it is set".to_owned());
        }
        problems.extend(ending::problems(&self.authority));
        let server = self.server_certificate.life();
        if server.past(life::WARN, self.authority.ca.time().now()) {
            problems.push(format!(
                "the server certificate ends at {}, the log says why it is not replaced",
                date(server.not_after)
            ));
        }
        let (metrics, addresses) = (self.broker.metrics(), self.broker.addresses());
        Status {
            gateway: self.authority.gateway.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started,
            now: self.clock.now(),
            problems,
            upstream,
            buffer,
            broker: Leaves {
                listen: texts(&addresses.listen),
                users_tls: texts(&addresses.users_tls),
                plain: texts(&addresses.plain),
                websocket: texts(&addresses.websocket),
                connections: metrics.connections,
                refused: self.leaf.refused(),
            },
            links,
            devices: Vec::new(),
            open_commands: self.book.open_count(),
            certificates: Certificates {
                server_not_after: self.server_certificate.not_after(),
                issuing_not_after: self.authority.ca.issuing_not_after(),
            },
            waiting: Vec::clone(&self.reload.waiting()),
        }
    }

    /// The buffer now.
    pub fn buffer(&self) -> Buffer {
        let stats = self.queue.stats();
        let reason = match stats.health {
            Health::Ok => None,
            Health::Refusing { reason, .. } => Some(reason),
        };
        Buffer {
            messages: stats.messages,
            bytes: stats.bytes,
            file_bytes: stats.file_bytes,
            holds_hours: stats.holds.map(hours),
            left_hours: stats.left.map(hours),
            set_aside: stats.set_aside,
            oldest: stats.oldest,
            healthy: reason.is_none(),
            reason,
        }
    }

    /// Every device that is known.
    pub fn devices(&self) -> Vec<Device> {
        let connected: HashSet<Arc<str>> = self.broker.connections().into_iter().map(|client| client.id).collect();
        let leaves = self.authority.registry.devices().into_iter().map(|entry| {
            let revoked = entry.revoked.map(|_| "revoked".to_owned());
            // Asked of the broker: programs have no presence, and a device's may not be told yet.
            let online = connected.contains(entry.id.as_str());
            Device { online, ..self.device(entry.id, "mqtt", revoked) }
        });
        let links = self.links.all();
        let field =
            links.iter().flat_map(|(_, link)| link.devices.iter().map(|device| (device.id.clone(), link.protocol)));
        leaves.chain(field.map(|(id, via)| self.device(id, via, None))).collect()
    }

    /// One device, if it is known.
    pub fn device_state(&self, id: &DeviceId) -> Option<Device> {
        if let Some(entry) = self.authority.registry.device(id) {
            let revoked = entry.revoked.map(|_| "revoked".to_owned());
            let online = self.broker.is_connected(id.as_str());
            return Some(Device { online, ..self.device(id.clone(), "mqtt", revoked) });
        }
        let links = self.links.all();
        let link = links.iter().find(|(_, link)| link.devices.iter().any(|device| device.id == *id));
        link.map(|(_, link)| self.device(id.clone(), link.protocol, None))
    }

    fn device(&self, id: DeviceId, via: &str, revoked: Option<String>) -> Device {
        let state = self.presence.get(&id);
        Device {
            online: state.as_ref().is_some_and(|state| state.online),
            since: state.as_ref().map(|state| state.since),
            reason: revoked.or_else(|| state.and_then(|state| state.reason)),
            via: via.to_owned(),
            id,
        }
    }
}

fn texts(addresses: &[SocketAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

fn upstream(handle: &UpstreamHandle) -> Upstream {
    let status = handle.status();
    Upstream {
        state: status.state.as_str().to_owned(),
        since: status.since,
        last_error: status.last_error,
        connects: status.connects,
        published: status.published,
        acknowledged: status.acknowledged,
        in_flight: status.in_flight as u64,
        quarantined: status.quarantined,
        commands: status.commands,
    }
}

fn link(handle: &LinkHandle) -> Link {
    let info = handle.state.borrow().clone();
    let state = match info.state {
        LinkState::Connecting => "connecting",
        LinkState::Up => "up",
        LinkState::Down => "down",
        LinkState::Refused => "refused",
    };
    Link {
        link: handle.name.clone(),
        protocol: handle.protocol.to_owned(),
        state: state.to_owned(),
        last_error: info.last_error,
        connects: info.connects,
        answers: info.answers,
        failures: info.failures,
        overruns: info.overruns,
        notes: info.notes.clone(),
    }
}

/// Hours, to a tenth.
fn hours(duration: std::time::Duration) -> f64 {
    (duration.as_secs_f64() / 360.0).round() / 10.0
}
