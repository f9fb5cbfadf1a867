//! Refusals of somebody unknown, gathered by address: anybody who reaches a port can cause them, and a line for each would
//! push what matters out of the log. Who has proven who it is, and is refused all the same, is none of these.
//!
//! The first refusal of an address is worth a line at once, and so is the first for each further reason, up to [`REASONS`]: who
//! sets a device up makes one mistake after the other. The rest are counted and become one line a minute, until a minute
//! passes without one. [`MOST`] addresses are told apart: while so many are noted, the refusals of all others are one count
//! together. So a flood of any shape costs at most `MOST * (REASONS + 1) + 1` lines a minute, one that goes on from the same
//! addresses `MOST + 1`, and as little memory.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::time::Duration;

/// Addresses that are told apart.
const MOST: usize = 32;
/// Reasons of an address that are told apart.
const REASONS: usize = 8;
/// Letters of the last reason that are kept.
const LONGEST: usize = 200;
/// How long is counted before it is told.
const MINUTE: Duration = Duration::from_secs(60);

/// What somebody unknown was refused; each is gathered on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stranger {
    /// A request at the admin address, with a token that nobody has.
    Request,
    /// A connection of a device.
    Connection,
    /// A certificate.
    Enrolment,
}

impl Stranger {
    /// All of them.
    pub(super) const ALL: [Self; 3] = [Self::Request, Self::Connection, Self::Enrolment];

    /// What there is for this one.
    pub(super) fn of(self, all: &mut [Strangers; 3]) -> &mut Strangers {
        let [requests, connections, enrolments] = all;
        match self {
            Self::Request => requests,
            Self::Connection => connections,
            Self::Enrolment => enrolments,
        }
    }
}

/// One address, or all others together.
#[derive(Debug)]
struct Seen {
    /// On the monotonic clock.
    since: Duration,
    more: u64,
    /// Hashes of those that had a line.
    reasons: Vec<u64>,
    last: String,
}

impl Seen {
    fn new(since: Duration) -> Self {
        Self { since, more: 0, reasons: Vec::new(), last: String::new() }
    }

    fn ends(&self) -> Duration {
        self.since.saturating_add(MINUTE)
    }

    fn count(&mut self, reason: &str) {
        self.more += 1;
        self.last.clear();
        self.last.extend(reason.chars().take(LONGEST));
    }

    /// Whether this reason is a new one that can be told apart.
    fn is_news(&mut self, reason: &str) -> bool {
        let mut hasher = DefaultHasher::new();
        reason.hash(&mut hasher);
        let hash = hasher.finish();
        let news = self.reasons.len() < REASONS && !self.reasons.contains(&hash);
        if news {
            self.reasons.push(hash);
        }
        news
    }
}

/// What was counted of an address.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Count {
    /// None: all that are not told apart.
    pub peer: Option<IpAddr>,
    pub more: u64,
    /// Why the last of them was refused.
    pub last: String,
}

/// Who was refused in the last minute. Moments are arguments, of the monotonic clock.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    known: HashMap<IpAddr, Seen>,
    others: Option<Seen>,
}

impl Strangers {
    /// Counts a refusal; `true`: it is worth a line of its own, and isn't among those told later.
    pub(super) fn note(&mut self, peer: IpAddr, reason: &str, now: Duration) -> bool {
        if !self.known.contains_key(&peer) && self.known.len() >= MOST {
            self.others.get_or_insert_with(|| Seen::new(now)).count(reason);
            return false;
        }
        let seen = self.known.entry(peer).or_insert_with(|| Seen::new(now));
        let news = seen.is_news(reason);
        if !news {
            seen.count(reason);
        }
        news
    }

    /// When [`Strangers::take`] has something to do next.
    pub(super) fn due(&self) -> Option<Duration> {
        self.known.values().chain(&self.others).map(Seen::ends).min()
    }

    /// What was counted in the minutes that are over at `now`.
    pub(super) fn take(&mut self, now: Duration) -> Vec<Count> {
        let mut told = Vec::new();
        self.known.retain(|peer, seen| {
            if seen.ends() > now {
                return true;
            }
            let again = seen.more > 0;
            if again {
                let (more, last) = (std::mem::take(&mut seen.more), std::mem::take(&mut seen.last));
                told.push(Count { peer: Some(*peer), more, last });
                seen.since = now;
            }
            again
        });
        told.sort_unstable_by_key(|count| count.peer);
        let others = self.others.take_if(|seen| seen.ends() <= now);
        told.extend(others.map(|seen| Count { peer: None, more: seen.more, last: seen.last }));
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHY: &str = "no certificate";

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn count(of: Option<u8>, more: u64, last: &str) -> Count {
        Count { peer: of.map(address), more, last: last.to_owned() }
    }

    #[test]
    fn the_first_is_a_line_and_the_rest_a_count_a_minute_until_it_is_quiet() {
        let mut strangers = Strangers::default();
        assert_eq!(strangers.due(), None);
        assert!(strangers.note(address(1), WHY, at(10)));
        assert!((0..5).all(|_| !strangers.note(address(1), WHY, at(20))));
        assert!(strangers.note(address(2), WHY, at(40)), "another address has a line of its own");
        assert_eq!(strangers.due(), Some(at(70)));
        assert_eq!(strangers.take(at(69)), []);
        assert_eq!(strangers.take(at(70)), [count(Some(1), 5, WHY)]);
        assert!(!strangers.note(address(1), WHY, at(71)), "the flood goes on");
        assert_eq!(strangers.take(at(130)), [count(Some(1), 1, WHY)]);
        assert_eq!(strangers.take(at(190)), [], "a quiet minute");
        assert_eq!(strangers.due(), None);
        assert!(strangers.note(address(1), WHY, at(200)));
    }

    #[test]
    fn each_reason_of_an_address_is_a_line_once_and_only_so_many_are() {
        let mut strangers = Strangers::default();
        let mut lines =
            |seconds| (0..100).filter(|n| strangers.note(address(1), &format!("no `{n}`"), at(seconds))).count();
        assert_eq!((lines(0), lines(1)), (REASONS, 0));
        assert_eq!(strangers.take(at(60)), [count(Some(1), 200 - REASONS as u64, "no `99`")]);
        assert!(!strangers.note(address(1), &"x".repeat(1_000), at(61)), "a flood that goes on has had its lines");
        assert_eq!(strangers.take(at(120)), [count(Some(1), 1, &"x".repeat(LONGEST))]);
    }

    #[test]
    fn more_addresses_than_can_be_told_apart_are_one_count() {
        let mut strangers = Strangers::default();
        let lines = (0..=u8::MAX).filter(|last| strangers.note(address(*last), WHY, at(0))).count();
        assert_eq!((lines, strangers.known.len()), (MOST, MOST));
        assert_eq!(strangers.take(at(60)), [count(None, 256 - MOST as u64, WHY)]);
        assert!(strangers.note(address(200), WHY, at(61)), "there is a place again");
    }
}
