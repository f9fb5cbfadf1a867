//! Polling: what is read, how often, and what becomes of it when devices go and come.

use std::time::Duration;

use fieldgate_modbus::ModbusDriver;
use fieldgate_modbus::sim::Simulator;
use fieldgate_protocol::{Driver, LinkState, Update, Value};

use crate::harness::{Rig, config, eventually, is, samples};
use crate::peer::{Peer, Reply};

const ANY: &str = "127.0.0.1:0";

const PRESS: &str = r#"
timeout = "300ms"
[[modbus.device]]
id = "press-1"
unit = 1
interval = "50ms"
[[modbus.device.point]]
name = "temperature"
at = "holding:100"
type = "f32"
[[modbus.device.point]]
name = "count"
at = "holding:104"
type = "u16"
[[modbus.device.point]]
name = "pressure"
at = "input:7"
type = "i16"
scale = 0.1
[[modbus.device.point]]
name = "running"
at = "coil:3"
[[modbus.device.point]]
name = "door"
at = "discrete:9"
interval = "80ms"
"#;

#[tokio::test]
async fn the_driver_shows_that_it_turns_and_one_that_is_held_up_by_the_gateway_is_excused() {
    let sim = Simulator::start(ANY.parse().unwrap()).unwrap();
    let mut rig = Rig::start(sim.addr(), PRESS);
    rig.next().await;
    for _ in 0..2 {
        rig.pulse_clock.advance(Duration::from_secs(3_600));
        // What it has read is taken, so that it goes on.
        while rig.pulse.overdue().is_some() {
            rig.next().await;
        }
    }
    // Nobody takes anything: it waits for room, and an hour more or less is nothing to it.
    let mut in_a_row = 0;
    let held_up = || {
        rig.pulse_clock.advance(Duration::from_secs(3_600));
        in_a_row = if rig.pulse.overdue().is_none() { in_a_row + 1 } else { 0 };
        in_a_row == 5
    };
    eventually("the driver waits for room", held_up).await;
}

#[tokio::test]
async fn the_first_batch_after_coming_online_holds_every_point() {
    let sim = Simulator::start(ANY.parse().unwrap()).unwrap();
    sim.set_holding(100, &[0x41AC, 0x0000, 0, 0, 9]);
    sim.set_input(7, &[0xFFFB]);
    sim.set_coils(3, &[true]);
    let mut rig = Rig::start(sim.addr(), PRESS);
    assert!(matches!(rig.next().await, Update::Online { device } if device.as_str() == "press-1"));
    let first = rig.next().await;
    let batch = samples(&first, "press-1");
    assert_eq!(batch.len(), 5, "{batch:#?}");
    for (point, value) in [
        ("temperature", Value::Float(21.5)),
        ("count", Value::Uint(9)),
        ("pressure", Value::Float(-0.5)),
        ("running", Value::Bool(true)),
        ("door", Value::Bool(false)),
    ] {
        assert!(batch.iter().any(|sample| is(sample, point, &value)), "{point}: {batch:#?}");
    }
    assert!(batch.iter().all(|sample| sample.source_time.is_none() && sample.received.0 > 1_700_000_000_000));
    let info = rig.until_link(LinkState::Up).await;
    assert_eq!((info.connects, info.failures), (1, 0));
    sim.set_holding(104, &[10]);
    rig.until_value("press-1", "count", &Value::Uint(10)).await;
    rig.stop().await;
}

#[tokio::test]
async fn values_come_back_after_the_device_was_killed_and_restarted() {
    let sim = Simulator::start(ANY.parse().unwrap()).unwrap();
    let address = sim.addr();
    let mut rig = Rig::start(address, PRESS);
    rig.until_value("press-1", "count", &Value::Uint(0)).await;
    sim.stop().await;
    let reason = rig.until_offline("press-1").await;
    assert!(reason.contains("connect") || reason.contains("connection"), "{reason}");
    let info = rig.until_link(LinkState::Down).await;
    assert!(info.last_error.is_some());
    let sim = Simulator::start(address).unwrap();
    sim.set_holding(104, &[77]);
    rig.until_online("press-1").await;
    let first = rig.next().await;
    assert_eq!(samples(&first, "press-1").len(), 5, "{first:#?}");
    rig.until_link(LinkState::Up).await;
    let offline = rig.seen.iter().filter(|update| matches!(update, Update::Offline { .. })).count();
    assert_eq!(offline, 1, "said once");
    rig.stop().await;
}

#[tokio::test]
async fn a_device_that_never_was_there_is_offline_once() {
    let free = std::net::TcpListener::bind(ANY).unwrap().local_addr().unwrap();
    let mut rig = Rig::start(free, PRESS);
    let reason = rig.until_offline("press-1").await;
    assert!(reason.starts_with("can't connect"), "{reason}");
    rig.until_link(LinkState::Down).await;
    eventually("several tries", || rig.state.borrow().failures >= 3).await;
    assert!(rig.updates.try_recv().is_err(), "said once");
    rig.stop().await;
}

