//! One `[[opcua]]` table: a session, its devices and their points (DESIGN section 6).
//!
//! Owns the keys, their defaults and limits. Reads no file but through the section: a password is read when the
//! session starts.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fieldgate_protocol::{FieldDevice, Point, PointName, Report};
use fieldgate_types::{DeviceId, Section};
use opcua::crypto::SecurityPolicy;
use opcua::types::MessageSecurityMode;

use crate::endpoint::Endpoint;
use crate::event::{self, EventConfig};
use crate::filter::Filter;
use crate::node::NodeName;
use crate::rhythm::{Rhythm, unsubscribed};
use crate::subtree::SubtreeConfig;

/// One session with one server.
#[derive(Debug, Clone, PartialEq)]
pub struct OpcuaConfig {
    /// Where the server is.
    pub endpoint: Endpoint,
    /// How messages are protected.
    pub security: Security,
    /// Who logs in; nobody in particular when absent.
    pub user: Option<User>,
    /// Which server certificates are accepted.
    pub trust: Trust,
    /// The devices that the server stands for.
    pub devices: Vec<DeviceConfig>,
}

/// How messages are protected: a policy with its mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// Not at all.
    None,
    /// By certificates.
    Policy {
        /// The algorithms.
        policy: Policy,
        /// Whether messages are encrypted too.
        mode: Mode,
    },
}

/// The sets of algorithms that are still considered safe (OPC 10000-7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// `Basic256Sha256`
    Basic256Sha256,
    /// `Aes128-Sha256-RsaOaep`
    Aes128Sha256RsaOaep,
    /// `Aes256-Sha256-RsaPss`
    Aes256Sha256RsaPss,
}

/// What is done to each message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Signed, readable on the way.
    Sign,
    /// Signed and encrypted.
    SignAndEncrypt,
}

impl Security {
    /// The library's name of it. Never made from text: `SecurityPolicy::from_str` takes any and panics later.
    pub(crate) fn policy(self) -> SecurityPolicy {
        match self {
            Self::None => SecurityPolicy::None,
            Self::Policy { policy: Policy::Basic256Sha256, .. } => SecurityPolicy::Basic256Sha256,
            Self::Policy { policy: Policy::Aes128Sha256RsaOaep, .. } => SecurityPolicy::Aes128Sha256RsaOaep,
            Self::Policy { policy: Policy::Aes256Sha256RsaPss, .. } => SecurityPolicy::Aes256Sha256RsaPss,
        }
    }

    pub(crate) fn mode(self) -> MessageSecurityMode {
        match self {
            Self::None => MessageSecurityMode::None,
            Self::Policy { mode: Mode::Sign, .. } => MessageSecurityMode::Sign,
            Self::Policy { mode: Mode::SignAndEncrypt, .. } => MessageSecurityMode::SignAndEncrypt,
        }
    }
}

/// Which server certificates are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Those that lie in `trusted/`.
    Strict,
    /// The first one seen on this endpoint as well, which is pinned.
    FirstUse,
}

/// A user of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// With a password.
    Password {
        /// Its name.
        name: String,
        /// The file that holds its password.
        file: PathBuf,
    },
    /// With a certificate of its own, other than that of the application.
    Certificate {
        /// The certificate, DER or PEM.
        cert: PathBuf,
        /// Its key, PEM.
        key: PathBuf,
    },
}

/// A device: a set of nodes published in one rhythm, by one subscription; or polled.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceConfig {
    /// Its identity on the gateway.
    pub id: DeviceId,
    /// How often the server sends what has changed.
    pub publishing: Duration,
    /// Read at this interval instead of subscribed to, for servers whose subscriptions are of no use.
    pub poll: Option<Duration>,
    /// Its points.
    pub points: Vec<PointConfig>,
    /// Whose variables become points, too.
    pub subtrees: Vec<SubtreeConfig>,
    /// What may be called.
    pub methods: Vec<MethodConfig>,
    /// Whose events are told.
    pub events: Vec<EventConfig>,
}

/// A method that may be called.
#[derive(Debug, Clone, PartialEq)]
pub struct MethodConfig {
    /// What commands call it.
    pub name: PointName,
    /// The method on the server.
    pub node: NodeName,
    /// The object that it is called on.
    pub object: NodeName,
}

