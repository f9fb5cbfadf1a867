//! Sessions that outlive the process. A crash: the rows as they were at that moment, and a new broker on them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::pedantic)]

mod support;

use std::time::Duration;

use fieldgate_broker::{CommitError, Message, QoS, Role, Table};
use support::packets::{self, Connect};
use support::{Client, Plant, until};

const TOPIC: &str = "devices/d1/telemetry/t";

async fn connected(plant: &Plant, id: &str, connect: Connect) -> (Client, bool) {
    let mut client = plant.socket(id).await;
    let connack = client.connect(connect).await;
    (client, connack[0] == 1)
}

/// An app that may read everything, with a session that persists.
async fn app(plant: &Plant, connect: Connect) -> (Client, bool) {
    plant.gate.role("app", Role::App);
    plant.gate.allow("app", "#");
    connected(plant, "app", connect).await
}

fn rows(plant: &Plant, tag: u8) -> usize {
    plant.sessions.keys(Table::Sessions).iter().filter(|key| key[0] == tag).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_a_crash() {
    let plant = Plant::new().await;
    let (mut reader, present) = app(&plant, Connect::v5("app").persistent()).await;
    assert!(!present);
    assert_eq!(reader.subscribe("devices/+/telemetry/#", 2).await, 2);
    let mut device = plant.v5("d1").await;
    device.publish(2, TOPIC, 1, "first").await;
    assert_eq!(device.acked(0x40).await, (1, 0));
    let first = reader.receive_only().await;
    drop(reader);
    until("away", || async { plant.broker.metrics().connections == 1 }).await;
    for (id, payload) in [(2, "second"), (3, "third")] {
        device.publish(2, TOPIC, id, payload).await;
        assert_eq!(device.acked(0x40).await, (id, 0));
    }
    let plant = plant.crashed().await;
    assert_eq!(plant.broker.metrics().sessions, 1);
    assert_eq!(plant.broker.metrics().subscriptions, 1);
    let (mut reader, present) = app(&plant, Connect::v5("app").persistent()).await;
    assert!(present);
    // What may have been sent comes first, as a duplicate under its old id.
    let again = reader.receive().await;
    assert_eq!((again.dup, again.id, &again.payload[..]), (true, first.id, &b"first"[..]));
    for payload in ["second", "third"] {
        let next = reader.receive().await;
        assert_eq!((next.dup, &next.payload[..]), (false, payload.as_bytes()));
    }
    // And the subscription works on.
    let mut device = plant.v5("d1").await;
    device.publish(2, TOPIC, 1, "fourth").await;
    assert_eq!(reader.receive().await.payload, b"fourth");
    // What the client acknowledged leaves the store.
    until("rows gone", || async { rows(&plant, b'q') == 0 && rows(&plant, b'm') == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_puback_waits_for_the_place_in_a_durable_session_and_only_then() {
    let plant = Plant::new().await;
    let (mut reader, _) = app(&plant, Connect::v5("app").persistent()).await;
    reader.subscribe("devices/+/telemetry/#", 1).await;
    let mut device = plant.v5("d1").await;
    plant.gate.hold();
    device.publish(2, TOPIC, 1, "x").await;
    until("submitted", || async { plant.gate.held() == 1 }).await;
    device.silent(100).await;
    reader.silent(10).await;
    plant.gate.let_through(Ok(()));
    assert_eq!(device.acked(0x40).await, (1, 0));
    assert_eq!(reader.receive().await.payload, b"x");
    // A commit that fails is not acknowledged, and nobody gets the message.
    device.publish(2, TOPIC, 2, "y").await;
    until("submitted", || async { plant.gate.held() == 1 }).await;
    plant.gate.let_through(Err(CommitError::Failed("disk".to_owned())));
    assert_eq!(device.disconnected().await, Some(0x83));
    reader.silent(50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn qos_2_from_a_client_stays_exactly_once_over_a_crash() {
    let plant = Plant::new().await;
    let (mut reader, _) = app(&plant, Connect::v5("app").persistent()).await;
    reader.subscribe("devices/#", 1).await;
    let (mut device, _) = connected(&plant, "d1", Connect::v5("d1").persistent()).await;
    device.publish(4, TOPIC, 5, "once").await;
    assert_eq!(device.acked(0x50).await, (5, 0));
    assert_eq!(reader.receive().await.payload, b"once");
    until("acknowledged", || async { rows(&plant, b'q') == 0 }).await;
    let plant = plant.crashed().await;
    let (mut reader, _) = app(&plant, Connect::v5("app").persistent()).await;
    let (mut device, present) = connected(&plant, "d1", Connect::v5("d1").persistent()).await;
    assert!(present);
    // The PUBREC was lost with the process: the client sends again, and it is no second message.
    device.publish(12, TOPIC, 5, "once").await;
    assert_eq!(device.acked(0x50).await, (5, 0));
    device.send(&packets::ack(0x62, 5)).await;
    assert_eq!(device.acked(0x70).await, (5, 0));
    reader.silent(100).await;
    // After the PUBCOMP the id is free for the next message, a crash or not.
    let plant = plant.crashed().await;
    let (mut reader, _) = app(&plant, Connect::v5("app").persistent()).await;
    let (mut device, _) = connected(&plant, "d1", Connect::v5("d1").persistent()).await;
    device.publish(4, TOPIC, 5, "twice").await;
    assert_eq!(device.acked(0x50).await, (5, 0));
    assert_eq!(reader.receive().await.payload, b"twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn qos_2_to_a_client_goes_on_where_it_was() {
    let plant = Plant::new().await;
    let (mut reader, _) = app(&plant, Connect::v311("app").persistent()).await;
    reader.subscribe("devices/#", 2).await;
    let mut device = plant.v5("d1").await;
    for (id, payload) in [(1, "a"), (2, "b")] {
        device.publish(4, TOPIC, id, payload).await;
        assert_eq!(device.acked(0x50).await, (id, 0));
    }
    let (first, second) = (reader.receive_only().await, reader.receive_only().await);
    assert_eq!((first.qos, second.qos), (2, 2));
    reader.send(&packets::ack(0x50, first.id)).await;
    assert_eq!(reader.acked(0x62).await.0, first.id);
    let plant = plant.crashed().await;
    let (mut reader, present) = app(&plant, Connect::v311("app").persistent()).await;
    assert!(present);
    // The first one's PUBREL again, the second one's PUBLISH again.
    assert_eq!(reader.acked(0x62).await.0, first.id);
    let again = reader.receive_only().await;
    assert_eq!((again.dup, again.id, &again.payload[..]), (true, second.id, &b"b"[..]));
    reader.send(&packets::ack(0x70, first.id)).await;
    reader.send(&packets::ack(0x50, second.id)).await;
    assert_eq!(reader.acked(0x62).await.0, second.id);
    reader.send(&packets::ack(0x70, second.id)).await;
    until("rows gone", || async { rows(&plant, b'q') == 0 && rows(&plant, b'm') == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_is_durable_before_its_suback() {
    let plant = Plant::new().await;
    let (mut reader, _) = app(&plant, Connect::v5("app").persistent()).await;
    reader.subscribe("a/+", 1).await;
    reader.subscribe("b", 0).await;
    let plant = plant.crashed().await;
    assert_eq!(plant.broker.metrics().subscriptions, 2);
    let (mut reader, present) = app(&plant, Connect::v5("app").persistent()).await;
    assert!(present);
    reader.send(&packets::unsubscribe(9, Some(&[]), &["b"])).await;
    assert_eq!(reader.read().await.unwrap().first, 0xB0);
    let plant = plant.crashed().await;
    assert_eq!(plant.broker.metrics().subscriptions, 1);
    // A clean start forgets it, and that is durable before its CONNACK.
    let (_, present) = app(&plant, Connect::v5("app")).await;
    assert!(!present);
    let plant = plant.crashed().await;
    assert_eq!(plant.broker.metrics().sessions, 0);
    assert_eq!(plant.sessions.count(Table::Sessions), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn retained_messages_have_their_place_in_a_durable_session() {
    let plant = Plant::new().await;
    let state = Message::new("devices/d1/state", "on", Default::default()).with_qos(QoS::AtLeastOnce).retained();
    plant.broker.publish(state).await.unwrap();
    let (mut reader, _) = app(&plant, Connect::v5("app").persistent()).await;
    reader.subscribe("devices/+/state", 1).await;
    let first = reader.receive_only().await;
    assert!(first.retain);
    let plant = plant.crashed().await;
    let (mut reader, _) = app(&plant, Connect::v5("app").persistent()).await;
    let again = reader.receive().await;
    assert_eq!((again.dup, again.id, again.retain), (true, first.id, true));
    until("rows gone", || async { rows(&plant, b'q') == 0 && rows(&plant, b'm') == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_will_survives_a_crash_and_fires_once() {
    let plant = Plant::new().await;
    let will = Connect::v5("d1").persistent().will(TOPIC, "lost", 1, false, &[0x18, 0, 0, 0, 1]);
    let (device, _) = connected(&plant, "d1", will.clone()).await;
    drop(device);
    until("parked", || async { plant.broker.metrics().connections == 0 }).await;
    let plant = plant.crashed().await;
    let (mut reader, _) = app(&plant, Connect::v5("app")).await;
    reader.subscribe("devices/#", 1).await;
    assert_eq!(reader.receive().await.payload, b"lost");
    let plant = plant.settled_and_crashed().await;
    let (mut reader, _) = app(&plant, Connect::v5("app")).await;
    reader.subscribe("devices/#", 1).await;
    reader.silent(1_300).await;

    // A client that comes back in time takes it back; so does one that says goodbye.
    let (mut device, _) = connected(&plant, "d1", will).await;
    device.send(&[0xE0, 0]).await;
    assert_eq!(device.disconnected().await, None);
    let plant = plant.settled_and_crashed().await;
    let (mut reader, _) = app(&plant, Connect::v5("app")).await;
    reader.subscribe("devices/#", 1).await;
    reader.silent(1_300).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_will_of_a_client_that_was_connected_at_the_crash_is_published() {
    let plant = Plant::new().await;
    let will = Connect::v5("d1").persistent().will(TOPIC, "lost", 1, true, &[]);
    let (_device, _) = connected(&plant, "d1", will).await;
    let plant = plant.crashed().await;
    until("fired", || async { plant.broker.metrics().wills_fired == 1 }).await;
    let (mut reader, _) = app(&plant, Connect::v5("app")).await;
    reader.subscribe("devices/#", 1).await;
    assert_eq!(reader.receive().await.payload, b"lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_over_a_crash_when_its_time_is_over_or_its_client_is_revoked() {
    let plant = Plant::new().await;
    let (mut short, _) = connected(&plant, "d1", Connect::v5("d1").property(&[0x11, 0, 0, 0, 1])).await;
    short.subscribe("devices/d1/#", 1).await;
    let (mut revoked, _) = connected(&plant, "d2", Connect::v5("d2").persistent()).await;
    revoked.subscribe("devices/d2/#", 1).await;
    plant.gate.revoke("d2");
    let plant = plant.crashed().await;
    until("ended", || async { plant.broker.metrics().sessions == 0 }).await;
    until("unsubscribed", || async { plant.broker.metrics().subscriptions == 0 }).await;
    until("rows gone", || async { plant.sessions.count(Table::Sessions) == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_for_many_durable_sessions_is_stored_once_and_goes_with_the_last() {
    let plant = Plant::new().await;
    plant.gate.role("app", Role::App);
    plant.gate.allow("app", "#");
    let mut readers = Vec::new();
    for number in 0..4 {
        let (mut reader, _) = connected(&plant, "app", Connect::v5(&format!("app/{number}")).persistent()).await;
        reader.subscribe("devices/#", 1).await;
        readers.push(reader);
    }
    let mut device = plant.v5("d1").await;
    device.publish(2, TOPIC, 1, "x").await;
    assert_eq!(device.acked(0x40).await, (1, 0));
    assert_eq!((rows(&plant, b'm'), rows(&plant, b'q')), (1, 4));
    for (number, reader) in readers.iter_mut().enumerate() {
        assert_eq!(reader.receive().await.payload, b"x");
        until("place gone", || async { rows(&plant, b'q') == 3 - number }).await;
    }
    until("message gone", || async { rows(&plant, b'm') == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_of_an_absent_client_drops_the_oldest_from_the_store_too() {
    let limits = fieldgate_broker::Limits { session_queue_messages: 3, ..Default::default() };
    let plant = Plant::with_limits(limits).await;
    let (mut reader, _) = app(&plant, Connect::v5("app").persistent()).await;
    reader.subscribe("devices/#", 1).await;
    drop(reader);
    until("away", || async { plant.broker.metrics().connections == 0 }).await;
    let mut device = plant.v5("d1").await;
    for id in 1..=5 {
        device.publish(2, TOPIC, id, &id.to_string()).await;
        device.acked(0x40).await;
    }
    assert_eq!(plant.broker.metrics().dropped_queue_full, 2);
    until("trimmed", || async { rows(&plant, b'q') == 3 && rows(&plant, b'm') == 3 }).await;
    let plant = plant.crashed().await;
    let (mut reader, _) = app(&plant, Connect::v5("app").persistent()).await;
    for payload in ["3", "4", "5"] {
        assert_eq!(reader.receive().await.payload, payload.as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_message_is_not_delivered_after_a_crash() {
    let plant = Plant::new().await;
    let (mut reader, _) = app(&plant, Connect::v5("app").persistent()).await;
    reader.subscribe("devices/#", 1).await;
    drop(reader);
    until("away", || async { plant.broker.metrics().connections == 0 }).await;
    let mut device = plant.v5("d1").await;
    device.send(&packets::publish(2, TOPIC, 1, Some(&[0x02, 0, 0, 0, 1]), b"brief")).await;
    device.acked(0x40).await;
    device.publish(2, TOPIC, 2, "lasting").await;
    device.acked(0x40).await;
    let plant = plant.crashed().await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let (mut reader, _) = app(&plant, Connect::v5("app").persistent()).await;
    assert_eq!(reader.receive().await.payload, b"lasting");
    until("rows gone", || async { rows(&plant, b'm') == 0 }).await;
}
