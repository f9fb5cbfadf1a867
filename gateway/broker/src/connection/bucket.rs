//! The message-rate limit of a device: a token bucket. Pure.

use std::time::Duration;

/// Tokens come in at a rate, up to the burst.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: f64,
    burst: f64,
    tokens: f64,
    filled: Duration,
}

impl Bucket {
    /// Full. `None` when the rate is 0: no limit.
    pub(super) fn new(rate: u32, burst: u32, now: Duration) -> Option<Self> {
        let burst = f64::from(burst.max(1));
        (rate > 0).then(|| Self { rate: f64::from(rate), burst, tokens: burst, filled: now })
    }

    /// How long until a message may come: zero when now.
    pub(super) fn wait(&mut self, now: Duration) -> Duration {
        let gained = now.saturating_sub(self.filled).as_secs_f64() * self.rate;
        self.tokens = (self.tokens + gained).min(self.burst);
        self.filled = now;
        if self.tokens >= 1.0 {
            return Duration::ZERO;
        }
        // Waits for a tenth of a second's worth: one wake-up for several messages.
        Duration::from_secs_f64(((1.0 - self.tokens) / self.rate).max(0.1_f64.min(self.burst / self.rate)))
    }

    /// A message came.
    pub(super) fn spend(&mut self) {
        self.tokens -= 1.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lets_a_burst_through_and_then_the_rate() {
        let mut bucket = Bucket::new(200, 1_000, Duration::ZERO).unwrap();
        let mut now = Duration::ZERO;
        let mut sent = 0;
        while now < Duration::from_secs(10) {
            let wait = bucket.wait(now);
            if wait.is_zero() {
                bucket.spend();
                sent += 1;
            } else {
                now += wait;
            }
        }
        assert!((2_950..=3_050).contains(&sent), "{sent}");
        assert!(Bucket::new(0, 1, Duration::ZERO).is_none());
    }
}
