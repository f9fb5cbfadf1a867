//! state.db.

use std::sync::Arc;
use std::time::Duration;

use fieldgate_types::{BUILD_FLOOR, ManualClock, UnixMillis};

use crate::{Delete, OpenError, Put, State};

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(BUILD_FLOOR))
}

fn put(key: &str, value: &str) -> Put {
    Put { table: "registry", key: key.into(), value: value.into() }
}

#[test]
fn the_boot_counter_rises_with_runs_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    assert_eq!(State::open(&path, clock()).unwrap().boot(), 0);
    assert_eq!(State::open_for_run(&path, clock()).unwrap().boot(), 1);
    assert_eq!(State::open_for_run(&path, clock()).unwrap().boot(), 2);
    assert_eq!(State::open(&path, clock()).unwrap().boot(), 2);
    assert_eq!(State::open_for_run(&path, clock()).unwrap().boot(), 3);
}

#[test]
fn what_was_committed_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let state = State::open_for_run(&path, clock()).unwrap();
    state.commit(&[put("b", "2"), put("a", "1"), put("c", "3")], &[]).unwrap();
    let delete = Delete { table: "registry", key: b"b".to_vec() };
    state.commit(&[put("a", "9")], &[delete]).unwrap();
    drop(state);
    let state = State::open(&path, clock()).unwrap();
    let expected: crate::Pairs = vec![(b"a".into(), b"9".into()), (b"c".into(), b"3".into())];
    assert_eq!(state.scan("registry").unwrap(), expected);
    assert_eq!(state.get("registry", b"c").unwrap(), Some(b"3".to_vec()));
    assert_eq!(state.get("registry", b"b").unwrap(), None);
    assert_eq!(state.get("other", b"c").unwrap(), None);
}

#[test]
fn the_latest_plausible_start_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let clock = clock();
    let open = || State::open_for_run(&path, Arc::<ManualClock>::clone(&clock)).unwrap().latest_start();
    assert_eq!(open(), BUILD_FLOOR);
    clock.advance(Duration::from_secs(10));
    assert_eq!(open(), BUILD_FLOOR.plus(Duration::from_secs(10)));
    clock.step_to(UnixMillis(5));
    assert_eq!(open(), BUILD_FLOOR.plus(Duration::from_secs(10)));
}

#[test]
fn a_damaged_file_is_an_error_that_says_what_to_do_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    std::fs::write(&path, vec![b'x'; 9000]).unwrap();
    let refused = State::open_for_run(&path, clock()).unwrap_err();
    assert!(matches!(refused, OpenError::Damaged { .. }), "{refused}");
    assert!(refused.to_string().contains("fieldgate restore"), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), vec![b'x'; 9000]);
}

#[test]
fn a_missing_folder_is_named() {
    let refused = State::open_for_run(std::path::Path::new("/nonexistent/state.db"), clock()).unwrap_err();
    assert!(refused.to_string().contains("/nonexistent/state.db"), "{refused}");
}

#[test]
fn a_snapshot_is_whole_while_others_write_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let state = State::open_for_run(&path, clock()).unwrap();
    let writer = {
        let state = state.clone();
        std::thread::spawn(move || {
            for n in 0..60 {
                // Two rows that are alike at every moment.
                let pair = [put("a", &n.to_string()), put("b", &n.to_string())];
                state.commit(&pair, &[]).unwrap();
            }
        })
    };
    let mut seen = std::collections::BTreeSet::new();
    while !writer.is_finished() {
        let copy = dir.path().join("copy.db");
        std::fs::write(&copy, state.snapshot().unwrap()).unwrap();
        let copied = State::open(&copy, clock()).unwrap();
        assert_eq!(copied.boot(), 1);
        assert_eq!(copied.get("registry", b"a").unwrap(), copied.get("registry", b"b").unwrap());
        seen.insert(copied.get("registry", b"a").unwrap());
    }
    writer.join().unwrap();
    assert!(seen.len() > 1, "{seen:?}");
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("snapshot")), "{left:?}");
}

#[test]
fn the_boot_counter_can_be_raised_and_never_falls() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let state = State::open(&path, clock()).unwrap();
    assert_eq!(state.raise_boot(1 << 40).unwrap(), 1 << 40);
    assert_eq!(state.raise_boot(5).unwrap(), 1 << 40);
    assert_eq!(State::open_for_run(&path, clock()).unwrap().boot(), (1 << 40) + 1);
}
