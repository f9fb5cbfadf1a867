//! Report by exception: which samples of a field device are worth a message (DESIGN section 5).
//!
//! One rule for every protocol. A point is reported when its value (beyond its deadband) or quality changes,
//! and at least every heartbeat; `report = "always"` sends each reading. After a start or reconnect the first
//! report holds every point: it waits until each has a sample, at most [`FIRST_WAIT`]. A subscription tells changes
//! alone, so at a heartbeat its last sample is reported again, with the times that it had: it still holds as long as
//! the device is online. A polled point waits for its next reading: what was not read again may be stale.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use fieldgate_protocol::{Deadband, FieldDevice, Point, PointName, Quality, Reading, Report, Sample, Value};
use fieldgate_types::UnixMillis;

/// How long the first report waits for points that have no sample yet.
pub const FIRST_WAIT: Duration = Duration::from_secs(2);
/// Samples that wait for it at most; then it is sent with what there is.
const FIRST_SAMPLES: usize = 65_536;

/// What a point was when it was last reported.
#[derive(Debug, Clone, PartialEq)]
pub struct LastReport {
    /// Which.
    pub point: PointName,
    /// Its value, if it had one.
    pub value: Option<Value>,
    /// How good it was.
    pub quality: Quality,
    /// How long ago that was.
    pub age: Duration,
}

/// Decides for one field device. `now` is running time, which never steps.
#[derive(Debug)]
pub struct Reporter {
    /// As the device declares them.
    points: Vec<Tracked>,
    /// Their places, for samples that name them.
    places: HashMap<PointName, usize>,
    /// Until every point has a sample or this moment has come, nothing is reported.
    first: Option<First>,
    /// What was last told of the readings that were kept while the device was away, since it is back.
    past: HashMap<PointName, (Option<Value>, Quality)>,
    /// Whether the device tells changes alone.
    subscribes: bool,
    /// No heartbeat of a subscription is due before; to be asked for with each batch, so not looked for in all points.
    beat_at: Option<Duration>,
    online: bool,
}

#[derive(Debug)]
struct First {
    until: Duration,
    /// All of them, in their order: a point that changes fast has several.
    samples: Vec<Sample>,
    known: HashSet<usize>,
}

#[derive(Debug)]
struct Tracked {
    point: Arc<Point>,
    /// The point's own, here: each reading is held against it, and one after the other they stand in the cache.
    report: Report,
    last: Option<Last>,
}

#[derive(Debug)]
struct Last {
    value: Option<Value>,
    quality: Quality,
    at: Duration,
    /// The newest sample, reported or within the deadband; kept for subscriptions alone.
    newest: Option<Box<Sample>>,
}

impl Reporter {
    /// For `device`, which has not been heard of; `subscribes` as its driver says.
    pub fn new(device: &FieldDevice, subscribes: bool) -> Self {
        let tracked = |point: &Arc<Point>| Tracked { point: Arc::clone(point), report: point.report, last: None };
        let points = device.points.iter().map(tracked).collect();
        let places = places(&device.points);
        Self { points, places, first: None, past: HashMap::new(), subscribes, beat_at: None, online: false }
    }

    /// The device has these points from now on. What is known of those that it had stays known; a new one is reported with its
    /// first sample, or with the first report where that is still awaited.
    pub fn declare(&mut self, points: &[Arc<Point>]) {
        let had =
            std::mem::take(&mut self.points).into_iter().map(|tracked| (tracked.point.name.clone(), tracked.last));
        let mut had: HashMap<PointName, Option<Last>> = had.collect();
        let tracked = |point: &Arc<Point>| {
            let last = had.remove(&point.name).flatten();
            Tracked { point: Arc::clone(point), report: point.report, last }
        };
        self.points = points.iter().map(tracked).collect();
        self.places = places(points);
        if let Some(first) = &mut self.first {
            first.samples.retain(|sample| self.places.contains_key(&sample.point));
            first.known = first.samples.iter().filter_map(|sample| self.places.get(&sample.point).copied()).collect();
        }
    }

    /// The device answers (again): the next report holds every point.
    pub fn online(&mut self, now: Duration) {
        self.online = true;
        self.first = Some(First { until: now + FIRST_WAIT, samples: Vec::new(), known: HashSet::new() });
        for tracked in &mut self.points {
            tracked.last = None;
        }
        self.beat_at = None;
        self.past.clear();
    }

