//! Moments: between the milliseconds of the clock, the whole seconds of certificates, and text. Also the time by which
//! everything here is judged.

use std::sync::Arc;
use std::time::Duration;

use fieldgate_types::{BUILD_FLOOR, Clock, UnixMillis};
use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// 9999-12-31T23:59:59Z, the last second that a certificate can express (RFC 5280, 4.1.2.5).
const LAST_SECOND: i64 = 253_402_300_799;

/// Whole seconds, towards the past, as certificates hold them.
pub(crate) fn whole_seconds(at: UnixMillis) -> UnixMillis {
    UnixMillis(at.0 / 1000 * 1000)
}

pub(crate) fn date_time(at: UnixMillis) -> OffsetDateTime {
    let seconds = i64::try_from(at.as_secs()).unwrap_or(LAST_SECOND).min(LAST_SECOND);
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// From the seconds of a certificate; what lies before 1970 becomes 1970.
pub(crate) fn from_seconds(seconds: i64) -> UnixMillis {
    UnixMillis(u64::try_from(seconds).unwrap_or_default().saturating_mul(1000))
}

/// `2026-11-21T07:20:05Z`.
pub(crate) fn rfc3339(at: UnixMillis) -> String {
    date_time(whole_seconds(at)).format(&Rfc3339).unwrap_or_else(|_| at.to_string())
}

/// The clock, never behind a floor: a box without a battery starts in 1970, and must neither issue certificates that
/// were over long ago nor refuse devices as "not yet valid" (DESIGN section 4).
#[derive(Debug)]
pub(crate) struct Judge {
    clock: Arc<dyn Clock>,
    floor: UnixMillis,
}

impl Judge {
    /// `proof`: a moment that is known to be past, besides the building of this program.
    pub(crate) fn new(clock: Arc<dyn Clock>, proof: UnixMillis) -> Self {
        Self { clock, floor: BUILD_FLOOR.max(proof) }
    }

    pub(crate) fn now(&self) -> UnixMillis {
        self.at(self.clock.now())
    }

    /// `now` as the caller read it.
    pub(crate) fn at(&self, now: UnixMillis) -> UnixMillis {
        now.max(self.floor)
    }
}

impl TimeProvider for Judge {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.now().0)))
    }
}
