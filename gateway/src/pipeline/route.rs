//! Does a message go upstream, and how: one pure function.

use fieldgate_store::Lane;
use fieldgate_types::DeviceId;

use super::topic::LocalTopic;
use super::tree::Tree;

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

/// What goes upstream at all: nothing from a local-only gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outbound {
    /// Whether there is an upstream.
    pub upstream: bool,
    /// Trees that go there besides those of devices.
    pub forwards: Vec<Tree>,
}

/// Whether a message published on a local topic goes upstream (DESIGN section 5), and how.
///
/// Everything of a device goes through one lane, so that its messages arrive in commit order; what of it is history with
/// `replay = "live-first"` is decided when it is sent. The retain flag of a leaf doesn't travel: only states and births are
/// retained upstream.
pub fn upward(topic: &LocalTopic<'_>) -> Option<Upward> {
    let up = |device: &DeviceId, retain| Some(Upward { device: device.clone(), lane: Lane::Live, retain });
    match topic {
        LocalTopic::Telemetry { device } | LocalTopic::Result { device, .. } => up(device, false),
        LocalTopic::State { device } | LocalTopic::Birth { device } => up(device, true),
        LocalTopic::Command { .. } | LocalTopic::Other => None,
    }
}

/// Whether what `who` publishes on a free topic goes upstream with one of the trees that are forwarded, how, and on which
/// topic; `None` for that: below the gateway's own root, as everything else.
///
/// Bytes, properties and, unless the tree says no, the retain flag go as they are. Order, sequence numbers and ledger are the
/// publisher's.
pub fn forward(trees: &[Tree], who: &str, topic: &str, retain: bool) -> Option<(Upward, Option<String>)> {
    let tree = trees.iter().find(|tree| tree.holds(topic))?;
    let device = DeviceId::new(who).ok()?;
    Some((Upward { device, lane: Lane::Live, retain: retain && tree.retain }, tree.absolute(topic)))
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
        assert_eq!(route("devices/a/birth"), Some(true));
        assert_eq!(route("devices/a/commands/n/1"), None);
        assert_eq!(route("devices/a/twin/reported"), None);
        assert_eq!(route("plant/line/speed"), None);
    }
}
