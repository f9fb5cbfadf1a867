//! PINGREQ and DISCONNECT.

use std::time::Duration;

use crate::LEVELS;
use crate::support::packets::{self, Connect, four, packet, read_properties, string};
use crate::support::{Plant, until};

const TOPIC: &str = "devices/d1/telemetry/t";

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_12_4_1_and_v5_3_12_4_1_a_ping_is_answered() {
    let plant = Plant::new().await;
    for level in LEVELS {
        let mut client = plant.socket("d1").await;
        client.connect(Connect::of(level, "d1")).await;
        client.send(&[0xC0, 0].repeat(3)).await;
        for _ in 0..3 {
            let packet = client.read().await.unwrap();
            assert_eq!((packet.first, packet.body), (0xD0, vec![]));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_14_1_1_and_v5_3_14_1_1_flags_in_disconnect_are_an_error() {
    let plant = Plant::open().await;
    let mut app = plant.app(5, "watch").await;
    app.subscribe("devices/#", 0).await;
    for level in LEVELS {
        for flags in 1..16 {
            let mut client = plant.socket("d1").await;
            client.connect(Connect::of(level, "d1").will(TOPIC, "lost", 0, false, &[])).await;
            client.send(&[0xE0 | flags, 0]).await;
            assert_eq!(client.disconnected().await, (level == 5).then_some(0x81));
            assert_eq!(app.receive().await.text(), "lost", "such a DISCONNECT is none");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_14_0_1_no_disconnect_goes_out_before_a_connack_that_accepts() {
    let plant = Plant::new().await;
    for bytes in [
        packet(0xE0, &[]),
        packet(0xF0, &[0x18]),
        packets::publish(0, "t", 0, Some(&[]), b""),
        Connect::v5("d2").build(),
        Connect { level: 7, ..Connect::v5("d1") }.build(),
        Connect::v5("d1").property(&[0x7F]).build(),
        vec![0x10, 0xFF, 0xFF, 0xFF, 0xFF],
    ] {
        let mut client = plant.socket("d1").await;
        client.send(&bytes).await;
        while let Some(packet) = client.read().await {
            assert_eq!(packet.first, 0x20);
            assert_ne!(packet.body[1], 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_14_2_1_and_3_14_2_2_and_3_14_4_1_and_3_14_4_2_the_servers_disconnect_is_well_formed_and_the_last() {
    let plant = Plant::open().await;
    let known =
        [0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99];
    for bytes in [
        packet(0x00, &[]),
        Connect::v5("d1").build(),
        packet(0x90, &[0, 1, 0, 0]),
        packets::publish(0, "a/#", 0, Some(&[]), b""),
        packets::publish(0, "elsewhere", 0, Some(&[]), b""),
        packets::publish(0, TOPIC, 0, Some(&packets::two(0x23, 99)), b""),
        packets::publish(0, TOPIC, 0, Some(&[1, 1]), b"\xFF"),
        vec![0x30, 0xFF, 0xFF, 0xFF, 0x7F],
    ] {
        let mut client = plant.v5("d1").await;
        client.subscribe("devices/d1/#", 0).await;
        // What comes behind the error is not answered any more.
        client.send(&[bytes, vec![0xC0, 0]].concat()).await;
        let goodbye = client.read().await.unwrap();
        assert_eq!(goodbye.first, 0xE0);
        assert!(known.contains(&goodbye.body[0]), "{goodbye:02x?}");
        assert!(read_properties(&goodbye.body[2..]).iter().all(|(id, _)| *id != 0x11));
        assert_eq!(client.read().await, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_14_4_3_and_3_1_2_10_and_v5_3_14_4_3_and_3_1_2_10_a_disconnect_deletes_the_will() {
    let plant = Plant::open().await;
    let mut app = plant.app(5, "watch").await;
    app.subscribe("devices/#", 0).await;
    for level in LEVELS {
        for bytes in [&[0xE0, 0][..], &[0xE0, 1, 0], &[0xE0, 2, 0, 0]] {
            if level == 4 && bytes.len() > 2 {
                continue;
            }
            let mut client = plant.socket("d1").await;
            let connect = Connect::of(level, "d1").persistent().will(TOPIC, "lost", 1, false, &[]);
            client.connect(connect).await;
            client.send(bytes).await;
            assert_eq!(client.disconnected().await, None);
            until("gone", || async { plant.broker.metrics().connections == 1 }).await;
            // Nor does it come back with the session.
            let mut client = plant.socket("d1").await;
            client.connect(Connect::of(level, "d1").resuming()).await;
            drop(client);
            until("gone", || async { plant.broker.metrics().connections == 1 }).await;
            app.quiet().await;
        }
    }
    assert_eq!(plant.broker.metrics().wills_fired, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_14_2_1_a_client_may_ask_for_its_will_and_explain_itself() {
    let plant = Plant::open().await;
    let mut app = plant.app(5, "watch").await;
    app.subscribe("devices/#", 0).await;
    let list = [string(0x1F, "going home"), packets::user("a", "b")].concat();
    for (code, fires) in [(0, false), (4, true), (0x80, true), (0x81, true), (0x93, true), (0x97, true)] {
        let mut client = plant.socket("d1").await;
        client.connect(Connect::v5("d1").will(TOPIC, "lost", 0, false, &[])).await;
        client.send(&packet(0xE0, &[&[code][..], &packets::properties(&list)].concat())).await;
        assert_eq!(client.disconnected().await, None, "{code:#x}");
        if fires {
            assert_eq!(app.receive().await.text(), "lost");
        } else {
            until("gone", || async { plant.broker.metrics().connections == 1 }).await;
            app.quiet().await;
        }
    }
    // Codes that are none of a DISCONNECT's, and properties that are not a client's.
    for body in [
        vec![0x03],
        vec![0x10],
        vec![0x92],
        vec![0xFF],
        [&[0][..], &packets::properties(&string(0x1C, "elsewhere"))].concat(),
        [&[0][..], &packets::properties(&packets::two(0x21, 1))].concat(),
        [&[0][..], &packets::properties(&[string(0x1F, "a"), string(0x1F, "b")].concat())].concat(),
        [&[0][..], &packets::properties(&[four(0x11, 1), four(0x11, 1)].concat())].concat(),
        [&[0][..], &packets::properties(&string(0x1F, "a\0"))].concat(),
        vec![0, 5, 0x11, 0, 0],
        vec![0, 0, 0],
    ] {
        let mut client = plant.socket("d1").await;
        client.connect(Connect::v5("d1").persistent()).await;
        client.send(&packet(0xE0, &body)).await;
        let code = client.disconnected().await;
        assert!(matches!(code, Some(0x81 | 0x82)), "{body:02x?}: {code:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnect_may_change_the_session_expiry_but_not_revive_it() {
    let plant = Plant::new().await;
    let goodbye = |seconds| packet(0xE0, &[&[0, 5][..], &four(0x11, seconds)].concat());
    let mut client = plant.v5("d1").await;
    client.send(&goodbye(10)).await;
    assert_eq!(client.disconnected().await, Some(0x82));
    until("gone", || async { plant.broker.metrics().sessions == 0 }).await;
    // 0 where it is 0 already is no change.
    let mut client = plant.v5("d1").await;
    client.send(&goodbye(0)).await;
    assert_eq!(client.disconnected().await, None);
    // Down to 0: gone at once. Down to 1: gone in a second. Up: kept.
    let expiry = |seconds| Connect::v5("d1").property(&four(0x11, seconds));
    let mut client = plant.socket("d1").await;
    client.connect(expiry(100)).await;
    client.send(&goodbye(0)).await;
    assert_eq!(client.disconnected().await, None);
    until("gone", || async { plant.broker.metrics().sessions == 0 }).await;
    let mut client = plant.socket("d1").await;
    client.connect(expiry(1)).await;
    client.send(&goodbye(100)).await;
    assert_eq!(client.disconnected().await, None);
    let before = tokio::time::Instant::now();
    until("parked", || async { plant.broker.metrics().connections == 0 }).await;
    while before.elapsed() < Duration::from_millis(1_500) {
        assert_eq!(plant.broker.metrics().sessions, 1);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut client = plant.socket("d1").await;
    assert_eq!(client.connect(expiry(100).resuming()).await[0], 1);
    client.send(&goodbye(1)).await;
    assert_eq!(client.disconnected().await, None);
    until("expired", || async { plant.broker.metrics().sessions == 0 }).await;
}
