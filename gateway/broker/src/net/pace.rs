//! So many newcomers a second, over all listeners: the others wait in line.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

/// So much of a second's worth may come at once: timers are no finer than a millisecond.
const BURST: Duration = Duration::from_millis(100);

/// The line.
#[derive(Debug)]
pub(super) struct Pace {
    /// Between two newcomers; `None`: no limit.
    interval: Option<Duration>,
    /// Held by whoever is first in line; the semaphore is fair, and one that gives up costs the others nothing.
    first: Semaphore,
    /// When the next would be due, had all come evenly.
    due: Mutex<Instant>,
}

impl Pace {
    /// `rate` newcomers a second; 0 = no limit.
    pub(super) fn new(rate: u32) -> Self {
        let interval = (rate > 0).then(|| Duration::from_secs(1) / rate);
        Self { interval, first: Semaphore::new(1), due: Mutex::new(Instant::now()) }
    }

    /// Waits for a turn. Whether there was something to wait for.
    pub(super) async fn turn(&self) -> bool {
        let Some(interval) = self.interval else { return false };
        let mut waited = self.first.available_permits() == 0;
        // The semaphore is never closed; without a permit there would just be no order among those that wait.
        let _first = self.first.acquire().await;
        while let Some(wait) = self.take(interval, Instant::now()) {
            waited = true;
            tokio::time::sleep(wait).await;
        }
        waited
    }

    /// Takes the turn, or says how long to wait for it.
    fn take(&self, interval: Duration, now: Instant) -> Option<Duration> {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let early = due.saturating_duration_since(now + BURST.saturating_sub(interval));
        if early.is_zero() {
            *due = (*due).max(now) + interval;
            return None;
        }
        Some(early)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    async fn passed_in_two_seconds(rate: u32, newcomers: usize) -> usize {
        let pace = Arc::new(Pace::new(rate));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..newcomers {
            let pace = Arc::clone(&pace);
            tasks.spawn(async move { tokio::time::timeout(Duration::from_secs(2), pace.turn()).await.is_ok() });
        }
        tasks.join_all().await.into_iter().filter(|passed| *passed).count()
    }

    #[tokio::test(start_paused = true)]
    async fn lets_so_many_through_a_second() {
        let passed = passed_in_two_seconds(500, 3_000).await;
        assert!((1_000..=1_051).contains(&passed), "{passed}");
        let passed = passed_in_two_seconds(3, 100).await;
        assert!((6..=7).contains(&passed), "{passed}");
        assert_eq!(passed_in_two_seconds(0, 3_000).await, 3_000);
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_give_up_cost_the_others_nothing() {
        let pace = Pace::new(10);
        assert!(!pace.turn().await);
        let mut impatient = Vec::new();
        for _ in 0..1_000 {
            impatient.push(Box::pin(pace.turn()));
        }
        for waiting in &mut impatient {
            assert!(futures_util::poll!(waiting).is_pending());
        }
        drop(impatient);
        let began = Instant::now();
        pace.turn().await;
        assert!(began.elapsed() <= Duration::from_millis(101), "{:?}", began.elapsed());
    }
}
