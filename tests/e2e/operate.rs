//! Operating it: health, metrics, secrets, the lock, SIGTERM.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use fieldgate_testkit::{Ack, Gateway, Leaf, Options, Version};

use crate::stage::{BINARY, Stage, Told};

#[tokio::test]
async fn secrets_are_for_the_owner_alone() -> Told {
    let gateway = Gateway::start_new(BINARY, "line-1", "").await?;
    let bundle = gateway.add_device("press-1").await?;
    let mut open = Vec::new();
    let mut folders = vec![gateway.data_dir().join("ca")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let (path, mode) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?.permissions().mode())))?;
            if path.is_dir() {
                folders.push(path.clone());
            }
            let key = path.to_string_lossy().contains("key");
            if key && mode & 0o077 != 0 {
                open.push(path);
            }
        }
    }
    let mode = |path: std::path::PathBuf| anyhow::Ok(std::fs::metadata(path)?.permissions().mode() & 0o777);
    assert_eq!(open, Vec::<std::path::PathBuf>::new());
    assert_eq!(mode(gateway.data_dir().join("ca"))?, 0o700);
    assert_eq!(mode(bundle.folder.join("key.pem"))?, 0o600);
    let log = gateway.log().join("\n");
    assert!(!log.contains("PRIVATE KEY"), "{log}");
    Ok(())
}

