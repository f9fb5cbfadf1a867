//! The live counters behind [`crate::BrokerMetrics`].

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{BrokerMetrics, DropReason};

/// A counter or gauge.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn one(&self) {
        self.add(1);
    }

    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub accepted: Counter,
    pub pending_evicted: Counter,
    pub handshake_timeouts: Counter,
    pub handshake_failures: Counter,
    pub handshakes_paced: Counter,
    pub connected: Counter,
    pub refused: Counter,
    pub took_over: Counter,
    pub messages_in: Counter,
    pub messages_out: Counter,
    pub bytes_in: Counter,
    pub bytes_out: Counter,
    pub publish_refused: Counter,
    pub subscription_refused: Counter,
    pub queue_waits: Counter,
    pub rate_waits: Counter,
    pub buffer_waits: Counter,
    pub slow_receivers: Counter,
    pub retained_refused: Counter,
    pub wills_fired: Counter,
    pub commits_failed: Counter,
    dropped: [Counter; DropReason::ALL.len()],
}

impl Counters {
    pub(crate) fn dropped(&self, reason: DropReason, count: u64) {
        let all = DropReason::ALL.iter().zip(&self.dropped);
        all.filter(|(of, _)| **of == reason).for_each(|(_, counter)| counter.add(count));
    }

    fn dropped_so_far(&self, reason: DropReason) -> u64 {
        DropReason::ALL.iter().zip(&self.dropped).find(|(of, _)| **of == reason).map_or(0, |(_, counter)| counter.get())
    }

    /// A snapshot of the counters; the gauges are left at zero.
    pub(crate) fn snapshot(&self) -> BrokerMetrics {
        BrokerMetrics {
            accepted: self.accepted.get(),
            pending_evicted: self.pending_evicted.get(),
            handshake_timeouts: self.handshake_timeouts.get(),
            handshake_failures: self.handshake_failures.get(),
            handshakes_paced: self.handshakes_paced.get(),
            connected: self.connected.get(),
            refused: self.refused.get(),
            took_over: self.took_over.get(),
            messages_in: self.messages_in.get(),
            messages_out: self.messages_out.get(),
            bytes_in: self.bytes_in.get(),
            bytes_out: self.bytes_out.get(),
            publish_refused: self.publish_refused.get(),
            subscription_refused: self.subscription_refused.get(),
            queue_waits: self.queue_waits.get(),
            rate_waits: self.rate_waits.get(),
            buffer_waits: self.buffer_waits.get(),
            slow_receivers: self.slow_receivers.get(),
            retained_refused: self.retained_refused.get(),
            wills_fired: self.wills_fired.get(),
            commits_failed: self.commits_failed.get(),
            dropped_queue_full: self.dropped_so_far(DropReason::QueueFull),
            dropped_expired: self.dropped_so_far(DropReason::Expired),
            dropped_not_authorized: self.dropped_so_far(DropReason::NotAuthorized),
            dropped_session_ended: self.dropped_so_far(DropReason::SessionEnded),
            dropped_too_large: self.dropped_so_far(DropReason::TooLarge),
            dropped_buffers_full: self.dropped_so_far(DropReason::BuffersFull),
            dropped_slow_receiver: self.dropped_so_far(DropReason::SlowReceiver),
            ..BrokerMetrics::default()
        }
    }
}
