//! From the fields of a notification to an event with names.

use fieldgate_protocol::{Event, Value};
use fieldgate_types::UnixMillis;
use opcua::types::{DateTime, NodeId, ObjectTypeId, Variant};

use super::Asked;
use crate::node::written;
use crate::value::{Types, time, value};

/// What a notification is about.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Notice {
    /// What follows is told anew.
    RefreshStart,
    /// What follows is news again.
    RefreshEnd,
    /// The server wants to be asked for a refresh.
    RefreshRequired,
    /// The server's queue was full: events before this one are lost.
    Overflow(Event),
    /// Something happened.
    Event(Event),
    /// Less severe than wanted.
    Unwanted,
    /// It can't be told which field is which.
    Unreadable,
}

/// What all events of an item have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    /// What was asked for, in this order.
    pub(crate) asked: &'a [Asked],
    /// Whether the server took the field, for each.
    pub(crate) granted: &'a [bool],
    pub(crate) min_severity: u16,
    pub(crate) refresh: bool,
    pub(crate) received: UnixMillis,
    pub(crate) namespaces: &'a [String],
    pub(crate) types: Types<'a>,
}

/// The type of an event that has these fields.
pub(crate) fn kind(fields: &[Variant]) -> Option<&NodeId> {
    match fields.get(1) {
        Some(Variant::NodeId(id)) => Some(id),
        _ => None,
    }
}

/// What `fields` say; `kind_name` is the name of a type that the specification doesn't have.
pub(crate) fn notice(fields: Vec<Variant>, kind_name: Option<&str>, about: Context<'_>) -> Notice {
    let known = kind(&fields).and_then(standard);
    match known {
        Some(ObjectTypeId::RefreshStartEventType) => return Notice::RefreshStart,
        Some(ObjectTypeId::RefreshEndEventType) => return Notice::RefreshEnd,
        Some(ObjectTypeId::RefreshRequiredEventType) => return Notice::RefreshRequired,
        _ => {}
    }
    let Some(fields) = aligned(fields, about.granted) else { return Notice::Unreadable };
    let overflow = known == Some(ObjectTypeId::EventQueueOverflowEventType);
    let (mut told, mut source_time) = (Vec::new(), None);
    for (asked, variant) in about.asked.iter().zip(fields) {
        match (asked.name.as_str(), &variant) {
            // Not what was asked of the server, which may not filter.
            ("Severity", Variant::UInt16(severity)) if *severity < about.min_severity && !overflow => {
                return Notice::Unwanted;
            }
            ("Time", Variant::DateTime(at)) => source_time = time(Some(DateTime::clone(at))),
            _ => {}
        }
        if matches!(variant, Variant::Empty) {
            continue;
        }
        if asked.name == "EventType" {
            kind_fields(&mut told, &variant, kind_name, about.namespaces);
        } else if let Some(value) = field(variant, about.namespaces, about.types) {
            told.push((asked.name.clone(), value));
        }
    }
    let event = Event::Happened { source_time, received: about.received, refresh: about.refresh, fields: told };
    if overflow { Notice::Overflow(event) } else { Notice::Event(event) }
}

/// The name of the type, and its id where the name is not one of the specification.
fn kind_fields(told: &mut Vec<(String, Value)>, variant: &Variant, name: Option<&str>, namespaces: &[String]) {
    let Variant::NodeId(id) = variant else { return };
    let text = |text: String| Value::Text(text);
    if let Some(known) = standard(id) {
        told.push(("EventType".to_owned(), text(format!("{known:?}"))));
        return;
    }
    let id = written(id, namespaces);
    told.push(("EventType".to_owned(), text(name.unwrap_or(&id).to_owned())));
    told.push(("EventTypeId".to_owned(), text(id)));
}

/// A type of the specification.
pub(crate) fn standard(id: &NodeId) -> Option<ObjectTypeId> {
    (id.namespace == 0).then(|| id.as_u32())?.and_then(|number| ObjectTypeId::try_from(number).ok())
}

/// The value of a field: what points have, and node ids as text, without those that are null.
fn field(variant: Variant, namespaces: &[String], types: Types<'_>) -> Option<Value> {
    match variant {
        Variant::NodeId(id) => (!id.is_null()).then(|| Value::Text(written(&id, namespaces))),
        Variant::ExpandedNodeId(id) => (!id.node_id.is_null()).then(|| Value::Text(written(&id.node_id, namespaces))),
        Variant::ByteString(bytes) if bytes.is_null() => None,
        Variant::String(text) if text.is_null() => None,
        Variant::LocalizedText(text) if text.text.is_null() => None,
        variant => value(variant, types),
    }
}

