//! Reads the gateway's counters every ten seconds, and keeps what the charts show.
//!
//! A slot is ten seconds of running time, so a clock that is set moves nothing. Locks are held for the copying of a few
//! hundred numbers; the reading itself happens on a thread that may wait.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fieldgate_types::{Clock, DeviceId, Pulse};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::figures::{Figure, LinkFigure, LinkReading, Reading};
use super::minutes::Minutes;
use super::ring::{Series, Summary};
use crate::admin::Overview;
use crate::admin::metrics::resident_bytes;
use crate::southbound::drivers::LinkKey;

/// Between two readings.
pub const STEP: Duration = Duration::from_secs(10);
const STEPS_PER_MINUTE: u64 = 6;
/// Links that have charts, the first of the configuration; further ones have none.
pub const MOST_LINKS: usize = 64;
/// Devices that are noted while the lock is held: some tens of microseconds.
const AT_ONCE: usize = 500;

/// How far back a chart goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// At ten seconds.
    Hour,
    /// At five minutes.
    Day,
}

/// A figure over a span, oldest first.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// As measured.
    Each(Vec<f32>),
    /// Five minutes each.
    Summed(Vec<Summary>),
}

/// What is kept for the charts.
#[derive(Debug)]
pub struct Charts {
    /// Of the task that reads: whether it still turns.
    pub pulse: Pulse,
    clock: Arc<dyn Clock>,
    recorded: Mutex<Recorded>,
    minutes: Mutex<Minutes>,
}

#[derive(Debug)]
struct Recorded {
    before: Option<Reading>,
    figures: [Series; Figure::ALL.len()],
    links: BTreeMap<LinkKey, [Series; LinkFigure::ALL.len()]>,
}

impl Charts {
    /// With nothing in it.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let figures = std::array::from_fn(|_| Series::new());
        Self {
            pulse: Pulse::new(Arc::clone(&clock)),
            clock,
            recorded: Mutex::new(Recorded { before: None, figures, links: BTreeMap::new() }),
            minutes: Mutex::default(),
        }
    }

    fn recorded(&self) -> MutexGuard<'_, Recorded> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn minutes(&self) -> MutexGuard<'_, Minutes> {
        self.minutes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self) -> u64 {
        slot(self.clock.monotonic())
    }

    /// A figure of the gateway.
    pub fn figure(&self, figure: Figure, span: Span) -> Values {
        let slot = self.slot();
        let recorded = self.recorded();
        let mut all = Figure::ALL.iter().zip(&recorded.figures);
        all.find(|(of, _)| **of == figure)
            .map_or_else(|| Values::Each(Vec::new()), |(_, series)| read(series, span, slot))
    }

    /// A figure of a link; none for one beyond [`MOST_LINKS`], or that was not read yet.
    pub fn link(&self, link: &LinkKey, figure: LinkFigure, span: Span) -> Option<Values> {
        let slot = self.slot();
        let recorded = self.recorded();
        let mut all = LinkFigure::ALL.iter().zip(recorded.links.get(link)?);
        all.find(|(of, _)| **of == figure).map(|(_, series)| read(series, span, slot))
    }

    /// Messages of a device per minute of the last hour, those that are for the upstream; none for a device beyond the most.
    pub fn device(&self, device: &DeviceId) -> Option<Vec<f32>> {
        self.minutes().of(device)
    }

    /// Takes in a reading, and the ledger's totals per device.
    pub fn record(&self, reading: Reading, totals: &[(DeviceId, u64)]) {
        let slot = slot(reading.at);
        self.recorded().record(slot, reading);
        if self.minutes().end(slot / STEPS_PER_MINUTE) {
            for some in totals.chunks(AT_ONCE) {
                self.minutes().note(some);
            }
        }
    }
}

fn slot(at: Duration) -> u64 {
    at.as_secs() / STEP.as_secs()
}

fn read(series: &Series, span: Span, slot: u64) -> Values {
    match span {
        Span::Hour => Values::Each(series.hour(slot)),
        Span::Day => Values::Summed(series.day(slot)),
    }
}

impl Recorded {
    fn record(&mut self, slot: u64, reading: Reading) {
        for (figure, series) in Figure::ALL.iter().zip(&mut self.figures) {
            series.write(slot, figure.between(self.before.as_ref(), &reading));
        }
        self.links.retain(|link, _| reading.links.contains_key(link));
        let before = self.before.as_ref();
        let elapsed = before.map_or(Duration::ZERO, |before| reading.at.saturating_sub(before.at));
        for (link, now) in &reading.links {
            if !self.links.contains_key(link) && self.links.len() >= MOST_LINKS {
                continue;
            }
            let all = self.links.entry(link.clone()).or_insert_with(|| std::array::from_fn(|_| Series::new()));
            let Some(before) = before.and_then(|before| before.links.get(link)) else { continue };
            for (figure, series) in LinkFigure::ALL.iter().zip(all) {
                series.write(slot, figure.between(before, now, elapsed));
            }
        }
        self.before = Some(reading);
    }
}

