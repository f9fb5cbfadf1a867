//! `fieldgate demo`

use std::process::Command;

use serde_json::Value as Json;

use crate::stage::{BINARY, Told};

#[tokio::test]
async fn the_demo_judges_itself_and_finds_nothing_lost() -> Told {
    let mut command = Command::new(BINARY);
    command.args(["demo", "--for", "15s", "--json"]);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let report: Json = serde_json::from_slice(&output.stdout).map_err(|error| anyhow::anyhow!("{error}: {stderr}"))?;
    assert_eq!(output.status.code(), Some(0), "{report:#}\n{stderr}");
    assert_eq!(report["ok"], true);
    assert!(report["offline_buffered_max"].as_u64() > Some(0), "{report:#}");
    let devices = report["devices"].as_array().unwrap();
    let vias: Vec<&Json> = devices.iter().map(|device| &device["via"]).collect();
    assert_eq!(vias, ["mqtt", "modbus", "opcua"]);
    for device in devices {
        assert!(device["id"].is_string(), "{device}");
        let number = |key: &str| device[key].as_u64().unwrap();
        assert!(number("sent") > 0 && number("delivered") == number("sent"), "{device}");
        assert_eq!((number("lost"), number("out_of_order")), (0, 0), "{device}");
        assert!(device["duplicates"].is_u64(), "{device}");
    }
    let commands = report["commands"].as_array().unwrap();
    assert_eq!(commands.len(), 3, "{report:#}");
    assert!(commands.iter().all(|command| command["status"] == "ok" && command["device"].is_string()), "{report:#}");
    Ok(())
}
