//! How often something may happen in a time, per key. Memory is bounded by the keys that the caller lets in, and what has
//! not happened lately is forgotten.

use std::collections::BTreeMap;
use std::time::Duration;

/// At most `times` within `window`, counted from the first of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allowance {
    pub(super) times: u32,
    pub(super) window: Duration,
}

#[derive(Debug)]
pub(super) struct Limiter<K> {
    allowance: Allowance,
    /// At most `most`; when more keys come within one window, the oldest is forgotten.
    counts: BTreeMap<K, Count>,
    most: usize,
}

#[derive(Debug, Clone, Copy)]
struct Count {
    since: Duration,
    times: u32,
}

impl<K: Ord + Clone> Limiter<K> {
    pub(super) fn new(allowance: Allowance, most: usize) -> Self {
        Self { allowance, counts: BTreeMap::new(), most }
    }

    /// It happens, and is counted; or it may not happen for so long. `running`: time that never steps.
    pub(super) fn take(&mut self, key: &K, running: Duration) -> Result<(), Duration> {
        let window = self.allowance.window;
        let over = |count: &Count| running >= count.since + window;
        if let Some(count) = self.counts.get_mut(key).filter(|count| !over(count)) {
            if count.times >= self.allowance.times {
                return Err((count.since + window).saturating_sub(running));
            }
            count.times += 1;
            return Ok(());
        }
        if self.counts.len() >= self.most && !self.counts.contains_key(key) {
            self.counts.retain(|_, count| !over(count));
            if self.counts.len() >= self.most {
                let oldest = self.counts.iter().min_by_key(|(_, count)| count.since).map(|(key, _)| key.clone());
                oldest.map(|key| self.counts.remove(&key));
            }
        }
        self.counts.insert(key.clone(), Count { since: running, times: 1 });
        Ok(())
    }

    /// It was none.
    pub(super) fn give_back(&mut self, key: &K) {
        if let Some(count) = self.counts.get_mut(key) {
            count.times = count.times.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn counts_within_the_window_and_forgets_after_it() {
        let mut limiter = Limiter::new(Allowance { times: 2, window: MINUTE }, 3);
        let at = Duration::from_secs;
        assert_eq!(limiter.take(&"a", at(0)), Ok(()));
        assert_eq!(limiter.take(&"a", at(10)), Ok(()));
        assert_eq!(limiter.take(&"a", at(10)), Err(at(50)));
        assert_eq!(limiter.take(&"b", at(10)), Ok(()));
        limiter.give_back(&"a");
        assert_eq!(limiter.take(&"a", at(20)), Ok(()));
        assert_eq!(limiter.take(&"a", at(59)), Err(at(1)));
        assert_eq!(limiter.take(&"a", at(60)), Ok(()));
    }

    #[test]
    fn holds_no_more_keys_than_it_may() {
        let mut limiter = Limiter::new(Allowance { times: 1, window: MINUTE }, 3);
        for key in 0..1000_u32 {
            limiter.take(&key, Duration::from_millis(u64::from(key))).unwrap();
            assert!(limiter.counts.len() <= 3);
        }
        assert!(limiter.take(&999, Duration::from_secs(1)).is_err());
        assert!(limiter.take(&0, Duration::from_secs(1)).is_ok());
    }
}
