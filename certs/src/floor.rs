//! The time by which everything here is issued and judged: the clock's, as far as it can be believed.
//!
//! Two things are known without any time source: some moments are past (this program was built, a certificate was issued,
//! a time was written down: the floor), and how long this process has run. So:
//! - a clock behind the floor is not believed; time then goes on from the floor as the process runs;
//! - a clock that steps by more than [`LEAP`] while the process runs, either way, is not believed until it has stood by
//!   its word for [`STEADY`], or the process starts anew. Devices are judged by the time as it was going on, and nothing
//!   is issued, because one of the two times is wrong and a certificate would be dated by it;
//! - the first believable reading after starting behind the floor is believed at once: that is a clock being set.
//!
//! Not here: where the floor is kept between runs (the caller writes [`Reading::now`] down while it is sound, and gives
//! it back with [`TimeFloor::raise`]).

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fieldgate_types::{BUILD_FLOOR, Clock, UnixMillis};
use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;
use thiserror::Error;

use crate::instant::rfc3339;

/// Steps up to this are believed: machines sleep for a weekend, clocks drift. Less than the third of a server
/// certificate's life that is left when it is replaced.
pub const LEAP: Duration = Duration::from_hours(7 * 24);
/// How long a clock must go on steadily after a leap to be believed.
pub const STEADY: Duration = Duration::from_hours(24);
/// How far a clock may wander within [`STEADY`].
const WANDER: Duration = Duration::from_hours(1);

/// What time it is, and how well that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// By this is judged.
    pub now: UnixMillis,
    /// How the clock stands to it.
    pub standing: Standing,
}

/// How far the clock can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is believed.
    Sound,
    /// It is behind a moment that is known to be past; time goes on from that moment.
    Behind {
        /// What the clock says.
        clock: UnixMillis,
    },
    /// It stepped too far while this process ran; time goes on as before the step.
    Leapt {
        /// What the clock says.
        clock: UnixMillis,
        /// For how long it must go on steadily to be believed.
        wait: Duration,
    },
}

/// Nothing is issued while the clock is in doubt.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "the clock stepped from {} to {} while the gateway ran, nothing is issued until it is certain which is right: \
     correct the clock, or restart the gateway if it is right now; it is believed by itself after {} minutes",
    rfc3339(*now), rfc3339(*clock), wait.as_secs().div_ceil(60)
)]
pub struct ClockLeapt {
    /// What time it would be without the step.
    pub now: UnixMillis,
    /// What the clock says.
    pub clock: UnixMillis,
    /// When it is believed.
    pub wait: Duration,
}

/// A moment, and how long the process had run by then.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: UnixMillis,
    running: Duration,
}

impl Mark {
    /// What time it is when the process has run for `running`.
    fn after(self, running: Duration) -> UnixMillis {
        self.at.plus(running.saturating_sub(self.running))
    }
}

struct State {
    /// It is at least this late.
    floor: Mark,
    /// The last believed reading, or the floor.
    anchor: Mark,
    /// Whether the anchor is a reading.
    believed: bool,
    /// The first reading after a leap.
    leap: Option<Mark>,
}

/// The clock, held to what is known. Shared by all that issue and judge.
pub struct TimeFloor {
    clock: Arc<dyn Clock>,
    /// Held for some comparisons, never over IO.
    state: Mutex<State>,
}

