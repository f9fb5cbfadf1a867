//! `[[broker.map]]`: topics of devices whose firmware can't change, as streams of their telemetry.

use std::collections::BTreeSet;

use fieldgate_broker::topic;
use fieldgate_types::{DeviceId, Section};

use super::policy::{Who, parse_who};
use crate::pipeline::topic::{is_free, telemetry};

/// One `[[broker.map]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    /// Whose messages.
    pub who: Who,
    /// On which topic; `{device}` stands for the id of whoever publishes. A last level `#` stands for what is added to
    /// the stream.
    pub topic: String,
    /// Into which stream of the device's telemetry.
    pub stream: String,
    /// Where it stands: file and line.
    pub at: String,
}

impl Map {
    /// Reads a `[[broker.map]]`; `groups` are the names that exist.
    pub fn read(section: &Section, groups: &BTreeSet<String>) -> Option<Self> {
        let whose = |text: &str| parse_who(text, groups);
        let who = if section.has("who") {
            section.get_with("who", |value| value.parse("whose messages they are", whose))
        } else {
            Some(Who::Everybody)
        };
        let topic = section.required_with("topic", |value| value.parse("a topic", parse_topic));
        let stream = section.required_with("stream", |value| value.parse("a stream", parse_stream));
        Some(Self { who: who?, topic: topic?, stream: stream?, at: section.place_text() })
    }

    /// Where a message of `id` on `published` goes on, when this is about it.
    pub fn apply(&self, id: &str, published: &str) -> Option<String> {
        let wanted = self.topic.replace("{device}", id);
        let rest = match wanted.strip_suffix('#') {
            None => (published == wanted).then_some("")?,
            Some("") => published,
            Some(tree) => match published.strip_prefix(tree) {
                Some(rest) => rest,
                // `a/#` stands for `a` too, as in a filter.
                None => (tree.strip_suffix('/') == Some(published)).then_some("")?,
            },
        };
        let stream = if rest.is_empty() { self.stream.clone() } else { format!("{}/{rest}", self.stream) };
        Some(telemetry(&DeviceId::new(id).ok()?, &stream))
    }
}

fn parse_topic(text: &str) -> Result<String, String> {
    let example = text.replace("{device}", "id");
    topic::check_filter(&example).map_err(|error| format!("`{text}` is not a topic: {error}"))?;
    if example.contains('+') {
        return Err(format!(
            "`{text}`: only a last level `#` may be a wildcard, what it stands for is added to the stream"
        ));
    }
    if !is_free(&example) {
        return Err(format!("`{text}` has a meaning already: topics outside devices/, modules/ and $… can be mapped"));
    }
    Ok(text.to_owned())
}

fn parse_stream(text: &str) -> Result<String, String> {
    match topic::check_name(text) {
        Ok(()) if text.split('/').all(|level| !level.is_empty()) => Ok(text.to_owned()),
        _ => Err(format!("`{text}` is not a stream: levels divided by `/`, none empty, without + and #")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(topic: &str, stream: &str) -> Map {
        let (topic, stream) = (parse_topic(topic).unwrap(), parse_stream(stream).unwrap());
        Map { who: Who::Everybody, topic, stream, at: "gateway.toml:1".to_owned() }
    }

    #[test]
    fn maps_a_topic_or_a_tree() {
        let one = map("plant/{device}/temp", "temperature");
        assert_eq!(one.apply("a", "plant/a/temp").as_deref(), Some("devices/a/telemetry/temperature"));
        assert_eq!(one.apply("a", "plant/b/temp"), None);
        assert_eq!(one.apply("a", "plant/a/temp/x"), None);
        let tree = map("plant/{device}/#", "raw");
        assert_eq!(tree.apply("a", "plant/a/x/y").as_deref(), Some("devices/a/telemetry/raw/x/y"));
        assert_eq!(tree.apply("a", "plant/a").as_deref(), Some("devices/a/telemetry/raw"));
        assert_eq!(tree.apply("a", "plant/ab/x"), None);
        assert_eq!(map("#", "all").apply("a", "x").as_deref(), Some("devices/a/telemetry/all/x"));
    }

    #[test]
    fn refuses_what_has_a_meaning() {
        for bad in ["devices/{device}/telemetry/t", "devices/#", "$SYS/#", "modules/x", "a/+/b", "a/#/b", ""] {
            assert!(parse_topic(bad).is_err(), "{bad}");
        }
        for bad in ["", "a//b", "a/#", "+", "/a"] {
            assert!(parse_stream(bad).is_err(), "{bad}");
        }
    }
}
