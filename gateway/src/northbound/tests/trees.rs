//! Topic trees that come down.

use std::time::Duration;

use super::super::{Fetched, Protocol, UpstreamState};
use super::liar::{Liar, Script};
use super::{Bench, Running, config, eventually};
use crate::pipeline::tree::Tree;

fn tree(filter: &str, prefix: Option<&str>, retain: bool) -> Tree {
    Tree { filter: filter.to_owned(), prefix: prefix.map(str::to_owned), retain }
}

async fn fetched(running: &mut Running) -> Fetched {
    tokio::time::timeout(Duration::from_secs(10), running.fetched.recv()).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_fetched_message_is_acknowledged_when_it_is_accepted_and_not_before() {
    for v5 in [true, false] {
        let liar = Liar::start(Script::honest(v5)).await;
        let bench = Bench::new();
        let protocol = if v5 { Protocol::V5 } else { Protocol::V311 };
        let fetches =
            vec![tree("recipes/#", None, true), tree("orders/+", Some("office"), true), tree("menu", Some(""), false)];
        let mut running = bench.start(super::UpstreamConfig { fetches, ..config(liar.port, protocol) });
        eventually("up", || running.handle.status().state == UpstreamState::Up).await;
        let filters =
            ["fieldgate/line-4/devices/+/commands/#", "fieldgate/line-4/recipes/#", "office/orders/+", "menu"];
        assert_eq!(liar.seen().filters, filters);

        liar.publish(v5, "fieldgate/line-4/recipes/7", b"flour", 11, true).await;
        let message = fetched(&mut running).await;
        assert_eq!((message.topic.as_str(), &message.payload[..], message.retain), ("recipes/7", &b"flour"[..], true));
        liar.publish(v5, "office/orders/1", b"", 12, false).await;
        let order = fetched(&mut running).await;
        assert_eq!((order.topic.as_str(), order.retain), ("orders/1", false));
        assert_eq!(liar.seen().acked, [0_u16; 0]);
        order.accepted.unwrap().send(()).unwrap();
        message.accepted.unwrap().send(()).unwrap();
        eventually("acknowledged in the order in which they came", || liar.seen().acked == [11, 12]).await;

        liar.publish(v5, "menu", b"soup", 13, true).await;
        let menu = fetched(&mut running).await;
        assert_eq!((menu.topic.as_str(), menu.retain), ("menu", false), "`retain = false` keeps the flag up there");
        drop(menu);
        // Neither asked for nor free to be had.
        liar.publish(v5, "office/recipes/7", b"x", 14, false).await;
        liar.publish(v5, "fieldgate/line-4/devices/press-1/telemetry/t", b"x", 15, false).await;
        eventually("ignored", || running.handle.status().ignored_commands == 2).await;
        running.stopped().await;
    }
}

#[tokio::test]
async fn a_tree_that_the_upstream_refuses_keeps_nothing_else_from_flowing() {
    let mut script = Script::honest(true);
    script.suback = Box::new(|filter| if filter.contains("secret") { 0x87 } else { 1 });
    let liar = Liar::start(script).await;
    let bench = Bench::new();
    let fetches = vec![tree("secret/#", None, true), tree("recipes/#", None, true)];
    let mut running = bench.start(super::UpstreamConfig { fetches, ..config(liar.port, Protocol::V5) });
    eventually("up", || running.handle.status().state == UpstreamState::Up).await;
    let said = running.handle.status().last_error.unwrap();
    assert!(said.contains("fieldgate/line-4/secret/#"), "{said}");
    bench.fill("press-1", 0, 10).await;
    bench.emptied().await;
    liar.publish(true, "fieldgate/line-4/recipes/7", b"flour", 11, false).await;
    assert_eq!(fetched(&mut running).await.topic, "recipes/7");
    running.stopped().await;
}
