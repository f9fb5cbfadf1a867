//! The figures of the whole gateway, without its devices one by one: gathered once a second at most, however many look.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::admin::Overview;
use crate::admin::api::{Failed, blocking};
use crate::admin::overview::Status;
use crate::northbound::UpstreamHandle;

/// How long figures are good.
const FRESH: Duration = Duration::from_millis(900);
/// Rates are over the time between two gatherings, if that is not longer.
const LONGEST: Duration = Duration::from_secs(60);

/// What there is.
#[derive(Debug)]
pub struct Summary {
    /// How the gateway is, without its devices.
    pub status: Status,
    /// Devices that are known and not revoked, and field devices.
    pub devices: usize,
    /// Of these, online now.
    pub online: usize,
    /// The most that the buffer may take, in bytes.
    pub capacity: u64,
    /// Messages a second from devices; absent at the first look.
    pub rate_in: Option<f64>,
    /// Messages a second that the upstream acknowledged.
    pub rate_up: Option<f64>,
    /// From sending a message to its acknowledgement: the mean since the figures before, else since the start.
    pub latency: Option<Duration>,
    counted: Counted,
}

/// What rates are made of.
#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    at: Duration,
    messages_in: u64,
    acknowledged: u64,
    acks: u64,
    ack_time: Duration,
}

/// The last figures.
#[derive(Default)]
pub struct Summaries(Mutex<Option<Arc<Summary>>>);

impl Summaries {
    fn last(&self) -> Option<Arc<Summary>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The figures now.
pub async fn summary(overview: &Arc<Overview>) -> Result<Arc<Summary>, Failed> {
    let now = overview.clock.monotonic();
    let last = overview.console.summaries.last();
    if let Some(last) = last.filter(|last| now.saturating_sub(last.counted.at) < FRESH) {
        return Ok(last);
    }
    let overview = Arc::clone(overview);
    blocking(move || {
        let summaries = &overview.console.summaries;
        let next = Arc::new(gather(&overview, summaries.last().as_deref()));
        *summaries.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&next));
        next
    })
    .await
}

fn gather(overview: &Overview, last: Option<&Summary>) -> Summary {
    let status = overview.brief();
    let mut counted = Counted {
        at: overview.clock.monotonic(),
        messages_in: overview.broker.metrics().messages_in,
        acknowledged: status.upstream.as_ref().map_or(0, |upstream| upstream.acknowledged),
        ..Counted::default()
    };
    if let Some(times) = overview.upline.handle().as_ref().map(UpstreamHandle::ack_times) {
        counted.acks = times.counts.iter().sum();
        counted.ack_time = times.sum;
    }
    let before = last.map(|last| last.counted);
    let recent = before.filter(|before| counted.at.saturating_sub(before.at) <= LONGEST);
    let rate = |of: fn(&Counted) -> u64| recent.map(|before| per_second(&counted, &before, of));
    let (acks, time) = before.map_or((0, Duration::ZERO), |before| (before.acks, before.ack_time));
    let mean = |acks: u64, time: Duration| u32::try_from(acks).ok().filter(|acks| *acks > 0).map(|acks| time / acks);
    let latency = mean(counted.acks.saturating_sub(acks), counted.ack_time.saturating_sub(time));
    let field: usize = overview.links.all().iter().map(|(_, link)| link.devices.len()).sum();
    Summary {
        devices: overview.authority.registry.count() + field,
        online: overview.presence.online_count(),
        capacity: overview.queue.stats().capacity_bytes,
        rate_in: rate(|of| of.messages_in),
        rate_up: rate(|of| of.acknowledged),
        latency: latency.or_else(|| mean(counted.acks, counted.ack_time)),
        counted,
        status,
    }
}

fn per_second(now: &Counted, before: &Counted, of: fn(&Counted) -> u64) -> f64 {
    let count = u32::try_from(of(now).saturating_sub(of(before))).unwrap_or(u32::MAX);
    let seconds = now.at.saturating_sub(before.at).as_secs_f64();
    if seconds > 0.0 { f64::from(count) / seconds } else { 0.0 }
}
