//! What a server sends, as samples.
//!
//! | OPC UA | point |
//! |---|---|
//! | Boolean, integers, Float, Double | the same |
//! | String, LocalizedText, QualifiedName, XmlElement | its text |
//! | DateTime | text, RFC 3339 |
//! | Guid | text |
//! | ByteString | text, Base64 |
//! | StatusCode | its name |
//! | arrays of these | array; of several dimensions: flattened, as on the wire |
//! | structures of the server's own types | object; fields that are absent are left out |
//! | anything else (node ids, structures of the specification) | bad, `BadNotSupported` |

use fieldgate_protocol::{PointName, Quality, Sample, Value};
use fieldgate_types::UnixMillis;
use opcua::types::custom::{DataTypeTree, DynamicStructure, ParsedStructureField};
use opcua::types::{DataValue, DateTime, ExtensionObject, StatusCode, StructureType, UAString, Variant};

use crate::fault;

/// The structures of the server, as far as they were needed.
pub(crate) type Types<'a> = Option<&'a DataTypeTree>;

/// The reading that `data` is.
pub(crate) fn sample(point: &PointName, data: DataValue, received: UnixMillis, types: Types<'_>) -> Sample {
    // Absent means good (OPC 10000-6 section 5.2.2.17).
    let status = data.status.unwrap_or(StatusCode::Good);
    // The time of the source, else of the server, else none: the reception time stands in then.
    let source_time = time(data.source_timestamp).or_else(|| time(data.server_timestamp));
    let (value, quality) = if status.is_bad() {
        (None, quality(status))
    } else {
        match data.value.unwrap_or_default() {
            Variant::Empty => (None, Quality::named("BadNoData")),
            variant => match value(variant, types) {
                Some(value) => (Some(value), quality(status)),
                None => (None, Quality::BAD_NOT_SUPPORTED),
            },
        }
    };
    Sample { point: point.clone(), value, quality, source_time, received }
}

/// The quality that a status code is.
pub(crate) fn quality(status: StatusCode) -> Quality {
    Quality::named(fault::name(status))
}

/// Servers without a clock send the year 1601 or 1970.
pub(crate) fn time(stamp: Option<DateTime>) -> Option<UnixMillis> {
    u64::try_from(stamp?.as_chrono().timestamp_millis()).ok().filter(|millis| *millis > 0).map(UnixMillis)
}

fn text(text: &UAString) -> Value {
    Value::Text(text.as_ref().to_owned())
}

/// The value, or `None` where there is no form for it.
pub(crate) fn value(variant: Variant, types: Types<'_>) -> Option<Value> {
    Some(match variant {
        Variant::Boolean(bool) => Value::Bool(bool),
        Variant::SByte(int) => Value::Int(int.into()),
        Variant::Int16(int) => Value::Int(int.into()),
        Variant::Int32(int) => Value::Int(int.into()),
        Variant::Int64(int) => Value::Int(int),
        Variant::Byte(int) => Value::Uint(int.into()),
        Variant::UInt16(int) => Value::Uint(int.into()),
        Variant::UInt32(int) => Value::Uint(int.into()),
        Variant::UInt64(int) => Value::Uint(int),
        Variant::Float(float) => Value::from(float),
        Variant::Double(float) => Value::Float(float),
        Variant::String(string) => text(&string),
        Variant::XmlElement(xml) => Value::Text(xml.to_string()),
        Variant::LocalizedText(localized) => text(&localized.text),
        Variant::QualifiedName(name) => text(&name.name),
        Variant::DateTime(time) => Value::Text(time.to_rfc3339()),
        Variant::Guid(guid) => Value::Text(guid.to_string()),
        Variant::ByteString(bytes) => Value::Text(bytes.as_base64()),
        Variant::StatusCode(status) => Value::Text(fault::name(status).to_owned()),
        // Elements of an array of variants.
        Variant::Variant(inner) => return value(*inner, types),
        Variant::Array(array) => {
            Value::Array(array.values.into_iter().map(|item| value(item, types)).collect::<Option<_>>()?)
        }
        Variant::ExtensionObject(object) => return structure(&object, types),
        Variant::Empty
        | Variant::NodeId(_)
        | Variant::ExpandedNodeId(_)
        | Variant::DataValue(_)
        | Variant::DiagnosticInfo(_) => return None,
    })
}

