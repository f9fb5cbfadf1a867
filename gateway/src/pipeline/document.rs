//! Samples as field telemetry documents (DESIGN section 5):
//! `{"ts":ms,"values":{"name":v},"errors":{"name":"BadNoCommunication"}}`, or an array of such objects, one per
//! source time; readings without one (Modbus) share the reception time of the newest. A time stamp taken before the clock was ever right is marked with `"clock":"unset"`.
//!
//! Readings of a time when the device was away, which it has kept, are marked with `"hist":true`.
//!
//! Events likewise, in their order: `{"ts":ms,"event":{"EventType":"…"}}`, with `"refresh":true` where it is told because the
//! connection is new; `{"ts":ms,"lost":3,"reason":"…"}` where some are missing.

use std::collections::BTreeMap;

use fieldgate_protocol::{Event, Quality, Sample, Value};
use fieldgate_types::UnixMillis;
use serde_json::{Map, Value as Json, json};

/// Documents are split at this size: each stays below it unless one value alone is larger.
pub const MAX_BYTES: usize = 64 * 1024;

/// One object of a document while it grows.
#[derive(Default)]
struct Moment {
    values: Map<String, Json>,
    errors: Map<String, Json>,
}

/// The documents for `samples`, in order of source time; usually one. Empty for no samples.
pub fn documents(samples: &[Sample], clock_plausible: bool) -> Vec<Vec<u8>> {
    marked(samples, clock_plausible, false)
}

/// The documents for `samples` that were kept while the device was away.
pub fn history(samples: &[Sample], clock_plausible: bool) -> Vec<Vec<u8>> {
    marked(samples, clock_plausible, true)
}

fn marked(samples: &[Sample], clock_plausible: bool, history: bool) -> Vec<Vec<u8>> {
    let close = |open: BTreeMap<UnixMillis, Moment>| close(open, clock_plausible, history);
    let mut documents = Vec::new();
    let mut open: BTreeMap<UnixMillis, Moment> = BTreeMap::new();
    let mut size = 0;
    // The blocks of one poll arrive some milliseconds apart: one moment for people and for the size of the message.
    let polled = samples.iter().filter(|sample| sample.source_time.is_none()).map(|sample| sample.received).max();
    let moment = |sample: &Sample| sample.source_time.or(polled).unwrap_or(sample.received);
    let mut ordered: Vec<(UnixMillis, &Sample)> = samples.iter().map(|sample| (moment(sample), sample)).collect();
    ordered.sort_by_key(|(at, _)| *at);
    for (at, sample) in ordered {
        let name = sample.point.as_str();
        let entry = entry(sample);
        let text = match &entry {
            Ok(value) => value.to_string(),
            Err(quality) => quality.to_string(),
        };
        // Quotes, colon, comma, and the object around it where the time is a new one.
        let adds = name.len() + text.len() + 8 + if open.contains_key(&at) { 0 } else { 72 };
        // A second value of the same point with the same time belongs into a document of its own.
        let taken = open.get(&at).is_some_and(|m| m.values.contains_key(name) || m.errors.contains_key(name));
        if !open.is_empty() && (size + adds > MAX_BYTES || taken) {
            documents.push(close(std::mem::take(&mut open)));
            size = 0;
        }
        size += adds;
        let moment = open.entry(at).or_default();
        match entry {
            Ok(value) => moment.values.insert(name.to_owned(), value),
            Err(quality) => moment.errors.insert(name.to_owned(), Json::from(quality.as_str())),
        };
    }
    if !open.is_empty() {
        documents.push(close(open));
    }
    documents
}

/// The value of a usable sample, or the quality that says why there is none.
fn entry(sample: &Sample) -> Result<Json, Quality> {
    if !sample.quality.usable() {
        return Err(sample.quality.clone());
    }
    let json = sample.value.as_ref().map(Value::to_json);
    match json {
        Some(Some(json)) => Ok(json),
        // NaN and infinities.
        Some(None) => Err(Quality::BAD_OUT_OF_RANGE),
        None => Err(Quality::BAD_WAITING_FOR_INITIAL_DATA),
    }
}

fn close(moments: BTreeMap<UnixMillis, Moment>, clock_plausible: bool, history: bool) -> Vec<u8> {
    let mut objects: Vec<Json> = Vec::new();
    for (ts, moment) in moments {
        let mut object = json!({ "ts": ts, "values": moment.values });
        if let Some(fields) = object.as_object_mut() {
            if !moment.errors.is_empty() {
                fields.insert("errors".to_owned(), Json::Object(moment.errors));
            }
            if !clock_plausible {
                fields.insert("clock".to_owned(), Json::from("unset"));
            }
            if history {
                fields.insert("hist".to_owned(), Json::from(true));
            }
        }
        objects.push(object);
    }
    together(objects)
}

fn together(mut objects: Vec<Json>) -> Vec<u8> {
    let document = if objects.len() == 1 { objects.remove(0) } else { Json::Array(objects) };
    document.to_string().into_bytes()
}

/// The documents for `events`, in their order; usually one. Empty for none.
pub fn events(events: &[Event], clock_plausible: bool) -> Vec<Vec<u8>> {
    let mut documents = Vec::new();
    let (mut open, mut size) = (Vec::new(), 0);
    for event in events {
        let mut object = happening(event);
        if let (Some(fields), false) = (object.as_object_mut(), clock_plausible) {
            fields.insert("clock".to_owned(), Json::from("unset"));
        }
        let adds = object.to_string().len() + 1;
        if !open.is_empty() && size + adds > MAX_BYTES {
            documents.push(together(std::mem::take(&mut open)));
            size = 0;
        }
        size += adds;
        open.push(object);
    }
    if !open.is_empty() {
        documents.push(together(open));
    }
    documents
}

