//! Events and alarms: what is asked of the server, and what becomes of what it tells.
//!
//! [`EventConfig`] is one `[[opcua.device.event]]`, `filter` is the request that it makes, `notice` is the way back: from the
//! fields of a notification to an event with names. Monitored items and their recovery are `live::watch`'s.

mod acknowledge;
mod filter;
mod notice;

use fieldgate_types::Section;

pub(crate) use self::acknowledge::{NAME as ACKNOWLEDGE, acknowledge};
pub(crate) use self::filter::{Asked, asked, base_alone, where_clause};
pub(crate) use self::notice::{Context, Notice, kind, notice, standard};

use crate::node::{InvalidNodeName, NodeName};

/// Events that the server keeps between two publications; an alarm flood has more than values do.
const QUEUE: u32 = 1000;
/// The Server object, whose events are those of the whole server.
const SERVER: &str = "i=2253";

/// Events of one notifier.
#[derive(Debug, Clone, PartialEq)]
pub struct EventConfig {
    /// The node whose events are wanted.
    pub node: NodeName,
    /// Their types, with subtypes; all when empty.
    pub types: Vec<NodeName>,
    /// Fields besides the usual ones, as paths of browse names.
    pub fields: Vec<NodeName>,
    /// Less severe ones are not wanted.
    pub min_severity: u16,
    /// How many the server keeps between two publications.
    pub queue: u32,
    /// Whether commands may acknowledge what is told.
    pub acknowledge: bool,
}

impl EventConfig {
    /// Reads one `[[opcua.device.event]]`.
    pub(crate) fn read(section: &Section) -> Option<Self> {
        let node: Option<NodeName> = if section.has("node") { section.get("node") } else { SERVER.parse().ok() };
        let types: Vec<NodeName> = section.get_or("types", Vec::new());
        if let Some(path) = types.iter().find(|name| name.steps().is_some()) {
            section
                .problem("types", format_args!("`{path}` is a path, the id of a type is expected, such as \"i=2915\""));
        }
        let fields = section.get_or("fields", Vec::new());
        if let Some(id) = fields.iter().find(|name: &&NodeName| name.steps().is_none()) {
            section.problem(
                "fields",
                format_args!(
                    "`{id}` is not a path of browse names, such as \"/LimitState/CurrentState\" or \"ns=2;/Batch\""
                ),
            );
        }
        let min_severity = section.number("min_severity", 1..=1000, 1);
        let queue = section.number("queue", 1..=10_000, QUEUE);
        let acknowledge = section.get_or("acknowledge", false);
        Some(Self { node: node?, types, fields, min_severity, queue, acknowledge })
    }
}

impl fieldgate_types::FromToml for NodeName {
    fn from_toml(value: &fieldgate_types::Located) -> Result<Self, fieldgate_types::Wrong> {
        value.parse("a node", |text| text.parse::<Self>().map_err(|wrong: InvalidNodeName| wrong))
    }
}
