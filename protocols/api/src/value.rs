//! Values and samples.

use std::io::Write;

use fieldgate_types::UnixMillis;
use serde_json::Value as Json;

use crate::{PointName, Quality};

/// One value of a point.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// True or false.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// An unsigned integer.
    Uint(u64),
    /// A floating-point number; may be NaN or infinite until it is encoded.
    Float(f64),
    /// Text.
    Text(String),
    /// Several values of one kind.
    Array(Vec<Value>),
    /// Named values, in the order of their structure.
    Object(Vec<(String, Value)>),
}

/// Integers beyond this lose digits in a JSON reader that uses doubles (RFC 8259 section 6).
const MAX_SAFE: u64 = 1 << 53;

impl Value {
    /// As JSON (DESIGN section 5): integers beyond 2^53 as strings; `None` for NaN and infinities, also inside an array.
    pub fn to_json(&self) -> Option<Json> {
        match self {
            Self::Bool(bool) => Some(Json::Bool(*bool)),
            Self::Int(int) if int.unsigned_abs() > MAX_SAFE => Some(Json::String(int.to_string())),
            Self::Int(int) => Some(Json::from(*int)),
            Self::Uint(uint) if *uint > MAX_SAFE => Some(Json::String(uint.to_string())),
            Self::Uint(uint) => Some(Json::from(*uint)),
            Self::Float(float) => serde_json::Number::from_f64(*float).map(Json::Number),
            Self::Text(text) => Some(Json::String(text.clone())),
            Self::Array(items) => items.iter().map(Self::to_json).collect::<Option<_>>().map(Json::Array),
            Self::Object(fields) => {
                let field = |(name, value): &(String, Self)| Some((name.clone(), value.to_json()?));
                fields.iter().map(field).collect::<Option<_>>().map(Json::Object)
            }
        }
    }

    /// From JSON: numbers, booleans, strings, arrays and objects of them. `None` for null, also inside.
    pub fn from_json(json: &Json) -> Option<Self> {
        match json {
            Json::Null => None,
            Json::Bool(bool) => Some(Self::Bool(*bool)),
            Json::Number(number) => {
                let int = number.as_i64().map(Self::Int).or_else(|| number.as_u64().map(Self::Uint));
                int.or_else(|| number.as_f64().map(Self::Float))
            }
            Json::String(text) => Some(Self::Text(text.clone())),
            Json::Array(items) => items.iter().map(Self::from_json).collect::<Option<_>>().map(Self::Array),
            Json::Object(fields) => {
                let field = |(name, value): (&String, &Json)| Some((name.clone(), Self::from_json(value)?));
                fields.iter().map(field).collect::<Option<_>>().map(Self::Object)
            }
        }
    }

    /// As a number, when it is one: for scaling, deadbands and ranges. Booleans, texts and arrays are not.
    #[allow(clippy::cast_precision_loss)] // A deadband or range beyond 2^53 has no practical meaning.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Int(int) => Some(*int as f64),
            Self::Uint(uint) => Some(*uint as f64),
            Self::Float(float) => Some(*float),
            Self::Bool(_) | Self::Text(_) | Self::Array(_) | Self::Object(_) => None,
        }
    }
}

/// A single-precision number with the digits that people see: 0.1, not 0.10000000149011612.
impl From<f32> for Value {
    fn from(single: f32) -> Self {
        let exact = f64::from(single);
        Self::Float(if single.is_finite() { shortest(single).unwrap_or(exact) } else { exact })
    }
}

/// The double that has the shortest decimal digits of `single`. Of every second value of a large plant: not on the heap.
fn shortest(single: f32) -> Option<f64> {
    // Sign, nine digits, point, `e`, sign, two digits.
    let mut text = [0_u8; 16];
    let mut rest = text.as_mut_slice();
    write!(rest, "{single:e}").ok()?;
    let left = rest.len();
    str::from_utf8(text.get(..text.len() - left)?).ok()?.parse().ok()
}

/// One reading of a device that is polled, told at the time of its batch: nothing has to be looked up or copied for one that
/// is not reported.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The point, as its place in [`FieldDevice::points`](crate::FieldDevice::points).
    pub place: usize,
    /// The value, which is good, or why there is none.
    pub value: Result<Value, Quality>,
}

/// One reading of a point: a value or none, its quality and its times.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Which point of the device.
    pub point: PointName,
    /// The value. `None` where there is none to speak of: a stale one is never repeated as good.
    pub value: Option<Value>,
    /// How good it is. A sample with a bad quality is reported as an error, whatever its value.
    pub quality: Quality,
    /// When the device says that the value arose; absent where the protocol has no such time (Modbus) or the
    /// device gave none. Then the reception time stands in.
    pub source_time: Option<UnixMillis>,
    /// When the gateway had it.
    pub received: UnixMillis,
}

impl Sample {
    /// A reading without a value, for a reason.
    pub fn bad(point: PointName, quality: Quality, received: UnixMillis) -> Self {
        Self { point, value: None, quality, source_time: None, received }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_integers_become_strings_and_odd_floats_nothing() {
        assert_eq!(Value::Int(-(1 << 53)).to_json(), Some(Json::from(-(1_i64 << 53))));
        assert_eq!(Value::Uint((1 << 53) + 1).to_json(), Some(Json::from("9007199254740993")));
        assert_eq!(Value::Float(f64::NAN).to_json(), None);
        assert_eq!(Value::Array(vec![Value::Float(f64::INFINITY)]).to_json(), None);
        let object = |x| Value::Object(vec![("x".to_owned(), Value::Float(x)), ("n".to_owned(), Value::Int(2))]);
        assert_eq!(object(1.5).to_json(), Some(serde_json::json!({"x": 1.5, "n": 2})));
        assert_eq!(object(f64::NAN).to_json(), None);
        let json = serde_json::json!({"n": 2, "x": [{"y": "z"}]});
        assert_eq!(Value::from_json(&json).and_then(|value| value.to_json()), Some(json));
        assert_eq!(Value::from_json(&serde_json::json!({"n": null})), None);
        assert_eq!(Value::Float(21.5).to_json(), Some(Json::from(21.5)));
        assert_eq!(Value::from(21.3_f32).to_json(), Some(Json::from(21.3)));
        assert_eq!(Value::from(f32::INFINITY), Value::Float(f64::INFINITY));
        for single in [0.1_f32, -1.175_494_4e-38, f32::MIN_POSITIVE, f32::MAX, f32::MIN, 1e-45, 16_777_216.0, -0.0] {
            assert_eq!(Value::from(single), Value::Float(single.to_string().parse().unwrap()));
        }
    }
}
