//! Shares as people write them.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A share in whole hundredths, 1 to 100. Written `"50%"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u8);

/// The text is not a share.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is not a share: write \"1%\" to \"100%\"")]
pub struct InvalidPercent(String);

impl Percent {
    /// All of it.
    pub const ALL: Self = Self(100);

    /// So many hundredths; 1 below that, 100 beyond.
    pub fn clamped(hundredths: u8) -> Self {
        Self(hundredths.clamp(1, 100))
    }

    /// In hundredths.
    pub fn hundredths(self) -> u8 {
        self.0
    }
}

impl FromStr for Percent {
    type Err = InvalidPercent;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text.strip_suffix('%').and_then(|number| number.trim_end().parse().ok());
        number.filter(|number| (1..=100).contains(number)).map(Self).ok_or_else(|| InvalidPercent(text.to_owned()))
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_whole_hundredths_and_nothing_else() {
        for (text, hundredths) in [("1%", 1), ("50 %", 50), ("100%", 100)] {
            assert_eq!(text.parse::<Percent>().map(Percent::hundredths), Ok(hundredths));
        }
        for text in ["0%", "101%", "50", "%", "1.5%", "-1%", "300%"] {
            assert_eq!(text.parse::<Percent>(), Err(InvalidPercent(text.to_owned())));
        }
        assert_eq!([Percent::clamped(0), Percent::clamped(7)].map(|share| share.to_string()), ["1%", "7%"]);
    }
}
