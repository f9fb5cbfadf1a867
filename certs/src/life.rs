//! How much of a certificate's life is over, and what is due then. Every fraction of the project stands here.

use fieldgate_types::UnixMillis;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::instant::from_seconds;

/// A share of a life, as a fraction of whole numbers, so that moments come out the same everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    of: u32,
    parts: u32,
}

/// An issuing CA is followed by the next one from here on.
pub const ROTATE: Share = Share { of: 1, parts: 2 };
/// Devices and the gateway's own server renew from here on.
pub const RENEW: Share = Share { of: 2, parts: 3 };
/// The first warning.
pub const WARN: Share = Share { of: 4, parts: 5 };
/// The last warning.
pub const URGENT: Share = Share { of: 19, parts: 20 };

/// From when to when a certificate is valid, both moments included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// First moment of validity.
    pub not_before: UnixMillis,
    /// Last moment of validity, in whole seconds: the second belongs to it (RFC 5280, 4.1.2.5).
    pub not_after: UnixMillis,
}

/// Where in its life a certificate is. In the order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Its time has not begun.
    NotYet,
    /// Nothing is due.
    Fresh,
    /// Two thirds are over: to be renewed.
    Renew,
    /// 80 % are over, and nobody has renewed it: the first warning.
    Warn,
    /// 95 % are over: the last warning.
    Urgent,
    /// Over.
    Expired,
}

/// The lives of the certificates in a PEM text, in their order; whatever else stands there is passed over.
pub fn of_pem(text: &[u8]) -> Vec<Life> {
    let certificates = CertificateDer::pem_slice_iter(text).filter_map(Result::ok);
    let life = |der: CertificateDer<'_>| {
        let (_, certificate) = X509Certificate::from_der(&der).ok()?;
        let validity = certificate.validity();
        let [not_before, not_after] = [validity.not_before, validity.not_after].map(|at| from_seconds(at.timestamp()));
        Some(Life { not_before, not_after })
    };
    certificates.filter_map(life).collect()
}

impl Life {
    /// The moment at which `share` of it is over.
    pub fn at(&self, share: Share) -> UnixMillis {
        let life = u128::from(self.not_after.0.saturating_sub(self.not_before.0));
        let part = life * u128::from(share.of) / u128::from(share.parts);
        UnixMillis(self.not_before.0.saturating_add(u64::try_from(part).unwrap_or(u64::MAX)))
    }

    /// Whether `share` of it is over.
    pub fn past(&self, share: Share, now: UnixMillis) -> bool {
        now >= self.at(share)
    }

    /// Whether it has ended: its last second belongs to it.
    pub fn expired(&self, now: UnixMillis) -> bool {
        now.as_secs() > self.not_after.as_secs()
    }

    /// What is due.
    pub fn stage(&self, now: UnixMillis) -> Stage {
        if self.expired(now) {
            Stage::Expired
        } else if self.past(URGENT, now) {
            Stage::Urgent
        } else if self.past(WARN, now) {
            Stage::Warn
        } else if self.past(RENEW, now) {
            Stage::Renew
        } else if now < self.not_before {
            Stage::NotYet
        } else {
            Stage::Fresh
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_begins_at_its_moment_and_not_a_millisecond_earlier() {
        let life = Life { not_before: UnixMillis(10_000), not_after: UnixMillis(70_000) };
        let stages = [
            (9_999, Stage::NotYet),
            (10_000, Stage::Fresh),
            (49_999, Stage::Fresh),
            (50_000, Stage::Renew),
            (57_999, Stage::Renew),
            (58_000, Stage::Warn),
            (66_999, Stage::Warn),
            (67_000, Stage::Urgent),
            (70_999, Stage::Urgent),
            (71_000, Stage::Expired),
        ];
        for (now, stage) in stages {
            assert_eq!(life.stage(UnixMillis(now)), stage, "{now}");
        }
        assert_eq!(life.at(ROTATE), UnixMillis(40_000));
        assert!(life.past(ROTATE, UnixMillis(40_000)) && !life.past(ROTATE, UnixMillis(39_999)));
    }

    #[test]
    fn odd_lives_overflow_nothing() {
        let all = Life { not_before: UnixMillis(0), not_after: UnixMillis(u64::MAX) };
        assert_eq!(all.stage(UnixMillis(u64::MAX)), Stage::Urgent);
        let none = Life { not_before: UnixMillis(5_000), not_after: UnixMillis(0) };
        assert_eq!(none.stage(UnixMillis(5_000)), Stage::Expired);
        assert_eq!(none.at(RENEW), UnixMillis(5_000));
    }
}
