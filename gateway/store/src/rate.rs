//! How fast the queue fills, and so how long it lasts: bytes received per second of running time, averaged with a weight that
//! falls to a third within an hour. Drained or not doesn't count: it answers "what if the upstream goes away now".
//!
//! After a start the average is that of the time since then.

use std::time::Duration;

use crate::record::RECORD_OVERHEAD;

/// Time constant of the average, in milliseconds.
const MEMORY: f64 = 3_600_000.0;
/// The average moves on in steps of this length, in milliseconds.
const STEP: u64 = 1_000;

/// The average.
#[derive(Debug)]
pub(crate) struct Rate {
    last: u64,
    bytes: u64,
    /// Bytes per millisecond, and the weight of all that it was made from.
    average: f64,
    weight: f64,
}

impl Rate {
    /// Begins at running time `now`.
    pub(crate) fn new(now: u64) -> Self {
        Self { last: now, bytes: 0, average: 0.0, weight: 0.0 }
    }

    /// `records` with bodies of `bytes` were stored.
    pub(crate) fn add(&mut self, records: usize, bytes: usize) {
        self.bytes += (records * RECORD_OVERHEAD / 2 + bytes) as u64;
    }

    /// Moves on to `now`; `true` when it has changed.
    #[allow(clippy::cast_precision_loss)] // an average
    pub(crate) fn advance(&mut self, now: u64) -> bool {
        let passed = now.saturating_sub(self.last);
        if passed < STEP {
            return false;
        }
        let keep = (-(passed as f64) / MEMORY).exp();
        self.average = self.average * keep + self.bytes as f64 / passed as f64 * (1.0 - keep);
        self.weight = self.weight * keep + (1.0 - keep);
        self.last = now;
        self.bytes = 0;
        true
    }

    /// How long `room` lasts; `None` while nothing comes, or for longer than a hundred years.
    #[allow(clippy::cast_precision_loss)] // an average
    pub(crate) fn lasts(&self, room: u64) -> Option<Duration> {
        let rate = self.average / self.weight;
        let seconds = room as f64 / rate / 1_000.0;
        (rate > 0.0 && seconds < 3.2e9).then(|| Duration::from_secs_f64(seconds.round()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_stream_gives_the_same_answer_early_and_late() {
        let mut rate = Rate::new(5_000);
        assert_eq!(rate.lasts(1 << 30), None);
        for second in 1..20_000_u64 {
            rate.add(10, 10 * 52);
            rate.advance(5_000 + second * 1_000);
            assert_eq!(rate.lasts(3_600_000), Some(Duration::from_secs(3_600)), "1,000 B/s, second {second}");
        }
    }

    #[test]
    fn an_hour_of_silence_leaves_a_third() {
        let mut rate = Rate::new(0);
        rate.add(0, 36_000_000);
        assert!(rate.advance(36_000_000));
        assert!(!rate.advance(36_000_500));
        rate.advance(39_600_000);
        let lasts = rate.lasts(1_000_000).unwrap().as_secs();
        assert!((2_600..2_800).contains(&lasts), "{lasts}");
    }
}