impl TimeFloor {
    /// The floor is the building of this program.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let mark = Mark { at: BUILD_FLOOR, running: clock.monotonic() };
        Self { clock, state: Mutex::new(State { floor: mark, anchor: mark, believed: false, leap: None }) }
    }

    /// `proof` is known to be past: the newest certificate's beginning, the time written down by an earlier run.
    /// Never lowers the floor.
    pub fn raise(&self, proof: UnixMillis) {
        let running = self.clock.monotonic();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if proof > state.floor.after(running) {
            state.floor = Mark { at: proof, running };
        }
    }

    /// The earliest moment that it can be now.
    pub fn floor(&self) -> UnixMillis {
        let running = self.clock.monotonic();
        self.state.lock().unwrap_or_else(PoisonError::into_inner).floor.after(running)
    }

    /// What time it is, and how well that is known.
    pub fn reading(&self) -> Reading {
        self.judge(self.clock.now())
    }

    /// What time it is.
    pub fn now(&self) -> UnixMillis {
        self.reading().now
    }

    /// `now` as a caller has it, from the same clock some time ago or from here: itself when it is near to the time by
    /// which is judged, otherwise that time. What a caller says is not the clock's word, and makes nothing be believed.
    pub fn at(&self, now: UnixMillis) -> UnixMillis {
        let judged = self.now();
        if apart(now, judged) <= LEAP { now.max(self.floor()) } else { judged }
    }

    fn judge(&self, wall: UnixMillis) -> Reading {
        let running = self.clock.monotonic();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let floor = state.floor.after(running);
        let expected = state.anchor.after(running).max(floor);
        if wall < floor {
            state.leap = None;
            return Reading { now: expected, standing: Standing::Behind { clock: wall } };
        }
        let believe = |state: &mut State| {
            state.anchor = Mark { at: wall, running };
            state.believed = true;
            state.leap = None;
            Reading { now: wall, standing: Standing::Sound }
        };
        if !state.believed || apart(wall, expected) <= LEAP {
            return believe(&mut state);
        }
        let same = state.leap.filter(|leap| apart(leap.after(running), wall) <= WANDER);
        let since = same.unwrap_or(Mark { at: wall, running });
        let steady = running.saturating_sub(since.running);
        if steady >= STEADY {
            return believe(&mut state);
        }
        state.leap = Some(since);
        Reading { now: expected, standing: Standing::Leapt { clock: wall, wait: STEADY.saturating_sub(steady) } }
    }

    /// The time to date certificates by. Behind the floor that is the floor and on, so that a box without a clock serves
    /// from its first start; after a leap there is none.
    pub fn for_issuing(&self) -> Result<UnixMillis, ClockLeapt> {
        let Reading { now, standing } = self.reading();
        match standing {
            Standing::Sound | Standing::Behind { .. } => Ok(now),
            Standing::Leapt { clock, wait } => Err(ClockLeapt { now, clock, wait }),
        }
    }

    /// How long the process has run.
    pub(crate) fn running(&self) -> Duration {
        self.clock.monotonic()
    }
}

fn apart(one: UnixMillis, other: UnixMillis) -> Duration {
    Duration::from_millis(one.0.abs_diff(other.0))
}

impl fmt::Debug for TimeFloor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeFloor").field("floor", &self.floor()).finish_non_exhaustive()
    }
}

impl TimeProvider for TimeFloor {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.now().0)))
    }
}

#[cfg(test)]
mod tests {
    use fieldgate_types::ManualClock;
    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_hours(24);
    const YEAR: Duration = Duration::from_hours(8766);
    const NOW: UnixMillis = UnixMillis(2_200_000_000_000);

    fn at(now: UnixMillis) -> (Arc<ManualClock>, TimeFloor) {
        let clock = Arc::new(ManualClock::new(now));
        let floor = TimeFloor::new(Arc::clone(&clock) as _);
        floor.now();
        (clock, floor)
    }

    fn back(from: UnixMillis, by: Duration) -> UnixMillis {
        UnixMillis(from.0 - u64::try_from(by.as_millis()).unwrap())
    }

    #[test]
    fn ten_years_either_way_change_nothing_for_a_day() {
        for wrong in [NOW.plus(10 * YEAR), back(NOW, 10 * YEAR), UnixMillis(0)] {
            let (clock, floor) = at(NOW);
            clock.step_to(wrong);
            clock.advance(DAY / 2);
            let reading = floor.reading();
            assert_eq!(reading.now, NOW.plus(DAY / 2), "time goes on");
            assert_ne!(reading.standing, Standing::Sound);
            // The clock is corrected: at once all is well.
            clock.step_to(NOW.plus(DAY / 2));
            assert_eq!(floor.reading(), Reading { now: NOW.plus(DAY / 2), standing: Standing::Sound });
        }
    }

