//! What a person is helped with: `fieldgate diag` and `fieldgate bundle`.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use fieldgate_testkit::{Ack, Gateway, Leaf, Options, PATIENCE, Verb, Version, eventually, port};
use serde_json::Value as Json;

use crate::stage::{BINARY, Stage, Told};

fn codes(diag: &Verb) -> anyhow::Result<Vec<String>> {
    let report: Json = serde_json::from_str(&diag.stdout)?;
    let findings = report["findings"].as_array().cloned().unwrap_or_default();
    assert!(findings.iter().all(|finding| finding["next"].as_str().is_some_and(|next| !next.is_empty())), "{report}");
    Ok(findings.iter().filter_map(|finding| finding["code"].as_str().map(str::to_owned)).collect())
}

/// Runs `diag` until it finds this, and nothing else that is wrong with a gateway of tests.
async fn found(gateway: &Gateway, wanted: &str) -> Told {
    eventually(&format!("{wanted} in diag"), PATIENCE, async || {
        let diag = gateway.verb(&["diag", "--json"]).await?;
        Ok((diag.code == Some(1) && codes(&diag)?.iter().any(|code| code == wanted)).then_some(()))
    })
    .await
}

#[tokio::test]
async fn diag_finds_what_is_wrong_with_and_without_a_running_gateway() -> Told {
    let mut stage = Stage::start("line-1", "").await?;
    let diag = stage.gateway.verb(&["diag", "--json"]).await?;
    let machine = ["disk-nearly-full", "buffer-shrunk", "file-limit"];
    let rest: Vec<String> = codes(&diag)?.into_iter().filter(|code| !machine.contains(&code.as_str())).collect();
    assert_eq!(rest, Vec::<String>::new(), "{diag:?}");

    stage.relay.cut();
    found(&stage.gateway, "upstream-down").await?;
    let words = stage.gateway.verb(&["diag"]).await?;
    assert!(
        words.stdout.contains("PROBLEM  the upstream is not connected") && words.stdout.contains("next: "),
        "{words:?}"
    );
    assert!(words.stderr.is_empty(), "{words:?}");

    stage.gateway.stop().await?;
    found(&stage.gateway, "not-running").await?;
    let fresh = Gateway::new(BINARY, "line-2", "")?;
    found(&fresh, "not-running").await?;
    assert!(!fresh.data_dir().join("ca").exists(), "diag makes nothing");
    std::fs::write(fresh.config(), "[gateway]\nid = 5\n")?;
    found(&fresh, "configuration").await
}

#[tokio::test]
async fn diag_names_a_plc_that_can_t_be_reached_and_a_device_that_was_refused() -> Told {
    let nobody = port::free_address()?;
    let link = format!(
        "[[modbus]]\nurl = \"tcp://{nobody}\"\n[[modbus.device]]\nid = \"meter-1\"\n[[modbus.device.point]]\n\
         name = \"a\"\nat = \"holding:0\"\ntype = \"u16\"\n"
    );
    let gateway = Gateway::start_new(BINARY, "line-1", &link).await?;
    found(&gateway, "plc-unreachable").await?;
    let bundle = gateway.add_device("press-1").await?;
    gateway.verb(&["device", "revoke", "press-1"]).await?.ok()?;
    assert!(Leaf::connect(&bundle, gateway.broker(), Options::new(Version::V5)).await.is_err());
    eventually("the refusal in diag", PATIENCE, async || {
        let diag = gateway.verb(&["diag"]).await?.stdout;
        Ok((diag.contains("was refused 1 times in the last day") && diag.contains("`press-1` was revoked"))
            .then_some(()))
    })
    .await
}

/// Every file below a folder.
fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.is_file() {
                found.push(path);
            }
        }
    }
    Ok(found)
}

