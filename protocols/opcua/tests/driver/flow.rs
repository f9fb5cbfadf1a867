//! Values on their way up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fieldgate_opcua::sim::Simulator;
use fieldgate_opcua::{DeviceConfig, OpcuaConfig};
use fieldgate_protocol::{LinkState, Point, PointName, Sample, Update, Value};
use fieldgate_types::DeviceId;
use tempfile::tempdir;

use crate::rig::{DEADLINE, NONE, PLAIN, Rig, config, simulator};

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
        ("profile", "profile", ""),
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
            _ => None,
        })
        .await;
    }
    let value = |name: &str| seen[name].value.clone();
    assert_eq!(value("level"), Some(Value::Float(50.0)));
    assert_eq!(value("pressure"), Some(Value::Float(1.5)));
    assert_eq!(value("counter"), Some(Value::Int(0)));
    assert_eq!(value("running"), Some(Value::Bool(true)));
    // Longer than the library takes unless told to.
    assert_eq!(value("profile"), Some(Value::Array(vec![Value::Float(0.5); 1500])));
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
    // One the driver finds without its namespace, the other the server refuses.
    rig.quality("never", "BadNodeIdUnknown").await;
    rig.quality("later", "BadNodeIdUnknown").await;
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
async fn more_points_than_one_request_holds_are_all_reported() {
    let dir = tempdir().unwrap();
    let sim = simulator(dir.path());
    let names: Vec<String> = (0..2100).map(|number| format!("point-{number}")).collect();
    for name in &names {
        sim.add(name, 0.25);
    }
    let points: Vec<(&str, &str, &str)> = names.iter().map(|name| (name.as_str(), name.as_str(), "")).collect();
    let mut rig = Rig::start(config(&sim.endpoint(), NONE, &points), dir.path());
    let mut seen = BTreeSet::new();
    while seen.len() < names.len() {
        rig.expect("every point", |update| match update {
            Update::Samples { samples, .. } => {
                let wrong = samples.iter().find(|sample| sample.value != Some(Value::Float(0.25)));
                assert_eq!(wrong, None);
                seen.extend(samples.iter().map(|sample| sample.point.clone()));
                Some(())
            }
            _ => None,
        })
        .await;
    }
    rig.stop().await;
}

/// Eight devices with a point each, which counts how often it was sampled: every 20 ms, told as often.
fn counting(sim: &Simulator) -> OpcuaConfig {
    let mut config = config(&sim.endpoint(), NONE, &[("n", "n0", "queue = 500")]);
    let first = config.devices.remove(0);
    for number in 0..8 {
        sim.add_counter(&format!("n{number}"));
        let mut device = DeviceConfig { id: DeviceId::new(&format!("rack-{number}")).unwrap(), ..first.clone() };
        device.points[0].node = format!("nsu=urn:fieldgate:sim;s=n{number}").parse().unwrap();
        device.publishing = Duration::from_millis(20);
        config.devices.push(device);
    }
    config
}

