//! Where a point lies: a table and a 0-based address, in the notations that integrators use.

use std::fmt;
use std::str::FromStr;

use fieldgate_types::{FromToml, Located, Wrong};
use thiserror::Error;

use crate::codec::Order;
use crate::plan::Skip;

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

/// What `at` may say: an address, and what integrators write around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The first bit or register.
    pub address: Address,
    /// One bit of the register, 0 the least significant: `holding:10.3`.
    pub bit: Option<u8>,
    /// `1!`, the unit.
    pub unit: Option<u8>,
    /// `#CDAB`, the order.
    pub order: Option<Order>,
}

/// The text is not an address that can be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidAddress {
    /// Nothing of the kind.
    #[error(
        "`{0}` is not an address: \"coil:\", \"discrete:\", \"input:\" or \"holding:\" and a number from 0 to 65535 is \
         allowed, or 40001 / 400001 (counted from 1), and \"holding:10.3\" for a bit, or \"1!400001#CDAB\""
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
    /// A bit beyond a register's sixteen, or of a bit table.
    #[error("`{0}` names no bit of a register: 0 to 15 is allowed after the point, in input and holding registers")]
    Bit(String),
}

impl FromStr for Place {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shown = || text.chars().take(80).collect::<String>();
        let syntax = || InvalidAddress::Syntax(shown());
        let (unit, rest) = text.split_once('!').map_or((None, text), |(unit, rest)| (Some(unit), rest));
        let unit = unit.map(|unit| unit.parse().map_err(|_| syntax())).transpose()?;
        let (rest, order) = rest.split_once('#').map_or((rest, None), |(rest, order)| (rest, Some(order)));
        let known = |order| Order::WORDS.into_iter().find(|(word, _)| *word == order).map(|(_, order)| order);
        let order = order.map(|order| known(order).ok_or_else(syntax)).transpose()?;
        let (rest, bit) = rest.split_once('.').map_or((rest, None), |(rest, bit)| (rest, Some(bit)));
        let address = match rest.split_once(':') {
            Some((word, number)) => {
                let table = Table::of_word(word).ok_or_else(syntax)?;
                if !all_digits(number) {
                    return Err(syntax());
                }
                Address { table, offset: number.parse().map_err(|_| InvalidAddress::Range(shown()))? }
            }
            None => counted(rest).map_err(|error| match error {
                InvalidAddress::Syntax(_) => syntax(),
                other => other,
            })?,
        };
        let bit = match bit {
            None => None,
            Some(bit) if !all_digits(bit) => return Err(syntax()),
            Some(bit) => {
                let bit = bit.parse().ok().filter(|bit| *bit < 16 && !address.table.is_bits());
                Some(bit.ok_or_else(|| InvalidAddress::Bit(shown()))?)
            }
        };
        Ok(Self { address, bit, unit, order })
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

/// `holding:100-120`, or one address of any notation.
impl FromToml for Skip {
    fn from_toml(value: &Located) -> Result<Self, Wrong> {
        let wrong = |text: &str| {
            format!("`{text}` is not a range of addresses, \"holding:100-120\" or a single address is allowed")
        };
        value.parse("addresses such as \"holding:100-120\"", |text| {
            let (first, last) = text.split_once('-').map_or((text, None), |(first, last)| (first, Some(last)));
            let first: Place = first.parse().map_err(|_| wrong(text))?;
            let Address { table, offset } = first.address;
            let last = last.map_or(Ok(offset), |last| last.parse().map_err(|_| wrong(text)))?;
            if last < offset || first.bit.is_some() {
                return Err(wrong(text));
            }
            Ok(Self { table, first: offset, last })
        })
    }
}

fn all_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

impl FromToml for Place {
    fn from_toml(value: &Located) -> Result<Self, Wrong> {
        // 40001 without quotes is what people copy from a register map.
        if let Ok(number) = i64::from_toml(value) {
            let address = counted(&number.to_string()).map_err(|error| value.wrong(error))?;
            return Ok(Self { address, bit: None, unit: None, order: None });
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
            let address = Address { table, offset };
            assert_eq!(text.parse(), Ok(Place { address, bit: None, unit: None, order: None }), "{text}");
        }
    }

    #[test]
    fn reads_bits_units_and_orders() {
        let holding = |offset| Address { table: Table::Holding, offset };
        let place = Place { address: holding(10), bit: Some(3), unit: None, order: None };
        assert_eq!("holding:10.3".parse(), Ok(place));
        assert_eq!("40011.3".parse(), Ok(place));
        let place = Place { address: holding(0), bit: None, unit: Some(1), order: Some(Order::Cdab) };
        assert_eq!("1!400001#CDAB".parse(), Ok(place));
        assert_eq!("247!40001".parse(), Ok(Place { unit: Some(247), order: None, ..place }));
        assert_eq!("holding:0#CDAB".parse(), Ok(Place { unit: None, ..place }));
    }

    #[test]
    fn says_what_is_wrong_with_an_address() {
        use InvalidAddress as E;
        let wrong = |text: &str| text.parse::<Place>().unwrap_err();
        for text in [
            "",
            "holdin:1",
            "holding:",
            "holding:-1",
            "holding:1.x",
            "20001",
            "4001",
            "4000001",
            "x!1",
            "Holding:1",
            "256!40001",
            "1!40001#CDBA",
            "holding:1.",
        ] {
            assert!(matches!(wrong(text), E::Syntax(_)), "{text}: {:?}", wrong(text));
        }
        assert!(matches!(wrong("holding:65536"), E::Range(_)));
        for text in ["40000", "400000", "465537"] {
            assert!(matches!(wrong(text), E::CountedRange(_)), "{text}");
        }
        for text in ["holding:10.16", "coil:1.2", "00001.3"] {
            assert!(matches!(wrong(text), E::Bit(_)), "{text}");
        }
    }
}
