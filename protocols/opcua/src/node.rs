//! Which node of a server a point is: `nsu=urn:plant:boiler;s=Level` or `ns=2;s=Level` (OPC 10000-6 section 5.3.1.11),
//! or by the names on the way to it from the Objects folder: `nsu=urn:plant:boiler;/Boiler/Level`.
//!
//! Owns the notation and the step from namespace URI to namespace index. A URI is worth more than an index: a
//! server may number its namespaces anew at every start, so URIs are resolved at each connect.

use std::fmt;
use std::str::FromStr;

use opcua::types::{
    BrowsePath, ByteString, Guid, Identifier, NodeId, ObjectId, QualifiedName, ReferenceTypeId, RelativePath,
    RelativePathElement, UAString,
};
use thiserror::Error;

/// The name of a node, before its namespace is resolved.
#[derive(Clone, PartialEq)]
pub struct NodeName {
    text: String,
    space: Space,
    goal: Goal,
}

#[derive(Debug, Clone, PartialEq)]
enum Space {
    Index(u16),
    Uri(String),
}

#[derive(Debug, Clone, PartialEq)]
enum Goal {
    Id(Identifier),
    Path(Vec<Step>),
}

/// One name on the way to a node; in a namespace of its own where it has an index.
#[derive(Debug, Clone, PartialEq)]
struct Step {
    index: Option<u16>,
    name: String,
}

/// A node as far as it is known without asking the server.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Located {
    /// Its id.
    Id(NodeId),
    /// The way to it, which the server has to go.
    Path(BrowsePath),
    /// The server has no such namespace.
    Nowhere,
}

/// The text names no node.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "`{0}` is not a node: \"nsu=URI;…\" or \"ns=INDEX;…\" is allowed, followed by i=NUMBER, s=TEXT, g=GUID or \
     b=BASE64, or by the path from the Objects folder, such as \"nsu=urn:plant:boiler;s=Level\", \"ns=2;i=1001\" or \
     \"ns=2;/Boiler/Level\""
)]
pub struct InvalidNodeName(String);

impl FromStr for NodeName {
    type Err = InvalidNodeName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || InvalidNodeName(text.chars().take(140).collect());
        let (space, rest) = if let Some(rest) = text.strip_prefix("nsu=") {
            let (uri, rest) = rest.split_once(';').ok_or_else(wrong)?;
            let uri = unescape(uri).filter(|uri| !uri.is_empty()).ok_or_else(wrong)?;
            (Space::Uri(uri), rest)
        } else if let Some(rest) = text.strip_prefix("ns=") {
            let (index, rest) = rest.split_once(';').ok_or_else(wrong)?;
            (Space::Index(index.parse().map_err(|_| wrong())?), rest)
        } else {
            // Without a namespace: that of the specification itself.
            (Space::Index(0), text)
        };
        if let Some(path) = rest.strip_prefix('/') {
            let goal = Goal::Path(steps(path).ok_or_else(wrong)?);
            return Ok(Self { text: text.to_owned(), space, goal });
        }
        let (kind, value) = rest.split_once('=').ok_or_else(wrong)?;
        let identifier = match kind {
            "i" => Identifier::Numeric(value.parse().map_err(|_| wrong())?),
            "s" if !value.is_empty() => Identifier::String(UAString::from(value)),
            "g" => Identifier::Guid(Guid::from_str(value).map_err(|_| wrong())?),
            "b" if !value.is_empty() => Identifier::ByteString(ByteString::from_base64(value).ok_or_else(wrong)?),
            _ => return Err(wrong()),
        };
        Ok(Self { text: text.to_owned(), space, goal: Goal::Id(identifier) })
    }
}

/// The names of a path: parted by `/`, each with `INDEX:` before it where its namespace is another one; `&` before a
/// character takes it as it is (OPC 10000-4 annex A.2).
fn steps(path: &str) -> Option<Vec<Step>> {
    let mut found = Vec::new();
    let mut step = Step { index: None, name: String::new() };
    let mut plain = true;
    let mut rest = path.chars();
    while let Some(c) = rest.next() {
        match c {
            '&' => {
                step.name.push(rest.next()?);
                plain = false;
            }
            '/' => {
                found.push(std::mem::replace(&mut step, Step { index: None, name: String::new() }));
                plain = true;
            }
            ':' if plain && step.index.is_none() => {
                step.index = Some(step.name.parse().ok()?);
                step.name.clear();
            }
            c => step.name.push(c),
        }
    }
    found.push(step);
    found.iter().all(|step| !step.name.is_empty()).then_some(found)
}

/// In `nsu=` a semicolon is written `%3B` and a percent sign `%25`.
fn unescape(uri: &str) -> Option<String> {
    let mut parts = uri.split('%');
    let mut plain = parts.next()?.to_owned();
    for part in parts {
        let (code, rest) = part.split_at_checked(2)?;
        plain.push(match code {
            "3B" | "3b" => ';',
            "25" => '%',
            // An older notation left percent signs alone.
            _ => {
                plain.push('%');
                plain.push_str(part);
                continue;
            }
        });
        plain.push_str(rest);
    }
    Some(plain)
}

impl NodeName {
    /// The names on the way, of one that is a path.
    pub(crate) fn steps(&self) -> Option<Vec<&str>> {
        match &self.goal {
            Goal::Id(_) => None,
            Goal::Path(steps) => Some(steps.iter().map(|step| step.name.as_str()).collect()),
        }
    }

