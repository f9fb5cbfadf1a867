//! Values on their way up.

use std::time::Duration;

use fieldgate_protocol::{LinkState, Update, Value};
use tempfile::tempdir;

use crate::rig::{NONE, PLAIN, Rig, config, simulator};

#[tokio::test(flavor = "multi_thread")]
async fn reports_every_point_after_online_and_then_changes() {
    let dir = tempdir().unwrap();
    let sim = simulator(dir.path());
    let points = &[
        ("level", "level", ""),
        ("pressure", "pressure", ""),
        ("counter", "counter", ""),
        ("running", "running", ""),
        ("recipe", "recipe", ""),
    ];
    let mut rig = Rig::start(config(&sim.endpoint(), NONE, points), dir.path());
    let first = rig.updates.recv().await.unwrap();
    assert!(matches!(first, Update::Online { .. }), "{first:?}");
    let mut seen = std::collections::BTreeMap::new();
    while seen.len() < points.len() {
        rig.expect("first values", |update| match update {
            Update::Samples { samples, .. } => {
                seen.extend(samples.iter().map(|sample| (sample.point.to_string(), sample.clone())));
                Some(())
            }
            Update::Online { .. } | Update::Offline { .. } => None,
        })
        .await;
    }
    let value = |name: &str| seen[name].value.clone();
    assert_eq!(value("level"), Some(Value::Float(50.0)));
    assert_eq!(value("pressure"), Some(Value::Float(1.5)));
    assert_eq!(value("counter"), Some(Value::Int(0)));
    assert_eq!(value("running"), Some(Value::Bool(true)));
    assert_eq!(value("recipe"), Some(Value::Text("plain".to_owned())));
    assert!(seen.values().all(|sample| sample.source_time.is_some()), "{seen:?}");

    sim.set("level", 51.5).unwrap();
    let sample = rig.value("level", 51.5).await;
    assert!(sample.received.since(sample.source_time.unwrap()) < Duration::from_secs(5));
    sim.fail("level").unwrap();
    let bad = rig.quality("level", "BadSensorFailure").await;
    assert_eq!(bad.value, None);
    sim.set("level", 52.0).unwrap();
    rig.value("level", 52.0).await;

    let info = rig.state(LinkState::Up).await;
    assert!(info.connects == 1 && info.answers >= 3 && info.failures == 0, "{info:?}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_node_is_bad_alone_and_good_once_it_is_there() {
    let dir = tempdir().unwrap();
    let sim = simulator(dir.path());
    let points = &[("level", "level", ""), ("later", "later", ""), ("never", "nsu=urn:absent;s=x", "")];
    let mut rig = Rig::start(config(&sim.endpoint(), NONE, points), dir.path());
    rig.online().await;
    // Both are told in one batch, at once.
    rig.expect("bad samples", |update| match update {
        Update::Samples { samples, .. } => {
            let bad: Vec<&str> = samples.iter().filter(|s| !s.quality.usable()).map(|s| s.point.as_str()).collect();
            (bad == ["later", "never"])
                .then(|| assert!(samples.iter().all(|s| s.quality.as_str() == "BadNodeIdUnknown")))
        }
        Update::Online { .. } | Update::Offline { .. } => None,
    })
    .await;
    sim.set("level", 1.5).unwrap();
    rig.value("level", 1.5).await;
    sim.add("later", 7.5);
    rig.value("later", 7.5).await;
    sim.set("later", 8.5).unwrap();
    rig.value("later", 8.5).await;
    assert_eq!(rig.info.borrow().connects, 1, "the session was not rebuilt for it");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_gateway_loses_intermediate_values_and_never_the_last() {
    let dir = tempdir().unwrap();
    let sim = simulator(dir.path());
    let mut rig = Rig::with_room(config(&sim.endpoint(), NONE, PLAIN), dir.path(), 1);
    rig.online().await;
    // Nobody takes updates now: more notifications come than the driver may hold.
    let mut level = 0.0;
    let deadline = tokio::time::Instant::now() + crate::rig::DEADLINE;
    let mut pace = tokio::time::interval(Duration::from_millis(60));
    for _ in 0..90 {
        pace.tick().await;
        level += 1.0;
        sim.set("level", level).unwrap();
    }
    rig.value("level", level).await;
    // The count is told by the watchdog's next look.
    while rig.info.borrow().overruns == 0 {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", rig.info.borrow());
        drop(tokio::time::timeout(Duration::from_millis(100), rig.updates.recv()).await);
    }
    rig.stop().await;
}
