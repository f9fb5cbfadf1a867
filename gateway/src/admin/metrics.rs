//! The figures of [`Overview`] for Prometheus, read at each scrape.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use fieldgate_certs::{AlarmKind, Stage};
use fieldgate_protocol::LinkState;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet, text::encode};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::overview::{LoopKind, Overview};
use crate::identity::ending::{self, Ending};
use crate::northbound::{ACK_BOUNDS, AckTimes};

/// Everything in the OpenMetrics text format.
pub fn text(overview: Arc<Overview>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Figures(overview)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

struct Figures(Arc<Overview>);

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Figures")
    }
}

type Label = [(&'static str, String); 1];

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
    gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let counter = ConstCounter::new(value);
    counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)
}

fn counters(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (Label, u64)>,
) -> fmt::Result {
    let kind = ConstCounter::new(0_u64).metric_type();
    let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
    for (label, value) in values {
        ConstCounter::new(value).encode(metric.encode_family(&label)?)?;
    }
    Ok(())
}

fn gauges(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (Label, u64)>,
) -> fmt::Result {
    let kind = ConstGauge::new(0_i64).metric_type();
    let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
    for (label, value) in values {
        ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(metric.encode_family(&label)?)?;
    }
    Ok(())
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let overview = &*self.0;
        let out = &mut encoder;
        let now = overview.clock.now();
        gauge(out, "fieldgate_start_time_seconds", "When the process began, Unix time", overview.started.as_secs())?;
        gauge(out, "fieldgate_ready", "1 when listeners serve and the store accepts", overview.ready().is_ok().into())?;
        let build = [([("version", env!("CARGO_PKG_VERSION").to_owned())], 1)];
        gauges(out, "fieldgate_build_info", "Always 1; the version is the label", build)?;
        self.process(out)?;
        self.buffer(out)?;
        self.ledger(out)?;
        self.broker(out)?;
        self.upstream(out)?;
        self.links(out)?;
        let refused = overview.refused_requests.snapshot().into_iter();
        let refused = refused.map(|(reason, count)| ([("reason", reason.to_owned())], count));
        counters(out, "fieldgate_admin_refused_requests", "Requests refused at the admin address", refused)?;
        gauge(
            out,
            "fieldgate_devices_online",
            "Devices that are connected or answer",
            overview.presence.online_count() as u64,
        )?;
        gauge(out, "fieldgate_commands_open", "Commands without an answer yet", overview.book.open_count() as u64)?;
        let left = |end: fieldgate_types::UnixMillis| end.since(now).as_secs();
        let ends = [
            ("server", overview.server_certificate.not_after()),
            ("issuing", overview.authority.ca.issuing_not_after()),
        ];
        let ends = ends.map(|(name, end)| ([("certificate", name.to_owned())], left(end)));
        gauges(out, "fieldgate_certificate_left_seconds", "Until the certificate ends", ends)?;
        self.warnings(out)
    }
}

