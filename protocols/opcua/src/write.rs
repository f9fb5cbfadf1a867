//! A value as the server wants it: of exactly the node's data type, or refused.
//!
//! Servers don't convert; most answer `BadTypeMismatch` to a Double for a Float. So the node is read first, and the
//! value is made to fit what stands there. Nothing is rounded, cut or wrapped: what doesn't fit is refused. A structure has
//! all its fields, by the definition that the server gives of its type: none is guessed, and none is left as it was.

use std::str::FromStr;
use std::sync::Arc;

use fieldgate_protocol::Value;
use opcua::types::custom::{DataTypeTree, DynamicStructure, ParsedStructureField};
use opcua::types::{
    Array, ByteString, DataTypeId, DateTime, ExtensionObject, Guid, LocalizedText, NodeId, StructureType, UAString,
    Variant, VariantScalarTypeId,
};
use thiserror::Error;

/// The value does not fit the node.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Unfit {
    #[error("the node is {wanted}, `{given}` is not (BadTypeMismatch)")]
    Type { wanted: String, given: String },
    #[error("`{given}` is out of range for {wanted} (BadOutOfRange)")]
    Range { wanted: &'static str, given: String },
    #[error("the node is of a type that can't be written ({0}, BadNotSupported)")]
    NotSupported(String),
    #[error("the structure `{structure}` {what} `{field}` (BadTypeMismatch)")]
    Field { structure: String, what: &'static str, field: String },
}

/// Whether it takes the definitions of the server's types to write it.
pub(crate) fn is_structured(value: &Value) -> bool {
    match value {
        Value::Object(_) => true,
        Value::Array(items) => items.iter().any(is_structured),
        Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Float(_) | Value::Text(_) => false,
    }
}

/// `value` in the type of a node, which is known from its `current` value, and where it has none from its declared
/// `data_type` and whether it `is_array`; with the server's own `types`, where they are known.
pub(crate) fn convert(
    value: &Value,
    current: &Variant,
    data_type: Option<&NodeId>,
    is_array: bool,
    types: Option<&Arc<DataTypeTree>>,
) -> Result<Variant, Unfit> {
    if is_structured(value) {
        return structured(value, current, data_type, types);
    }
    match current {
        Variant::Empty => {
            let scalar = declared(data_type, value)?;
            if is_array { array(value, scalar) } else { one(value, scalar, None) }
        }
        Variant::Array(old) if old.dimensions.as_ref().is_none_or(|dimensions| dimensions.len() < 2) => {
            array(value, old.value_type)
        }
        Variant::Array(_) => Err(Unfit::NotSupported("an array of several dimensions".to_owned())),
        Variant::LocalizedText(old) => one(value, VariantScalarTypeId::LocalizedText, Some(&old.locale)),
        current => match current.scalar_type_id() {
            Some(scalar) => one(value, scalar, None),
            None => Err(Unfit::NotSupported("unknown".to_owned())),
        },
    }
}

/// A structure, or an array of such. Its type is the declared one, or where that is abstract the one of the current value.
fn structured(
    value: &Value,
    current: &Variant,
    data_type: Option<&NodeId>,
    types: Option<&Arc<DataTypeTree>>,
) -> Result<Variant, Unfit> {
    let plain = match current {
        Variant::Array(array) => Some(array.value_type),
        current => current.scalar_type_id(),
    };
    if let Some(plain) = plain.filter(|kind| *kind != VariantScalarTypeId::ExtensionObject) {
        return Err(Unfit::Type { wanted: format!("{plain:?}"), given: shown(value) });
    }
    let types = types.ok_or_else(|| Unfit::NotSupported("the server gives no definitions of structures".to_owned()))?;
    let concrete = |id: &&NodeId| types.get_struct_type(id).is_some_and(|kind| !kind.is_abstract);
    let held = match current {
        Variant::ExtensionObject(object) => object.data_type().map(|id| id.node_id),
        Variant::Array(array) => array.values.first().and_then(|first| match first {
            Variant::ExtensionObject(object) => object.data_type().map(|id| id.node_id),
            _ => None,
        }),
        _ => None,
    };
    let id = data_type.filter(concrete).or(held.as_ref().filter(concrete));
    let Some(id) = id else {
        let told = data_type.map_or_else(|| "not declared".to_owned(), ToString::to_string);
        return Err(Unfit::NotSupported(format!("{told}, of which the server gives no definition")));
    };
    match value {
        Value::Array(items) => {
            let items = items.iter().map(|item| structure(item, id, types)).collect::<Result<_, _>>()?;
            array_of(VariantScalarTypeId::ExtensionObject, items)
        }
        value => structure(value, id, types),
    }
}

fn structure(value: &Value, id: &NodeId, types: &Arc<DataTypeTree>) -> Result<Variant, Unfit> {
    let Some(kind) = types.get_struct_type(id) else {
        return Err(Unfit::NotSupported(format!("{id}, of which the server gives no definition")));
    };
    let plain = [StructureType::Structure, StructureType::StructureWithOptionalFields].contains(&kind.structure_type);
    if kind.is_abstract || !plain {
        return Err(Unfit::NotSupported(format!("`{}`, a union or an abstract type", kind.name)));
    }
    let Value::Object(given) = value else {
        return Err(Unfit::Type { wanted: format!("a structure `{}`", kind.name), given: shown(value) });
    };
    let odd = |what, field: &str| Unfit::Field { structure: kind.name.clone(), what, field: field.to_owned() };
    if let Some((unknown, _)) = given.iter().find(|(name, _)| kind.get_field_by_name(name).is_none()) {
        return Err(odd("has no field", unknown));
    }
    let field = |field: &ParsedStructureField| match given.iter().find(|(name, _)| *name == field.name) {
        Some((_, value)) => member(value, field, types),
        None if field.is_optional => Ok(Variant::Empty),
        None => Err(odd("needs its field", &field.name)),
    };
    let fields = kind.fields.iter().map(field).collect::<Result<_, _>>()?;
    let made = DynamicStructure::new_struct(Arc::clone(kind), Arc::clone(types), fields);
    let made = made.map_err(|error| Unfit::NotSupported(format!("`{}`: {error}", kind.name)))?;
    Ok(Variant::from(ExtensionObject::new(made)))
}

/// The value of a field.
fn member(value: &Value, field: &ParsedStructureField, types: &Arc<DataTypeTree>) -> Result<Variant, Unfit> {
    let item = |value: &Value| match field.scalar_type {
        VariantScalarTypeId::ExtensionObject => structure(value, &field.type_id, types),
        scalar => one(value, scalar, None),
    };
    match (field.value_rank, value) {
        (..1, value) => item(value),
        (1, Value::Array(items)) => array_of(field.scalar_type, items.iter().map(item).collect::<Result<_, _>>()?),
        (1, value) => Err(Unfit::Type { wanted: format!("an array in `{}`", field.name), given: shown(value) }),
        (2.., _) => Err(Unfit::NotSupported(format!("`{}`, an array of several dimensions", field.name))),
    }
}

fn array_of(scalar: VariantScalarTypeId, items: Vec<Variant>) -> Result<Variant, Unfit> {
    let array = Array::new(scalar, items).map_err(|error| Unfit::NotSupported(error.to_string()))?;
    Ok(Variant::from(array))
}

/// The built-in type behind a declared one (OPC 10000-6 section 5.1.2). Enumerations and subtypes of other namespaces
/// can't be told from here; such a node usually has a value to go by.
fn declared(data_type: Option<&NodeId>, value: &Value) -> Result<VariantScalarTypeId, Unfit> {
    let Some(data_type) = data_type else { return Err(Unfit::NotSupported("not declared".to_owned())) };
    Ok(match data_type.as_data_type_id() {
        Ok(DataTypeId::Boolean) => VariantScalarTypeId::Boolean,
        Ok(DataTypeId::SByte) => VariantScalarTypeId::SByte,
        Ok(DataTypeId::Byte) => VariantScalarTypeId::Byte,
        Ok(DataTypeId::Int16) => VariantScalarTypeId::Int16,
        Ok(DataTypeId::UInt16) => VariantScalarTypeId::UInt16,
        Ok(DataTypeId::Int32 | DataTypeId::Enumeration) => VariantScalarTypeId::Int32,
        Ok(DataTypeId::UInt32) => VariantScalarTypeId::UInt32,
        Ok(DataTypeId::Int64 | DataTypeId::Integer) => VariantScalarTypeId::Int64,
        Ok(DataTypeId::UInt64 | DataTypeId::UInteger) => VariantScalarTypeId::UInt64,
        Ok(DataTypeId::Float) => VariantScalarTypeId::Float,
        Ok(DataTypeId::Double | DataTypeId::Number | DataTypeId::Duration) => VariantScalarTypeId::Double,
        Ok(DataTypeId::String) => VariantScalarTypeId::String,
        Ok(DataTypeId::LocalizedText) => VariantScalarTypeId::LocalizedText,
        Ok(DataTypeId::DateTime | DataTypeId::UtcTime) => VariantScalarTypeId::DateTime,
        Ok(DataTypeId::Guid) => VariantScalarTypeId::Guid,
        Ok(DataTypeId::ByteString) => VariantScalarTypeId::ByteString,
        // Takes any type: the one that the value has by nature.
        Ok(DataTypeId::BaseDataType) => match value {
            Value::Bool(_) => VariantScalarTypeId::Boolean,
            Value::Int(_) => VariantScalarTypeId::Int64,
            Value::Uint(_) => VariantScalarTypeId::UInt64,
            Value::Float(_) => VariantScalarTypeId::Double,
            Value::Text(_) => VariantScalarTypeId::String,
            Value::Array(_) | Value::Object(_) => {
                return Err(Unfit::NotSupported("an array or structure of any type".to_owned()));
            }
        },
        _ => return Err(Unfit::NotSupported(data_type.to_string())),
    })
}

fn array(value: &Value, scalar: VariantScalarTypeId) -> Result<Variant, Unfit> {
    let Value::Array(items) = value else {
        return Err(Unfit::Type { wanted: format!("an array of {scalar:?}"), given: shown(value) });
    };
    array_of(scalar, items.iter().map(|item| one(item, scalar, None)).collect::<Result<_, _>>()?)
}

fn one(value: &Value, scalar: VariantScalarTypeId, locale: Option<&UAString>) -> Result<Variant, Unfit> {
    let wrong = || Unfit::Type { wanted: format!("{scalar:?}"), given: shown(value) };
    Ok(match scalar {
        VariantScalarTypeId::Boolean => match value {
            Value::Bool(bool) => Variant::Boolean(*bool),
            _ => return Err(wrong()),
        },
        VariantScalarTypeId::SByte => Variant::SByte(integer(value, "SByte")?),
        VariantScalarTypeId::Byte => Variant::Byte(integer(value, "Byte")?),
        VariantScalarTypeId::Int16 => Variant::Int16(integer(value, "Int16")?),
        VariantScalarTypeId::UInt16 => Variant::UInt16(integer(value, "UInt16")?),
        VariantScalarTypeId::Int32 => Variant::Int32(integer(value, "Int32")?),
        VariantScalarTypeId::UInt32 => Variant::UInt32(integer(value, "UInt32")?),
        VariantScalarTypeId::Int64 => Variant::Int64(integer(value, "Int64")?),
        VariantScalarTypeId::UInt64 => Variant::UInt64(integer(value, "UInt64")?),
        VariantScalarTypeId::Float => {
            let wide = value.as_f64().ok_or_else(wrong)?;
            #[allow(clippy::cast_possible_truncation)] // Losing digits is what Float means; its range is checked.
            let narrow = wide as f32;
            if narrow.is_infinite() && wide.is_finite() {
                return Err(Unfit::Range { wanted: "Float", given: shown(value) });
            }
            Variant::Float(narrow)
        }
        VariantScalarTypeId::Double => Variant::Double(value.as_f64().ok_or_else(wrong)?),
        VariantScalarTypeId::String => Variant::String(UAString::from(text(value).ok_or_else(wrong)?)),
        VariantScalarTypeId::LocalizedText => Variant::LocalizedText(Box::new(LocalizedText {
            locale: locale.cloned().unwrap_or_default(),
            text: UAString::from(text(value).ok_or_else(wrong)?),
        })),
        VariantScalarTypeId::DateTime => {
            let parsed = text(value).and_then(|text| DateTime::parse_from_rfc3339(text).ok());
            Variant::DateTime(Box::new(parsed.ok_or_else(wrong)?))
        }
        VariantScalarTypeId::Guid => {
            Variant::Guid(Box::new(text(value).and_then(|text| Guid::from_str(text).ok()).ok_or_else(wrong)?))
        }
        VariantScalarTypeId::ByteString => {
            Variant::ByteString(text(value).and_then(ByteString::from_base64).ok_or_else(wrong)?)
        }
        other => return Err(Unfit::NotSupported(format!("{other:?}"))),
    })
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

/// A whole number of the type `T`: also one written with a fraction of zero, or as text, as large ones are in JSON.
fn integer<T: TryFrom<i128>>(value: &Value, wanted: &'static str) -> Result<T, Unfit> {
    let wrong = || Unfit::Type { wanted: wanted.to_owned(), given: shown(value) };
    let whole = match value {
        Value::Int(int) => i128::from(*int),
        Value::Uint(uint) => i128::from(*uint),
        #[allow(clippy::cast_possible_truncation)] // Checked to be whole and far within the type.
        Value::Float(float) if float.fract() == 0.0 && float.abs() < 1e30 => *float as i128,
        Value::Text(text) => text.parse().map_err(|_| wrong())?,
        Value::Bool(_) | Value::Float(_) | Value::Array(_) | Value::Object(_) => return Err(wrong()),
    };
    T::try_from(whole).map_err(|_| Unfit::Range { wanted, given: shown(value) })
}

/// The value for a message: short.
fn shown(value: &Value) -> String {
    let text = value.to_json().map_or_else(|| "not a number".to_owned(), |json| json.to_string());
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use opcua::types::custom::{EncodingIds, ParentIds, StructTypeInfo, TypeInfo};
    use serde_json::json;

    use super::*;

    fn fit(value: &Value, current: impl Into<Variant>) -> Result<Variant, Unfit> {
        convert(value, &current.into(), None, false, None)
    }

    /// `Pose`: X, the optional Steps, and Tool, a structure of Label.
    fn types() -> Arc<DataTypeTree> {
        let id = |id: u32| NodeId::new(1, id);
        let field = |name: &str, type_id: NodeId, value_rank, scalar_type, is_optional| ParsedStructureField {
            name: name.to_owned(),
            type_id,
            value_rank,
            array_dimensions: None,
            is_optional,
            scalar_type,
        };
        let kind = |name: &str, node_id: NodeId, structure_type, fields: Vec<ParsedStructureField>| {
            let index_by_name = fields.iter().enumerate().map(|(place, field)| (field.name.clone(), place)).collect();
            let (encoding_ids, name) = (EncodingIds::default(), name.to_owned());
            let info = StructTypeInfo {
                structure_type,
                fields,
                index_by_name,
                encoding_ids,
                is_abstract: false,
                node_id,
                name,
            };
            TypeInfo::Struct(Arc::new(info))
        };
        let mut tree = DataTypeTree::new(ParentIds::new());
        let label = field("Label", DataTypeId::String.into(), -1, VariantScalarTypeId::String, false);
        tree.add_type(id(2), kind("Tool", id(2), StructureType::Structure, vec![label]));
        let fields = vec![
            field("X", DataTypeId::Double.into(), -1, VariantScalarTypeId::Double, false),
            field("Steps", DataTypeId::Int32.into(), 1, VariantScalarTypeId::Int32, true),
            field("Tool", id(2), -1, VariantScalarTypeId::ExtensionObject, false),
        ];
        tree.add_type(id(1), kind("Pose", id(1), StructureType::StructureWithOptionalFields, fields));
        tree.add_type(id(3), kind("Either", id(3), StructureType::Union, Vec::new()));
        Arc::new(tree)
    }

    fn made(json: serde_json::Value, id: u32) -> Result<Variant, String> {
        let value = Value::from_json(&json).unwrap();
        let kind = NodeId::new(1, id);
        convert(&value, &Variant::Empty, Some(&kind), false, Some(&types())).map_err(|unfit| unfit.to_string())
    }

    #[test]
    fn a_structure_is_made_by_its_definition_or_refused_by_its_field() {
        let pose = json!({"X": 1, "Steps": [1, 2], "Tool": {"Label": "left"}});
        let whole = made(pose.clone(), 1).unwrap();
        let told = crate::value::value(whole, Some(&types())).and_then(|value| value.to_json());
        assert_eq!(told, Some(json!({"X": 1.0, "Steps": [1, 2], "Tool": {"Label": "left"}})));
        assert!(made(json!({"X": 1, "Tool": {"Label": "left"}}), 1).is_ok(), "one field is optional");
        assert!(made(json!([pose.clone(), pose]), 1).is_ok(), "an array of them");
        let refused = |json, id| made(json, id).unwrap_err();
        assert!(refused(json!({"X": 1, "Z": 2}), 1).contains("`Pose` has no field `Z`"));
        assert!(refused(json!({"X": 1}), 1).contains("`Pose` needs its field `Tool`"));
        assert!(refused(json!({"X": 1, "Tool": {}}), 1).contains("`Tool` needs its field `Label`"));
        assert!(refused(json!({"X": "1", "Tool": {"Label": "l"}}), 1).contains("Double"));
        assert!(refused(json!({"X": 1, "Steps": 1, "Tool": {"Label": "l"}}), 1).contains("an array in `Steps`"));
        assert!(refused(json!({"X": 1}), 3).contains("a union"));
        assert!(refused(json!({"X": 1}), 9).contains("the server gives no definition"));
        let object = Value::Object(Vec::new());
        assert!(matches!(fit(&object, 1.5), Err(Unfit::Type { .. })), "the node is a number");
        assert!(matches!(fit(&object, Variant::Empty), Err(Unfit::NotSupported(_))), "nothing is known");
    }

    #[test]
    fn numbers_take_the_type_that_is_there() {
        assert_eq!(fit(&Value::Float(42.5), 1.0_f32), Ok(Variant::Float(42.5)));
        assert_eq!(fit(&Value::Int(42), 1.0_f64), Ok(Variant::Double(42.0)));
        assert_eq!(fit(&Value::Float(42.0), 1_u16), Ok(Variant::UInt16(42)));
        assert_eq!(fit(&Value::Text("18446744073709551615".to_owned()), 1_u64), Ok(Variant::UInt64(u64::MAX)));
        assert_eq!(fit(&Value::Int(-1), 1_i8), Ok(Variant::SByte(-1)));
    }

    #[test]
    fn nothing_is_cut_rounded_or_guessed() {
        for (value, current) in [
            (Value::Int(40_000), Variant::Int16(1)),
            (Value::Int(-1), Variant::UInt32(1)),
            (Value::Float(1e300), Variant::Float(1.0)),
        ] {
            assert!(matches!(fit(&value, current.clone()), Err(Unfit::Range { .. })), "{value:?} {current:?}");
        }
        for (value, current) in [
            (Value::Float(1.5), Variant::Int32(1)),
            (Value::Float(f64::NAN), Variant::Int32(1)),
            (Value::Int(1), Variant::Boolean(true)),
            (Value::Bool(true), Variant::Int32(1)),
            (Value::Int(1), Variant::String(UAString::from("a"))),
            (Value::Text("1.5".to_owned()), Variant::Double(1.0)),
            (Value::Array(vec![Value::Int(1)]), Variant::Int32(1)),
            (Value::Text("soon".to_owned()), Variant::from(DateTime::now())),
        ] {
            assert!(matches!(fit(&value, current.clone()), Err(Unfit::Type { .. })), "{value:?} {current:?}");
        }
        assert!(matches!(fit(&Value::Int(1), NodeId::null()), Err(Unfit::NotSupported(_))));
    }

    #[test]
    fn arrays_keep_their_element_type() {
        let current = Array::new(VariantScalarTypeId::Float, [Variant::Float(1.0)]).unwrap();
        let written = fit(&Value::Array(vec![Value::Int(1), Value::Float(2.5)]), current.clone()).unwrap();
        let expected = Array::new(VariantScalarTypeId::Float, [1.0, 2.5].map(Variant::Float)).unwrap();
        assert_eq!(written, Variant::from(expected));
        assert!(fit(&Value::Int(1), current).is_err());
    }

    #[test]
    fn the_declared_type_helps_where_there_is_no_value() {
        let declared = |value: &Value, id: DataTypeId, is_array| {
            convert(value, &Variant::Empty, Some(&NodeId::from(id)), is_array, None)
        };
        assert_eq!(declared(&Value::Int(3), DataTypeId::Float, false), Ok(Variant::Float(3.0)));
        assert_eq!(declared(&Value::Bool(true), DataTypeId::BaseDataType, false), Ok(Variant::Boolean(true)));
        assert!(matches!(
            declared(&Value::Array(vec![Value::Int(3)]), DataTypeId::Byte, true),
            Ok(Variant::Array(array)) if array.values == [Variant::Byte(3)]
        ));
        assert!(matches!(declared(&Value::Int(3), DataTypeId::Structure, false), Err(Unfit::NotSupported(_))));
    }

    #[test]
    fn a_localized_text_keeps_its_locale() {
        let written = fit(&Value::Text("zu".to_owned()), LocalizedText::new("de", "auf"));
        assert_eq!(written, Ok(Variant::from(LocalizedText::new("de", "zu"))));
    }
}
