//! Looking at a server: the tree below a node, and the point list that comes of it.
//!
//! Owns a session of its own, opened as configured and closed at the end. Goes level by level, along hierarchical
//! references, with the server's limits; a node is visited once, wherever it is referred to, and the size of the tree
//! is bounded.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use fieldgate_types::Clock;
use opcua::types::{
    AttributeId, BrowseDescription, BrowseDirection, BrowseResult, ByteString, DataTypeId, DataValue, NodeClass,
    NodeId, ObjectId, ReadValueId, ReferenceTypeId, StatusCode, TimestampsToReturn, Variant,
};
use serde::Serialize;
use thiserror::Error;

use crate::config::OpcuaConfig;
use crate::connect::Connection;
use crate::fault::{self, Fault};
use crate::node::{NodeName, written};
use crate::pki::Pki;
use crate::server::{Server, read_id, too_much};
use crate::subtree::{Names, Template};

/// Nodes whose references are asked for in one request at most.
const BROWSE_CHUNK: usize = 100;
/// References of a node in one answer; the rest comes with further requests.
const REFERENCES: u32 = 1000;
/// Bits of the results that are wanted: node class, browse name (OPC 10000-4 section 7.7).
const RESULT_MASK: u32 = 0b00_1100;

/// A server can't be looked at.
#[derive(Debug, Error)]
pub enum BrowseError {
    /// There is no session, or it broke.
    #[error("{0}")]
    Session(String),
    /// There is no such node.
    #[error("the server has no node `{0}`")]
    NoNode(String),
}

impl From<Fault> for BrowseError {
    fn from(fault: Fault) -> Self {
        Self::Session(fault.to_string())
    }
}

/// What is below a node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tree {
    /// The nodes, each after its parent and before its next sibling.
    pub nodes: Vec<Found>,
    /// Whether there is more than was asked for.
    pub cut: bool,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Found {
    /// As it is written in a configuration.
    pub node: String,
    /// How far below the first one.
    pub depth: usize,
    /// Its browse name.
    pub name: String,
    /// Its browse name after those of the nodes between the first one and it.
    pub path: Vec<String>,
    /// `Object`, `Variable`, `Method`, …
    pub class: String,
    /// The data type of a variable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_type: Option<String>,
    /// Whether this user may write the variable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writable: Option<bool>,
    #[serde(skip)]
    children: Vec<usize>,
    #[serde(skip)]
    pub(crate) id: NodeId,
}

/// How much of a server is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Levels below the first node.
    pub depth: usize,
    /// Nodes in all.
    pub nodes: usize,
}

/// Looks at what is below `start`, the Objects folder when absent; that without the server's own diagnostics.
pub async fn browse(
    config: &OpcuaConfig,
    pki_dir: &Path,
    start: Option<&NodeName>,
    extent: Extent,
    clock: &Arc<dyn Clock>,
) -> Result<Tree, BrowseError> {
    let connection = Connection::open(config, &Pki::new(pki_dir.to_owned()), clock).await?;
    let tree = match Server::ask(connection.session.clone()).await {
        Ok(server) => below(&server, start, extent).await,
        Err(fault) => Err(fault.into()),
    };
    connection.close().await;
    tree
}

/// The same in a session that is open.
pub(crate) async fn below(server: &Server, start: Option<&NodeName>, extent: Extent) -> Result<Tree, BrowseError> {
    let first = match start {
        None => ObjectId::ObjectsFolder.into(),
        Some(name) => {
            let found = server.resolve(name).await?;
            found.ok_or_else(|| BrowseError::NoNode(name.to_string()))?
        }
    };
    let mut walk = Walk { server, nodes: Vec::new(), seen: BTreeSet::new(), cut: false, extent };
    let all = first == ObjectId::ObjectsFolder;
    walk.first(first, start).await?;
    if all {
        // Hundreds of nodes that nobody looks for; named, they are shown.
        walk.seen.insert(NodeId::from(ObjectId::Server).to_string());
    }
    walk.go().await?;
    walk.describe().await?;
    Ok(Tree { cut: walk.cut, nodes: in_order(walk.nodes) })
}