const TWO: &str = r#"
timeout = "100ms"
[[modbus.device]]
id = "dead"
unit = 2
interval = "20ms"
[[modbus.device.point]]
name = "p"
at = "holding:0"
type = "u16"
[[modbus.device]]
id = "alive"
unit = 1
interval = "20ms"
[[modbus.device.point]]
name = "p"
at = "holding:0"
type = "u16"
"#;

#[tokio::test]
async fn a_dead_unit_is_offline_alone_and_does_not_hold_up_its_neighbour() {
    let sim = Simulator::start(ANY.parse().unwrap()).unwrap();
    sim.set_silent(2, true);
    let mut rig = Rig::start(sim.addr(), TWO);
    let reason = rig.until_offline("dead").await;
    assert_eq!(reason, "no answer within 100ms");
    let before = rig.values("alive", "p").len();
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        rig.next().await;
    }
    // 150 at 20 ms. A probe of 100 ms every 2.4 s takes five of them; the rest is for a busy machine.
    let polls = rig.values("alive", "p").len() - before;
    assert!(polls >= 120, "{polls} polls in 3 s");
    assert!(!rig.seen.iter().any(|u| matches!(u, Update::Offline { device, .. } if device.as_str() == "alive")));
    sim.set_silent(2, false);
    rig.until_online("dead").await;
    rig.until_value("dead", "p", &Value::Uint(0)).await;
    rig.stop().await;
}

const BLOCK: &str = r#"
timeout = "300ms"
[[modbus.device]]
id = "d"
interval = "30ms"
[[modbus.device.point]]
name = "a"
at = "holding:0"
type = "u16"
[[modbus.device.point]]
name = "b"
at = "holding:1"
type = "u16"
[[modbus.device.point]]
name = "c"
at = "holding:2"
type = "u16"
[[modbus.device.point]]
name = "d"
at = "holding:3"
type = "u16"
[[modbus.device.point]]
name = "e"
at = "holding:4"
type = "u16"
"#;

#[tokio::test]
async fn a_refused_register_does_not_take_its_block_down() {
    let sim = Simulator::start(ANY.parse().unwrap()).unwrap();
    sim.set_holding(0, &[10, 11, 12, 13, 14]);
    sim.refuse(&[2..=2]);
    let mut rig = Rig::start(sim.addr(), BLOCK);
    rig.until_online("d").await;
    let first = rig.next().await;
    let batch = samples(&first, "d");
    assert_eq!(batch.len(), 5, "{batch:#?}");
    for (point, value) in [("a", 10), ("b", 11), ("d", 13), ("e", 14)] {
        assert!(batch.iter().any(|sample| is(sample, point, &Value::Uint(value))), "{point}: {batch:#?}");
    }
    let bad = batch.iter().find(|sample| sample.point.as_str() == "c").unwrap();
    assert_eq!((bad.quality.as_str(), &bad.value), ("BadNodeIdUnknown", &None));
    // Refusals are remembered: three refused requests led there, none follow.
    let refused = rig.state.borrow().failures;
    rig.until_value("d", "e", &Value::Uint(14)).await;
    rig.until_quality("d", "c", "BadNodeIdUnknown").await;
    assert_eq!(rig.state.borrow().failures, refused);
    // Asked again after at least 5 s, as a whole.
    sim.refuse(&[]);
    rig.until_value("d", "c", &Value::Uint(12)).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_unit_behind_a_gateway_that_does_not_reach_it_goes_offline_without_a_reconnect() {
    let peer =
        Peer::start(|frame| Reply::Bytes(if frame.unit() == 2 { frame.exception(0x0B) } else { frame.honest(0) }))
            .await;
    let mut rig = Rig::start(peer.address, TWO);
    let reason = rig.until_offline("dead").await;
    assert_eq!(reason, "the unit does not answer the Modbus gateway (exception 11)");
    rig.until_value("alive", "p", &Value::Uint(0)).await;
    assert_eq!(peer.connections(), 1);
    rig.stop().await;
}

#[tokio::test]
async fn exceptions_become_quality_words() {
    for (code, quality) in [
        (1, "BadNotSupported"),
        (2, "BadNodeIdUnknown"),
        (3, "BadOutOfRange"),
        (4, "BadDeviceFailure"),
        (6, "BadDeviceFailure"),
    ] {
        let peer = Peer::start(move |frame| {
            Reply::Bytes(if frame.address() == 50 { frame.exception(code) } else { frame.honest(0) })
        })
        .await;
        let points = "[[modbus.device]]\nid = \"d\"\ninterval = \"20ms\"\n[[modbus.device.point]]\nname = \"good\"\nat = \"holding:0\"\ntype = \"u16\"\n[[modbus.device.point]]\nname = \"bad\"\nat = \"holding:50\"\ntype = \"u16\"\n";
        let mut rig = Rig::start(peer.address, points);
        rig.until_quality("d", "bad", quality).await;
        rig.until_value("d", "good", &Value::Uint(0)).await;
        assert_eq!(peer.connections(), 1, "an exception is no reason to reconnect");
        rig.stop().await;
    }
}

#[tokio::test]
async fn late_polls_are_counted_and_not_piled_up() {
    let peer = Peer::start(|frame| Reply::Pieces(Vec::new(), Duration::from_millis(60), frame.honest(0))).await;
    let rest = "[[modbus.device]]\nid = \"d\"\ninterval = \"20ms\"\n[[modbus.device.point]]\nname = \"p\"\nat = \"holding:0\"\ntype = \"u16\"\n";
    let mut rig = Rig::start(peer.address, rest);
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        rig.next().await;
    }
    let info = rig.state.borrow().clone();
    assert!(info.overruns >= 8, "{info:?}");
    assert!(info.answers <= 18, "{info:?}");
    assert_eq!(info.failures, 0, "{info:?}");
    rig.stop().await;
}

