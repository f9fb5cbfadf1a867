//! Sessions over several connections: resume, take-over, expiry, QoS 2 duplicates, subscription options, rights.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::pedantic)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use fieldgate_broker::{DisconnectReason, Event, Limits, Message, QoS, Role};
use futures_util::FutureExt;
use support::packets::{self, Connect};
use support::{Client, Plant, until};

const TOPIC: &str = "devices/d1/telemetry/t";

fn command(payload: &'static str) -> Message {
    Message::new("devices/d1/commands/go/1", payload, Default::default()).with_qos(QoS::AtLeastOnce)
}

async fn connected(plant: &Plant, id: &str, connect: Connect) -> (Client, bool) {
    let mut client = plant.socket(id).await;
    let connack = client.connect(connect).await;
    (client, connack[0] == 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn resumes_with_what_was_queued_and_what_was_not_acknowledged() {
    let plant = Plant::new().await;
    let (mut device, present) = connected(&plant, "d1", Connect::v5("d1").persistent()).await;
    assert!(!present);
    device.subscribe("devices/d1/commands/#", 1).await;
    plant.broker.publish(command("first")).await.unwrap();
    let first = device.receive_only().await;
    drop(device);
    until("gone", || async { plant.broker.metrics().connections == 0 }).await;
    assert_eq!(plant.broker.publish(command("second")).await.unwrap().stored, 1);

    // Comes back on the other version: the unacknowledged one again, then the queued one.
    let (mut device, present) = connected(&plant, "d1", Connect::v311("d1").persistent()).await;
    assert!(present);
    let again = device.receive().await;
    assert_eq!((again.dup, again.id, again.payload), (true, first.id, b"first".to_vec()));
    let second = device.receive().await;
    assert_eq!((second.dup, second.payload), (false, b"second".to_vec()));
    device.send(&[0xE0, 0]).await;
    assert_eq!(device.disconnected().await, None);

    // A clean one starts anew.
    let (mut device, present) = connected(&plant, "d1", Connect::v5("d1")).await;
    assert!(!present);
    assert_eq!(plant.broker.publish(command("third")).await.unwrap().live, 0);
    device.silent(50).await;
    assert_eq!(plant.broker.metrics().subscriptions, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newer_connection_takes_over() {
    let plant = Plant::new().await;
    let (mut older, _) = connected(&plant, "d1", Connect::v5("d1").persistent()).await;
    older.subscribe("devices/d1/commands/#", 1).await;
    let (mut newer, present) = connected(&plant, "d1", Connect::v5("d1").persistent()).await;
    assert!(present);
    assert_eq!(older.disconnected().await, Some(0x8E));
    assert_eq!(plant.broker.publish(command("x")).await.unwrap().live, 1);
    assert_eq!(newer.receive().await.payload, b"x");
    assert!(plant.gate.saw(|event| matches!(event, Event::TookOver { .. })));
    assert_eq!(plant.broker.connections().len(), 1);
    assert_eq!(plant.broker.metrics().took_over, 1);
    // Presence is made from these: the end of the older comes before the begin of the newer.
    let order = plant.gate.events().into_iter().filter_map(|event| match event {
        Event::Connected { .. } => Some("connected"),
        Event::Disconnected { reason, .. } => Some(reason.word()),
        _ => None,
    });
    assert_eq!(order.collect::<Vec<_>>(), ["connected", "taken-over", "connected"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_when_its_time_is_over() {
    let plant = Plant::new().await;
    let expiry = [0x11, 0, 0, 0, 1];
    let (mut device, _) = connected(&plant, "d1", Connect::v5("d1").property(&expiry)).await;
    device.subscribe("devices/d1/commands/#", 1).await;
    drop(device);
    until("parked", || async { plant.broker.metrics().connections == 0 }).await;
    assert_eq!(plant.broker.metrics().sessions, 1);
    until("expired", || async { plant.broker.metrics().sessions == 0 }).await;
    until("unsubscribed", || async { plant.broker.metrics().subscriptions == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_closes_the_session_at_once_and_drops_its_will() {
    let plant = Plant::new().await;
    plant.gate.role("app", Role::App);
    plant.gate.allow("app", "#");
    let mut app = plant.v5("app").await;
    app.subscribe("devices/#", 1).await;
    let will = Connect::v5("d1").persistent().will(TOPIC, "lost", 1, false, &[]);
    let (mut device, _) = connected(&plant, "d1", will).await;
    device.subscribe("devices/d1/#", 1).await;
    plant.gate.revoke("d1");
    let before = tokio::time::Instant::now();
    assert!(plant.broker.disconnect("d1", DisconnectReason::Revoked, true));
    assert_eq!(device.disconnected().await, Some(0x87));
    assert!(before.elapsed() < Duration::from_secs(1));
    until("forgotten", || async { plant.broker.metrics().sessions == 1 }).await;
    app.silent(100).await;
    let mut device = plant.socket("d1").await;
    assert_eq!(device.refused(Connect::v5("d1")).await, 0x87);
    assert!(!plant.broker.disconnect("d1", DisconnectReason::Revoked, true));

    // Nobody told the broker: a recheck finds it.
    let mut other = plant.v5("d2").await;
    plant.gate.revoke("d2");
    plant.broker.recheck();
    assert_eq!(other.disconnected().await, Some(0x87));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_qos_2_duplicate_is_routed_once_over_a_reconnect() {
    let plant = Plant::new().await;
    plant.gate.role("app", Role::App);
    plant.gate.allow("app", "#");
    let mut app = plant.v5("app").await;
    app.subscribe("devices/#", 0).await;
    let (mut device, _) = connected(&plant, "d1", Connect::v5("d1").persistent()).await;
    device.publish(4, TOPIC, 5, "once").await;
    assert_eq!(device.acked(0x50).await, (5, 0));
    drop(device);
    let (mut device, present) = connected(&plant, "d1", Connect::v5("d1").persistent()).await;
    assert!(present);
    device.publish(12, TOPIC, 5, "once").await;
    assert_eq!(device.acked(0x50).await, (5, 0));
    device.send(&packets::ack(0x62, 5)).await;
    assert_eq!(device.acked(0x70).await, (5, 0));
    device.send(&packets::ack(0x62, 5)).await;
    assert_eq!(device.acked(0x70).await, (5, 0x92));
    assert_eq!(app.receive().await.payload, b"once");
    app.silent(100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_ends_after_the_connection_still_counts() {
    let plant = Plant::new().await;
    plant.gate.role("app", Role::App);
    plant.gate.allow("app", "#");
    let mut app = plant.v5("app").await;
    app.subscribe("devices/#", 0).await;
    let (mut device, _) = connected(&plant, "d1", Connect::v5("d1").persistent()).await;
    plant.gate.hold();
    device.publish(4, TOPIC, 5, "once").await;
    until("a commit", || async { plant.gate.held() == 1 }).await;
    drop(device);
    // The newcomer waits for the session until the commit is decided.
    let newcomer = async {
        let (mut device, _) = connected(&plant, "d1", Connect::v5("d1").persistent()).await;
        device.publish(12, TOPIC, 5, "once").await;
        assert_eq!(device.acked(0x50).await, (5, 0));
    };
    let decide = async {
        until("asked to take over", || async { plant.broker.metrics().took_over == 1 }).await;
        plant.gate.let_through(Ok(()));
    };
    tokio::join!(newcomer, decide);
    assert_eq!(app.receive().await.payload, b"once");
    app.silent(100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn honours_subscription_options_and_identifiers() {
    let plant = Plant::new().await;
    plant.gate.role("app", Role::App);
    plant.gate.allow("app", "#");
    let mut app = plant.v5("app").await;
    // Overlapping: one copy, the higher QoS, both identifiers.
    app.send(&packets::subscribe(1, Some(&[11, 7]), &[("a/#", 0)])).await;
    app.read().await.unwrap();
    app.send(&packets::subscribe(2, Some(&[11, 0x80, 1]), &[("a/+", 1)])).await;
    app.read().await.unwrap();
    plant.broker.publish(Message::new("a/b", "x", Default::default()).with_qos(QoS::ExactlyOnce)).await.unwrap();
    let got = app.receive().await;
    assert_eq!(got.qos, 1);
    let ids = got.properties;
    assert!(ids == [11, 7, 11, 0x80, 1] || ids == [11, 0x80, 1, 11, 7], "{ids:?}");
    app.silent(50).await;
    // No local, retain as published.
    app.subscribe("n", 4).await;
    app.publish(0, "n", 0, "own").await;
    app.subscribe("r", 8).await;
    app.publish(1, "r", 0, "kept").await;
    let got = app.receive().await;
    assert_eq!((got.topic.as_str(), got.retain), ("r", true));
    // Retain handling: 1 only when new, 2 never.
    app.subscribe("r", 0x18).await;
    app.silent(50).await;
    app.send(&packets::unsubscribe(9, Some(&[]), &["r", "zz"])).await;
    assert_eq!(app.read().await.unwrap().body, [0, 9, 0, 0, 0x11]);
    app.subscribe("r", 0x20).await;
    app.silent(50).await;
    app.send(&packets::unsubscribe(9, Some(&[]), &["r"])).await;
    app.read().await.unwrap();
    app.subscribe("r", 0x10).await;
    assert_eq!(app.receive().await.payload, b"kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_subscriptions_take_turns() {
    let plant = Plant::new().await;
    plant.gate.role("app", Role::App);
    plant.gate.allow("app", "jobs/#");
    let (mut one, _) = connected(&plant, "app", Connect::v5("app/1")).await;
    let (mut two, _) = connected(&plant, "app", Connect::v5("app/2")).await;
    assert_eq!(one.subscribe("$share/g/jobs/#", 0).await, 0);
    assert_eq!(two.subscribe("$share/g/jobs/#", 0).await, 0);
    let mut device = plant.v5("d1").await;
    plant.gate.allow("d1", "jobs/#");
    for _ in 0..10 {
        device.publish(0, "jobs/1", 0, "x").await;
    }
    for _ in 0..5 {
        one.receive().await;
        two.receive().await;
    }
    one.silent(50).await;
    assert_eq!(two.subscribe("$share/g/secret/#", 0).await, 0x87);
    assert_eq!(two.subscribe("$share/g/", 0).await, 0x8F);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_visible_in_both_versions() {
    let plant = Plant::new().await;
    let mut device = plant.v5("d1").await;
    device.publish(2, "devices/d2/telemetry/t", 1, "x").await;
    assert_eq!(device.acked(0x40).await, (1, 0x87));
    device.publish(4, "devices/d2/telemetry/t", 2, "x").await;
    assert_eq!(device.acked(0x50).await, (2, 0x87));
    device.publish(2, "$fieldgate/x", 3, "x").await;
    assert_eq!(device.acked(0x40).await, (3, 0x87));
    assert_eq!(device.subscribe("devices/#", 1).await, 0x87);
    assert_eq!(device.subscribe("a/#/b", 1).await, 0x8F);
    device.publish(0, "devices/d2/telemetry/t", 0, "x").await;
    assert_eq!(device.disconnected().await, Some(0x87));

    let mut device = plant.v311("d1").await;
    assert_eq!(device.subscribe("devices/#", 1).await, 0x80);
    device.publish(2, "devices/d2/telemetry/t", 1, "x").await;
    assert_eq!(device.disconnected().await, None);
    assert!(plant.gate.saw(|event| matches!(event, Event::PublishRefused { code: 0x87, .. })));
    assert_eq!(plant.broker.metrics().publish_refused, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_are_checked_again_on_delivery() {
    let plant = Plant::new().await;
    plant.gate.role("app", Role::App);
    plant.gate.allow("app", "secret/#");
    let mut app = plant.v5("app").await;
    assert_eq!(app.subscribe("secret/#", 0).await, 0);
    plant.broker.publish(Message::new("secret/a", "1", Default::default())).await.unwrap();
    assert_eq!(app.receive().await.payload, b"1");
    plant.gate.withdraw("app");
    plant.broker.recheck();
    plant.broker.publish(Message::new("secret/a", "2", Default::default())).await.unwrap();
    app.silent(50).await;
    assert_eq!(plant.broker.metrics().dropped_not_authorized, 1);
    plant.gate.allow("app", "secret/#");
    plant.broker.recheck();
    plant.broker.publish(Message::new("secret/a", "3", Default::default())).await.unwrap();
    assert_eq!(app.receive().await.payload, b"3");
}

#[tokio::test(flavor = "multi_thread")]
async fn client_ids_follow_the_identity() {
    let plant = Plant::new().await;
    plant.gate.role("app", Role::App);
    let mut device = plant.socket("d1").await;
    assert_eq!(device.refused(Connect::v5("d2")).await, 0x85);
    let mut device = plant.socket("d1").await;
    assert_eq!(device.refused(Connect::v311("d1/x")).await, 2);
    let mut device = plant.socket("d1").await;
    let connack = device.connect(Connect::v5("")).await;
    assert!(connack.windows(5).any(|window| window == [0x12, 0, 2, b'd', b'1']), "{connack:02x?}");
    assert_eq!(&*plant.broker.connections()[0].client_id, "d1");
    plant.gate.forget("d3");
    let mut unknown = plant.socket("d3").await;
    assert_eq!(unknown.refused(Connect::v5("d3")).await, 0x87);
    let mut unknown = plant.socket("d3").await;
    assert_eq!(unknown.refused(Connect::v311("d3")).await, 5);
    let mut clients = Vec::new();
    for number in 0..8 {
        clients.push(connected(&plant, "app", Connect::v5(&format!("app/{number}"))).await);
    }
    let mut ninth = plant.socket("app").await;
    assert_eq!(ninth.refused(Connect::v5("app/9")).await, 0x97);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absent_clients_queue_keeps_the_newest() {
    let plant = Plant::with_limits(Limits { session_queue_messages: 3, ..Limits::default() }).await;
    let (mut device, _) = connected(&plant, "d1", Connect::v5("d1").persistent()).await;
    device.subscribe("devices/d1/commands/#", 1).await;
    drop(device);
    until("gone", || async { plant.broker.metrics().connections == 0 }).await;
    for payload in ["1", "2", "3", "4", "5"] {
        plant.broker.publish(command(payload)).await.unwrap();
    }
    assert_eq!(plant.broker.metrics().dropped_queue_full, 2);
    let (mut device, _) = connected(&plant, "d1", Connect::v5("d1").persistent()).await;
    for payload in ["3", "4", "5"] {
        assert_eq!(device.receive().await.payload, payload.as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_says_goodbye_to_everybody() {
    let plant = Plant::new().await;
    let mut device = plant.v5("d1").await;
    let (_, code) = tokio::join!(plant.broker.stop(Duration::from_secs(5)), device.disconnected());
    assert_eq!(code, Some(0x8B));
    assert_eq!(plant.broker.metrics().connections, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_published_after_a_right_was_withdrawn_is_delivered() {
    let plant = Plant::new().await;
    plant.gate.role("app", Role::App);
    plant.gate.allow("app", "secret/#");
    let mut app = plant.v5("app").await;
    assert_eq!(app.subscribe("secret/#", 0).await, 0);
    // The change comes between the connection's look at the rights and its look at what there is to deliver.
    let (gate, broker) = (Arc::clone(&plant.gate), plant.broker.clone());
    plant.gate.meanwhile(move || {
        gate.withdraw("app");
        gate.allow("app", "open/#");
        broker.recheck();
        let published = broker.publish(Message::new("secret/a", "withdrawn", Default::default())).now_or_never();
        assert_eq!(published.unwrap().unwrap().live, 1);
    });
    app.publish(2, "open/x", 1, "x").await;
    assert_eq!(app.acked(0x40).await, (1, 0));
    until("it is dropped", async || plant.broker.metrics().dropped_not_authorized == 1).await;
    app.silent(50).await;
}
