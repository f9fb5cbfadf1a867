//! What came of the demo, judged from what the cloud received.

use std::collections::BTreeSet;

use fieldgate_types::DeviceId;
use serde::Serialize;

use super::cloud::Arrival;

/// The demo's one JSON document.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// Per device.
    pub devices: Vec<DeviceVerdict>,
    /// Per command.
    pub commands: Vec<CommandVerdict>,
    /// The most messages that waited in the buffer while the line was cut.
    pub offline_buffered_max: u64,
    /// Nothing lost, nothing out of order, every command `ok`.
    pub ok: bool,
}

/// What came of one device's messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeviceVerdict {
    /// Which.
    pub id: DeviceId,
    /// `mqtt`, `modbus`, `opcua`
    pub via: &'static str,
    /// Counter values that the device gave away.
    pub sent: u64,
    /// How many of them arrived marked as historical: they had waited in the buffer.
    pub stored: u64,
    /// How many of them arrived.
    pub delivered: u64,
    /// How many did not.
    pub lost: u64,
    /// Messages that arrived again.
    pub duplicates: u64,
    /// New messages that arrived after a later one.
    pub out_of_order: u64,
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CommandVerdict {
    /// For which device.
    pub device: DeviceId,
    /// The status of its answer.
    pub status: String,
}

impl Verdict {
    /// Of all devices and commands.
    pub fn of(devices: Vec<DeviceVerdict>, commands: Vec<CommandVerdict>, offline_buffered_max: u64) -> Self {
        let clean = |device: &DeviceVerdict| device.sent > 0 && device.lost == 0 && device.out_of_order == 0;
        let ok = devices.iter().all(clean) && commands.iter().all(|command| command.status == "ok");
        Self { ok: ok && !devices.is_empty() && !commands.is_empty(), devices, commands, offline_buffered_max }
    }
}

/// Judges the arrivals of a device that gave away the counter values `first..=last`.
pub fn judge(id: DeviceId, via: &'static str, first: u64, last: u64, arrivals: &[Arrival]) -> DeviceVerdict {
    let (mut counts, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    let (mut duplicates, mut out_of_order, mut stored) = (0, 0, 0);
    for arrival in arrivals.iter().filter(|arrival| (first..=last).contains(&arrival.count)) {
        if !numbers.insert((arrival.number, arrival.count)) {
            duplicates += 1;
            continue;
        }
        if counts.last().is_some_and(|latest| *latest > arrival.count) {
            out_of_order += 1;
        }
        counts.insert(arrival.count);
        stored += u64::from(arrival.historical);
    }
    let sent = (last + 1).saturating_sub(first);
    let delivered = counts.len() as u64;
    DeviceVerdict { id, via, sent, stored, delivered, lost: sent - delivered, duplicates, out_of_order }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(counts: &[(u64, u64)]) -> Vec<Arrival> {
        counts.iter().map(|(count, seq)| Arrival { count: *count, number: (1, *seq), historical: false }).collect()
    }

    fn verdict(counts: &[(u64, u64)]) -> DeviceVerdict {
        judge(DeviceId::new("d").unwrap(), "mqtt", 1, 3, &arrivals(counts))
    }

    #[test]
    fn a_clean_run_has_nothing_to_report() {
        let clean = verdict(&[(1, 1), (2, 2), (3, 3), (4, 4)]);
        assert_eq!((clean.sent, clean.delivered, clean.lost, clean.duplicates, clean.out_of_order), (3, 3, 0, 0, 0));
    }

    #[test]
    fn sees_losses_duplicates_and_disorder() {
        assert_eq!(verdict(&[(1, 1), (3, 3)]).lost, 1);
        let again = verdict(&[(1, 1), (2, 2), (1, 1), (2, 2), (3, 3)]);
        assert_eq!((again.duplicates, again.out_of_order, again.lost), (2, 0, 0));
        assert_eq!(verdict(&[(1, 1), (3, 3), (2, 2)]).out_of_order, 1);
        assert!(!Verdict::of(vec![verdict(&[])], vec![], 0).ok);
    }
}
