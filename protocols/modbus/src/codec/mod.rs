//! Registers to values and back: types, word order, scale and offset. Pure.
//!
//! An integer stays an integer while scale and offset are 1 and 0; with any others the value is a float. NaN and
//! infinities of a device pass through as floats: that they are errors is the gateway's to say, for all protocols.

use fieldgate_protocol::Value;
use thiserror::Error;

#[cfg(test)]
mod tests;

/// What the registers of a point hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A coil or discrete input; in a register anything but 0 is true.
    Bool,
    /// Signed, one register.
    I16,
    /// Unsigned, one register.
    U16,
    /// Signed, two registers.
    I32,
    /// Unsigned, two registers.
    U32,
    /// Signed, four registers.
    I64,
    /// Unsigned, four registers.
    U64,
    /// IEEE 754, two registers.
    F32,
    /// IEEE 754, four registers.
    F64,
}

impl Kind {
    /// The words of the configuration.
    pub const WORDS: [(&'static str, Self); 9] = [
        ("bool", Self::Bool),
        ("i16", Self::I16),
        ("u16", Self::U16),
        ("i32", Self::I32),
        ("u32", Self::U32),
        ("i64", Self::I64),
        ("u64", Self::U64),
        ("f32", Self::F32),
        ("f64", Self::F64),
    ];

    /// How many registers (or bits of a bit table) it takes.
    pub fn width(self) -> u16 {
        match self {
            Self::Bool | Self::I16 | Self::U16 => 1,
            Self::I32 | Self::U32 | Self::F32 => 2,
            Self::I64 | Self::U64 | Self::F64 => 4,
        }
    }

    /// Its word in the configuration.
    pub fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, kind)| *kind == self).map_or("", |(word, _)| word)
    }

    /// Smallest and largest raw number.
    #[allow(clippy::cast_precision_loss)] // Shown to people and compared with configured ranges; encoding is exact.
    fn bounds(self) -> (f64, f64) {
        match self {
            Self::Bool => (0.0, 1.0),
            Self::I16 => (i16::MIN.into(), i16::MAX.into()),
            Self::U16 => (0.0, u16::MAX.into()),
            Self::I32 => (i32::MIN.into(), i32::MAX.into()),
            Self::U32 => (0.0, u32::MAX.into()),
            Self::I64 => (i64::MIN as f64, i64::MAX as f64),
            Self::U64 => (0.0, u64::MAX as f64),
            Self::F32 => (f32::MIN.into(), f32::MAX.into()),
            Self::F64 => (f64::MIN, f64::MAX),
        }
    }
}

/// How the bytes of a number lie in its registers; A is the most significant byte of 32 bits. Of 64 bits the same
/// rule holds: CDAB reverses the registers, BADC swaps the bytes in each, DCBA does both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// Most significant register first, as the specification has it.
    #[default]
    Abcd,
    /// Least significant register first.
    Cdab,
    /// Most significant register first, bytes swapped.
    Badc,
    /// Little-endian throughout.
    Dcba,
}

impl Order {
    /// The words of the configuration.
    pub const WORDS: [(&'static str, Self); 4] =
        [("ABCD", Self::Abcd), ("CDAB", Self::Cdab), ("BADC", Self::Badc), ("DCBA", Self::Dcba)];

    fn reverses_registers(self) -> bool {
        matches!(self, Self::Cdab | Self::Dcba)
    }

    fn swaps_bytes(self) -> bool {
        matches!(self, Self::Badc | Self::Dcba)
    }
}

/// A linear scale: value = raw × scale + offset.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Scaling {
    scale: f64,
    /// Of 0.1 it is 10: dividing by it gives 0.3 for a raw 3, where multiplying gives 0.30000000000000004.
    divisor: Option<f64>,
    offset: f64,
}

impl Scaling {
    fn new(scale: f64, offset: f64) -> Option<Self> {
        if scale.to_bits() == 1.0_f64.to_bits() && offset == 0.0 {
            return None;
        }
        let inverse = (1.0 / scale).round();
        let exact = scale.abs() < 1.0 && inverse.is_finite() && (1.0 / inverse).to_bits() == scale.to_bits();
        Some(Self { scale, divisor: exact.then_some(inverse), offset })
    }

