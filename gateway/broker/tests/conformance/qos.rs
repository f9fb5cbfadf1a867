//! The hand-shakes of QoS 1 and 2, both ways, over reconnects.

use std::collections::HashSet;

use fieldgate_broker::{CommitError, Limits};

use crate::support::packets::{self, Connect, ack, ack_code, four};
use crate::support::{Client, Plant, until};

async fn gone(plant: &Plant, name: &str) {
    until("gone", || async { plant.broker.connections().iter().all(|one| &*one.client_id != name) }).await;
}

fn persistent(level: u8) -> Connect {
    Connect::of(level, "app/1").persistent()
}

/// A receiver with a persistent session and its publisher.
async fn pair(plant: &Plant, level: u8) -> (Client, Client) {
    drop(plant.app(level, "1").await);
    gone(plant, "app/1").await;
    let (mut receiver, present) = plant.app_with(persistent(level)).await;
    assert!(!present);
    assert_eq!(receiver.subscribe("a", 2).await, 2);
    (receiver, plant.app(level, "2").await)
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_4_3_2_2_the_id_of_a_qos_1_publish_is_new_after_its_puback() {
    the_id_of_a_qos_1_publish_is_new_after_its_puback(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_4_3_2_4_and_4_3_2_5_the_id_of_a_qos_1_publish_is_new_after_its_puback() {
    the_id_of_a_qos_1_publish_is_new_after_its_puback(5).await;
}

async fn the_id_of_a_qos_1_publish_is_new_after_its_puback(level: u8) {
    let plant = Plant::open().await;
    let (mut receiver, mut publisher) = pair(&plant, level).await;
    // With and without DUP: each is a message.
    for (flags, payload) in [(0b0010, "1"), (0b0010, "2"), (0b1010, "3"), (0b1010, "4")] {
        publisher.publish(flags, "a", 7, payload).await;
        assert_eq!(publisher.acked(0x40).await, (7, 0));
        assert_eq!(receiver.receive().await.text(), payload);
    }
    // No PUBACK before the message is taken over.
    plant.gate.hold();
    publisher.publish(2, "a", 8, "held").await;
    until("a commit", || async { plant.gate.held() == 1 }).await;
    publisher.quiet().await;
    receiver.quiet().await;
    plant.gate.let_through(Ok(()));
    assert_eq!(publisher.acked(0x40).await, (8, 0));
    assert_eq!(receiver.receive().await.text(), "held");
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_4_3_3_2_receiving_qos_2_delivers_once() {
    receiving_qos_2_delivers_once(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_4_3_3_8_and_4_3_3_10_and_4_3_3_11_and_4_3_3_12_receiving_qos_2_delivers_once() {
    receiving_qos_2_delivers_once(5).await;
}

async fn receiving_qos_2_delivers_once(level: u8) {
    let plant = Plant::open().await;
    let (mut receiver, publisher) = pair(&plant, level).await;
    drop(publisher);
    let connect = Connect::of(level, "app/2").persistent();
    let (mut publisher, _) = plant.app_with(connect.clone()).await;
    publisher.publish(4, "a", 9, "first").await;
    assert_eq!(publisher.acked(0x50).await, (9, 0));
    let got = receiver.receive().await;
    assert_eq!((got.qos, got.text()), (2, "first"));
    receiver.complete(got.id).await;
    // Copies, with DUP and without, on this connection and the next.
    for flags in [0b1100, 0b0100] {
        publisher.publish(flags, "a", 9, "copy").await;
        assert_eq!(publisher.acked(0x50).await, (9, 0));
    }
    drop(publisher);
    let (mut publisher, present) = plant.app_with(connect.clone()).await;
    assert!(present);
    publisher.publish(0b1100, "a", 9, "copy").await;
    assert_eq!(publisher.acked(0x50).await, (9, 0));
    receiver.quiet().await;
    // The PUBREL, lost or not, is answered each time; on MQTT 5 the second says that there was nothing.
    publisher.send(&ack(0x62, 9)).await;
    assert_eq!(publisher.acked(0x70).await, (9, 0));
    drop(publisher);
    let (mut publisher, _) = plant.app_with(connect).await;
    publisher.send(&ack(0x62, 9)).await;
    assert_eq!(publisher.acked(0x70).await, (9, if level == 5 { 0x92 } else { 0 }));
    // Now the id is new.
    publisher.publish(4, "a", 9, "second").await;
    assert_eq!(publisher.acked(0x50).await, (9, 0));
    let got = receiver.receive().await;
    assert_eq!(got.text(), "second");
    receiver.complete(got.id).await;
    receiver.quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_4_3_3_9_an_id_is_new_after_a_pubrec_that_refuses() {
    let plant = Plant::open().await;
    let mut watch = plant.app(5, "watch").await;
    watch.subscribe("devices/#", 0).await;
    let mut client = plant.v5("d1").await;
    client.publish(4, "elsewhere", 5, "x").await;
    assert_eq!(client.acked(0x50).await, (5, 0x87));
    // A PUBREL for it finds nothing.
    client.send(&ack(0x62, 5)).await;
    assert_eq!(client.acked(0x70).await, (5, 0x92));
    client.publish(4, "devices/d1/telemetry/t", 5, "good").await;
    assert_eq!(client.acked(0x50).await, (5, 0));
    assert_eq!(watch.receive().await.text(), "good");
    plant.gate.fail(Some(CommitError::Full));
    client.publish(4, "devices/d1/telemetry/t", 6, "x").await;
    assert_eq!(client.acked(0x50).await, (6, 0x97));
    plant.gate.fail(None);
    client.publish(4, "devices/d1/telemetry/t", 6, "again").await;
    assert_eq!(client.acked(0x50).await, (6, 0));
    assert_eq!(watch.receive().await.text(), "again");
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_2_3_1_4_and_4_3_2_1_and_3_3_1_1_sending_qos_1_until_the_puback() {
    sending_qos_1_until_the_puback(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_2_2_1_4_and_4_3_2_1_and_4_3_2_2_and_4_3_2_3_and_3_3_1_1_sending_qos_1_until_the_puback() {
    sending_qos_1_until_the_puback(5).await;
}

async fn sending_qos_1_until_the_puback(level: u8) {
    let plant = Plant::open().await;
    let (mut receiver, mut publisher) = pair(&plant, level).await;
    let mut ids = HashSet::new();
    for payload in ["1", "2", "3", "4"] {
        publisher.deliver(2, "a", &[], payload).await;
        let got = receiver.receive_only().await;
        assert_eq!((got.dup, got.qos, got.text()), (false, 1, payload));
        assert!(got.id != 0 && ids.insert(got.id), "{}", got.id);
        if payload == "2" {
            receiver.send(&ack(0x40, got.id)).await;
            ids.remove(&got.id);
        }
    }
    receiver.quiet().await;
    // Twice in a row: what was not acknowledged, with DUP, in the old order, under the old ids.
    for _ in 0..2 {
        drop(receiver);
        receiver = plant.app_with(persistent(level)).await.0;
        for payload in ["1", "3", "4"] {
            let got = receiver.receive_only().await;
            assert_eq!((got.dup, got.qos, got.text()), (true, 1, payload));
            assert!(ids.contains(&got.id));
        }
        // A new one takes none of their ids.
        receiver.quiet().await;
    }
    publisher.deliver(2, "a", &[], "5").await;
    let got = receiver.receive_only().await;
    assert!(!got.dup && !ids.contains(&got.id));
    // Acknowledged out of order, and one that is not known: no harm.
    receiver.send(&ack(0x40, got.id)).await;
    receiver.send(&ack(0x40, 0x7777)).await;
    for id in &ids {
        receiver.send(&ack(0x40, *id)).await;
    }
    receiver.quiet().await;
    drop(receiver);
    receiver = plant.app_with(persistent(level)).await.0;
    receiver.quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_4_4_0_1_nothing_is_sent_again_while_connected() {
    let plant = Plant::open().await;
    let (mut receiver, mut publisher) = pair(&plant, 5).await;
    publisher.deliver(2, "a", &[], "one").await;
    publisher.deliver(4, "a", &[], "two").await;
    receiver.receive_only().await;
    let second = receiver.receive_only().await;
    receiver.silent(300).await;
    receiver.send(&ack(0x50, second.id)).await;
    assert_eq!(receiver.acked(0x62).await, (second.id, 0));
    receiver.silent(300).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_4_3_3_1_and_4_4_0_1_and_4_6_0_1_and_4_6_0_4_sending_qos_2_over_reconnects() {
    sending_qos_2_over_reconnects(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_4_3_3_1_and_4_3_3_2_and_4_3_3_3_and_4_3_3_4_and_4_3_3_5_and_4_3_3_6_and_4_4_0_1_sending_qos_2() {
    sending_qos_2_over_reconnects(5).await;
}

async fn sending_qos_2_over_reconnects(level: u8) {
    let plant = Plant::open().await;
    let (mut receiver, mut publisher) = pair(&plant, level).await;
    let mut sent = Vec::new();
    for payload in ["1", "2", "3"] {
        publisher.deliver(4, "a", &[], payload).await;
        let got = receiver.receive_only().await;
        assert_eq!((got.dup, got.qos, got.text()), (false, 2, payload));
        sent.push(got.id);
    }
    assert!(sent.iter().all(|id| *id != 0) && sent.iter().collect::<HashSet<_>>().len() == 3);
    // The second and first get as far as PUBREC: their PUBRELs have the order of the PUBRECs.
    for id in [sent[1], sent[0]] {
        receiver.send(&ack(0x50, id)).await;
    }
    assert_eq!(receiver.acked(0x62).await, (sent[1], 0));
    assert_eq!(receiver.acked(0x62).await, (sent[0], 0));
    // After a reconnect: PUBREL for these two and no PUBLISH, PUBLISH with DUP for the third.
    for _ in 0..2 {
        drop(receiver);
        receiver = plant.app_with(persistent(level)).await.0;
        let mut released = Vec::new();
        for _ in 0..2 {
            released.push(receiver.acked(0x62).await.0);
        }
        released.sort_unstable();
        assert_eq!(released, sent[..2]);
        let got = receiver.receive_only().await;
        assert_eq!((got.dup, got.id, got.text()), (true, sent[2], "3"));
        receiver.quiet().await;
    }
    for id in &sent[..2] {
        receiver.send(&ack(0x70, *id)).await;
    }
    // A second PUBREC for the third: a second PUBREL.
    for _ in 0..2 {
        receiver.send(&ack(0x50, sent[2])).await;
        assert_eq!(receiver.acked(0x62).await, (sent[2], 0));
    }
    receiver.send(&ack(0x70, sent[2])).await;
    receiver.quiet().await;
    drop(receiver);
    receiver = plant.app_with(persistent(level)).await.0;
    receiver.quiet().await;
    // A PUBREC for nothing: PUBREL all the same, on MQTT 5 with the reason.
    receiver.send(&ack(0x50, 999)).await;
    assert_eq!(receiver.acked(0x62).await, (999, if level == 5 { 0x92 } else { 0 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_4_4_0_2_an_acknowledgement_that_refuses_is_one() {
    let plant = Plant::open().await;
    let (mut receiver, mut publisher) = pair(&plant, 5).await;
    publisher.deliver(2, "a", &[], "one").await;
    publisher.deliver(4, "a", &[], "two").await;
    let one = receiver.receive_only().await;
    let two = receiver.receive_only().await;
    receiver.send(&ack_code(0x40, one.id, 0x97)).await;
    receiver.send(&ack_code(0x50, two.id, 0x80)).await;
    // No PUBREL for what was refused.
    receiver.quiet().await;
    drop(receiver);
    let (mut receiver, present) = plant.app_with(persistent(5)).await;
    assert!(present);
    receiver.quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_4_3_3_7_and_4_3_3_13_what_was_sent_once_does_not_expire() {
    let plant = Plant::open().await;
    let (mut receiver, mut publisher) = pair(&plant, 5).await;
    publisher.deliver(4, "a", &four(2, 3), "expiring").await;
    let first = receiver.receive_only().await;
    assert_eq!(first.text(), "expiring");
    drop(receiver);
    gone(&plant, "app/1").await;
    tokio::time::sleep(std::time::Duration::from_millis(3_200)).await;
    let (mut receiver, _) = plant.app_with(persistent(5)).await;
    let again = receiver.receive_only().await;
    assert_eq!((again.dup, again.id, again.text()), (true, first.id, "expiring"));
    receiver.complete(again.id).await;
    receiver.quiet().await;
    // The publisher's side of an expired message goes on as well.
    publisher.send(&packets::publish(4, "a", 5, Some(&four(2, 0)), b"expired")).await;
    assert_eq!(publisher.acked(0x50).await, (5, 0));
    publisher.send(&ack(0x62, 5)).await;
    assert_eq!(publisher.acked(0x70).await, (5, 0));
    receiver.quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_4_3_2_1_and_2_2_1_4_ids_in_use_are_passed_over_when_they_come_round() {
    let limits = Limits { receive_maximum: 1_000, in_flight: 1_000, ..Limits::default() };
    let plant = Plant::open_with(limits).await;
    let (mut receiver, mut publisher) = pair(&plant, 5).await;
    publisher.deliver(2, "a", &[], "kept").await;
    let kept = receiver.receive_only().await;
    receiver.subscribe("c", 1).await;
    // More than all ids, in windows.
    let window = 900_u16;
    let mut seen = 0_usize;
    let mut packet = Vec::new();
    for id in 1..=window {
        packet.extend(packets::publish(2, "c", id, Some(&[]), b""));
    }
    while seen < 66_000 {
        publisher.send(&packet).await;
        let mut answers = Vec::new();
        for _ in 0..window {
            let got = receiver.receive_only().await;
            assert!(got.id != 0 && got.id != kept.id);
            answers.extend(ack(0x40, got.id));
            seen += 1;
        }
        receiver.send(&answers).await;
        for _ in 0..window {
            publisher.acked(0x40).await;
        }
    }
}
