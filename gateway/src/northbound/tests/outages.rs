//! Outages of the line to a real MQTT server.

use super::super::{Protocol, UpstreamState};
use super::cloud::{Cloud, Observer, Relay};
use super::{Bench, assert_complete, config, eventually};

const COUNT: u32 = 600;
const CUTS: u32 = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_out_of_order_when_the_line_is_cut_again_and_again() {
    for protocol in [Protocol::V5, Protocol::V311] {
        // One each: an MQTT 5 message that reaches a 3.1.1 subscriber panics in rumqttd (FINDINGS).
        let cloud = Cloud::start().await;
        let (port, observer) = match protocol {
            Protocol::V5 => (cloud.v5, Observer::v5(cloud.v5).await),
            Protocol::V311 => (cloud.v4, Observer::v4(cloud.v4).await),
        };
        let relay = Relay::start(port).await;
        let bench = Bench::new();
        let running = bench.start(config(relay.port, protocol));
        for cut in 0..CUTS {
            let (from, to) = (cut * COUNT / CUTS, (cut + 1) * COUNT / CUTS);
            eventually("up", || running.handle.status().state == UpstreamState::Up).await;
            bench.fill("press-1", from, to).await;
            bench.fill("press-2", from, to).await;
            let before = running.handle.status().acknowledged;
            eventually("messages flow", || running.handle.status().acknowledged > before).await;
            relay.cut();
            eventually("noticed", || running.handle.status().state != UpstreamState::Up).await;
            relay.mend();
        }
        bench.emptied().await;
        let complete = || observer.numbers().values().filter(|n| n.last() == Some(&(COUNT - 1))).count() == 2;
        eventually("the observer has the last ones", complete).await;
        for numbers in observer.numbers().values() {
            assert_complete(numbers, COUNT, 100, CUTS);
        }
        assert!(running.handle.status().connects >= u64::from(CUTS));
        running.stopped().await;
        eventually("the last state", || observer.states().last().is_some_and(|s| s.contains("stopped"))).await;
        assert!(observer.states().iter().any(|s| s.contains("connection lost")), "the Will: {:?}", observer.states());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_sent_during_an_outage_comes_after_it() {
    for protocol in [Protocol::V5, Protocol::V311] {
        // One each: an MQTT 5 message that reaches a 3.1.1 subscriber panics in rumqttd (FINDINGS).
        let cloud = Cloud::start().await;
        let (port, observer) = match protocol {
            Protocol::V5 => (cloud.v5, Observer::v5(cloud.v5).await),
            Protocol::V311 => (cloud.v4, Observer::v4(cloud.v4).await),
        };
        let relay = Relay::start(port).await;
        let bench = Bench::new();
        let mut running = bench.start(config(relay.port, protocol));
        eventually("up", || running.handle.status().state == UpstreamState::Up).await;
        relay.cut();
        eventually("noticed", || running.handle.status().state != UpstreamState::Up).await;
        observer.command("fieldgate/line-4/devices/press-1/commands/write/77").await;
        relay.mend();
        let taken = tokio::time::timeout(std::time::Duration::from_secs(15), running.commands.recv()).await;
        let taken = taken.unwrap().unwrap();
        assert_eq!(taken.rid.as_deref(), Some("77"));
        taken.accepted.unwrap().send(()).unwrap();
        // And data flows on the session that the upstream has kept.
        bench.fill("press-1", 0, 10).await;
        bench.emptied().await;
        running.stopped().await;
    }
}
