//! Many devices from one list, groups and validity of their own.

use std::time::Instant;

use fieldgate_testkit::{Ack, Bundle, Gateway, Leaf, Options, Version};
use serde_json::Value as Json;

use crate::stage::{BINARY, Told};

const SECTIONS: &str = "[[group]]\nname = \"presses\"\n\n[[group]]\nname = \"mills\"\nmembers = [\"mill-1\"]\n\n\
     [[policy]]\nwho = \"group:presses\"\nallow = \"publish\"\nfilter = \"plant/presses/#\"\n";

fn write_list(gateway: &Gateway, text: &str) -> anyhow::Result<()> {
    Ok(std::fs::write(gateway.folder().join("list.csv"), text)?)
}

const ADD: [&str; 6] = ["device", "add", "--csv", "list.csv", "--out", "out"];

async fn add_all(gateway: &Gateway) -> anyhow::Result<(Option<i32>, Json)> {
    let told = gateway.verb(&[&ADD[..], &["--json"]].concat()).await?;
    Ok((told.code, serde_json::from_str(&told.stdout)?))
}

fn ids(of: &Json) -> Vec<&str> {
    of.as_array().unwrap().iter().map(|entry| entry["id"].as_str().or(entry.as_str()).unwrap()).collect()
}

#[tokio::test]
async fn a_list_adds_its_devices_and_goes_on_where_it_stopped() -> Told {
    let gateway = Gateway::start_new(BINARY, "line-1", SECTIONS).await?;
    write_list(&gateway, "id,role,validity,groups\npress-1,,90d,presses\npress-2,,,presses mills\nhmi,app,99999h,\n")?;
    let (code, told) = add_all(&gateway).await?;
    assert_eq!((code, ids(&told["added"])), (Some(0), vec!["press-1", "press-2", "hmi"]), "{told}");

    // Its own validity and groups; the certificate works, and so does the group's right.
    let shown: Json = serde_json::from_str(&gateway.verb(&["device", "show", "press-1", "--json"]).await?.ok()?)?;
    let certificate = &shown["certificates"][0];
    let life = certificate["not_after"].as_u64().unwrap() - certificate["not_before"].as_u64().unwrap();
    assert!((90..=92).contains(&(life / 86_400_000)), "{shown}");
    let shown = gateway.verb(&["device", "show", "press-2"]).await?.ok()?;
    assert!(shown.contains("groups: mills, presses"), "{shown}");
    let bundle = Bundle::new("press-1", gateway.folder().join("out/press-1"));
    let leaf = Leaf::connect(&bundle, gateway.broker(), Options::new(Version::V5)).await?;
    assert_eq!(leaf.publish("plant/presses/1", "x").await?, Ack::Accepted);
    let hmi = Bundle::new("hmi", gateway.folder().join("out/hmi"));
    let leaf = Leaf::connect(&hmi, gateway.broker(), Options::new(Version::V5)).await?;
    assert_eq!(leaf.publish("plant/presses/1", "x").await?, Ack::Refused(0x87));
    let explained = gateway.verb(&["policy", "explain", "press-1", "publish", "plant/presses/1"]).await?.ok()?;
    assert!(explained.contains("allowed") && explained.contains("groups of press-1: presses"), "{explained}");

    // Again, with one more, one whose bundle is gone, and one that was revoked.
    gateway.verb(&["device", "revoke", "press-2"]).await?.ok()?;
    std::fs::remove_file(hmi.folder.join("cert.pem"))?;
    write_list(&gateway, "id\npress-1\npress-2\nhmi\nmill-1\n")?;
    let (code, told) = add_all(&gateway).await?;
    assert_eq!(
        (code, ids(&told["added"]), ids(&told["skipped"])),
        (Some(1), vec!["mill-1"], vec!["press-1"]),
        "{told}"
    );
    let failed = told["failed"].as_array().unwrap();
    assert_eq!(ids(&told["failed"]), ["press-2", "hmi"]);
    assert!(failed[0]["line"] == 3 && failed[0]["error"].to_string().contains("was revoked"), "{told}");
    assert!(failed[1]["error"].to_string().contains("device revoke hmi"), "{told}");
    let mut gateway = gateway;
    gateway.stop().await?;
    // Nothing runs: the same on the data directory.
    write_list(&gateway, "id\npress-1\nmill-1\nmill-2\n")?;
    let (code, told) = add_all(&gateway).await?;
    assert_eq!(
        (code, ids(&told["added"]), ids(&told["skipped"])),
        (Some(0), vec!["mill-2"], vec!["press-1", "mill-1"])
    );
    Ok(())
}

