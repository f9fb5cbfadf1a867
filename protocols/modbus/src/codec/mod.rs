//! Registers to values and back: types, word order, scale and offset, names of numbers, invalid values. Pure.
//!
//! An integer stays an integer while scale and offset are 1 and 0; with any others the value is a float. NaN and
//! infinities of a device pass through as floats: that they are errors is the gateway's to say, for all protocols.

use std::collections::BTreeMap;

use fieldgate_protocol::{Quality, Value};
use thiserror::Error;

mod kind;
mod scaling;
#[cfg(test)]
mod tests;

pub use self::kind::{Kind, MAX_TEXT, Order};
use self::scaling::Scaling;

/// Turns the registers of one point into its value and back.
#[derive(Debug, Clone, PartialEq)]
pub struct Codec {
    kind: Kind,
    order: Order,
    scaling: Option<Scaling>,
    /// Raw numbers by which the device says that it has no value.
    invalid: Vec<f64>,
    /// Names of raw numbers.
    texts: BTreeMap<i64, String>,
}

/// A value that can't be written to a point of this type.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum Misfit {
    /// A text, an array, a bool for a number.
    #[error("a {expected} is expected")]
    WrongType {
        /// `number` or `boolean`.
        expected: &'static str,
    },
    /// A fraction for an integer without a scale.
    #[error("`{value}` is not a whole number, as {} must be", .kind.word())]
    Fraction {
        /// What was to be written.
        value: f64,
        /// The type of the point.
        kind: Kind,
    },
    /// More bytes than there is room for.
    #[error("the text takes {got} bytes, {room} is the most that fits")]
    Long {
        /// How many it takes.
        got: usize,
        /// How many there is room for.
        room: u16,
    },
    /// Too large, too small, or no number at all.
    #[error("the value does not fit {}: {low} to {high} is allowed", .kind.word())]
    Range {
        /// The type of the point.
        kind: Kind,
        /// The smallest value, in the point's unit.
        low: f64,
        /// The largest.
        high: f64,
    },
}

impl Codec {
    /// For registers of this type. `scale` is not 0.
    pub fn new(kind: Kind, order: Order, scale: f64, offset: f64) -> Self {
        Self { kind, order, scaling: Scaling::new(scale, offset), invalid: Vec::new(), texts: BTreeMap::new() }
    }

    /// Takes these raw numbers for "no value": of an integer also as the bits of its registers, so that 0x8000 stands
    /// for -32768 too.
    #[must_use]
    pub fn with_invalid(mut self, numbers: Vec<f64>) -> Self {
        self.invalid = numbers;
        self
    }

    /// Reads and writes these raw numbers as texts.
    #[must_use]
    pub fn with_texts(mut self, texts: BTreeMap<i64, String>) -> Self {
        self.texts = texts;
        self
    }

    /// The type.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The order of its bytes.
    pub fn order(&self) -> Order {
        self.order
    }

    /// Which bit of the register it is.
    pub fn bit(&self) -> Option<u8> {
        if let Kind::Bit(bit) = self.kind { Some(bit) } else { None }
    }

    /// Scale and offset, where they are not 1 and 0.
    pub fn scale(&self) -> Option<(f64, f64)> {
        self.scaling.map(|scaling| (scaling.scale, scaling.offset))
    }

    /// Raw numbers that mean "no value".
    pub fn invalid(&self) -> &[f64] {
        &self.invalid
    }

    /// Names of raw numbers.
    pub fn texts(&self) -> &BTreeMap<i64, String> {
        &self.texts
    }

    /// Smallest and largest value in the point's unit.
    pub fn bounds(&self) -> (f64, f64) {
        let (low, high) = self.kind.bounds();
        let Some(scaling) = &self.scaling else { return (low, high) };
        let (a, b) = (scaling.apply(low), scaling.apply(high));
        (a.min(b), a.max(b))
    }

