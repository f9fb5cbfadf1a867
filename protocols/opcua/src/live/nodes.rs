//! Looks after single nodes: asks again for missing ones, and doesn't believe in silence.
//!
//! Some servers say nothing when a node is deleted (asyncua 2.1.0), and leave its item dead when it is made again.
//! So a point that has not been heard of for a while is read: what has changed is handed on, a node that is gone
//! becomes a missing one, and an item that keeps silent about a change is made anew. Both kinds of questions go round
//! robin, one request of each every [`LOOK`]: the load on the server is bounded, however many points there are.
//!
//! What is read must not overtake what is told: a change that a look finds may be in a notification on its way. So it is
//! believed only where that would have come by now (the value is older than a notification takes), or at the second look
//! with no notification between the two; and never while the driver is behind.

use std::time::Duration;

use fieldgate_protocol::{Quality, Sample, Value};
use opcua::types::{DataValue, NodeId, StatusCode};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{Ended, Entry, Live, Subscribed};
use crate::driver::Link;
use crate::filter::{Filter, Trigger};
use crate::{fault, server, value};

/// How often nodes are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// What a notification may be late by, beyond sampling and publishing.
const GRACE: Duration = Duration::from_secs(1);

/// Whose turn it is.
#[derive(Debug)]
pub(super) struct Round {
    due: Instant,
    /// The first place that missing nodes are asked for from next.
    missing: usize,
    /// The first place that silent points are read from next.
    silent: usize,
    /// Whether there are points of which something was lost: they are read at each turn of the watchdog.
    lost: bool,
}

impl Round {
    /// `held`: there are points that are not told by themselves, whose first values are read therefore.
    pub(super) fn new(held: bool) -> Self {
        Self { due: Instant::now() + LOOK, missing: 0, silent: 0, lost: held }
    }
}

/// What was last heard of a point.
#[derive(Debug)]
pub(crate) struct Told {
    /// `None`: nothing yet, or something was lost since.
    last: Option<(Option<Value>, Quality)>,
    at: Instant,
    /// Whether a look found something else than the last notification had said.
    doubted: bool,
}

/// What a look means.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Look {
    /// Nothing new.
    Known,
    /// It may be in a notification on its way.
    Early,
    /// To be handed on.
    News,
    /// The same, and its item says nothing any more.
    Dead,
}

impl Told {
    pub(super) fn nothing() -> Self {
        Self { last: None, at: Instant::now(), doubted: false }
    }

    /// A notification came.
    pub(super) fn notified(&mut self, sample: &Sample) {
        *self = Self { last: Some((sample.value.clone(), sample.quality.clone())), at: Instant::now(), doubted: false };
    }

    /// Something that it said was lost.
    fn forget(&mut self) {
        self.last = None;
    }

    /// Whether it was last told with this quality.
    pub(super) fn is(&self, quality: &Quality) -> bool {
        self.last.as_ref().is_some_and(|(_, last)| last == quality)
    }

    /// It was read. `old`: a notification of it would have come by now.
    fn looked(&mut self, sample: &Sample, filter: &Filter, old: bool) -> Look {
        let known = self.last.is_some();
        let news = self.last.as_ref().is_none_or(|(value, quality)| {
            let hidden = filter.hides(value.as_ref(), sample);
            *quality != sample.quality || (!hidden && differ(value.as_ref(), sample.value.as_ref()))
        });
        // What the filter hides is still measured from what was told.
        if !news {
            self.at = Instant::now();
            return Look::Known;
        }
        let again = std::mem::replace(&mut self.doubted, true);
        if !old && !again {
            return Look::Early;
        }
        self.last = Some((sample.value.clone(), sample.quality.clone()));
        self.at = Instant::now();
        if again && known {
            self.doubted = false;
            return Look::Dead;
        }
        Look::News
    }
}

/// How old a value is, by the server's clock.
fn age(data: &DataValue) -> Option<Duration> {
    let (changed, now) = data.source_timestamp.zip(data.server_timestamp)?;
    (now - changed).to_std().ok()
}

/// Two values that are not numbers are the same.
fn differ(one: Option<&Value>, other: Option<&Value>) -> bool {
    match (one, other) {
        (Some(Value::Float(one)), Some(Value::Float(other))) if one.is_nan() && other.is_nan() => false,
        _ => one != other,
    }
}

