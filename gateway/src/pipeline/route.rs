//! Does a message go upstream, and how: one pure function.

use fieldgate_store::Lane;
use fieldgate_types::DeviceId;

use super::topic::LocalTopic;

/// How a message goes upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upward {
    /// Whose message it is: the device of the topic tree it stands in.
    pub device: DeviceId,
    /// Its lane in the store.
    pub lane: Lane,
    /// Whether the upstream shall retain it.
    pub retain: bool,
}

/// Whether a message published on a local topic goes upstream (DESIGN section 5), and how.
///
/// Everything of a device goes through one lane, so that its messages arrive in commit order; the other lanes
/// are for `replay = "live-first"`. The retain flag of a leaf doesn't travel: only device states are retained
/// upstream.
pub fn upward(topic: &LocalTopic<'_>) -> Option<Upward> {
    let up = |device: &DeviceId, retain| Some(Upward { device: device.clone(), lane: Lane::Live, retain });
    match topic {
        LocalTopic::Telemetry { device } | LocalTopic::Result { device, .. } => up(device, false),
        LocalTopic::State { device } => up(device, true),
        LocalTopic::Command { .. } | LocalTopic::Other => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decides_what_goes_up() {
        let route = |topic| upward(&LocalTopic::parse(topic)).map(|up| up.retain);
        assert_eq!(route("devices/a/telemetry/t"), Some(false));
        assert_eq!(route("devices/a/commands/n/1/result"), Some(false));
        assert_eq!(route("devices/a/state"), Some(true));
        assert_eq!(route("devices/a/commands/n/1"), None);
        assert_eq!(route("devices/a/twin/reported"), None);
        assert_eq!(route("plant/line/speed"), None);
    }
}
