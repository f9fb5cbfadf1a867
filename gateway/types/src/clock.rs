//! What time it is, asked of an object so that tests and odd boxes can answer.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// This instant and `later`.
    pub fn plus(self, later: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(later.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier`; zero when it isn't.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Whole seconds since 1970.
    pub fn as_secs(self) -> u64 {
        self.0 / 1000
    }
}

impl fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Source of the time.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Wall clock. May step, either way.
    fn now(&self) -> UnixMillis;
    /// Running time since some fixed moment of this process. Never steps.
    fn monotonic(&self) -> Duration;
    /// Whether the wall clock can be right: not before this program was built.
    fn plausible(&self) -> bool {
        self.now() >= BUILD_FLOOR
    }
}

/// No true clock reads earlier than this (2026-11-01): the program did not exist.
pub const BUILD_FLOOR: UnixMillis = UnixMillis(1_793_491_200_000);

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// Running time counts from now.
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> UnixMillis {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMillis(0).plus(since)
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A clock that a test moves.
#[derive(Debug)]
pub struct ManualClock {
    at: Mutex<(UnixMillis, Duration)>,
}

impl ManualClock {
    /// Reads `now` until moved.
    pub fn new(now: UnixMillis) -> Self {
        Self { at: Mutex::new((now, Duration::ZERO)) }
    }

    /// Lets time pass: wall and running time alike.
    pub fn advance(&self, by: Duration) {
        let mut at = self.at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        at.0 = at.0.plus(by);
        at.1 += by;
    }

    /// Steps the wall clock alone.
    pub fn step_to(&self, now: UnixMillis) {
        self.at.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0 = now;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> UnixMillis {
        self.at.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0
    }

    fn monotonic(&self) -> Duration {
        self.at.lock().unwrap_or_else(std::sync::PoisonError::into_inner).1
    }
}
