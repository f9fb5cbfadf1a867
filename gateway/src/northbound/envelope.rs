//! The JSON around a payload: the envelope of DESIGN section 5, and the lines of a batch, which are envelopes with what
//! MQTT would carry beside them. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fieldgate_store::Record;
use serde::de::IgnoredAny;

use super::dialect::whole_seconds;
use crate::pipeline::record::{HISTORY, Upbound};

/// `{"v":1,"seq","boot","ts","hist"?,"id"?,"json"|"text"|"base64": payload}`. Valid JSON goes in byte for byte: a
/// number that a float can't hold stays as it is.
pub(super) fn wrap(record: &Record, message: &Upbound<'_>) -> Vec<u8> {
    let mut out = String::with_capacity(message.payload.len() + 192);
    out.push_str(r#"{"v":1"#);
    put_numbers(&mut out, record);
    if record.replayed || message.is_history() {
        out.push_str(r#","hist":true"#);
    }
    if let Some(id) = message.identity {
        put_text(&mut out, r#","id":"#, id);
    }
    put_payload(&mut out, message.payload, Breaks::Kept);
    out.push('}');
    out.into_bytes()
}

/// One line of a batch, its line break included (`gateway/docs/batches.md`). What is the same in each line of a device stands first:
/// it compresses to next to nothing.
pub(super) fn put_line(out: &mut String, record: &Record, message: &Upbound<'_>) {
    out.push_str(r#"{"v":1"#);
    put_text(out, r#","device":"#, record.header.device.as_str());
    put_text(out, r#","topic":"#, message.destination.topic());
    if let Some(id) = message.identity {
        put_text(out, r#","id":"#, id);
    }
    if let Some(content_type) = message.content_type {
        put_text(out, r#","content_type":"#, content_type);
    }
    if message.utf8 {
        out.push_str(r#","utf8":true"#);
    }
    let own_mark = message.is_history();
    let user = message.user.iter().filter(|pair| !(own_mark && **pair == HISTORY));
    let mut before = r#","user":[["#;
    for (key, value) in user {
        put_text(out, before, key);
        put_text(out, ",", value);
        out.push(']');
        before = ",[";
    }
    if before == ",[" {
        out.push(']');
    }
    if let Some(correlation) = message.correlation {
        put_base64(out, r#","correlation":"#, correlation);
    }
    if let Some(remaining) = record.remaining {
        put_number(out, r#","expiry":"#, u64::from(whole_seconds(remaining)));
    }
    if record.replayed || own_mark {
        out.push_str(r#","hist":true"#);
    }
    put_numbers(out, record);
    put_payload(out, message.payload, Breaks::Spaces);
    out.push_str("}\n");
}

fn put_numbers(out: &mut String, record: &Record) {
    let header = &record.header;
    put_number(out, r#","seq":"#, header.seq);
    put_number(out, r#","boot":"#, header.boot);
    put_number(out, r#","ts":"#, header.time.0);
}

/// What becomes of line breaks in JSON. They stand between its tokens: within a string they would have to be escaped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Breaks {
    Kept,
    Spaces,
}

fn put_payload(out: &mut String, payload: &[u8], breaks: Breaks) {
    // IgnoredAny skips strings without looking at their encoding, so UTF-8 is asked first.
    match std::str::from_utf8(payload) {
        Ok(text) if serde_json::from_str::<IgnoredAny>(text).is_ok() => {
            out.push_str(r#","json":"#);
            let text = text.trim_ascii();
            if breaks == Breaks::Spaces && text.bytes().any(|byte| matches!(byte, b'\n' | b'\r')) {
                out.extend(text.chars().map(|c| if matches!(c, '\n' | '\r') { ' ' } else { c }));
            } else {
                out.push_str(text);
            }
        }
        Ok(text) => put_text(out, r#","text":"#, text),
        Err(_) => put_base64(out, r#","base64":"#, payload),
    }
}

fn put_number(out: &mut String, key: &str, number: u64) {
    out.push_str(key);
    out.push_str(&number.to_string());
}

fn put_base64(out: &mut String, key: &str, bytes: &[u8]) {
    out.push_str(key);
    out.push('"');
    STANDARD.encode_string(bytes, out);
    out.push('"');
}

/// A JSON string (RFC 8259 section 7).
fn put_text(out: &mut String, key: &str, text: &str) {
    out.push_str(key);
    out.push('"');
    let mut rest = text;
    while let Some(at) = rest.bytes().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)) {
        let (plain, marked) = rest.split_at(at);
        out.push_str(plain);
        let mut marked = marked.chars();
        match marked.next() {
            Some('"') => out.push_str("\\\""),
            Some('\\') => out.push_str("\\\\"),
            Some('\n') => out.push_str("\\n"),
            Some('\r') => out.push_str("\\r"),
            Some('\t') => out.push_str("\\t"),
            Some(control) => {
                let code = u32::from(control);
                out.push_str("\\u00");
                out.extend([code >> 4, code & 15].into_iter().filter_map(|digit| char::from_digit(digit, 16)));
            }
            None => {}
        }
        rest = marked.as_str();
    }
    out.push_str(rest);
    out.push('"');
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use fieldgate_store::{Header, Lane, RecordId};
    use fieldgate_types::{DeviceId, UnixMillis};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::pipeline::record::Destination;

    fn record(replayed: bool, remaining: Option<Duration>) -> Record {
        let device = DeviceId::new("press-1").unwrap();
        let time = UnixMillis(1_800_000_000_123);
        let header = Header { device, lane: Lane::Live, boot: 3, seq: 42, time, expires: None };
        Record { id: RecordId(1), header, body: Bytes::new(), replayed, remaining }
    }

    fn message(payload: &[u8]) -> Upbound<'_> {
        Upbound {
            destination: Destination::Local("devices/press-1/telemetry/t"),
            payload,
            retain: false,
            content_type: None,
            utf8: false,
            correlation: None,
            user: Vec::new(),
            identity: None,
        }
    }

    fn line(record: &Record, message: &Upbound<'_>) -> String {
        let mut out = String::new();
        put_line(&mut out, record, message);
        let line = out.strip_suffix('\n').unwrap();
        assert!(!line.contains(['\n', '\r']), "{line}");
        line.to_owned()
    }

    #[test]
    fn a_plain_message_has_a_short_line() {
        let line = line(&record(false, None), &message(b"12.5"));
        let expected = r#"{"v":1,"device":"press-1","topic":"devices/press-1/telemetry/t","seq":42,"boot":3,"ts":1800000000123,"json":12.5}"#;
        assert_eq!(line, expected);
    }

    #[test]
    fn a_line_carries_everything_that_mqtt_5_would() {
        let mut full = message(b"\xff");
        (full.content_type, full.utf8, full.correlation) = (Some("text/csv"), true, Some(&[1, 2][..]));
        (full.user, full.identity) = (vec![("shift", "2"), ("a\"b", "c\\d\n")], Some("ab12"));
        let line: Value = serde_json::from_str(&line(&record(true, Some(Duration::from_millis(1500))), &full)).unwrap();
        let expected = json!({
            "v": 1, "device": "press-1", "topic": "devices/press-1/telemetry/t", "id": "ab12", "content_type": "text/csv",
            "utf8": true, "user": [["shift", "2"], ["a\"b", "c\\d\n"]], "correlation": "AQI=", "expiry": 2, "hist": true,
            "seq": 42, "boot": 3, "ts": 1_800_000_000_123_u64, "base64": "/w==",
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn our_own_mark_of_history_is_no_property_of_the_devices() {
        let mut own = message(b"1");
        own.user.push(HISTORY);
        let text = line(&record(false, None), &own);
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((json.get("user"), &json["hist"]), (None, &Value::Bool(true)), "{text}");
        own.user.push(("shift", "2"));
        let text = line(&record(false, None), &own);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["user"], json!([["shift", "2"]]));
    }

    #[test]
    fn json_of_many_lines_becomes_one_and_stays_the_same_json() {
        let pretty = "\n{\r\n  \"a\": [1,\n 2],\n  \"b\": \"x\\ny\"\n}\n";
        let line: Value = serde_json::from_str(&line(&record(false, None), &message(pretty.as_bytes()))).unwrap();
        assert_eq!(line["json"], serde_json::from_str::<Value>(pretty).unwrap());
    }

    proptest! {
        #[test]
        fn whatever_is_sent_can_be_read_from_its_line(payload: Vec<u8>, text in any::<Option<String>>(), topic: String, user: Vec<(String, String)>) {
            let payload = text.map_or(payload, String::into_bytes);
            let mut sent = message(&payload);
            sent.destination = Destination::Local(&topic);
            sent.user = user.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            let line: Value = serde_json::from_str(&line(&record(false, None), &sent)).unwrap();
            prop_assert_eq!(line["topic"].as_str(), Some(topic.as_str()));
            let read: Vec<(String, String)> = line.get("user").map_or_else(Vec::new, |user| serde_json::from_value(user.clone()).unwrap());
            prop_assert_eq!(read, user);
            if let Some(json) = line.get("json") {
                prop_assert_eq!(json, &serde_json::from_slice::<Value>(&payload).unwrap());
            } else if let Some(text) = line.get("text") {
                prop_assert_eq!(text.as_str().unwrap().as_bytes(), &payload);
            } else {
                prop_assert_eq!(STANDARD.decode(line["base64"].as_str().unwrap()).unwrap(), payload);
            }
        }
    }
}