    /// What it is on a server with these namespaces, in the order of its NamespaceArray.
    pub(crate) fn locate(&self, namespaces: &[String]) -> Located {
        let namespace = match &self.space {
            Space::Index(index) => Some(*index),
            Space::Uri(uri) => {
                namespaces.iter().position(|known| known == uri).and_then(|place| u16::try_from(place).ok())
            }
        };
        let Some(namespace) = namespace else { return Located::Nowhere };
        match &self.goal {
            Goal::Id(identifier) => Located::Id(NodeId { namespace, identifier: identifier.clone() }),
            Goal::Path(steps) => {
                let element = |step: &Step| RelativePathElement {
                    reference_type_id: ReferenceTypeId::HierarchicalReferences.into(),
                    is_inverse: false,
                    include_subtypes: true,
                    target_name: QualifiedName::new(step.index.unwrap_or(namespace), step.name.as_str()),
                };
                let elements = Some(steps.iter().map(element).collect());
                let starting_node = ObjectId::ObjectsFolder.into();
                Located::Path(BrowsePath { starting_node, relative_path: RelativePath { elements } })
            }
        }
    }
}

/// How an id is written in a configuration: with the URI of its namespace, where the server tells one.
pub(crate) fn written(id: &NodeId, namespaces: &[String]) -> String {
    let identifier = match &id.identifier {
        Identifier::Numeric(number) => format!("i={number}"),
        Identifier::String(text) => format!("s={}", text.as_ref()),
        Identifier::Guid(guid) => format!("g={guid}"),
        Identifier::ByteString(bytes) => format!("b={}", bytes.as_base64()),
    };
    match (id.namespace, namespaces.get(usize::from(id.namespace))) {
        (0, _) => identifier,
        (_, Some(uri)) if !uri.is_empty() => {
            format!("nsu={};{identifier}", uri.replace('%', "%25").replace(';', "%3B"))
        }
        (index, _) => format!("ns={index};{identifier}"),
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespaces() -> [String; 3] {
        ["http://opcfoundation.org/UA/", "urn:server", "urn:a;b%c"].map(str::to_owned)
    }

    fn resolved(text: &str) -> Option<NodeId> {
        match NodeName::from_str(text).unwrap().locate(&namespaces()) {
            Located::Id(id) => Some(id),
            Located::Path(path) => panic!("{path:?}"),
            Located::Nowhere => None,
        }
    }

    #[test]
    fn reads_the_names_on_the_way_to_a_node() {
        let names = |text: &str| match NodeName::from_str(text).unwrap().locate(&namespaces()) {
            Located::Path(path) => {
                assert_eq!(path.starting_node, NodeId::from(ObjectId::ObjectsFolder));
                let name = |element: RelativePathElement| {
                    (element.target_name.namespace_index, element.target_name.name.as_ref().to_owned())
                };
                path.relative_path.elements.unwrap().into_iter().map(name).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        };
        let of =
            |list: &[(u16, &str)]| list.iter().map(|(index, name)| (*index, (*name).to_owned())).collect::<Vec<_>>();
        assert_eq!(names("ns=2;/Boiler/Level"), of(&[(2, "Boiler"), (2, "Level")]));
        assert_eq!(names("nsu=urn:server;/0:Server/a&/b&:c&&"), of(&[(0, "Server"), (1, "a/b:c&")]));
        assert_eq!(names("/Server"), of(&[(0, "Server")]));
        for bad in ["/", "ns=1;/a//b", "/x:a", "/a&", "/a/"] {
            assert!(NodeName::from_str(bad).is_err(), "{bad}");
        }
        assert_eq!(NodeName::from_str("nsu=urn:absent;/a").unwrap().locate(&namespaces()), Located::Nowhere);
    }

    #[test]
    fn a_written_id_is_read_as_the_same_one() {
        for text in ["nsu=urn:a%3Bb%25c;s=x;y=z", "nsu=urn:server;i=7", "i=2258", "ns=9;b=AQID"] {
            assert_eq!(written(&resolved(text).unwrap(), &namespaces()), text);
        }
    }

    #[test]
    fn reads_every_kind_of_identifier() {
        assert_eq!(resolved("ns=2;s=Level"), Some(NodeId::new(2, "Level")));
        assert_eq!(resolved("i=2258"), Some(NodeId::new(0, 2258)));
        assert_eq!(resolved("nsu=urn:server;i=7"), Some(NodeId::new(1, 7)));
        assert_eq!(resolved("nsu=urn:a%3Bb%25c;s=x;y=z"), Some(NodeId::new(2, "x;y=z")));
        assert_eq!(resolved("nsu=urn:absent;i=7"), None);
        let guid = Guid::from_str("09087e75-8e5e-499b-954f-f2a9603db28a").unwrap();
        assert_eq!(resolved("ns=1;g=09087e75-8e5e-499b-954f-f2a9603db28a"), Some(NodeId::new(1, guid)));
        let bytes = ByteString::from(vec![1, 2, 3]);
        assert_eq!(resolved("ns=1;b=AQID"), Some(NodeId::new(1, bytes)));
    }

    #[test]
    fn refuses_what_names_no_node() {
        for bad in
            ["", "Level", "ns=2", "ns=2;Level", "ns=x;s=a", "ns=70000;s=a", "nsu=;s=a", "s=", "i=-1", "g=1", "b=*"]
        {
            assert!(NodeName::from_str(bad).is_err(), "{bad}");
        }
    }
}
