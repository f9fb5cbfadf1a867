//! The filter of an event item (OPC 10000-4 section 7.22.3): which fields of which events.

use opcua::types::{
    AttributeId, ContentFilter, ContentFilterElement, FilterOperator, NodeId, NumericRange, ObjectTypeId, Operand,
    QualifiedName, SimpleAttributeOperand,
};

use super::EventConfig;
use crate::node::Located;

/// What every event has, in the order in which it is asked for. [`super::notice`] counts on the first two.
const BASE: [&str; 8] =
    ["EventId", "EventType", "SourceNode", "SourceName", "Time", "ReceiveTime", "Message", "Severity"];
/// What conditions and alarms have besides. A state is asked for by its `Id`, which is a Boolean, not by its text.
const CONDITION: [(ObjectTypeId, &str); 9] = [
    (ObjectTypeId::ConditionType, "ConditionName"),
    (ObjectTypeId::ConditionType, "BranchId"),
    (ObjectTypeId::ConditionType, "Retain"),
    (ObjectTypeId::ConditionType, "Quality"),
    (ObjectTypeId::ConditionType, "Comment"),
    (ObjectTypeId::ConditionType, "EnabledState/Id"),
    (ObjectTypeId::AcknowledgeableConditionType, "AckedState/Id"),
    (ObjectTypeId::AcknowledgeableConditionType, "ConfirmedState/Id"),
    (ObjectTypeId::AlarmConditionType, "ActiveState/Id"),
];
/// Told whatever is filtered: they say where a refresh begins and ends, and that one is needed.
const REFRESH: [ObjectTypeId; 3] =
    [ObjectTypeId::RefreshStartEventType, ObjectTypeId::RefreshEndEventType, ObjectTypeId::RefreshRequiredEventType];

/// One field of an event: its name for us, and how the server is asked for it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Asked {
    pub(crate) name: String,
    /// Whether the configuration asks for it, and not we by ourselves.
    pub(crate) own: bool,
    pub(crate) operand: SimpleAttributeOperand,
}

/// All fields that are asked for. A field in a namespace that the server doesn't have is left out.
pub(crate) fn asked(config: &EventConfig, types: &[NodeId], namespaces: &[String]) -> Vec<Asked> {
    let standard = |kind: ObjectTypeId, path: &str| Asked {
        name: path.strip_suffix("/Id").unwrap_or(path).to_owned(),
        own: false,
        operand: SimpleAttributeOperand::new_value(kind, path),
    };
    let mut all: Vec<Asked> = BASE.iter().map(|path| standard(ObjectTypeId::BaseEventType, path)).collect();
    // The node of the condition itself is an attribute at the end of an empty path (OPC 10000-9 section 5.5.2).
    let condition = operand(ObjectTypeId::ConditionType.into(), Vec::new(), AttributeId::NodeId);
    all.push(Asked { name: "ConditionId".to_owned(), own: false, operand: condition });
    all.extend(CONDITION.iter().map(|(kind, path)| standard(*kind, path)));
    // With the base type a server takes the path as it is; a single type says more, and some servers want it.
    let kind = match types {
        [only] => only.clone(),
        _ => ObjectTypeId::BaseEventType.into(),
    };
    for field in &config.fields {
        let Located::Path(path) = field.locate(namespaces) else { continue };
        let names = path.relative_path.elements.into_iter().flatten().map(|element| element.target_name);
        let name = field.steps().unwrap_or_default().join(".");
        all.push(Asked { name, own: true, operand: operand(kind.clone(), names.collect(), AttributeId::Value) });
    }
    all
}

/// Those that every server has to know.
pub(crate) fn base_alone(asked: &[Asked]) -> Vec<Asked> {
    asked.iter().take(BASE.len()).cloned().collect()
}

fn operand(kind: NodeId, path: Vec<QualifiedName>, attribute: AttributeId) -> SimpleAttributeOperand {
    SimpleAttributeOperand {
        type_definition_id: kind,
        browse_path: Some(path),
        attribute_id: attribute as u32,
        index_range: NumericRange::None,
    }
}

