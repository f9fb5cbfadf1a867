//! A simulated Modbus TCP device: telemetry, its loss and return, commands.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use fieldgate_modbus::sim::Simulator;
use fieldgate_testkit::Gateway;
use serde_json::{Value as Json, json};

use crate::stage::{BINARY, Stage, Told, now_millis};

/// After the server's return.
const BACK_WITHIN: Duration = Duration::from_secs(10);

const SETPOINT: u16 = 10;

fn sections(at: SocketAddr) -> String {
    format!(
        r#"
[[modbus]]
url = "tcp://{at}"
timeout = "500ms"
  [[modbus.device]]
  id = "press-1"
  unit = 1
  interval = "100ms"
    [[modbus.device.point]]
    name = "temperature"
    at = "holding:0"
    type = "f32"
    order = "CDAB"
    [[modbus.device.point]]
    name = "setpoint"
    at = "holding:{SETPOINT}"
    type = "u16"
    access = "rw"
    range = [0, 90]
    unit = "bar"
    description = "of the pump"
    [[modbus.device.point]]
    name = "level"
    at = "input:3"
    type = "i16"
    scale = 0.1
    [[modbus.device.point]]
    name = "running"
    at = "coil:0"
    access = "rw"
"#
    )
}

/// A float in two registers, the low word first.
fn cdab(value: f32) -> [u16; 2] {
    let [a, b, c, d] = value.to_be_bytes();
    [u16::from_be_bytes([c, d]), u16::from_be_bytes([a, b])]
}

fn simulator(at: SocketAddr) -> std::io::Result<Simulator> {
    let device = Simulator::start(at)?;
    device.set_holding(0, &cdab(21.5));
    device.set_holding(SETPOINT, &[40]);
    // -12.5 with the scale of the point.
    device.set_input(3, &[(-125_i16).cast_unsigned()]);
    device.set_coils(0, &[true]);
    Ok(device)
}

async fn cast() -> anyhow::Result<(Stage, Simulator)> {
    let device = simulator("127.0.0.1:0".parse()?)?;
    let stage = Stage::start("line-1", &sections(device.addr())).await?;
    Ok((stage, device))
}

#[tokio::test]
async fn values_arrive_and_changes_alone_follow() -> Told {
    let began = now_millis();
    let (stage, device) = cast().await?;
    let all = stage.first_values("press-1", 0).await?;
    assert_eq!(json!(all), json!({"temperature":21.5,"setpoint":40,"level":-12.5,"running":true}));
    let first = stage.wait_points("press-1", 0, |_| true).await?;
    assert!(first.get("errors").is_none(), "{first}");
    assert!(first["ts"].as_u64().is_some_and(|ts| (began..=now_millis()).contains(&ts)), "{first}");

    let known = stage.documents("press-1");
    device.set_holding(0, &cdab(22.0));
    let second = stage.wait_points("press-1", known, |_| true).await?;
    assert_eq!(second["values"], json!({"temperature":22.0}), "{second}");

    // Other points go on where one can't be read.
    device.refuse(&[3..=3]);
    let refused = stage.wait_points("press-1", known, |object| object["errors"]["level"].is_string()).await?;
    assert!(refused["errors"].as_object().is_some_and(|errors| errors.len() == 1), "{refused}");
    device.set_holding(0, &cdab(23.0));
    stage.wait_points("press-1", known, |object| object["values"]["temperature"] == 23.0).await?;
    let state = stage.cloud.retained(&stage.topic("devices/press-1/state")).await?.json();
    assert_eq!((&state["online"], &state["via"]), (&json!(true), &json!("modbus")), "{state}");
    let birth = stage.cloud.retained(&stage.topic("devices/press-1/birth")).await?.json();
    let setpoint = json!({ "name": "setpoint", "type": "u16", "unit": "bar", "description": "of the pump", "access": "rw", "range": [0.0, 90.0] });
    assert_eq!((&birth["via"], &birth["points"][1]), (&json!("modbus"), &setpoint), "{birth}");
    Ok(())
}

