//! Running time: the measure by which records grow old.
//!
//! A step of the wall clock must not empty the buffer, so ages count in milliseconds of running time. It goes on with
//! the monotonic clock while the gateway runs and is saved once a minute. Over a stop or crash it advances by what the
//! wall clock says, if that was right on both sides: plausible when saved and plausible now, not backwards, and
//! not by more than [`LONGEST_GAP`], which is taken for a clock set wrongly. Otherwise the stop counts as no time: data
//! is then kept longer than asked for, never shorter. A wrong clock that is off by days after a stop can't be told
//! from a long stop.

use std::sync::Arc;
use std::time::Duration;

use fieldgate_types::{Clock, UnixMillis};

/// A longer stop than this is taken for a wrong clock.
pub(crate) const LONGEST_GAP: Duration = Duration::from_secs(365 * 86_400);

/// What is kept in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Saved {
    /// Running time in milliseconds.
    pub running: u64,
    /// The wall clock at that moment; zero where it was not plausible.
    pub wall: u64,
}

/// The running clock of one queue.
#[derive(Debug, Clone)]
pub(crate) struct RunningTime {
    clock: Arc<dyn Clock>,
    base: u64,
    origin: Duration,
}

impl RunningTime {
    /// Goes on from `saved`, and never before `newest`, the birth of the youngest record.
    pub(crate) fn resume(clock: Arc<dyn Clock>, saved: Option<Saved>, newest: u64) -> Self {
        let stopped = saved.map_or(Duration::ZERO, |saved| stopped_for(&*clock, saved));
        let saved = saved.map_or(0, |saved| saved.running);
        let base = saved.saturating_add(millis(stopped)).max(newest);
        let origin = clock.monotonic();
        Self { clock, base, origin }
    }

    /// Running time in milliseconds.
    pub(crate) fn now(&self) -> u64 {
        self.base.saturating_add(millis(self.clock.monotonic().saturating_sub(self.origin)))
    }

    /// The wall clock.
    pub(crate) fn wall(&self) -> UnixMillis {
        self.clock.now()
    }

    /// What to keep in the file now.
    pub(crate) fn save(&self) -> Saved {
        let wall = if self.clock.plausible() { self.clock.now().0 } else { 0 };
        Saved { running: self.now(), wall }
    }
}

fn stopped_for(clock: &dyn Clock, saved: Saved) -> Duration {
    if saved.wall == 0 || !clock.plausible() {
        return Duration::ZERO;
    }
    let gap = clock.now().since(UnixMillis(saved.wall));
    if gap > LONGEST_GAP { Duration::ZERO } else { gap }
}

/// Whole milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use fieldgate_types::{BUILD_FLOOR, ManualClock};

    use super::*;

    fn resumed(saved_wall: u64, now: u64) -> u64 {
        let clock = Arc::new(ManualClock::new(UnixMillis(now)));
        RunningTime::resume(clock, Some(Saved { running: 1_000, wall: saved_wall }), 0).now()
    }

    #[test]
    fn a_stop_counts_where_the_clock_was_right_on_both_sides() {
        let wall = BUILD_FLOOR.0 + 5_000;
        assert_eq!(resumed(wall, wall + 250), 1_250);
        assert_eq!(resumed(0, wall), 1_000, "not plausible when saved");
        assert_eq!(resumed(wall, 77), 1_000, "not plausible now");
        assert_eq!(resumed(wall, wall - 4_000), 1_000, "backwards");
        assert_eq!(resumed(wall, wall + 10 * millis(LONGEST_GAP)), 1_000, "ten years");
    }

    #[test]
    fn a_step_of_the_wall_clock_while_running_changes_nothing() {
        let clock = Arc::new(ManualClock::new(BUILD_FLOOR));
        let running = RunningTime::resume(Arc::<ManualClock>::clone(&clock), None, 42);
        clock.advance(Duration::from_secs(1));
        clock.step_to(UnixMillis(BUILD_FLOOR.0 * 2));
        assert_eq!(running.now(), 1_042);
        clock.step_to(UnixMillis(3));
        assert_eq!(running.now(), 1_042);
        assert_eq!(running.save(), Saved { running: 1_042, wall: 0 });
    }
}