    /// What of `samples`, kept while the device was away, is to be reported: changes, each held against the one before.
    /// The live ones begin anew: the first report holds every point, whatever was told of the past.
    pub fn history(&mut self, samples: Vec<Sample>) -> Vec<Sample> {
        samples.into_iter().filter(|sample| self.past(sample)).collect()
    }

    fn past(&mut self, sample: &Sample) -> bool {
        let tracked = self.places.get(&sample.point).and_then(|place| self.points.get(*place));
        let Some(Tracked { report, .. }) = tracked else { return false };
        let news = self.past.get(&sample.point).is_none_or(|(value, quality)| {
            *quality != sample.quality || moved(value.as_ref(), sample.value.as_ref(), report.deadband)
        });
        let wanted = news || report.always;
        if wanted {
            self.past.insert(sample.point.clone(), (sample.value.clone(), sample.quality.clone()));
        }
        wanted
    }

    /// The device is gone: a bad sample for each point that was not bad for this reason already.
    pub fn offline(&mut self, quality: &Quality, at: UnixMillis, now: Duration) -> Vec<Sample> {
        self.online = false;
        // What it told before it was gone, and waited for the rest of the first report.
        let mut samples = self.first.take().map(|first| first.samples).unwrap_or_default();
        samples.extend(self.points.iter().map(|tracked| tracked.bad(quality, at)));
        self.pass(samples, now)
    }

    /// When [`Reporter::due`] wants to be asked, if it does.
    pub fn wakes_at(&self) -> Option<Duration> {
        if let Some(first) = &self.first {
            return Some(first.until);
        }
        self.beat_at.filter(|_| self.online)
    }

    /// What is to be reported because time has passed: the first report with what there is, or heartbeats.
    pub fn due(&mut self, at: UnixMillis, now: Duration) -> Vec<Sample> {
        match &self.first {
            Some(first) if now < first.until => Vec::new(),
            Some(_) => self.finish_first(at, now),
            None if self.online && self.beat_at.is_some_and(|beat| now >= beat) => {
                let beating = self.points.iter().filter(|tracked| tracked.next_beat().is_some_and(|beat| now >= beat));
                let samples = beating.filter_map(|tracked| tracked.last.as_ref()?.newest.as_deref().cloned()).collect();
                let reported = self.pass(samples, now);
                self.beat_at = self.points.iter().filter_map(Tracked::next_beat).min();
                reported
            }
            None => Vec::new(),
        }
    }

    /// What of `samples` is to be reported.
    pub fn samples(&mut self, samples: Vec<Sample>, at: UnixMillis, now: Duration) -> Vec<Sample> {
        let Some(first) = &mut self.first else { return self.pass(samples, now) };
        for sample in samples {
            let Some(place) = self.places.get(&sample.point) else { continue };
            first.known.insert(*place);
            first.samples.push(sample);
        }
        if first.known.len() < self.points.len() && first.samples.len() < FIRST_SAMPLES && now < first.until {
            return Vec::new();
        }
        self.finish_first(at, now)
    }

    /// What of `readings` is to be reported: as with samples, and one that is not costs no more than the comparison.
    pub fn readings(
        &mut self,
        readings: Vec<Reading>,
        received: UnixMillis,
        at: UnixMillis,
        now: Duration,
    ) -> Vec<Sample> {
        let mut wanted = Vec::new();
        for Reading { place, value } in readings {
            let Some(tracked) = self.points.get_mut(place) else { continue };
            let (value, quality) = match value {
                Ok(value) => (Some(value), Quality::GOOD),
                Err(quality) => (None, quality),
            };
            if self.first.is_some() || tracked.wants(value.as_ref(), &quality, now) {
                let point = tracked.point.name.clone();
                wanted.push(Sample { point, value, quality, source_time: None, received });
            }
        }
        self.samples(wanted, at, now)
    }

    fn finish_first(&mut self, at: UnixMillis, now: Duration) -> Vec<Sample> {
        let Some(First { mut samples, known, .. }) = self.first.take() else { return Vec::new() };
        let missing = self.points.iter().enumerate().filter(|(place, _)| !known.contains(place));
        samples.extend(missing.map(|(_, tracked)| tracked.bad(&Quality::BAD_WAITING_FOR_INITIAL_DATA, at)));
        self.pass(samples, now)
    }

