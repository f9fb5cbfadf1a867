use fieldgate_protocol::Report;

use super::*;

fn device() -> FieldDevice {
    let point = |name: &str, access, range| {
        Arc::new(Point {
            name: PointName::new(name).unwrap(),
            unit: None,
            description: None,
            kind: None,
            access,
            range,
            report: Report::default(),
        })
    };
    FieldDevice {
        id: DeviceId::new("press-1").unwrap(),
        points: vec![point("level", Access::Read, None), point("setpoint", Access::ReadWrite, Some((0.0, 90.0)))],
        methods: vec![PointName::new("start").unwrap()],
        grows: false,
    }
}

#[test]
fn calls_declared_methods_alone() {
    let call = |payload: &str| parse(&device(), "call", payload.as_bytes());
    let method = PointName::new("start").unwrap();
    let arguments = vec![Value::Int(1), Value::Text("fast".to_owned())];
    let asked = Asked::One(Request::Call { method, arguments });
    assert_eq!(call(r#"{"method":"start","arguments":[1,"fast"],"timeout_ms":5}"#), Ok(asked));
    assert!(call(r#"{"method":"start"}"#).is_ok());
    assert!(call(r#"{"method":"stop"}"#).unwrap_err().contains("has no method `stop`"));
    assert!(call(r#"{"method":"start","arguments":[{"a":null}]}"#).unwrap_err().contains("are allowed"));
    assert!(call(r#"{"method":"start","args":[]}"#).unwrap_err().contains("a call looks like"));
}

#[test]
fn refuses_what_may_not_be_written_and_says_why() {
    let refused = |payload: &str| parse(&device(), "write", payload.as_bytes()).unwrap_err();
    assert!(refused(r#"{"point":"level","value":1}"#).contains("read-only"));
    assert!(refused(r#"{"point":"setpoint","value":90.5}"#).contains("0 to 90 is allowed"));
    assert!(refused(r#"{"point":"setpoint","value":"hot"}"#).contains("a number is expected"));
    assert!(refused(r#"{"point":"setpoint","value":null}"#).contains("is allowed"));
    assert!(refused(r#"{"point":"x","value":1}"#).contains("has no point `x`"));
    assert!(refused("42").contains("a write looks like"));
    assert!(refused(r#"{"points":{}}"#).contains("a write looks like"));
    assert!(refused(r#"{"points":{"setpoint":1},"point":"setpoint","value":1}"#).contains("a write looks like"));
    assert!(refused(r#"{"points":{"setpoint":1,"level":1}}"#).contains("read-only"), "all are looked at before any");
    assert!(parse(&device(), "reboot", b"").unwrap_err().contains("write, read or call"));
    assert!(parse(&device(), "read", br#"{"points":[]}"#).is_err());
}

#[test]
fn accepts_writes_and_reads() {
    let write = parse(&device(), "write", br#"{"point":"setpoint","value":90}"#).unwrap();
    let setpoint = || PointName::new("setpoint").unwrap();
    assert_eq!(write, Asked::One(Request::Write { point: setpoint(), value: Value::Int(90) }));
    let writes = parse(&device(), "write", br#"{"points":{"setpoint":90,"setpoint":1}}"#).unwrap();
    assert_eq!(writes, Asked::Writes(vec![(setpoint(), Value::Int(90)), (setpoint(), Value::Int(1))]), "in order");
    assert!(parse(&device(), "read", br#"{"points":["level","setpoint"],"timeout_ms":5}"#).is_ok());
}

#[test]
fn several_points_are_written_up_to_the_first_failure() {
    let name = |name: &str| PointName::new(name).unwrap();
    let done = |point: &str| {
        let changes = vec![Change { point: name(point), old: None, new: Some(Value::Int(1)) }];
        Outcome { changes, ..Outcome::ok(Some(Json::from(1))) }
    };
    let mut several = Several::default();
    assert!(several.goes_on(&name("b"), done("b")) && several.goes_on(&name("a"), done("a")));
    assert!(!several.goes_on(&name("c"), Outcome::not(Status::Rejected, "jammed")));
    let outcome = several.outcome();
    assert_eq!(outcome.status, Status::Failed, "something was changed");
    assert_eq!(outcome.value, Some(serde_json::json!({"a": 1, "b": 1})));
    assert_eq!(outcome.reason.as_deref(), Some("c: jammed; those in `value` were written before it"));
    assert_eq!(outcome.changes.len(), 2);

    let mut several = Several::default();
    assert!(!several.goes_on(&name("c"), Outcome::not(Status::Rejected, "jammed")));
    assert_eq!(several.outcome().status, Status::Rejected, "nothing was changed");
}
