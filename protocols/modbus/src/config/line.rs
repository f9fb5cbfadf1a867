//! A serial line: how fast it is, and how long characters and silences take on it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

/// The settings of a serial line. Eight data bits, as RTU needs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// Bits per second.
    pub baud: u32,
    /// The check bit of a character.
    pub parity: Parity,
    /// Stop bits: 1 or 2.
    pub stop: u8,
}

/// The check bit of a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parity {
    /// No such bit.
    None,
    /// The ones are even in number: the default of Modbus.
    Even,
    /// They are odd in number.
    Odd,
}

/// The text is not a setting of a serial line.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidLine {
    /// No such setting.
    #[error("`{0}` is unknown, `baud=`, `parity=` and `stop=` are allowed, with `&` between them")]
    Key(String),
    /// Not a speed.
    #[error("baud `{0}` is not possible, 300 to 4000000 is allowed")]
    Baud(String),
    /// Not a parity.
    #[error("parity `{0}` is unknown, none, even or odd is allowed")]
    Parity(String),
    /// Not a number of stop bits.
    #[error("stop `{0}` is not possible, 1 or 2 is allowed")]
    Stop(String),
}

/// From this speed on silences have a fixed length (Serial Line V1.02, section 2.5.1.1).
const FAST: u32 = 19_200;
const FAST_GAP: Duration = Duration::from_micros(1_750);

impl Default for Line {
    /// What the specification asks of every device (section 2.5.1).
    fn default() -> Self {
        Self { baud: 19_200, parity: Parity::Even, stop: 1 }
    }
}

impl Line {
    /// How long so many characters take.
    pub fn time(&self, characters: usize) -> Duration {
        let bits = 9 + u64::from(self.parity != Parity::None) + u64::from(self.stop);
        let nanos = u64::try_from(characters).unwrap_or(u64::MAX).saturating_mul(bits).saturating_mul(1_000_000_000);
        Duration::from_nanos(nanos / u64::from(self.baud.max(1)))
    }

    /// The silence that ends a frame: three and a half characters.
    pub fn gap(&self) -> Duration {
        if self.baud > FAST { FAST_GAP } else { self.time(7) / 2 }
    }
}

impl FromStr for Line {
    type Err = InvalidLine;

    fn from_str(query: &str) -> Result<Self, Self::Err> {
        let mut line = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(|| InvalidLine::Key(pair.to_owned()))?;
            let owned = || value.to_owned();
            match key {
                "baud" => {
                    let baud = value.parse().ok().filter(|baud| (300..=4_000_000).contains(baud));
                    line.baud = baud.ok_or_else(|| InvalidLine::Baud(owned()))?;
                }
                "parity" => {
                    line.parity = match value {
                        "none" => Parity::None,
                        "even" => Parity::Even,
                        "odd" => Parity::Odd,
                        _ => return Err(InvalidLine::Parity(owned())),
                    }
                }
                "stop" => {
                    let stop = value.parse().ok().filter(|stop| matches!(stop, 1 | 2));
                    line.stop = stop.ok_or_else(|| InvalidLine::Stop(owned()))?;
                }
                _ => return Err(InvalidLine::Key(key.to_owned())),
            }
        }
        Ok(line)
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parity = match self.parity {
            Parity::None => "none",
            Parity::Even => "even",
            Parity::Odd => "odd",
        };
        write!(f, "baud={}&parity={parity}&stop={}", self.baud, self.stop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_the_time_of_characters_and_silences() {
        // Eleven bits a character: start, eight, parity, stop.
        let slow = Line { baud: 9_600, ..Line::default() };
        assert_eq!(slow.time(8).as_micros(), 9_166);
        assert_eq!(slow.gap().as_micros(), 4_010);
        let fast = Line { baud: 115_200, parity: Parity::None, stop: 1 };
        assert_eq!(fast.time(1_152), Duration::from_millis(100));
        assert_eq!(fast.gap().as_micros(), 1_750);
    }
}