/// Reads until `stop` is cancelled.
pub async fn run(overview: Arc<Overview>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(STEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        overview.charts.pulse.rest(STEP);
        let of = Arc::clone(&overview);
        let read = tokio::task::spawn_blocking(move || {
            let totals = of.queue.received();
            of.charts.record(reading(&of, &totals), &totals);
        });
        if let Err(error) = read.await {
            tracing::error!(%error, "the figures for the charts can't be read");
        }
    }
    overview.charts.pulse.end();
}

fn reading(overview: &Overview, totals: &[(DeviceId, u64)]) -> Reading {
    let (broker, queue) = (overview.broker.metrics(), overview.queue.stats());
    let upstream = overview.upline.handle();
    let acknowledged = upstream.as_ref().map(|upstream| {
        let times = upstream.ack_times();
        (times.counts.iter().sum(), times.sum)
    });
    let links = overview.links.all();
    let links = links.iter().map(|(key, link)| {
        let info = link.state.borrow();
        let reading = LinkReading { answers: info.answers, failures: info.failures, response: info.response };
        (key.clone(), reading)
    });
    Reading {
        at: overview.charts.clock.monotonic(),
        published: broker.messages_in,
        sent: broker.messages_out,
        stored: totals.iter().map(|(_, total)| total).sum(),
        delivered: upstream.as_ref().map(|upstream| upstream.status().acknowledged),
        acknowledged,
        waiting: queue.messages,
        waiting_bytes: queue.bytes,
        connections: broker.connections,
        refusals: overview.leaf.refused(),
        cpu: processor_time(),
        memory: resident_bytes(),
        links: links.collect(),
    }
}

/// From /proc/self/stat; absent where there is none.
fn processor_time() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    ticks(&stat).map(|ticks| Duration::from_secs_f64(ticks / ticks_per_second()))
}

#[allow(clippy::cast_precision_loss)] // 100 everywhere.
fn ticks_per_second() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

/// User and system time: fields 14 and 15; the second, the program's name, may hold anything up to its last `)`.
fn ticks(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let [user, system]: [f64; 2] = [fields.next()?.parse().ok()?, fields.next()?.parse().ok()?];
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use fieldgate_types::{ManualClock, UnixMillis};

    use super::*;

    fn key(name: &str) -> LinkKey {
        LinkKey { protocol: "modbus", name: name.to_owned(), nth: 0 }
    }

    fn each(values: Values) -> Vec<f32> {
        match values {
            Values::Each(values) => values,
            Values::Summed(_) => panic!("the hour is not summed up"),
        }
    }

    fn known(values: &[f32]) -> Vec<f32> {
        values.iter().copied().filter(|value| !value.is_nan()).collect()
    }

    #[test]
    fn readings_become_charts_of_the_gateway_its_links_and_its_devices() {
        let clock = Arc::new(ManualClock::new(UnixMillis(0)));
        let charts = Charts::new(Arc::clone(&clock) as _);
        let device = DeviceId::new("press-1").unwrap();
        for step in 0..20_u64 {
            let links = [(
                key("a"),
                LinkReading { answers: step * 10, failures: 0, response: Duration::from_millis(step * 50) },
            )];
            let reading =
                Reading { at: clock.monotonic(), published: step * 30, links: links.into(), ..Reading::default() };
            charts.record(reading, &[(device.clone(), step)]);
            clock.advance(STEP);
        }
        let published = each(charts.figure(Figure::Published, Span::Hour));
        assert_eq!(known(&published), [3.0; 19]);
        assert!(published.last().is_some_and(|value| value.is_nan()), "the slot of now has no reading yet");
        assert_eq!(known(&each(charts.link(&key("a"), LinkFigure::Response, Span::Hour).unwrap())), [5.0; 19]);
        assert_eq!(charts.link(&key("b"), LinkFigure::Response, Span::Hour), None);
        assert_eq!(known(&charts.device(&device).unwrap()), [6.0, 6.0, 6.0]);
        // A link that is gone takes its charts along.
        charts.record(Reading { at: clock.monotonic(), ..Reading::default() }, &[]);
        assert_eq!(charts.link(&key("a"), LinkFigure::Response, Span::Hour), None);
    }

    #[test]
    fn links_beyond_the_most_have_no_charts() {
        let charts = Charts::new(Arc::new(ManualClock::new(UnixMillis(0))));
        let links = (0..MOST_LINKS + 3).map(|n| (key(&format!("{n:03}")), LinkReading::default())).collect();
        charts.record(Reading { links, ..Reading::default() }, &[]);
        assert_eq!(charts.recorded().links.len(), MOST_LINKS);
    }

    #[test]
    fn processor_time_is_read_whatever_the_program_is_called() {
        let stat = "77 (field) gate) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1";
        assert_eq!(ticks(stat), Some(300.0));
        assert!(processor_time().is_some());
    }
}
