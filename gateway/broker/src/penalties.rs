//! Who was disconnected for publishing where it may not: after three times in a minute, its CONNECT waits 10 s
//! (DESIGN section 4). MQTT 3.1.1 has no better answer, and its clients reconnect at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const WITHIN: Duration = Duration::from_secs(60);
const TIMES: usize = 3;
/// How long a CONNECT waits.
pub(crate) const DELAY: Duration = Duration::from_secs(10);

/// Recent offences by identity: bounded by the identities there are, three moments each.
#[derive(Debug, Default)]
pub(crate) struct Penalties {
    recent: Mutex<HashMap<Arc<str>, Vec<Duration>>>,
}

impl Penalties {
    /// It happened (running time).
    pub(crate) fn note(&self, id: &Arc<str>, now: Duration) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let times = recent.entry(Arc::clone(id)).or_default();
        times.push(now);
        if times.len() > TIMES {
            times.remove(0);
        }
    }

    /// How long a CONNECT of `id` has to wait.
    pub(crate) fn delay(&self, id: &str, now: Duration) -> Duration {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(times) = recent.get_mut(id) else { return Duration::ZERO };
        times.retain(|time| now.saturating_sub(*time) < WITHIN);
        let penalty = times.len() >= TIMES;
        if times.is_empty() {
            recent.remove(id);
        }
        if penalty { DELAY } else { Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_third_offence_in_a_minute_costs_ten_seconds() {
        let penalties = Penalties::default();
        let id: Arc<str> = "d".into();
        for second in [0, 10, 50] {
            assert_eq!(penalties.delay("d", Duration::from_secs(second)), Duration::ZERO);
            penalties.note(&id, Duration::from_secs(second));
        }
        assert_eq!(penalties.delay("d", Duration::from_secs(51)), DELAY);
        assert_eq!(penalties.delay("e", Duration::from_secs(51)), Duration::ZERO);
        assert_eq!(penalties.delay("d", Duration::from_secs(61)), Duration::ZERO);
    }
}
