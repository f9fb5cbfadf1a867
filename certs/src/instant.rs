//! Moments: between the milliseconds of the clock, the whole seconds of certificates, and text.

use fieldgate_types::UnixMillis;
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
