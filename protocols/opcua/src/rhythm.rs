//! How points are looked at: the keys that a device has as defaults, and its points and subtrees as their own.

use std::time::Duration;

use fieldgate_types::Section;

use crate::filter::Keys;

const SAMPLING: (Duration, Duration) = (Duration::ZERO, Duration::from_hours(1));
const QUEUE: (u32, u32) = (1, 10_000);

/// How a point is looked at: of a device the defaults of its points and subtrees.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rhythm {
    pub(crate) sampling: Duration,
    pub(crate) queue: u32,
    pub(crate) history: bool,
    pub(crate) keys: Keys,
}

impl Default for Rhythm {
    fn default() -> Self {
        Self { sampling: Duration::from_millis(100), queue: 10, history: false, keys: Keys::default() }
    }
}

impl Rhythm {
    pub(crate) fn read(section: &Section, default: &Self) -> Self {
        Self {
            sampling: section.duration("sampling", SAMPLING.0..=SAMPLING.1, default.sampling),
            queue: section.number("queue", QUEUE.0..=QUEUE.1, default.queue),
            history: section.get_or("history", default.history),
            keys: Keys::read(section, default.keys),
        }
    }
}

/// Keys that ask something of a subscription, where there is none.
pub(crate) fn unsubscribed(section: &Section, keys: &[&'static str]) {
    for key in keys {
        if section.has(key) {
            section.problem(key, "has no meaning with the device's `interval`, which polls instead of subscribing");
        }
    }
}
