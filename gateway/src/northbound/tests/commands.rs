//! The way down.

use std::time::Duration;

use super::super::{Protocol, UpstreamState};
use super::liar::{Liar, Script};
use super::{Bench, Running, config, eventually};

async fn up(bench: &Bench, liar: &Liar, v5: bool) -> Running {
    let running = bench.start(config(liar.port, if v5 { Protocol::V5 } else { Protocol::V311 }));
    eventually("up", || running.handle.status().state == UpstreamState::Up).await;
    running
}

async fn command(running: &mut Running) -> super::Downlink {
    tokio::time::timeout(Duration::from_secs(10), running.commands.recv()).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_command_is_acknowledged_when_it_is_accepted_and_not_before() {
    for v5 in [true, false] {
        let liar = Liar::start(Script::honest(v5)).await;
        let bench = Bench::new();
        let mut running = up(&bench, &liar, v5).await;
        liar.publish(v5, "fieldgate/line-4/devices/press-1/commands/write/7", b"{}", 11, false).await;
        let taken = command(&mut running).await;
        assert_eq!((taken.device.as_str(), taken.name.as_str(), taken.rid.as_deref()), ("press-1", "write", Some("7")));
        assert_eq!(&taken.payload[..], b"{}");
        // Publishing goes on while the command is open.
        bench.fill("press-1", 0, 10).await;
        bench.emptied().await;
        assert_eq!(liar.seen().acked, [0_u16; 0]);
        taken.accepted.unwrap().send(()).unwrap();
        eventually("acknowledged", || liar.seen().acked == [11]).await;

        liar.publish(v5, "fieldgate/line-4/devices/press-1/commands/write/8", b"{}", 12, false).await;
        drop(command(&mut running).await);
        liar.publish(v5, "fieldgate/line-4/devices/press-1/commands/write", b"{}", 13, false).await;
        let taken = command(&mut running).await;
        assert_eq!(taken.rid, None);
        taken.accepted.unwrap().send(()).unwrap();
        eventually("acknowledged", || liar.seen().acked == [11, 13]).await;
        assert_eq!(running.handle.status().commands, 3);
        running.stopped().await;
    }
}

#[tokio::test]
async fn what_is_no_command_is_acknowledged_and_forgotten() {
    let liar = Liar::start(Script::honest(true)).await;
    let bench = Bench::new();
    let mut running = up(&bench, &liar, true).await;
    let prefix = "fieldgate/line-4/devices/press-1/commands";
    liar.publish(true, &format!("{prefix}/write/7/result"), b"{}", 1, false).await;
    liar.publish(true, &format!("{prefix}/write/7/other"), b"{}", 2, false).await;
    liar.publish(true, &format!("{prefix}/write/8"), b"{}", 3, true).await;
    liar.publish(true, &format!("{prefix}/write/9"), &vec![b' '; 256 * 1024 + 1], 4, false).await;
    liar.publish(true, &format!("{prefix}/write/10"), b"{}", 5, false).await;
    let taken = command(&mut running).await;
    assert_eq!(taken.rid.as_deref(), Some("10"));
    taken.accepted.unwrap().send(()).unwrap();
    eventually("acknowledged", || liar.seen().acked == [1, 2, 3, 4, 5]).await;
    assert_eq!(running.handle.status().ignored_commands, 3);
    running.stopped().await;
}

#[tokio::test]
async fn commands_that_nobody_takes_do_not_hold_up_messages() {
    let liar = Liar::start(Script::honest(true)).await;
    let bench = Bench::new();
    let running = up(&bench, &liar, true).await;
    for n in 1..=40 {
        liar.publish(true, &format!("fieldgate/line-4/devices/a/commands/go/{n}"), b"", n, false).await;
    }
    bench.fill("press-1", 0, 500).await;
    bench.emptied().await;
    assert_eq!(liar.seen().acked, [0_u16; 0]);
    running.stopped().await;
}

#[tokio::test]
async fn a_command_at_qos_2_is_taken_to_its_end() {
    for v5 in [true, false] {
        let liar = Liar::start(Script::honest(v5)).await;
        let bench = Bench::new();
        let mut running = up(&bench, &liar, v5).await;
        // Nothing asked for it, but a subscription that another client left under our id may bring it.
        liar.publish_as(0x34, v5, "fieldgate/line-4/devices/press-1/commands/write/7", b"{}", 21).await;
        let taken = command(&mut running).await;
        assert_eq!(liar.seen().received, [0_u16; 0], "not before it is accepted");
        taken.accepted.unwrap().send(()).unwrap();
        eventually("completed", || liar.seen().completed == [21]).await;
        {
            let seen = liar.seen();
            assert_eq!((&seen.received[..], &seen.acked[..]), (&[21][..], &[][..]));
        }
        assert_eq!(running.handle.status().connects, 1);
        running.stopped().await;
    }
}
