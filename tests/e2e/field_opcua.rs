//! A simulated OPC UA server: telemetry with source times, its loss and return, commands, security.

use std::time::{Duration, Instant};

use fieldgate_opcua::sim::{NAMESPACE, Options, Simulator};
use fieldgate_testkit::{Gateway, PATIENCE, eventually};
use serde_json::{Value as Json, json};

use crate::leaf_rights::wait_audit;
use crate::stage::{BINARY, Stage, Told, now_millis, objects};

/// After the server's return.
const BACK_WITHIN: Duration = Duration::from_secs(10);

fn sections(endpoint: &str, security: &str) -> String {
    let point = |name: &str, rest: &str| {
        format!("    [[opcua.device.point]]\n    name = \"{name}\"\n    node = \"nsu={NAMESPACE};s={name}\"\n{rest}")
    };
    format!(
        "[[opcua]]\nendpoint = \"{endpoint}\"\n{security}\n  [[opcua.device]]\n  id = \"boiler-1\"\n  \
         publishing = \"100ms\"\n  sampling = \"50ms\"\n{}{}{}{}    [[opcua.device.method]]\n    name = \"add\"\n    \
         node = \"nsu={NAMESPACE};s=add\"\n    object = \"i=85\"\n    [[opcua.device.event]]\n    min_severity = 300\n",
        point("level", ""),
        point("setpoint", "    access = \"rw\"\n    range = [0, 90]\n"),
        point("running", ""),
        point("missing", ""),
    )
}

async fn cast(options: Options, security: &str) -> anyhow::Result<(Stage, Simulator)> {
    let server = Simulator::start("127.0.0.1:0".parse()?, options)?;
    let stage = Stage::start("line-1", &sections(&server.endpoint(), security)).await?;
    Ok((stage, server))
}

#[tokio::test]
async fn values_arrive_with_source_times_and_a_missing_node_is_said() -> Told {
    let folder = tempfile::tempdir()?;
    let (stage, server) = cast(Options::new(folder.path()), "security = \"None\"").await?;
    let level = stage.wait_points("boiler-1", 0, |object| object["values"]["level"] == 50.0).await?;
    assert!(level["ts"].is_u64(), "{level}");
    stage.wait_points("boiler-1", 0, |object| object["values"]["running"] == true).await?;
    let missing = stage.wait_points("boiler-1", 0, |object| object["errors"]["missing"].is_string()).await?;
    assert_eq!(missing["errors"]["missing"], "BadNodeIdUnknown", "{missing}");

    let known = stage.documents("boiler-1");
    let before = now_millis();
    server.set("level", 51.25)?;
    let after = now_millis();
    let changed = stage.wait_points("boiler-1", known, |object| object["values"]["level"] == 51.25).await?;
    let source = changed["ts"].as_u64().unwrap_or_default();
    assert!((before..=after).contains(&source), "the source time is {source}, the value was set in {before}..={after}");

    server.fail("level")?;
    let failed = stage.wait_points("boiler-1", known, |object| object["errors"]["level"].is_string()).await?;
    assert_eq!(failed["errors"]["level"], "BadSensorFailure", "{failed}");
    // A node that turns up is found.
    server.add("missing", 1.0);
    stage.wait_points("boiler-1", known, |object| object["values"]["missing"] == 1.0).await?;
    let state = stage.cloud.retained(&stage.topic("devices/boiler-1/state")).await?.json();
    assert_eq!((&state["online"], &state["via"]), (&json!(true), &json!("opcua")), "{state}");
    Ok(())
}

#[tokio::test]
async fn an_event_of_the_server_goes_up_on_a_stream_of_its_own() -> Told {
    let folder = tempfile::tempdir()?;
    let (stage, server) = cast(Options::new(folder.path()), "security = \"None\"").await?;
    stage.wait_points("boiler-1", 0, |object| object["values"]["level"] == 50.0).await?;
    let before = now_millis();
    server.raise("warm", 299);
    server.raise("too hot", 300);
    let topic = stage.topic("devices/boiler-1/telemetry/events");
    let first = || stage.cloud.on(&topic).iter().flat_map(objects).next();
    let told = fieldgate_testkit::wait_until("an event", PATIENCE, first).await?;
    let event = (&told["event"]["Message"], &told["event"]["Severity"], &told["event"]["EventType"]);
    assert_eq!(event, (&json!("too hot"), &json!(300), &json!("BaseEventType")), "{told}");
    assert!(told["ts"].as_u64().is_some_and(|at| (before..=now_millis()).contains(&at)), "{told}");
    assert!(told.get("refresh").is_none(), "{told}");
    Ok(())
}

