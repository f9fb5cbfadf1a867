//! Write with read-back, and read.

use fieldgate_opcua::MethodConfig;
use fieldgate_protocol::{Outcome, PointName, Request, Status, Value};
use serde_json::json;
use tempfile::tempdir;

use crate::rig::{NONE, Rig, config, simulator};

const POINTS: &[(&str, &str, &str)] = &[
    ("level", "level", "access = \"rw\""),
    ("setpoint", "setpoint", "access = \"rw\"\nrange = [0.0, 90.0]"),
    ("speed", "speed", "access = \"rw\""),
    ("recipe", "recipe", "access = \"rw\""),
    ("gone", "gone", "access = \"rw\""),
];

fn write(point: &str, value: Value) -> Request {
    Request::Write { point: PointName::new(point).unwrap(), value }
}

fn rejected(outcome: &Outcome, why: &str) {
    assert_eq!(outcome.status, Status::Rejected, "{outcome:?}");
    assert!(outcome.reason.as_ref().unwrap().contains(why), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_in_the_nodes_type_and_answers_with_what_is_read_back() {
    let dir = tempdir().unwrap();
    let sim = simulator(dir.path());
    let mut rig = Rig::start(config(&sim.endpoint(), NONE, POINTS), dir.path());
    rig.value("setpoint", 42.0).await;

    // A whole number for a Double, a number with a fraction of zero for an Int16.
    assert_eq!(rig.command(write("setpoint", Value::Int(60))).await, Outcome::ok(Some(json!(60.0))));
    assert_eq!(sim.get("setpoint"), Some(60.0));
    rig.value("setpoint", 60.0).await;
    assert_eq!(rig.command(write("speed", Value::Float(-7.0))).await, Outcome::ok(Some(json!(-7))));
    assert_eq!(sim.get("speed"), Some(-7.0));
    let text = Value::Text("dark".to_owned());
    assert_eq!(rig.command(write("recipe", text)).await, Outcome::ok(Some(json!("dark"))));

    rejected(&rig.command(write("setpoint", Value::Text("hot".to_owned()))).await, "the node is Double");
    rejected(&rig.command(write("speed", Value::Float(1.5))).await, "the node is Int16");
    rejected(&rig.command(write("speed", Value::Int(40_000))).await, "out of range for Int16");
    rejected(&rig.command(write("speed", Value::Bool(true))).await, "the node is Int16");
    // The server's own refusal: the node is not writable.
    let outcome = rig.command(write("level", Value::Float(1.0))).await;
    let reason = outcome.reason.clone().unwrap();
    assert!(reason.contains("BadNotWritable") || reason.contains("BadUserAccessDenied"), "{outcome:?}");
    assert_eq!(outcome.status, Status::Rejected);
    let outcome = rig.command(write("gone", Value::Float(1.0))).await;
    assert_eq!((outcome.status, outcome.reason.as_deref()), (Status::Failed, Some("BadNodeIdUnknown")));
    assert_eq!((sim.get("setpoint"), sim.get("speed"), sim.get("level")), (Some(60.0), Some(-7.0), Some(50.0)));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_points_and_says_which_have_no_value() {
    let dir = tempdir().unwrap();
    let sim = simulator(dir.path());
    let mut rig = Rig::start(config(&sim.endpoint(), NONE, POINTS), dir.path());
    rig.online().await;
    let points = ["gone", "level", "recipe"].map(|name| PointName::new(name).unwrap()).into();
    let outcome = rig.command(Request::Read { points }).await;
    assert_eq!(outcome.status, Status::Ok);
    assert_eq!(outcome.value, Some(json!({"gone": null, "level": 50.0, "recipe": "plain"})));
    assert_eq!(outcome.reason.as_deref(), Some("gone: BadNodeIdUnknown"));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_a_method_with_arguments_of_its_types_and_gives_back_its_result() {
    let dir = tempdir().unwrap();
    let sim = simulator(dir.path());
    let mut config = config(&sim.endpoint(), NONE, POINTS);
    let method = |name: &str, node: &str| MethodConfig {
        name: PointName::new(name).unwrap(),
        node: node.parse().unwrap(),
        object: "i=85".parse().unwrap(),
    };
    config.devices[0].methods =
        vec![method("add", "nsu=urn:fieldgate:sim;/add"), method("gone", "nsu=urn:fieldgate:sim;s=gone")];
    let mut rig = Rig::start(config, dir.path());
    rig.online().await;
    let call = |name: &str, arguments: Vec<Value>| Request::Call { method: PointName::new(name).unwrap(), arguments };
    let outcome = rig.command(call("add", vec![Value::Int(1), Value::Float(2.0)])).await;
    assert_eq!(outcome, Outcome::ok(Some(json!(3.0))));
    rejected(&rig.command(call("add", vec![Value::Int(1)])).await, "takes 2 arguments (one, other), not 1");
    rejected(
        &rig.command(call("add", vec![Value::Int(1), Value::Int(70_000)])).await,
        "other: `70000` is out of range",
    );
    rejected(&rig.command(call("add", vec![Value::Int(1), Value::Int(-1)])).await, "BadInvalidArgument");
    let outcome = rig.command(call("gone", vec![])).await;
    assert_eq!(outcome.status, Status::Failed, "{outcome:?}");
    assert!(outcome.reason.as_ref().unwrap().starts_with("the server answered Bad"), "{outcome:?}");
    rejected(&rig.command(call("else", vec![])).await, "no such method");
    rig.stop().await;
}