impl Figures {
    /// Of the process: what it has taken, and which of its loops hang.
    fn process(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        if let Some(memory) = resident_bytes() {
            gauge(out, "fieldgate_resident_memory_bytes", "Resident memory of the process", memory)?;
        }
        if let Some(files) = open_files() {
            gauge(out, "fieldgate_open_files", "Files and sockets that are open", files)?;
        }
        if let Some(most) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
            gauge(out, "fieldgate_open_files_limit", "Files and sockets that may be open", most)?;
        }
        let stuck = self.0.stuck();
        let counts = LoopKind::ALL.map(|kind| {
            let count = stuck.iter().filter(|(of, _)| *of == kind).count() as u64;
            ([("loop", kind.word().to_owned())], count)
        });
        gauges(out, "fieldgate_watchdog_stuck_loops", "Loops that should have made a turn and have not", counts)
    }

    fn warnings(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let endings = ending::endings(&self.0.authority);
        let stages = [Stage::Warn, Stage::Urgent, Stage::Expired].map(|stage| {
            let count = endings.iter().filter(|ending| ending.stage == stage).count() as u64;
            ([("stage", Ending::label(stage).to_owned())], count)
        });
        gauges(out, "fieldgate_device_certificates_ending", "Devices by 80 %, 95 % and all of their life", stages)?;
        let alarms = self.0.authority.ca.alarms();
        let kinds =
            [AlarmKind::RootKeyNeeded, AlarmKind::IssuingEnds, AlarmKind::FormerIssuingEnds, AlarmKind::RootEnds];
        let kinds = kinds.map(|kind| {
            let count = alarms.iter().filter(|alarm| alarm.kind == kind).count() as u64;
            ([("kind", kind.label().to_owned())], count)
        });
        gauges(out, "fieldgate_ca_alarms", "What of the CA somebody should see to", kinds)
    }

    fn buffer(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let buffer = self.0.buffer();
        gauge(out, "fieldgate_buffer_messages", "Messages waiting for the upstream", buffer.messages)?;
        gauge(out, "fieldgate_buffer_bytes", "Bytes of the messages waiting", buffer.bytes)?;
        gauge(out, "fieldgate_buffer_file_bytes", "Size of queue.db", buffer.file_bytes)?;
        let capacity = self.0.queue.stats().capacity_bytes;
        gauge(
            out,
            "fieldgate_buffer_capacity_bytes",
            "What queue.db may take: as configured, or what the disk leaves",
            capacity,
        )?;
        gauge(out, "fieldgate_buffer_healthy", "1 when the store accepts messages", buffer.healthy.into())?;
        let stats = self.0.queue.stats();
        counter(
            out,
            "fieldgate_buffer_passed_messages",
            "Messages that the upstream had before they had to be written",
            stats.passed,
        )?;
        if let (Some(holds), Some(left)) = (stats.holds, stats.left) {
            let (holds, left) = (holds.as_secs(), left.as_secs());
            gauge(out, "fieldgate_buffer_holds_seconds", "How long the whole buffer lasts at the present rate", holds)?;
            gauge(out, "fieldgate_buffer_left_seconds", "How long what is free of it lasts at that rate", left)?;
        }
        let age = buffer.oldest.map_or(0, |oldest| self.0.clock.now().since(oldest).as_secs());
        gauge(out, "fieldgate_buffer_oldest_age_seconds", "Age of the oldest message waiting", age)
    }

    /// Summed over devices: one series per device would grow with the plant. `buffer status` has each.
    fn ledger(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut sums = [0_u64; 5];
        let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
        for device in self.0.queue.ledger() {
            for loss in device.losses {
                *reasons.entry(loss.reason.into_owned()).or_default() += loss.count;
            }
            let fates = [device.received, device.delivered, device.expired, device.evicted, device.quarantined];
            for (sum, fate) in sums.iter_mut().zip(fates) {
                *sum += fate;
            }
        }
        let names = ["received", "delivered", "expired", "evicted", "quarantined"];
        let values = names.iter().zip(sums).map(|(name, sum)| ([("fate", (*name).to_owned())], sum));
        counters(out, "fieldgate_buffer_ledger_messages", "What became of messages since the buffer was made", values)?;
        let reasons = reasons.into_iter().map(|(reason, count)| ([("reason", reason)], count));
        counters(out, "fieldgate_buffer_lost_messages", "Messages expired, evicted and quarantined, by reason", reasons)
    }

    fn broker(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let metrics = self.0.broker.metrics();
        let gauges = [
            ("connections", "Leaf connections", metrics.connections),
            ("buffer_bytes", "Bytes in all buffers of the broker together", metrics.buffer_bytes),
            ("pending_sockets", "Sockets before their CONNECT", metrics.pending_sockets),
            ("sessions", "Sessions, connected or not", metrics.sessions),
            ("subscriptions", "Subscriptions", metrics.subscriptions),
            ("retained_messages", "Retained messages", metrics.retained_messages),
            ("retained_bytes", "Bytes of retained messages", metrics.retained_bytes),
        ];
        for (name, help, value) in gauges {
            gauge(out, &format!("fieldgate_broker_{name}"), help, value)?;
        }
        let counts = [
            ("accepted_sockets", "Sockets accepted", metrics.accepted),
            ("pending_evicted_sockets", "Pending sockets closed for newer ones", metrics.pending_evicted),
            ("handshake_timeouts", "Sockets without a handshake or CONNECT in time", metrics.handshake_timeouts),
            ("handshake_failures", "Handshakes that failed", metrics.handshake_failures),
            ("handshakes_paced", "Newcomers that waited for handshakes_per_second", metrics.handshakes_paced),
            ("connects", "CONNECTs accepted", metrics.connected),
            ("refused_connects", "CONNECTs refused", metrics.refused),
            ("takeovers", "Connections taken over by newer ones", metrics.took_over),
            ("received_messages", "PUBLISH packets received", metrics.messages_in),
            ("sent_messages", "PUBLISH packets sent", metrics.messages_out),
            ("received_bytes", "Bytes received from connected clients", metrics.bytes_in),
            ("sent_bytes", "Bytes sent to connected clients", metrics.bytes_out),
            ("refused_messages", "PUBLISH packets refused", metrics.publish_refused),
            ("refused_subscriptions", "Filters refused", metrics.subscription_refused),
            ("queue_waits", "Times that a publisher waited for a full queue", metrics.queue_waits),
            ("rate_waits", "Times that a device was slowed by the message rate", metrics.rate_waits),
            ("buffer_waits", "Times that a publish waited because all buffers were full", metrics.buffer_waits),
            ("slow_receivers", "Receivers disconnected for being slow", metrics.slow_receivers),
            ("retained_refused_messages", "Retained messages not kept because of a limit", metrics.retained_refused),
            ("wills", "Wills published", metrics.wills_fired),
            ("failed_commits", "Commits that failed", metrics.commits_failed),
        ];
        for (name, help, value) in counts {
            counter(out, &format!("fieldgate_broker_{name}"), help, value)?;
        }
        let dropped = [
            ("queue-full", metrics.dropped_queue_full),
            ("buffers-full", metrics.dropped_buffers_full),
            ("expired", metrics.dropped_expired),
            ("not-authorized", metrics.dropped_not_authorized),
            ("session-ended", metrics.dropped_session_ended),
            ("too-large", metrics.dropped_too_large),
            ("slow-receiver", metrics.dropped_slow_receiver),
        ];
        let dropped = dropped.map(|(reason, count)| ([("reason", reason.to_owned())], count));
        counters(out, "fieldgate_broker_dropped_messages", "Messages that a receiver did not get", dropped)?;
        let refusals =
            self.0.leaf.snapshot().into_iter().map(|(reason, count)| ([("reason", reason.to_owned())], count));
        counters(out, "fieldgate_broker_refusals", "What leaves were refused", refusals)
    }

    fn upstream(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(upstream) = self.0.upline.handle() else { return Ok(()) };
        let status = upstream.status();
        gauge(out, "fieldgate_upstream_up", "1 when connected and serving", (status.state.as_str() == "up").into())?;
        counter(out, "fieldgate_upstream_connects", "Connections made", status.connects)?;
        counter(out, "fieldgate_upstream_published_messages", "Messages sent, re-sends included", status.published)?;
        counter(out, "fieldgate_upstream_batches", "Batches sent, re-sends included", status.batches)?;
        counter(out, "fieldgate_upstream_batch_bytes", "Bytes of these batches", status.batch_bytes)?;
        counter(out, "fieldgate_upstream_acknowledged_messages", "Messages acknowledged", status.acknowledged)?;
        gauge(out, "fieldgate_upstream_in_flight_messages", "Messages on the wire", status.in_flight as u64)?;
        ack_times(out, &upstream.ack_times())
    }

    fn links(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let infos: Vec<_> =
            self.0.links.all().iter().map(|(_, link)| (link.name.clone(), link.state.borrow().clone())).collect();
        let label = |name: &String| [("link", name.clone())];
        let up = infos.iter().map(|(name, info)| (label(name), u64::from(info.state == LinkState::Up)));
        gauges(out, "fieldgate_link_up", "1 when the link is up", up)?;
        let answers = infos.iter().map(|(name, info)| (label(name), info.answers));
        counters(out, "fieldgate_link_answers", "Requests answered, or notifications", answers)?;
        let failures = infos.iter().map(|(name, info)| (label(name), info.failures));
        counters(out, "fieldgate_link_failures", "Requests failed", failures)?;
        let overruns = infos.iter().map(|(name, info)| (label(name), info.overruns));
        counters(out, "fieldgate_link_overruns", "Polls that began late", overruns)?;
        let response = infos.iter().map(|(name, info)| (label(name), info.response.as_secs_f64()));
        let kind = ConstCounter::new(0.0_f64).metric_type();
        let help = "How long the answers took together; over `fieldgate_link_answers_total` it is their mean";
        let mut metric = out.encode_descriptor("fieldgate_link_response_seconds", help, None, kind)?;
        for (label, seconds) in response {
            ConstCounter::new(seconds).encode(metric.encode_family(&label)?)?;
        }
        self.point_errors(out)
    }
}

