//! Back-up and restore: taken under load, restored on an empty box; what is refused; `kill -9` at any moment.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fieldgate_testkit::{Ack, Gateway, Leaf, Load, Options, PATIENCE, Version, wait_until};
use serde_json::Value as Json;

use crate::stage::{BINARY, Stage, Told};

const PASSPHRASE: &str = "correct horse battery\n";

/// What a verb said, without a `Gateway` around it.
struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn fieldgate(folder: &Path, arguments: &[&str]) -> anyhow::Result<Said> {
    let output = command(folder, arguments).output()?;
    let text = |bytes| String::from_utf8(bytes);
    Ok(Said { code: output.status.code(), stdout: text(output.stdout)?, stderr: text(output.stderr)? })
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    command
}

/// All plain files below a folder, and what they hold.
fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.is_file() {
                found.insert(path.strip_prefix(folder).unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn write_passphrase(folder: &Path) -> anyhow::Result<PathBuf> {
    let path = folder.join("passphrase");
    std::fs::write(&path, PASSPHRASE)?;
    Ok(path)
}

#[tokio::test]
async fn a_backup_taken_under_load_makes_the_same_gateway_on_an_empty_box() -> Told {
    let mut stage = Stage::start("line-1", "[buffer]\nmax_age = \"1d\"\n").await?;
    let gateway = &stage.gateway;
    let bundle = gateway.add_device("press-1").await?;
    let revoked = gateway.add_device("press-2").await?;
    gateway.verb(&["device", "revoke", "press-2"]).await?.ok()?;
    let load = Load::start(&bundle, gateway.broker(), Options::new(Version::V5), 200);
    wait_until("a load", PATIENCE, || (load.count() > 50).then_some(())).await?;

    let passphrase = write_passphrase(gateway.folder())?;
    let passphrase = passphrase.to_str().unwrap();
    let before = load.count();
    let told =
        gateway.verb(&["backup", "../line-1.age", "--passphrase-file", passphrase, "--with-audit", "--json"]).await?;
    // Beside the gateway's folder, which goes with the box.
    let archive = gateway.folder().parent().unwrap().join("line-1.age");
    let moved = tempfile::tempdir()?;
    std::fs::rename(&archive, moved.path().join("line-1.age"))?;
    let archive = moved.path().join("line-1.age");
    let told: Json = serde_json::from_str(&told.ok()?)?;
    let listed = told["manifest"]["files"].to_string();
    for file in ["data/state.db", "data/ca/root-1.key", "data/ca/issuing-1.pem", "data/audit/", "config/gateway.toml"] {
        assert!(listed.contains(file), "{file}: {listed}");
    }
    assert!(!listed.contains("queue.db"), "{listed}");
    assert_eq!(std::fs::metadata(&archive)?.permissions().mode() & 0o777, 0o600);
    wait_until("more load after the backup", PATIENCE, || (load.count() > before + 20).then_some(())).await?;
    // Certificates issued later are not part of it.
    let later = gateway.add_device("press-3").await?;
    // A few boots more than the backup knows of.
    stage.gateway.stop().await?;
    stage.gateway.start().await?;
    stage.wait_drained().await?;
    stage.gateway.kill()?;
    let topic = stage.topic("devices/press-1/telemetry/load");
    let highest = stage.cloud.arrivals(&topic).iter().map(|arrival| arrival.boot).max().unwrap();

    let mut other = Gateway::new(BINARY, "line-1", "")?;
    std::fs::remove_file(other.config())?;
    let file = archive.to_str().unwrap();
    let restored = other.verb(&["restore", file, "--passphrase-file", passphrase, "--json"]).await?;
    assert!(restored.stderr.contains("there must never be two"), "{restored:?}");
    let restored: Json = serde_json::from_str(&restored.ok()?)?;
    assert_eq!(restored["gateway"], "line-1");
    assert_eq!(std::fs::read(other.config())?, std::fs::read(stage.gateway.config())?);
    let mode = |path: &str| std::fs::metadata(other.data_dir().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("ca"), mode("ca/root-1.key")), (0o700, 0o700, 0o600));

    other.start().await?;
    // The configuration came with it, its port included: the device finds it where the other one was.
    let arrived = |found: &fieldgate_testkit::Observed| found.number("fg-boot") > Some(highest);
    let message = stage.cloud.wait_for(&topic, arrived).await?;
    assert_eq!(message.number("fg-boot"), Some(restored["boot"].as_u64().unwrap() + 1));
    let sum = load.stop().await?;
    assert!(sum.acknowledged.len() > before);
    let devices = other.verb(&["device", "list"]).await?.ok()?;
    assert!(devices.contains("press-1") && devices.contains("revoked") && !devices.contains("press-3"), "{devices}");
    for gone in [&revoked, &later] {
        let options = Options::new(Version::V5);
        assert!(Leaf::connect(gone, stage.gateway.broker(), options).await.is_err(), "{}", gone.id);
    }
    let audit = other.verb(&["audit", "--lines", "1000"]).await?.ok()?;
    for event in ["\"backup_taken\"", "\"restored\"", "\"device_revoked\""] {
        // The line of the backup was written after the snapshot, and may be in the log or not.
        assert!(audit.contains(event) || event.contains("backup"), "{event}: {audit}");
    }
    let leaf = Leaf::connect(&bundle, stage.gateway.broker(), Options::new(Version::V5)).await?;
    assert_eq!(leaf.publish("devices/press-1/telemetry/t", "1").await?, Ack::Accepted);
    Ok(())
}

#[tokio::test]
async fn files_that_the_configuration_names_come_along() -> Told {
    let outside = tempfile::tempdir()?;
    let elsewhere = outside.path().join("up.pem");
    std::fs::write(&elsewhere, "not a certificate, which nobody reads here")?;
    let gateway = Gateway::new(BINARY, "line-1", "")?;
    let map = "[[point]]\nname = \"t\"\nat = \"holding:1\"\ntype = \"u16\"\n";
    std::fs::create_dir(gateway.folder().join("maps"))?;
    std::fs::write(gateway.folder().join("maps/meter.toml"), map)?;
    std::fs::write(gateway.folder().join("up.password"), "secret\n")?;
    gateway.configure(&format!(
        "[upstream]\nurl = \"mqtts://127.0.0.1:1\"\nca = \"{}\"\nusername = \"u\"\npassword_file = \"up.password\"\n\
         [[modbus]]\nurl = \"tcp://127.0.0.1:1\"\n[[modbus.device]]\nid = \"m-1\"\nunit = 1\npoints_from = \"maps/meter.toml\"\n",
        elsewhere.display()
    ))?;
    gateway.verb(&["device", "add", "press-1"]).await?.ok()?;
    let passphrase = write_passphrase(gateway.folder())?;
    let passphrase = passphrase.to_str().unwrap();
    // Nothing runs: the verb works on the data directory.
    gateway.verb(&["backup", "b.age", "--passphrase-file", passphrase]).await?.ok()?;

    let box_ = tempfile::tempdir()?;
    let archive = gateway.folder().join("b.age");
    let arguments = ["restore", archive.to_str().unwrap(), "--passphrase-file", passphrase];
    let said = fieldgate(box_.path(), &arguments)?;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert_eq!(std::fs::read_to_string(box_.path().join("maps/meter.toml"))?, map);
    assert_eq!(std::fs::read_to_string(box_.path().join("up.password"))?, "secret\n");
    let kept = box_.path().join("data/outside").join(elsewhere.canonicalize()?.strip_prefix("/")?);
    assert_eq!(std::fs::read(&kept)?, std::fs::read(&elsewhere)?);
    assert!(said.stderr.contains(elsewhere.to_str().unwrap()), "{}", said.stderr);
    let said = fieldgate(box_.path(), &["device", "list"])?;
    assert!(said.stdout.contains("press-1"), "{}", said.stderr);
    Ok(())
}

#[tokio::test]
async fn refusals_say_why_and_change_nothing() -> Told {
    let gateway = Gateway::start_new(BINARY, "line-1", "").await?;
    gateway.add_device("press-1").await?;
    let passphrase = write_passphrase(gateway.folder())?;
    let passphrase = passphrase.to_str().unwrap();
    let wrong = gateway.folder().join("wrong");
    std::fs::write(&wrong, "another passphrase\n")?;
    std::fs::write(gateway.folder().join("short"), "short\n")?;
    gateway.verb(&["backup", "b.age", "--passphrase-file", passphrase]).await?.ok()?;
    let archive = gateway.folder().join("b.age");
    let sealed = std::fs::read(&archive)?;

    // Backing up.
    let again = gateway.verb(&["backup", "b.age", "--passphrase-file", passphrase]).await?;
    assert!(again.code == Some(1) && again.stderr.contains("--force"), "{again:?}");
    assert_eq!(std::fs::read(&archive)?, sealed);
    let none = gateway.verb(&["backup", "c.age"]).await?;
    assert!(none.code == Some(1) && none.stderr.contains("--passphrase-file"), "{none:?}");
    let short = gateway.verb(&["backup", "c.age", "--passphrase-file", "short"]).await?;
    assert!(short.code == Some(1) && short.stderr.contains("too short"), "{short:?}");
    gateway.verb(&["backup", "b.age", "--passphrase-file", passphrase, "--force"]).await?.ok()?;
    assert_ne!(std::fs::read(&archive)?, sealed);
    let argument = gateway.verb(&["backup", "c.age", "--passphrase", "in sight"]).await?;
    assert_eq!(argument.code, Some(2), "{argument:?}");

    // Restoring.
    let file = archive.to_str().unwrap();
    let running = gateway.verb(&["restore", file, "--passphrase-file", passphrase]).await?;
    assert!(running.code == Some(1) && running.stderr.contains("holds"), "{running:?}");
    let sealed = std::fs::read(&archive)?;
    let mut flipped = sealed.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let middle = sealed.len() / 2;
    let mut turned = sealed.clone();
    turned[middle] ^= 0x10;
    let cases = [
        (sealed.clone(), wrong.to_str().unwrap(), "the passphrase is wrong"),
        (sealed[..middle].to_vec(), passphrase, "damaged or cut short"),
        (flipped, passphrase, "damaged or cut short"),
        (turned, passphrase, "damaged or cut short"),
        (b"something else".to_vec(), passphrase, "no backup of Fieldgate"),
    ];
    for (content, passphrase, words) in cases {
        let box_ = tempfile::tempdir()?;
        std::fs::write(box_.path().join("b.age"), content)?;
        let before = tree(box_.path());
        let said = fieldgate(box_.path(), &["restore", "b.age", "--passphrase-file", passphrase])?;
        assert!(said.code == Some(1) && said.stderr.contains(words), "{}", said.stderr);
        assert!(said.stderr.contains("nothing was changed"), "{}", said.stderr);
        assert_eq!(tree(box_.path()), before);
    }
    Ok(())
}

/// What a killed restore left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Left {
    /// Nothing that a gateway would take for one.
    Old,
    /// All of it, in place or about to be.
    New,
}

