//! Restores in folders of their own: what arrives, what is refused, what an interruption leaves.

use std::time::Duration;

use fieldgate_types::{BUILD_FLOOR, ManualClock};
use zeroize::Zeroizing;

use super::*;
use crate::backup::archive::{FORMAT, Manifest};

const TAKEN: UnixMillis = UnixMillis(BUILD_FLOOR.0 + 1_000_000);

fn clock() -> Arc<dyn Clock> {
    Arc::new(ManualClock::new(TAKEN.plus(Duration::from_secs(60))))
}

fn entry(path: &str, content: Vec<u8>) -> Entry {
    Entry { path: path.to_owned(), mode: 0o600, content: Zeroizing::new(content) }
}

/// A backup of a gateway with a CA, and these files besides.
fn archive(more: &[(&str, &str)]) -> Archive {
    let dir = tempfile::tempdir().unwrap();
    let gateway = DeviceId::new("line-1").unwrap();
    let state = State::open_for_run(&dir.path().join("state.db"), clock()).unwrap();
    drop(Ca::open_or_create(&dir.path().join("ca"), &gateway, clock()).unwrap());
    let mut entries = vec![entry("data/state.db", state.snapshot().unwrap())];
    for path in files_below(&dir.path().join("ca")).unwrap() {
        let name = path.file_name().unwrap().to_str().unwrap();
        entries.push(entry(&format!("data/ca/{name}"), fs::read(&path).unwrap()));
    }
    entries.push(entry("config/gateway.toml", b"[gateway]\n".to_vec()));
    entries.extend(more.iter().map(|(path, text)| entry(path, text.as_bytes().to_vec())));
    let manifest = Manifest {
        format: FORMAT,
        version: "0.1.0".to_owned(),
        gateway,
        taken: TAKEN,
        boot: state.boot(),
        configuration: "gateway.toml".to_owned(),
        data_dir: "data".to_owned(),
        files: entries.iter().map(Entry::listed).collect(),
    };
    Archive { manifest, entries }
}

/// Every file below a folder, with its content.
fn tree(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    files_below(folder).unwrap().into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[test]
fn a_restore_brings_back_files_modes_and_a_boot_counter_beyond_all_others() {
    let dir = tempfile::tempdir().unwrap();
    let archive = archive(&[("config/maps/m.toml", "a"), ("outside/etc/ca.pem", "b"), ("data/opcua/own/c", "c")]);
    let file = dir.path().join("line.toml");
    let restored = restore(&archive, &file, &clock()).unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"[gateway]\n");
    assert_eq!(fs::read(dir.path().join("maps/m.toml")).unwrap(), b"a");
    let data = dir.path().join("data");
    assert_eq!(fs::read(data.join("opcua/own/c")).unwrap(), b"c");
    assert_eq!(restored.outside, [(data.join("outside/etc/ca.pem"), PathBuf::from("/etc/ca.pem"))]);
    assert_eq!(fs::read(data.join("outside/etc/ca.pem")).unwrap(), b"b");
    let mode = |path: &str| fs::metadata(data.join(path)).unwrap().permissions().mode() & 0o777;
    for folder in ["", "ca", "opcua", "opcua/own", "outside"] {
        assert_eq!(mode(folder), 0o700, "{folder}");
    }
    assert_eq!(mode("ca/root-1.key"), 0o600);
    let state = State::open_for_run(&data.join("state.db"), clock()).unwrap();
    assert_eq!(state.boot(), restored.boot + 1);
    assert!(state.boot() > BUILD_FLOOR.as_secs() * BOOTS && state.boot() < 1 << 53);
    assert!(!data.join(RESTORED).exists() && !data.join(DONE).exists() && !data.join(RESTORING).exists());
    assert_eq!(settle(&data).unwrap(), Settled::Nothing);
}

