//! Looking at a server, and points by the names on the way to them.

use std::sync::Arc;

use fieldgate_opcua::{BrowseError, Extent, NodeName, browse};
use fieldgate_protocol::{Outcome, PointName, Request, Value};
use fieldgate_types::{Clock, SystemClock};
use serde_json::json;
use tempfile::tempdir;

use crate::rig::{NONE, PLAIN, Rig, config, simulator};

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
    assert_eq!(tree.points("{name}").matches("[[point]]").count(), points.len());
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
