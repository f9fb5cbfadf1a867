//! The dialect `native` of DESIGN section 5: records as upstream messages, upstream topics as commands. Pure: no IO,
//! no clock.

use std::borrow::Cow;
use std::time::Duration;

use fieldgate_store::Record;
use fieldgate_types::{DeviceId, UnixMillis};
use serde_json::json;

use super::client::Wanted;
use super::config::{Protocol, UpstreamConfig};
use super::envelope::wrap;
use super::packet::{Packet, Properties, Text};
use crate::pipeline::record::{Destination, HISTORY, Upbound};
use crate::pipeline::topic::{LocalTopic, is_free};
use crate::pipeline::tree::Tree;

/// What is fixed about topics and payloads by the configuration.
#[derive(Debug, Clone)]
pub(super) struct Dialect {
    /// `{root}/{gateway}/`
    prefix: String,
    envelope: bool,
    v5: bool,
    fetches: Vec<Tree>,
}

/// What a topic that came down stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Downward {
    /// `devices/{device}/commands/{name}[/{rid}]`
    Command {
        /// For whom.
        device: DeviceId,
        /// What.
        name: String,
        /// Request id.
        rid: Option<String>,
    },
    /// A message of a tree that is fetched.
    Fetched {
        /// On this local topic.
        topic: String,
        /// Whether it may be retained here.
        retain: bool,
    },
    /// `…/result`: an answer of our own, which a 3.1.1 upstream sends back because it lies below the subscription.
    Echo,
    /// Nothing that is defined.
    Malformed,
}

/// Name and rid together; the local topic of a command is at most 1 KiB.
const MAX_COMMAND_BYTES: usize = 512;

impl Dialect {
    /// As configured, for `gateway`.
    pub fn new(config: &UpstreamConfig, gateway: &DeviceId) -> Self {
        Self {
            prefix: format!("{}/{gateway}/", config.root),
            envelope: config.envelope,
            v5: config.protocol == Protocol::V5,
            fetches: config.fetches.clone(),
        }
    }

    /// Whether properties exist.
    pub fn v5(&self) -> bool {
        self.v5
    }

    /// `record`, whose body is `message`, as it goes on the wire.
    pub fn upward<'a>(&'a self, record: &Record, message: Upbound<'a>) -> Packet<'a> {
        let (topic, wraps) = match message.destination {
            Destination::Local(topic) => {
                let wraps = self.envelope
                    && matches!(LocalTopic::parse(topic), LocalTopic::Telemetry { .. } | LocalTopic::Result { .. });
                ([&*self.prefix, topic], wraps)
            }
            Destination::Absolute(topic) => (["", topic], false),
        };
        let properties = if self.v5 {
            let mut user = Vec::with_capacity(message.user.len() + 5);
            user.extend(message.user.iter().map(|&(key, value)| (key, Text::from(value))));
            user.push(("fg-seq", record.header.seq.into()));
            user.push(("fg-boot", record.header.boot.into()));
            user.push(("fg-ts", record.header.time.0.into()));
            if record.replayed && !message.is_history() {
                user.push((HISTORY.0, HISTORY.1.into()));
            }
            if let Some(id) = message.identity {
                user.push(("fg-id", id.into()));
            }
            Properties {
                // The envelope is JSON text, whatever is in it.
                utf8: message.utf8 || wraps,
                content_type: if wraps { Some("application/json") } else { message.content_type },
                expiry: record.remaining.map(whole_seconds),
                correlation: message.correlation,
                user,
            }
        } else {
            Properties::default()
        };
        let payload = if wraps { Cow::Owned(wrap(record, &message)) } else { Cow::Borrowed(message.payload) };
        Packet { topic, payload, retain: message.retain, properties }
    }

    /// Whether `message` may travel in a batch: telemetry, and what is forwarded below our own root. Whoever waits for
    /// anything else finds it on its own topic, as without batches.
    pub fn batched(message: &Upbound<'_>) -> bool {
        let Destination::Local(topic) = message.destination else { return false };
        let telemetry = |rest: &str| rest.split_once('/').is_some_and(|(_, kind)| kind.starts_with("telemetry/"));
        !message.retain && topic.strip_prefix("devices/").map_or_else(|| is_free(topic), telemetry)
    }

