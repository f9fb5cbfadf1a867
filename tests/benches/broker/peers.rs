//! The brokers that are measured: the gateway's binary, mosquitto, rumqttd; each a process of its own on loopback.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use fieldgate_testkit::{PATIENCE, eventually, port};
use tempfile::TempDir;

use crate::identities::Identities;
use crate::process::Process;
use crate::settings::Transport;
use crate::site::Site;
use crate::wire::{Connection, Seat, Version};

/// Messages that a publisher leaves unacknowledged: the gateway's default Receive Maximum, so that MQTT 5 clients may.
pub const WINDOW: usize = 32;

/// A role in the load.
#[derive(Debug, Clone, Copy)]
pub enum Who {
    Publisher(usize),
    Receiver(usize),
}

/// A broker under test.
pub enum Peer {
    Fieldgate(Box<Site>),
    Mosquitto(Mosquitto),
    Rumqttd(Rumqttd),
}

impl Peer {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Fieldgate(_) => "fieldgate",
            Self::Mosquitto(_) => "mosquitto",
            Self::Rumqttd(_) => "rumqttd",
        }
    }

    pub fn pid(&self) -> anyhow::Result<u32> {
        match self {
            Self::Fieldgate(site) => site.pid(),
            Self::Mosquitto(mosquitto) => Ok(mosquitto.process.pid()),
            Self::Rumqttd(rumqttd) => Ok(rumqttd.process.pid()),
        }
    }

    /// Where and as whom a client of the load connects.
    pub fn seat(&self, who: Who, version: Version, identities: &Identities) -> anyhow::Result<Seat> {
        match self {
            Self::Fieldgate(site) => site.seat(who, identities),
            Self::Mosquitto(mosquitto) => mosquitto.seat(who, identities),
            Self::Rumqttd(rumqttd) => Ok(rumqttd.seat(who, version)),
        }
    }
}

/// The topic that a publisher of the load uses: what a device may publish to by default.
pub fn topic(number: usize) -> String {
    format!("devices/p{number}/telemetry/points")
}

/// What receivers of the load subscribe to.
pub const FILTER: &str = "devices/+/telemetry/points";

/// Apps have up to eight connections: so many receivers share one identity.
pub const PER_APP: usize = 8;

/// The certificate identity of a client of the load.
pub fn identity(who: Who) -> String {
    match who {
        Who::Publisher(number) => format!("p{number}"),
        Who::Receiver(number) => format!("watch{}", number / PER_APP),
    }
}

/// Its client id.
pub fn client_id(who: Who) -> String {
    match who {
        Who::Publisher(_) => identity(who),
        Who::Receiver(number) => format!("{}/{}", identity(who), number % PER_APP),
    }
}

/// mosquitto, as fast as it goes: no delay, no limits on queues, nothing kept on disk.
pub struct Mosquitto {
    process: Process,
    pub address: SocketAddr,
    transport: Transport,
    _folder: TempDir,
}

/// Debian puts it where plain users have no path to.
fn mosquitto_binary() -> PathBuf {
    let debian = Path::new("/usr/sbin/mosquitto");
    if debian.exists() { debian.to_owned() } else { PathBuf::from("mosquitto") }
}

impl Mosquitto {
    /// Everything but addresses and files.
    pub const SETTINGS: &str = "allow_anonymous true, persistence false, set_tcp_nodelay true, \
                                max_queued_messages 0, max_inflight_messages 0, log_type error, sys_interval 1";

    pub async fn start(transport: Transport, identities: &Identities) -> anyhow::Result<Self> {
        Self::start_with(transport, identities, "").await
    }

    /// One that bridges all that it gets to `cloud`, QoS 1, keeping nothing on disk.
    pub async fn start_bridging(
        transport: Transport,
        identities: &Identities,
        cloud: SocketAddr,
    ) -> anyhow::Result<Self> {
        // Its MQTT 5 bridge announces `max_inflight_messages 0` as a Receive Maximum of 0, which no broker takes.
        let bridge = format!(
            "connection up\naddress {cloud}\ntopic # out 1\ncleansession true\nnotifications false\n\
             bridge_protocol_version mqttv311\n"
        );
        Self::start_with(transport, identities, &bridge).await
    }

    /// One that bridges as [`Self::start_bridging`] does, and keeps in memory what comes while the cloud is away.
    pub async fn start_queueing(
        transport: Transport,
        identities: &Identities,
        cloud: SocketAddr,
    ) -> anyhow::Result<Self> {
        let bridge = format!(
            "connection up\naddress {cloud}\ntopic # out 1\ncleansession false\nnotifications false\nrestart_timeout 1\n\
             bridge_protocol_version mqttv311\n"
        );
        Self::start_with(transport, identities, &bridge).await
    }