#[test]
fn a_restore_at_another_time_begins_another_range_of_boots() {
    let at = |seconds| ManualClock::new(TAKEN.plus(Duration::from_secs(seconds)));
    let (first, second) = (epoch(7, TAKEN, &at(1)), epoch(7, TAKEN, &at(2)));
    assert!(second - first >= BOOTS && first > 7);
    assert_eq!(epoch(first + 5, TAKEN, &at(1)), first + 5 + BOOTS, "never back");
    // A box without a clock: beyond the moment of the backup, and by chance.
    let wrong = ManualClock::new(UnixMillis(5));
    let found: std::collections::BTreeSet<u64> = (0..8).map(|_| epoch(7, TAKEN, &wrong)).collect();
    assert!(found.len() > 6 && found.iter().all(|boot| *boot > TAKEN.as_secs() * BOOTS), "{found:?}");
}

#[test]
fn what_is_there_already_is_named_and_stays() {
    let archive = archive(&[("config/up.password", "new")]);
    let cases = [("data/state.db", "`state.db`"), ("gateway.toml", "gateway.toml"), ("up.password", "up.password")];
    for (there, named) in cases {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("data")).unwrap();
        fs::write(dir.path().join(there), "old").unwrap();
        let before = tree(dir.path());
        let refused = restore(&archive, &dir.path().join("gateway.toml"), &clock()).unwrap_err().to_string();
        assert!(refused.contains(named) && refused.contains("move it away"), "{refused}");
        assert_eq!(tree(dir.path()), before);
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("up.password"), "new").unwrap();
    restore(&archive, &dir.path().join("gateway.toml"), &clock()).unwrap();
}

#[test]
fn a_backup_that_no_gateway_could_start_from_leaves_nothing() {
    let odd = archive(&[("data/queue.db", "x")]);
    let mut no_ca = archive(&[]);
    no_ca.entries.retain(|entry| !entry.path.starts_with("data/ca"));
    let mut no_root = archive(&[]);
    no_root.entries.retain(|entry| !entry.path.contains("root"));
    let mut newer = archive(&[]);
    let state = newer.entries.iter_mut().find(|entry| entry.path == "data/state.db").unwrap();
    state.content[60..64].copy_from_slice(&99_u32.to_be_bytes());
    for (archive, words) in [(odd, "queue.db"), (no_ca, "no certificate"), (no_root, "certificate"), (newer, "state")] {
        let dir = tempfile::tempdir().unwrap();
        let refused = restore(&archive, &dir.path().join("gateway.toml"), &clock()).unwrap_err();
        assert!(refused.to_string().contains(words), "{refused}");
        let left: Vec<_> = tree(dir.path()).into_iter().map(|(path, _)| path).collect();
        assert_eq!(left, [dir.path().join("data/lock")]);
    }
}

#[test]
fn an_interrupted_restore_is_undone_before_and_finished_after_the_one_rename() {
    let archive = archive(&[("config/maps/m.toml", "a")]);
    let staged = |name: &str| {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        fs::create_dir(&data).unwrap();
        let file = dir.path().join("gateway.toml");
        let restored = prepare(&archive, &data.join(name), &file, &data, &clock()).unwrap();
        (dir, data, restored)
    };
    let (dir, data, _) = staged(RESTORING);
    assert_eq!(settle(&data).unwrap(), Settled::Undone);
    assert_eq!(tree(dir.path()), []);

    let (dir, data, restored) = staged(RESTORED);
    // Dead after the first of its moves.
    fs::rename(data.join("restored/data/state.db"), data.join("state.db")).unwrap();
    assert_eq!(settle(&data).unwrap(), Settled::Finished(restored.clone()));
    assert_eq!(fs::read(dir.path().join("maps/m.toml")).unwrap(), b"a");
    assert!(dir.path().join("gateway.toml").exists() && data.join("ca/root-1.key").exists());

    let (_dir, data, restored) = staged(DONE);
    assert_eq!(settle(&data).unwrap(), Settled::Finished(restored));
    assert_eq!(tree(&data), []);
}
