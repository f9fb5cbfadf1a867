//! Peers that lie, stall and die. Whatever they do, no wrong value may come up, and good ones must follow.
//!
//! The honest part of each peer gives register n the value n + 1000, so that a value taken from another request, or
//! from a bad frame, shows.

use std::time::Duration;

use fieldgate_protocol::Value;

use crate::harness::{DEADLINE, Rig, eventually};
use crate::peer::{Frame, Peer, Reply};

const POINTS: &str = r#"
timeout = "150ms"
max_gap = 0
[[modbus.device]]
id = "d"
interval = "10ms"
[[modbus.device.point]]
name = "a"
at = "holding:100"
type = "u16"
[[modbus.device.point]]
name = "b"
at = "holding:200"
type = "u16"
"#;

/// Runs the driver against a peer that misbehaves in every third request of its first connections, then is honest.
async fn no_wrong_value(faults: usize, misbehave: impl Fn(&Frame) -> Reply + Send + Sync + 'static) {
    let peer = Peer::start(move |frame| {
        if frame.connection < faults && frame.number % 3 == 2 {
            misbehave(frame)
        } else {
            Reply::Bytes(frame.honest(1000))
        }
    })
    .await;
    let mut rig = Rig::start(peer.address, POINTS);
    let end = tokio::time::Instant::now() + DEADLINE;
    while peer.connections() <= faults {
        assert!(tokio::time::Instant::now() < end, "a fault went unnoticed: {} connections", peer.connections());
        rig.next().await;
    }
    let (a, b) = (Value::Uint(1100), Value::Uint(1200));
    rig.until_value("d", "a", &a).await;
    rig.until_value("d", "b", &b).await;
    assert!(rig.values("d", "a").iter().all(|value| *value == a), "{:?}", rig.values("d", "a"));
    assert!(rig.values("d", "b").iter().all(|value| *value == b), "{:?}", rig.values("d", "b"));
    assert!(rig.values("d", "a").len() > faults, "values flow between the faults");
    let info = rig.state.borrow().clone();
    assert!(info.failures >= u64::try_from(faults).unwrap(), "{info:?}");
    rig.stop().await;
}

#[tokio::test]
async fn silence() {
    no_wrong_value(4, |_| Reply::Silence).await;
}

#[tokio::test]
async fn a_late_answer() {
    no_wrong_value(4, |frame| Reply::Pieces(Vec::new(), Duration::from_millis(220), frame.honest(0))).await;
}

#[tokio::test]
async fn fewer_registers_than_asked_for() {
    no_wrong_value(6, |frame| Reply::Bytes(frame.registers(&[]))).await;
}

#[tokio::test]
async fn more_registers_than_asked_for() {
    no_wrong_value(6, |frame| Reply::Bytes(frame.registers(&[7, 7]))).await;
}

#[tokio::test]
async fn a_byte_count_that_does_not_match_the_frame() {
    no_wrong_value(6, |frame| Reply::Bytes(frame.wrap(&[3, 4, 0, 7]))).await;
    no_wrong_value(6, |frame| Reply::Bytes(frame.wrap(&[3, 2, 0, 7, 0, 7]))).await;
    no_wrong_value(6, |frame| Reply::Bytes(frame.wrap(&[3, 1, 7]))).await;
}

#[tokio::test]
async fn a_wrong_transaction_id() {
    no_wrong_value(6, |frame| {
        let mut answer = frame.registers(&[7]);
        answer[1] = answer[1].wrapping_sub(1);
        Reply::Bytes(answer)
    })
    .await;
}

#[tokio::test]
async fn a_wrong_unit_id() {
    no_wrong_value(6, |frame| {
        let mut answer = frame.registers(&[7]);
        answer[6] = 9;
        Reply::Bytes(answer)
    })
    .await;
}

#[tokio::test]
async fn a_wrong_function_code() {
    no_wrong_value(6, |frame| Reply::Bytes(frame.wrap(&[4, 2, 0, 7]))).await;
    no_wrong_value(6, |frame| Reply::Bytes(frame.wrap(&[0x84, 2]))).await;
    no_wrong_value(6, |frame| Reply::Bytes(frame.wrap(&[0x63, 2, 0, 7]))).await;
}