    /// The value in `words`, or the quality of a point that has none.
    #[allow(clippy::cast_precision_loss)] // Asked for by giving a scale to a 64-bit integer.
    pub fn decode(&self, words: &[u16]) -> Result<Value, Quality> {
        if words.len() != usize::from(self.kind.width()) {
            return Err(Quality::BAD_DECODING_ERROR);
        }
        if let Kind::Text(bytes) = self.kind {
            return self.text(words, bytes);
        }
        let raw = self.join(words);
        let bytes = raw.to_be_bytes();
        let [_, _, _, _, a, b, c, d] = bytes;
        let (two, four) = ([c, d], [a, b, c, d]);
        let value = match self.kind {
            Kind::Bool => Value::Bool(u16::from_be_bytes(two) != 0),
            Kind::Bit(bit) => Value::Bool(raw >> bit & 1 == 1),
            Kind::I16 => Value::Int(i16::from_be_bytes(two).into()),
            Kind::I32 => Value::Int(i32::from_be_bytes(four).into()),
            Kind::I64 => Value::Int(i64::from_be_bytes(bytes)),
            Kind::F32 => Value::from(f32::from_be_bytes(four)),
            Kind::F64 => Value::Float(f64::from_be_bytes(bytes)),
            Kind::Bcd16 | Kind::Bcd32 => Value::Uint(from_digits(raw).ok_or(Quality::BAD_DECODING_ERROR)?),
            Kind::U16 | Kind::U32 | Kind::U64 | Kind::Text(_) => Value::Uint(raw),
        };
        if self.is_invalid(&value, raw) {
            return Err(Quality::named("BadSensorFailure"));
        }
        if let Some(text) = number(&value).and_then(|number| self.texts.get(&number)) {
            return Ok(Value::Text(text.clone()));
        }
        let Some(scaling) = &self.scaling else { return Ok(value) };
        Ok(match value {
            Value::Int(int) => Value::Float(scaling.apply(int as f64)),
            Value::Uint(uint) => Value::Float(scaling.apply(uint as f64)),
            Value::Float(float) => Value::Float(scaling.apply(float)),
            Value::Bool(_) | Value::Text(_) | Value::Array(_) | Value::Object(_) => value,
        })
    }

    #[allow(clippy::cast_precision_loss, clippy::float_cmp)] // The very numbers that are configured.
    fn is_invalid(&self, value: &Value, raw: u64) -> bool {
        let number = value.as_f64();
        self.invalid.iter().any(|no| number == Some(*no) || (!self.kind.is_float() && raw as f64 == *no))
    }

    fn text(&self, words: &[u16], length: u16) -> Result<Value, Quality> {
        let swap = self.order.swaps_bytes();
        let mut bytes: Vec<u8> =
            words.iter().flat_map(|word| if swap { word.to_le_bytes() } else { word.to_be_bytes() }).collect();
        bytes.truncate(length.into());
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        bytes.truncate(end);
        let text = String::from_utf8(bytes).map_err(|_| Quality::BAD_DECODING_ERROR)?;
        Ok(Value::Text(text.trim_end().to_owned()))
    }

    /// The registers that hold `value`. With a scale, an integer takes the nearest step; without one, a fraction
    /// is refused. Of a bit, the register with this bit alone.
    pub fn encode(&self, value: &Value) -> Result<Vec<u16>, Misfit> {
        let named;
        let value = match value {
            Value::Text(text) => match self.texts.iter().find(|(_, name)| *name == text) {
                Some((number, _)) if self.kind.is_number() => {
                    named = Value::Int(*number);
                    &named
                }
                Some((number, _)) => {
                    named = Value::Bool(*number != 0);
                    &named
                }
                None => value,
            },
            Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Float(_) | Value::Array(_) | Value::Object(_) => {
                value
            }
        };
        let raw = match self.kind {
            Kind::Bool => u64::from(truth(value)?),
            Kind::Bit(bit) => u64::from(truth(value)?) << bit,
            Kind::I16 => u64::from(self.integer::<i16>(value)?.cast_unsigned()),
            Kind::U16 => u64::from(self.integer::<u16>(value)?),
            Kind::I32 => u64::from(self.integer::<i32>(value)?.cast_unsigned()),
            Kind::U32 => u64::from(self.integer::<u32>(value)?),
            Kind::I64 => self.integer::<i64>(value)?.cast_unsigned(),
            Kind::U64 => self.integer::<u64>(value)?,
            Kind::F32 => u64::from(self.single(value)?.to_bits()),
            Kind::F64 => self.float(value)?.to_bits(),
            Kind::Bcd16 => self.digits(value, 9_999)?,
            Kind::Bcd32 => self.digits(value, 99_999_999)?,
            Kind::Text(length) => return self.encode_text(value, length),
        };
        Ok(self.split(raw))
    }

    fn encode_text(&self, value: &Value, length: u16) -> Result<Vec<u16>, Misfit> {
        let Value::Text(text) = value else { return Err(Misfit::WrongType { expected: "text" }) };
        if text.len() > usize::from(length) {
            return Err(Misfit::Long { got: text.len(), room: length });
        }
        let mut bytes = text.clone().into_bytes();
        bytes.resize(2 * usize::from(self.kind.width()), 0);
        let (words, _) = bytes.as_chunks::<2>();
        let swap = self.order.swaps_bytes();
        Ok(words.iter().map(|word| if swap { u16::from_le_bytes(*word) } else { u16::from_be_bytes(*word) }).collect())
    }

