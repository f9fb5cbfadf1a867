//! Refusals of somebody unknown, gathered by address: anybody who reaches a port can cause them, and a line for each would
//! push what matters out of the log.
//!
//! The first refusal of an address is worth a line at once; further ones are counted and become one line a minute, until a
//! minute passes without one. [`MOST`] addresses are told apart: while so many are noted, the refusals of all others
//! are one count together. So a flood of any shape costs at most `2 * MOST + 1` lines a minute, and as little memory.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// Addresses that are told apart.
const MOST: usize = 32;
/// How long is counted before it is told.
const MINUTE: Duration = Duration::from_secs(60);

/// One address, or all others together.
#[derive(Debug)]
struct Seen {
    /// On the monotonic clock.
    since: Duration,
    more: u64,
}

impl Seen {
    fn ends(&self) -> Duration {
        self.since.saturating_add(MINUTE)
    }
}

/// Who was refused in the last minute. Moments are arguments, of the monotonic clock.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    known: HashMap<IpAddr, Seen>,
    others: Option<Seen>,
}

impl Strangers {
    /// Counts a refusal; `true`: it is worth a line of its own, and isn't among those told later.
    pub(super) fn note(&mut self, peer: IpAddr, now: Duration) -> bool {
        if let Some(seen) = self.known.get_mut(&peer) {
            seen.more += 1;
            return false;
        }
        if self.known.len() < MOST {
            self.known.insert(peer, Seen { since: now, more: 0 });
            return true;
        }
        self.others.get_or_insert(Seen { since: now, more: 0 }).more += 1;
        false
    }

    /// When [`Strangers::take`] has something to do next.
    pub(super) fn due(&self) -> Option<Duration> {
        self.known.values().chain(&self.others).map(Seen::ends).min()
    }

    /// What was counted in the minutes that are over at `now`; no address: of all that are not told apart.
    pub(super) fn take(&mut self, now: Duration) -> Vec<(Option<IpAddr>, u64)> {
        let mut told = Vec::new();
        self.known.retain(|peer, seen| {
            if seen.ends() > now {
                return true;
            }
            let again = seen.more > 0;
            if again {
                told.push((Some(*peer), std::mem::take(&mut seen.more)));
                seen.since = now;
            }
            again
        });
        told.sort_unstable();
        told.extend(self.others.take_if(|seen| seen.ends() <= now).map(|seen| (None, seen.more)));
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_first_is_a_line_and_the_rest_a_count_a_minute_until_it_is_quiet() {
        let mut strangers = Strangers::default();
        assert_eq!(strangers.due(), None);
        assert!(strangers.note(address(1), at(10)));
        assert!((0..5).all(|_| !strangers.note(address(1), at(20))));
        assert!(strangers.note(address(2), at(40)), "another address has a line of its own");
        assert_eq!(strangers.due(), Some(at(70)));
        assert_eq!(strangers.take(at(69)), []);
        assert_eq!(strangers.take(at(70)), [(Some(address(1)), 5)]);
        assert!(!strangers.note(address(1), at(71)), "the flood goes on");
        assert_eq!(strangers.take(at(130)), [(Some(address(1)), 1)]);
        assert_eq!(strangers.take(at(190)), [], "a quiet minute");
        assert_eq!(strangers.due(), None);
        assert!(strangers.note(address(1), at(200)));
    }

    #[test]
    fn more_addresses_than_can_be_told_apart_are_one_count() {
        let mut strangers = Strangers::default();
        let lines = (0..=u8::MAX).filter(|last| strangers.note(address(*last), at(0))).count();
        assert_eq!((lines, strangers.known.len()), (MOST, MOST));
        assert_eq!(strangers.take(at(60)), [(None, 256 - MOST as u64)]);
        assert!(strangers.note(address(200), at(61)), "there is a place again");
    }
}