    /// What `point` was when it was last reported, if it was.
    pub fn last(&self, point: &PointName, now: Duration) -> Option<LastReport> {
        let tracked = self.points.get(*self.places.get(point)?)?;
        let Last { value, quality, at, .. } = tracked.last.as_ref()?;
        let (value, quality) = (value.clone(), quality.clone());
        Some(LastReport { point: point.clone(), value, quality, age: now.saturating_sub(*at) })
    }

    fn pass(&mut self, samples: Vec<Sample>, now: Duration) -> Vec<Sample> {
        let mut reported = Vec::new();
        for sample in samples {
            let place = self.places.get(&sample.point);
            let Some(tracked) = place.and_then(|place| self.points.get_mut(*place)) else { continue };
            let newest = self.subscribes.then(|| Box::new(sample.clone()));
            if tracked.wants(sample.value.as_ref(), &sample.quality, now) {
                let (value, quality) = (sample.value.clone(), sample.quality.clone());
                tracked.last = Some(Last { value, quality, at: now, newest });
                let beat = tracked.next_beat().filter(|_| self.subscribes);
                self.beat_at = self.beat_at.into_iter().chain(beat).min();
                reported.push(sample);
            } else if let Some(last) = &mut tracked.last {
                last.newest = newest;
            }
        }
        reported
    }
}

fn places(points: &[Arc<Point>]) -> HashMap<PointName, usize> {
    points.iter().enumerate().map(|(place, point)| (point.name.clone(), place)).collect()
}

impl Tracked {
    fn next_beat(&self) -> Option<Duration> {
        self.last.as_ref().map(|last| last.at + self.report.heartbeat)
    }

    fn bad(&self, quality: &Quality, at: UnixMillis) -> Sample {
        Sample::bad(self.point.name.clone(), quality.clone(), at)
    }

    fn wants(&self, value: Option<&Value>, quality: &Quality, now: Duration) -> bool {
        let Some(last) = &self.last else { return true };
        let report = &self.report;
        report.always
            || last.quality != *quality
            || now.saturating_sub(last.at) >= report.heartbeat
            || moved(last.value.as_ref(), value, report.deadband)
    }
}

/// Whether a value differs from the last reported one by more than the deadband.
fn moved(last: Option<&Value>, value: Option<&Value>, deadband: Option<Deadband>) -> bool {
    let numbers = last.and_then(Value::as_f64).zip(value.and_then(Value::as_f64));
    match (deadband, numbers) {
        (Some(band), Some((last, value))) if last.is_finite() && value.is_finite() => {
            let allowed = match band {
                Deadband::Absolute(by) => by,
                Deadband::Percent(share) => last.abs() * share / 100.0,
            };
            (value - last).abs() > allowed
        }
        // Two NaNs are the same bad reading; comparing them as floats would report each.
        (_, Some((last, value))) if last.is_nan() && value.is_nan() => false,
        _ => last != value,
    }
}

#[cfg(test)]
mod tests {
    use fieldgate_protocol::Access;
    use fieldgate_types::DeviceId;

    use super::*;

    const AT: UnixMillis = UnixMillis(1);

    fn reporter(report: Report, names: &[&str]) -> Reporter {
        let point = |name: &&str| {
            Arc::new(Point {
                name: PointName::new(name).unwrap(),
                unit: None,
                description: None,
                kind: None,
                access: Access::Read,
                range: None,
                report,
            })
        };
        let device = FieldDevice {
            id: DeviceId::new("d").unwrap(),
            points: names.iter().map(point).collect(),
            methods: Vec::new(),
            grows: false,
        };
        Reporter::new(&device, false)
    }

    fn sample(name: &str, value: f64) -> Sample {
        let value = Some(Value::Float(value));
        Sample { value, quality: Quality::GOOD, ..Sample::bad(PointName::new(name).unwrap(), Quality::GOOD, AT) }
    }

    fn count(reporter: &mut Reporter, value: f64, seconds: u64) -> usize {
        reporter.samples(vec![sample("a", value)], AT, Duration::from_secs(seconds)).len()
    }