    #[test]
    fn a_leap_is_believed_when_it_lasts_and_nothing_is_issued_until_then() {
        for leapt in [NOW.plus(10 * YEAR), back(NOW, 10 * YEAR)] {
            let (clock, floor) = at(NOW);
            clock.step_to(leapt);
            let error = floor.for_issuing().unwrap_err();
            assert_eq!((error.now, error.clock, error.wait), (NOW, leapt, STEADY));
            assert!(error.to_string().contains("restart the gateway"), "{error}");
            clock.advance(STEADY.checked_sub(Duration::from_millis(1)).unwrap());
            assert!(floor.for_issuing().is_err());
            clock.advance(Duration::from_millis(1));
            assert_eq!(floor.for_issuing(), Ok(leapt.plus(STEADY)));
        }
        // One that goes on leaping never is.
        let (clock, floor) = at(NOW);
        for year in 1..50 {
            clock.step_to(NOW.plus(year * YEAR));
            clock.advance(STEADY / 2);
            assert!(floor.for_issuing().is_err());
        }
    }

    #[test]
    fn a_clock_that_is_set_after_the_start_is_believed_at_once() {
        let (clock, floor) = at(UnixMillis(0));
        assert_eq!(floor.reading().standing, Standing::Behind { clock: UnixMillis(0) });
        assert_eq!(floor.for_issuing(), Ok(BUILD_FLOOR));
        clock.advance(40 * DAY);
        assert_eq!(floor.now(), BUILD_FLOOR.plus(40 * DAY), "time goes on without a clock");
        // A moment before what has been lived through can't be right.
        clock.step_to(BUILD_FLOOR.plus(39 * DAY));
        assert_eq!(floor.now(), BUILD_FLOOR.plus(40 * DAY));
        clock.step_to(NOW);
        assert_eq!(floor.for_issuing(), Ok(NOW));
    }

    #[test]
    fn what_a_caller_says_is_not_the_clock_s_word() {
        let (clock, floor) = at(UnixMillis(0));
        assert_eq!(floor.at(floor.now()), BUILD_FLOOR);
        clock.step_to(NOW);
        assert_eq!(floor.now(), NOW, "the first reading that can be right");
        clock.step_to(NOW.plus(YEAR));
        for _ in 0..24 {
            assert_eq!(floor.at(floor.now()), floor.now());
            assert!(floor.for_issuing().is_err());
            clock.advance(DAY / 24);
        }
        assert!(floor.for_issuing().is_ok(), "asking did not begin the day anew");
        assert_eq!(floor.at(UnixMillis(0)), floor.now());
    }

    #[test]
    fn a_proof_raises_the_floor_and_never_lowers_it() {
        let (clock, floor) = at(UnixMillis(0));
        floor.raise(NOW);
        floor.raise(BUILD_FLOOR);
        assert_eq!(floor.now(), NOW);
        clock.advance(DAY);
        assert_eq!(floor.floor(), NOW.plus(DAY));
    }

    proptest! {
        /// Whatever the clock does, the judged time never lies before a proof, and never goes back by more than a leap.
        #[test]
        fn judged_time_keeps_its_promises(steps in prop::collection::vec((0_u64..4_000_000_000_000, 0_u64..200), 1..60)) {
            let (clock, floor) = at(NOW);
            floor.raise(back(NOW, DAY));
            let mut before = floor.now();
            for (wall, hours) in steps {
                clock.step_to(UnixMillis(wall));
                let reading = floor.reading();
                prop_assert!(reading.now >= floor.floor());
                prop_assert!(reading.now.plus(LEAP) >= before, "went back");
                prop_assert!(reading.now <= before.plus(LEAP), "leapt");
                prop_assert_eq!(floor.for_issuing().is_err(), matches!(reading.standing, Standing::Leapt { .. }));
                // Below the day in which a leap would come to be believed.
                let passed = Duration::from_hours(hours.min(23));
                clock.advance(passed);
                before = reading.now.plus(passed);
            }
        }
    }
}
