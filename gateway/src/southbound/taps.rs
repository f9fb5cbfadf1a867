//! What devices send, for people who look at one of them: the last message of each stream, kept from the first look until
//! a minute after the last one. Nothing is kept of a device that nobody looks at.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fieldgate_types::{DeviceId, UnixMillis};

/// Devices at a time. Full: the one that nobody has looked at for longest is let go of.
const DEVICES: usize = 32;
/// Streams of a device. Full: further ones are not shown.
const STREAMS: usize = 32;
/// The beginning of a payload that is kept.
const SHOWN: usize = 256;
/// How long after the last look.
const AFTER: Duration = Duration::from_secs(60);

/// The last message of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// The beginning of its payload.
    pub payload: Bytes,
    /// The size of it.
    pub size: usize,
    /// When it came.
    pub at: UnixMillis,
    /// How many came since the first look.
    pub count: u64,
}

#[derive(Debug, Default)]
struct Watched {
    looked: Duration,
    streams: BTreeMap<String, Heard>,
}

/// The devices that somebody looks at.
#[derive(Debug, Default)]
pub struct Taps {
    /// As many are watched: what is sent while there are none costs one look at this.
    count: AtomicUsize,
    watched: Mutex<HashMap<DeviceId, Watched>>,
}

impl Taps {
    fn watched(&self) -> MutexGuard<'_, HashMap<DeviceId, Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What came of `device` since the first look, by topic. `now` is running time.
    pub fn look(&self, device: &DeviceId, now: Duration) -> BTreeMap<String, Heard> {
        let mut watched = self.watched();
        watched.retain(|_, one| now.saturating_sub(one.looked) < AFTER);
        if watched.len() >= DEVICES
            && !watched.contains_key(device)
            && let Some(oldest) = watched.iter().min_by_key(|(_, one)| one.looked).map(|(id, _)| id.clone())
        {
            watched.remove(&oldest);
        }
        let one = watched.entry(device.clone()).or_default();
        one.looked = now;
        let streams = one.streams.clone();
        self.count.store(watched.len(), Ordering::Relaxed);
        streams
    }

    /// Whether anybody looks at anything.
    pub fn any(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// A message of `device`.
    pub fn hear(&self, device: &DeviceId, topic: &str, payload: &Bytes, at: UnixMillis, now: Duration) {
        let mut watched = self.watched();
        let Some(one) = watched.get_mut(device) else { return };
        if now.saturating_sub(one.looked) >= AFTER {
            watched.remove(device);
            self.count.store(watched.len(), Ordering::Relaxed);
            return;
        }
        let shown = payload.get(..SHOWN).unwrap_or(payload);
        if let Some(heard) = one.streams.get_mut(topic) {
            // A copy: a slice would keep the whole of what was received in memory.
            *heard = Heard { payload: Bytes::copy_from_slice(shown), size: payload.len(), at, count: heard.count + 1 };
        } else if one.streams.len() < STREAMS {
            let heard = Heard { payload: Bytes::copy_from_slice(shown), size: payload.len(), at, count: 1 };
            one.streams.insert(topic.to_owned(), heard);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn id(text: &str) -> DeviceId {
        DeviceId::new(text).unwrap()
    }

    #[test]
    fn what_is_looked_at_is_kept_bounded_and_forgotten_afterwards() {
        let taps = Taps::default();
        let say = |device: &str, topic: &str, payload: &str, now: Duration| {
            taps.hear(&id(device), topic, &Bytes::copy_from_slice(payload.as_bytes()), UnixMillis(5), now);
        };
        say("a", "t", "before", SECOND);
        assert!(!taps.any() && taps.look(&id("a"), SECOND).is_empty() && taps.any());
        say("a", "t", "1", SECOND);
        say("a", "t", &"2".repeat(SHOWN * 2), SECOND);
        say("b", "t", "not looked at", SECOND);
        for n in 0..STREAMS * 2 {
            say("a", &format!("u{n}"), "x", SECOND);
        }
        let heard = taps.look(&id("a"), SECOND * 2);
        let t = &heard["t"];
        assert_eq!((heard.len(), t.payload.len(), t.size, t.count), (STREAMS, SHOWN, SHOWN * 2, 2));
        say("a", "t", "late", SECOND * 62);
        assert!(!taps.any() && taps.look(&id("a"), SECOND * 63).is_empty());
        for (n, eighths) in (0..DEVICES * 2).zip(512..) {
            taps.look(&id(&n.to_string()), SECOND * eighths / 8);
        }
        assert_eq!(taps.watched().len(), DEVICES);
    }
}
