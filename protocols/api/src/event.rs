//! Events: what happens on a device besides the values of its points, such as alarms.

use fieldgate_types::UnixMillis;

use crate::Value;

/// What a device tells besides values: goes up as it is, in the telemetry stream `events`. There is no report by
/// exception for it: each event is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Something happened.
    Happened {
        /// When, as the device says.
        source_time: Option<UnixMillis>,
        /// When the gateway had it.
        received: UnixMillis,
        /// It is told because the connection is new: the device says what still holds, and it may have been told before.
        refresh: bool,
        /// What is known of it, in the words of the protocol and in their order. What has no form as JSON becomes null.
        fields: Vec<(String, Value)>,
    },
    /// Events were lost at this place.
    Lost {
        /// When that was noticed.
        received: UnixMillis,
        /// How many.
        count: u64,
        /// Why, for people: short, lower case.
        reason: &'static str,
    },
}
