//! Looking at a server, and points by the names on the way to them.

use std::sync::Arc;

use fieldgate_opcua::{BrowseError, Extent, NodeName, browse};
use fieldgate_protocol::{Outcome, PointName, Request, Update, Value};
use fieldgate_types::{Clock, SystemClock};
use serde_json::json;
use tempfile::tempdir;

use crate::rig::{DEADLINE, NONE, PLAIN, Rig, config, config_with, simulator};

const ALL: Extent = Extent { depth: 10, nodes: 1000 };

#[tokio::test(flavor = "multi_thread")]
async fn a_point_is_found_by_its_path_and_again_when_it_comes_back() {
    let dir = tempdir().unwrap();
    let sim = simulator(dir.path());
    let points = &[
        ("level", "nsu=urn:fieldgate:sim;/level", ""),
        ("setpoint", "nsu=urn:fieldgate:sim;/setpoint", "access = \"rw\""),
        ("later", "nsu=urn:fieldgate:sim;/later", ""),
    ];
    let mut rig = Rig::start(config(&sim.endpoint(), NONE, points), dir.path());
    rig.quality("later", "BadNodeIdUnknown").await;
    rig.value("level", 50.0).await;
    let request = Request::Write { point: PointName::new("setpoint").unwrap(), value: Value::Int(60) };
    assert_eq!(rig.command(request).await, Outcome::ok(Some(json!(60.0))));
    sim.add("later", 7.5);
    rig.value("later", 7.5).await;
    sim.remove("later");
    rig.quality("later", "BadNodeIdUnknown").await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tree_below_a_node_has_types_and_rights_and_makes_points_that_work() {
    let dir = tempdir().unwrap();
    let sim = simulator(dir.path());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let config_of = |points: &[(&str, &str, &str)]| config(&sim.endpoint(), NONE, points);
    let pki = dir.path().join("opcua");
    let tree = browse(&config_of(PLAIN), &pki, None, ALL, &clock).await.unwrap();
    let find = |name: &str| tree.nodes.iter().find(|found| found.name == name).unwrap();
    assert_eq!((tree.nodes[0].name.as_str(), tree.nodes[0].depth, tree.cut), ("Objects", 0, false));
    let setpoint = find("setpoint");
    assert_eq!(setpoint.node, "nsu=urn:fieldgate:sim;s=setpoint");
    assert_eq!((setpoint.data_type.as_deref(), setpoint.writable, setpoint.depth), (Some("Double"), Some(true), 1));
    assert_eq!((find("level").writable, find("running").data_type.as_deref()), (Some(false), Some("Boolean")));
    assert!(tree.nodes.iter().all(|found| found.name != "ServerStatus"), "the server's own nodes only when named");

    // A server's own nodes, named, level by level and cut.
    let server: NodeName = "i=2253".parse().unwrap();
    let extent = Extent { depth: 1, nodes: 1000 };
    let below = browse(&config_of(PLAIN), &pki, Some(&server), extent, &clock).await.unwrap();
    assert!(below.cut && below.nodes.iter().all(|found| found.depth <= 1), "{:?}", below.nodes.len());
    assert!(below.nodes.iter().any(|found| found.name == "ServerStatus"));
    let few = browse(&config_of(PLAIN), &pki, Some(&server), Extent { depth: 10, nodes: 7 }, &clock).await.unwrap();
    assert_eq!((few.nodes.len(), few.cut), (7, true));

    // What was found can be configured as it was written.
    let points: Vec<(&str, &str, &str)> =
        tree.nodes.iter().filter(|f| f.class == "Variable").map(|f| (f.name.as_str(), f.node.as_str(), "")).collect();
    assert_eq!(tree.points(&"{name}".parse().unwrap()).matches("[[point]]").count(), points.len());
    let mut rig = Rig::start(config_of(&points), dir.path());
    rig.value("temperature", 20.0).await;
    rig.stop().await;

    let absent: NodeName = "nsu=urn:fieldgate:sim;/absent".parse().unwrap();
    let error = browse(&config_of(PLAIN), &pki, Some(&absent), ALL, &clock).await.unwrap_err();
    assert!(matches!(error, BrowseError::NoNode(_)), "{error}");
    sim.stop();
    let error = browse(&config_of(PLAIN), &pki, None, ALL, &clock).await.unwrap_err();
    assert!(error.to_string().starts_with("can't reach 127.0.0.1"), "{error}");
}

/// The names of the points that are told next.
async fn told(rig: &mut Rig) -> Vec<String> {
    rig.expect("points", |update| match update {
        Update::Points { points, .. } => Some(points.iter().map(|point| point.name.to_string()).collect()),
        _ => None,
    })
    .await
}

async fn noted(rig: &Rig, words: &str) -> String {
    let mut info = rig.info.clone();
    let has = |note: &&String| note.contains(words);
    let noted = tokio::time::timeout(DEADLINE, info.wait_for(|info| info.notes.iter().any(|note| has(&note)))).await;
    let Ok(noted) = noted else { panic!("{words} is not said: {:?}", rig.info.borrow()) };
    noted.unwrap().notes.iter().find(has).unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_below_a_node_become_points_and_keep_names_and_places_whatever_the_server_has_later() {
    let dir = tempdir().unwrap();
    let sim = simulator(dir.path());
    sim.add("doomed", 3.0);
    let points = &[("my level", "nsu=urn:fieldgate:sim;/level", "")];
    let tables = "[[opcua.device.subtree]]\nnode = \"i=85\"\nname = \"sim {name}\"\n";
    let mut rig = Rig::start(config_with(&sim.endpoint(), NONE, points, tables), dir.path());
    let before = told(&mut rig).await;
    let has = |names: &[String], name: &str| names.iter().filter(|known| *known == name).count();
    let known = ["my level", "sim setpoint", "sim level", "sim doomed", "sim running"].map(|name| has(&before, name));
    assert_eq!((before[0].as_str(), known), ("my level", [1, 1, 0, 1, 1]), "one is configured: {before:?}");
    rig.value("sim temperature", 20.0).await;
    let write = Request::Read { points: vec![PointName::new("sim setpoint").unwrap()] };
    assert_eq!(rig.command(write).await, Outcome::ok(Some(json!({ "sim setpoint": 42.0 }))));

    // Away with one, here with another, while the session stands and over a restart.
    sim.remove("doomed");
    rig.quality("sim doomed", "BadNodeIdUnknown").await;
    sim.stop();
    rig.offline().await;
    sim.add("earlier than all", 5.0);
    sim.remove("temperature");
    sim.restart().unwrap();
    let after = told(&mut rig).await;
    let count = before.len();
    assert_eq!((&after[..count], &after[count..]), (&before[..], &["sim earlier than all".to_owned()][..]));
    rig.value("sim earlier than all", 5.0).await;
    sim.add("temperature", 21.0);
    rig.value("sim temperature", 21.0).await;
    assert_eq!(rig.info.borrow().notes, [""; 0]);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subtree_that_is_missing_or_too_large_is_said_and_costs_nothing_else() {
    let dir = tempdir().unwrap();
    let sim = simulator(dir.path());
    let tables = "[[opcua.device.subtree]]\nnode = \"i=85\"\nlimit = 3\n\
                  [[opcua.device.subtree]]\nnode = \"nsu=urn:fieldgate:sim;/later\"\nname = \"level {name}\"\n";
    let mut rig = Rig::start(config_with(&sim.endpoint(), NONE, PLAIN, tables), dir.path());
    assert_eq!(told(&mut rig).await.len(), PLAIN.len() + 3);
    sim.set("level", 51.0).unwrap();
    rig.value("level", 51.0).await;
    let note = noted(&rig, "limit = 3").await;
    assert!(note.starts_with("boiler-7: 5 variables below `i=85` are left out"), "{note}");
    noted(&rig, "the server has no node `nsu=urn:fieldgate:sim;/later`").await;
    sim.add("later", 7.0);
    assert_eq!(told(&mut rig).await.last().map(String::as_str), Some("level later"));
    rig.value("level later", 7.0).await;
    assert_eq!(rig.info.borrow().notes.len(), 1, "{:?}", rig.info.borrow());
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn points_that_are_found_on_a_polled_device_are_polled_with_the_others() {
    let dir = tempdir().unwrap();
    let sim = simulator(dir.path());
    let tables = "[[opcua.device.subtree]]\nnode = \"i=85\"\n";
    let mut config = config_with(&sim.endpoint(), NONE, &[], tables);
    config.devices[0].poll = Some(std::time::Duration::from_millis(20));
    let mut rig = Rig::start(config, dir.path());
    rig.value("temperature", 20.0).await;
    sim.set("temperature", 23.0).unwrap();
    rig.value("temperature", 23.0).await;
    rig.stop().await;
}
