//! Answers: from what a leaf publishes to the object that the upstream gets (DESIGN section 5).

use fieldgate_protocol::Outcome;
use serde_json::{Value as Json, json};

/// The answer as it goes up: `{"rid","status","value"?,"reason"?}`.
pub fn encode(rid: &str, outcome: &Outcome) -> Vec<u8> {
    let mut object = json!({ "rid": rid, "status": outcome.status });
    if let Some(fields) = object.as_object_mut() {
        if let Some(value) = &outcome.value {
            fields.insert("value".to_owned(), value.clone());
        }
        if let Some(reason) = &outcome.reason {
            fields.insert("reason".to_owned(), Json::from(reason.as_str()));
        }
    }
    object.to_string().into_bytes()
}

/// What a leaf's payload on the result topic means: the object itself, or anything else as the value of an `ok`.
/// Text that isn't JSON becomes a string; bytes that aren't text become base64.
pub fn decode(payload: &[u8]) -> Outcome {
    if payload.is_empty() {
        return Outcome::ok(None);
    }
    let Ok(json) = serde_json::from_slice::<Json>(payload) else {
        let value = match std::str::from_utf8(payload) {
            Ok(text) => Json::from(text),
            Err(_) => Json::from(base64::Engine::encode(&base64::engine::general_purpose::STANDARD, payload)),
        };
        return Outcome::ok(Some(value));
    };
    let is_outcome = json
        .get("status")
        .is_some_and(|status| matches!(status.as_str(), Some("ok" | "rejected" | "timeout" | "failed")));
    match is_outcome.then(|| serde_json::from_value(json.clone())) {
        Some(Ok(outcome)) => outcome,
        _ => Outcome::ok(Some(json)),
    }
}

#[cfg(test)]
mod tests {
    use fieldgate_protocol::Status;

    use super::*;

    #[test]
    fn understands_objects_and_anything_else() {
        let object = decode(br#"{"rid":"1","status":"failed","reason":"jammed"}"#);
        assert_eq!((object.status, object.reason.as_deref()), (Status::Failed, Some("jammed")));
        assert_eq!(decode(b"42").value, Some(json!(42)));
        assert_eq!(decode(b"done").value, Some(json!("done")));
        assert_eq!(decode(&[0xff, 0xfe]).value, Some(json!("//4=")));
        assert_eq!(decode(br#"{"status":"green"}"#).value, Some(json!({"status":"green"})));
        assert_eq!(decode(b""), Outcome::ok(None));
    }

    #[test]
    fn writes_the_object_of_the_design() {
        let text = |outcome| String::from_utf8(encode("r", &outcome)).unwrap();
        assert_eq!(text(Outcome::ok(Some(json!(1)))), r#"{"rid":"r","status":"ok","value":1}"#);
        assert_eq!(
            text(Outcome::not(Status::Timeout, "no answer")),
            r#"{"reason":"no answer","rid":"r","status":"timeout"}"#
        );
    }
}
