//! Points that the server tells when another one is told (SetTriggering, OPC 10000-4 section 5.13.5). Their items only sample;
//! linked to the item of the other point, they give what they hold each time that one is told. A server that can't link gets
//! them as all others, and that is said.

use std::collections::BTreeMap;

use opcua::types::{MonitoringMode, StatusCode};

use super::{Entry, Subscribed};
use crate::fault::Fault;
use crate::server::Server;

impl Entry {
    /// How its item is made.
    pub(crate) fn mode(&self) -> MonitoringMode {
        if self.trigger.is_some() { MonitoringMode::Sampling } else { MonitoringMode::Reporting }
    }
}

/// Of a device: the item that triggers, and the places and items that are to be linked to it.
type Links = BTreeMap<(usize, u32), Vec<(usize, u32)>>;

impl Server {
    /// Links items that are not yet, or whose own or other item is a new one.
    pub(crate) async fn link(&self, devices: &mut [Subscribed], entries: &mut [Entry]) -> Result<(), Fault> {
        for ((place, trigger), items) in unlinked(entries) {
            let Some(device) = devices.get_mut(place) else { continue };
            let Some(subscription) = device.subscription else { continue };
            for part in items.chunks(self.chunk) {
                let ids: Vec<u32> = part.iter().map(|(_, item)| *item).collect();
                let asked = self.session().set_triggering(subscription, trigger, &ids, &[]);
                let told = match self.session().ask("linking monitored items", asked).await {
                    Ok((added, _)) => added.unwrap_or_default(),
                    Err(Fault::Status { status, .. }) => vec![status; part.len()],
                    Err(fault) => return Err(fault),
                };
                let told = told.into_iter().chain(std::iter::repeat(StatusCode::BadUnexpectedError));
                let mut refused = Vec::new();
                for ((place, item), status) in part.iter().zip(told) {
                    let Some(entry) = entries.get_mut(*place) else { continue };
                    if status.is_bad() {
                        entry.trigger = None;
                        device.granted.unlinked(*place, status);
                        refused.push(*item);
                    } else {
                        entry.linked = Some((trigger, *item));
                    }
                }
                if !refused.is_empty() {
                    let mode = MonitoringMode::Reporting;
                    let asked = self.session().set_monitoring_mode(subscription, mode, &refused);
                    self.session().ask("having items report", asked).await?;
                }
            }
        }
        Ok(())
    }
}

fn unlinked(entries: &[Entry]) -> Links {
    let mut links = Links::new();
    for (place, entry) in entries.iter().enumerate() {
        let trigger = entry.trigger.and_then(|trigger| entries.get(trigger)).and_then(|trigger| trigger.item);
        let Some((trigger, item)) = trigger.zip(entry.item) else { continue };
        if entry.linked != Some((trigger, item)) {
            links.entry((entry.device, trigger)).or_default().push((place, item));
        }
    }
    links
}
