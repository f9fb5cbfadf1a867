//! How long to wait before the next try.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

/// Exponential back-off with full jitter between a minimum and a maximum (DESIGN section 3).
#[derive(Debug, Clone)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    ceiling: Duration,
    random: u64,
}

impl Backoff {
    /// The wait on field links: 250 ms to 5 s.
    pub fn field_link() -> Self {
        Self::new(Duration::from_millis(250), Duration::from_secs(5))
    }

    /// Waits between `min` and `max`.
    pub fn new(min: Duration, max: Duration) -> Self {
        let random = RandomState::new().build_hasher().finish() | 1;
        Self { min, max: max.max(min), ceiling: min, random }
    }

    /// The next wait: at least the minimum, at most the ceiling, which doubles each time up to the maximum.
    pub fn next_wait(&mut self) -> Duration {
        let span = self.ceiling.saturating_sub(self.min);
        self.ceiling = self.ceiling.saturating_mul(2).min(self.max);
        // xorshift64: spreads reconnects apart, needs no strength.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let share = u32::try_from(self.random >> 48).unwrap_or(0);
        self.min + span.mul_f64(f64::from(share) / 65_536.0)
    }

    /// After a good answer: back to the minimum.
    pub fn reset(&mut self) {
        self.ceiling = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_the_maximum_and_returns_to_the_minimum() {
        let mut backoff = Backoff::field_link();
        assert_eq!(backoff.next_wait(), Duration::from_millis(250));
        let mut longest = Duration::ZERO;
        for _ in 0..200 {
            let wait = backoff.next_wait();
            assert!(wait >= Duration::from_millis(250) && wait <= Duration::from_secs(5));
            longest = longest.max(wait);
        }
        assert!(longest > Duration::from_secs(3), "{longest:?}");
        backoff.reset();
        assert_eq!(backoff.next_wait(), Duration::from_millis(250));
    }
}