struct Walk<'a> {
    server: &'a Server,
    nodes: Vec<Found>,
    seen: BTreeSet<String>,
    cut: bool,
    extent: Extent,
}

impl Walk<'_> {
    async fn first(&mut self, id: NodeId, start: Option<&NodeName>) -> Result<(), BrowseError> {
        let attributes = [AttributeId::NodeClass, AttributeId::BrowseName];
        let ids: Vec<ReadValueId> = attributes.map(|attribute| read_id(id.clone(), attribute)).into();
        let read = self.server.session().read(&ids, TimestampsToReturn::Neither, 0.0);
        let mut read = self.server.session().ask("reading the first node", read).await?.into_iter();
        let class = read.next().unwrap_or_default();
        let Some(Variant::Int32(class)) = class.value else {
            return Err(BrowseError::NoNode(start.map_or_else(|| id.to_string(), ToString::to_string)));
        };
        let name = match read.next().and_then(|name| name.value) {
            Some(Variant::QualifiedName(name)) => name.name.as_ref().to_owned(),
            _ => id.to_string(),
        };
        let class = NodeClass::try_from(class).unwrap_or(NodeClass::Unspecified);
        self.add(id, name, class, None);
        Ok(())
    }

    fn add(&mut self, id: NodeId, name: String, class: NodeClass, parent: Option<usize>) {
        if !self.seen.insert(id.to_string()) {
            return;
        }
        if self.nodes.len() >= self.extent.nodes {
            self.cut = true;
            return;
        }
        let place = self.nodes.len();
        let (mut path, mut depth) = (Vec::new(), 0);
        if let Some(parent) = parent.and_then(|parent| self.nodes.get_mut(parent)) {
            parent.children.push(place);
            (path, depth) = (parent.path.clone(), parent.depth + 1);
            path.push(name.clone());
        }
        let node = written(&id, &self.server.namespaces);
        let class = format!("{class:?}");
        self.nodes.push(Found {
            node,
            depth,
            name,
            path,
            class,
            data_type: None,
            writable: None,
            children: Vec::new(),
            id,
        });
    }

    /// Level by level: what was found last is looked at next.
    async fn go(&mut self) -> Result<(), BrowseError> {
        let mut begin = 0;
        let mut chunk = BROWSE_CHUNK.min(self.server.browse_chunk);
        while begin < self.nodes.len() {
            let end = self.nodes.len().min(begin + chunk);
            let part: Vec<(usize, NodeId)> = self
                .nodes
                .iter()
                .enumerate()
                .take(end)
                .skip(begin)
                .filter(|(_, node)| node.class != "Method")
                .map(|(place, node)| (place, node.id.clone()))
                .collect();
            let deep = |(place, _): &(usize, NodeId)| {
                self.nodes.get(*place).is_some_and(|node| node.depth >= self.extent.depth)
            };
            let (deepest, part): (Vec<_>, Vec<_>) = part.into_iter().partition(deep);
            // A leaf of the tree that is a variable has properties at most: no reason to speak of more.
            self.cut |= deepest.iter().any(|(place, _)| self.nodes.get(*place).is_some_and(|n| n.class == "Object"));
            if !part.is_empty() {
                match self.references(&part).await {
                    // One after the other, each has the server's last continuation point for itself.
                    Ok(refused) => {
                        for one in refused {
                            self.cut |= !self.references(&[one]).await?.is_empty();
                        }
                    }
                    Err(Fault::Status { status, .. }) if too_much(status) && chunk > 1 => {
                        chunk /= 2;
                        continue;
                    }
                    Err(fault) => return Err(fault.into()),
                }
            }
            begin = end;
        }
        Ok(())
    }

    /// Adds what the nodes of `part` refer to; gives those for which the server had no continuation point left.
    async fn references(&mut self, part: &[(usize, NodeId)]) -> Result<Vec<(usize, NodeId)>, Fault> {
        let describe = |(_, id): &(usize, NodeId)| BrowseDescription {
            node_id: id.clone(),
            browse_direction: BrowseDirection::Forward,
            reference_type_id: ReferenceTypeId::HierarchicalReferences.into(),
            include_subtypes: true,
            node_class_mask: 0,
            result_mask: RESULT_MASK,
        };
        let wanted: Vec<BrowseDescription> = part.iter().map(describe).collect();
        let mut places: Vec<usize> = part.iter().map(|(place, _)| *place).collect();
        let session = self.server.session();
        let mut results = session.ask("browsing", session.browse(&wanted, REFERENCES, None)).await?;
        let mut refused = Vec::new();
        loop {
            let short = |(result, _): &(&BrowseResult, _)| result.status_code == StatusCode::BadNoContinuationPoints;
            let short = results.iter().zip(&places).filter(short).map(|(_, place)| *place);
            refused.extend(short.filter_map(|place| part.iter().find(|(other, _)| *other == place)).cloned());
            let more = self.take(&places, results);
            if more.is_empty() {
                return Ok(refused);
            }
            let points: Vec<ByteString>;
            (places, points) = more.into_iter().unzip();
            // What is not wanted any more is given back, so that the server doesn't keep it.
            let release = self.cut;
            results = session.ask("browsing on", session.browse_next(release, &points)).await?;
            if release {
                return Ok(refused);
            }
        }
    }

    /// Adds what was found; where there is more, and how to ask for it.
    fn take(&mut self, places: &[usize], results: Vec<BrowseResult>) -> Vec<(usize, ByteString)> {
        let mut more = Vec::new();
        for (place, result) in places.iter().zip(results) {
            for reference in result.references.into_iter().flatten() {
                if reference.node_id.server_index == 0 && !is_property(&reference.reference_type_id) {
                    let name = reference.browse_name.name.as_ref().to_owned();
                    self.add(reference.node_id.node_id, name, reference.node_class, Some(*place));
                }
            }
            if !result.continuation_point.is_null() {
                more.push((*place, result.continuation_point));
            }
        }
        more
    }

    /// Types and rights of the variables.
    async fn describe(&mut self) -> Result<(), BrowseError> {
        let variables: Vec<usize> = self
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| node.class == "Variable")
            .map(|(place, _)| place)
            .collect();
        let attributes = [AttributeId::DataType, AttributeId::UserAccessLevel];
        for part in variables.chunks((self.server.chunk / attributes.len()).max(1)) {
            let node = |place: &usize| self.nodes.get(*place).map(|node| node.id.clone());
            let ids: Vec<ReadValueId> = part
                .iter()
                .filter_map(node)
                .flat_map(|id| attributes.map(|attribute| read_id(id.clone(), attribute)))
                .collect();
            let read = self.server.session().read(&ids, TimestampsToReturn::Neither, 0.0);
            let mut read = self.server.session().ask("reading the types", read).await?.into_iter();
            for place in part {
                let (data_type, level) = (read.next().unwrap_or_default(), read.next().unwrap_or_default());
                let data_type = type_name(data_type, &self.server.namespaces);
                let Some(node) = self.nodes.get_mut(*place) else { continue };
                node.data_type = data_type;
                // Bit 1: CurrentWrite (OPC 10000-3 section 8.57).
                node.writable = matches!(level.value, Some(Variant::Byte(level)) if level & 2 != 0).into();
            }
        }
        Ok(())
    }
}