fn happening(event: &Event) -> Json {
    match event {
        Event::Happened { source_time, received, refresh, fields } => {
            let field = |(name, value): &(String, Value)| (name.clone(), value.to_json().unwrap_or_default());
            let fields: Map<String, Json> = fields.iter().map(field).collect();
            let ts = source_time.unwrap_or(*received);
            if *refresh {
                json!({ "ts": ts, "refresh": true, "event": fields })
            } else {
                json!({ "ts": ts, "event": fields })
            }
        }
        Event::Lost { received, count, reason } => json!({ "ts": received, "lost": count, "reason": reason }),
    }
}

#[cfg(test)]
mod tests {
    use fieldgate_protocol::PointName;

    use super::*;

    fn sample(name: &str, value: Value, source: u64) -> Sample {
        Sample {
            point: PointName::new(name).unwrap(),
            value: Some(value),
            quality: Quality::GOOD,
            source_time: Some(UnixMillis(source)),
            received: UnixMillis(99),
        }
    }

    fn parsed(samples: &[Sample]) -> Vec<Json> {
        documents(samples, true).iter().map(|bytes| serde_json::from_slice(bytes).unwrap()).collect()
    }

    #[test]
    fn writes_values_and_errors() {
        let bad = Sample::bad(PointName::new("b").unwrap(), Quality::BAD_NO_COMMUNICATION, UnixMillis(5));
        let samples = [sample("a", Value::Float(1.5), 5), bad, sample("c", Value::Float(f64::NAN), 5)];
        assert_eq!(
            parsed(&samples),
            [json!({"ts":5,"values":{"a":1.5},"errors":{"b":"BadNoCommunication","c":"BadOutOfRange"}})]
        );
    }

    #[test]
    fn one_object_per_source_time_in_order() {
        let samples = [sample("a", Value::Int(2), 7), sample("a", Value::Int(1), 6), sample("b", Value::Int(3), 7)];
        assert_eq!(parsed(&samples), [json!([{"ts":6,"values":{"a":1}},{"ts":7,"values":{"a":2,"b":3}}])]);
        assert_eq!(documents(&[], true), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn the_blocks_of_one_poll_share_a_moment() {
        let polled =
            |name: &str, at| Sample { received: UnixMillis(at), source_time: None, ..sample(name, Value::Int(1), 0) };
        assert_eq!(parsed(&[polled("a", 5), polled("b", 8)]), [json!({"ts":8,"values":{"a":1,"b":1}})]);
    }

    #[test]
    fn two_readings_of_one_moment_are_both_kept() {
        let samples = [sample("a", Value::Int(1), 7), sample("a", Value::Int(2), 7)];
        assert_eq!(parsed(&samples), [json!({"ts":7,"values":{"a":1}}), json!({"ts":7,"values":{"a":2}})]);
    }

    #[test]
    fn splits_large_documents() {
        let text = "x".repeat(1000);
        let samples: Vec<Sample> = (0..200).map(|n| sample(&format!("p{n}"), Value::Text(text.clone()), 1)).collect();
        let documents = documents(&samples, true);
        assert!(documents.len() >= 4 && documents.iter().all(|d| d.len() <= MAX_BYTES), "{}", documents.len());
        let values: usize = parsed(&samples).iter().map(|d| d["values"].as_object().unwrap().len()).sum();
        assert_eq!(values, 200);
    }

    #[test]
    fn what_was_kept_meanwhile_is_marked() {
        let samples = [sample("a", Value::Int(1), 6), sample("a", Value::Int(2), 7)];
        let told: Vec<Json> =
            history(&samples, true).iter().map(|bytes| serde_json::from_slice(bytes).unwrap()).collect();
        assert_eq!(told, [json!([{"ts":6,"hist":true,"values":{"a":1}},{"ts":7,"hist":true,"values":{"a":2}}])]);
    }

    #[test]
    fn events_are_told_in_their_order_with_what_was_lost_between() {
        let happened = |source: Option<u64>, refresh, value| Event::Happened {
            source_time: source.map(UnixMillis),
            received: UnixMillis(9),
            refresh,
            fields: vec![("Severity".to_owned(), value)],
        };
        let lost = Event::Lost { received: UnixMillis(8), count: 3, reason: "why" };
        let all = [happened(Some(7), false, Value::Int(5)), lost, happened(None, true, Value::Float(f64::NAN))];
        let told: Vec<Json> = events(&all, true).iter().map(|bytes| serde_json::from_slice(bytes).unwrap()).collect();
        let expected = json!([
            {"ts":7,"event":{"Severity":5}}, {"ts":8,"lost":3,"reason":"why"}, {"ts":9,"refresh":true,"event":{"Severity":null}}
        ]);
        assert_eq!(told, [expected]);
        assert_eq!(events(&all[..1], false), [br#"{"clock":"unset","event":{"Severity":5},"ts":7}"#]);
        let many = vec![happened(Some(1), false, Value::Text("x".repeat(1000))); 200];
        let documents = events(&many, true);
        assert!(documents.len() >= 4 && documents.iter().all(|d| d.len() <= MAX_BYTES), "{}", documents.len());
    }

    #[test]
    fn marks_a_clock_that_was_never_right() {
        let documents = documents(&[sample("a", Value::Bool(true), 1)], false);
        assert_eq!(serde_json::from_slice::<Json>(&documents[0]).unwrap()["clock"], "unset");
    }
}