    fn apply(&self, raw: f64) -> f64 {
        self.divisor.map_or(raw * self.scale, |divisor| raw / divisor) + self.offset
    }

    fn undo(&self, value: f64) -> f64 {
        let value = value - self.offset;
        self.divisor.map_or(value / self.scale, |divisor| value * divisor)
    }
}

/// Turns the registers of one point into its value and back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Codec {
    kind: Kind,
    order: Order,
    scaling: Option<Scaling>,
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
        Self { kind, order, scaling: Scaling::new(scale, offset) }
    }

    /// The type.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Smallest and largest value in the point's unit.
    pub fn bounds(&self) -> (f64, f64) {
        let (low, high) = self.kind.bounds();
        let Some(scaling) = &self.scaling else { return (low, high) };
        let (a, b) = (scaling.apply(low), scaling.apply(high));
        (a.min(b), a.max(b))
    }

    /// The value in `words`; `None` unless there are exactly as many as the type takes.
    #[allow(clippy::cast_precision_loss)] // Asked for by giving a scale to a 64-bit integer.
    pub fn decode(&self, words: &[u16]) -> Option<Value> {
        if words.len() != usize::from(self.kind.width()) {
            return None;
        }
        let bytes = self.join(words).to_be_bytes();
        let [_, _, _, _, a, b, c, d] = bytes;
        let (two, four) = ([c, d], [a, b, c, d]);
        let value = match self.kind {
            Kind::Bool => Value::Bool(u16::from_be_bytes(two) != 0),
            Kind::I16 => Value::Int(i16::from_be_bytes(two).into()),
            Kind::U16 => Value::Uint(u16::from_be_bytes(two).into()),
            Kind::I32 => Value::Int(i32::from_be_bytes(four).into()),
            Kind::U32 => Value::Uint(u32::from_be_bytes(four).into()),
            Kind::I64 => Value::Int(i64::from_be_bytes(bytes)),
            Kind::U64 => Value::Uint(u64::from_be_bytes(bytes)),
            Kind::F32 => Value::from(f32::from_be_bytes(four)),
            Kind::F64 => Value::Float(f64::from_be_bytes(bytes)),
        };
        let Some(scaling) = &self.scaling else { return Some(value) };
        Some(match value {
            Value::Int(int) => Value::Float(scaling.apply(int as f64)),
            Value::Uint(uint) => Value::Float(scaling.apply(uint as f64)),
            Value::Float(float) => Value::Float(scaling.apply(float)),
            Value::Bool(_) | Value::Text(_) | Value::Array(_) => value,
        })
    }

    /// The registers that hold `value`. With a scale, an integer takes the nearest step; without one, a fraction
    /// is refused.
    pub fn encode(&self, value: &Value) -> Result<Vec<u16>, Misfit> {
        let raw = match self.kind {
            Kind::Bool => u64::from(truth(value)?),
            Kind::I16 => u64::from(self.integer::<i16>(value)?.cast_unsigned()),
            Kind::U16 => u64::from(self.integer::<u16>(value)?),
            Kind::I32 => u64::from(self.integer::<i32>(value)?.cast_unsigned()),
            Kind::U32 => u64::from(self.integer::<u32>(value)?),
            Kind::I64 => self.integer::<i64>(value)?.cast_unsigned(),
            Kind::U64 => self.integer::<u64>(value)?,
            Kind::F32 => u64::from(self.single(value)?.to_bits()),
            Kind::F64 => self.float(value)?.to_bits(),
        };
        Ok(self.split(raw))
    }

    /// What a coil is set to.
    pub fn encode_bit(&self, value: &Value) -> Result<bool, Misfit> {
        truth(value)
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
        Value::Int(_) | Value::Uint(_) | Value::Float(_) | Value::Text(_) | Value::Array(_) => {
            Err(Misfit::WrongType { expected: "boolean" })
        }
    }
}
