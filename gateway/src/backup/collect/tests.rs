//! What is taken along, from folders that change meanwhile and from files that lie elsewhere.

use std::collections::BTreeSet;

use fieldgate_types::DeviceId;

use super::*;
use crate::config::load;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

fn names(collected: &Collected) -> BTreeSet<&str> {
    collected.archive.entries.iter().map(|entry| entry.path.as_str()).collect()
}

fn collected(file: &Path, audit: bool) -> Collected {
    let config = load(file).unwrap();
    let snapshot = Snapshot { gateway: DeviceId::new("line-1").unwrap(), boot: 7, state: b"state".to_vec() };
    collect(&config, snapshot, Settings { file, audit, now: NOW }).unwrap()
}

fn write(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

#[test]
fn takes_what_belongs_to_the_gateway_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let (file, data) = (dir.path().join("etc/line.toml"), dir.path().join("var"));
    let outside = elsewhere.path().canonicalize().unwrap().join("ca.pem");
    write(&outside, "outside");
    for (name, text) in [("ca/root-1.key", "k"), ("ca/root-2.key.new", "n"), ("opcua/own/a/cert.der", "c")] {
        write(&data.join(name), text);
    }
    for (name, text) in [("queue.db", "q"), ("lock", "1"), ("crl/issuing-1.crl", "l"), ("audit/audit.jsonl", "{}")] {
        write(&data.join(name), text);
    }
    let (data, ca) = (data.display(), outside.display());
    write(
        &file,
        &format!(
            "[gateway]\ndata_dir = \"{data}\"\n[upstream]\nurl = \"mqtts://localhost:1\"\nca = \"{ca}\"\n\
             username = \"u\"\npassword_file = \"secret/up\"\n"
        ),
    );
    write(&dir.path().join("etc/secret/up"), "password");
    write(&dir.path().join("etc/unrelated"), "nobody named me");

    let found = collected(&file, false);
    let outside = format!("outside{}", outside.display());
    let mut expected = BTreeSet::from(["data/state.db", "data/ca/root-1.key", "data/opcua/own/a/cert.der"]);
    expected.extend(["config/line.toml", "config/secret/up", outside.as_str()]);
    assert_eq!(names(&found), expected);
    assert_eq!(found.warnings, Vec::<String>::new());
    let manifest = &found.archive.manifest;
    assert_eq!((manifest.configuration.as_str(), manifest.boot, manifest.taken), ("line.toml", 7, NOW));
    assert_eq!(manifest.data_dir, dir.path().join("var").display().to_string(), "not below the configuration");
    assert!(names(&collected(&file, true)).contains("data/audit/audit.jsonl"));

    fs::remove_file(dir.path().join("etc/secret/up")).unwrap();
    let found = collected(&file, false);
    assert!(!names(&found).contains("config/secret/up"));
    assert!(found.warnings.concat().contains("secret/up"), "{:?}", found.warnings);
}

#[test]
fn a_data_directory_beside_the_configuration_is_found_from_there() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gateway.toml");
    write(&file, "[gateway]\nid = \"line-1\"\n");
    assert_eq!(collected(&file, false).archive.manifest.data_dir, "data");
}

/// What is found in a folder with the files `a` and `b`, where `meanwhile` happens whenever one is read, told how often
/// that was before.
fn while_it_changes(meanwhile: impl Fn(&Path, u32)) -> Result<Vec<String>, CollectError> {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        write(&dir.path().join(name), name);
    }
    let mut all = Gathered::default();
    let mut reads = 0;
    all.add_still(dir.path(), Path::new("ca"), |path| {
        meanwhile(dir.path(), reads);
        reads += 1;
        read(path)
    })?;
    Ok(all.entries.into_iter().map(|entry| entry.path).collect())
}

#[test]
fn a_folder_that_changes_while_it_is_read_is_read_again_until_it_stands_still() {
    let grows = while_it_changes(|dir, reads| {
        if reads == 1 {
            write(&dir.join("c"), "c");
        }
    });
    assert_eq!(grows.unwrap(), ["ca/a", "ca/b", "ca/c"]);
    let shrinks = while_it_changes(|dir, reads| {
        if reads == 0 {
            fs::remove_file(dir.join("b")).unwrap();
        }
    });
    assert_eq!(shrinks.unwrap(), ["ca/a"]);
    let moves = while_it_changes(|dir, reads| {
        if reads == 1 {
            write(&dir.join("c"), "c");
            fs::remove_file(dir.join("a")).unwrap();
        }
    });
    assert_eq!(moves.unwrap(), ["ca/b", "ca/c"]);
    // Another file in the place of the last one, each time.
    let restless = while_it_changes(|dir, reads| {
        write(&dir.join(format!("new-{}", reads + 1)), "new");
        if reads > 0 {
            fs::remove_file(dir.join(format!("new-{reads}"))).unwrap();
        }
    });
    assert!(matches!(restless.unwrap_err(), CollectError::Restless(_)));
}
