//! A `[[opcua.device.subtree]]`: its variables become points when the server is browsed.
//!
//! Owns its keys and how names are made of what a server tells, for points here and for the point lists of `browse`
//! alike. A name that is given stays: `live::explore` adds points and never takes one away.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use fieldgate_protocol::{Access, Point, PointName, Report};
use fieldgate_types::{FromToml, Located, Section, Wrong};
use thiserror::Error;

use crate::browse::Found;
use crate::config::{Origin, PointConfig};
use crate::node::NodeName;
use crate::rhythm::{Rhythm, unsubscribed};

/// Points of a subtree.
const LIMIT: (u32, u32) = (1, 10_000);
/// Levels below its first node.
const DEPTH: (u32, u32) = (1, 20);
const EVERY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_hours(24));

/// The node whose variables are points, and how these are to be.
#[derive(Debug, Clone, PartialEq)]
pub struct SubtreeConfig {
    /// Where it begins.
    pub node: NodeName,
    /// How points are called.
    pub name: Template,
    /// Points that are made of it at most.
    pub limit: usize,
    /// Levels below its node, where that is said.
    pub depth: Option<usize>,
    /// How often it is looked at again within a session, besides the beginning of each.
    pub every: Option<Duration>,
    pub(crate) rhythm: Rhythm,
    report: Report,
}

impl SubtreeConfig {
    /// Reads the table; `polled`: the device has no subscription.
    pub(crate) fn read(section: &Section, device: (&Rhythm, &Report), polled: bool) -> Option<Self> {
        let node = section.required_with("node", |value| value.parse("a node", str::parse));
        let name = if section.has("name") { section.get("name") } else { Some(Template::default()) };
        let limit = section.number("limit", LIMIT.0..=LIMIT.1, 1000);
        let depth = section.has("depth").then(|| section.number("depth", DEPTH.0..=DEPTH.1, 10));
        let every = section.has("browse_every");
        let every = every.then(|| section.duration("browse_every", EVERY.0..=EVERY.1, Duration::from_mins(10)));
        let rhythm = Rhythm::read(section, device.0);
        let report = Report::read(section, device.1);
        if polled {
            unsubscribed(section, &["sampling", "queue", "trigger", "deadband_on"]);
        }
        if section.choice("access", &[("r", false), ("rw", true)], false) {
            let why = "what is found can only be read: add a [[opcua.device.point]] for each node that may be written";
            section.problem("access", why);
        }
        let count = |number| usize::try_from(number).unwrap_or(usize::MAX);
        let (limit, depth) = (count(limit), depth.map(count));
        Some(Self { node: node?, name: name?, limit, depth, every, rhythm, report })
    }

    /// The point for a variable that was found; `None` where its node can't be written down.
    pub(crate) fn point(&self, found: &Found, subtree: usize, names: &mut Names) -> Option<PointConfig> {
        let node = found.node.parse().ok()?;
        let (name, numbered) = self.name.name(found, names);
        let Rhythm { sampling, queue, history, keys } = self.rhythm;
        let mut report = self.report;
        let filter;
        (filter, report.deadband) = keys.filter(report.deadband);
        let (unit, description, kind, range) = (None, None, found.data_type.clone(), None);
        let name = PointName::new(&name).ok()?;
        let point = Arc::new(Point { name, unit, description, kind, access: Access::Read, range, report });
        let origin = Some(Origin { subtree, numbered });
        Some(PointConfig { point, node, sampling, queue, history, filter, triggered_by: None, origin })
    }
}

/// How points that are found are called: `{name}` stands for the browse name, `{path}` for the browse names from the first
/// node on, with dots between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(String);

/// The text makes no names.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidTemplate {
    /// It asks for what is not there.
    #[error("`{0}` stands for nothing in a name, {{name}} and {{path}} are allowed")]
    Field(String),
    /// It doesn't hang on the node.
    #[error("`{0}` calls all points the same, {{name}} or {{path}} is to stand in it")]
    Constant(String),
}

impl Default for Template {
    fn default() -> Self {
        Self("{path}".to_owned())
    }
}