    #[test]
    fn reports_changes_and_heartbeats_alone() {
        let mut reporter = reporter(Report::default(), &["a"]);
        assert_eq!(count(&mut reporter, 1.0, 0), 1);
        assert_eq!(count(&mut reporter, 1.0, 1), 0);
        assert_eq!(count(&mut reporter, 1.5, 2), 1);
        assert_eq!(count(&mut reporter, 1.5, 61), 0);
        assert_eq!(count(&mut reporter, 1.5, 62), 1);
        assert_eq!(count(&mut reporter, f64::NAN, 63), 1);
        assert_eq!(count(&mut reporter, f64::NAN, 64), 0);
    }

    #[test]
    fn points_that_come_later_are_reported_and_those_before_keep_what_was_told_of_them() {
        let mut reporter = reporter(Report::default(), &["a"]);
        let second = Duration::from_secs(1);
        assert_eq!(count(&mut reporter, 1.0, 0), 1);
        let names = |reporter: &Reporter| reporter.points.iter().map(|t| Arc::clone(&t.point)).collect::<Vec<_>>();
        let [a] = names(&reporter).try_into().unwrap();
        let b = Arc::new(Point { name: PointName::new("b").unwrap(), ..Point::clone(&a) });
        assert_eq!(reporter.samples(vec![sample("b", 5.0)], AT, second), [], "it is not declared");
        reporter.declare(&[Arc::clone(&a), Arc::clone(&b)]);
        let both = || vec![sample("a", 1.0), sample("b", 5.0)];
        assert_eq!(reporter.samples(both(), AT, second), [sample("b", 5.0)]);
        assert_eq!(reporter.last(&b.name, second).map(|last| last.age), Some(Duration::ZERO));
        let offline = reporter.offline(&Quality::BAD_NO_COMMUNICATION, AT, second);
        assert_eq!(offline.len(), 2, "it goes offline with the others");

        // While the first report is awaited: it holds them too, whatever their places are.
        reporter.online(second);
        assert_eq!(reporter.samples(vec![sample("b", 6.0)], AT, second), []);
        let c = Arc::new(Point { name: PointName::new("c").unwrap(), ..Point::clone(&a) });
        reporter.declare(&[c, b, a]);
        assert_eq!(reporter.samples(vec![sample("a", 1.0)], AT, second), [], "c is missing");
        assert_eq!(reporter.samples(vec![sample("c", 7.0)], AT, second).len(), 3);
    }

    #[test]
    fn readings_by_place_are_reported_as_samples_by_name_are() {
        let band = Report { deadband: Some(Deadband::Absolute(0.5)), ..Report::default() };
        let (mut named, mut placed) = (reporter(band, &["a", "b"]), reporter(band, &["a", "b"]));
        named.online(Duration::ZERO);
        placed.online(Duration::ZERO);
        let bad = || Sample::bad(PointName::new("b").unwrap(), Quality::BAD_TIMEOUT, AT);
        let times = [(0, 1.0), (1, 1.4), (2, 1.6), (3, f64::NAN), (4, f64::NAN), (61, 2.0), (62, 2.0), (70, 2.1)];
        let mut reports = 0;
        for (seconds, value) in times {
            let now = Duration::from_secs(seconds);
            let expected = named.samples(vec![sample("a", value), bad()], AT, now);
            let readings = vec![
                Reading { place: 0, value: Ok(Value::Float(value)) },
                Reading { place: 1, value: Err(Quality::BAD_TIMEOUT) },
                Reading { place: 2, value: Ok(Value::Float(9.0)) },
            ];
            let told = placed.readings(readings, AT, AT, now);
            assert_eq!(format!("{told:?}"), format!("{expected:?}"));
            reports += told.len();
        }
        assert_eq!(reports, 6);
    }

    #[test]
    fn a_slow_drift_leaves_the_deadband_in_the_end() {
        let band = Report { deadband: Some(Deadband::Absolute(0.5)), ..Report::default() };
        let mut reporter = reporter(band, &["a"]);
        assert_eq!(count(&mut reporter, 10.0, 0), 1);
        assert_eq!(count(&mut reporter, 10.3, 1), 0);
        assert_eq!(count(&mut reporter, 10.5, 2), 0);
        assert_eq!(count(&mut reporter, 10.6, 3), 1);
        assert_eq!(count(&mut reporter, 10.2, 4), 0);
    }