/// The samples of an exposition, by name; every line is of a known form, every sample was announced.
fn exposition(text: &str) -> BTreeMap<String, Vec<f64>> {
    let mut kinds: BTreeMap<String, String> = BTreeMap::new();
    let mut samples: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    assert!(text.ends_with("# EOF\n"), "{text}");
    for line in text.lines().filter(|line| *line != "# EOF") {
        if let Some(comment) = line.strip_prefix("# ") {
            let words: Vec<&str> = comment.splitn(3, ' ').collect();
            let ["HELP" | "TYPE" | "UNIT", name, rest] = words.as_slice() else { panic!("{line}") };
            assert!(name.starts_with("fieldgate_"), "{line}");
            if comment.starts_with("TYPE") {
                assert!(matches!(*rest, "counter" | "gauge" | "histogram"), "{line}");
                assert!(kinds.insert((*name).to_owned(), (*rest).to_owned()).is_none(), "announced twice: {line}");
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        let name = series.split('{').next().unwrap();
        let valid = |c: char| c.is_ascii_alphanumeric() || c == '_';
        assert!(name.chars().all(valid), "{line}");
        let base = ["_total", "_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let kind = kinds.get(name).or_else(|| kinds.get(base?)).unwrap_or_else(|| panic!("not announced: {line}"));
        assert!(kind != "counter" || name.ends_with("_total"), "{line}");
        samples.entry(name.to_owned()).or_default().push(value.parse().unwrap_or_else(|_| panic!("{line}")));
    }
    samples
}

#[tokio::test]
async fn metrics_are_a_valid_exposition_and_count() -> Told {
    let stage = Stage::start("line-1", "").await?;
    let bundle = stage.gateway.add_device("press-1").await?;
    let leaf = Leaf::connect(&bundle, stage.gateway.broker(), Options::new(Version::V5)).await?;
    for _ in 0..3 {
        assert_eq!(leaf.publish("devices/press-1/telemetry/t", "1").await?, Ack::Accepted);
    }
    assert_eq!(leaf.publish("plant/x", "1").await?, Ack::Refused(0x87));
    stage.wait_drained().await?;
    let answer = stage.gateway.get("/metrics").await?;
    let kind = answer.header("content-type").unwrap_or_default();
    assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
    let samples = exposition(&answer.body);
    let sum = |name: &str| samples.get(name).unwrap_or_else(|| panic!("no {name}")).iter().sum::<f64>();
    assert!(sum("fieldgate_ready") > 0.5 && sum("fieldgate_upstream_up") > 0.5);
    assert!((sum("fieldgate_broker_connections") - 1.0).abs() < 0.5);
    assert!(sum("fieldgate_upstream_acknowledged_messages_total") >= 4.0, "three readings and a state");
    assert!(sum("fieldgate_broker_refusals_total") >= 1.0);
    assert!(sum("fieldgate_resident_memory_bytes") > 1e6);
    Ok(())
}

#[tokio::test]
async fn a_second_gateway_on_the_same_directory_refuses_to_start() -> Told {
    let gateway = Gateway::start_new(BINARY, "line-1", "").await?;
    let second = gateway.verb(&["run"]).await?;
    assert_eq!(second.code, Some(1), "{second:?}");
    let data = gateway.data_dir();
    assert!(second.stderr.contains(data.to_str().unwrap()), "{}", second.stderr);
    assert_eq!(gateway.get("/readyz").await?.status, 200, "the first one is untouched");
    gateway.status().await?;
    Ok(())
}

#[tokio::test]
async fn sigterm_drains_and_exits_0() -> Told {
    let mut stage = Stage::start("line-1", "").await?;
    let bundle = stage.gateway.add_device("press-1").await?;
    let leaf = Leaf::connect(&bundle, stage.gateway.broker(), Options::new(Version::V5)).await?;
    let local = "devices/press-1/telemetry/t";
    let mut open = Vec::new();
    for n in 0..50 {
        open.push(leaf.send(local, n.to_string()).await?);
    }
    let mut open = open.into_iter();
    assert_eq!(open.next().unwrap().acknowledged().await, Ack::Accepted);
    stage.gateway.terminate()?;
    let mut acknowledged = 1;
    for sent in open {
        acknowledged += usize::from(sent.acknowledged().await == Ack::Accepted);
    }
    let began = Instant::now();
    assert_eq!(stage.gateway.wait_stopped().await?.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(11), "{:?}", began.elapsed());
    // In order, so that as many as were acknowledged have come; more may have been taken than were acknowledged.
    let arrived = || (stage.cloud.on(&stage.topic(local)).len() >= acknowledged).then_some(());
    fieldgate_testkit::wait_until("what was acknowledged", fieldgate_testkit::PATIENCE, arrived).await?;
    assert!(!stage.gateway.socket().exists(), "admin.sock is removed");
    let (_, why) = leaf.wait_ended(fieldgate_testkit::PATIENCE).await?;
    println!("{acknowledged} of 50 acknowledged; the leaf was told: {why}");
    assert!(why.contains("ServerShuttingDown"), "{why}");
    Ok(())
}

#[tokio::test]
async fn ten_idle_devices_take_little_memory() -> Told {
    let stage = Stage::start("line-1", "").await?;
    let mut leaves = Vec::new();
    for n in 0..10 {
        let bundle = stage.gateway.add_device(&format!("press-{n}")).await?;
        leaves.push(Leaf::connect(&bundle, stage.gateway.broker(), Options::new(Version::V5)).await?);
    }
    stage.wait_drained().await?;
    let (all, anonymous) = stage.gateway.resident_bytes()?;
    println!("{} KiB resident, {} KiB of them anonymous", all / 1024, anonymous / 1024);
    // The program's own pages are several times larger in a debug build; 40 MB for all is for the release one.
    assert!(anonymous < 25_000_000, "{anonymous} bytes");
    Ok(())
}

#[tokio::test]
async fn verbs_without_a_gateway_say_what_to_do() -> Told {
    let gateway = Gateway::new(BINARY, "line-1", "")?;
    for verb in [&["status"][..], &["buffer", "status"]] {
        let answer = gateway.verb(verb).await?;
        assert_eq!(answer.code, Some(1), "{verb:?}: {answer:?}");
        assert!(answer.stderr.contains("fieldgate run"), "{verb:?}: {}", answer.stderr);
    }
    let list = gateway.verb(&["device", "list"]).await?.ok()?;
    assert!(list.contains("fieldgate device add"), "{list}");
    assert_eq!(gateway.verb(&["no-such-verb"]).await?.code, Some(2));
    Ok(())
}

#[tokio::test]
async fn a_data_directory_of_another_gateway_is_refused() -> Told {
    let mut gateway = Gateway::start_new(BINARY, "line-1", "").await?;
    gateway.stop().await?;
    let text = std::fs::read_to_string(gateway.config())?.replace("\"line-1\"", "\"line-2\"");
    std::fs::write(gateway.config(), text)?;
    let refused = gateway.verb(&["run"]).await?;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("line-1") && refused.stderr.contains("line-2"), "{}", refused.stderr);
    Ok(())
}
