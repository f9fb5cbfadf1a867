//! What is shipped beside the binary agrees with it: the dashboard and the alert rules name metrics that exist;
//! and it speaks to the service manager.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use fieldgate_testkit::{Ack, Gateway, Leaf, Options, PATIENCE, Version, eventually};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::UnixDatagram;
use tokio::time::timeout;

use crate::stage::{BINARY, Stage, Told, root};

/// Every word of the text that begins as a metric's name does.
fn metrics(text: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !word(c)).filter(|name| name.starts_with("fieldgate_")).map(str::to_owned).collect()
}

#[tokio::test]
async fn every_metric_of_the_dashboard_and_the_alert_rules_exists() -> Told {
    let link = "[[modbus]]\nurl = \"tcp://127.0.0.1:9\"\n[[modbus.device]]\nid = \"meter-1\"\n[[modbus.device.point]]\n\
                name = \"a\"\nat = \"holding:0\"\ntype = \"u16\"\n";
    let stage = Stage::start("line-1", link).await?;
    let bundle = stage.gateway.add_device("press-1").await?;
    let leaf = Leaf::connect(&bundle, stage.gateway.broker(), Options::new(Version::V5)).await?;
    assert_eq!(leaf.publish("devices/press-1/telemetry/t", "1").await?, Ack::Accepted);

    let folder = root().join("gateway/packaging");
    let dashboard = std::fs::read_to_string(folder.join("grafana-dashboard.json"))?;
    let rules = std::fs::read_to_string(folder.join("prometheus-rules.yml"))?;
    let parsed: serde_json::Value = serde_json::from_str(&dashboard)?;
    assert!(parsed["panels"].as_array().is_some_and(|panels| panels.len() > 15));
    let named: BTreeSet<String> = metrics(&dashboard).into_iter().chain(metrics(&rules)).collect();
    assert!(named.len() > 25, "{named:?}");
    // The rate of reception is known a moment after the first message.
    let missing = eventually("the metrics of the shipped files", PATIENCE, async || {
        let text = stage.gateway.get("/metrics").await?.body;
        let announced: BTreeSet<&str> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        let suffixes = ["", "_total", "_bucket", "_sum", "_count"];
        let known =
            |name: &&String| suffixes.iter().any(|s| name.strip_suffix(s).is_some_and(|n| announced.contains(n)));
        let missing: Vec<String> = named.iter().filter(|name| !known(name)).cloned().collect();
        Ok((missing.is_empty()).then_some(missing))
    });
    missing.await.map(drop)
}

/// What it runs with, jemalloc tells at the end when its environment asks it to.
#[test]
fn the_allocator_gives_back_what_was_not_used_for_a_second() -> Told {
    let run = Command::new(BINARY).arg("--version").env("_RJEM_MALLOC_CONF", "stats_print:true").output()?;
    let told = String::from_utf8(run.stderr)?;
    for option in ["opt.background_thread: true ", "opt.dirty_decay_ms: 1000 ", "opt.muzzy_decay_ms: 0 "] {
        assert!(told.contains(option), "`{option}` is not in {told}");
    }
    Ok(())
}

#[tokio::test]
async fn the_service_manager_hears_of_ready_of_every_turn_and_of_the_stop() -> Told {
    let gateway = Gateway::new(BINARY, "line-1", "")?;
    let socket = gateway.folder().join("notify");
    let manager = UnixDatagram::bind(&socket)?;
    let mut command = Command::new(BINARY);
    command.arg("-c").arg(gateway.config()).arg("run").env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "300000");
    let mut child = command.env_remove("WATCHDOG_PID").stderr(Stdio::null()).spawn()?;
    let hears = async |wanted: &'static str| {
        let mut bytes = [0; 256];
        loop {
            let count = manager.recv(&mut bytes).await?;
            let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
            if text.lines().any(|line| line == wanted) {
                return anyhow::Ok(text);
            }
        }
    };
    for wanted in ["READY=1", "WATCHDOG=1", "WATCHDOG=1"] {
        timeout(PATIENCE, hears(wanted)).await??;
    }
    kill_process(Pid::from_child(&child), Signal::TERM)?;
    timeout(PATIENCE, hears("STOPPING=1")).await??;
    let status = eventually("the end of the gateway", PATIENCE, async || Ok(child.try_wait()?)).await?;
    assert!(status.success(), "{status}");
    Ok(())
}
