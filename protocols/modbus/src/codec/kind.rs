//! What registers hold, and in which order.

use std::fmt;

/// The most bytes of a text: as many as one request can write.
pub const MAX_TEXT: u16 = 246;

/// What the registers of a point hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A coil or discrete input; in a register anything but 0 is true.
    Bool,
    /// One bit of a register, 0 the least significant.
    Bit(u8),
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
    /// Four decimal digits of four bits, one register.
    Bcd16,
    /// Eight decimal digits of four bits, two registers.
    Bcd32,
    /// So many bytes of UTF-8, two in a register, filled up with zeros.
    Text(u16),
}

impl Kind {
    /// The words of the configuration, but for `bit` and `string:N`.
    pub const WORDS: [(&'static str, Self); 11] = [
        ("bool", Self::Bool),
        ("i16", Self::I16),
        ("u16", Self::U16),
        ("i32", Self::I32),
        ("u32", Self::U32),
        ("i64", Self::I64),
        ("u64", Self::U64),
        ("f32", Self::F32),
        ("f64", Self::F64),
        ("bcd16", Self::Bcd16),
        ("bcd32", Self::Bcd32),
    ];

    /// How many registers (or bits of a bit table) it takes.
    pub fn width(self) -> u16 {
        match self {
            Self::Bool | Self::Bit(_) | Self::I16 | Self::U16 | Self::Bcd16 => 1,
            Self::I32 | Self::U32 | Self::F32 | Self::Bcd32 => 2,
            Self::I64 | Self::U64 | Self::F64 => 4,
            Self::Text(bytes) => bytes.div_ceil(2),
        }
    }

    /// Its word in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::Bit(_) => "bit",
            Self::Text(_) => "string",
            _ => Self::WORDS.iter().find(|(_, kind)| *kind == self).map_or("", |(word, _)| word),
        }
    }

    /// Whether it is a number, which can have a scale and a range.
    pub fn is_number(self) -> bool {
        !matches!(self, Self::Bool | Self::Bit(_) | Self::Text(_))
    }

    /// Whether it is a floating-point number.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64)
    }

    /// Smallest and largest raw number.
    #[allow(clippy::cast_precision_loss)] // Shown to people and compared with configured ranges; encoding is exact.
    pub(super) fn bounds(self) -> (f64, f64) {
        match self {
            Self::Bool | Self::Bit(_) | Self::Text(_) => (0.0, 1.0),
            Self::I16 => (i16::MIN.into(), i16::MAX.into()),
            Self::U16 => (0.0, u16::MAX.into()),
            Self::I32 => (i32::MIN.into(), i32::MAX.into()),
            Self::U32 => (0.0, u32::MAX.into()),
            Self::I64 => (i64::MIN as f64, i64::MAX as f64),
            Self::U64 => (0.0, u64::MAX as f64),
            Self::F32 => (f32::MIN.into(), f32::MAX.into()),
            Self::F64 => (f64::MIN, f64::MAX),
            Self::Bcd16 => (0.0, 9_999.0),
            Self::Bcd32 => (0.0, 99_999_999.0),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(bytes) => write!(f, "string:{bytes}"),
            _ => f.write_str(self.word()),
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

    /// Whether the least significant register comes first.
    pub(crate) fn reverses_registers(self) -> bool {
        matches!(self, Self::Cdab | Self::Dcba)
    }

    /// Whether the least significant byte of a register comes first.
    pub(crate) fn swaps_bytes(self) -> bool {
        matches!(self, Self::Badc | Self::Dcba)
    }
}