impl Live {
    /// What is due for single nodes, and whether this server is still trusted.
    pub(super) async fn look_at_nodes(&mut self, link: &mut Link) -> Result<(), Ended> {
        let due = Instant::now() >= self.round.due;
        if due || self.round.lost {
            self.read_silent(link, due).await?;
        }
        if !due {
            return Ok(());
        }
        self.connection.trusted(&self.config, &self.pki).await?;
        self.retry_missing(link).await?;
        self.look_at_notifiers(link).await?;
        self.round.due = Instant::now() + LOOK;
        Ok(())
    }

    /// What was told of these points counts no more: something was lost, or can be said otherwise now.
    pub(super) fn forget(&mut self, which: impl Fn(&Entry) -> bool) {
        for entry in self.entries.iter_mut().filter(|entry| which(entry)) {
            entry.told.forget();
            self.round.lost = true;
        }
    }

    /// As many places as a request holds, from `first` on and around; and where the next turn begins.
    fn turn(&self, first: usize, which: impl Fn(&Entry) -> bool) -> (Vec<usize>, usize) {
        let all = self.places(which);
        let before = all.partition_point(|place| *place < first);
        let turn: Vec<usize> =
            all.iter().cycle().skip(before).take(all.len().min(self.server.chunk)).copied().collect();
        let next = turn.last().map_or(0, |last| last + 1);
        (turn, next)
    }

    /// Asks again for nodes that were missing.
    async fn retry_missing(&mut self, link: &mut Link) -> Result<(), Ended> {
        let (places, next) = self.turn(self.round.missing, |entry| entry.missing.is_some());
        self.round.missing = next;
        if places.is_empty() {
            return Ok(());
        }
        let before: Vec<Option<StatusCode>> =
            places.iter().map(|place| self.entries.get(*place).and_then(|entry| entry.missing)).collect();
        // A namespace may have come since.
        self.server.refresh_namespaces().await?;
        self.server.locate(&mut self.entries, &places).await?;
        self.server.create_items(&mut self.devices, &mut self.entries, &places).await?;
        let (mut changed, mut found) = (Vec::new(), 0_usize);
        for (place, before) in places.iter().zip(before) {
            match self.entries.get_mut(*place) {
                Some(entry) if entry.missing.is_none() => {
                    entry.told = Told::nothing();
                    found += 1;
                }
                Some(Entry { missing, .. }) if *missing != before => changed.push(*place),
                _ => {}
            }
        }
        if found > 0 {
            info!(link = %link.name(), found, "opcua nodes are there again");
        }
        self.report_missing(link, &changed).await
    }

    /// Reads points that have not been heard of for longer than a change would take to be told: all of them in their
    /// turns, or those alone of which something was lost.
    async fn read_silent(&mut self, link: &mut Link, all: bool) -> Result<(), Ended> {
        if self.connection.session.room.is_low() || !self.batches.is_empty() {
            return Ok(());
        }
        let asked = Instant::now();
        let told = |entry: &Entry| {
            let subscribed = self.devices.get(entry.device).is_some_and(|device| device.subscription.is_some());
            subscribed && entry.missing.is_none() && entry.gap.is_none() && entry.node.is_some()
        };
        let silent = |entry: &Entry| {
            let untold = entry.trigger.is_some() && entry.told.last.is_none();
            let patience = self.devices.get(entry.device).map_or(Duration::MAX, |device| device.news_take(entry));
            let patience = if untold { Duration::ZERO } else { patience };
            told(entry) && (all || entry.told.last.is_none()) && asked.duration_since(entry.told.at) > patience
        };
        let lost = self.entries.iter().any(|entry| told(entry) && entry.told.last.is_none());
        let (places, next) = self.turn(self.round.silent, silent);
        self.round.lost = lost;
        self.round.silent = next;
        if places.is_empty() {
            return Ok(());
        }
        let node = |place: &usize| self.entries.get(*place)?.node.clone();
        let nodes: Vec<NodeId> = places.iter().filter_map(node).collect();
        let values = server::read_values(&self.connection.session, &nodes, self.server.chunk).await?;
        // What came meanwhile goes first; of a point that it is about, what was read is no news.
        for _ in 0..self.batches.len() {
            if let Ok(batch) = self.batches.try_recv() {
                link.answered(1);
                self.pass_on(link, batch).await?;
            }
        }
        let received = self.clock.now();
        let mut news: Vec<Vec<Sample>> = self.devices.iter().map(|_| Vec::new()).collect();
        let mut dead = Vec::new();
        for (place, data) in places.into_iter().zip(values) {
            let Some(entry) = self.entries.get_mut(place).filter(|entry| entry.told.at < asked) else { continue };
            let status = data.status.unwrap_or(StatusCode::Good);
            let at = data.source_timestamp;
            let patience = self.devices.get(entry.device).map_or(Duration::MAX, |device| device.news_take(entry));
            let held = entry.trigger.is_some();
            let old = held || fault::gone(status) || age(&data).is_some_and(|age| age > patience);
            let sample = value::sample(&entry.point, data, received, self.server.types());
            // Its changes of value are told with another point alone.
            let filter = if held { Filter { trigger: Trigger::Status, ..entry.filter } } else { entry.filter };
            let look = entry.told.looked(&sample, &filter, old);
            if matches!(look, Look::Known | Look::Early) {
                continue;
            }
            entry.missing = fault::gone(status).then_some(status);
            if look == Look::Dead && entry.missing.is_none() {
                dead.push(place);
            }
            entry.close(at);
            if let Some(news) = news.get_mut(entry.device) {
                news.push(sample);
            }
        }
        for (device, samples) in news.into_iter().enumerate() {
            if let Some(subscribed) = self.devices.get(device).filter(|_| !samples.is_empty()) {
                debug!(device = %subscribed.device, points = samples.len(), "opcua values changed without a notification");
            }
            self.send(link, device, samples).await?;
        }
        if dead.is_empty() {
            return Ok(());
        }
        warn!(link = %link.name(), items = dead.len(), "opcua items keep silent about changes, they are made anew");
        self.server.create_items(&mut self.devices, &mut self.entries, &dead).await?;
        let failed: Vec<usize> =
            dead.into_iter().filter(|place| self.entries.get(*place).is_some_and(|e| e.missing.is_some())).collect();
        self.report_missing(link, &failed).await
    }
}