impl Figures {
    /// Over all links: one series per point would grow with the plant.
    fn point_errors(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut sums: BTreeMap<&'static str, u64> = BTreeMap::new();
        for (reason, count) in self.0.links.all().iter().flat_map(|(_, link)| link.errors.snapshot()) {
            *sums.entry(reason).or_default() += count;
        }
        let sums = sums.into_iter().map(|(reason, count)| ([("reason", reason.to_owned())], count));
        counters(out, "fieldgate_point_errors", "Times that a point was reported as bad", sums)
    }
}

fn ack_times(out: &mut DescriptorEncoder<'_>, times: &AckTimes) -> fmt::Result {
    let help = "From sending a message to the upstream's acknowledgement";
    let name = "fieldgate_upstream_acknowledge_seconds";
    let mut metric = out.encode_descriptor(name, help, None, MetricType::Histogram)?;
    let bounds = ACK_BOUNDS.iter().map(|bound| Duration::from_millis(*bound).as_secs_f64());
    let buckets: Vec<(f64, u64)> = bounds.chain([f64::INFINITY]).zip(times.counts).collect();
    let count = times.counts.iter().sum();
    metric.encode_histogram::<NoLabelSet>(times.sum.as_secs_f64(), count, &buckets, None)
}

fn open_files() -> Option<u64> {
    // One of them is the folder that is being read.
    std::fs::read_dir("/proc/self/fd").ok().map(|files| (files.count() as u64).saturating_sub(1))
}

/// Resident memory of the process, from /proc/self/statm; absent where there is none.
pub fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    pages.checked_mul(rustix::param::page_size() as u64)
}