#[tokio::test]
async fn a_lost_server_is_said_to_be_offline_and_values_come_back() -> Told {
    let folder = tempfile::tempdir()?;
    let (stage, server) = cast(Options::new(folder.path()), "security = \"None\"").await?;
    stage.wait_points("boiler-1", 0, |object| object["values"]["level"] == 50.0).await?;
    let topic = stage.topic("devices/boiler-1/state");
    for round in 0..2 {
        let known = stage.documents("boiler-1");
        server.stop();
        let lost =
            stage.wait_points("boiler-1", known, |object| object["errors"]["level"] == "BadNoCommunication").await?;
        assert!(lost["values"].as_object().is_none_or(serde_json::Map::is_empty), "{lost}");
        let last = || stage.cloud.on(&topic).last().filter(|message| message.json()["online"] == false).cloned();
        fieldgate_testkit::wait_until("offline", fieldgate_testkit::PATIENCE, last).await?;
        assert!(stage.gateway.status().await?["problems"].to_string().contains("opc.tcp"));

        let known = stage.documents("boiler-1");
        server.restart()?;
        let returned = Instant::now();
        stage.wait_points("boiler-1", known, |object| object["values"]["level"].is_number()).await?;
        println!("round {round}: values {:?} after the server's return", returned.elapsed());
        assert!(returned.elapsed() <= BACK_WITHIN, "{:?}", returned.elapsed());
        let known = stage.documents("boiler-1");
        server.set("level", 60.0 + f64::from(round))?;
        stage.wait_points("boiler-1", known, |object| object["values"]["level"] == 60.0 + f64::from(round)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn writes_and_reads_are_answered_with_what_the_server_holds() -> Told {
    let folder = tempfile::tempdir()?;
    let (stage, server) = cast(Options::new(folder.path()), "security = \"None\"").await?;
    stage.wait_points("boiler-1", 0, |object| object["values"]["level"] == 50.0).await?;
    let answer = stage.command("boiler-1", "write", "a", r#"{"point":"setpoint","value":42.5}"#).await?;
    assert_eq!(answer, json!({"rid":"a","status":"ok","value":42.5}));
    assert_eq!(server.get("setpoint"), Some(42.5));
    let read = stage.command("boiler-1", "read", "b", r#"{"points":["setpoint","level"]}"#).await?;
    assert_eq!((&read["status"], &read["value"]), (&json!("ok"), &json!({"setpoint":42.5,"level":50.0})), "{read}");
    let refused = [
        ("c", r#"{"point":"setpoint","value":90.5}"#, "90"),
        ("d", r#"{"point":"level","value":1}"#, "read-only"),
        ("e", r#"{"point":"none","value":1}"#, "none"),
    ];
    for (rid, payload, word) in refused {
        let answer = stage.command("boiler-1", "write", rid, payload).await?;
        assert_eq!(answer["status"], "rejected", "{payload}: {answer}");
        assert!(answer["reason"].as_str().is_some_and(|reason| reason.contains(word)), "{payload}: {answer}");
    }
    assert_eq!(server.get("setpoint"), Some(42.5));
    stage.send_command("boiler-1", "write", "a", r#"{"point":"setpoint","value":1}"#).await?;
    stage.command("boiler-1", "read", "fence", r#"{"points":["setpoint"]}"#).await?;
    assert_eq!(server.get("setpoint"), Some(42.5), "a request id is carried out once");
    assert_eq!(stage.cloud.on(&stage.result_topic("boiler-1", "write", "a")).len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_method_is_called_from_upstream_and_every_call_is_audited() -> Told {
    let folder = tempfile::tempdir()?;
    let (stage, _server) = cast(Options::new(folder.path()), "security = \"None\"").await?;
    stage.wait_points("boiler-1", 0, |object| object["values"]["level"] == 50.0).await?;
    let answer = stage.command("boiler-1", "call", "a", r#"{"method":"add","arguments":[40.5,2]}"#).await?;
    assert_eq!(answer, json!({"rid":"a","status":"ok","value":42.5}));
    let refused = stage.command("boiler-1", "call", "b", r#"{"method":"reset"}"#).await?;
    assert_eq!(refused["status"], "rejected", "{refused}");
    let line = r#""method":"add","arguments":[40.5,2],"by":"upstream","status":"ok""#;
    wait_audit(&stage.gateway, &["field_call", line]).await?;
    wait_audit(&stage.gateway, &["field_call", r#""method":"reset""#, "has no method `reset`"]).await?;
    Ok(())
}

#[tokio::test]
async fn a_signed_and_encrypted_session_with_a_user_name_works_and_a_wrong_password_is_said() -> Told {
    let folder = tempfile::tempdir()?;
    let options = Options {
        anonymous: false,
        secure: true,
        user: Some(("op".to_owned(), "secret".to_owned())),
        ..Options::new(folder.path().join("server"))
    };
    let password = folder.path().join("op.password");
    std::fs::write(&password, "wrong\n")?;
    let security = format!(
        "security = \"Basic256Sha256\"\nmode = \"SignAndEncrypt\"\ntrust = \"first-use\"\n\
         auth = {{ username = \"op\", password_file = \"{}\" }}",
        password.display()
    );
    let (stage, _server) = cast(options, &security).await?;
    fieldgate_testkit::eventually("the refusal in status", fieldgate_testkit::PATIENCE, async || {
        let problems = stage.gateway.status().await?["problems"].to_string();
        let said = problems.contains("opc.tcp") && problems.to_lowercase().contains("password");
        Ok(said.then_some(()))
    })
    .await?;
    std::fs::write(&password, "secret\n")?;
    stage.wait_points("boiler-1", 0, |object| object["values"]["level"] == 50.0).await?;
    Ok(())
}

#[tokio::test]
async fn a_servers_certificate_is_accepted_by_verb_and_its_nodes_become_a_point_list() -> Told {
    let folder = tempfile::tempdir()?;
    let server = Simulator::start(
        "127.0.0.1:0".parse()?,
        Options { secure: true, ..Options::new(folder.path().join("server")) },
    )?;
    let endpoint = server.endpoint();
    let section = |points: &str| {
        format!("[[opcua]]\nendpoint = \"{endpoint}\"\n  [[opcua.device]]\n  id = \"boiler-1\"\n  {points}\n")
    };
    let first = format!("[[opcua.device.point]]\n  name = \"first\"\n  node = \"nsu={NAMESPACE};/level\"");
    let mut gateway = Gateway::start_new(BINARY, "line-1", &section(&first)).await?;
    let problem = eventually("the refusal in status", PATIENCE, async || {
        let problems = gateway.status().await?["problems"].to_string();
        Ok(problems.contains("fieldgate opcua trust accept").then_some(problems))
    })
    .await?;
    let listed: Json = serde_json::from_str(&gateway.verb(&["opcua", "trust", "list", "--json"]).await?.ok()?)?;
    let thumbprint = listed[0]["thumbprint"].as_str().unwrap_or_default();
    assert!(problem.contains(thumbprint) && listed[0]["standing"] == "rejected", "{problem}: {listed}");
    let unknown = gateway.verb(&["opcua", "trust", "accept", "00ff"]).await?;
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    gateway.verb(&["opcua", "trust", "accept", &thumbprint[..10]]).await?.ok()?;
    eventually("a value", PATIENCE, async || {
        let read = gateway.verb(&["point", "read", "boiler-1", "first"]).await?;
        Ok((read.stdout.trim() == "50.0").then_some(()))
    })
    .await?;

    let tree: Json = serde_json::from_str(&gateway.verb(&["opcua", "browse", &endpoint, "--json"]).await?.ok()?)?;
    let found = tree["nodes"].as_array().is_some_and(|all| all.iter().any(|node| node["name"] == "setpoint"));
    assert!(found, "{tree}");
    let list = gateway.folder().join("boiler.toml");
    let list_text = list.display().to_string();
    gateway.verb(&["opcua", "browse", &endpoint, "--points", &list_text, "--name", "sim {name}"]).await?.ok()?;
    gateway.stop().await?;
    gateway.configure(&section("points_from = \"boiler.toml\""))?;
    gateway.start().await?;
    eventually("a value of the list", PATIENCE, async || {
        let read = gateway.verb(&["point", "read", "boiler-1", "sim temperature"]).await?;
        Ok((read.stdout.trim() == "20.0").then_some(()))
    })
    .await?;

    let show = async || -> anyhow::Result<Json> {
        Ok(serde_json::from_str(&gateway.verb(&["opcua", "cert", "show", "--json"]).await?.ok()?)?)
    };
    let before = show().await?;
    assert!(gateway.verb(&["opcua", "cert", "export"]).await?.ok()?.starts_with("-----BEGIN CERTIFICATE-----\n"));
    gateway.verb(&["opcua", "cert", "renew"]).await?.ok()?;
    let after = show().await?;
    assert_ne!(before["thumbprint"], after["thumbprint"]);
    assert_eq!(before["application_uri"], after["application_uri"]);
    Ok(())
}

#[tokio::test]
async fn what_is_found_below_a_node_is_told_in_the_birth_and_read_as_all_points_are() -> Told {
    let folder = tempfile::tempdir()?;
    let server = Simulator::start("127.0.0.1:0".parse()?, Options::new(folder.path()))?;
    let sections = format!(
        "[[opcua]]\nendpoint = \"{}\"\nsecurity = \"None\"\n  [[opcua.device]]\n  id = \"boiler-1\"\n  publishing = \"100ms\"\n  \
         sampling = \"50ms\"\n    [[opcua.device.point]]\n    name = \"target\"\n    node = \"nsu={NAMESPACE};s=setpoint\"\n    \
         access = \"rw\"\n    [[opcua.device.subtree]]\n    node = \"i=85\"\n    name = \"plant {{name}}\"\n    [[opcua.device.subtree]]\n    \
         node = \"i=2253\"\n    limit = 3\n",
        server.endpoint()
    );
    let mut stage = Stage::start("line-1", &sections).await?;
    stage.wait_points("boiler-1", 0, |object| object["values"]["plant level"] == 50.0).await?;
    let birth = stage.cloud.retained(&stage.topic("devices/boiler-1/birth")).await?.json();
    let points = birth["points"].as_array().cloned().unwrap_or_default();
    // The simulator's own, which it can't leave out, is `LastChange`.
    assert_eq!((points.len(), &points[0]["name"]), (1 + 9 + 3, &json!("target")), "{birth}");
    let level = json!({ "name": "plant level", "type": "Double", "access": "r" });
    assert!(points.contains(&level) && points.iter().all(|point| point["name"] != "plant setpoint"), "{birth}");
    let read = stage.command("boiler-1", "read", "a", r#"{"points":["plant level"]}"#).await?;
    assert_eq!(read, json!({"rid":"a","status":"ok","value":{"plant level":50.0}}));
    let refused = stage.command("boiler-1", "write", "b", r#"{"point":"plant speed","value":1}"#).await?;
    assert_eq!(refused["status"], "rejected", "{refused}");
    let listed: Json = serde_json::from_str(&stage.gateway.verb(&["point", "list", "--json"]).await?.ok()?)?;
    assert_eq!(listed.as_array().map(Vec::len), Some(13), "{listed}");
    let diag = stage.gateway.verb(&["diag"]).await?.stdout;
    assert!(diag.contains(" variables below `i=2253` are left out, limit = 3 is reached"), "{diag}");

    // Without a gateway they are found for the verb, and only where they are asked for.
    stage.gateway.stop().await?;
    let list = stage.gateway.verb(&["point", "list", "--json"]).await?;
    assert!(list.stderr.contains("`boiler-1` has further points"), "{list:?}");
    assert!(list.stdout.contains("target") && !list.stdout.contains("plant"), "{list:?}");
    assert_eq!(stage.gateway.verb(&["point", "read", "boiler-1", "plant temperature"]).await?.ok()?, "20.0\n");
    assert_eq!(stage.gateway.verb(&["point", "read", "boiler-1", "target"]).await?.ok()?, "42.0\n");
    let absent = stage.gateway.verb(&["point", "read", "boiler-1", "plant setpoint"]).await?;
    assert!(absent.code == Some(1) && absent.stderr.contains("has no point"), "{absent:?}");
    let watched = stage.gateway.verb(&["point", "watch", "boiler-1", "--count", "1"]).await?.ok()?;
    assert!(watched.lines().count() == 13 && watched.contains("boiler-1 plant level 50.0\n"), "{watched}");
    let checked = stage.gateway.verb(&["check"]).await?.ok()?;
    assert!(checked.contains("`boiler-1`: the points below `i=85` are found when the server is browsed"), "{checked}");
    Ok(())
}
