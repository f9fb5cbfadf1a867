//! Certificates that nobody has renewed though most of their life is over: what `status`, the log and /metrics warn of.

use fieldgate_certs::{CertificateRecord, Stage};
use fieldgate_types::{DeviceId, UnixMillis};

use super::Authority;
use crate::moment::date;

/// Most devices that are named one by one.
const NAMED: usize = 10;

/// A device whose certificate is past 80 % of its life.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ending {
    /// Whose.
    pub device: DeviceId,
    /// Warn, urgent or expired.
    pub stage: Stage,
    /// When it ends.
    pub not_after: UnixMillis,
}

impl Ending {
    fn of(record: CertificateRecord, now: UnixMillis) -> Option<Self> {
        let stage = record.life().stage(now);
        let warn = match stage {
            Stage::NotYet | Stage::Fresh | Stage::Renew => false,
            Stage::Warn | Stage::Urgent | Stage::Expired => true,
        };
        warn.then_some(Self { device: record.device, stage, not_after: record.not_after })
    }

    /// One of a closed set of words, for metrics.
    pub fn label(stage: Stage) -> &'static str {
        match stage {
            Stage::NotYet | Stage::Fresh | Stage::Renew => "good",
            Stage::Warn => "warn",
            Stage::Urgent => "urgent",
            Stage::Expired => "expired",
        }
    }

    /// In words, with what to do.
    pub fn words(&self) -> String {
        let Self { device, stage, not_after } = self;
        let ends = if *stage == Stage::Expired { "ended" } else { "ends" };
        format!(
            "the certificate of `{device}` {ends} at {}: let the device renew, give it a new one (`fieldgate device token {device}`), or `fieldgate device revoke {device}`",
            date(*not_after)
        )
    }
}

/// All of them, the one that ends first before the others.
pub fn endings(authority: &Authority) -> Vec<Ending> {
    let now = authority.ca.time().now();
    let mut endings: Vec<_> =
        authority.registry.lasting().into_iter().filter_map(|record| Ending::of(record, now)).collect();
    endings.sort_by_key(|ending| ending.not_after);
    endings
}

/// What of the CA and of its certificates somebody should see to, in words: a few by name, the others counted.
pub fn problems(authority: &Authority) -> Vec<String> {
    let mut problems: Vec<_> = authority.ca.alarms().iter().map(ToString::to_string).collect();
    let endings = endings(authority);
    problems.extend(endings.iter().take(NAMED).map(Ending::words));
    if let Some(more) = endings.len().checked_sub(NAMED).filter(|more| *more > 0) {
        problems.push(format!("the certificates of {more} more devices end soon: `fieldgate device list` shows them"));
    }
    problems
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fieldgate_certs::{Fingerprint, IssuerKey, Role, Serial};

    use super::*;

    #[test]
    fn warns_from_four_fifths_of_a_life_on() {
        let record = CertificateRecord {
            issuer: IssuerKey::of(b"issuer"),
            serial: Serial::from_bytes(&[1]),
            device: DeviceId::new("press-1").unwrap(),
            role: Role::Device,
            fingerprint: Fingerprint::of(b"1"),
            not_before: UnixMillis(0),
            not_after: UnixMillis(100_000),
            revoked: None,
            replaces: None,
            superseded: None,
        };
        let stage = |second: u64| {
            Ending::of(record.clone(), UnixMillis(0).plus(Duration::from_secs(second))).map(|ending| ending.stage)
        };
        assert_eq!([79, 80, 95, 101].map(stage), [None, Some(Stage::Warn), Some(Stage::Urgent), Some(Stage::Expired)]);
        let words = Ending::of(record, UnixMillis(96_000)).unwrap().words();
        assert!(words.contains("`press-1` ends at 1970-01-01T00:01:40Z"), "{words}");
    }
}