fn is_property(reference: &NodeId) -> bool {
    *reference == ReferenceTypeId::HasProperty
}

fn type_name(data: DataValue, namespaces: &[String]) -> Option<String> {
    if let Some(Variant::NodeId(id)) = data.value {
        return Some(id.as_data_type_id().map_or_else(|_| written(&id, namespaces), |known| format!("{known:?}")));
    }
    let status = data.status.unwrap_or(StatusCode::Good);
    status.is_bad().then(|| fault::name(status).to_owned())
}

/// From level by level to each after its parent.
fn in_order(mut nodes: Vec<Found>) -> Vec<Found> {
    let mut order = Vec::with_capacity(nodes.len());
    let mut stack = vec![0];
    while let Some(place) = stack.pop() {
        let Some(node) = nodes.get_mut(place) else { continue };
        stack.extend(std::mem::take(&mut node.children).into_iter().rev());
        order.push(node.clone());
    }
    order
}

/// Types that have no form as a value of a point.
fn unfit(data_type: &str) -> bool {
    [DataTypeId::NodeId, DataTypeId::ExpandedNodeId, DataTypeId::DiagnosticInfo]
        .iter()
        .any(|id| format!("{id:?}") == data_type)
}

impl Tree {
    /// The tree for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for found in &self.nodes {
            let indent = "  ".repeat(found.depth);
            let access = if found.writable == Some(true) { " rw" } else { "" };
            let kind = found.data_type.as_ref().unwrap_or(&found.class);
            // Writing to a String can't fail.
            let _written = writeln!(text, "{indent}{}  {}  {kind}{access}", visible(&found.name), visible(&found.node));
        }
        text
    }

    /// The variables that can be points.
    pub(crate) fn variables(&self) -> impl Iterator<Item = &Found> {
        let variables = self.nodes.iter().filter(|found| found.class == "Variable");
        variables.filter(|found| !found.data_type.as_deref().is_some_and(unfit))
    }

    /// The variables as the `[[point]]` tables of a `points_from` file. `template` makes their names. A name that is
    /// taken, or can't be one, gets a number.
    pub fn points(&self, template: &Template) -> String {
        let mut text = String::new();
        let mut names = Names::default();
        for found in self.variables() {
            let (name, _) = template.name(found, &mut names);
            let _written = write!(text, "[[point]]\nname = {}\nnode = {}\n", quoted(&name), quoted(&found.node));
            if found.writable == Some(true) {
                text.push_str("# access = \"rw\"\n");
            }
            text.push('\n');
        }
        text
    }
}

