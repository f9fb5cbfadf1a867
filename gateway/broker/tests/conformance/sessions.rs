//! Sessions: what is kept, for how long, and what starts anew.

use std::time::Duration;

use crate::LEVELS;
use crate::support::packets::{Connect, four};
use crate::support::{Plant, until};

async fn gone(plant: &Plant) {
    until("gone", || async { plant.broker.connections().iter().all(|one| &*one.client_id != "app/1") }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_1_2_4_and_3_1_2_5_and_3_1_2_6_and_3_1_4_3_and_3_2_2_1_and_3_2_2_2_and_3_2_2_3_sessions_resume() {
    sessions_resume(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_1_2_4_and_3_1_2_5_and_3_1_2_6_and_3_1_2_23_and_3_1_4_4_and_3_2_2_2_and_3_2_2_3_sessions_resume() {
    sessions_resume(5).await;
}

async fn sessions_resume(level: u8) {
    let plant = Plant::open().await;
    let persistent = || Connect::of(level, "app/1").persistent();
    let mut publisher = plant.app(level, "2").await;
    // None there: one is made.
    let (mut client, present) = plant.app_with(persistent()).await;
    assert!(!present);
    assert_eq!(client.subscribe("a/#", 1).await, 1);
    client.send(&[0xE0, 0]).await;
    assert_eq!(client.disconnected().await, None);
    gone(&plant).await;
    // Kept for its subscriptions, QoS 0 not.
    publisher.deliver(0, "a/0", &[], "zero").await;
    publisher.deliver(2, "a/1", &[], "one").await;
    publisher.deliver(4, "a/2", &[], "two").await;
    publisher.deliver(2, "b", &[], "not subscribed").await;
    let (mut client, present) = plant.app_with(persistent()).await;
    assert!(present);
    for payload in ["one", "two"] {
        let got = client.receive().await;
        assert_eq!((got.dup, got.qos, got.text()), (false, 1, payload));
    }
    // The subscription lives on, also over an end without DISCONNECT.
    publisher.deliver(2, "a/3", &[], "live").await;
    assert_eq!(client.receive().await.text(), "live");
    client.quiet().await;
    drop(client);
    gone(&plant).await;
    publisher.deliver(2, "a/4", &[], "discarded").await;
    // A clean one discards all of it, and ends with its connection.
    let (mut client, present) = plant.app_with(Connect::of(level, "app/1")).await;
    assert!(!present);
    publisher.deliver(2, "a/5", &[], "nobody").await;
    client.quiet().await;
    client.subscribe("a/#", 1).await;
    drop(client);
    gone(&plant).await;
    publisher.deliver(2, "a/6", &[], "nobody").await;
    let (mut client, present) = plant.app_with(persistent()).await;
    assert!(!present);
    publisher.deliver(2, "a/7", &[], "nobody").await;
    client.quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_4_1_0_1_and_4_1_0_2_and_v5_4_1_0_1_a_session_lasts_while_its_connection_does() {
    let plant = Plant::open().await;
    for level in LEVELS {
        // On MQTT 5 its expiry is over before the connection is.
        let connect = Connect::of(level, "app/1");
        let connect = if level == 5 { connect.property(&four(0x11, 1)) } else { connect };
        let (mut client, _) = plant.app_with(connect).await;
        client.subscribe("a", 1).await;
        let mut publisher = plant.app(level, "2").await;
        tokio::time::sleep(Duration::from_millis(1_300)).await;
        publisher.deliver(2, "a", &[], "x").await;
        assert_eq!(client.receive().await.text(), "x");
        client.quiet().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_4_1_0_2_an_expired_session_is_discarded() {
    let plant = Plant::open().await;
    let expiring = |seconds| Connect::v5("app/1").resuming().property(&four(0x11, seconds));
    for seconds in [0, 1] {
        let (mut client, present) = plant.app_with(expiring(seconds)).await;
        assert!(!present);
        client.subscribe("a", 1).await;
        drop(client);
        gone(&plant).await;
        until("expired", || async { plant.broker.metrics().sessions == 0 }).await;
        until("unsubscribed", || async { plant.broker.metrics().subscriptions == 0 }).await;
    }
    // Back in time, it lives on, with its new expiry.
    let (mut client, _) = plant.app_with(expiring(3)).await;
    client.subscribe("a", 1).await;
    drop(client);
    let (client, present) = plant.app_with(expiring(1_000)).await;
    assert!(present);
    drop(client);
    gone(&plant).await;
    tokio::time::sleep(Duration::from_millis(3_300)).await;
    let (_client, present) = plant.app_with(expiring(u32::MAX)).await;
    assert!(present);
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_1_2_7_retained_messages_outlive_sessions() {
    let plant = Plant::open().await;
    for level in LEVELS {
        let (mut client, _) = plant.app_with(Connect::of(level, "app/1")).await;
        client.deliver(3, "kept", &[], "x").await;
        client.send(&[0xE0, 0]).await;
        assert_eq!(client.disconnected().await, None);
        gone(&plant).await;
        let mut other = plant.app(level, "2").await;
        other.subscribe("kept", 0).await;
        assert_eq!(other.receive().await.text(), "x");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_4_5_0_1_and_v5_4_5_0_1_every_session_that_subscribes_gets_the_message() {
    let plant = Plant::open().await;
    for level in LEVELS {
        let mut present = Vec::new();
        for name in ["p1", "p2", "p3"] {
            let mut client = plant.app(level, name).await;
            client.subscribe("a/+", 2).await;
            present.push(client);
        }
        let absent = Connect::of(level, "app/1").persistent();
        let (mut client, _) = plant.app_with(absent.clone()).await;
        client.subscribe("#", 2).await;
        drop(client);
        gone(&plant).await;
        let mut publisher = plant.app(level, "publisher").await;
        publisher.deliver(4, "a/b", &[], "x").await;
        present.push(plant.app_with(absent).await.0);
        for client in &mut present {
            let got = client.receive().await;
            assert_eq!((got.qos, got.text()), (2, "x"));
            client.complete(got.id).await;
            client.quiet().await;
        }
        drop(present);
        drop(plant.app(level, "1").await);
        until("gone", || async { plant.broker.metrics().sessions == 1 }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_take_over_keeps_what_is_under_way() {
    let plant = Plant::open().await;
    for level in LEVELS {
        let persistent = Connect::of(level, "app/1").persistent();
        let (mut older, _) = plant.app_with(persistent.clone()).await;
        older.subscribe("a", 2).await;
        let mut publisher = plant.app(level, "2").await;
        publisher.deliver(4, "a", &[], "1").await;
        let first = older.receive_only().await;
        publisher.deliver(4, "a", &[], "2").await;
        let second = older.receive_only().await;
        older.send(&crate::support::packets::ack(0x50, second.id)).await;
        assert_eq!(older.acked(0x62).await, (second.id, 0));
        let (mut newer, present) = plant.app_with(persistent).await;
        assert!(present);
        assert_eq!(older.disconnected().await, (level == 5).then_some(0x8E));
        let again = newer.receive_only().await;
        assert_eq!((again.dup, again.id, again.text()), (true, first.id, "1"));
        assert_eq!(newer.acked(0x62).await, (second.id, 0));
        newer.complete(first.id).await;
        newer.send(&crate::support::packets::ack(0x70, second.id)).await;
        newer.quiet().await;
        drop(newer);
        drop(plant.app(level, "1").await);
        gone(&plant).await;
    }
}
