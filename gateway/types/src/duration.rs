//! Durations as people write them: `"500ms"`, `"30s"`, `"5m"`, `"12h"`, `"7d"`.

use std::time::Duration;

use thiserror::Error;

/// The text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is not a duration: write a whole number and a unit, one of ms s m h d, such as \"500ms\"")]
pub struct InvalidDuration(String);

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Reads a duration.
pub fn parse(text: &str) -> Result<Duration, InvalidDuration> {
    let wrong = || InvalidDuration(text.to_owned());
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(*factor).map(Duration::from_millis).ok_or_else(wrong)
}

/// Writes a duration in the largest unit that holds it exactly.
pub fn format(duration: Duration) -> String {
    let millis = duration.as_millis();
    for (unit, factor) in UNITS.iter().rev() {
        let factor = u128::from(*factor);
        if millis >= factor && millis.is_multiple_of(factor) {
            return format!("{}{unit}", millis / factor);
        }
    }
    format!("{millis}ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_durations() {
        for (text, millis) in [("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("12h", 43_200_000), ("0ms", 0)] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)));
            assert_eq!(format(Duration::from_millis(millis)), text);
        }
        assert_eq!(format(Duration::from_secs(7 * 86_400)), "7d");
        for bad in ["", "5", "s", "-1s", "1.5s", "1 week", "99999999999999999d"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
