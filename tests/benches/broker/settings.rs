//! What the command line says.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::wire::Version;

/// How clients reach the brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// TCP on loopback; the gateway's plain listener with password users.
    Plain,
    /// TLS with client certificates.
    Mtls,
}

impl Transport {
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Mtls => "mTLS",
        }
    }
}

/// One figure or a family of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Bench {
    /// QoS 1, 64 B, 20 publishers to one live subscriber, local topic.
    Local,
    /// QoS 1, 50 publishers, into the durable buffer and upstream.
    UpstreamBound,
    /// QoS 1, through the edge to a subscriber at the cloud: ours durable, mosquitto's bridge from memory.
    Bridge,
    /// The same with `batch = "zstd"`, and bytes on the wire.
    Batch,
    /// A million messages that waited, drained while a device goes on publishing: ours from disk, mosquitto's bridge from memory.
    Drain,
    /// The same with `batch = "zstd"`.
    DrainBatch,
    /// From a device to the cloud at a thousand messages a second.
    Latency,
    /// `bridge` and `batch` over a line of 50 ms there and back.
    Far,
    /// One publisher to 200 subscribers, QoS 0 and 1.
    FanOut,
    /// Memory of idle mTLS clients.
    Idle,
    /// 1,000 mTLS clients that come back at once.
    Reconnect,
    /// 2,000 sockets that never become a client.
    HalfOpen,
}

/// A key of `gateway.toml` and its value, as TOML.
#[derive(Debug, Clone)]
pub struct Key {
    pub table: String,
    pub name: String,
    pub value: String,
}

impl Key {
    pub fn new(table: &str, name: &str, value: &str) -> Self {
        Self { table: table.to_owned(), name: name.to_owned(), value: value.to_owned() }
    }
}

/// The embedded broker under load, beside its peers. Prints ours, theirs and the ratio from one run.
#[derive(Debug, Clone, Parser)]
#[command(name = "broker")]
pub struct Settings {
    /// What to measure; everything when none is named.
    pub benches: Vec<Bench>,
    /// Rounds of each measurement; brokers take turns within a round.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Seconds of load in a round.
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// A small run that checks that the benches work and nothing is lost; its figures mean nothing.
    #[arg(long)]
    pub short: bool,
    /// Only clients that connect so, where both make sense.
    #[arg(long)]
    pub transport_only: Option<Transport>,
    /// Only clients of this version (4: 3.1.1).
    #[arg(long, value_parser = ["4", "5"])]
    pub mqtt: Option<String>,
    /// A key of the gateway's, such as `broker.limits.in_flight=1000`: to see what it costs or brings. Those that are not set are
    /// at their defaults but for the ones that the report names.
    #[arg(long = "set", value_parser = key, value_name = "TABLE.KEY=VALUE")]
    pub keys: Vec<Key>,
    /// Also writes the report as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// The gateway's binary; default: the one that cargo built with this bench.
    #[arg(long, value_name = "FILE")]
    pub binary: Option<PathBuf>,
    /// Messages that wait, for `drain`.
    #[arg(long, default_value_t = 1_000_000)]
    pub waiting: u64,
    /// Idle clients of the curve's end.
    #[arg(long, default_value_t = 10_000)]
    pub most_idle: usize,
    /// Keeps the load on the gateway for so many seconds and prints its process id, for a profiler; no peers.
    #[arg(long, value_name = "SECONDS")]
    pub profile: Option<u64>,
    /// Cargo passes it to every bench.
    #[arg(long, hide = true)]
    pub bench: bool,
    /// Set by each bench for its own rows.
    #[arg(skip = Transport::Mtls)]
    pub transport: Transport,
}

fn key(text: &str) -> Result<Key, String> {
    let (path, value) = text.split_once('=').ok_or("TABLE.KEY=VALUE is expected")?;
    let (table, name) = path.rsplit_once('.').ok_or("TABLE.KEY=VALUE is expected")?;
    Ok(Key::new(table, name, value))
}

impl Settings {
    pub fn binary(&self) -> &Path {
        self.binary.as_deref().unwrap_or(Path::new(env!("CARGO_BIN_EXE_fieldgate")))
    }

    pub fn wants(&self, bench: Bench) -> bool {
        self.benches.is_empty() || self.benches.contains(&bench)
    }

    pub fn rounds(&self) -> usize {
        if self.short { 1 } else { self.rounds.max(1) }
    }

    pub fn load_time(&self) -> Duration {
        match self.profile {
            Some(seconds) => Duration::from_secs(seconds),
            None if self.short => Duration::from_millis(500),
            None => Duration::from_secs_f64(self.seconds),
        }
    }

    /// Messages that wait.
    pub fn messages(&self) -> u64 {
        if self.short { 5_000 } else { self.waiting }
    }

    /// `full`, or what a short run does instead.
    pub fn size(&self, full: usize, short: usize) -> usize {
        if self.short { short } else { full }
    }

    pub fn versions(&self) -> Vec<Version> {
        match self.mqtt.as_deref() {
            Some("4") => vec![Version::V311],
            Some(_) => vec![Version::V5],
            None if self.short || self.profile.is_some() => vec![Version::V5],
            None => Version::BOTH.to_vec(),
        }
    }

    /// Runs of a bench that makes sense with both transports.
    pub fn transports(&self) -> Vec<Self> {
        let all = [Transport::Plain, Transport::Mtls];
        let wanted = all.into_iter().filter(|transport| self.transport_only.is_none_or(|only| only == *transport));
        wanted.map(|transport| Self { transport, ..self.clone() }).collect()
    }
}