/// Which events are wanted. Without elements: all.
pub(crate) fn where_clause(types: &[NodeId], min_severity: u16) -> ContentFilter {
    let any = |types: &[NodeId]| types.iter().cloned().map(Test::OfType).reduce(Test::or);
    let severe = (min_severity > 1).then_some(Test::AtLeast(min_severity));
    let wanted = match (any(types), severe) {
        (Some(types), Some(severe)) => Test::And(Box::new(types), Box::new(severe)),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => return ContentFilter::default(),
    };
    let refresh: Vec<NodeId> = REFRESH.iter().map(|kind| NodeId::from(*kind)).collect();
    let all = any(&refresh).map_or(wanted.clone(), |refresh| wanted.or(refresh));
    let mut elements = Vec::new();
    all.write(&mut elements);
    ContentFilter { elements: Some(elements) }
}

/// A condition on an event, as a tree; the filter on the wire is a list whose first element is the root.
#[derive(Debug, Clone)]
enum Test {
    OfType(NodeId),
    AtLeast(u16),
    And(Box<Test>, Box<Test>),
    Or(Box<Test>, Box<Test>),
}

impl Test {
    fn or(self, other: Self) -> Self {
        Self::Or(Box::new(self), Box::new(other))
    }

    /// Appends it to the list, its parts after it; gives the operand that refers to it.
    fn write(&self, elements: &mut Vec<ContentFilterElement>) -> Operand {
        let place = elements.len();
        elements.push(ContentFilterElement::default());
        let element: ContentFilterElement = match self {
            Self::OfType(kind) => (FilterOperator::OfType, vec![Operand::literal(kind.clone())]).into(),
            Self::AtLeast(severity) => {
                let field = SimpleAttributeOperand::new_value(ObjectTypeId::BaseEventType, "Severity");
                (FilterOperator::GreaterThanOrEqual, vec![field.into(), Operand::literal(*severity)]).into()
            }
            Self::And(one, other) => (FilterOperator::And, vec![one.write(elements), other.write(elements)]).into(),
            Self::Or(one, other) => (FilterOperator::Or, vec![one.write(elements), other.write(elements)]).into(),
        };
        if let Some(placed) = elements.get_mut(place) {
            *placed = element;
        }
        // A filter has some dozens of elements at most.
        Operand::element(u32::try_from(place).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use opcua::types::ElementOperand;

    use super::*;

    fn config(fields: &[&str]) -> EventConfig {
        EventConfig {
            node: "i=2253".parse().unwrap(),
            types: Vec::new(),
            fields: fields.iter().map(|field| field.parse().unwrap()).collect(),
            min_severity: 1,
            queue: 1,
            acknowledge: false,
        }
    }

    #[test]
    fn own_fields_come_after_the_usual_ones_and_one_of_no_namespace_is_left_out() {
        let namespaces = ["http://opcfoundation.org/UA/".to_owned(), "urn:a".to_owned()];
        let config = config(&["nsu=urn:a;/Batch/Id", "nsu=urn:none;/x", "/LimitState/CurrentState"]);
        let all = asked(&config, &[], &namespaces);
        let names: Vec<&str> = all.iter().map(|field| field.name.as_str()).collect();
        assert_eq!(names[..2], ["EventId", "EventType"]);
        assert_eq!(names[18..], ["Batch.Id", "LimitState.CurrentState"]);
        assert!(names.contains(&"ActiveState") && names.contains(&"ConditionId"), "{names:?}");
        let batch = all[18].operand.browse_path.clone().unwrap();
        assert_eq!(batch, [QualifiedName::new(1, "Batch"), QualifiedName::new(1, "Id")]);
        assert_eq!(base_alone(&all).len(), 8);
    }

    #[test]
    fn a_filter_refers_only_to_elements_after_its_own() {
        assert_eq!(where_clause(&[], 1), ContentFilter::default());
        let filter = where_clause(&[NodeId::new(1, 1), NodeId::new(1, 2)], 500);
        let elements = filter.elements.unwrap();
        // Two types and their Or, the severity and its And, three kinds of refresh with two Ors, and the Or of both.
        assert_eq!(elements.len(), 11);
        assert_eq!(elements[0].filter_operator, FilterOperator::Or);
        let mut referred = Vec::new();
        for (place, element) in elements.iter().enumerate() {
            for operand in element.filter_operands.iter().flatten() {
                if let Some(ElementOperand { index }) = operand.inner_as::<ElementOperand>() {
                    assert!(*index as usize > place, "{place} refers to {index}");
                    referred.push(*index);
                }
            }
        }
        referred.sort_unstable();
        assert_eq!(referred, (1..11).collect::<Vec<u32>>(), "each but the root is referred to once");
    }
}