    /// The lines of many messages, compressed.
    pub fn batch<'a>(&'a self, payload: &'a [u8]) -> Packet<'a> {
        let properties = if self.v5 {
            let user = vec![("fg-batch", "1".into())];
            Properties { content_type: Some("application/zstd"), user, ..Properties::default() }
        } else {
            Properties::default()
        };
        Packet { topic: [&self.prefix, "batch"], payload: Cow::Borrowed(payload), retain: false, properties }
    }

    /// The commands' subscription, without which there is no connection.
    pub fn commands(&self) -> Wanted {
        Wanted { filter: format!("{}devices/+/commands/#", self.prefix), retained: false }
    }

    /// The subscriptions of what is fetched.
    pub fn fetched(&self) -> impl Iterator<Item = Wanted> {
        self.fetches.iter().map(|tree| {
            let filter = tree.absolute(&tree.filter).unwrap_or_else(|| [&self.prefix, &*tree.filter].concat());
            Wanted { filter, retained: true }
        })
    }

    /// Takes a topic apart that came down.
    pub fn downward(&self, topic: &str) -> Downward {
        self.command(topic).or_else(|| self.fetch(topic)).unwrap_or(Downward::Malformed)
    }

    fn fetch(&self, topic: &str) -> Option<Downward> {
        self.fetches.iter().find_map(|tree| {
            let local = match tree.prefix.as_deref() {
                None => topic.strip_prefix(&self.prefix)?,
                Some("") => topic,
                Some(prefix) => topic.strip_prefix(prefix)?.strip_prefix('/')?,
            };
            tree.holds(local).then(|| Downward::Fetched { topic: local.to_owned(), retain: tree.retain })
        })
    }

    fn command(&self, topic: &str) -> Option<Downward> {
        let mut levels = topic.strip_prefix(&self.prefix)?.split('/');
        if levels.next() != Some("devices") {
            return None;
        }
        let device = DeviceId::new(levels.next()?).ok()?;
        if levels.next() != Some("commands") {
            return None;
        }
        let name = levels.next().filter(|name| !name.is_empty())?;
        let rid = levels.next();
        match (rid, levels.next(), levels.next()) {
            (Some(""), ..) => return None,
            (Some(_), Some("result"), None) => return Some(Downward::Echo),
            (_, None, None) => {}
            _ => return None,
        }
        if name.len() + rid.map_or(0, str::len) > MAX_COMMAND_BYTES {
            return None;
        }
        Some(Downward::Command { device, name: name.to_owned(), rid: rid.map(str::to_owned) })
    }

    /// The retained state of the gateway; without `since` where the moment can't be known.
    pub fn state(&self, online: bool, since: Option<UnixMillis>, reason: Option<&str>) -> Packet<'_> {
        let mut state = json!({ "online": online });
        if let Some(fields) = state.as_object_mut() {
            if let Some(since) = since {
                fields.insert("since".to_owned(), since.0.into());
            }
            if let Some(reason) = reason {
                fields.insert("reason".to_owned(), reason.into());
            }
        }
        Packet {
            topic: [&self.prefix, "state"],
            payload: Cow::Owned(state.to_string().into_bytes()),
            retain: true,
            properties: Properties {
                utf8: self.v5,
                content_type: self.v5.then_some("application/json"),
                ..Properties::default()
            },
        }
    }
}

