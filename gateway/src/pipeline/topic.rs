//! The local topic tree (DESIGN section 5): one place that builds its topics and takes them apart.

use fieldgate_types::DeviceId;

/// The retained trust bundle.
pub const CA: &str = "$fieldgate/ca";
/// The stream that carries a field device's points.
pub const POINTS: &str = "points";
/// The stream that carries a field device's events.
pub const EVENTS: &str = "events";

/// What a local topic stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalTopic<'a> {
    /// `devices/{id}/telemetry/{stream...}`
    Telemetry {
        /// Whose.
        device: DeviceId,
    },
    /// `devices/{id}/state`
    State {
        /// Whose.
        device: DeviceId,
    },
    /// `devices/{id}/birth`
    Birth {
        /// Whose.
        device: DeviceId,
    },
    /// `devices/{id}/commands/{name}/{rid}`
    Command {
        /// For whom.
        device: DeviceId,
        /// What to do.
        name: &'a str,
        /// Request id.
        rid: &'a str,
    },
    /// `devices/{id}/commands/{name}/{rid}/result`
    Result {
        /// Whose answer.
        device: DeviceId,
        /// To which command.
        name: &'a str,
        /// Request id.
        rid: &'a str,
    },
    /// Anything else: local traffic.
    Other,
}

impl<'a> LocalTopic<'a> {
    /// Takes `topic` apart.
    pub fn parse(topic: &'a str) -> Self {
        let mut levels = topic.split('/');
        if levels.next() != Some("devices") {
            return Self::Other;
        }
        let Some(device) = levels.next().and_then(|id| DeviceId::new(id).ok()) else { return Self::Other };
        match (levels.next(), levels.next(), levels.next(), levels.next(), levels.next()) {
            (Some("telemetry"), Some(_), ..) => Self::Telemetry { device },
            (Some("state"), None, ..) => Self::State { device },
            (Some("birth"), None, ..) => Self::Birth { device },
            (Some("commands"), Some(name), Some(rid), None, _) => Self::Command { device, name, rid },
            (Some("commands"), Some(name), Some(rid), Some("result"), None) => Self::Result { device, name, rid },
            _ => Self::Other,
        }
    }
}

/// Whether a topic or filter lies outside the trees that have a meaning here: it may be mapped, forwarded and fetched. A
/// filter that begins with a wildcard lies outside, and stands for free topics alone.
pub fn is_free(topic: &str) -> bool {
    let first = topic.split('/').next().unwrap_or(topic);
    !matches!(first, "devices" | "modules") && !first.starts_with('$')
}

/// `devices/{id}/telemetry/{stream}`
pub fn telemetry(device: &DeviceId, stream: &str) -> String {
    format!("devices/{device}/telemetry/{stream}")
}

/// `devices/{id}/state`
pub fn state(device: &DeviceId) -> String {
    format!("devices/{device}/state")
}

/// `devices/{id}/birth`
pub fn birth(device: &DeviceId) -> String {
    format!("devices/{device}/birth")
}

/// `devices/{id}/events`
pub fn events(device: &DeviceId) -> String {
    format!("devices/{device}/events")
}

/// `devices/{id}/commands/{name}/{rid}`
pub fn command(device: &DeviceId, name: &str, rid: &str) -> String {
    format!("devices/{device}/commands/{name}/{rid}")
}

/// `devices/{id}/commands/{name}/{rid}/result`
pub fn result(device: &DeviceId, name: &str, rid: &str) -> String {
    format!("devices/{device}/commands/{name}/{rid}/result")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_topics_apart() {
        let id = DeviceId::new("press-1").unwrap();
        let device = || id.clone();
        let cases = [
            (telemetry(&id, "points"), LocalTopic::Telemetry { device: device() }),
            ("devices/press-1/telemetry/a/b/c/d/e".to_owned(), LocalTopic::Telemetry { device: device() }),
            (state(&id), LocalTopic::State { device: device() }),
            (birth(&id), LocalTopic::Birth { device: device() }),
            (command(&id, "write", "7"), LocalTopic::Command { device: device(), name: "write", rid: "7" }),
            (result(&id, "write", "7"), LocalTopic::Result { device: device(), name: "write", rid: "7" }),
        ];
        for (topic, expected) in &cases {
            assert_eq!(LocalTopic::parse(topic), *expected, "{topic}");
        }
        for other in [
            "devices/press-1/telemetry",
            "devices/press-1/state/x",
            "devices/-/state",
            "devices/press-1/commands/write",
            "devices/press-1/commands/write/7/other",
            "devices/press-1/commands/write/7/result/x",
            "plant/press-1/state",
            "$fieldgate/ca",
            "",
        ] {
            assert_eq!(LocalTopic::parse(other), LocalTopic::Other, "{other}");
        }
    }
}
