//! What somebody wants a device to be, and what may be wanted.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use fieldgate_certs::Role;
use fieldgate_types::duration;

const DAY: Duration = Duration::from_secs(86_400);

/// How long certificates may be good: up to the root's own life.
pub const VALIDITY: RangeInclusive<Duration> = DAY..=Duration::from_secs(86_400 * 21_900);

/// What a device is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its role.
    pub role: Role,
    /// How long its certificates are good; as configured where nothing is said.
    pub validity: Option<Duration>,
    /// Groups that it belongs to, besides those that list it in the configuration.
    pub groups: BTreeSet<String>,
}

impl Wanted {
    /// With that role, and nothing of its own.
    pub fn as_role(role: Role) -> Self {
        Self { role, validity: None, groups: BTreeSet::new() }
    }
}

/// Reads a validity, such as `365d`; why not, in words.
pub fn parse_validity(text: &str) -> Result<Duration, String> {
    let found = duration::parse(text).map_err(|error| error.to_string())?;
    if VALIDITY.contains(&found) {
        return Ok(found);
    }
    let (least, most) = (duration::format(*VALIDITY.start()), duration::format(*VALIDITY.end()));
    Err(format!("`{text}` is out of range, \"{least}\" to \"{most}\" is allowed"))
}