/// Rounded up, so that a message with a little life left is not sent as an expired one.
pub(super) fn whole_seconds(left: Duration) -> u32 {
    let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
    u32::try_from(seconds.max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use bytes::Bytes;
    use fieldgate_store::{Header, Lane, RecordId};
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn dialect(v5: bool, envelope: bool) -> Dialect {
        Dialect { prefix: "fieldgate/line-4/".to_owned(), envelope, v5, fetches: Vec::new() }
    }

    fn record(replayed: bool) -> Record {
        let device = DeviceId::new("press-1").unwrap();
        let time = UnixMillis(1_800_000_000_123);
        let header = Header { device, lane: Lane::Live, boot: 3, seq: 42, time, expires: None };
        let remaining = Some(Duration::from_millis(1500));
        Record { id: RecordId(1), header, body: Bytes::new(), replayed, remaining }
    }

    fn leaf<'a>(topic: &'a str, payload: &'a [u8]) -> Upbound<'a> {
        Upbound {
            destination: Destination::Local(topic),
            payload,
            retain: false,
            content_type: Some("text/csv"),
            utf8: true,
            correlation: Some(&[1, 2]),
            user: vec![("shift", "2")],
            identity: Some("ab12"),
        }
    }

    const TELEMETRY: &str = "devices/press-1/telemetry/t";

    fn enveloped(payload: &[u8]) -> Value {
        let dialect = dialect(false, true);
        let packet = dialect.upward(&record(true), leaf(TELEMETRY, payload));
        serde_json::from_slice(&packet.payload).unwrap()
    }

    #[test]
    fn a_leaf_message_travels_untouched_with_our_properties_after_its_own() {
        let dialect = dialect(true, false);
        let packet = dialect.upward(&record(true), leaf(TELEMETRY, b"a;b\xff"));
        assert_eq!(packet.topic(), "fieldgate/line-4/devices/press-1/telemetry/t");
        assert_eq!(&packet.payload[..], b"a;b\xff");
        assert!(!packet.retain);
        let p = packet.properties;
        assert_eq!((p.utf8, p.expiry, p.content_type), (true, Some(2), Some("text/csv")));
        assert_eq!(p.correlation, Some(&[1, 2][..]));
        let user: Vec<(&str, &str)> = p.user.iter().map(|(k, v)| (*k, &**v)).collect();
        let ours =
            [("fg-seq", "42"), ("fg-boot", "3"), ("fg-ts", "1800000000123"), ("fg-hist", "1"), ("fg-id", "ab12")];
        assert_eq!(user[0], ("shift", "2"));
        assert_eq!(user[1..], ours);
    }

    #[test]
    fn live_messages_and_the_gateways_own_have_fewer_properties() {
        let own = Upbound::json("devices/press-1/state", b"{}", true);
        let dialect = dialect(true, true);
        let packet = dialect.upward(&record(false), own);
        assert!(packet.retain);
        assert_eq!(&packet.payload[..], b"{}", "states are not wrapped");
        let names: Vec<&str> = packet.properties.user.iter().map(|(k, _)| *k).collect();
        assert_eq!(names, ["fg-seq", "fg-boot", "fg-ts"]);
    }

    #[test]
    fn what_is_history_by_itself_is_marked_once_and_only_when_it_is_ours() {
        let mut own = Upbound::json(TELEMETRY, b"{}", false);
        own.user.push(HISTORY);
        for replayed in [false, true] {
            let dialect = dialect(true, true);
            let packet = dialect.upward(&record(replayed), own.clone());
            let marks = packet.properties.user.iter().filter(|(key, _)| *key == "fg-hist").count();
            let json: Value = serde_json::from_slice(&packet.payload).unwrap();
            assert_eq!((marks, &json["hist"]), (1, &Value::Bool(true)));
        }
        let leaf = Upbound { user: vec![HISTORY], ..leaf(TELEMETRY, b"1") };
        assert!(!leaf.is_history(), "what a leaf says of itself is its own affair");
    }

    #[test]
    fn the_envelope_names_what_it_holds() {
        assert_eq!(
            enveloped(br#" {"a":12345678901234567890123}"#).to_string(),
            // serde_json reads the number as a float here; the bytes are checked below.
            r#"{"boot":3,"hist":true,"id":"ab12","json":{"a":1.2345678901234568e+22},"seq":42,"ts":1800000000123,"v":1}"#
        );
        assert_eq!(enveloped("12 °C".as_bytes())["text"], "12 °C");
        assert_eq!(enveloped(b"")["text"], "");
        assert_eq!(enveloped(b"\xff\x00")["base64"], "/wA=");
        // A string that is not UTF-8 is not JSON, though it looks like it.
        assert_eq!(enveloped(b"\"\xff\"")["base64"], "Iv8i");
        assert_eq!(enveloped(b"[1,2")["text"], "[1,2");
        let dialect = dialect(false, true);
        let packet = dialect.upward(&record(false), leaf(TELEMETRY, br#"{"a":12345678901234567890123}"#));
        let text = std::str::from_utf8(&packet.payload).unwrap();
        assert_eq!(
            text,
            r#"{"v":1,"seq":42,"boot":3,"ts":1800000000123,"id":"ab12","json":{"a":12345678901234567890123}}"#
        );
        assert_eq!(packet.properties, Properties::default());
    }

    #[test]
    fn the_envelope_is_for_telemetry_and_results_with_mqtt_5_too() {
        let wrapped = |topic: &str| {
            let dialect = dialect(true, true);
            let packet = dialect.upward(&record(false), leaf(topic, b"1"));
            let json: Value = serde_json::from_slice(&packet.payload).unwrap();
            let kind = packet.properties.content_type.unwrap();
            (json["json"] == 1, kind == "application/json", packet.properties.user.len())
        };
        assert_eq!(wrapped(TELEMETRY), (true, true, 5));
        assert_eq!(wrapped("devices/press-1/commands/write/7/result"), (true, true, 5));
        assert_eq!(wrapped("devices/press-1/state"), (false, false, 5));
    }

    #[test]
    fn an_absolute_topic_goes_as_it_is() {
        let mut answer = leaf("x", b"1");
        answer.destination = Destination::Absolute("cloud/answers/9");
        let dialect = dialect(true, true);
        let packet = dialect.upward(&record(false), answer);
        assert_eq!((&*packet.topic(), &packet.payload[..]), ("cloud/answers/9", &b"1"[..]));
    }

    #[test]
    fn takes_command_topics_apart() {
        let parse = |rest: &str| dialect(true, false).downward(&format!("fieldgate/line-4/{rest}"));
        let command = |name: &str, rid: Option<&str>| Downward::Command {
            device: DeviceId::new("press-1").unwrap(),
            name: name.to_owned(),
            rid: rid.map(str::to_owned),
        };
        assert_eq!(parse("devices/press-1/commands/write/7"), command("write", Some("7")));
        assert_eq!(parse("devices/press-1/commands/write"), command("write", None));
        assert_eq!(parse("devices/press-1/commands/write/result"), command("write", Some("result")));
        assert_eq!(parse("devices/press-1/commands/write/7/result"), Downward::Echo);
        for malformed in [
            "devices/press-1/commands",
            "devices/press-1/commands/",
            "devices/press-1/commands//7",
            "devices/press-1/commands/write/",
            "devices/press-1/commands/write/7/other",
            "devices/press-1/commands/write/7/result/x",
            "devices/-bad/commands/write/7",
            "devices/press-1/telemetry/t",
            "state",
        ] {
            assert_eq!(parse(malformed), Downward::Malformed, "{malformed}");
        }
        assert_eq!(parse(&format!("devices/a/commands/{}/1", "n".repeat(512))), Downward::Malformed);
        assert_eq!(dialect(true, false).downward("other/line-4/devices/a/commands/b"), Downward::Malformed);
    }

    #[test]
    fn says_whether_the_gateway_is_there() {
        let payload = |packet: Packet| String::from_utf8(packet.payload.to_vec()).unwrap();
        let d = dialect(false, true);
        assert_eq!(d.state(true, Some(UnixMillis(5)), None).topic(), "fieldgate/line-4/state");
        assert_eq!(payload(d.state(true, Some(UnixMillis(5)), None)), r#"{"online":true,"since":5}"#);
        assert_eq!(payload(d.state(false, None, Some("lost"))), r#"{"online":false,"reason":"lost"}"#);
        assert_eq!(d.commands().filter, "fieldgate/line-4/devices/+/commands/#");
    }

    proptest! {
        #[test]
        fn every_payload_comes_back_out_of_its_envelope(payload: Vec<u8>) {
            let json = enveloped(&payload);
            let back = match (&json["text"], &json["base64"]) {
                (Value::String(text), _) => text.clone().into_bytes(),
                (_, Value::String(text)) => STANDARD.decode(text).unwrap(),
                _ => return Ok(()),
            };
            prop_assert_eq!(back, payload);
        }

        #[test]
        fn no_topic_panics(topic: String) {
            let _parsed = dialect(true, false).downward(&format!("fieldgate/line-4/devices/{topic}"));
        }
    }
}