fn judge(folder: &Path, expected: &BTreeMap<PathBuf, Vec<u8>>) -> Left {
    let found = tree(folder);
    let below = |prefix: &str| found.keys().any(|path| path.starts_with(prefix));
    let in_place = |path: &&PathBuf| found.contains_key(*path);
    if below("data/restored") {
        // Each file is in place or waits.
        for path in expected.keys() {
            let name = path
                .strip_prefix("data")
                .map_or_else(|_| Path::new("config").join(path), |p| Path::new("data").join(p));
            let waits = found.contains_key(&Path::new("data/restored").join(name));
            assert!(waits || found.contains_key(path), "{} of {:?}", path.display(), found.keys());
        }
        return Left::New;
    }
    let there = expected.keys().filter(in_place).count();
    assert!(there == 0 || there == expected.len(), "{there} of {}: {:?}", expected.len(), found.keys());
    if there == 0 { Left::Old } else { Left::New }
}

#[tokio::test]
async fn a_kill_at_any_moment_of_a_restore_leaves_the_old_or_the_new_state() -> Told {
    let rounds: u32 = std::env::var("FIELDGATE_TEST_KILLS").ok().map_or(Ok(8), |kills| kills.parse())?;
    let gateway = Gateway::new(BINARY, "line-1", "")?;
    for id in ["press-1", "press-2"] {
        gateway.add_device(id).await?;
    }
    let passphrase = write_passphrase(gateway.folder())?;
    let passphrase = passphrase.to_str().unwrap();
    gateway.verb(&["backup", "b.age", "--passphrase-file", passphrase]).await?.ok()?;
    let archive = gateway.folder().join("b.age");
    let arguments = ["restore", archive.to_str().unwrap(), "--passphrase-file", passphrase];

    // One that is left alone, to see how long it takes and what is there then.
    let calm = tempfile::tempdir()?;
    let began = Instant::now();
    assert_eq!(fieldgate(calm.path(), &arguments)?.code, Some(0));
    let whole = began.elapsed();
    let mut expected = tree(calm.path());
    expected.retain(|path, _| !path.ends_with("lock") && !path.starts_with("data/audit"));
    println!("a restore takes {whole:?}, {} files", expected.len());

    let seed: u64 = std::env::var("FIELDGATE_TEST_SEED").ok().map_or(Ok(0x5eed), |seed| seed.parse())?;
    let mut random = seed;
    let mut next = move |below: u64| {
        // SplitMix64: any sequence that comes again with its seed will do.
        random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) % below
    };
    let mut seen: BTreeMap<Left, u32> = BTreeMap::new();
    for round in 0..rounds {
        let box_ = tempfile::tempdir()?;
        let data = box_.path().join("data");
        let mut child = command(box_.path(), &arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        // Most of the time goes into the passphrase; what is of interest begins with the first file.
        let staged = wait_until("the first file", PATIENCE, || {
            (data.join("lock").exists() || child.try_wait().ok().flatten().is_some()).then_some(())
        });
        staged.await?;
        let delay = Duration::from_micros(next(if round % 3 == 0 { 5_000 } else { 120_000 }));
        tokio::time::sleep(delay).await;
        child.kill()?;
        child.wait()?;
        let left = judge(box_.path(), &expected);
        *seen.entry(left).or_default() += 1;

        // Whoever comes next puts it right: the gateway where it can start, else another restore.
        if left == Left::Old || !box_.path().join("gateway.toml").exists() {
            let said = fieldgate(box_.path(), &arguments)?;
            assert_eq!(said.code, Some(0), "after {delay:?}: {}", said.stderr);
        }
        let said = fieldgate(box_.path(), &["device", "list", "--json"])?;
        assert_eq!(said.code, Some(0), "after {delay:?}: {}", said.stderr);
        let devices: Json = serde_json::from_str(&said.stdout)?;
        assert_eq!(devices.as_array().map(Vec::len), Some(2), "after {delay:?}: {devices}");
        let found = tree(box_.path());
        for (path, content) in expected.iter().filter(|(path, _)| !path.ends_with("state.db")) {
            assert_eq!(found.get(path), Some(content), "{} after {delay:?}", path.display());
        }
        assert!(!found.keys().any(|path| path.starts_with("data/restor")), "{:?}", found.keys());
    }
    println!("{rounds} kills, seed {seed}: {seen:?}");
    Ok(())
}