/// A point and its node.
#[derive(Debug, Clone, PartialEq)]
pub struct PointConfig {
    /// What the gateway knows of it.
    pub point: Arc<Point>,
    /// Where it is on the server.
    pub node: NodeName,
    /// How often the server looks at its value.
    pub sampling: Duration,
    /// How many changes the server keeps between two publications.
    pub queue: u32,
    /// Whether what happened during an outage is read from the server's history.
    pub history: bool,
    /// What the server shall tell.
    pub filter: Filter,
    /// The point of the device with which it is told, and not by itself.
    pub triggered_by: Option<PointName>,
    /// Where it was found; absent where it is configured.
    pub origin: Option<Origin>,
}

/// Where a point was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The place of the subtree in its device.
    pub subtree: usize,
    /// Whether its name was taken, so that it got a number.
    pub numbered: bool,
}

const PUBLISHING: (Duration, Duration) = (Duration::from_millis(10), Duration::from_mins(1));
const POLL: (Duration, Duration) = (Duration::from_millis(10), Duration::from_hours(24));

impl DeviceConfig {
    /// Its points as the gateway sees them.
    pub(crate) fn declared(&self) -> Vec<Arc<Point>> {
        self.points.iter().map(|point| Arc::clone(&point.point)).collect()
    }

    /// Whether commands may acknowledge alarms.
    pub(crate) fn acknowledges(&self) -> bool {
        self.events.iter().any(|event| event.acknowledge)
    }

    /// The method that does it, besides those of the configuration.
    fn acknowledge(&self) -> Option<PointName> {
        PointName::new(event::ACKNOWLEDGE).ok().filter(|_| self.acknowledges())
    }
}

impl OpcuaConfig {
    /// Reads one `[[opcua]]`. What is wrong is noted in the section's sources; `None` when too little is right.
    pub fn read(section: &Section) -> Option<Self> {
        let endpoint = section.required_with("endpoint", |value| value.parse("an OPC UA endpoint", str::parse));
        let security = read_security(section);
        let user = section.section("auth").map(|auth| read_user(&auth));
        let trust =
            section.choice("trust", &[("strict", Trust::Strict), ("first-use", Trust::FirstUse)], Trust::Strict);
        let mut ids = BTreeSet::new();
        let mut devices = Vec::new();
        let sections = section.sections("device");
        if sections.is_empty() {
            section.problem("device", "is missing, a session needs at least one [[opcua.device]]");
        }
        for device in sections {
            let Some(read) = read_device(&device) else { continue };
            if ids.insert(read.id.clone()) {
                devices.push(read);
            } else {
                device.problem("id", format_args!("`{}` is used twice, each device needs its own", read.id));
            }
        }
        let user = match user {
            Some(None) => return None,
            Some(user) => user,
            None => None,
        };
        Some(Self { endpoint: endpoint?, security: security?, user, trust, devices })
    }

    /// A session without security, login and devices, for looking at a server that isn't configured.
    pub fn bare(endpoint: Endpoint) -> Self {
        Self { endpoint, security: Security::None, user: None, trust: Trust::Strict, devices: Vec::new() }
    }

    /// The devices as the gateway sees them.
    pub fn field_devices(&self) -> Vec<FieldDevice> {
        let field_device = |device: &DeviceConfig| FieldDevice {
            id: device.id.clone(),
            points: device.declared(),
            methods: device.methods.iter().map(|method| method.name.clone()).chain(device.acknowledge()).collect(),
            grows: !device.subtrees.is_empty(),
        };
        self.devices.iter().map(field_device).collect()
    }
}

fn read_security(section: &Section) -> Option<Security> {
    let policies = [
        ("None", None),
        ("Basic256Sha256", Some(Policy::Basic256Sha256)),
        ("Aes128-Sha256-RsaOaep", Some(Policy::Aes128Sha256RsaOaep)),
        ("Aes256-Sha256-RsaPss", Some(Policy::Aes256Sha256RsaPss)),
    ];
    let modes = [("Sign", Mode::Sign), ("SignAndEncrypt", Mode::SignAndEncrypt)];
    // The safe one, and the one that nearly every server has.
    let policy = if section.has("security") {
        section.optional_choice("security", &policies)
    } else {
        Some(Some(Policy::Basic256Sha256))
    };
    let mode = section.optional_choice("mode", &modes);
    if policy == Some(None) && section.has("mode") {
        section.problem("mode", "has no meaning with security = \"None\", leave it out");
    }
    Some(match policy? {
        None => Security::None,
        Some(policy) => Security::Policy { policy, mode: mode.unwrap_or(Mode::SignAndEncrypt) },
    })
}

