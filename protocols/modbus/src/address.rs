//! Where a point lies: a table and a 0-based address, in the notations that integrators use.

use std::fmt;
use std::str::FromStr;

use fieldgate_types::{FromToml, Located, Wrong};
use thiserror::Error;

/// One of the four tables of the Modbus data model (application protocol V1.1b3, section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Bits that may be written: function codes 1, 5, 15.
    Coil,
    /// Bits that may only be read: function code 2.
    Discrete,
    /// Registers that may only be read: function code 4.
    Input,
    /// Registers that may be written: function codes 3, 6, 16.
    Holding,
}

impl Table {
    /// Whether it holds bits instead of 16-bit registers.
    pub fn is_bits(self) -> bool {
        match self {
            Self::Coil | Self::Discrete => true,
            Self::Input | Self::Holding => false,
        }
    }

    /// Whether the protocol has a function code to write it.
    pub fn is_writable(self) -> bool {
        match self {
            Self::Coil | Self::Holding => true,
            Self::Discrete | Self::Input => false,
        }
    }

    /// Its word in an address.
    pub fn word(self) -> &'static str {
        match self {
            Self::Coil => "coil",
            Self::Discrete => "discrete",
            Self::Input => "input",
            Self::Holding => "holding",
        }
    }

    fn of_word(word: &str) -> Option<Self> {
        [Self::Coil, Self::Discrete, Self::Input, Self::Holding].into_iter().find(|table| table.word() == word)
    }

    /// The leading digit of the integrators' notation.
    fn of_digit(digit: u8) -> Option<Self> {
        match digit {
            b'0' => Some(Self::Coil),
            b'1' => Some(Self::Discrete),
            b'3' => Some(Self::Input),
            b'4' => Some(Self::Holding),
            _ => None,
        }
    }
}

/// A place in a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// Which table.
    pub table: Table,
    /// The first bit or register, counted from 0 as on the wire.
    pub offset: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.table.word(), self.offset)
    }
}

/// The text is not an address that can be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidAddress {
    /// Nothing of the kind.
    #[error(
        "`{0}` is not an address: \"coil:\", \"discrete:\", \"input:\" or \"holding:\" and a number from 0 to 65535 is \
         allowed, or 40001 / 400001 (counted from 1)"
    )]
    Syntax(String),
    /// The form is right, the number is not.
    #[error("`{0}` is out of range: 0 to 65535 is allowed after the table's name")]
    Range(String),
    /// `40000`, `400000`, `465537`.
    #[error(
        "`{0}` is out of range: the number after the first digit counts from 1, up to 9999 in five digits and up to 65536 in six"
    )]
    CountedRange(String),
    /// A bit of a register.
    #[error(
        "`{0}` names a bit of a register, which this version of the driver does not read: give the whole register as u16"
    )]
    BitLater(String),
    /// Unit, address and order in one text.
    #[error(
        "`{0}` names unit, address and order in one text, which this version of the driver does not read: use the keys \
         `unit` of the device, `at` and `order`"
    )]
    CombinedLater(String),
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shown = || text.chars().take(80).collect::<String>();
        if let Some((word, number)) = text.split_once(':') {
            let Some(table) = Table::of_word(word) else { return Err(InvalidAddress::Syntax(shown())) };
            if let Some((register, bit)) = number.split_once('.')
                && !table.is_bits()
                && all_digits(register)
                && all_digits(bit)
            {
                return Err(InvalidAddress::BitLater(shown()));
            }
            if !all_digits(number) {
                return Err(InvalidAddress::Syntax(shown()));
            }
            let offset = number.parse().map_err(|_| InvalidAddress::Range(shown()))?;
            return Ok(Self { table, offset });
        }
        if let Some((unit, rest)) = text.split_once('!') {
            let (address, order) = rest.split_once('#').unwrap_or((rest, "ABCD"));
            let known = all_digits(unit) && all_digits(address) && order.len() == 4;
            return Err(if known { InvalidAddress::CombinedLater(shown()) } else { InvalidAddress::Syntax(shown()) });
        }
        counted(text)
    }
}

/// `40001` (up to 9999 of each table) or `400001` (all of them): a digit for the table, then a number from 1.
fn counted(text: &str) -> Result<Address, InvalidAddress> {
    let syntax = || InvalidAddress::Syntax(text.chars().take(80).collect());
    if !all_digits(text) || !matches!(text.len(), 5 | 6) {
        return Err(syntax());
    }
    let (digit, number) = text.split_at(1);
    let table = digit.bytes().next().and_then(Table::of_digit).ok_or_else(syntax)?;
    let number: u32 = number.parse().map_err(|_| syntax())?;
    let offset = number.checked_sub(1).and_then(|offset| u16::try_from(offset).ok());
    let offset = offset.ok_or_else(|| InvalidAddress::CountedRange(text.to_owned()))?;
    Ok(Address { table, offset })
}

fn all_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

impl FromToml for Address {
    fn from_toml(value: &Located) -> Result<Self, Wrong> {
        // 40001 without quotes is what people copy from a register map.
        if let Ok(number) = i64::from_toml(value) {
            return counted(&number.to_string()).map_err(|error| value.wrong(error));
        }
        value.parse("an address such as \"holding:100\" or 40101", str::parse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_named_and_counted_addresses() {
        for (text, table, offset) in [
            ("coil:0", Table::Coil, 0),
            ("discrete:17", Table::Discrete, 17),
            ("input:65535", Table::Input, 65_535),
            ("holding:100", Table::Holding, 100),
            ("40001", Table::Holding, 0),
            ("49999", Table::Holding, 9_998),
            ("400001", Table::Holding, 0),
            ("465536", Table::Holding, 65_535),
            ("30010", Table::Input, 9),
            ("00001", Table::Coil, 0),
            ("100005", Table::Discrete, 4),
        ] {
            assert_eq!(text.parse(), Ok(Address { table, offset }), "{text}");
        }
    }

    #[test]
    fn tells_a_mistake_from_what_comes_later() {
        use InvalidAddress as E;
        let wrong = |text: &str| text.parse::<Address>().unwrap_err();
        for text in [
            "",
            "holdin:1",
            "holding:",
            "holding:-1",
            "holding:1.x",
            "coil:1.2",
            "20001",
            "4001",
            "4000001",
            "x!1",
            "Holding:1",
        ] {
            assert!(matches!(wrong(text), E::Syntax(_)), "{text}: {:?}", wrong(text));
        }
        assert!(matches!(wrong("holding:65536"), E::Range(_)));
        for text in ["40000", "400000", "465537"] {
            assert!(matches!(wrong(text), E::CountedRange(_)), "{text}");
        }
        assert!(matches!(wrong("holding:10.3"), E::BitLater(_)));
        assert!(matches!(wrong("1!400001#CDAB"), E::CombinedLater(_)));
    }
}