/// As many fields as were asked for. async-opcua's server leaves out those that it refused, others send a null for them.
fn aligned(fields: Vec<Variant>, granted: &[bool]) -> Option<Vec<Variant>> {
    if fields.len() == granted.len() {
        return Some(fields);
    }
    if fields.len() != granted.iter().filter(|granted| **granted).count() {
        return None;
    }
    let mut fields = fields.into_iter();
    granted.iter().map(|granted| if *granted { fields.next() } else { Some(Variant::Empty) }).collect()
}

#[cfg(test)]
mod tests {
    use opcua::types::{ByteString, LocalizedText};

    use super::*;
    use crate::event::{EventConfig, asked};

    fn config() -> EventConfig {
        let node = "i=2253".parse().unwrap();
        EventConfig { node, types: Vec::new(), fields: Vec::new(), min_severity: 500, queue: 1, acknowledge: false }
    }

    fn fields(kind: impl Into<NodeId>, severity: u16) -> Vec<Variant> {
        let at = DateTime::ymd_hms(2026, 11, 2, 3, 4, 5);
        let mut fields = vec![
            Variant::from(ByteString::from(vec![1, 2, 3])),
            Variant::from(kind.into()),
            Variant::from(NodeId::new(1, "Boiler")),
            Variant::from("Boiler"),
            Variant::from(at),
            Variant::Empty,
            Variant::from(LocalizedText::new("en", "too hot")),
            Variant::from(severity),
        ];
        fields.resize(18, Variant::Empty);
        fields
    }

    fn read(fields: Vec<Variant>, granted: &[bool]) -> Notice {
        let namespaces = ["http://opcfoundation.org/UA/".to_owned(), "urn:a".to_owned()];
        let asked = asked(&config(), &[], &namespaces);
        let about = Context {
            asked: &asked,
            granted,
            min_severity: 500,
            refresh: false,
            received: UnixMillis(1),
            namespaces: &namespaces,
            types: None,
        };
        notice(fields, Some("TooHot"), about)
    }

    fn told(notice: Notice) -> Vec<(String, Value)> {
        match notice {
            Notice::Event(Event::Happened { source_time, fields, .. }) => {
                assert_eq!(source_time, Some(UnixMillis(1_793_588_645_000)));
                fields
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_event_has_names_and_no_fields_that_are_null() {
        let expected = [
            ("EventId", "AQID"),
            ("EventType", "TooHot"),
            ("EventTypeId", "nsu=urn:a;i=7"),
            ("SourceNode", "nsu=urn:a;s=Boiler"),
            ("SourceName", "Boiler"),
            ("Time", "2026-11-02T03:04:05.000Z"),
            ("Message", "too hot"),
        ];
        let mut expected: Vec<(String, Value)> =
            expected.map(|(name, text)| (name.to_owned(), Value::Text(text.to_owned()))).into();
        expected.push(("Severity".to_owned(), Value::Uint(700)));
        assert_eq!(told(read(fields(NodeId::new(1, 7), 700), &[true; 18])), expected);
        let standard = told(read(fields(ObjectTypeId::AlarmConditionType, 500), &[true; 18]));
        assert_eq!(standard[1], ("EventType".to_owned(), Value::Text("AlarmConditionType".to_owned())));
        assert_eq!(standard[2].0, "SourceNode");
    }

    #[test]
    fn what_a_server_left_out_is_not_taken_for_another_field() {
        let mut granted = [true; 18];
        // The id of the condition was refused, and is not sent.
        granted[8] = false;
        let mut sent = fields(NodeId::new(1, 7), 700);
        sent[9] = Variant::from("overheated");
        sent.remove(8);
        let told = told(read(sent.clone(), &granted));
        assert_eq!(told.last(), Some(&("ConditionName".to_owned(), Value::Text("overheated".to_owned()))));
        sent.remove(0);
        assert_eq!(read(sent, &granted), Notice::Unreadable);
    }

    #[test]
    fn a_refresh_is_told_from_events_and_a_low_severity_is_unwanted() {
        let kind = |kind: ObjectTypeId| read(fields(kind, 1), &[true; 18]);
        assert_eq!(kind(ObjectTypeId::RefreshStartEventType), Notice::RefreshStart);
        assert_eq!(kind(ObjectTypeId::RefreshEndEventType), Notice::RefreshEnd);
        assert_eq!(kind(ObjectTypeId::RefreshRequiredEventType), Notice::RefreshRequired);
        assert!(matches!(kind(ObjectTypeId::EventQueueOverflowEventType), Notice::Overflow(_)));
        assert_eq!(kind(ObjectTypeId::SystemEventType), Notice::Unwanted);
    }
}
