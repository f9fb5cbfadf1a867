//! The sections without a component of their own to read them: `[certs]`, `[enrolment]`, `[buffer]`, `[admin]`.

use std::net::SocketAddr;
use std::time::Duration;

use fieldgate_certs::ExternalTrust;
use fieldgate_certs::est::EST_VALIDITY;
use fieldgate_store::{Options, Overflow};
use fieldgate_types::{Percent, Section, Size};

use super::external;
use super::load::Ids;
use crate::identity::VALIDITY;
use crate::northbound::Replay;

const DAY: Duration = Duration::from_secs(86_400);
/// With `acknowledge = "either"`: as long as a slow fsync takes.
const HOLD: Duration = Duration::from_millis(20);

/// `[certs]`
#[derive(Debug, Clone)]
pub struct CertsConfig {
    /// Life of a certificate from `device add`.
    pub device_validity: Duration,
    /// Life of a certificate that a device gets or renews over EST.
    pub est_validity: Duration,
    /// Certificates that are not ours: `[[certs.external]]` and `[[certs.pin]]`.
    pub external: ExternalTrust,
}

impl CertsConfig {
    /// Reads the section; ids are noted in `ids`.
    pub(super) fn read(section: &Section, ids: &mut Ids) -> Self {
        Self {
            external: external::read(section, ids),
            device_validity: section.duration("device_validity", VALIDITY, DAY * 3650),
            est_validity: section.duration("est_validity", VALIDITY, EST_VALIDITY),
        }
    }
}

/// `[enrolment]`
#[derive(Debug, Clone, Copy)]
pub struct EnrolmentConfig {
    /// Where EST is served.
    pub listen: SocketAddr,
}

impl EnrolmentConfig {
    /// Reads the section.
    pub fn read(section: &Section) -> Option<Self> {
        Some(Self { listen: section.required("listen")? })
    }
}

/// `[buffer]`
#[derive(Debug, Clone, Copy)]
pub struct BufferConfig {
    /// The most that queue.db may take.
    pub max_size: Size,
    /// Older messages expire.
    pub max_age: Duration,
    /// What happens when it is full.
    pub overflow: Overflow,
    /// A device that holds more of what waits gives way first then.
    pub device_share: Percent,
    /// How long a message waits for the upstream's word before it is written; zero with `acknowledge = "durable"`.
    pub hold: Duration,
    /// Interval of transactions while the upstream is away.
    pub commit_spacing: Duration,
    /// How stored messages are replayed.
    pub replay: Replay,
}

impl BufferConfig {
    /// The bounds of the store.
    pub fn options(&self) -> Options {
        let Self { max_size, max_age, overflow, device_share, commit_spacing: spacing, hold, .. } = *self;
        Options { max_size, max_age, overflow, device_share, spacing, hold, ..Options::default() }
    }

    /// Reads the section.
    pub fn read(section: &Section) -> Self {
        let words = [("drop-oldest", Overflow::DropOldest), ("refuse", Overflow::Refuse)];
        let smallest = Size(4 << 20);
        let mut max_size = section.get_or("max_size", Size(1 << 30));
        if max_size < smallest {
            section.problem("max_size", format_args!("`{max_size}` is too small, at least {smallest} is allowed"));
            max_size = smallest;
        }
        let words_of_acknowledge = [("durable", Duration::ZERO), ("either", HOLD)];
        Self {
            max_size,
            max_age: section.duration("max_age", Duration::from_secs(60)..=DAY * 3650, DAY * 7),
            overflow: section.choice("overflow", &words, Overflow::DropOldest),
            device_share: section.get_or("device_share", Options::default().device_share),
            hold: section.choice("acknowledge", &words_of_acknowledge, Duration::ZERO),
            commit_spacing: section.duration(
                "commit_spacing",
                Duration::ZERO..=Duration::from_secs(1),
                Options::default().spacing,
            ),
            replay: Replay {
                live_first: section.choice("replay", &[("in-order", false), ("live-first", true)], false),
                rate: Some(section.number("replay_rate", 0..=10_000_000, 0)).filter(|rate| *rate != 0),
            },
        }
    }
}

/// `[admin]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdminConfig {
    /// Where the API is served.
    pub listen: SocketAddr,
    /// With TLS, which an address that can be reached from the network must have.
    pub tls: bool,
}

impl AdminConfig {
    /// Reads the section.
    pub fn read(section: &Section) -> Self {
        let listen: SocketAddr = section.get_or("listen", SocketAddr::from(([127, 0, 0, 1], 9080)));
        let tls = section.get_or("tls", false);
        if !tls && !listen.ip().is_loopback() {
            section.problem("listen", format_args!("`{listen}` can be reached from the network, where tokens must not travel in plain; set `tls = true`, or use a loopback address such as \"127.0.0.1:9080\""));
        }
        Self { listen, tls }
    }
}