    #[test]
    fn the_first_report_holds_every_point() {
        let mut reporter = reporter(Report::default(), &["a", "b"]);
        reporter.online(Duration::ZERO);
        assert_eq!(count(&mut reporter, 1.0, 0), 0);
        assert_eq!(reporter.samples(vec![sample("b", 2.0)], AT, Duration::from_secs(1)).len(), 2);

        reporter.online(Duration::from_secs(10));
        let told = |samples: Vec<Sample>| samples.into_iter().filter_map(|sample| sample.value).collect::<Vec<_>>();
        for value in [1.0, 2.0, 3.0] {
            assert_eq!(count(&mut reporter, value, 10), 0);
        }
        let whole = told(reporter.samples(vec![sample("b", 9.0)], AT, Duration::from_secs(11)));
        assert_eq!(whole, [1.0, 2.0, 3.0, 9.0].map(Value::Float), "no change is lost for it");
        reporter.online(Duration::from_secs(11));
        assert_eq!(count(&mut reporter, 4.0, 11), 0);
        let gone = reporter.offline(&Quality::BAD_NO_COMMUNICATION, AT, Duration::from_secs(11));
        assert_eq!((gone.len(), told(gone)), (3, vec![Value::Float(4.0)]), "nor when the device is gone before");

        reporter.online(Duration::from_secs(10));
        assert_eq!(count(&mut reporter, 1.0, 10), 0);
        assert_eq!(reporter.due(AT, Duration::from_secs(11)).len(), 0);
        let late = reporter.due(AT, Duration::from_secs(12));
        let waiting: Vec<_> = late.iter().filter(|s| s.quality == Quality::BAD_WAITING_FOR_INITIAL_DATA).collect();
        assert_eq!((late.len(), waiting.len()), (2, 1));
    }

    #[test]
    fn a_subscription_repeats_at_each_heartbeat_what_still_holds() {
        let mut reporter = Reporter { subscribes: true, ..reporter(Report::default(), &["a"]) };
        reporter.online(Duration::ZERO);
        assert_eq!(count(&mut reporter, 1.0, 0), 1);
        assert_eq!(reporter.wakes_at(), Some(Duration::from_secs(60)));
        assert_eq!(reporter.due(AT, Duration::from_secs(59)), []);
        assert_eq!(reporter.due(AT, Duration::from_secs(60)), [sample("a", 1.0)]);
        assert_eq!(reporter.wakes_at(), Some(Duration::from_secs(120)));
        reporter.offline(&Quality::BAD_NO_COMMUNICATION, AT, Duration::from_secs(61));
        assert_eq!((reporter.wakes_at(), reporter.due(AT, Duration::from_secs(200))), (None, vec![]));
    }

    #[test]
    fn what_was_kept_is_told_within_the_deadband_and_hides_no_live_value() {
        let band = Report { deadband: Some(Deadband::Absolute(0.5)), ..Report::default() };
        let mut reporter = reporter(band, &["a"]);
        assert_eq!(count(&mut reporter, 1.0, 0), 1);
        reporter.offline(&Quality::BAD_NO_COMMUNICATION, AT, Duration::from_secs(1));
        reporter.online(Duration::from_secs(2));
        let kept = [1.0, 1.4, 1.6, 1.2, 3.0].map(|value| sample("a", value)).to_vec();
        let told: Vec<_> = reporter.history(kept).into_iter().map(|sample| sample.value.unwrap()).collect();
        assert_eq!(told, [1.0, 1.6, 3.0].map(Value::Float));
        assert_eq!(reporter.history(vec![sample("a", 3.1), sample("x", 9.0)]), [], "one answer follows another");
        assert_eq!(count(&mut reporter, 3.0, 3), 1, "the first report holds every point");
    }

    #[test]
    fn going_offline_is_reported_once() {
        let mut reporter = reporter(Report::default(), &["a", "b"]);
        reporter.samples(vec![sample("a", 1.0), sample("b", 1.0)], AT, Duration::ZERO);
        let gone = Quality::BAD_NO_COMMUNICATION;
        assert_eq!(reporter.offline(&gone, AT, Duration::from_secs(1)).len(), 2);
        assert_eq!(reporter.offline(&gone, AT, Duration::from_secs(2)).len(), 0);
        assert_eq!(count(&mut reporter, 1.0, 3), 1);
    }
}
