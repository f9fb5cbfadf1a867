//! The figures of [`Overview`] for Prometheus, read at each scrape.

use std::fmt;
use std::sync::Arc;

use fieldgate_certs::{AlarmKind, Stage};
use fieldgate_protocol::LinkState;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text::encode};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::overview::Overview;
use crate::identity::ending::{self, Ending};

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
        if let Some(memory) = resident_bytes() {
            gauge(out, "fieldgate_resident_memory_bytes", "Resident memory of the process", memory)?;
        }
        self.buffer(out)?;
        self.ledger(out)?;
        self.broker(out)?;
        self.upstream(out)?;
        self.links(out)?;
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
        for device in self.0.queue.ledger() {
            let fates = [device.received, device.delivered, device.expired, device.evicted, device.quarantined];
            for (sum, fate) in sums.iter_mut().zip(fates) {
                *sum += fate;
            }
        }
        let names = ["received", "delivered", "expired", "evicted", "quarantined"];
        let values = names.iter().zip(sums).map(|(name, sum)| ([("fate", (*name).to_owned())], sum));
        counters(out, "fieldgate_buffer_ledger_messages", "What became of messages since the buffer was made", values)
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
        gauge(out, "fieldgate_upstream_in_flight_messages", "Messages on the wire", status.in_flight as u64)
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
        counters(out, "fieldgate_link_overruns", "Polls that began late", overruns)
    }
}

/// From /proc/self/statm; absent where there is none.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    pages.checked_mul(rustix::param::page_size() as u64)
}