/// A structure of one of the server's own types, which have been read from it.
fn structure(object: &ExtensionObject, types: Types<'_>) -> Option<Value> {
    let structure = object.inner_as::<DynamicStructure>()?;
    let known = types?.get_struct_type(&object.data_type()?.node_id)?;
    let field = |(field, variant): (&ParsedStructureField, &Variant)| match variant {
        Variant::Empty => None,
        variant => Some(value(variant.clone(), types).map(|value| (field.name.clone(), value))),
    };
    let named = known.fields.iter().zip(structure.values()).filter_map(field);
    // Of a union there is one value, and which of the fields it is can't be told from it.
    (known.structure_type != StructureType::Union).then(|| named.collect::<Option<_>>())?.map(Value::Object)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use opcua::types::custom::{EncodingIds, ParentIds, StructTypeInfo, TypeInfo};
    use opcua::types::{Array, ByteString, LocalizedText, NodeId, VariantScalarTypeId};

    use super::*;

    const RECEIVED: UnixMillis = UnixMillis(1_800_000_000_000);

    fn read(data: DataValue) -> Sample {
        sample(&PointName::new("p").unwrap(), data, RECEIVED, None)
    }

    fn read_value(variant: impl Into<Variant>) -> Option<Value> {
        read(DataValue::value_only(variant)).value
    }

    #[test]
    fn scalars_and_arrays_become_values() {
        assert_eq!(read_value(true), Some(Value::Bool(true)));
        assert_eq!(read_value(-5_i16), Some(Value::Int(-5)));
        assert_eq!(read_value(u64::MAX), Some(Value::Uint(u64::MAX)));
        assert_eq!(read_value(0.1_f32), Some(Value::Float(0.1)));
        assert_eq!(read_value("text"), Some(Value::Text("text".to_owned())));
        assert_eq!(read_value(LocalizedText::new("en", "open")), Some(Value::Text("open".to_owned())));
        assert_eq!(read_value(ByteString::from(vec![1, 2, 3])), Some(Value::Text("AQID".to_owned())));
        assert_eq!(
            read_value(DateTime::ymd_hms(2026, 11, 2, 3, 4, 5)),
            Some(Value::Text("2026-11-02T03:04:05.000Z".to_owned()))
        );
        let array = Array::new(VariantScalarTypeId::Int32, [1, 2].map(Variant::Int32)).unwrap();
        assert_eq!(read_value(array), Some(Value::Array(vec![Value::Int(1), Value::Int(2)])));
    }

    #[test]
    fn a_structure_of_a_known_type_becomes_an_object_without_its_absent_fields() {
        let id = NodeId::new(2, "Pose");
        let field = |name: &str, scalar_type| ParsedStructureField {
            name: name.to_owned(),
            type_id: NodeId::null(),
            value_rank: -1,
            array_dimensions: None,
            is_optional: true,
            scalar_type,
        };
        let of_type = |structure_type| {
            let fields = vec![
                field("x", VariantScalarTypeId::Double),
                field("n", VariantScalarTypeId::Int32),
                field("label", VariantScalarTypeId::String),
            ];
            let index_by_name = fields.iter().enumerate().map(|(place, field)| (field.name.clone(), place)).collect();
            let encoding_ids =
                EncodingIds { binary_id: NodeId::null(), json_id: NodeId::null(), xml_id: NodeId::null() };
            let (is_abstract, node_id, name) = (false, id.clone(), "Pose".to_owned());
            StructTypeInfo { structure_type, fields, index_by_name, encoding_ids, is_abstract, node_id, name }
        };
        let tree = |kind| {
            let mut tree = DataTypeTree::new(ParentIds::new());
            tree.add_type(id.clone(), TypeInfo::Struct(Arc::new(of_type(kind))));
            Arc::new(tree)
        };
        let kind = StructureType::StructureWithOptionalFields;
        let data = vec![Variant::Double(1.5), Variant::Int32(2), Variant::Empty];
        let made = DynamicStructure::new_struct(Arc::new(of_type(kind)), tree(kind), data).unwrap();
        let variant = Variant::from(ExtensionObject::new(made));
        let expected = vec![("x".to_owned(), Value::Float(1.5)), ("n".to_owned(), Value::Int(2))];
        assert_eq!(value(variant.clone(), Some(&tree(kind))), Some(Value::Object(expected)));
        assert_eq!(value(variant.clone(), None), None, "its type is not known");
        assert_eq!(value(variant.clone(), Some(&DataTypeTree::new(ParentIds::new()))), None, "nor here");
        assert_eq!(value(variant, Some(&tree(StructureType::Union))), None);
    }

    #[test]
    fn what_has_no_form_is_bad_not_absent() {
        let sample = read(DataValue::value_only(NodeId::new(1, 1)));
        assert_eq!((sample.value, sample.quality), (None, Quality::BAD_NOT_SUPPORTED));
        assert_eq!(read(DataValue::null()).quality, Quality::named("BadNoData"));
    }

    #[test]
    fn a_bad_status_hides_the_value_and_an_uncertain_one_does_not() {
        let data = |status| DataValue { status: Some(status), ..DataValue::value_only(1.5) };
        let bad = read(data(StatusCode::BadSensorFailure));
        assert_eq!((bad.value, bad.quality.as_str()), (None, "BadSensorFailure"));
        let uncertain = read(data(StatusCode::UncertainLastUsableValue));
        assert_eq!(uncertain.value, Some(Value::Float(1.5)));
        assert_eq!(uncertain.quality.as_str(), "UncertainLastUsableValue");
    }

    #[test]
    fn source_time_falls_back_to_server_time_and_then_to_none() {
        let stamp = |second| Some(DateTime::ymd_hms(2026, 11, 2, 0, 0, second));
        let mut data = DataValue::value_only(1.0);
        assert_eq!(read(data.clone()).source_time, None);
        data.server_timestamp = stamp(2);
        let server = read(data.clone()).source_time.unwrap();
        data.source_timestamp = stamp(1);
        assert_eq!(server.since(read(data.clone()).source_time.unwrap()).as_secs(), 1);
        data.source_timestamp = Some(DateTime::null());
        assert_eq!(read(data).source_time, Some(server));
    }
}