fn read_user(auth: &Section) -> Option<User> {
    if auth.has("cert") || auth.has("key") {
        for key in ["username", "password_file"] {
            if auth.has(key) {
                auth.problem(key, "can't stand beside `cert` and `key`: a user has a password or a certificate");
            }
        }
        auth.required::<String>("cert")?;
        auth.required::<String>("key")?;
        return Some(User::Certificate { cert: auth.path("cert")?, key: auth.path("key")? });
    }
    let name = auth.required::<String>("username");
    if name.as_deref() == Some("") {
        auth.problem("username", "is empty, leave `auth` out for an anonymous session");
    }
    auth.required::<String>("password_file")?;
    Some(User::Password { name: name.filter(|name| !name.is_empty())?, file: auth.path("password_file")? })
}

fn read_device(section: &Section) -> Option<DeviceConfig> {
    let id = section.required("id");
    let publishing = section.duration("publishing", PUBLISHING.0..=PUBLISHING.1, Duration::from_millis(500));
    let rhythm = Rhythm::read(section, &Rhythm::default());
    let poll = section.has("interval").then(|| section.duration("interval", POLL.0..=POLL.1, Duration::from_secs(1)));
    let report = Report::read(section, &Report::default());
    let mut names = BTreeSet::new();
    let (mut points, mut triggered) = (Vec::new(), Vec::new());
    let shared = section.has("points_from").then(|| section.include("points_from"));
    let mut sections = Vec::new();
    if let Some(Some(file)) = &shared {
        sections.extend(file.sections("point"));
    }
    sections.extend(section.sections("point"));
    let event_sections = section.sections("event");
    let subtrees = section.sections("subtree");
    if sections.is_empty() && subtrees.is_empty() && event_sections.is_empty() && !matches!(shared, Some(None)) {
        section.problem("point", "is missing: add a [[opcua.device.point]], or name a file with `points_from`");
    }
    for point in sections {
        let node = point.required_with("node", |value| value.parse("a node", str::parse));
        let Rhythm { sampling, queue, history, keys } = Rhythm::read(&point, &rhythm);
        if poll.is_some() {
            unsubscribed(&point, &["sampling", "queue", "trigger", "deadband_on", "triggered_by"]);
        }
        let triggered_by: Option<PointName> = point.get("triggered_by");
        let (Some(mut read), Some(node)) = (Point::read(&point, &report), node) else { continue };
        let filter;
        (filter, read.report.deadband) = keys.filter(read.report.deadband);
        if names.insert(read.name.clone()) {
            if let Some(trigger) = &triggered_by {
                triggered.push((point, read.name.clone(), trigger.clone()));
            }
            let (point, origin) = (Arc::new(read), None);
            points.push(PointConfig { point, node, sampling, queue, history, filter, triggered_by, origin });
        } else {
            point.problem("name", format_args!("`{}` is used twice in this device", read.name));
        }
    }
    if poll.is_some() {
        unsubscribed(section, &["publishing", "sampling", "queue", "trigger", "deadband_on"]);
    }
    for (point, name, trigger) in &triggered {
        let wrong = |why| point.problem("triggered_by", format_args!("`{trigger}` {why}"));
        if !names.contains(trigger) {
            wrong("is no point of this device");
        } else if trigger == name {
            wrong("is the point itself");
        } else if triggered.iter().any(|(_, other, _)| other == trigger) {
            wrong("is triggered by another point, which is not passed on");
        }
    }
    let subtrees = subtrees.iter().filter_map(|one| SubtreeConfig::read(one, (&rhythm, &report), poll.is_some()));
    let subtrees = subtrees.collect();
    let mut methods: Vec<MethodConfig> = Vec::new();
    for table in section.sections("method") {
        let node_of = |key| table.required_with(key, |value| value.parse("a node", str::parse));
        let (name, node, object) = (table.required::<PointName>("name"), node_of("node"), node_of("object"));
        let (Some(name), Some(node), Some(object)) = (name, node, object) else { continue };
        if methods.iter().any(|method| method.name == name) {
            table.problem("name", format_args!("`{name}` is used twice in this device"));
            continue;
        }
        methods.push(MethodConfig { name, node, object });
    }
    let events: Vec<EventConfig> = event_sections.iter().filter_map(EventConfig::read).collect();
    if events.iter().any(|event| event.acknowledge) && methods.iter().any(|m| m.name.as_str() == event::ACKNOWLEDGE) {
        section.problem("method", "one is called `acknowledge`, which is taken by an event with `acknowledge = true`");
    }
    if poll.is_some() {
        unsubscribed(section, &["event"]);
    }
    Some(DeviceConfig { id: id?, publishing, poll, points, subtrees, methods, events })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use fieldgate_protocol::{Access, Deadband};
    use fieldgate_types::Sources;

    use super::*;

    fn read(text: &str) -> (Vec<Option<OpcuaConfig>>, Vec<String>) {
        let sources = Sources::new(Box::new(|_| Err(std::io::Error::other("none"))));
        let root = sources.root("gateway.toml", Path::new("/etc/fieldgate"), text);
        let configs = root.sections("opcua").iter().map(OpcuaConfig::read).collect();
        drop(root);
        (configs, sources.problems().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn reads_the_example_of_the_design() {
        let (mut configs, problems) = read(
            r#"
[[opcua]]
endpoint = "opc.tcp://192.0.2.20:4840"
security = "Aes256-Sha256-RsaPss"
mode = "Sign"
auth = { username = "op", password_file = "op.password" }
trust = "first-use"
  [[opcua.device]]
  id = "boiler-7"
  publishing = "250ms"
  sampling = "50ms"
  queue = 5
  heartbeat = "10s"
    [[opcua.device.point]]
    name = "level"
    node = "nsu=urn:plant:boiler;s=Level"
    deadband = 0.2
    access = "rw"
    range = [0.0, 90.0]
    unit = "m"
    [[opcua.device.point]]
    name = "slow"
    node = "ns=2;/Boiler/Slow"
    sampling = "1s"
    queue = 1
    [[opcua.device.method]]
    name = "start"
    node = "ns=2;s=Start"
    object = "ns=2;/Boiler"
"#,
        );
        assert_eq!(problems, [""; 0]);
        let config = configs.remove(0).unwrap();
        assert_eq!(config.endpoint.url(), "opc.tcp://192.0.2.20:4840");
        let security = Security::Policy { policy: Policy::Aes256Sha256RsaPss, mode: Mode::Sign };
        assert_eq!(config.security, security);
        let file = PathBuf::from("/etc/fieldgate/op.password");
        assert_eq!(config.user, Some(User::Password { name: "op".to_owned(), file }));
        assert_eq!(config.trust, Trust::FirstUse);
        let device = &config.devices[0];
        assert_eq!((device.id.as_str(), device.publishing), ("boiler-7", Duration::from_millis(250)));
        let rhythm = |point: &PointConfig| (point.sampling.as_millis(), point.queue);
        assert_eq!((rhythm(&device.points[0]), rhythm(&device.points[1])), ((50, 5), (1000, 1)));
        assert_eq!(device.methods[0].object, "ns=2;/Boiler".parse().unwrap());
        assert_eq!(config.field_devices()[0].methods, [PointName::new("start").unwrap()]);
        let point = &device.points[0].point;
        assert_eq!(point.report.deadband, Some(Deadband::Absolute(0.2)));
        assert_eq!(point.report.heartbeat, Duration::from_secs(10));
        assert_eq!((point.access, point.range), (Access::ReadWrite, Some((0.0, 90.0))));
    }

    #[test]
    fn is_safe_by_default() {
        let (mut configs, problems) = read(
            "[[opcua]]\nendpoint = \"opc.tcp://plc\"\n[[opcua.device]]\nid = \"a\"\n[[opcua.device.point]]\nname = \"p\"\nnode = \"i=1\"",
        );
        assert_eq!(problems, [""; 0]);
        let config = configs.remove(0).unwrap();
        let security = Security::Policy { policy: Policy::Basic256Sha256, mode: Mode::SignAndEncrypt };
        assert_eq!((config.security, config.trust, config.user), (security, Trust::Strict, None));
    }

    #[test]
    fn a_user_may_have_a_certificate_instead_of_a_password() {
        let session = |auth: &str| {
            format!(
                "[[opcua]]\nendpoint = \"opc.tcp://plc\"\nauth = {auth}\n[[opcua.device]]\nid = \"a\"\n[[opcua.device.point]]\nname = \"p\"\nnode = \"i=1\""
            )
        };
        let (mut configs, problems) = read(&session("{ cert = \"op.der\", key = \"op.pem\" }"));
        assert_eq!(problems, [""; 0]);
        let (cert, key) = (PathBuf::from("/etc/fieldgate/op.der"), PathBuf::from("/etc/fieldgate/op.pem"));
        assert_eq!(configs.remove(0).unwrap().user, Some(User::Certificate { cert, key }));
        let (_, problems) = read(&session("{ cert = \"op.der\", username = \"op\" }"));
        assert!(problems[1].contains("opcua.auth.username: can't stand beside `cert` and `key`"), "{problems:?}");
        assert!(problems[0].contains("opcua.auth.key: is missing"), "{problems:?}");
    }

    #[test]
    fn a_polled_device_has_no_keys_of_a_subscription() {
        let text = |more: &str| {
            format!(
                "[[opcua]]\nendpoint = \"opc.tcp://plc\"\n[[opcua.device]]\nid = \"a\"\ninterval = \"2s\"\n{more}[[opcua.device.point]]\nname = \"p\"\nnode = \"i=1\"\n"
            )
        };
        let (mut configs, problems) = read(&text(""));
        assert_eq!(problems, [""; 0]);
        assert_eq!(configs.remove(0).unwrap().devices[0].poll, Some(Duration::from_secs(2)));
        let (_, problems) = read(&(text("publishing = \"1s\"\n") + "queue = 5\n"));
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(
            problems[0].contains("opcua.device.publishing: has no meaning with the device's `interval`"),
            "{problems:?}"
        );
        assert!(problems[1].contains("gateway.toml:10:") && problems[1].contains("point.queue"), "{problems:?}");
    }

    #[test]
    fn a_trigger_is_another_point_of_the_device_that_is_told_by_itself() {
        let text = |points: &[(&str, &str)]| {
            let point = |(name, by): &(&str, &str)| {
                let by = if by.is_empty() { String::new() } else { format!("triggered_by = \"{by}\"\n") };
                format!("[[opcua.device.point]]\nname = \"{name}\"\nnode = \"i=1\"\n{by}")
            };
            let points = points.iter().map(point).collect::<Vec<_>>().concat();
            format!("[[opcua]]\nendpoint = \"opc.tcp://plc\"\n[[opcua.device]]\nid = \"a\"\n{points}")
        };
        let (mut configs, problems) = read(&text(&[("value", "cycle"), ("cycle", "")]));
        assert_eq!(problems, [""; 0]);
        let points = &configs.remove(0).unwrap().devices[0].points;
        assert_eq!((&points[0].triggered_by, &points[1].triggered_by), (&Some(points[1].point.name.clone()), &None));
        let (_, problems) = read(&text(&[("a", "a"), ("b", "c"), ("d", "b")]));
        assert_eq!(problems.len(), 3, "{problems:?}");
        let expected =
            ["`a` is the point itself", "`c` is no point of this device", "`b` is triggered by another point"];
        assert!(expected.iter().all(|told| problems.iter().any(|one| one.contains(told))), "{problems:?}");
    }

    #[test]
    fn locates_every_mistake() {
        let (configs, problems) = read(
            r#"[[opcua]]
endpoint = "http://plc"
security = "Basic256Sha265"
mode = "Encrypt"
auth = { username = "op", password = "secret" }
trust = "all"
[[opcua.device]]
id = "a"
publishing = "0ms"
queue = 0
[[opcua.device.point]]
name = "p"
node = "Level"
[[opcua.device.point]]
name = "q"
node = "ns=1;i=1"
[[opcua.device.point]]
name = "q"
node = "ns=1;i=1"
[[opcua.device]]
id = "a"
[[opcua]]
endpoint = "opc.tcp://plc"
security = "None"
mode = "Sign"
"#,
        );
        assert_eq!(configs[0], None);
        let expected = [
            (2, "opcua.endpoint: `http://plc` is not an OPC UA endpoint: opc.tcp://HOST:PORT is allowed"),
            (
                3,
                "opcua.security: `Basic256Sha265` is unknown, \"None\", \"Basic256Sha256\", \"Aes128-Sha256-RsaOaep\" or",
            ),
            (4, "opcua.mode: `Encrypt` is unknown, \"Sign\" or \"SignAndEncrypt\" is allowed"),
            (5, "opcua.auth.password_file: is missing"),
            (5, "opcua.auth.password: unknown key, "),
            (6, "opcua.trust: `all` is unknown, \"strict\" or \"first-use\" is allowed"),
            (9, "opcua.device.publishing: `0ms` is out of range, \"10ms\" to \"1m\" is allowed"),
            (10, "opcua.device.queue: `0` is out of range, 1 to 10000 is allowed"),
            (13, "opcua.device.point.node: `Level` is not a node: \"nsu=URI;…\" or \"ns=INDEX;…\" is allowed"),
            (18, "opcua.device.point.name: `q` is used twice in this device"),
            (20, "opcua.device.point: is missing"),
            (21, "opcua.device.id: `a` is used twice, each device needs its own"),
            (22, "opcua.device: is missing, a session needs at least one [[opcua.device]]"),
            (25, "opcua.mode: has no meaning with security = \"None\", leave it out"),
        ];
        for (line, message) in expected {
            let found = problems.iter().any(|problem| {
                let place = format!("gateway.toml:{line}:");
                problem.starts_with(&place) && problem.contains(message)
            });
            assert!(found, "line {line}: {message}\n{problems:#?}");
        }
        assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    }
}
