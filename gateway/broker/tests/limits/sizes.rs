//! Sizes and numbers in one packet, and subscriptions.

use std::time::Duration;

use fieldgate_broker::{DisconnectReason, Event, Limits};

use crate::neighbour::Neighbour;
use crate::support::packets::{self, Connect};
use crate::support::{Plant, until};

const TOPIC: &str = "devices/d1/telemetry/t";

#[test]
fn the_defaults_are_those_of_the_contract() {
    let limits = Limits::default();
    let seconds = Duration::from_secs;
    assert_eq!((limits.packet, limits.connect_packet), (256 << 10, 16 << 10));
    assert_eq!((limits.topic, limits.topic_levels), (1 << 10, 16));
    assert_eq!((limits.subscriptions, limits.filters_per_subscribe), (64, 16));
    assert_eq!((limits.receive_maximum, limits.in_flight), (32, 32));
    assert_eq!((limits.session_queue_messages, limits.session_queue_bytes), (1_000, 1 << 20));
    assert_eq!((limits.session_expiry, limits.full_queue_wait), (seconds(7 * 86_400), seconds(1)));
    assert_eq!((limits.output_buffer, limits.receiver_stall), (256 << 10, seconds(10)));
    assert_eq!((limits.message_rate, limits.message_burst), (200, 1_000));
    assert_eq!((limits.retained_per_client, limits.retained_messages, limits.retained_bytes), (100, 10_000, 16 << 20));
    assert_eq!(limits.handshakes_per_second, 500);
    assert_eq!((limits.keep_alive, limits.connections, limits.connections_per_app), (seconds(300), 2_000, 8));
    assert_eq!((limits.client_hello_timeout, limits.connect_timeout), (seconds(10), seconds(5)));
    assert_eq!((limits.pending_sockets, limits.handshakes, limits.buffers), (4_096, 64, 64 << 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packet_over_the_limit_ends_the_connection() {
    let plant = Plant::with_limits(Limits { packet: 4 << 10, ..Limits::default() }).await;
    let neighbour = Neighbour::beside(&plant).await;
    let mut device = plant.socket("d1").await;
    let connack = device.connect(Connect::v5("d1")).await;
    assert!(connack.windows(5).any(|window| window == [0x27, 0, 0, 0x10, 0]), "announced: {connack:02x?}");
    let overhead = packets::publish(2, TOPIC, 1, Some(&[]), &[0; 4_000]).len() - 4_000;
    let largest = packets::publish(2, TOPIC, 1, Some(&[]), &vec![0; (4 << 10) - overhead]);
    assert_eq!(largest.len(), 4 << 10);
    device.send(&largest).await;
    assert_eq!(device.acked(0x40).await, (1, 0));
    // The header is enough: the rest is not waited for.
    device.send(&packets::publish(2, TOPIC, 2, Some(&[]), &vec![0; (4 << 10) - overhead + 1])[..8]).await;
    assert_eq!(device.disconnected().await, Some(0x95));
    let mut device = plant.v311("d1").await;
    device.send(&packets::publish(2, TOPIC, 2, None, &[0; 4 << 10])[..8]).await;
    assert_eq!(device.read().await, None);
    let too_large = |event: &Event| matches!(event, Event::Disconnected { reason: DisconnectReason::PacketTooLarge, who, .. } if &*who.id == "d1");
    until("both told", || async { plant.gate.events().iter().filter(|event| too_large(event)).count() == 2 }).await;
    neighbour.was_not_held_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connect_over_its_limit_is_refused() {
    let plant = Plant::with_limits(Limits { connect_packet: 512, ..Limits::default() }).await;
    let neighbour = Neighbour::beside(&plant).await;
    for (count, code) in [(400, 0), (500, 0x95)] {
        let mut property = vec![0x26];
        property.extend(packets::text("padding"));
        property.extend(packets::bytes(&vec![b'x'; count]));
        let mut device = plant.socket("d1").await;
        if code == 0 {
            device.connect(Connect::v5("d1").property(&property)).await;
        } else {
            assert_eq!(device.refused(Connect::v5("d1").property(&property)).await, code);
        }
    }
    assert_eq!(plant.broker.metrics().refused, 1);
    neighbour.was_not_held_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_are_too_long_or_too_deep_are_refused() {
    let plant = Plant::with_limits(Limits { topic: 64, topic_levels: 6, ..Limits::default() }).await;
    let neighbour = Neighbour::beside(&plant).await;
    let base = "devices/d1/telemetry/";
    let longest = format!("{base}{}", "x".repeat(64 - base.len()));
    let deepest = format!("{base}a/b/c");
    let (longer, deeper) = (format!("{longest}x"), format!("{deepest}/d"));
    let mut device = plant.v5("d1").await;
    for (id, topic, code) in [(1, &longest, 0), (2, &deepest, 0), (3, &longer, 0x90), (4, &deeper, 0x90)] {
        device.publish(2, topic, id, "x").await;
        assert_eq!(device.acked(0x40).await, (id, code), "{topic}");
    }
    for (topic, code) in [(&longest, 0), (&deepest, 0), (&longer, 0x8F), (&deeper, 0x8F)] {
        assert_eq!(device.subscribe(topic, 0).await, code, "{topic}");
    }
    // The group's name is no level, but it counts for the length.
    assert_eq!(device.subscribe(&format!("$share/g/{deepest}"), 0).await, 0);
    assert_eq!(device.subscribe(&format!("$share/g/{longest}"), 0).await, 0x8F);
    for topic in [&longer, &deeper] {
        let mut other = plant.socket("d2").await;
        assert_eq!(other.refused(Connect::v5("d2").will(topic, "", 0, false, &[])).await, 0x90);
        let mut old = plant.v311("d3").await;
        assert_eq!(old.subscribe(topic, 0).await, 0x80);
        old.publish(2, topic, 1, "x").await;
        assert_eq!(old.read().await, None);
    }
    let metrics = plant.broker.metrics();
    assert_eq!((metrics.publish_refused, metrics.subscription_refused, metrics.refused), (4, 5, 2));
    neighbour.was_not_held_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_gets_so_many_subscriptions_and_no_more() {
    let plant = Plant::with_limits(Limits { subscriptions: 3, ..Limits::default() }).await;
    let neighbour = Neighbour::beside(&plant).await;
    for (v5, refusal) in [(true, 0x97), (false, 0x80)] {
        let mut device = if v5 { plant.v5("d1").await } else { plant.v311("d1").await };
        for (name, code) in [("a", 0), ("b", 0), ("c", 0), ("d", refusal), ("c", 0)] {
            assert_eq!(device.subscribe(&format!("devices/d1/{name}"), 0).await, code, "{name}");
        }
        device.send(&packets::unsubscribe(9, device.list(), &["devices/d1/a"])).await;
        assert_eq!(device.read().await.unwrap().first, 0xB0);
        assert_eq!(device.subscribe("devices/d1/d", 0).await, 0);
        assert_eq!(plant.broker.metrics().subscriptions, 3 + 1);
    }
    assert_eq!(plant.broker.metrics().subscription_refused, 2);
    neighbour.was_not_held_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscribe_with_too_many_filters_gets_none() {
    let plant = Plant::with_limits(Limits { filters_per_subscribe: 4, ..Limits::default() }).await;
    let neighbour = Neighbour::beside(&plant).await;
    let filters: Vec<String> = (0..5).map(|number| format!("devices/d1/{number}")).collect();
    let filters: Vec<(&str, u8)> = filters.iter().map(|filter| (filter.as_str(), 1)).collect();
    let mut device = plant.v5("d1").await;
    device.send(&packets::subscribe(9, Some(&[]), &filters)).await;
    assert_eq!(device.read().await.unwrap().body[3..], [0x97; 5]);
    device.send(&packets::subscribe(10, Some(&[]), &filters[..4])).await;
    assert_eq!(device.read().await.unwrap().body[3..], [1; 4]);
    let mut old = plant.v311("d1").await;
    old.send(&packets::subscribe(9, None, &filters)).await;
    assert_eq!(old.read().await.unwrap().body[2..], [0x80; 5]);
    assert_eq!(plant.broker.metrics().subscription_refused, 10);
    neighbour.was_not_held_up().await;
}