#[tokio::test]
async fn a_lost_device_is_said_to_be_offline_and_comes_back() -> Told {
    let (stage, device) = cast().await?;
    stage.wait_points("press-1", 0, |_| true).await?;
    let (at, known) = (device.addr(), stage.documents("press-1"));
    device.stop().await;
    let lost =
        stage.wait_points("press-1", known, |object| object["errors"]["temperature"] == "BadNoCommunication").await?;
    assert_eq!(lost["errors"].as_object().map(serde_json::Map::len), Some(4), "{lost}");
    assert_eq!(lost["values"], json!({}), "a stale value is never repeated as good: {lost}");
    let topic = stage.topic("devices/press-1/state");
    let state = stage.cloud.wait_for(&topic, |message| message.json()["online"] == false).await?.json();
    assert!(state["reason"].is_string(), "{state}");
    let status = stage.gateway.status().await?;
    assert!(status["problems"].to_string().contains(&at.to_string()), "{status}");
    let refused = stage.command("press-1", "read", "off", r#"{"points":["level"],"timeout_ms":2000}"#).await?;
    assert_ne!(refused["status"], "ok", "{refused}");

    let known = stage.documents("press-1");
    let device = simulator(at)?;
    let returned = Instant::now();
    stage.wait_points("press-1", known, |object| object["values"]["temperature"] == 21.5).await?;
    println!("values {:?} after the device's return", returned.elapsed());
    assert!(returned.elapsed() <= BACK_WITHIN, "{:?}", returned.elapsed());
    let all = stage.first_values("press-1", known).await?;
    assert_eq!(json!(all), json!({"temperature":21.5,"setpoint":40,"level":-12.5,"running":true}), "every point");
    let online = || stage.cloud.on(&topic).last().filter(|message| message.json()["online"] == true).cloned();
    fieldgate_testkit::wait_until("the state", fieldgate_testkit::PATIENCE, online).await?;
    drop(device);
    Ok(())
}

#[tokio::test]
async fn a_device_that_is_not_there_holds_up_nobody() -> Told {
    let nobody = fieldgate_testkit::port::free_address()?;
    let device = simulator("127.0.0.1:0".parse()?)?;
    let absent = sections(nobody).replace("press-1", "press-9");
    let stage = Stage::start("line-1", &format!("{absent}{}", sections(device.addr()))).await?;
    stage.wait_points("press-1", 0, |object| object["values"]["temperature"] == 21.5).await?;
    let status = stage.gateway.status().await?;
    assert!(status["problems"].to_string().contains(&nobody.to_string()), "{status}");
    let state = stage.cloud.wait_for(&stage.topic("devices/press-9/state"), |m| m.json()["online"] == false).await;
    assert!(state.is_ok(), "{state:?}");
    Ok(())
}

#[tokio::test]
async fn writes_and_reads_are_answered_once_with_what_the_device_holds() -> Told {
    let (stage, device) = cast().await?;
    stage.wait_points("press-1", 0, |_| true).await?;
    let write = |value: &str| format!(r#"{{"point":"setpoint","value":{value}}}"#);
    let answer = stage.command("press-1", "write", "a", &write("42")).await?;
    assert_eq!(answer, json!({"rid":"a","status":"ok","value":42}));
    assert_eq!(device.holding(SETPOINT), 42);
    let known = stage.documents("press-1");
    let coil = stage.command("press-1", "write", "b", r#"{"point":"running","value":false}"#).await?;
    assert_eq!((&coil["status"], device.coil(0)), (&json!("ok"), false), "{coil}");
    stage.wait_points("press-1", known, |object| object["values"]["running"] == false).await?;
    let read = stage.command("press-1", "read", "c", r#"{"points":["setpoint","level"]}"#).await?;
    assert_eq!((&read["status"], &read["value"]["setpoint"]), (&json!("ok"), &json!(42)), "{read}");

    let refused = [
        ("d", write("91"), "90"),
        ("e", r#"{"point":"level","value":1}"#.to_owned(), "read-only"),
        ("f", r#"{"point":"none","value":1}"#.to_owned(), "none"),
        ("g", write("\"hot\""), "number"),
        ("h", write("1.5"), ""),
        ("i", "not json".to_owned(), "write"),
    ];
    for (rid, payload, word) in &refused {
        let answer = stage.command("press-1", "write", rid, payload).await?;
        assert_eq!(answer["status"], "rejected", "{payload}: {answer}");
        assert!(answer["reason"].as_str().is_some_and(|reason| reason.contains(word)), "{payload}: {answer}");
    }
    let reboot = stage.command("press-1", "reboot", "j", "").await?;
    assert_eq!(reboot["status"], "rejected", "{reboot}");
    assert_eq!(device.holding(SETPOINT), 42, "nothing of it was written");

    // The same request again is not carried out again.
    device.set_holding(SETPOINT, &[7]);
    stage.send_command("press-1", "write", "a", &write("42")).await?;
    stage.command("press-1", "read", "fence", r#"{"points":["setpoint"]}"#).await?;
    assert_eq!(device.holding(SETPOINT), 7);
    for rid in ["a", "b", "d", "e", "f", "g", "h", "i"] {
        assert_eq!(stage.cloud.on(&stage.result_topic("press-1", "write", rid)).len(), 1, "answers to {rid}");
    }
    Ok(())
}

#[tokio::test]
async fn a_write_that_does_not_stick_is_not_ok() -> Told {
    let (stage, device) = cast().await?;
    stage.wait_points("press-1", 0, |_| true).await?;
    device.set_stuck(true);
    let answer = stage.command("press-1", "write", "a", r#"{"point":"setpoint","value":42}"#).await?;
    assert_eq!(answer["status"], "failed", "{answer}");
    device.set_stuck(false);
    device.set_silent(1, true);
    let silent = stage.command("press-1", "write", "b", r#"{"point":"setpoint","value":43,"timeout_ms":1500}"#).await?;
    assert!(silent["status"] == "timeout" || silent["status"] == "failed", "{silent}");
    Ok(())
}

#[tokio::test]
async fn points_are_shown_read_and_written_from_the_shell() -> Told {
    let (stage, device) = cast().await?;
    stage.wait_points("press-1", 0, |_| true).await?;
    let gateway = &stage.gateway;
    let list = gateway.verb(&["point", "list"]).await?.ok()?;
    assert!(
        list.lines().any(|line| line.contains("press-1") && line.contains("setpoint") && line.contains("rw")),
        "{list}"
    );
    assert_eq!(gateway.verb(&["point", "read", "press-1", "temperature"]).await?.ok()?.trim(), "21.5");
    assert_eq!(gateway.verb(&["point", "write", "press-1", "setpoint", "33"]).await?.ok()?.trim(), "33");
    assert_eq!(device.holding(SETPOINT), 33);
    let refused = gateway.verb(&["point", "write", "press-1", "setpoint", "500"]).await?;
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("rejected"), "{}", refused.stderr);
    Ok(())
}

#[tokio::test]
async fn points_are_listed_read_written_and_watched_without_a_running_gateway() -> Told {
    let device = simulator("127.0.0.1:0".parse()?)?;
    let gateway = Gateway::new(BINARY, "line-1", &sections(device.addr()))?;
    let list: Json = serde_json::from_str(&gateway.verb(&["point", "list", "--json"]).await?.ok()?)?;
    assert_eq!(list.as_array().map(Vec::len), Some(4), "{list}");
    let read = gateway.verb(&["point", "read", "press-1", "temperature"]).await?;
    assert!(read.stderr.contains("no gateway runs") && read.stdout == "21.5\n", "{read:?}");
    let written = gateway.verb(&["point", "write", "press-1", "setpoint", "42"]).await?.ok()?;
    assert_eq!((written.as_str(), device.holding(SETPOINT)), ("42\n", 42));
    let refused = gateway.verb(&["point", "write", "press-1", "setpoint", "91"]).await?;
    assert!(refused.code == Some(1) && refused.stderr.contains("0 to 90 is allowed"), "{refused:?}");
    let lines = gateway.verb(&["audit"]).await?.ok()?;
    assert!(lines.contains("\"old\":40,\"new\":42,\"by\":\"admin\""), "{lines}");

    let watched = gateway.verb(&["point", "watch", "press-1", "--every", "20ms", "--count", "3"]).await?.ok()?;
    assert_eq!(watched.lines().count(), 4, "what doesn't change is told once: {watched}");
    assert!(watched.contains("press-1 setpoint 42\n") && watched.contains("press-1 level -12.5\n"), "{watched}");
    device.set_silent(1, true);
    let silent = gateway.verb(&["point", "read", "press-1", "temperature"]).await?;
    assert!(silent.code == Some(1) && silent.stderr.contains("does not answer"), "{silent:?}");
    Ok(())
}
