//! What a server shall tell of a point: at which changes, and how large they must be (OPC 10000-4 section 7.22.2).
//!
//! Owns the keys `trigger` and `deadband_on`. The gateway's own rules stay in force whatever the server does: a filter here
//! only spares the line.

use fieldgate_protocol::{Deadband, Sample, Value};
use fieldgate_types::Section;
use opcua::types::{DataChangeFilter, DataChangeTrigger, DeadbandType, ExtensionObject, StatusCode};

/// Which changes are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Trigger {
    /// Those of the status.
    Status,
    /// Those of the status or the value.
    #[default]
    Value,
    /// These, and new source times of the same value.
    Timestamp,
}

/// What a server shall tell of a point.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Filter {
    /// Which changes.
    pub trigger: Trigger,
    /// How large they must be, where the server shall look at that.
    pub deadband: Option<Deadband>,
}

/// The keys of a device, which are the defaults of its points.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Keys {
    trigger: Trigger,
    on_server: bool,
}

impl Keys {
    pub(crate) fn read(section: &Section, default: Self) -> Self {
        let triggers = [("status", Trigger::Status), ("value", Trigger::Value), ("timestamp", Trigger::Timestamp)];
        Self {
            trigger: section.choice("trigger", &triggers, default.trigger),
            on_server: section.choice("deadband_on", &[("gateway", false), ("server", true)], default.on_server),
        }
    }

    /// The filter of a point with this deadband, and the deadband that is left to the gateway. A percentage is one of the
    /// engineering range on a server, and of the last value here: one of both applies.
    pub(crate) fn filter(self, deadband: Option<Deadband>) -> (Filter, Option<Deadband>) {
        let trigger = self.trigger;
        match deadband.filter(|_| self.on_server) {
            Some(absolute @ Deadband::Absolute(_)) => (Filter { trigger, deadband: Some(absolute) }, Some(absolute)),
            Some(percent @ Deadband::Percent(_)) => (Filter { trigger, deadband: Some(percent) }, None),
            None => (Filter { trigger, deadband: None }, deadband),
        }
    }
}

impl Filter {
    /// As it goes to the server; nothing where it is what servers do by themselves.
    pub(crate) fn asked(&self) -> ExtensionObject {
        if *self == Self::default() {
            return ExtensionObject::null();
        }
        let (deadband_type, deadband_value) = match self.deadband {
            None => (DeadbandType::None, 0.0),
            Some(Deadband::Absolute(by)) => (DeadbandType::Absolute, by),
            Some(Deadband::Percent(share)) => (DeadbandType::Percent, share),
        };
        let trigger = match self.trigger {
            Trigger::Status => DataChangeTrigger::Status,
            Trigger::Value => DataChangeTrigger::StatusValue,
            Trigger::Timestamp => DataChangeTrigger::StatusValueTimestamp,
        };
        let deadband_type = deadband_type as u32;
        ExtensionObject::from_message(DataChangeFilter { trigger, deadband_type, deadband_value })
    }

    /// What is asked for next when the server refuses it; nothing when there is nothing left to give up.
    pub(crate) fn weaker(&self) -> Option<Self> {
        match self {
            Self { deadband: Some(_), trigger } => Some(Self { deadband: None, trigger: *trigger }),
            Self { deadband: None, trigger: Trigger::Value } => None,
            Self { deadband: None, .. } => Some(Self::default()),
        }
    }

    /// Whether the server may keep silent about a change between these two.
    pub(crate) fn hides(&self, last: Option<&Value>, sample: &Sample) -> bool {
        let numbers = last.and_then(Value::as_f64).zip(sample.value.as_ref().and_then(Value::as_f64));
        match (self.trigger, self.deadband, numbers) {
            // A percentage is of a range that is not known here.
            (Trigger::Status, ..) | (_, Some(Deadband::Percent(_)), Some(_)) => true,
            (_, Some(Deadband::Absolute(by)), Some((last, value))) => (value - last).abs() <= by,
            (_, None, _) | (_, _, None) => false,
        }
    }
}

/// Whether the server says that it can't filter so.
pub(crate) fn refused(status: StatusCode) -> bool {
    [
        StatusCode::BadMonitoredItemFilterUnsupported,
        StatusCode::BadMonitoredItemFilterInvalid,
        StatusCode::BadDeadbandFilterInvalid,
        StatusCode::BadFilterNotAllowed,
    ]
    .contains(&status)
}

#[cfg(test)]
mod tests {
    use fieldgate_protocol::{PointName, Quality};
    use fieldgate_types::UnixMillis;

    use super::*;

    #[test]
    fn a_percentage_is_the_servers_or_ours_and_never_both() {
        let (absolute, percent) = (Some(Deadband::Absolute(0.5)), Some(Deadband::Percent(2.0)));
        let server = Keys { on_server: true, ..Keys::default() };
        assert_eq!(server.filter(absolute), (Filter { deadband: absolute, ..Filter::default() }, absolute));
        assert_eq!(server.filter(percent), (Filter { deadband: percent, ..Filter::default() }, None));
        assert_eq!(Keys::default().filter(percent), (Filter::default(), percent));
        assert!(Filter::default().asked().is_null());
        let asked = server.filter(percent).0.asked();
        let asked = asked.inner_as::<DataChangeFilter>().unwrap();
        assert_eq!((asked.deadband_type, asked.trigger), (2, DataChangeTrigger::StatusValue));
    }

    #[test]
    fn what_is_refused_is_given_up_step_by_step() {
        let filter = Filter { trigger: Trigger::Timestamp, deadband: Some(Deadband::Absolute(1.0)) };
        let next = filter.weaker().unwrap();
        assert_eq!(next, Filter { trigger: Trigger::Timestamp, deadband: None });
        assert_eq!((next.weaker(), Filter::default().weaker()), (Some(Filter::default()), None));
    }

    #[test]
    fn silence_within_the_filter_is_no_doubt() {
        let sample = |value| Sample {
            value: Some(Value::Float(value)),
            ..Sample::bad(PointName::new("p").unwrap(), Quality::GOOD, UnixMillis(1))
        };
        let filter = Filter { deadband: Some(Deadband::Absolute(0.5)), ..Filter::default() };
        let last = Value::Float(1.0);
        assert!(filter.hides(Some(&last), &sample(1.5)) && !filter.hides(Some(&last), &sample(1.6)));
        assert!(!filter.hides(Some(&Value::Text("a".to_owned())), &sample(1.0)));
        assert!(!Filter::default().hides(Some(&last), &sample(1.1)));
        assert!(Filter { trigger: Trigger::Status, deadband: None }.hides(Some(&last), &sample(9.0)));
    }
}