#[tokio::test]
async fn a_device_that_is_back_at_once_is_not_called_offline() {
    let sim = Simulator::start(ANY.parse().unwrap()).unwrap();
    let address = sim.addr();
    let mut rig = Rig::start(address, PRESS);
    rig.until_value("press-1", "count", &Value::Uint(0)).await;
    sim.stop().await;
    for count in 1..=3 {
        let sim = Simulator::start(address).unwrap();
        sim.set_holding(104, &[count]);
        rig.until_value("press-1", "count", &Value::Uint(count.into())).await;
        sim.stop().await;
    }
    let Some(back) = rig.seen.iter().rposition(|update| !samples(update, "press-1").is_empty()) else { panic!() };
    let offline = |update: &Update| matches!(update, Update::Offline { .. });
    assert!(!rig.seen[..back].iter().any(offline), "{:#?}", rig.seen);
    rig.stop().await;
}

/// tokio rounds every sleep up to a millisecond: one of no length before each request made 860 requests/s of 18,000.
#[tokio::test]
async fn requests_follow_each_other_without_a_rest() {
    let sim = Simulator::start(ANY.parse().unwrap()).unwrap();
    let mut rest = String::from("max_gap = 0\n[[modbus.device]]\nid = \"d\"\ninterval = \"10ms\"\n");
    for n in 0..300 {
        let point = format!("name = \"p{n}\"\nat = \"holding:{}\"\ntype = \"u16\"\n", n * 10);
        rest += "[[modbus.device.point]]\n";
        rest += &point;
    }
    let mut rig = Rig::start(sim.addr(), &rest);
    rig.until_online("d").await;
    let end = tokio::time::Instant::now() + crate::harness::DEADLINE;
    let mut fastest = Duration::MAX;
    // 300 requests: 350 ms with the rests. The best of many rounds, for the machine may be busy.
    while fastest > Duration::from_millis(200) {
        assert!(tokio::time::Instant::now() < end, "{fastest:?}");
        let before = (tokio::time::Instant::now(), rig.state.borrow().answers);
        while rig.state.borrow().answers < before.1 + 300 {
            rig.next().await;
        }
        fastest = fastest.min(before.0.elapsed());
    }
    rig.stop().await;
}

#[tokio::test]
async fn waits_for_room_upstream_and_stops_all_the_same() {
    let sim = Simulator::start(ANY.parse().unwrap()).unwrap();
    let mut rig = Rig::start(sim.addr(), PRESS);
    // The rig takes four updates, then nobody reads.
    eventually("the channel is full", || rig.updates.len() == 4).await;
    rig.stop_now();
    rig.ended().await;
    assert!(sim.requests() < 40, "no polls without room: {}", sim.requests());
}

#[tokio::test]
async fn ends_when_the_gateway_listens_no_more() {
    let sim = Simulator::start(ANY.parse().unwrap()).unwrap();
    let mut rig = Rig::start(sim.addr(), PRESS);
    rig.until_online("press-1").await;
    rig.updates.close();
    rig.ended().await;
}

#[test]
fn declares_its_devices_before_it_runs() {
    let driver = ModbusDriver::new(config("[::1]:1502", PRESS));
    assert_eq!((driver.protocol(), driver.link().as_str()), ("modbus", "tcp://[::1]:1502"));
    let devices = driver.devices();
    assert_eq!(devices.len(), 1);
    let names: Vec<&str> = devices[0].points.iter().map(|point| point.name.as_str()).collect();
    assert_eq!(names, ["temperature", "count", "pressure", "running", "door"]);
}