impl Subscribed {
    /// How long it may take until a change of a value has been notified.
    fn news_take(&self, entry: &Entry) -> Duration {
        (self.granted.sampling(entry.sampling) + self.publishing).saturating_mul(2) + GRACE
    }
}

#[cfg(test)]
mod tests {
    use fieldgate_protocol::{Deadband, PointName};
    use fieldgate_types::UnixMillis;

    use super::*;

    fn sample(value: f64) -> Sample {
        let at = UnixMillis(1);
        Sample { value: Some(Value::Float(value)), ..Sample::bad(PointName::new("p").unwrap(), Quality::GOOD, at) }
    }

    #[tokio::test]
    async fn a_look_is_news_only_when_it_differs_from_what_was_told() {
        let (mut told, all) = (Told::nothing(), Filter::default());
        assert_eq!(told.looked(&sample(1.0), &all, true), Look::News, "nothing was known");
        assert_eq!(told.looked(&sample(1.0), &all, true), Look::Known);
        told.notified(&sample(2.0));
        assert_eq!(told.looked(&sample(2.0), &all, true), Look::Known);
        assert_eq!(told.looked(&sample(f64::NAN), &all, true), Look::News);
        assert_eq!(told.looked(&sample(f64::NAN), &all, true), Look::Known, "not a number is not news each time");
        let gone = Sample { quality: Quality::BAD_NODE_ID_UNKNOWN, value: None, ..sample(0.0) };
        assert_eq!(told.looked(&gone, &all, true), Look::Dead, "a second change without a word");
    }

    #[tokio::test]
    async fn a_change_that_may_be_on_its_way_is_left_to_its_notification() {
        let (mut told, all) = (Told::nothing(), Filter::default());
        told.notified(&sample(1.0));
        assert_eq!(told.looked(&sample(3.0), &all, false), Look::Early);
        told.notified(&sample(2.0));
        assert_eq!(told.looked(&sample(3.0), &all, false), Look::Early, "it has come, or one before it");
        assert_eq!(told.looked(&sample(4.0), &all, false), Look::Dead, "none has come between two looks");
        told.notified(&sample(4.0));
        told.forget();
        assert_eq!(told.looked(&sample(4.0), &all, false), Look::Early);
        assert_eq!(told.looked(&sample(4.0), &all, false), Look::News, "what was lost doesn't speak against the item");
        assert_eq!(told.looked(&sample(4.0), &all, false), Look::Known);
    }

    #[tokio::test]
    async fn a_drift_within_the_servers_deadband_is_news_once_it_has_left_it() {
        let band = Filter { deadband: Some(Deadband::Absolute(0.5)), ..Filter::default() };
        let mut told = Told::nothing();
        told.notified(&sample(1.0));
        assert_eq!(told.looked(&sample(1.3), &band, true), Look::Known);
        let within = told.looked(&sample(1.5), &band, true);
        assert_eq!(within, Look::Known, "measured from what was told, not from the last look");
        assert_eq!(told.looked(&sample(1.6), &band, true), Look::News);
    }
}
