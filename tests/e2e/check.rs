//! `check --probe`, `check --explain`, `config show`, and variables of the environment.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use fieldgate_modbus::sim::Simulator;
use fieldgate_testkit::port;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use serde_json::Value as Json;

use crate::stage::{BINARY, Stage, Told};

fn run(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> anyhow::Result<Output> {
    let mut command = Command::new(BINARY);
    for (name, value) in variables {
        command.env(name, value);
    }
    Ok(command.args(arguments).current_dir(folder).output()?)
}

fn folder(text: &str) -> anyhow::Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("gateway.toml"), text)?;
    Ok(folder)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_key_is_explained_and_the_nearest_is_named() -> Told {
    let folder = folder("")?;
    let limit = run(folder.path(), &["check", "--explain", "broker.limits.packet"], &[])?;
    let said = text(&limit.stdout);
    assert!(limit.status.success() && said.contains("largest MQTT packet"), "{said}");
    assert!(said.contains("default: \"256KiB\"") && said.contains("FIELDGATE_BROKER__LIMITS__PACKET"), "{said}");
    let table = text(&run(folder.path(), &["check", "--explain", "[[modbus.device]]"], &[])?.stdout);
    assert!(table.starts_with("[[modbus.device]]") && table.lines().any(|line| line.starts_with("  unit ")), "{table}");
    let wrong = run(folder.path(), &["check", "--explain", "upstream.ulr"], &[])?;
    assert_eq!(wrong.status.code(), Some(1));
    assert_eq!(
        text(&wrong.stderr),
        "fieldgate: `upstream.ulr` is no key of the configuration, did you mean `upstream.url`?\n"
    );
    let json: Json =
        serde_json::from_slice(&run(folder.path(), &["check", "--explain", "buffer.max_age", "--json"], &[])?.stdout)?;
    assert_eq!((&json["key"], &json["default"]), (&"buffer.max_age".into(), &"\"7d\"".into()), "{json}");
    Ok(())
}

#[test]
fn the_configuration_in_force_is_shown_with_its_origins_and_no_secret() -> Told {
    let point = "[[modbus]]\nurl = \"tcp://192.0.2.1:502\"\n[[modbus.device]]\nid = \"press-1\"\n[[modbus.device.point]]\nname = \"t\"\nat = \"holding:0\"\ntype = \"u16\"\n";
    let folder =
        folder(&format!("[upstream]\nurl = \"mqtt://a\"\nusername = \"u\"\npassword_file = \"up.password\"\n{point}"))?;
    std::fs::write(folder.path().join("up.password"), "canary-4711\n")?;
    let variables = [("FIELDGATE_UPSTREAM__URL", "mqtts://b:8883"), ("FIELDGATE_COMMANDS__TIMEOUT", "5s")];
    let shown = run(folder.path(), &["config", "show"], &variables)?;
    let shown = text(&shown.stdout);
    let line = |begin: &str| shown.lines().find(|line| line.starts_with(begin)).unwrap_or_default();
    assert!(line("url = \"mqtts://b:8883\"").ends_with("# environment FIELDGATE_UPSTREAM__URL"), "{shown}");
    assert!(line("password_file = \"up.password\"").ends_with("# gateway.toml:4"), "{shown}");
    assert!(line("max_age = \"7d\"").ends_with("# default"), "{shown}");
    assert!(shown.contains("\n[modbus[0].device[0].point[0]]\n"), "{shown}");
    let json = run(folder.path(), &["config", "show", "--json"], &variables)?;
    let report: Json = serde_json::from_slice(&json.stdout)?;
    let setting = |key: &str| {
        report["settings"].as_array().into_iter().flatten().find(|s| s["key"] == key).cloned().unwrap_or_default()
    };
    assert_eq!(setting("commands.timeout")["from"], "environment", "{report}");
    assert_eq!(
        (&setting("upstream.username")["line"], &setting("upstream.window")["from"]),
        (&3.into(), &"default".into())
    );
    assert!(!shown.contains("4711") && !text(&json.stdout).contains("4711"));

    let wrong =
        run(folder.path(), &["check"], &[("FIELDGATE_UPSTREAM_URL", "mqtt://b"), ("FIELDGATE_BUFFER__MAX_AGE", "7")])?;
    assert_eq!(wrong.status.code(), Some(78));
    let said = text(&wrong.stderr);
    assert!(
        said.contains(
            "environment FIELDGATE_UPSTREAM_URL: is no key of the configuration, did you mean FIELDGATE_UPSTREAM__URL?"
        ),
        "{said}"
    );
    assert!(said.contains("environment FIELDGATE_BUFFER__MAX_AGE: buffer.max_age: `7` is not a duration"), "{said}");
    Ok(())
}

fn findings(report: &Json, key: &str) -> Vec<(String, String)> {
    let all = report["findings"].as_array().cloned().unwrap_or_default();
    let of = all.iter().filter(|finding| finding["key"] == key);
    let text = |finding: &Json, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    of.map(|finding| (text(finding, "grade"), format!("{}: {}", text(finding, "what"), text(finding, "words"))))
        .collect()
}

