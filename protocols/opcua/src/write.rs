//! A value as the server wants it: of exactly the node's data type, or refused.
//!
//! Servers don't convert; most answer `BadTypeMismatch` to a Double for a Float. So the node is read first, and the
//! value is made to fit what stands there. Nothing is rounded, cut or wrapped: what doesn't fit is refused.

use fieldgate_protocol::Value;
use opcua::types::{
    Array, ByteString, DataTypeId, DateTime, Guid, LocalizedText, NodeId, UAString, Variant, VariantScalarTypeId,
};
use std::str::FromStr;
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
}

/// `value` in the type of a node, which is known from its `current` value, and where it has none from its declared
/// `data_type` and whether it `is_array`.
pub(crate) fn convert(
    value: &Value,
    current: &Variant,
    data_type: Option<&NodeId>,
    is_array: bool,
) -> Result<Variant, Unfit> {
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
    let items: Vec<Variant> = items.iter().map(|item| one(item, scalar, None)).collect::<Result<_, _>>()?;
    let array = Array::new(scalar, items).map_err(|error| Unfit::NotSupported(error.to_string()))?;
    Ok(Variant::from(array))
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
    use super::*;

    fn fit(value: &Value, current: impl Into<Variant>) -> Result<Variant, Unfit> {
        convert(value, &current.into(), None, false)
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
            convert(value, &Variant::Empty, Some(&NodeId::from(id)), is_array)
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
