//! What every client relies on: connecting, publishing and subscribing with each QoS, retained messages, wills.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::pedantic)]

mod support;

use fieldgate_broker::{CommitError, Message, QoS, Role, Table};
use support::packets::{self, Connect};
use support::{Plant, until};

const TOPIC: &str = "devices/d1/telemetry/t";

#[tokio::test(flavor = "multi_thread")]
async fn carries_each_qos_between_both_versions() {
    let plant = Plant::new().await;
    plant.gate.role("app", Role::App);
    plant.gate.allow("app", "#");
    let mut v5 = plant.socket("app").await;
    v5.connect(Connect::v5("app/5")).await;
    let mut v311 = plant.socket("app").await;
    v311.connect(Connect::v311("app/3")).await;
    assert_eq!(v5.subscribe("devices/+/telemetry/#", 2).await, 2);
    assert_eq!(v311.subscribe("devices/d1/#", 1).await, 1);

    let mut device = plant.v5("d1").await;
    device.publish(0, TOPIC, 0, "zero").await;
    device.publish(2, TOPIC, 7, "one").await;
    assert_eq!(device.acked(0x40).await, (7, 0));
    device.publish(4, TOPIC, 8, "two").await;
    assert_eq!(device.acked(0x50).await, (8, 0));
    device.send(&packets::ack(0x62, 8)).await;
    assert_eq!(device.acked(0x70).await, (8, 0));

    for (payload, qos) in [("zero", 0), ("one", 1), ("two", 2)] {
        let got = v5.receive().await;
        assert_eq!((got.payload, got.qos, got.topic.as_str(), got.retain), (payload.into(), qos, TOPIC, false));
        if qos == 2 {
            v5.send(&packets::ack(0x50, got.id)).await;
            assert_eq!(v5.acked(0x62).await, (got.id, 0));
            v5.send(&packets::ack(0x70, got.id)).await;
        }
        let got = v311.receive().await;
        assert_eq!((got.payload, got.qos), (payload.into(), qos.min(1)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledges_only_what_is_committed_and_in_order() {
    let plant = Plant::new().await;
    plant.gate.role("app", Role::App);
    plant.gate.allow("app", "#");
    let mut app = plant.v5("app").await;
    app.subscribe("devices/#", 0).await;
    let mut device = plant.v5("d1").await;
    plant.gate.hold();
    for id in 1..=3 {
        device.publish(2, TOPIC, id, "x").await;
    }
    until("three commits", || async { plant.gate.held() == 3 }).await;
    device.silent(100).await;
    app.silent(50).await;
    // The first is not done: nothing may leave, whatever else is done.
    plant.gate.let_through(Ok(()));
    assert_eq!(device.acked(0x40).await, (1, 0));
    assert_eq!(app.receive().await.payload, b"x");
    plant.gate.let_through(Err(CommitError::Full));
    plant.gate.let_through(Ok(()));
    assert_eq!(device.acked(0x40).await, (2, 0x97));
    assert_eq!(device.acked(0x40).await, (3, 0));
    app.receive().await;
    app.silent(50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_store_ends_the_connection_without_an_acknowledgement() {
    let plant = Plant::new().await;
    plant.gate.fail(Some(CommitError::Failed("disk".to_owned())));
    let mut device = plant.v5("d1").await;
    device.publish(2, TOPIC, 1, "x").await;
    assert_eq!(device.disconnected().await, Some(0x83));
    plant.gate.fail(Some(CommitError::Full));
    let mut device = plant.v311("d1").await;
    device.publish(2, TOPIC, 1, "x").await;
    assert_eq!(device.disconnected().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_retained_messages_and_their_rows() {
    let plant = Plant::new().await;
    plant.gate.role("app", Role::App);
    plant.gate.allow("app", "#");
    let mut device = plant.v5("d1").await;
    device.publish(3, TOPIC, 1, "kept").await;
    assert_eq!(device.acked(0x40).await, (1, 0));
    plant.broker.publish(Message::new("$fieldgate/ca", "pem", Default::default()).retained()).await.unwrap();
    assert_eq!(plant.sessions.count(Table::Retained), 2);

    let mut app = plant.v5("app").await;
    plant.gate.allow("app", "$fieldgate/#");
    app.subscribe("#", 1).await;
    let got = app.receive().await;
    assert_eq!((got.topic.as_str(), got.retain, got.qos), (TOPIC, true, 1));
    app.silent(50).await;
    app.subscribe("$fieldgate/ca", 1).await;
    assert_eq!(app.receive().await.payload, b"pem");

    // A live one has no retain flag; an empty one clears.
    device.publish(3, TOPIC, 2, "").await;
    device.acked(0x40).await;
    let got = app.receive().await;
    assert_eq!((got.payload.len(), got.retain), (0, false));
    assert_eq!(plant.sessions.count(Table::Retained), 1);
    app.subscribe("devices/#", 1).await;
    app.silent(50).await;
    assert_eq!(plant.broker.metrics().retained_messages, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn fires_wills_unless_the_client_says_goodbye() {
    let plant = Plant::new().await;
    plant.gate.role("app", Role::App);
    plant.gate.allow("app", "#");
    let mut app = plant.v5("app").await;
    app.subscribe("devices/#", 1).await;

    let mut device = plant.socket("d1").await;
    device.connect(Connect::v5("d1").will(TOPIC, "lost", 1, false, &[])).await;
    drop(device);
    assert_eq!(app.receive().await.payload, b"lost");

    let mut device = plant.socket("d1").await;
    device.connect(Connect::v311("d1").will(TOPIC, "lost", 1, false, &[])).await;
    device.send(&[0xE0, 0]).await;
    assert_eq!(device.disconnected().await, None);
    app.silent(100).await;

    // With 0x04 the client asks for it; a delay of a second is kept when the session goes on.
    let mut device = plant.socket("d1").await;
    let delay = [0x18, 0, 0, 0, 1];
    device.connect(Connect::v5("d1").persistent().will(TOPIC, "late", 1, false, &delay)).await;
    let before = tokio::time::Instant::now();
    device.send(&[0xE0, 1, 4]).await;
    assert_eq!(app.receive().await.payload, b"late");
    assert!(before.elapsed() >= std::time::Duration::from_millis(950));

    // A will outside of its rights is refused at CONNECT.
    let mut device = plant.socket("d1").await;
    assert_eq!(device.refused(Connect::v5("d1").will("devices/d2/telemetry/t", "x", 1, false, &[])).await, 0x87);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateways_own_messages_reach_subscribers() {
    let plant = Plant::new().await;
    let mut device = plant.v5("d1").await;
    device.subscribe("devices/d1/#", 1).await;
    let message = Message::new("devices/d1/commands/go/1", "{}", Default::default()).with_qos(QoS::AtLeastOnce);
    let delivery = plant.broker.publish(message.clone()).await.unwrap();
    assert_eq!((delivery.live, delivery.stored), (1, 0));
    let got = device.receive().await;
    assert_eq!((got.topic.as_str(), got.qos), ("devices/d1/commands/go/1", 1));
    let nobody = Message { topic: "devices/d2/commands/go/1".into(), ..message };
    assert_eq!(plant.broker.publish(nobody).await.unwrap().live, 0);
    assert!(plant.broker.publish(Message::new("a/+", "", Default::default())).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn retained_messages_are_there_again_after_a_restart() {
    let plant = Plant::new().await;
    plant.gate.role("app", Role::App);
    plant.gate.allow("app", "#");
    let mut device = plant.v5("d1").await;
    let list = [2, 0, 0, 0, 100, 0x26, 0, 1, b'k', 0, 1, b'v'];
    device.send(&packets::publish(3, TOPIC, 1, Some(&list), b"kept")).await;
    assert_eq!(device.acked(0x40).await, (1, 0));
    plant.broker.stop(std::time::Duration::from_secs(5)).await;

    let plant = plant.restarted().await;
    let mut app = plant.v5("app").await;
    app.subscribe("devices/#", 0).await;
    let got = app.receive().await;
    assert_eq!((got.topic.as_str(), got.payload.as_slice(), got.retain), (TOPIC, &b"kept"[..], true));
    assert_eq!(got.properties.len(), list.len());
    // It still counts for its client.
    let mut device = plant.v5("d1").await;
    device.publish(3, TOPIC, 1, "").await;
    device.acked(0x40).await;
    assert_eq!(plant.broker.metrics().retained_messages, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_names_the_address() {
    let plant = Plant::new().await;
    let again = plant.start_on(plant.address).await;
    let error = again.err().expect("the address is taken").to_string();
    assert!(error.contains(&plant.address.to_string()), "{error}");
}

/// The gate renames `old/…`.
#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_topic_is_the_new_one_for_everybody() {
    let plant = Plant::new().await;
    plant.gate.role("app", Role::App);
    plant.gate.allow("app", "#");
    let mut app = plant.v5("app").await;
    assert_eq!(app.subscribe("#", 1).await, 1);
    let mut device = plant.socket("d1").await;
    device.connect(Connect::v5("d1").will("old/gone", "lost", 1, false, &[])).await;
    for payload in ["1", "2"] {
        device.publish(2, "old/temp", 1, payload).await;
        assert_eq!(device.acked(0x40).await, (1, 0));
        let got = app.receive().await;
        assert_eq!((got.topic.as_str(), got.payload), ("devices/d1/telemetry/temp", payload.as_bytes().to_vec()));
    }
    assert_eq!(plant.gate.committed()[0].topic.as_ref(), "devices/d1/telemetry/temp");
    drop(device);
    let will = app.receive().await;
    assert_eq!(will.topic, "devices/d1/telemetry/gone");
}
