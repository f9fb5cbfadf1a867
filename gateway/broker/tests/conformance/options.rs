//! Subscription options and identifiers of MQTT 5.

use fieldgate_broker::Message;

use crate::support::packets::{self, Connect};
use crate::support::{Client, Plant, until};

const NO_LOCAL: u8 = 0x04;
const AS_PUBLISHED: u8 = 0x08;

async fn subscribe(client: &mut Client, filter: &str, options: u8, identifier: &[u8]) {
    let list = if identifier.is_empty() { vec![] } else { [&[0x0B][..], identifier].concat() };
    client.send(&packets::subscribe(7, Some(&list), &[(filter, options)])).await;
    let suback = client.read().await.unwrap();
    assert_eq!(suback.body[..3], [0, 7, 0]);
    assert!(suback.body[3] < 3, "{suback:02x?}");
}

/// The subscription identifiers of a message, sorted.
async fn identifiers(client: &mut Client) -> Vec<usize> {
    let got = client.receive().await;
    let mut found: Vec<usize> =
        got.list().into_iter().filter(|(id, _)| *id == 0x0B).map(|(_, value)| packets::read_varint(&value).0).collect();
    found.sort_unstable();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_8_3_3_no_local_keeps_own_messages_away() {
    let plant = Plant::open().await;
    let mut client = plant.app(5, "1").await;
    let mut other = plant.app(5, "2").await;
    subscribe(&mut client, "a", NO_LOCAL | 2, &[]).await;
    for flags in [0, 2, 4] {
        client.deliver(flags, "a", &[], "own").await;
        client.quiet().await;
        other.deliver(flags, "a", &[], "other").await;
        let got = client.receive().await;
        assert_eq!(got.text(), "other");
        if got.qos == 2 {
            client.complete(got.id).await;
        }
    }
    // By a second subscription without the option it comes once, as that one says.
    subscribe(&mut client, "+", 0, &[9]).await;
    client.publish(2, "a", 1, "own").await;
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let packet = client.read().await.unwrap();
        kinds.push(packet.first);
    }
    kinds.sort_unstable();
    assert_eq!(kinds, [0x30, 0x40]);
    client.quiet().await;
    // The option goes when the filter is subscribed again without it.
    client.send(&packets::unsubscribe(8, Some(&[]), &["+"])).await;
    client.read().await.unwrap();
    subscribe(&mut client, "a", 0, &[]).await;
    client.publish(0, "a", 0, "own").await;
    assert_eq!(client.receive().await.text(), "own");
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_8_3_3_no_local_keeps_a_devices_own_retained_messages_away() {
    let plant = Plant::open().await;
    let mut device = plant.v5("d1").await;
    let own = "devices/d1/telemetry/t";
    device.publish(3, own, 1, "own").await;
    assert_eq!(device.acked(0x40).await, (1, 0));
    let theirs = Message::new("devices/d1/state", "theirs", Default::default()).retained();
    plant.broker.publish(theirs).await.unwrap();
    subscribe(&mut device, "devices/d1/#", NO_LOCAL, &[]).await;
    assert_eq!(device.receive().await.text(), "theirs");
    device.quiet().await;
    subscribe(&mut device, own, 0, &[]).await;
    assert_eq!(device.receive().await.text(), "own");
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_3_1_12_and_3_3_1_13_the_retain_flag_is_as_published_where_asked_for() {
    let plant = Plant::open().await;
    let mut plain = plant.app(5, "1").await;
    let mut as_published = plant.app(5, "2").await;
    subscribe(&mut plain, "a", 1, &[]).await;
    subscribe(&mut as_published, "a", AS_PUBLISHED | 1, &[]).await;
    let mut publisher = plant.app(5, "3").await;
    for flags in [2, 3, 0, 1] {
        publisher.deliver(flags, "a", &[], "x").await;
        assert!(!plain.receive().await.retain);
        assert_eq!(as_published.receive().await.retain, flags & 1 == 1);
    }
    // Overlapping, one as published and one not: as published, whichever way round.
    for (one, other) in [(AS_PUBLISHED, 0), (0, AS_PUBLISHED)] {
        let mut both = plant.app(5, "5").await;
        subscribe(&mut both, "o", one | 1, &[]).await;
        subscribe(&mut both, "+", other | 0x20 | 1, &[]).await;
        publisher.deliver(1, "o", &[], "x").await;
        assert!(both.receive().await.retain);
        both.quiet().await;
        publisher.deliver(1, "o", &[], "").await;
    }
    // Also for an absent receiver.
    let connect = Connect::v5("app/4").persistent();
    let (mut absent, _) = plant.app_with(connect.clone()).await;
    subscribe(&mut absent, "b", AS_PUBLISHED | 1, &[]).await;
    drop(absent);
    until("gone", || async { plant.broker.connections().iter().all(|one| &*one.client_id != "app/4") }).await;
    publisher.deliver(3, "b", &[], "1").await;
    publisher.deliver(2, "b", &[], "2").await;
    let (mut absent, _) = plant.app_with(connect).await;
    assert!(absent.receive().await.retain);
    assert!(!absent.receive().await.retain);
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_3_1_9_and_3_3_1_10_and_3_3_1_11_retain_handling_says_when_retained_messages_come() {
    let plant = Plant::open().await;
    let mut publisher = plant.app(5, "2").await;
    publisher.deliver(3, "a/1", &[], "1").await;
    publisher.deliver(3, "a/2", &[], "2").await;
    for as_published in [0, AS_PUBLISHED] {
        let mut client = plant.app(5, "1").await;
        for (handling, times) in [(2, 0), (1, 0), (0, 2), (0, 2), (1, 0), (2, 0)] {
            subscribe(&mut client, "a/+", handling << 4 | as_published | 1, &[]).await;
            for _ in 0..times {
                let got = client.receive().await;
                assert!(got.retain, "a message that was retained before says so");
            }
            client.quiet().await;
        }
        client.send(&packets::unsubscribe(8, Some(&[]), &["a/+"])).await;
        client.read().await.unwrap();
        subscribe(&mut client, "a/+", 0x10 | as_published, &[]).await;
        for _ in 0..2 {
            assert!(client.receive().await.retain);
        }
        client.quiet().await;
    }
    // A subscription that a resumed session has is not new.
    let connect = Connect::v5("app/1").persistent();
    let (mut client, _) = plant.app_with(connect.clone()).await;
    subscribe(&mut client, "a/1", 0x10, &[]).await;
    client.receive().await;
    drop(client);
    let (mut client, present) = plant.app_with(connect).await;
    assert!(present);
    subscribe(&mut client, "a/1", 0x10, &[]).await;
    client.quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_3_4_3_and_3_3_4_4_the_identifiers_of_all_matching_subscriptions_travel() {
    let plant = Plant::open().await;
    let mut publisher = plant.app(5, "2").await;
    publisher.deliver(3, "a/kept", &[], "kept").await;
    let mut client = plant.app(5, "1").await;
    subscribe(&mut client, "a/b", 0, &[]).await;
    publisher.deliver(2, "a/b", &[], "x").await;
    assert!(identifiers(&mut client).await.is_empty());
    subscribe(&mut client, "a/+", 1, &[1]).await;
    assert_eq!(identifiers(&mut client).await, [1], "also with retained messages");
    subscribe(&mut client, "a/#", 0x20, &[0xFF, 0xFF, 0xFF, 0x7F]).await;
    publisher.deliver(2, "a/b", &[], "x").await;
    assert_eq!(identifiers(&mut client).await, [1, 268_435_455]);
    publisher.deliver(2, "a/b/c", &[], "x").await;
    assert_eq!(identifiers(&mut client).await, [268_435_455]);
    // Subscribed again: another identifier, and none.
    subscribe(&mut client, "a/+", 0x20, &[0x80, 1]).await;
    publisher.deliver(2, "a/b", &[], "x").await;
    assert_eq!(identifiers(&mut client).await, [128, 268_435_455]);
    subscribe(&mut client, "a/+", 0x20, &[]).await;
    subscribe(&mut client, "a/b", 0x20, &[128, 1]).await;
    publisher.deliver(2, "a/b", &[], "x").await;
    assert_eq!(identifiers(&mut client).await, [128, 268_435_455]);
    client.quiet().await;
    // They are the receiver's: another session gets its own, and 3.1.1 none.
    let mut other = plant.app(4, "3").await;
    other.subscribe("a/#", 0).await;
    other.receive().await;
    publisher.deliver(0, "a/b", &[], "x").await;
    assert_eq!(other.receive().await.text(), "x");
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_3_4_3_identifiers_outlive_the_connection() {
    let plant = Plant::open().await;
    let connect = Connect::v5("app/1").persistent();
    let (mut client, _) = plant.app_with(connect.clone()).await;
    subscribe(&mut client, "a", 1, &[5]).await;
    drop(client);
    until("gone", || async { plant.broker.metrics().connections == 0 }).await;
    let mut publisher = plant.app(5, "2").await;
    publisher.deliver(2, "a", &[], "stored").await;
    let (mut client, _) = plant.app_with(connect).await;
    assert_eq!(identifiers(&mut client).await, [5]);
    publisher.deliver(2, "a", &[], "live").await;
    assert_eq!(identifiers(&mut client).await, [5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_3_4_6_a_client_sends_no_subscription_identifier() {
    let plant = Plant::open().await;
    let mut client = plant.app(5, "1").await;
    client.send(&packets::publish(0, "a", 0, Some(&[0x0B, 1]), b"x")).await;
    assert_eq!(client.disconnected().await, Some(0x82));
}