#[tokio::test]
async fn a_bundle_holds_what_helps_and_no_secret_from_any_place() -> Told {
    let canary = "canary-7f3a91c2e5";
    let broker = port::free_address()?;
    let gateway = Gateway::new(BINARY, "line-1", "")?;
    let folder = gateway.folder().to_owned();
    for file in ["up.password", "opcua.password"] {
        std::fs::write(folder.join(file), format!("{canary}\n"))?;
    }
    let hash = gateway.verb_with_input(&["user", "hash"], canary).await?.ok()?;
    std::fs::write(folder.join("hmi.hash"), &hash)?;
    gateway.configure(&format!(
        "# the password is {canary}\n[upstream]\nurl = \"mqtt://{broker}\"\nusername = \"me\"\npassword_file = \"up.password\"\n\
         [[broker.user]]\nname = \"hmi\"\npassword_hash_file = \"hmi.hash\"\nrole = \"app\"\n\
         [[opcua]]\nendpoint = \"opc.tcp://{broker}\"\nsecurity = \"None\"\nauth = {{ username = \"op\", password_file = \"opcua.password\" }}\n\
         [[opcua.device]]\nid = \"boiler-1\"\n[[opcua.device.point]]\nname = \"a\"\nnode = \"ns=2;s=A\"\n"
    ))?;
    let mut gateway = gateway;
    gateway.start().await?;
    let mut secrets = vec![canary.to_owned(), hash.trim().to_owned()];
    secrets.push(gateway.token("boss", "admin").await?);
    let one_time = gateway.verb(&["device", "token", "press-2"]).await?.ok()?;
    secrets.extend(one_time.split_whitespace().last().map(str::to_owned));
    let bundle = gateway.add_device("press-1").await?;
    let leaf = Leaf::connect(&bundle, gateway.broker(), Options::new(Version::V5)).await?;
    assert_eq!(leaf.publish("devices/press-1/telemetry/t", format!("{{\"v\":\"{canary}\"}}")).await?, Ack::Accepted);

    let out = folder.join("help.tar");
    let name = out.to_str().unwrap();
    gateway.verb(&["bundle", "--out", name]).await?.ok()?;
    let again = gateway.verb(&["bundle", "--out", name]).await?;
    assert!(again.code == Some(1) && again.stderr.contains("help.tar"), "{again:?}");
    assert_eq!(std::fs::metadata(&out)?.permissions().mode() & 0o777, 0o600);
    let bytes = std::fs::read(&out)?;
    let text = String::from_utf8_lossy(&bytes);
    for part in [
        "status.json",
        "buffer.json",
        "fieldgate_build_info",
        "\"id\": \"line-1\"",
        "press-1",
        "next: ",
        "\"ok\": true",
    ] {
        assert!(text.contains(part), "{part} is not in it");
    }

    // Private keys, line by line, wherever they lie.
    for path in files(&folder)?.into_iter().filter(|path| *path != out) {
        let content = std::fs::read(&path)?;
        let Ok(content) = String::from_utf8(content) else { continue };
        if content.contains("PRIVATE KEY") {
            secrets
                .extend(content.lines().filter(|line| line.len() > 30 && !line.contains("-----")).map(str::to_owned));
        }
    }
    assert!(secrets.len() > 8, "{}", secrets.len());
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        assert!(!text.contains(secret.as_str()), "{secret} is in the bundle");
    }
    gateway.stop().await?;
    let without = gateway.verb(&["bundle", "--json"]).await?.ok()?;
    let made: Json = serde_json::from_str(&without)?;
    let whole = std::fs::read(folder.join(made["file"].as_str().unwrap_or_default()))?;
    assert!(String::from_utf8_lossy(&whole).contains("no gateway runs"));
    Ok(())
}

#[tokio::test]
async fn status_is_watched_and_nothing_is_coloured_where_there_is_no_terminal() -> Told {
    let gateway = Gateway::start_new(BINARY, "line-1", "[upstream]\nurl = \"mqtt://127.0.0.1:1\"\n").await?;
    let watch = gateway.verb(&["status", "--watch", "--every", "20ms", "--count", "3"]).await?.ok()?;
    assert_eq!(watch.matches("gateway   line-1").count(), 3, "{watch}");
    assert!(watch.contains("PROBLEM") && !watch.contains('\u{1b}'), "{watch}");
    let drain = ["buffer", "status", "--watch", "--every", "20ms", "--count", "2"];
    let lines = gateway.verb(&drain).await?.ok()?;
    assert!(lines.lines().count() == 2 && lines.lines().all(|line| line.contains(" messages waiting, ")), "{lines}");
    assert!(!lines.contains('\x1b') && !lines.contains('['), "no bar in a pipe: {lines}");
    let lines = gateway.verb(&[&drain[..], &["--json"]].concat()).await?.ok()?;
    for line in lines.lines() {
        let look: serde_json::Value = serde_json::from_str(line)?;
        assert!(look["messages"].is_u64() && look["seconds_to_go"].is_null(), "{line}");
    }
    let json = gateway.verb(&["status", "--watch", "--every", "20ms", "--count", "2", "--json"]).await?.ok()?;
    let lines: Vec<Json> = json.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert!(lines.len() == 2 && lines.iter().all(|line| line["gateway"] == "line-1"), "{json}");
    let none = gateway.verb(&["point", "watch", "--count", "1"]).await?;
    assert!(none.code == Some(1) && none.stderr.contains("no field devices"), "{none:?}");
    Ok(())
}
