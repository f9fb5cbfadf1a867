//! Wills.

use std::time::Duration;

use tokio::time::Instant;

use crate::LEVELS;
use crate::support::packets::{self, Connect, four, string, user};
use crate::support::{Client, Plant, until};

const TOPIC: &str = "devices/d1/telemetry/w";

async fn watcher(plant: &Plant) -> Client {
    let mut watch = plant.app(5, "watch").await;
    watch.subscribe("devices/#", 2).await;
    watch
}

/// A device with a will, connected.
async fn device(plant: &Plant, connect: Connect) -> Client {
    let mut client = plant.socket("d1").await;
    client.connect(connect).await;
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_1_2_8_and_3_1_2_12_and_v5_3_1_2_7_and_3_1_2_8_a_will_is_published_when_its_client_is_lost() {
    let plant = Plant::open().await;
    let mut watch = watcher(&plant).await;
    for level in LEVELS {
        let will = |payload: &str| Connect::of(level, "d1").will(TOPIC, payload, 0, false, &[]);
        // Lost, malformed, taken over.
        drop(device(&plant, will("lost")).await);
        assert_eq!(watch.receive().await.text(), "lost");
        let mut client = device(&plant, will("malformed")).await;
        client.send(&[0x00, 0]).await;
        client.disconnected().await;
        assert_eq!(watch.receive().await.text(), "malformed");
        let _older = device(&plant, will("taken over")).await;
        let newer = device(&plant, Connect::of(level, "d1")).await;
        assert_eq!(watch.receive().await.text(), "taken over");
        // Without a will, or after it was replaced by a connection without one: nothing.
        drop(newer);
        until("gone", || async { plant.broker.metrics().connections == 1 }).await;
        watch.quiet().await;
        assert_eq!(plant.broker.metrics().wills_fired % 3, 0);
    }
    // While the connection lives, nothing is published.
    let mut client = device(&plant, Connect::v5("d1").will(TOPIC, "alive", 0, false, &[])).await;
    client.quiet().await;
    watch.quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_1_2_10_and_v5_3_1_2_10_a_will_is_published_once() {
    let plant = Plant::open().await;
    let mut watch = watcher(&plant).await;
    for level in LEVELS {
        drop(device(&plant, Connect::of(level, "d1").persistent().will(TOPIC, "once", 0, false, &[])).await);
        assert_eq!(watch.receive().await.text(), "once");
        // The session goes on, its will does not.
        drop(device(&plant, Connect::of(level, "d1").persistent()).await);
        until("gone", || async { plant.broker.metrics().connections == 1 }).await;
        watch.quiet().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_1_2_16_and_3_1_2_17_and_v5_3_1_2_14_and_3_1_2_15_a_will_is_retained_where_asked_for() {
    let plant = Plant::open().await;
    let mut watch = watcher(&plant).await;
    for level in LEVELS {
        for qos in 0..=2 {
            for retain in [false, true] {
                drop(device(&plant, Connect::of(level, "d1").will(TOPIC, "lost", qos, retain, &[])).await);
                let got = watch.receive().await;
                assert_eq!((got.qos, got.retain, got.text()), (qos, false, "lost"));
                if qos == 2 {
                    watch.complete(got.id).await;
                }
                let mut late = plant.app(level, "late").await;
                late.subscribe(TOPIC, 0).await;
                if retain {
                    let got = late.receive().await;
                    assert_eq!((got.retain, got.text()), (true, "lost"));
                }
                late.quiet().await;
                late.publish(3, TOPIC, 9, "").await;
                assert_eq!(watch.receive().await.text(), "");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_1_3_10_a_wills_properties_travel_in_order() {
    let plant = Plant::open().await;
    let mut watch = watcher(&plant).await;
    let users = [user("b", "2"), user("a", "1"), user("b", "1")].concat();
    let list = [
        vec![1, 1],
        four(2, 100),
        string(3, "text/plain"),
        string(8, "replies"),
        [&[9][..], &packets::bytes(b"\0\xFF")].concat(),
        users.clone(),
        four(0x18, 0),
    ]
    .concat();
    drop(device(&plant, Connect::v5("d1").will(TOPIC, "lost", 1, false, &list)).await);
    let got = watch.receive().await;
    assert_eq!(got.property(1), Some(vec![1]));
    assert_eq!(got.property(2), Some(100_u32.to_be_bytes().to_vec()));
    assert_eq!(got.property(3), Some(packets::text("text/plain")));
    assert_eq!(got.property(8), Some(packets::text("replies")));
    assert_eq!(got.property(9), Some(packets::bytes(b"\0\xFF")));
    assert_eq!(got.property(0x18), None, "the delay is not the message's");
    assert!(got.properties.ends_with(&users));
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_1_2_8_and_3_1_3_9_a_delayed_will_waits_for_a_return_or_the_sessions_end() {
    let plant = Plant::open().await;
    let mut watch = watcher(&plant).await;
    let will = |expiry: u32, delay: u32| {
        Connect::v5("d1").property(&four(0x11, expiry)).will(TOPIC, "late", 0, false, &four(0x18, delay))
    };
    // The delay, the session's end, the earlier counts; without a session, at once.
    for (expiry, delay, least) in [(100, 1, 950), (1, 100, 950), (0, 100, 0)] {
        let client = device(&plant, will(expiry, delay)).await;
        let before = Instant::now();
        drop(client);
        assert_eq!(watch.receive().await.text(), "late");
        let took = before.elapsed();
        assert!(took >= Duration::from_millis(least), "{took:?}");
    }
    // Back within the delay: nothing, though it leaves again with a DISCONNECT.
    drop(device(&plant, will(100, 3)).await);
    let mut back = device(&plant, Connect::v5("d1").resuming().property(&four(0x11, 100))).await;
    tokio::time::sleep(Duration::from_millis(3_300)).await;
    watch.quiet().await;
    back.send(&[0xE0, 0]).await;
    assert_eq!(back.disconnected().await, None);
    // A take-over is a return too.
    let mut older = device(&plant, will(100, 3)).await;
    let newer = device(&plant, Connect::v5("d1").resuming().property(&four(0x11, 100))).await;
    assert_eq!(older.disconnected().await, Some(0x8E));
    tokio::time::sleep(Duration::from_millis(3_300)).await;
    watch.quiet().await;
    drop(newer);
    // A clean start ends the session, and with it the wait.
    drop(device(&plant, will(100, 100)).await);
    until("parked", || async { plant.broker.metrics().connections == 1 }).await;
    let _clean = device(&plant, Connect::v5("d1")).await;
    assert_eq!(watch.receive().await.text(), "late");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_will_needs_the_right_at_connect_and_when_it_fires() {
    let plant = Plant::open().await;
    let mut watch = watcher(&plant).await;
    let mut client = plant.socket("d1").await;
    assert_eq!(client.refused(Connect::v311("d1").will("devices/d2/telemetry/w", "x", 0, false, &[])).await, 5);
    plant.gate.allow("d1", "devices/d2/#");
    let client = device(&plant, Connect::v5("d1").will("devices/d2/telemetry/w", "x", 0, false, &[])).await;
    plant.gate.withdraw("d1");
    plant.broker.recheck();
    drop(client);
    until("refused", || async { plant.broker.metrics().publish_refused == 2 }).await;
    watch.quiet().await;
}