#[tokio::test]
async fn another_protocol_id_and_impossible_lengths() {
    no_wrong_value(6, |frame| {
        let mut answer = frame.registers(&[7]);
        answer[3] = 1;
        Reply::Bytes(answer)
    })
    .await;
    no_wrong_value(6, |frame| Reply::Bytes([&frame.bytes[..4], &[0, 0, 1, 3]].concat())).await;
    no_wrong_value(3, |frame| Reply::Bytes([&frame.bytes[..4], &[0xFF, 0xFF, 1, 3, 2, 0, 7]].concat())).await;
    no_wrong_value(6, |frame| Reply::Bytes(frame.wrap(&[]))).await;
}

#[tokio::test]
async fn an_answer_and_something_after_it() {
    // A second answer, ready for the next request's id: whoever keeps it takes 7 for register 100 or 200.
    no_wrong_value(6, |frame| {
        let mut next = frame.registers(&[7]);
        next[1] = next[1].wrapping_add(1);
        Reply::Bytes([frame.honest(1000), next].concat())
    })
    .await;
    no_wrong_value(6, |frame| Reply::Bytes([frame.honest(1000), vec![0]].concat())).await;
    no_wrong_value(6, |frame| Reply::Bytes([frame.exception(4), vec![0]].concat())).await;
    no_wrong_value(6, |frame| {
        let mut next = frame.registers(&[7]);
        next[1] = next[1].wrapping_add(1);
        Reply::Pieces(frame.honest(1000), Duration::from_millis(3), next)
    })
    .await;
}

#[tokio::test]
async fn half_a_frame() {
    no_wrong_value(3, |frame| Reply::Bytes(frame.honest(0)[..8].to_vec())).await;
    no_wrong_value(6, |frame| Reply::BytesAndClose(frame.honest(0)[..8].to_vec())).await;
    no_wrong_value(6, |frame| Reply::BytesAndClose(frame.honest(0)[..3].to_vec())).await;
}

#[tokio::test]
async fn a_frame_in_two_pieces_is_a_good_frame() {
    let peer = Peer::start(|frame| {
        let answer = frame.honest(1000);
        Reply::Pieces(answer[..9].to_vec(), Duration::from_millis(20), answer[9..].to_vec())
    })
    .await;
    let mut rig = Rig::start(peer.address, POINTS);
    rig.until_value("d", "b", &Value::Uint(1200)).await;
    rig.until_value("d", "a", &Value::Uint(1100)).await;
    assert_eq!(peer.connections(), 1);
    rig.stop().await;
}

#[tokio::test]
async fn reset_and_close_instead_of_an_answer() {
    no_wrong_value(6, |_| Reply::Reset).await;
    no_wrong_value(6, |_| Reply::Close).await;
}

#[tokio::test]
async fn a_peer_that_closes_after_each_answer_is_served() {
    let peer = Peer::start(|frame| Reply::BytesAndClose(frame.honest(1000))).await;
    let mut rig = Rig::start(peer.address, POINTS);
    for _ in 0..10 {
        rig.until_value("d", "a", &Value::Uint(1100)).await;
    }
    assert!(!rig.seen.iter().any(|u| matches!(u, fieldgate_protocol::Update::Offline { .. })), "{:#?}", rig.seen);
    rig.stop().await;
}

#[tokio::test]
async fn a_register_that_the_device_is_mute_to_does_not_take_the_others_down() {
    let peer =
        Peer::start(|frame| if frame.address() == 100 { Reply::Silence } else { Reply::Bytes(frame.honest(1000)) })
            .await;
    let mut rig = Rig::start(peer.address, POINTS);
    rig.until_quality("d", "a", "BadTimeout").await;
    for _ in 0..20 {
        rig.until_value("d", "b", &Value::Uint(1200)).await;
    }
    assert!(!rig.seen.iter().any(|u| matches!(u, fieldgate_protocol::Update::Offline { .. })), "{:#?}", rig.seen);
    rig.stop().await;
}

#[tokio::test]
async fn a_peer_that_accepts_and_closes_is_not_hammered() {
    let peer = Peer::start(|_| Reply::Close).await;
    let mut rig = Rig::start(peer.address, POINTS);
    rig.until_offline("d").await;
    let before = peer.connections();
    let begun = tokio::time::Instant::now();
    eventually("a second has gone", || begun.elapsed() > Duration::from_secs(1)).await;
    let tries = peer.connections() - before;
    assert!((1..=8).contains(&tries), "{tries} connections in a second");
    rig.stop().await;
}