#[tokio::test]
async fn a_list_with_mistakes_adds_nobody_and_names_them_all() -> Told {
    let sections = format!(
        "{SECTIONS}\n[[modbus]]\nurl = \"tcp://127.0.0.1:1\"\n[[modbus.device]]\nid = \"meter\"\nunit = 1\n[[modbus.device.point]]\nname = \"t\"\nat = \"holding:1\"\ntype = \"u16\"\n"
    );
    let gateway = Gateway::new(BINARY, "line-1", &sections)?;
    write_list(&gateway, "id,groups\npress-1,\nmeter,\nline-1,\npress-1,pressen\n")?;
    let told = gateway.verb(&ADD).await?;
    assert_eq!(told.code, Some(1), "{told:?}");
    for place in ["list.csv:3:1: id: `meter`", "list.csv:4:1: id: `line-1`", "list.csv:5:9: groups:"] {
        assert!(told.stderr.contains(place), "{place}: {told:?}");
    }
    assert!(told.stderr.contains("3 problems in the list; nobody was added"), "{told:?}");
    assert!(!gateway.folder().join("out").exists());
    let usage = gateway.verb(&["device", "add", "press-1", "--csv", "list.csv", "--out", "out"]).await?;
    assert_eq!(usage.code, Some(2), "{usage:?}");
    let group = gateway.verb(&["device", "add", "press-1", "--group", "pressen"]).await?;
    assert!(group.code == Some(1) && group.stderr.contains("no [[group]] named `pressen`"), "{group:?}");
    let validity = gateway.verb(&["device", "add", "press-1", "--validity", "1h"]).await?;
    assert!(validity.code == Some(2) && validity.stderr.contains("\"1d\" to"), "{validity:?}");
    let one = ["device", "add", "press-1", "--group", "presses", "--group", "mills", "--validity", "21900d", "--json"];
    let told = gateway.verb(&one).await?;
    assert!(told.stderr.contains("ends with the CA"), "{told:?}");
    told.ok()?;
    let shown = gateway.verb(&["device", "show", "press-1"]).await?.ok()?;
    assert!(shown.contains("groups: mills, presses") && shown.contains("good for 21900d"), "{shown}");
    Ok(())
}

#[tokio::test]
async fn a_run_that_is_killed_is_finished_by_the_next() -> Told {
    const DEVICES: usize = 150;
    let gateway = Gateway::start_new(BINARY, "line-1", SECTIONS).await?;
    let rows: Vec<String> = (0..DEVICES).map(|n| format!("press-{n},presses")).collect();
    write_list(&gateway, &format!("id,groups\n{}\n", rows.join("\n")))?;
    let mut child = std::process::Command::new(BINARY)
        .arg("-c")
        .arg(gateway.config())
        .args(ADD)
        .current_dir(gateway.folder())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()?;
    let half = gateway.folder().join(format!("out/press-{}", DEVICES / 2));
    let reached = || (half.exists() || child.try_wait().ok().flatten().is_some()).then_some(());
    fieldgate_testkit::wait_until("half of the devices", fieldgate_testkit::PATIENCE, reached).await?;
    child.kill()?;
    child.wait()?;
    let began = Instant::now();
    let (code, told) = add_all(&gateway).await?;
    let (added, skipped, failed) = (ids(&told["added"]), ids(&told["skipped"]), ids(&told["failed"]));
    println!("{} left, {:?}: {} of them failed", added.len(), began.elapsed(), failed.len());
    assert!(skipped.len() >= DEVICES / 2 && added.len() > 1, "{told}");
    assert_eq!(added.len() + skipped.len() + failed.len(), DEVICES);
    // The one that was being written: its key may be lost, and that is said, with what to do.
    assert!(failed.len() <= 1 && code == Some(i32::from(!failed.is_empty())), "{told}");
    if let [lost] = failed.as_slice() {
        let error = told["failed"][0]["error"].to_string();
        assert!(error.contains(&format!("device revoke {lost}")), "{error}");
    }
    for id in added.iter().chain(&skipped) {
        for file in ["ca.pem", "cert.pem", "key.pem"] {
            assert!(gateway.folder().join("out").join(id).join(file).is_file(), "{id}/{file}");
        }
    }
    Ok(())
}