    async fn start_with(transport: Transport, identities: &Identities, more: &str) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("fieldgate-bench-").tempdir()?;
        let address = port::free_address()?;
        let mut text = Self::SETTINGS.replace(", ", "\n");
        // Started by root it would give its rights away, and with them the key file.
        text += "\nuser root\n";
        writeln!(text, "listener {} 127.0.0.1", address.port())?;
        if transport == Transport::Mtls {
            let files = identities.write_for_mosquitto(folder.path())?;
            writeln!(
                text,
                "cafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true",
                files.ca.display(),
                files.certificate.display(),
                files.key.display()
            )?;
        }
        text += more;
        let config = folder.path().join("mosquitto.conf");
        std::fs::write(&config, text)?;
        let process = Process::start(Command::new(mosquitto_binary()).arg("-c").arg(&config))
            .context("install mosquitto (apt-get install mosquitto)")?;
        let mosquitto = Self { process, address, transport, _folder: folder };
        listens(address).await?;
        Ok(mosquitto)
    }

    fn seat(&self, who: Who, identities: &Identities) -> anyhow::Result<Seat> {
        let tls = match self.transport {
            Transport::Plain => None,
            Transport::Mtls => Some(identities.client(&identity(who))?),
        };
        Ok(Seat { address: self.address, tls, client_id: client_id(who), login: None })
    }

    /// A client that nobody else is, without a certificate.
    pub fn observer(&self) -> Seat {
        Seat { address: self.address, tls: None, client_id: "observer".to_owned(), login: None }
    }
}

/// Its version, for the report.
pub fn mosquitto_version() -> String {
    let output = Command::new(mosquitto_binary()).arg("-h").stdin(Stdio::null()).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("mosquitto, unknown version").to_owned()
}

/// rumqttd, this program started once more.
pub struct Rumqttd {
    process: Process,
    v311: SocketAddr,
    v5: SocketAddr,
}

impl Rumqttd {
    pub async fn start() -> anyhow::Result<Self> {
        let (v311, v5) = (port::free_address()?, port::free_address()?);
        let own = std::env::current_exe()?;
        let mut command = Command::new(own);
        command.arg("--rumqttd").arg(v311.to_string()).arg(v5.to_string());
        let process = Process::start(&mut command)?;
        listens(v311).await?;
        listens(v5).await?;
        Ok(Self { process, v311, v5 })
    }

    fn seat(&self, who: Who, version: Version) -> Seat {
        let address = match version {
            Version::V311 => self.v311,
            Version::V5 => self.v5,
        };
        // rumqttd takes no `/` in a client id.
        let client_id = client_id(who).replace('/', "-");
        Seat { address, tls: None, client_id, login: None }
    }
}

/// What the process started by [`Rumqttd::start`] does.
pub fn serve_rumqttd(v311: &str, v5: &str) -> anyhow::Result<()> {
    let listener = |table: &str, listen: &str| {
        format!(
            "[{table}.1]\nname = \"{table}\"\nlisten = \"{listen}\"\nnext_connection_delay_ms = 0\n\
             [{table}.1.connections]\nconnection_timeout_ms = 10000\nmax_payload_size = 1048576\n\
             max_inflight_count = 1000\n"
        )
    };
    let text = format!(
        "id = 0\n[router]\nid = 0\nmax_connections = 1000\nmax_outgoing_packet_count = 1000\n\
         max_segment_size = 104857600\nmax_segment_count = 10\n{}{}",
        listener("v4", v311),
        listener("v5", v5)
    );
    Ok(rumqttd::Broker::new(toml::from_str(&text)?).start()?)
}

async fn listens(address: SocketAddr) -> anyhow::Result<()> {
    eventually("a broker that listens", PATIENCE, async || {
        Ok(tokio::net::TcpStream::connect(address).await.ok().map(drop))
    })
    .await
}

/// Opens many connections at once, so many at a time; in the order of the seats.
pub async fn open_all(seats: &[Seat], version: Version, at_a_time: usize) -> anyhow::Result<Vec<Connection>> {
    use futures_util::{StreamExt, TryStreamExt};
    let opening = seats.iter().map(async |seat| {
        tokio::time::timeout(Duration::from_secs(60), Connection::open(seat, version)).await.context("no CONNACK")?
    });
    futures_util::stream::iter(opening).buffered(at_a_time).try_collect().await
}