impl FromStr for Template {
    type Err = InvalidTemplate;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut rest = text;
        while let Some((_, after)) = rest.split_once('{') {
            let Some((field, after)) = after.split_once('}') else {
                return Err(InvalidTemplate::Field(format!("{{{after}")));
            };
            if !["name", "path"].contains(&field) {
                return Err(InvalidTemplate::Field(format!("{{{field}}}")));
            }
            rest = after;
        }
        if rest.len() == text.len() {
            return Err(InvalidTemplate::Constant(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromToml for Template {
    fn from_toml(value: &Located) -> Result<Self, Wrong> {
        value.parse("a name with {name} or {path} in it", str::parse)
    }
}

impl Template {
    /// A name for `found` that nobody has yet, and whether it took a number for that.
    pub(crate) fn name(&self, found: &Found, names: &mut Names) -> (String, bool) {
        // The first node itself has no path.
        let path = if found.path.is_empty() { found.name.clone() } else { found.path.join(".") };
        // In one pass: what a server calls its nodes is no template.
        let (mut name, mut rest) = (String::new(), self.0.as_str());
        while let Some((before, after)) = rest.split_once('{') {
            let (field, after) = after.split_once('}').unwrap_or((after, ""));
            name.extend([before, if field == "name" { &found.name } else { &path }]);
            rest = after;
        }
        name.push_str(rest);
        names.free(&name)
    }
}

/// Names that are taken.
#[derive(Debug, Default)]
pub(crate) struct Names {
    taken: HashSet<String>,
    /// The next number for a name that is asked for again, so that thousands of them are not tried one after the other.
    next: HashMap<String, u32>,
}

impl Names {
    /// With these.
    pub(crate) fn of<'a>(taken: impl Iterator<Item = &'a PointName>) -> Self {
        Self { taken: taken.map(ToString::to_string).collect(), next: HashMap::new() }
    }

    /// Takes a point name: `wanted`, or `wanted~2`, `wanted~3`, … where that is taken or can't be one.
    fn free(&mut self, wanted: &str) -> (String, bool) {
        let mut plain: String = wanted.chars().filter(|c| !c.is_control()).collect();
        while plain.len() > 120 {
            plain.pop();
        }
        if PointName::new(&plain).is_ok() && self.taken.insert(plain.clone()) {
            return (plain, false);
        }
        let number = self.next.entry(plain.clone()).or_insert(2);
        loop {
            let name = format!("{plain}~{number}");
            *number += 1;
            if self.taken.insert(name.clone()) {
                return (name, true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_has_known_fields_and_at_least_one() {
        for good in ["{path}", "line-{name}", "{path} ({name})", "}{name}"] {
            assert_eq!(good.parse::<Template>().unwrap().to_string(), good);
        }
        let wrong = |text: &str| text.parse::<Template>().unwrap_err().to_string();
        assert_eq!(wrong("{path}.{unit}"), "`{unit}` stands for nothing in a name, {name} and {path} are allowed");
        assert_eq!(wrong("{name"), "`{name` stands for nothing in a name, {name} and {path} are allowed");
        assert!(wrong("{}").starts_with("`{}` stands for nothing") && wrong("").contains("all points the same"));
        assert_eq!(wrong("level"), "`level` calls all points the same, {name} or {path} is to stand in it");
    }

    #[test]
    fn names_from_a_server_are_made_fit() {
        let level = PointName::new(&"ä".repeat(60)).unwrap();
        let mut names = Names::of([&level].into_iter());
        let (name, numbered) = names.free(&"ä".repeat(200));
        assert!(PointName::new(&name).is_ok() && name.ends_with("~2") && numbered, "{name}");
        assert_eq!(names.free("\u{1b}[31m"), ("[31m".to_owned(), false));
        assert_eq!(names.free(""), ("~2".to_owned(), true));
        assert_eq!(names.free("a"), ("a".to_owned(), false));
        assert_eq!(names.free("a~2"), ("a~2".to_owned(), false));
        assert_eq!(names.free("a").0, "a~3");
        assert_eq!(names.free("a").0, "a~4");
    }
}
