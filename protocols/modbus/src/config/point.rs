//! One `[[modbus.device.point]]`.

use std::time::Duration;

use fieldgate_protocol::{Access, Point, Report};
use fieldgate_types::{Located, Section, Wrong};

use super::interval;
use crate::address::Address;
use crate::codec::{Codec, Kind, Order};
use crate::plan::{Extent, Limits};

/// A point: what the gateway knows of it, where it lies and how it is read.
#[derive(Debug, Clone, PartialEq)]
pub struct PointConfig {
    /// Name, access, range and reporting: what all protocols share.
    pub point: Point,
    /// Where it lies.
    pub at: Address,
    /// How its registers are read.
    pub codec: Codec,
    /// How often it is read.
    pub interval: Duration,
}

impl PointConfig {
    /// Reads the table; what is absent comes from the device.
    pub(super) fn read(section: &Section, default: Duration, report: &Report, limits: Limits) -> Option<Self> {
        let point = Point::read(section, report);
        let at: Option<Address> = section.required("at");
        let kind = Self::kind(section, at);
        let order = section.optional_choice("order", &Order::WORDS);
        let scale: Option<f64> = section.get("scale");
        let offset: Option<f64> = section.get("offset");
        let interval = interval(section, default);
        let (at, kind) = (at?, kind?);
        if scale == Some(0.0) {
            section.problem("scale", "`0` would make every value the same, any other number is allowed");
            return None;
        }
        if kind == Kind::Bool {
            for (key, given) in [("order", order.is_some()), ("scale", scale.is_some()), ("offset", offset.is_some())] {
                if given {
                    section.problem(key, "has no meaning for a bool, leave it out");
                }
            }
        }
        let codec = Codec::new(kind, order.unwrap_or_default(), scale.unwrap_or(1.0), offset.unwrap_or(0.0));
        if u32::from(at.offset) + u32::from(kind.width()) > 65_536 {
            let (word, width) = (kind.word(), kind.width());
            section.problem(
                "at",
                format_args!("`{at}` leaves no room for the {width} registers of {word}: the last address is 65535"),
            );
        }
        if kind.width() > limits.max_block {
            let (word, width, max_block) = (kind.word(), kind.width(), limits.max_block);
            section.problem(
                "type",
                format_args!("`{word}` takes {width} registers, more than the link's max_block = {max_block}"),
            );
        }
        let point = point?;
        Self::check_access(section, at, &codec, &point);
        Some(Self { point, at, codec, interval })
    }

    /// The type: a bit table holds bools; what registers hold must be said.
    fn kind(section: &Section, at: Option<Address>) -> Option<Kind> {
        let Some(at) = at.filter(|at| at.table.is_bits()) else {
            return section.required_with("type", kind);
        };
        let kind = if section.has("type") { section.get_with("type", kind)? } else { Kind::Bool };
        if kind != Kind::Bool {
            let (table, kind) = (at.table.word(), kind.word());
            section.problem("type", format_args!("`{kind}` can't lie in a {table}, which is one bit: bool is allowed"));
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
        if codec.kind() == Kind::Bool {
            section.problem("range", "has no meaning for a bool, leave it out");
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

/// Types of DESIGN section 6 that are still to come, and what to do until then.
const LATER: [(&str, &str); 3] =
    [("bit", "read the register as u16"), ("bcd16", "read it as u16"), ("bcd32", "read it as u32")];

fn kind(value: &Located) -> Result<Kind, Wrong> {
    let allowed = || Kind::WORDS.map(|(word, _)| word).join(", ");
    value.parse("a type such as \"u16\"", |text| {
        if let Some((_, kind)) = Kind::WORDS.into_iter().find(|(word, _)| *word == text) {
            return Ok(kind);
        }
        if let Some((_, instead)) = LATER.into_iter().find(|(later, _)| *later == text) {
            return Err(format!("`{text}` is a type that this version of the driver can't read: {instead}"));
        }
        let length = text.strip_prefix("string:").map(str::parse::<u16>);
        if matches!(length, Some(Ok(1..))) {
            return Err(format!("`{text}` is a type that this version of the driver can't read: leave the point out"));
        }
        Err(format!("`{text}` is not a type, {} is allowed", allowed()))
    })
}