/// What came from a server and goes to a terminal.
fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn quoted(text: &str) -> String {
    // A JSON string without control characters is a TOML basic string.
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, path: &[&str], class: &str) -> Found {
        Found {
            node: format!("nsu=urn:a;s={name}\""),
            depth: path.len(),
            name: name.to_owned(),
            path: path.iter().map(|part| (*part).to_owned()).collect(),
            class: class.to_owned(),
            data_type: (class == "Variable").then(|| "Double".to_owned()),
            writable: Some(name == "b"),
            children: Vec::new(),
            id: NodeId::null(),
        }
    }

    #[test]
    fn a_point_list_has_a_name_of_its_own_for_each_variable() {
        let nodes = vec![
            found("top", &[], "Object"),
            found("b", &["x", "b"], "Variable"),
            found("b", &["y", "b"], "Variable"),
            found("m", &["m"], "Method"),
        ];
        let tree = Tree { nodes, cut: false };
        let by_path = tree.points(&Template::default());
        assert!(by_path.contains("name = \"x.b\"") && by_path.contains("name = \"y.b\""), "{by_path}");
        assert!(by_path.contains(r#"node = "nsu=urn:a;s=b\"""#), "{by_path}");
        assert_eq!(by_path.matches("[[point]]").count(), 2);
        let by_name = tree.points(&"line-{name}".parse().unwrap());
        assert!(by_name.contains("name = \"line-b\"\n") && by_name.contains("name = \"line-b~2\"\n"), "{by_name}");
        assert_eq!(tree.text().lines().nth(1), Some("    b  nsu=urn:a;s=b\"  Double rw"));
    }

    #[test]
    fn what_is_shown_has_no_control_characters() {
        assert_eq!(visible("a\u{1b}b"), "a\u{fffd}b");
    }
}