/// The values of each device until there are so many of each.
async fn counts(rig: &mut Rig, wanted: usize) -> BTreeMap<DeviceId, Vec<f64>> {
    let mut told: BTreeMap<DeviceId, Vec<f64>> = BTreeMap::new();
    while told.len() < 8 || told.values().any(|values| values.len() < wanted) {
        let (device, values) = rig
            .expect("counts", |update| match update {
                Update::Samples { device, samples } => {
                    let values: Vec<f64> = samples.iter().filter_map(|s| s.value.as_ref()?.as_f64()).collect();
                    Some((device.clone(), values))
                }
                _ => None,
            })
            .await;
        told.entry(device).or_default().extend(values);
    }
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stalls_for_a_moment_loses_nothing() {
    let dir = tempdir().unwrap();
    let sim = simulator(dir.path());
    let mut rig = Rig::with_room(counting(&sim), dir.path(), 1);
    rig.online().await;
    // More than twice as many notifications as the driver has room for.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    for (device, values) in counts(&mut rig, 150).await {
        let steps: Vec<_> = values.windows(2).filter(|pair| (pair[1] - pair[0] - 1.0).abs() > 0.5).collect();
        assert_eq!(steps, [] as [&[f64]; 0], "{device}");
    }
    assert_eq!(rig.info.borrow().overruns, 0);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_stall_loses_values_in_order_and_counted_and_never_the_last() {
    let dir = tempdir().unwrap();
    let sim = simulator(dir.path());
    let mut config = counting(&sim);
    // What changes once within the stall, and then no more.
    for device in &mut config.devices {
        let mut point = device.points[0].clone();
        point.point = Arc::new(Point { name: PointName::new("level").unwrap(), ..Point::clone(&point.point) });
        point.node = "nsu=urn:fieldgate:sim;s=level".parse().unwrap();
        device.points.push(point);
    }
    let mut rig = Rig::with_room(config, dir.path(), 1);
    rig.online().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    sim.set("level", 7.5).unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let mut wrong: Vec<(DeviceId, f64, f64)> = Vec::new();
    let (mut before, mut last) = (BTreeMap::new(), BTreeSet::new());
    while last.len() < 8 {
        let samples = rig
            .expect("the last value of each device", |update| match update {
                Update::Samples { device, samples } => Some((device.clone(), samples.clone())),
                _ => None,
            })
            .await;
        for sample in samples.1 {
            let value = sample.value.as_ref().and_then(Value::as_f64).unwrap();
            if sample.point.as_str() == "n" {
                let one = before.insert(samples.0.clone(), value).unwrap_or_default();
                wrong.extend((one >= value).then(|| (samples.0.clone(), one, value)));
            } else if sample.value == Some(Value::Float(7.5)) {
                last.insert(samples.0.clone());
            }
        }
    }
    assert_eq!(wrong, [], "out of order");
    let mut info = rig.info.clone();
    let counted = info.wait_for(|info| info.overruns > 0);
    let counted = tokio::time::timeout(DEADLINE, counted).await.unwrap().unwrap().clone();
    assert_eq!((counted.connects, counted.failures), (1, 0), "the session holds: {counted:?}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polled_device_is_read_at_its_interval_without_a_subscription() {
    let dir = tempdir().unwrap();
    let sim = simulator(dir.path());
    let points = &[("later", "later", ""), ("level", "level", ""), ("path", "nsu=urn:fieldgate:sim;/speed", "")];
    let mut config = config(&sim.endpoint(), NONE, points);
    config.devices[0].poll = Some(Duration::from_millis(50));
    let mut rig = Rig::start(config, dir.path());
    rig.quality("later", "BadNodeIdUnknown").await;
    rig.value("level", 50.0).await;
    let whole = |sample: &fieldgate_protocol::Sample| sample.value == Some(Value::Int(100));
    rig.sample("path", whole).await;
    // Each reading is handed on, changed or not: the gateway decides.
    rig.value("level", 50.0).await;
    sim.set("level", 51.5).unwrap();
    rig.value("level", 51.5).await;
    sim.add("later", 7.5);
    rig.value("later", 7.5).await;
    sim.remove("later");
    rig.quality("later", "BadNodeIdUnknown").await;
    rig.value("level", 51.5).await;
    sim.stop();
    rig.offline().await;
    sim.restart().unwrap();
    rig.online().await;
    rig.value("level", 51.5).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_revises_is_noted_on_the_link() {
    let dir = tempdir().unwrap();
    let sim = simulator(dir.path());
    let mut config = config(&sim.endpoint(), NONE, PLAIN);
    // The simulator publishes every 20 ms at most, and samples no faster than every 10 ms.
    config.devices[0].publishing = Duration::from_millis(10);
    let mut rig = Rig::start(config, dir.path());
    rig.value("level", 50.0).await;
    let noted = |info: &fieldgate_protocol::LinkInfo| !info.notes.is_empty();
    let info = tokio::time::timeout(DEADLINE, rig.info.wait_for(noted)).await.unwrap().unwrap().clone();
    assert_eq!(info.notes[0], "boiler-7: the server publishes every 20 ms, 10 ms were asked for");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadband_on_the_server_spares_the_line_and_one_that_it_refuses_is_said() {
    let dir = tempdir().unwrap();
    let sim = simulator(dir.path());
    let points = [
        ("level", "level", "deadband = 5.0\ndeadband_on = \"server\""),
        ("temperature", "temperature", "deadband = \"10%\"\ndeadband_on = \"server\""),
        ("pressure", "pressure", "trigger = \"status\""),
    ];
    let mut rig = Rig::start(config(&sim.endpoint(), NONE, &points), dir.path());
    rig.value("level", 50.0).await;
    let mut told = Vec::new();
    let has = |told: &[Sample], name: &str, value: f64| {
        told.iter().any(|sample| sample.point.as_str() == name && sample.value == Some(Value::Float(value)))
    };
    for level in [52.0, 54.5, 56.0, 52.0, 50.5] {
        for name in ["level", "pressure", "temperature"] {
            sim.set(name, level).unwrap();
        }
        // It has no engineering range, so each change of it is told.
        while !has(&told, "temperature", level) {
            told.extend(rig.samples().await);
        }
    }
    while !has(&told, "level", 50.5) {
        told.extend(rig.samples().await);
    }
    let of = |name: &str| {
        told.iter().filter(|s| s.point.as_str() == name).filter_map(|s| s.value.clone()).collect::<Vec<_>>()
    };
    let first = |values: Vec<Value>, value: f64| {
        values.into_iter().skip_while(|one| *one == Value::Float(value)).collect::<Vec<_>>()
    };
    assert_eq!(first(of("pressure"), 1.5), [] as [Value; 0], "its status has not changed");
    assert_eq!(of("level"), [56.0, 50.5].map(Value::Float), "52 is within 5 of 50 and of 56");
    let notes = rig.info.borrow().notes.clone();
    assert!(
        notes.iter().any(|note| note.contains("doesn't filter 1 points as asked (BadDeadbandFilterInvalid)")),
        "{notes:?}"
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_triggered_point_is_told_with_the_other_and_not_by_itself() {
    let dir = tempdir().unwrap();
    let sim = simulator(dir.path());
    let points = [
        ("held", "level", "triggered_by = \"lead\"\nqueue = 1"),
        ("lead", "temperature", ""),
        ("free", "pressure", ""),
    ];
    let mut rig = Rig::start(config(&sim.endpoint(), NONE, &points), dir.path());
    // Told once at the beginning, though the other doesn't change.
    let told = |samples: &[Sample], name: &str| {
        let of = samples.iter().filter(|sample| sample.point.as_str() == name);
        of.filter_map(|sample| sample.value.as_ref()?.as_f64()).collect::<Vec<_>>()
    };
    let mut seen: Vec<Sample> = Vec::new();
    while told(&seen, "held").is_empty() || told(&seen, "free").is_empty() || told(&seen, "lead").is_empty() {
        seen.extend(rig.samples().await);
    }
    for round in 0..3_u8 {
        let floor = f64::from(round + 1) * 100.0;
        let mut seen: Vec<Sample> = Vec::new();
        for step in 1..=3 {
            let value = floor + f64::from(step);
            sim.set("level", value).unwrap();
            sim.set("pressure", value).unwrap();
            while told(&seen, "free").last() != Some(&value) {
                seen.extend(rig.samples().await);
            }
            assert!(told(&seen, "held").iter().all(|held| *held < floor), "{seen:?}");
        }
        sim.set("temperature", f64::from(round)).unwrap();
        let last = floor + 3.0;
        while told(&seen, "held").last() != Some(&last) {
            seen.extend(rig.samples().await);
        }
        // Again after a new session: the items are linked anew.
        if round == 1 {
            sim.stop();
            rig.offline().await;
            sim.restart().unwrap();
            let mut seen: Vec<Sample> = Vec::new();
            while told(&seen, "held").is_empty() || told(&seen, "free").is_empty() || told(&seen, "lead").is_empty() {
                seen.extend(rig.samples().await);
            }
            assert_eq!(told(&seen, "held").last(), Some(&last));
        }
    }
    assert_eq!(rig.info.borrow().notes, [""; 0]);
    rig.stop().await;
}
