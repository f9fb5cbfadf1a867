//! Moments and amounts as people read them.

use fieldgate_types::UnixMillis;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A moment as RFC 3339 in UTC, to the second.
pub fn date(at: UnixMillis) -> String {
    let seconds = i64::try_from(at.as_secs()).unwrap_or(i64::MAX);
    let date = OffsetDateTime::from_unix_timestamp(seconds).ok().and_then(|date| date.format(&Rfc3339).ok());
    date.unwrap_or_else(|| format!("{at} ms"))
}

/// Bytes for people.
pub fn bytes(count: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.iter().find(|(_, shift)| count >= 1 << shift) {
        // One digit behind the point, in whole numbers.
        Some((unit, shift)) => format!("{}.{} {unit}", count >> shift, ((count >> (shift - 10)) & 1023) * 10 / 1024),
        None => format!("{count} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_bytes_and_dates() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(5 << 30), "5.0 GiB");
        assert_eq!(date(UnixMillis(1_793_491_200_000)), "2026-11-01T00:00:00Z");
    }
}