fn modbus(at: SocketAddr, id: &str) -> String {
    format!(
        "[[modbus]]\nurl = \"tcp://{at}\"\ntimeout = \"300ms\"\n[[modbus.device]]\nid = \"{id}\"\n[[modbus.device.point]]\nname = \"t\"\nat = \"holding:0\"\ntype = \"u16\"\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_tells_defects_from_peers_that_are_not_there() -> Told {
    let device = Simulator::start("127.0.0.1:0".parse()?)?;
    let (nobody, absent) = (port::free_address()?, port::free_address()?);
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let broker = port::free_address()?;
    let head = format!(
        "[gateway]\nid = \"line-1\"\n[broker]\nlisten = [\"{broker}\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n[upstream]\nurl = \"mqtts://{nobody}\"\nca = \"ca.pem\"\n"
    );
    let links = format!(
        "{}{}[[opcua]]\nendpoint = \"opc.tcp://{absent}\"\n[[opcua.device]]\nid = \"boiler-1\"\n[[opcua.device.point]]\nname = \"l\"\nnode = \"ns=2;s=L\"\n",
        modbus(device.addr(), "press-1"),
        modbus(nobody, "press-2")
    );
    let folder = folder(&format!("{head}{links}"))?;
    let pem = |end: i32| -> anyhow::Result<String> {
        let mut params = CertificateParams::new(["cloud".to_owned()])?;
        params.not_after = date_time_ymd(end, 1, 1);
        Ok(params.self_signed(&KeyPair::generate()?)?.pem())
    };
    std::fs::write(folder.path().join("ca.pem"), pem(2099)?)?;
    let at = folder.path().to_owned();
    let probe = async || -> anyhow::Result<(Option<i32>, Json)> {
        let (at, begin) = (at.clone(), Instant::now());
        let output = tokio::task::spawn_blocking(move || run(&at, &["check", "--probe", "--json"], &[])).await??;
        assert!(begin.elapsed() < Duration::from_secs(11), "{:?}", begin.elapsed());
        Ok((output.status.code(), serde_json::from_slice(&output.stdout)?))
    };
    let (code, report) = probe().await?;
    assert_eq!((code, &report["ok"]), (Some(0), &true.into()), "peers that are not there are no defect: {report:#}");
    let links = findings(&report, "modbus");
    let of = |id: &str| links.iter().find(|(_, words)| words.contains(id)).cloned().unwrap_or_default();
    assert_eq!(of("press-1").0, "ok", "{links:?}");
    assert_eq!(of("press-2").0, "warning", "{links:?}");
    assert_eq!(findings(&report, "opcua")[0].0, "warning", "{report:#}");
    assert_eq!(findings(&report, "upstream.url")[0].0, "warning", "{report:#}");
    assert_eq!(findings(&report, "broker.listen")[0], ("ok".to_owned(), format!("{broker}: is free")));
    assert!(!folder.path().join("data").exists(), "nothing was made");
    assert_eq!(device.holding(0), 0);

    // Defects: an address in use, a certificate that has ended, a key that all can read.
    let key = folder.path().join("up.key");
    std::fs::write(&key, KeyPair::generate()?.serialize_pem())?;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644))?;
    std::fs::write(folder.path().join("up.pem"), pem(2020)?)?;
    let changed = head.replace(&broker.to_string(), &taken.local_addr()?.to_string());
    std::fs::write(folder.path().join("gateway.toml"), format!("{changed}cert = \"up.pem\"\nkey = \"up.key\"\n"))?;
    let (code, report) = probe().await?;
    assert_eq!(code, Some(1), "{report:#}");
    let listen = findings(&report, "broker.listen");
    assert!(listen[0].0 == "error" && listen[0].1.contains("in use by another program"), "{listen:?}");
    let files = findings(&report, "file");
    let said = |grade: &str, words: &str| files.iter().any(|(found, text)| found == grade && text.contains(words));
    assert!(said("error", "ended at 2020-01-01") && said("warning", "chmod 600"), "{files:?}");
    let upstream = findings(&report, "upstream.url");
    assert!(upstream[0].0 == "error" && upstream[0].1.contains("not the key of"), "{upstream:?}");
    Ok(())
}

#[tokio::test]
async fn a_probe_beside_a_running_gateway_asks_it_and_disturbs_nothing() -> Told {
    let device = Simulator::start("127.0.0.1:0".parse()?)?;
    let stage = Stage::start("line-1", &modbus(device.addr(), "press-1")).await?;
    stage.wait_points("press-1", 0, |_| true).await?;
    let before = stage.gateway.status().await?;
    let output = stage.gateway.verb(&["check", "--probe", "--json"]).await?;
    let report: Json = serde_json::from_str(&output.stdout)?;
    assert_eq!(output.code, Some(0), "{report:#}");
    let here = "the gateway that runs here";
    for key in ["broker.listen", "modbus"] {
        let found = findings(&report, key);
        assert!(found[0].0 == "ok" && found[0].1.contains(here), "{key}: {found:?}");
    }
    let upstream = findings(&report, "upstream.url");
    assert!(
        upstream.len() == 1 && upstream[0].0 == "ok" && upstream[0].1.contains("MQTT is not tried"),
        "{upstream:?}"
    );
    let after = stage.gateway.status().await?;
    assert_eq!(after["upstream"]["connects"], before["upstream"]["connects"], "its session was not taken over");
    assert_eq!(after["links"][0]["connects"], before["links"][0]["connects"]);
    let words = stage.gateway.verb(&["check", "--probe"]).await?.ok()?;
    assert!(words.contains(" things tried, 0 errors"), "{words}");
    Ok(())
}
