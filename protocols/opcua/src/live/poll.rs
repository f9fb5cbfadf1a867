//! Reading instead of subscribing, for devices with an `interval`: some small servers have no subscriptions, or too few.

use std::time::Duration;

use fieldgate_protocol::Sample;
use fieldgate_types::DeviceId;
use opcua::types::{NodeId, StatusCode};
use tokio::time::Instant;

use super::{Ended, Granted, Live, Subscribed, pass};
use crate::driver::Link;
use crate::feed::Signs;
use crate::{fault, server, value};

/// When a device is read next.
#[derive(Debug)]
pub(crate) struct Poll {
    interval: Duration,
    next: Instant,
}

impl Subscribed {
    /// A device without a subscription, due at once.
    pub(super) fn polled(device: DeviceId, interval: Duration) -> Self {
        Self {
            device,
            subscription: None,
            poll: Some(Poll { interval, next: Instant::now() }),
            granted: Granted::default(),
            signs: Signs::new(),
            patience: Duration::MAX,
            publishing: interval,
        }
    }
}

/// Waits until then; for ever where nothing is polled.
pub(super) async fn due(next: Option<Instant>) {
    match next {
        Some(next) => tokio::time::sleep_until(next).await,
        None => std::future::pending().await,
    }
}

impl Live {
    /// When the next device is due.
    pub(super) fn next_poll(&self) -> Option<Instant> {
        self.devices.iter().filter_map(|device| device.poll.as_ref()).map(|poll| poll.next).min()
    }

    /// Reads the devices that are due. A read that fails as a whole ends the session, as any request does.
    pub(super) async fn poll(&mut self, link: &mut Link) -> Result<(), Ended> {
        for device in 0..self.devices.len() {
            let now = Instant::now();
            let Some(poll) = self.devices.get_mut(device).and_then(|device| device.poll.as_mut()) else { continue };
            if poll.next > now {
                continue;
            }
            poll.next += poll.interval;
            if poll.next <= now {
                // Whole rounds were missed: the next one keeps its distance from this.
                poll.next = now + poll.interval;
                link.overrun(1);
            }
            self.read_device(link, device).await?;
        }
        Ok(())
    }

    async fn read_device(&mut self, link: &mut Link, device: usize) -> Result<(), Ended> {
        let places = self.places(|entry| entry.device == device && entry.missing.is_none() && entry.node.is_some());
        let node = |place: &usize| self.entries.get(*place)?.node.clone();
        let nodes: Vec<NodeId> = places.iter().filter_map(node).collect();
        let values = server::read_values(&self.connection.session, &nodes, self.server.chunk).await?;
        link.answered(1);
        let received = self.clock.now();
        let mut samples: Vec<Sample> = Vec::with_capacity(values.len());
        for (place, data) in places.into_iter().zip(values) {
            let Some(entry) = self.entries.get_mut(place) else { continue };
            let status = data.status.unwrap_or(StatusCode::Good);
            // Asked for again with the missing ones.
            entry.missing = fault::gone(status).then_some(status);
            let at = data.source_timestamp;
            let sample = value::sample(&entry.point, data, received, self.server.types());
            self.types.want(&sample);
            pass(&mut self.fill, place, entry, at, sample, &mut samples);
        }
        self.send(link, device, samples).await
    }
}
