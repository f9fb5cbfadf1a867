//! One `[[modbus.device.point]]`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fieldgate_protocol::{Access, Point};
use fieldgate_types::{FromToml, Located, Section, Wrong};

use super::{Defaults, interval};
use crate::address::{Address, Place};
use crate::codec::{Codec, Kind, MAX_TEXT, Order};
use crate::plan::Extent;

/// A point: what the gateway knows of it, where it lies and how it is read.
#[derive(Debug, Clone, PartialEq)]
pub struct PointConfig {
    /// Name, access, range and reporting: what all protocols share.
    pub point: Arc<Point>,
    /// Where it lies.
    pub at: Address,
    /// How its registers are read.
    pub codec: Codec,
    /// By which function code it is written.
    pub write: WriteWith,
    /// How often it is read.
    pub interval: Duration,
}

/// By which function code a point is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteWith {
    /// The one for a single value where it is enough, else, or where the device doesn't know it, the one for several.
    Auto,
    /// 5 and 6 alone: several registers one after the other.
    Single,
    /// 15 and 16 alone.
    Multiple,
    /// 23, which writes registers and reads them back in one request.
    ReadWrite,
}

impl WriteWith {
    /// The words of the configuration.
    pub const WORDS: [(&'static str, Self); 4] =
        [("auto", Self::Auto), ("single", Self::Single), ("multiple", Self::Multiple), ("read-write", Self::ReadWrite)];
}

impl PointConfig {
    /// Reads the table as if it stood in a device of its own, for lists that belong to none yet.
    pub(crate) fn alone(section: &Section) -> Option<Self> {
        Self::read(section, &Defaults::alone())
    }

    /// Reads the table; what is absent comes from the device.
    pub(super) fn read(section: &Section, device: &Defaults) -> Option<Self> {
        let point = Point::read(section, &device.report);
        let place: Option<Place> = section.required("at");
        let kind = Self::kind(section, place);
        let order = section.optional_choice("order", &Order::WORDS);
        let scale: Option<f64> = section.get("scale");
        let offset: Option<f64> = section.get("offset");
        let invalid: Option<Vec<f64>> = section.get("invalid");
        let texts = section.get_with("enum", texts);
        let write = section.choice("write", &WriteWith::WORDS, device.write);
        let interval = interval(section, device.interval);
        let (place, kind) = (place?, kind?);
        if scale == Some(0.0) {
            section.problem("scale", "`0` would make every value the same, any other number is allowed");
            return None;
        }
        let given = [
            ("order", order.is_some() && !kind.is_number() && !matches!(kind, Kind::Text(_))),
            ("scale", scale.is_some() && !kind.is_number()),
            ("offset", offset.is_some() && !kind.is_number()),
            ("invalid", invalid.is_some() && !kind.is_number()),
            ("enum", texts.is_some() && (kind.is_float() || matches!(kind, Kind::Text(_)))),
        ];
        for (key, _) in given.into_iter().filter(|(_, wrong)| *wrong) {
            section.problem(key, format_args!("has no meaning for a {}, leave it out", kind.word()));
        }
        if texts.is_some() && (scale.is_some() || offset.is_some()) {
            section.problem("enum", "names numbers as they lie in the register: not together with scale or offset");
        }
        if let Some(unit) = place.unit.filter(|unit| *unit != device.unit.0) {
            let own = device.unit;
            section.problem("at", format_args!("`{unit}!` is another unit than the device's, which is {own}"));
        }
        if place.order.is_some() && order.is_some() && place.order != order {
            section.problem("order", "is another one than behind the `#` of `at`, leave one of them out");
        }
        let order = order.or(place.order).unwrap_or_default();
        if matches!(kind, Kind::Text(_)) && order.reverses_registers() {
            section.problem("order", "a text runs from register to register: ABCD or BADC is allowed");
        }
        let codec = Codec::new(kind, order, scale.unwrap_or(1.0), offset.unwrap_or(0.0))
            .with_invalid(invalid.unwrap_or_default())
            .with_texts(texts.unwrap_or_default());
        let at = place.address;
        if u32::from(at.offset) + u32::from(kind.width()) > 65_536 {
            let (word, width) = (kind.word(), kind.width());
            section.problem(
                "at",
                format_args!("`{at}` leaves no room for the {width} registers of {word}: the last address is 65535"),
            );
        }
        if kind.width() > device.limits.max_block {
            let (word, width, max_block) = (kind.word(), kind.width(), device.limits.max_block);
            section.problem(
                "type",
                format_args!("`{word}` takes {width} registers, more than the link's max_block = {max_block}"),
            );
        }
        let point = Point { kind: Some(kind.to_string()), ..point? };
        Self::check_access(section, at, &codec, &point);
        Some(Self { point: Arc::new(point), at, codec, write, interval })
    }

    /// The type: a bit table holds bools, a bit of a register is a bit; what registers hold must be said.
    fn kind(section: &Section, place: Option<Place>) -> Option<Kind> {
        let bits = place.is_some_and(|place| place.address.table.is_bits());
        let bit = place.and_then(|place| place.bit);
        let word = |value: &Located| kind(value, bit);
        if !bits && bit.is_none() {
            return section.required_with("type", word);
        }
        let default = bit.map_or(Kind::Bool, Kind::Bit);
        let kind = if section.has("type") { section.get_with("type", word)? } else { default };
        let name = kind.word();
        match (place, bit, kind) {
            (Some(place), None, kind) if kind != Kind::Bool => {
                let table = place.address.table.word();
                section.problem(
                    "type",
                    format_args!("`{name}` can't lie in a {table}, which is one bit: bool is allowed"),
                );
            }
            (_, Some(bit), Kind::Bool) => return Some(Kind::Bit(bit)),
            (_, Some(_), kind) if kind != default => {
                section.problem("type", format_args!("`{name}` is no bit of a register: bit is allowed"));
            }
            _ => {}
        }
        Some(kind)
    }

    fn check_access(section: &Section, at: Address, codec: &Codec, point: &Point) {
        if point.access == Access::ReadWrite && !at.table.is_writable() {
            let table = at.table.word();
            section.problem(
                "access",
                format_args!("`rw` is not possible: a {table} can only be read, coil and holding can be written"),
            );
        }
        let Some((low, high)) = point.range else { return };
        if !codec.kind().is_number() {
            section.problem("range", format_args!("has no meaning for a {}, leave it out", codec.kind().word()));
            return;
        }
        let (least, most) = codec.bounds();
        if low < least || high > most {
            let word = codec.kind().word();
            section.problem(
                "range",
                format_args!(
                    "goes beyond what {word} with this scale and offset can hold, {least} to {most} is allowed"
                ),
            );
        }
    }

    /// Its registers or bits.
    pub fn extent(&self) -> Extent {
        Extent { at: self.at, width: self.codec.kind().width() }
    }
}

fn kind(value: &Located, bit: Option<u8>) -> Result<Kind, Wrong> {
    value.parse("a type such as \"u16\"", |text| {
        if let Some((_, kind)) = Kind::WORDS.into_iter().find(|(word, _)| *word == text) {
            return Ok(kind);
        }
        if text == "bit" {
            return bit
                .map(Kind::Bit)
                .ok_or_else(|| "which bit? Write it behind the register: at = \"holding:10.3\"".into());
        }
        if let Some(length) = text.strip_prefix("string:") {
            let length = length.parse().ok().filter(|length| (1..=MAX_TEXT).contains(length));
            return length.map(Kind::Text).ok_or_else(|| {
                format!("`{text}` is not possible, string:1 to string:{MAX_TEXT} is allowed, in bytes")
            });
        }
        let allowed = Kind::WORDS.map(|(word, _)| word).join(", ");
        Err(format!("`{text}` is not a type, {allowed}, bit, string:N is allowed"))
    })
}

/// `{ 0 = "off", 0x10 = "on" }`: names of numbers, each once.
fn texts(value: &Located) -> Result<BTreeMap<i64, String>, Wrong> {
    let mut texts = BTreeMap::new();
    for (key, text) in BTreeMap::<String, String>::from_toml(value)? {
        let number = key.strip_prefix("0x").map_or_else(|| key.parse(), |hex| i64::from_str_radix(hex, 16));
        let number =
            number.map_err(|_| value.wrong(format_args!("`{key}` is not a whole number, such as 1 or 0x10")))?;
        if texts.values().any(|other| *other == text) || texts.insert(number, text.clone()).is_some() {
            return Err(value.wrong(format_args!("`{key}` = `{text}`: each number and each text can stand here once")));
        }
    }
    Ok(texts)
}
