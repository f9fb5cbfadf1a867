//! How replayed messages go, and how fast they may.

use std::time::Duration;

use tokio::time::Instant;

/// How what waited for a connection is replayed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Replay {
    /// Beside what comes, which goes first; else before it, everything in its order.
    pub live_first: bool,
    /// Messages a second at most; `None` for as fast as it goes.
    pub rate: Option<u32>,
}

/// A token bucket that holds a tenth of a second. Unlimited without a rate.
#[derive(Debug)]
pub(super) struct Pace {
    /// Between two messages.
    gap: Option<Duration>,
    /// When the next message may go if none is saved up.
    due: Instant,
}

impl Pace {
    /// At most `rate` messages per second.
    pub fn new(rate: Option<u32>, now: Instant) -> Self {
        let gap = rate.filter(|rate| *rate > 0).map(|rate| Duration::from_secs(1) / rate);
        Self { gap, due: now }
    }

    /// Takes the right to send one replayed message now, or says when to ask again.
    pub fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let Some(gap) = self.gap else { return Ok(()) };
        let burst = (Duration::from_millis(100)).max(gap);
        // What was not used is saved up for one burst at most.
        self.due = self.due.max(now.checked_sub(burst).unwrap_or(now) + gap);
        if self.due > now {
            return Err(self.due);
        }
        self.due += gap;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_to_the_rate() {
        let start = Instant::now();
        for rate in [1, 50, 1000] {
            let mut pace = Pace::new(Some(rate), start);
            let (mut now, mut sent) = (start, 0);
            while now < start + Duration::from_secs(10) {
                match pace.take(now) {
                    Ok(()) => sent += 1,
                    Err(due) => now = due,
                }
            }
            assert!((rate * 10..=rate * 10 + rate / 10 + 1).contains(&sent), "{rate}: {sent}");
        }
        assert_eq!(Pace::new(None, start).take(start), Ok(()));
        assert_eq!(Pace::new(Some(0), start).take(start), Ok(()));
    }
}
