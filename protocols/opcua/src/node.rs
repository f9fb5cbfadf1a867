//! Which node of a server a point is: `nsu=urn:plant:boiler;s=Level` or `ns=2;s=Level` (OPC 10000-6 section 5.3.1.11).
//!
//! Owns the notation and the step from namespace URI to namespace index. A URI is worth more than an index: a
//! server may number its namespaces anew at every start, so URIs are resolved at each connect.

use std::fmt;
use std::str::FromStr;

use opcua::types::{ByteString, Guid, Identifier, NodeId, UAString};
use thiserror::Error;

/// The name of a node, before its namespace is resolved.
#[derive(Clone, PartialEq)]
pub struct NodeName {
    text: String,
    space: Space,
    identifier: Identifier,
}

#[derive(Debug, Clone, PartialEq)]
enum Space {
    Index(u16),
    Uri(String),
}

/// The text names no node.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "`{0}` is not a node: \"nsu=URI;…\" or \"ns=INDEX;…\" is allowed, followed by i=NUMBER, s=TEXT, g=GUID or \
     b=BASE64, such as \"nsu=urn:plant:boiler;s=Level\" or \"ns=2;i=1001\""
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
        let (kind, value) = rest.split_once('=').ok_or_else(wrong)?;
        let identifier = match kind {
            "i" => Identifier::Numeric(value.parse().map_err(|_| wrong())?),
            "s" if !value.is_empty() => Identifier::String(UAString::from(value)),
            "g" => Identifier::Guid(Guid::from_str(value).map_err(|_| wrong())?),
            "b" if !value.is_empty() => Identifier::ByteString(ByteString::from_base64(value).ok_or_else(wrong)?),
            _ => return Err(wrong()),
        };
        Ok(Self { text: text.to_owned(), space, identifier })
    }
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
    /// The id on a server with these namespaces, in the order of its NamespaceArray; `None` when it has no such.
    pub(crate) fn resolve(&self, namespaces: &[String]) -> Option<NodeId> {
        let namespace = match &self.space {
            Space::Index(index) => *index,
            Space::Uri(uri) => u16::try_from(namespaces.iter().position(|known| known == uri)?).ok()?,
        };
        Some(NodeId { namespace, identifier: self.identifier.clone() })
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

    fn resolved(text: &str) -> Option<NodeId> {
        let namespaces = ["http://opcfoundation.org/UA/", "urn:server", "urn:a;b%c"].map(str::to_owned);
        NodeName::from_str(text).unwrap().resolve(&namespaces)
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
