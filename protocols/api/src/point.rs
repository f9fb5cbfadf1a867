//! Points: what a field device offers, and how it is reported. The keys that every protocol shares are read here.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use fieldgate_types::{FromToml, Section, Wrong};
use thiserror::Error;

/// The name of a point: 1 to 128 bytes of printable text, unique within its device.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PointName(Arc<str>);

/// The text is not a point name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is not a point name: 1 to 128 bytes without control characters are allowed")]
pub struct InvalidPointName(String);

impl PointName {
    /// Checks `text`.
    pub fn new(text: &str) -> Result<Self, InvalidPointName> {
        if text.is_empty() || text.len() > 128 || text.chars().any(char::is_control) {
            return Err(InvalidPointName(text.chars().take(140).collect()));
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for PointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl std::borrow::Borrow<str> for PointName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromToml for PointName {
    fn from_toml(value: &fieldgate_types::Located) -> Result<Self, Wrong> {
        value.parse("a point name", PointName::new)
    }
}

/// What may be done with a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// `"r"`
    Read,
    /// `"rw"`
    ReadWrite,
}

/// How far a value must move to be reported.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Deadband {
    /// By this much, in the point's unit.
    Absolute(f64),
    /// By this share of the last reported value, in percent.
    Percent(f64),
}

impl FromToml for Deadband {
    fn from_toml(value: &fieldgate_types::Located) -> Result<Self, Wrong> {
        let allowed = "a number ≥ 0 such as 0.5, or a percentage such as \"2%\"";
        if let Ok(absolute) = f64::from_toml(value) {
            if absolute >= 0.0 {
                return Ok(Self::Absolute(absolute));
            }
            return Err(value.wrong(format_args!("`{absolute}` is out of range, {allowed} is allowed")));
        }
        value.parse(allowed, |text| {
            let percent = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
            percent
                .filter(|percent| *percent >= 0.0 && percent.is_finite())
                .map(Self::Percent)
                .ok_or_else(|| format!("`{text}` is not a deadband, {allowed} is allowed"))
        })
    }
}

/// When a point is reported.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Report {
    /// Every reading, instead of changes alone.
    pub always: bool,
    /// A reading at least this often, changed or not.
    pub heartbeat: Duration,
    /// Smaller moves are not reported.
    pub deadband: Option<Deadband>,
}

impl Default for Report {
    fn default() -> Self {
        Self { always: false, heartbeat: Duration::from_secs(60), deadband: None }
    }
}

impl Report {
    /// Reads `report`, `heartbeat` and `deadband` of a device or point; what is absent comes from `default`.
    pub fn read(section: &Section, default: &Self) -> Self {
        let day = Duration::from_secs(86_400);
        Self {
            always: section.choice("report", &[("on-change", false), ("always", true)], default.always),
            heartbeat: section.duration("heartbeat", Duration::from_millis(100)..=day, default.heartbeat),
            deadband: section.get("deadband").or(default.deadband),
        }
    }
}

/// A point as the gateway sees it, whatever its protocol.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Its name.
    pub name: PointName,
    /// Unit, for people.
    pub unit: Option<String>,
    /// What it is, for people.
    pub description: Option<String>,
    /// The type that the device holds it in, in the words of its protocol; absent where the device alone knows.
    pub kind: Option<String>,
    /// Whether it may be written.
    pub access: Access,
    /// What may be written, both ends included, in the point's unit.
    pub range: Option<(f64, f64)>,
    /// When it is reported.
    pub report: Report,
}

impl Point {
    /// Reads `name`, `unit`, `description`, `access`, `range`, `report`, `heartbeat` and `deadband` of a `[[….point]]`.
    pub fn read(section: &Section, default: &Report) -> Option<Self> {
        let name = section.required("name");
        let access = section.choice("access", &[("r", Access::Read), ("rw", Access::ReadWrite)], Access::Read);
        let (unit, description) = (section.get("unit"), section.get("description"));
        let report = Report::read(section, default);
        let mut range = None;
        if let Some(ends) = section.get::<Vec<f64>>("range") {
            match ends.as_slice() {
                [low, high] if low <= high => range = Some((*low, *high)),
                _ => section.problem("range", "two numbers are expected, the lower one first, such as [0.0, 90.0]"),
            }
            if access == Access::Read {
                section.problem("range", "says what may be written, but the point is read-only, add access = \"rw\"");
            }
        }
        Some(Self { name: name?, unit, description, kind: None, access, range, report })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use fieldgate_types::Sources;

    use super::*;

    #[test]
    fn reads_a_point_and_locates_what_is_wrong() {
        let sources = Sources::new(Box::new(|_| Err(std::io::Error::other("none"))));
        let text = "name = \"level\"\naccess = \"rw\"\nrange = [0, 90.5]\ndeadband = \"2%\"\nheartbeat = \"10s\"";
        let point = Point::read(&sources.root("f", Path::new("."), text), &Report::default()).unwrap();
        assert_eq!(point.range, Some((0.0, 90.5)));
        assert_eq!(point.report.deadband, Some(Deadband::Percent(2.0)));
        assert_eq!(sources.problems(), []);

        let text = "access = \"w\"\nrange = [9, 1]\ndeadband = -1";
        assert_eq!(Point::read(&sources.root("f", Path::new("."), text), &Report::default()), None);
        assert_eq!(sources.problems().len(), 5, "{:?}", sources.problems());
    }
}
