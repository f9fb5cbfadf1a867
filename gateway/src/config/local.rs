//! The sections without a component of their own to read them: `[certs]`, `[enrolment]`, `[buffer]`.

use std::net::SocketAddr;
use std::time::Duration;

use fieldgate_certs::ExternalTrust;
use fieldgate_certs::est::EST_VALIDITY;
use fieldgate_store::{Options, Overflow};
use fieldgate_types::{Section, Size};

use super::external;
use super::load::Ids;
use crate::identity::VALIDITY;

const DAY: Duration = Duration::from_secs(86_400);

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
    /// Interval of transactions while the upstream is away.
    pub commit_spacing: Duration,
    /// The fastest that stored messages are replayed, in messages a second; `None` for as fast as it goes.
    pub replay_rate: Option<u32>,
}

impl BufferConfig {
    /// The bounds of the store.
    pub fn options(&self) -> Options {
        let Self { max_size, max_age, overflow, commit_spacing: spacing, .. } = *self;
        Options { max_size, max_age, overflow, spacing, ..Options::default() }
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
        for (key, only, why) in [("acknowledge", "durable", "`either`"), ("replay", "in-order", "`live-first`")] {
            if let Some(word) = section.get::<String>(key).filter(|word| word != only) {
                section.problem(
                    key,
                    format_args!("`{word}` is not offered by this version, \"{only}\" is allowed ({why} comes later)"),
                );
            }
        }
        Self {
            max_size,
            max_age: section.duration("max_age", Duration::from_secs(60)..=DAY * 3650, DAY * 7),
            overflow: section.choice("overflow", &words, Overflow::DropOldest),
            commit_spacing: section.duration(
                "commit_spacing",
                Duration::ZERO..=Duration::from_secs(1),
                Options::default().spacing,
            ),
            replay_rate: Some(section.number("replay_rate", 0..=10_000_000, 0)).filter(|rate| *rate != 0),
        }
    }
}
