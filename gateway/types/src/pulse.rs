//! Whether a loop still turns.
//!
//! A loop says at each turn until when it will have made the next one. Somebody else asks now and then whether that
//! moment has passed: then the loop hangs, whatever it is that it hangs in. A loop that waits for another part, which
//! has a pulse of its own, is excused while it does, so that one part that hangs is named and not all that wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::Clock;

/// A turn may take so long beyond what was said: a disk that syncs for seconds is slow, and not stuck.
pub const TURN: Duration = Duration::from_secs(30);

/// The pulse of one loop. Clones share it.
#[derive(Debug, Clone)]
pub struct Pulse {
    clock: Arc<dyn Clock>,
    /// Running time in milliseconds by which the next turn must have come; [`EXCUSED`] while there is no such time.
    due: Arc<AtomicU64>,
}

const EXCUSED: u64 = u64::MAX;

/// While a loop waits for another part. The turn begins when it ends.
#[derive(Debug)]
pub struct Excused(Pulse);

impl Drop for Excused {
    fn drop(&mut self) {
        self.0.beat();
    }
}

impl Pulse {
    /// Of a loop that begins now.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let pulse = Self { clock, due: Arc::default() };
        pulse.beat();
        pulse
    }

    fn now(&self) -> u64 {
        u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(EXCUSED - 1)
    }

    /// A turn was made; the next follows at once.
    pub fn beat(&self) {
        self.rest(Duration::ZERO);
    }

    /// A turn was made; the next follows within this time.
    pub fn rest(&self, time: Duration) {
        let within = u64::try_from((time.saturating_add(TURN)).as_millis()).unwrap_or(EXCUSED);
        self.due.store(self.now().saturating_add(within).min(EXCUSED - 1), Ordering::Relaxed);
    }

    /// What follows waits for a part that has a pulse of its own, or for room that such a part makes.
    pub fn excuse(&self) -> Excused {
        self.due.store(EXCUSED, Ordering::Relaxed);
        Excused(self.clone())
    }

    /// The loop has ended in order: no turn is due any more.
    pub fn end(&self) {
        self.due.store(EXCUSED, Ordering::Relaxed);
    }

    /// For how long the next turn is overdue; `None` while it isn't.
    pub fn overdue(&self) -> Option<Duration> {
        let due = self.due.load(Ordering::Relaxed);
        self.now().checked_sub(due).filter(|late| *late > 0).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ManualClock, UnixMillis};

    #[test]
    fn a_turn_is_overdue_after_the_time_that_was_said_and_a_while() {
        let clock = Arc::new(ManualClock::new(UnixMillis(0)));
        let pulse = Pulse::new(Arc::clone(&clock) as _);
        clock.advance(TURN);
        assert_eq!(pulse.overdue(), None);
        clock.advance(Duration::from_secs(2));
        assert_eq!(pulse.overdue(), Some(Duration::from_secs(2)));
        pulse.rest(Duration::from_secs(60));
        clock.advance(TURN + Duration::from_secs(60));
        assert_eq!(pulse.overdue(), None);
        clock.advance(Duration::from_secs(1));
        assert_eq!(pulse.clone().overdue(), Some(Duration::from_secs(1)));
    }

    #[test]
    fn who_waits_for_another_part_is_excused_until_it_goes_on() {
        let clock = Arc::new(ManualClock::new(UnixMillis(0)));
        let pulse = Pulse::new(Arc::clone(&clock) as _);
        let waiting = pulse.excuse();
        clock.advance(TURN * 100);
        assert_eq!(pulse.overdue(), None);
        drop(waiting);
        assert_eq!(pulse.overdue(), None);
        clock.advance(TURN + Duration::from_secs(1));
        assert_eq!(pulse.overdue(), Some(Duration::from_secs(1)));
        pulse.end();
        assert_eq!(pulse.overdue(), None);
    }
}
