//! What a server grants of what it was asked for: it may publish and sample more slowly, and keep fewer values.

use std::collections::BTreeSet;
use std::time::Duration;

use opcua::types::StatusCode;

use super::Subscribed;
use crate::fault;

/// The worst of what was granted to the points of a device, as far as it is less than was asked for.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Granted {
    publishing: Option<(Duration, Duration)>,
    sampling: Option<Less<Duration>>,
    queue: Option<Less<u32>>,
    /// How many points are not filtered as asked, and why the first is not.
    unfiltered: Option<(BTreeSet<usize>, StatusCode)>,
    /// How many points are not told with another as asked, and why the first is not.
    unlinked: Option<(BTreeSet<usize>, StatusCode)>,
}

#[derive(Debug, Clone, PartialEq)]
struct Less<T> {
    points: usize,
    asked: T,
    granted: T,
}

impl Granted {
    /// The server publishes every `granted`.
    pub(crate) fn publishes(&mut self, asked: Duration, granted: Duration) {
        // Some round to their clock's ticks.
        if granted > asked + asked / 10 {
            self.publishing = Some((asked, granted));
        }
    }

    /// The server looks at a point every `sampling`, and keeps `queue` of its values.
    pub(crate) fn item(&mut self, asked: (Duration, u32), sampling: Duration, queue: u32) {
        if sampling > asked.0 + asked.0 / 10 && !asked.0.is_zero() {
            let worst = self.sampling.get_or_insert(Less { points: 0, asked: asked.0, granted: sampling });
            worst.points += 1;
            if sampling > worst.granted {
                (worst.asked, worst.granted) = (asked.0, sampling);
            }
        }
        if queue < asked.1 {
            let worst = self.queue.get_or_insert(Less { points: 0, asked: asked.1, granted: queue });
            worst.points += 1;
            if queue < worst.granted {
                (worst.asked, worst.granted) = (asked.1, queue);
            }
        }
    }

    /// The server refuses to filter a point as asked.
    pub(crate) fn unfiltered(&mut self, place: usize, status: StatusCode) {
        self.unfiltered.get_or_insert((BTreeSet::new(), status)).0.insert(place);
    }

    /// The server refuses to tell a point with another one.
    pub(crate) fn unlinked(&mut self, place: usize, status: StatusCode) {
        self.unlinked.get_or_insert((BTreeSet::new(), status)).0.insert(place);
    }

    /// How often a point is looked at, for which `asked` was asked: no less often than this.
    pub(crate) fn sampling(&self, asked: Duration) -> Duration {
        self.sampling.as_ref().map_or(asked, |less| asked.max(less.granted))
    }
}

impl Subscribed {
    /// What the server does otherwise than asked, in words.
    pub(super) fn notes(&self) -> Vec<String> {
        let (device, granted) = (&self.device, &self.granted);
        let ms = |time: Duration| time.as_millis();
        let publishing = granted.publishing.map(|(asked, granted)| {
            format!("{device}: the server publishes every {} ms, {} ms were asked for", ms(granted), ms(asked))
        });
        let sampling = granted.sampling.as_ref().map(|less| {
            format!(
                "{device}: {} points are sampled more slowly than asked for, up to every {} ms instead of {} ms",
                less.points,
                ms(less.granted),
                ms(less.asked)
            )
        });
        let queue = granted.queue.as_ref().map(|less| {
            format!(
                "{device}: of {} points the server keeps fewer values than asked for, down to {} instead of {}",
                less.points, less.granted, less.asked
            )
        });
        let unfiltered = granted.unfiltered.as_ref().map(|(points, status)| {
            let (points, status) = (points.len(), fault::name(*status));
            format!(
                "{device}: the server doesn't filter {points} points as asked ({status}), it tells each change of value"
            )
        });
        let unlinked = granted.unlinked.as_ref().map(|(points, status)| {
            let (points, status) = (points.len(), fault::name(*status));
            format!(
                "{device}: the server can't tell {points} points with others as asked ({status}), it tells each change of them"
            )
        });
        [publishing, sampling, queue, unfiltered, unlinked].into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use fieldgate_types::DeviceId;

    use super::*;

    #[test]
    fn only_less_than_asked_is_worth_a_note_and_the_worst_is_named() {
        let ms = Duration::from_millis;
        let mut device = Subscribed::polled(DeviceId::new("a").unwrap(), ms(1));
        device.granted.publishes(ms(500), ms(510));
        device.granted.item((ms(100), 10), ms(50), 20);
        device.granted.item((Duration::ZERO, 1), ms(50), 1);
        assert_eq!(device.notes(), [""; 0]);
        device.granted.publishes(ms(500), ms(1000));
        device.granted.item((ms(100), 10), ms(250), 10);
        device.granted.item((ms(200), 10), ms(1000), 1);
        assert_eq!(device.granted.sampling(ms(100)), ms(1000));
        assert_eq!(
            device.notes(),
            [
                "a: the server publishes every 1000 ms, 500 ms were asked for",
                "a: 2 points are sampled more slowly than asked for, up to every 1000 ms instead of 200 ms",
                "a: of 1 points the server keeps fewer values than asked for, down to 1 instead of 10",
            ]
        );
    }
}
