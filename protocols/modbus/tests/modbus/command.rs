//! Commands: write with read-back, read, and every way in which they end.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fieldgate_modbus::sim::Simulator;
use fieldgate_protocol::{Change, LinkState, PointName, Request, Status, Update, Value};
use serde_json::json;

use crate::harness::{Rig, is, samples};
use crate::peer::{Peer, Reply};

const POINTS: &str = r#"
timeout = "200ms"
[[modbus.device]]
id = "d"
interval = "60s"
[[modbus.device.point]]
name = "setpoint"
at = "holding:10"
type = "f32"
order = "CDAB"
access = "rw"
range = [0.0, 90.0]
[[modbus.device.point]]
name = "steps"
at = "holding:12"
type = "u16"
access = "rw"
[[modbus.device.point]]
name = "tenths"
at = "holding:13"
type = "i16"
scale = 0.1
access = "rw"
[[modbus.device.point]]
name = "lamp"
at = "coil:4"
access = "rw"
[[modbus.device.point]]
name = "fixed"
at = "input:0"
type = "u16"
"#;

#[tokio::test]
async fn writes_and_reads_back() {
    let sim = Simulator::start("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut rig = Rig::start(sim.addr(), POINTS);
    rig.until_value("d", "steps", &Value::Uint(0)).await;
    for (point, value, answer) in [
        ("setpoint", Value::Float(42.5), json!(42.5)),
        ("setpoint", Value::Int(7), json!(7.0)),
        ("steps", Value::Int(65_535), json!(65_535)),
        ("tenths", Value::Float(-21.3), json!(-21.3)),
        ("lamp", Value::Bool(true), json!(true)),
    ] {
        let outcome = rig.write("d", point, value).await;
        assert_eq!((outcome.status, outcome.value), (Status::Ok, Some(answer)), "{point} {:?}", outcome.reason);
    }
    assert_eq!([sim.holding(10), sim.holding(11)], [0, 0x40E0]);
    assert_eq!((sim.holding(12), sim.holding(13), sim.coil(4)), (65_535, 0xFF2B, true));
    // The next poll is a minute away: what was read back goes up at once.
    rig.until("the new lamp", |u| samples(u, "d").iter().any(|s| is(s, "lamp", &Value::Bool(true)))).await;
    rig.stop().await;
}

#[tokio::test]
async fn rejects_what_can_not_be_written_and_touches_nothing() {
    let sim = Simulator::start("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut rig = Rig::start(sim.addr(), POINTS);
    rig.until_value("d", "steps", &Value::Uint(0)).await;
    let before = sim.requests();
    for (device, point, value, reason) in [
        ("d", "steps", Value::Int(65_536), "the value does not fit u16: 0 to 65535 is allowed"),
        ("d", "steps", Value::Float(1.5), "`1.5` is not a whole number, as u16 must be"),
        ("d", "tenths", Value::Int(4_000), "the value does not fit i16: -3276.8 to 3276.7 is allowed"),
        ("d", "steps", Value::Bool(true), "a number is expected"),
        ("d", "lamp", Value::Int(2), "a boolean is expected"),
        ("d", "setpoint", Value::Float(90.5), "`90.5` is out of range, 0 to 90 is allowed"),
        ("d", "fixed", Value::Int(1), "`fixed` is read-only"),
        ("d", "none", Value::Int(1), "`none` is not a point of this device"),
        ("e", "steps", Value::Int(1), "`e` is not on this link"),
    ] {
        let outcome = rig.write(device, point, value).await;
        assert_eq!((outcome.status, outcome.reason.as_deref()), (Status::Rejected, Some(reason)));
    }
    assert_eq!(sim.requests(), before);
    rig.stop().await;
}

#[tokio::test]
async fn a_device_that_confirms_and_does_not_do_it_is_found_out() {
    let sim = Simulator::start("127.0.0.1:0".parse().unwrap()).unwrap();
    sim.set_holding(12, &[5]);
    sim.set_stuck(true);
    let mut rig = Rig::start(sim.addr(), POINTS);
    rig.until_value("d", "steps", &Value::Uint(5)).await;
    let outcome = rig.write("d", "steps", Value::Int(6)).await;
    assert_eq!((outcome.status, outcome.value), (Status::Failed, Some(json!(5))));
    assert_eq!(outcome.reason.as_deref(), Some("the device confirmed the write, but holds 5"));
    rig.stop().await;
}

#[tokio::test]
async fn reads_on_demand_and_leaves_null_where_the_device_refuses() {
    let sim = Simulator::start("127.0.0.1:0".parse().unwrap()).unwrap();
    sim.set_holding(10, &[0, 0x4120, 3, 15]);
    sim.refuse(&[12..=12]);
    let mut rig = Rig::start(sim.addr(), POINTS);
    rig.until_quality("d", "steps", "BadNodeIdUnknown").await;
    let outcome = rig.read("d", &["setpoint", "steps", "tenths", "lamp"]).await;
    assert_eq!(outcome.status, Status::Ok);
    assert_eq!(outcome.value, Some(json!({"setpoint": 10.0, "steps": null, "tenths": 1.5, "lamp": false})));
    let outcome = rig.read("d", &["steps"]).await;
    assert_eq!((outcome.status, outcome.value), (Status::Failed, None));
    assert_eq!(outcome.reason.as_deref(), Some("the device has no such address (exception 2)"));
    let outcome = rig.write("d", "steps", Value::Int(1)).await;
    assert_eq!(outcome.status, Status::Rejected, "{outcome:?}");
    assert_eq!(rig.read("d", &["none"]).await.status, Status::Rejected);
    rig.stop().await;
}

#[tokio::test]
async fn a_dead_link_answers_at_once() {
    let sim = Simulator::start("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut rig = Rig::start(sim.addr(), POINTS);
    rig.until_value("d", "steps", &Value::Uint(0)).await;
    // No poll is due for a minute: the closed connection is noticed nevertheless.
    sim.stop().await;
    rig.until_offline("d").await;
    rig.until_link(LinkState::Down).await;
    for _ in 0..5 {
        let asked = Instant::now();
        let outcome = rig.write("d", "steps", Value::Int(1)).await;
        assert_eq!(outcome.status, Status::Failed);
        assert!(outcome.reason.as_deref().unwrap().starts_with("the link is down: can't connect"), "{outcome:?}");
        assert!(asked.elapsed() < Duration::from_millis(100), "{:?}", asked.elapsed());
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_write_without_an_answer_is_a_timeout_and_is_not_repeated() {
    let writes = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&writes);
    let peer = Peer::start(move |frame| {
        if frame.function() == 6 {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            return Reply::Silence;
        }
        Reply::Bytes(match frame.function() {
            1 => frame.wrap(&[1, 1, 0]),
            _ => frame.honest(0),
        })
    })
    .await;
    let mut rig = Rig::start(peer.address, POINTS);
    rig.until_value("d", "steps", &Value::Uint(12)).await;
    let outcome = rig.write("d", "steps", Value::Int(1)).await;
    assert_eq!(outcome.status, Status::Timeout);
    assert_eq!(outcome.reason.as_deref(), Some("no answer within 200ms: it may or may not have been written"));
    let outcome = rig.read("d", &["steps"]).await;
    assert_eq!((outcome.status, outcome.value), (Status::Ok, Some(json!({"steps": 12}))), "{:?}", outcome.reason);
    assert_eq!(writes.load(std::sync::atomic::Ordering::Relaxed), 1);
    rig.stop().await;
}

#[tokio::test]
async fn a_command_past_its_deadline_is_not_begun() {
    let sim = Simulator::start("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut rig = Rig::start(sim.addr(), POINTS);
    rig.until_value("d", "steps", &Value::Uint(0)).await;
    let request = Request::Write { point: PointName::new("steps").unwrap(), value: Value::Int(9) };
    let outcome = rig.command_by("d", request, Instant::now()).await;
    assert_eq!(outcome.status, Status::Timeout);
    assert_eq!(sim.holding(12), 0);
    rig.stop().await;
}

/// A device that knows only function codes 15 and 16, byte by byte as in the specification's examples.
#[tokio::test]
async fn falls_back_to_the_functions_for_several_values() {
    let memory = std::sync::Mutex::new((0_u16, 0_u8));
    let peer = Peer::start(move |frame| {
        let mut memory = memory.lock().unwrap();
        let pdu = &frame.bytes[7..];
        Reply::Bytes(match pdu {
            [5 | 6, ..] => frame.exception(1),
            [0x10, 0, 12, 0, 1, 2, high, low] => {
                memory.0 = u16::from_be_bytes([*high, *low]);
                frame.wrap(&[0x10, 0, 12, 0, 1])
            }
            [0x0F, 0, 4, 0, 1, 1, bits] => {
                memory.1 = bits & 1;
                frame.wrap(&[0x0F, 0, 4, 0, 1])
            }
            [3, 0, 12, 0, 1] => frame.registers(&[memory.0]),
            [1, 0, 4, 0, 1] => frame.wrap(&[1, 1, memory.1]),
            [3 | 4, ..] => frame.honest(0),
            _ => frame.exception(4),
        })
    })
    .await;
    let mut rig = Rig::start(peer.address, POINTS);
    rig.until_online("d").await;
    let outcome = rig.write("d", "steps", Value::Int(0x0102)).await;
    assert_eq!((outcome.status, outcome.value), (Status::Ok, Some(json!(0x0102))), "{:?}", outcome.reason);
    let outcome = rig.write("d", "lamp", Value::Bool(true)).await;
    assert_eq!((outcome.status, outcome.value), (Status::Ok, Some(json!(true))), "{:?}", outcome.reason);
    rig.stop().await;
}

#[tokio::test]
async fn a_busy_device_is_asked_again_a_few_times() {
    let asked = std::sync::Mutex::new(0);
    let peer = Peer::start(move |frame| {
        if frame.function() != 6 {
            return Reply::Bytes(if frame.function() == 1 { frame.wrap(&[1, 1, 0]) } else { frame.honest(0) });
        }
        let mut asked = asked.lock().unwrap();
        *asked += 1;
        Reply::Bytes(if *asked < 3 { frame.exception(6) } else { frame.bytes.clone() })
    })
    .await;
    let mut rig = Rig::start(peer.address, POINTS);
    rig.until_online("d").await;
    // Register 12 always reads 12 here.
    let outcome = rig.write("d", "steps", Value::Int(12)).await;
    assert_eq!((outcome.status, outcome.value), (Status::Ok, Some(json!(12))), "{:?}", outcome.reason);
    rig.stop().await;
}

#[tokio::test]
async fn a_false_confirmation_is_not_believed() {
    let peer = Peer::start(|frame| {
        let mut answer = frame.bytes.clone();
        if frame.function() == 6 {
            answer[11] ^= 1;
        } else if frame.function() == 1 {
            answer = frame.wrap(&[1, 1, 0]);
        } else {
            answer = frame.honest(0);
        }
        Reply::Bytes(answer)
    })
    .await;
    let mut rig = Rig::start(peer.address, POINTS);
    rig.until_online("d").await;
    let outcome = rig.write("d", "steps", Value::Int(12)).await;
    let reason = "bad answer: confirms another write: it may or may not have been written";
    assert_eq!((outcome.status, outcome.reason.as_deref()), (Status::Failed, Some(reason)));
    rig.stop().await;
}

#[tokio::test]
async fn commands_are_served_while_polls_never_rest() {
    let sim = Simulator::start("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut points = String::from("[[modbus.device]]\nid = \"d\"\ninterval = \"10ms\"\n");
    for n in 0..60 {
        let at = n * 20;
        let point = format!("name = \"p{n}\"\nat = \"holding:{at}\"\ntype = \"u16\"\naccess = \"rw\"\n");
        points += "[[modbus.device.point]]\n";
        points += &point;
    }
    let mut rig = Rig::start(sim.addr(), &points);
    rig.until_online("d").await;
    let mut longest = Duration::ZERO;
    for n in 0..150 {
        let asked = Instant::now();
        let outcome = rig.write("d", "p7", Value::Int(n)).await;
        assert_eq!((outcome.status, outcome.value), (Status::Ok, Some(json!(n))));
        longest = longest.max(asked.elapsed());
    }
    assert!(longest < Duration::from_millis(500), "{longest:?}");
    assert!(rig.seen.iter().any(|u| matches!(u, Update::Samples { samples, .. } if samples.len() > 1)), "polls go on");
    rig.stop().await;
}

const CODES: &str = r#"
timeout = "500ms"
[[modbus.device]]
id = "d"
interval = "60s"
[[modbus.device.point]]
name = "bit"
at = "holding:10.3"
access = "rw"
[[modbus.device.point]]
name = "bit by register"
at = "holding:10.4"
access = "rw"
write = "multiple"
[[modbus.device.point]]
name = "auto"
at = "holding:12"
type = "u32"
access = "rw"
[[modbus.device.point]]
name = "single"
at = "holding:14"
type = "u32"
access = "rw"
write = "single"
[[modbus.device.point]]
name = "multiple"
at = "holding:16"
type = "u16"
access = "rw"
write = "multiple"
[[modbus.device.point]]
name = "both"
at = "holding:17"
type = "f32"
order = "CDAB"
access = "rw"
write = "read-write"
[[modbus.device.point]]
name = "mode"
at = "holding:19"
type = "u16"
access = "rw"
enum = { 0 = "off", 5 = "auto" }
"#;

/// A device that notes the function codes of its writes; it knows 1 to 4 and `known`.
async fn noting(known: &'static [u8]) -> (Peer, Arc<Mutex<Vec<u8>>>) {
    let noted: Arc<Mutex<Vec<u8>>> = Arc::default();
    let (codes, mut memory) = (Arc::clone(&noted), [0_u16; 32]);
    memory[10] = 0x0F00;
    let memory = Mutex::new(memory);
    let peer = Peer::start(move |frame| {
        let mut memory = memory.lock().unwrap();
        let (code, at) = (frame.function(), usize::from(frame.address()));
        if code > 4 {
            if !known.contains(&code) {
                return Reply::Bytes(frame.exception(1));
            }
            codes.lock().unwrap().push(code);
        }
        let word = |at: usize| u16::from_be_bytes([frame.bytes[at], frame.bytes[at + 1]]);
        let mut fill = |from: usize, count: usize| (0..count).for_each(|i| memory[at + i] = word(from + 2 * i));
        match code {
            6 => fill(10, 1),
            16 => fill(13, frame.count().into()),
            23 => fill(17, frame.count().into()),
            22 => memory[at] = memory[at] & word(10) | word(12) & !word(10),
            _ => {}
        }
        Reply::Bytes(match code {
            3 | 23 => frame.registers(&memory[at..at + usize::from(frame.count())]),
            16 => frame.wrap(&frame.bytes[7..12]),
            _ => frame.wrap(&frame.bytes[7..]),
        })
    })
    .await;
    (peer, noted)
}

#[tokio::test]
async fn writes_with_the_function_code_that_is_asked_for_and_tells_old_and_new() {
    let (peer, noted) = noting(&[6, 16, 22, 23]).await;
    let mut rig = Rig::start(peer.address, CODES);
    rig.until_value("d", "bit", &Value::Bool(false)).await;
    for (point, value, codes, old) in [
        ("bit", Value::Bool(true), &[22][..], Value::Bool(false)),
        ("bit by register", Value::Bool(true), &[16], Value::Bool(false)),
        ("auto", Value::Uint(0x1_0002), &[16], Value::Uint(0)),
        ("single", Value::Uint(0x1_0002), &[6, 6], Value::Uint(0)),
        ("multiple", Value::Uint(3), &[16], Value::Uint(0)),
        ("both", Value::Float(1.5), &[23], Value::Float(0.0)),
        ("mode", Value::Text("auto".into()), &[6], Value::Text("off".into())),
        ("bit", Value::Bool(false), &[22], Value::Bool(true)),
    ] {
        let outcome = rig.write("d", point, value.clone()).await;
        assert_eq!((outcome.status, &outcome.value), (Status::Ok, &value.to_json()), "{point} {:?}", outcome.reason);
        assert_eq!(std::mem::take(&mut *noted.lock().unwrap()), codes, "{point}");
        let point = PointName::new(point).unwrap();
        assert_eq!(outcome.changes, [Change { point, old: Some(old), new: Some(value) }]);
    }
    let outcome = rig.read("d", &["bit", "bit by register"]).await;
    assert_eq!(outcome.value, Some(json!({"bit": false, "bit by register": true})));
    rig.stop().await;
}

#[tokio::test]
async fn a_device_without_the_mask_write_keeps_the_other_bits() {
    let (peer, noted) = noting(&[6]).await;
    let mut rig = Rig::start(peer.address, CODES);
    rig.until_value("d", "bit", &Value::Bool(false)).await;
    let outcome = rig.write("d", "bit", Value::Bool(true)).await;
    assert_eq!((outcome.status, outcome.value), (Status::Ok, Some(json!(true))), "{:?}", outcome.reason);
    assert_eq!(*noted.lock().unwrap(), [6]);
    let outcome = rig.write("d", "both", Value::Int(1)).await;
    assert_eq!(outcome.status, Status::Rejected, "asked for function 23, which the device does not know");
    rig.stop().await;
}
