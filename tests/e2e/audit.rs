//! The audit log: a chain that shows what was edited, removed or cut off, over kills and restarts.

use std::path::PathBuf;

use fieldgate_modbus::sim::Simulator;
use fieldgate_testkit::{Gateway, Verb};
use serde_json::{Value as Json, json};

use crate::leaf_rights::wait_audit;
use crate::stage::{BINARY, Told};

fn log(gateway: &Gateway) -> PathBuf {
    gateway.data_dir().join("audit/audit.jsonl")
}

async fn verify(gateway: &Gateway) -> anyhow::Result<(Verb, Json)> {
    let shown = gateway.verb(&["audit", "--verify", "--json"]).await?;
    let verdict = serde_json::from_str(&shown.stdout)?;
    Ok((shown, verdict))
}

async fn whole(gateway: &Gateway) -> anyhow::Result<u64> {
    let (shown, verdict) = verify(gateway).await?;
    assert_eq!((shown.code, &verdict["ok"]), (Some(0), &json!(true)), "{shown:?}");
    assert_eq!((&verdict["from"]["n"], &verdict["to"]["n"]), (&json!(1), &verdict["lines"]), "{verdict}");
    let words = gateway.verb(&["audit", "--verify"]).await?.ok()?;
    assert!(words.contains("lines are whole: 1 of"), "{words}");
    verdict["lines"].as_u64().ok_or_else(|| anyhow::anyhow!("no number of lines"))
}

/// The words about the break.
async fn broken(gateway: &Gateway, what: &str) -> anyhow::Result<String> {
    let (shown, verdict) = verify(gateway).await?;
    assert_eq!((shown.code, &verdict["broken"]["what"]), (Some(1), &json!(what)), "{shown:?}");
    let words = gateway.verb(&["audit", "--verify"]).await?;
    assert_eq!(words.code, Some(1), "{words:?}");
    Ok(words.stderr)
}

#[tokio::test]
async fn the_chain_is_whole_while_it_runs_after_a_kill_and_without_a_gateway() -> Told {
    let mut gateway = Gateway::new(BINARY, "line-1", "")?;
    assert_eq!(gateway.verb(&["audit", "--verify"]).await?.ok()?, "no line is in the chain\n");
    gateway.add_device("press-1").await?;
    let offline = whole(&gateway).await?;
    assert!(offline >= 1, "{offline}");
    let mut lines = offline;
    for n in 0..3 {
        gateway.start().await?;
        let id = format!("screen-{n}");
        gateway.add_device(&id).await?;
        wait_audit(&gateway, &["device_added", &id]).await?;
        let running = whole(&gateway).await?;
        assert!(running >= lines + 2, "{running} after {lines}");
        if n == 1 {
            gateway.stop().await?;
        } else {
            gateway.kill()?;
        }
        lines = whole(&gateway).await?;
        assert!(lines >= running, "{lines} after {running}");
    }
    Ok(())
}

#[tokio::test]
async fn what_was_edited_moved_or_cut_off_is_named_and_stays_so_over_a_start() -> Told {
    let mut gateway = Gateway::start_new(BINARY, "line-1", "").await?;
    for n in 1..=4 {
        gateway.add_device(&format!("press-{n}")).await?;
    }
    gateway.stop().await?;
    whole(&gateway).await?;
    let text = std::fs::read_to_string(log(&gateway))?;
    let lines: Vec<&str> = text.lines().collect();

    std::fs::write(log(&gateway), text.replace("press-2", "press-9"))?;
    let words = broken(&gateway, "edited").await?;
    let at = lines.iter().position(|line| line.contains("press-2")).unwrap_or_default() + 1;
    assert!(words.contains(&format!("audit.jsonl:{at}: was edited")), "{words}");

    let moved = [&lines[..2], &lines[3..4], &lines[2..3], &lines[4..], &[""]].concat().join("\n");
    std::fs::write(log(&gateway), moved)?;
    let words = broken(&gateway, "reordered").await?;
    assert!(words.contains("audit.jsonl:3: is line 4") && words.contains("stands at audit.jsonl:4"), "{words}");

    let (cut, last) = ([&lines[..lines.len() - 2], &[""]].concat().join("\n"), lines.len());
    std::fs::write(log(&gateway), cut)?;
    let words = broken(&gateway, "cut").await?;
    assert!(words.contains(&format!("line {last} had been written: the end was cut off")), "{words}");
    gateway.start().await?;
    wait_audit(&gateway, &["lines_missing", &format!("\"from\":{},\"to\":{last}", last - 1)]).await?;
    let words = broken(&gateway, "removed").await?;
    assert!(words.contains(&format!("audit.jsonl:{}: is line {}", last - 1, last + 1)), "{words}");
    assert!(gateway.log().iter().any(|line| line.contains("the audit log is not as it was left")));
    Ok(())
}

#[tokio::test]
async fn a_torn_last_line_is_set_right_and_written_down() -> Told {
    let mut gateway = Gateway::start_new(BINARY, "line-1", "").await?;
    gateway.kill()?;
    let before = whole(&gateway).await?;
    let mut text = std::fs::read(log(&gateway))?;
    text.extend_from_slice(br#"{"n":99,"prev":"ab"#);
    std::fs::write(log(&gateway), &text)?;
    assert_eq!(verify(&gateway).await?.1["unfinished"], 18);
    gateway.start().await?;
    wait_audit(&gateway, &["line_torn", &format!("\"n\":{}", before + 1), "\"bytes\":18"]).await?;
    whole(&gateway).await?;
    Ok(())
}

fn press(at: std::net::SocketAddr) -> String {
    format!(
        "[[modbus]]\nurl = \"tcp://{at}\"\ntimeout = \"500ms\"\n[[modbus.device]]\nid = \"press-1\"\nunit = 1\ninterval = \"100ms\"\n\
         [[modbus.device.point]]\nname = \"setpoint\"\nat = \"holding:10\"\ntype = \"u16\"\naccess = \"rw\"\nrange = [0, 90]\n"
    )
}

#[tokio::test]
async fn changes_of_the_configuration_and_writes_with_old_and_new_value_are_lines() -> Told {
    let device = Simulator::start("127.0.0.1:0".parse()?)?;
    device.set_holding(10, &[40]);
    let sections = press(device.addr());
    let mut gateway = Gateway::start_new(BINARY, "line-1", &sections).await?;
    gateway.verb(&["point", "write", "press-1", "setpoint", "42"]).await?.ok()?;
    wait_audit(&gateway, &["field_write", "\"old\":40,\"new\":42,\"by\":\"admin\",\"status\":\"ok\""]).await?;
    let refused = gateway.verb(&["point", "write", "press-1", "setpoint", "91"]).await?;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    wait_audit(&gateway, &["field_write", "\"new\":91", "\"status\":\"rejected\"", "0 to 90 is allowed"]).await?;

    gateway.stop().await?;
    gateway.start().await?;
    gateway.stop().await?;
    let policy = "\n[[policy]]\nwho = \"user:hmi\"\nallow = \"subscribe\"\nfilter = \"devices/#\"\n";
    gateway.configure(&(sections + policy))?;
    gateway.start().await?;
    let added = "\"sections\":[\"policy\"],\"policies_added\":[\"user:hmi subscribe devices/#\"]";
    wait_audit(&gateway, &["configuration_changed", added]).await?;
    let lines: Vec<Json> = serde_json::from_str(&gateway.verb(&["audit", "--json"]).await?.ok()?)?;
    let changes = lines.iter().filter(|line| line["event"] == "configuration_changed").count();
    assert_eq!(changes, 2, "at the first start and at the change: {lines:?}");
    Ok(())
}
