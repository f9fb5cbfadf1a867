//! Connections that break, and servers that come back.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use fieldgate_protocol::{LinkState, PointName, Request, Status, Update};
use tempfile::tempdir;
use tokio::net::TcpListener;

use crate::relay::Relay;
use crate::rig::{NONE, PLAIN, Rig, config, simulator};

#[tokio::test(flavor = "multi_thread")]
async fn values_flow_again_after_each_restart_of_the_server() {
    let dir = tempdir().unwrap();
    let sim = simulator(dir.path());
    let mut rig = Rig::start(config(&sim.endpoint(), NONE, PLAIN), dir.path());
    rig.value("level", 50.0).await;
    for round in 1..=3 {
        sim.stop();
        rig.offline().await;
        let down = rig.state(LinkState::Down).await;
        assert!(down.last_error.is_some(), "{down:?}");
        sim.restart().unwrap();
        let back = Instant::now();
        // Told offline once, then online, then every point anew: nothing else in between.
        let first = rig.updates.recv().await.unwrap();
        assert!(matches!(first, Update::Online { .. }), "{first:?}");
        let mut again = BTreeSet::new();
        while again.len() < PLAIN.len() {
            rig.expect("every point", |update| match update {
                Update::Samples { samples, .. } => {
                    again.extend(samples.iter().map(|sample| sample.point.to_string()));
                    Some(())
                }
                _ => None,
            })
            .await;
        }
        sim.set("temperature", f64::from(round) + 0.5).unwrap();
        rig.value("temperature", f64::from(round) + 0.5).await;
        assert!(back.elapsed() < Duration::from_secs(10), "took {:?}", back.elapsed());
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_flow_again_after_a_cut_connection() {
    let dir = tempdir().unwrap();
    let sim = simulator(dir.path());
    let relay = Relay::to(sim.address()).await;
    let mut rig = Rig::start(config(&relay.endpoint(), NONE, PLAIN), dir.path());
    rig.value("level", 50.0).await;
    for round in 1..=5 {
        relay.cut();
        rig.offline().await;
        rig.online().await;
        sim.set("level", f64::from(round)).unwrap();
        rig.value("level", f64::from(round)).await;
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_falls_silent_is_rebuilt() {
    let dir = tempdir().unwrap();
    let sim = simulator(dir.path());
    let relay = Relay::to(sim.address()).await;
    let mut rig = Rig::start(config(&relay.endpoint(), NONE, PLAIN), dir.path());
    rig.value("level", 50.0).await;
    relay.mute(true);
    let reason = rig.offline().await;
    assert!(reason.contains("no answer"), "{reason}");
    relay.mute(false);
    // What was muted in the middle is broken: it must not be taken up again.
    relay.cut();
    rig.online().await;
    sim.set("level", 3.5).unwrap();
    rig.value("level", 3.5).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_accepts_and_says_nothing_is_down_and_holds_up_nobody() {
    let dir = tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("opc.tcp://{}", listener.local_addr().unwrap());
    let mut rig = Rig::start(config(&endpoint, NONE, PLAIN), dir.path());
    let (_held, _) = listener.accept().await.unwrap();
    // Commands don't wait for a session.
    let asked = Instant::now();
    let outcome = rig.command(Request::Read { points: vec![PointName::new("level").unwrap()] }).await;
    assert_eq!(outcome.status, Status::Failed);
    assert!(asked.elapsed() < Duration::from_secs(1));
    assert!(outcome.reason.unwrap().starts_with("no session with the server"));
    let reason = rig.offline().await;
    assert_eq!(reason, "no answer within 10 s while asking for its endpoints");
    assert_eq!(rig.state(LinkState::Down).await.connects, 0);
    let (_held, _) = listener.accept().await.unwrap();
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absent_server_is_down_with_a_reason_and_taken_up_when_it_comes() {
    let dir = tempdir().unwrap();
    let sim = simulator(dir.path());
    sim.stop();
    let mut rig = Rig::start(config(&sim.endpoint(), NONE, PLAIN), dir.path());
    let reason = rig.offline().await;
    assert!(reason.starts_with("can't reach 127.0.0.1:") && reason.contains("refused"), "{reason}");
    sim.restart().unwrap();
    rig.value("level", 50.0).await;
    rig.stop().await;
}
