//! Retained messages.

use crate::LEVELS;
use crate::support::Plant;

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_3_1_5_and_3_3_1_6_and_3_3_1_7_and_3_3_1_8_and_3_3_1_9_the_last_one_is_kept() {
    the_last_one_is_kept(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_3_1_5_the_last_one_is_kept() {
    the_last_one_is_kept(5).await;
}

async fn the_last_one_is_kept(level: u8) {
    let plant = Plant::open().await;
    let mut early = plant.app(level, "early").await;
    early.subscribe("a/#", 2).await;
    let mut publisher = plant.app(level, "publisher").await;
    for (flags, payload) in [(3, "one"), (5, "two"), (1, "zero"), (5, "last")] {
        publisher.deliver(flags, "a/b", &[], payload).await;
        // Who subscribed before gets it without the flag.
        let got = early.receive().await;
        assert_eq!((got.text(), got.retain), (payload, false));
        if got.qos == 2 {
            early.complete(got.id).await;
        }
        // Who subscribes now gets it with the flag and its QoS, as far as granted.
        for granted in 0..=2 {
            let mut late = plant.app(level, "late").await;
            late.subscribe("+/b", granted).await;
            let got = late.receive().await;
            assert_eq!((got.text(), got.retain, got.dup), (payload, true, false));
            assert_eq!(got.qos, granted.min(flags >> 1 & 3));
            if got.qos == 2 {
                late.complete(got.id).await;
            }
            late.quiet().await;
            // Now it is one who subscribed before.
            publisher.deliver(0, "a/b", &[], "live").await;
            assert!(!late.receive().await.retain);
            early.receive().await;
        }
    }
    publisher.deliver(1, "a/c", &[], "c").await;
    publisher.deliver(1, "x/y", &[], "y").await;
    let mut late = plant.app(level, "late").await;
    late.subscribe("a/#", 0).await;
    let mut topics = vec![late.receive().await.topic, late.receive().await.topic];
    topics.sort();
    assert_eq!(topics, ["a/b", "a/c"]);
    late.quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_3_1_10_and_3_3_1_11_and_3_3_1_12_and_v5_3_3_1_6_and_3_3_1_7_and_3_3_1_8_an_empty_one_clears() {
    let plant = Plant::open().await;
    for level in LEVELS {
        let mut publisher = plant.app(level, "publisher").await;
        for flags in [1, 3, 5] {
            publisher.deliver(3, "a", &[], "kept").await;
            // Without the flag nothing is kept and nothing cleared, empty or not.
            publisher.deliver(2, "a", &[], "not kept").await;
            publisher.deliver(2, "a", &[], "").await;
            let mut client = plant.app(level, "1").await;
            client.subscribe("a", 0).await;
            assert_eq!(client.receive().await.text(), "kept");
            // An empty one is delivered like others, and clears.
            publisher.deliver(flags, "a", &[], "").await;
            let got = client.receive().await;
            assert_eq!((got.text(), got.retain), ("", false));
            client.subscribe("a", 0).await;
            client.quiet().await;
            publisher.deliver(flags, "a", &[], "").await;
            client.receive().await;
            assert_eq!(plant.broker.metrics().retained_messages, 0);
        }
    }
}
