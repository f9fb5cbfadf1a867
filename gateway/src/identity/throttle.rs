//! Wrong passwords, counted by user name and address: after a few in a minute there are no further tries for a while.
//! By address too, so that a stranger can't lock a user out. Pure.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// Wrong passwords within [`WITHIN`] that end the tries.
const TRIES: usize = 5;
const WITHIN: Duration = Duration::from_secs(60);
/// Most names and addresses remembered. Full: what was quiet for longest is forgotten.
const MOST: usize = 1_024;

/// A user name and where it was tried from.
pub type Try = (Box<str>, IpAddr);

#[derive(Debug, Default)]
pub(super) struct Throttle {
    /// Moments of wrong passwords, oldest first, at most [`TRIES`].
    wrong: HashMap<Try, Vec<Duration>>,
}

/// The address, of IPv6 the network: whoever has one address there has them all.
pub fn from(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & !u128::from(u64::MAX)).into()),
        address @ IpAddr::V4(_) => address,
    }
}

impl Throttle {
    /// How long until the next try; zero when now.
    pub(super) fn wait(&mut self, of: &Try, now: Duration) -> Duration {
        let Some(times) = self.wrong.get(of).filter(|times| times.len() >= TRIES) else { return Duration::ZERO };
        times.first().map_or(Duration::ZERO, |oldest| (*oldest + WITHIN).saturating_sub(now))
    }

    /// A wrong password.
    pub(super) fn wrong(&mut self, of: Try, now: Duration) {
        if self.wrong.len() >= MOST && !self.wrong.contains_key(&of) {
            let quiet = self.wrong.iter().min_by_key(|(_, times)| times.last().copied()).map(|(of, _)| of.clone());
            if let Some(quiet) = quiet {
                self.wrong.remove(&quiet);
            }
        }
        let times = self.wrong.entry(of).or_default();
        times.push(now);
        if times.len() > TRIES {
            times.remove(0);
        }
    }

    /// A right one: its mistakes are forgiven.
    pub(super) fn right(&mut self, of: &Try) {
        self.wrong.remove(of);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn of(name: &str, address: &str) -> Try {
        (name.into(), from(address.parse().unwrap()))
    }

    #[test]
    fn five_wrong_passwords_in_a_minute_end_the_tries_for_the_rest_of_it() {
        let (mut throttle, hmi) = (Throttle::default(), of("hmi", "192.0.2.1"));
        for second in 0..5 {
            assert_eq!(throttle.wait(&hmi, SECOND * second), Duration::ZERO);
            throttle.wrong(hmi.clone(), SECOND * second);
        }
        assert_eq!(throttle.wait(&hmi, SECOND * 5), SECOND * 55);
        assert_eq!(throttle.wait(&of("hmi", "192.0.2.2"), SECOND * 5), Duration::ZERO);
        assert_eq!(throttle.wait(&of("scada", "192.0.2.1"), SECOND * 5), Duration::ZERO);
        assert_eq!(throttle.wait(&hmi, SECOND * 60), Duration::ZERO, "the first is forgotten");
        throttle.wrong(hmi.clone(), SECOND * 60);
        assert_eq!(throttle.wait(&hmi, SECOND * 60), SECOND);
        throttle.right(&hmi);
        assert_eq!(throttle.wait(&hmi, SECOND * 60), Duration::ZERO);
    }

    #[test]
    fn an_ipv6_network_is_one_address_and_the_table_is_bounded() {
        assert_eq!(of("a", "2001:db8::1"), of("a", "2001:db8::ffff:1"));
        assert_ne!(of("a", "2001:db8::1"), of("a", "2001:db8:0:1::1"));
        assert_eq!(of("a", "::ffff:192.0.2.1"), of("a", "192.0.2.1"));
        let mut throttle = Throttle::default();
        for n in 0..3_000 {
            throttle.wrong(of(&n.to_string(), "192.0.2.1"), SECOND * n);
        }
        assert_eq!(throttle.wrong.len(), MOST);
        assert!(throttle.wrong.contains_key(&of("2999", "192.0.2.1")));
    }
}