    fn digits(&self, value: &Value, most: u64) -> Result<u64, Misfit> {
        let number = self.integer::<u64>(value)?;
        if number > most { Err(self.range()) } else { Ok(to_digits(number)) }
    }

    /// What a coil is set to.
    pub fn encode_bit(&self, value: &Value) -> Result<bool, Misfit> {
        self.encode(value).map(|words| words.iter().any(|word| *word != 0))
    }

    fn join(&self, words: &[u16]) -> u64 {
        let swap = |word: &u16| if self.order.swaps_bytes() { word.swap_bytes() } else { *word };
        let push = |raw: u64, word: u16| (raw << 16) | u64::from(word);
        if self.order.reverses_registers() {
            words.iter().rev().map(swap).fold(0, push)
        } else {
            words.iter().map(swap).fold(0, push)
        }
    }

    fn split(&self, raw: u64) -> Vec<u16> {
        let bytes = raw.to_be_bytes();
        let (all, _) = bytes.as_chunks::<2>();
        let words = all
            .iter()
            .skip(4 - usize::from(self.kind.width()))
            .map(|word| if self.order.swaps_bytes() { u16::from_le_bytes(*word) } else { u16::from_be_bytes(*word) });
        let mut words: Vec<u16> = words.collect();
        if self.order.reverses_registers() {
            words.reverse();
        }
        words
    }

    fn range(&self) -> Misfit {
        let (low, high) = self.bounds();
        Misfit::Range { kind: self.kind, low, high }
    }

    fn integer<T: TryFrom<i128>>(&self, value: &Value) -> Result<T, Misfit> {
        let whole = match (value, &self.scaling) {
            (Value::Int(int), None) => i128::from(*int),
            (Value::Uint(uint), None) => i128::from(*uint),
            // Integers beyond 2^53 travel as strings (DESIGN section 5).
            (Value::Text(text), None) => text.parse().map_err(|_| Misfit::WrongType { expected: "number" })?,
            _ => {
                let raw = self.float(value)?;
                if self.scaling.is_none() && raw.fract() != 0.0 {
                    return Err(Misfit::Fraction { value: raw, kind: self.kind });
                }
                // Beyond i128 the cast saturates, which no type here holds either.
                #[allow(clippy::cast_possible_truncation)]
                let whole = raw.round() as i128;
                whole
            }
        };
        T::try_from(whole).map_err(|_| self.range())
    }

    fn float(&self, value: &Value) -> Result<f64, Misfit> {
        let value = value.as_f64().ok_or(Misfit::WrongType { expected: "number" })?;
        let raw = self.scaling.as_ref().map_or(value, |scaling| scaling.undo(value));
        if raw.is_finite() { Ok(raw) } else { Err(self.range()) }
    }

    fn single(&self, value: &Value) -> Result<f32, Misfit> {
        // To the nearest single; what is too large becomes infinite.
        #[allow(clippy::cast_possible_truncation)]
        let single = self.float(value)? as f32;
        if single.is_finite() { Ok(single) } else { Err(self.range()) }
    }
}

fn truth(value: &Value) -> Result<bool, Misfit> {
    match value {
        Value::Bool(bool) => Ok(*bool),
        Value::Int(0) | Value::Uint(0) => Ok(false),
        Value::Int(1) | Value::Uint(1) => Ok(true),
        Value::Int(_) | Value::Uint(_) | Value::Float(_) | Value::Text(_) | Value::Array(_) | Value::Object(_) => {
            Err(Misfit::WrongType { expected: "boolean" })
        }
    }
}

/// A whole number that may have a name.
fn number(value: &Value) -> Option<i64> {
    match value {
        Value::Bool(bool) => Some((*bool).into()),
        Value::Int(int) => Some(*int),
        Value::Uint(uint) => i64::try_from(*uint).ok(),
        Value::Float(_) | Value::Text(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Decimal digits of four bits each; `None` when one of them is beyond 9.
fn from_digits(raw: u64) -> Option<u64> {
    let digits = (0..8).rev().map(|place| raw >> (4 * place) & 0xF);
    digits.into_iter().try_fold(0, |number, digit| (digit <= 9).then_some(number * 10 + digit))
}

fn to_digits(mut number: u64) -> u64 {
    let mut raw = 0;
    for place in 0..8 {
        raw |= (number % 10) << (4 * place);
        number /= 10;
    }
    raw
}
