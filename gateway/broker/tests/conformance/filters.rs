//! Topic filters: wildcards, `$`, what is no filter.

use crate::LEVELS;
use crate::support::Plant;

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_8_3_2_and_4_7_1_2_and_4_7_1_3_and_4_7_3_1_wildcards_match_whole_levels() {
    wildcards_match_whole_levels(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_4_7_1_1_and_4_7_1_2_and_4_7_3_1_wildcards_match_whole_levels() {
    wildcards_match_whole_levels(5).await;
}

async fn wildcards_match_whole_levels(level: u8) {
    let plant = Plant::open().await;
    let refused = if level == 5 { 0x8F } else { 0x80 };
    let mut client = plant.app(level, "1").await;
    for filter in ["a#", "a/#/b", "#/a", "##", "a/b#", "a+", "+a", "a/+b/c", "a/b+", "++", "a/#+", ""] {
        assert_eq!(client.subscribe(filter, 0).await, refused, "{filter}");
    }
    assert_eq!(plant.broker.metrics().subscriptions, 0);
    let names = ["sport", "sport/", "sport/tennis", "sport/tennis/p1", "/finance", "finance", "a//b", "/", "//"];
    let mut publisher = plant.app(level, "2").await;
    for (filter, wanted) in [
        ("#", &names[..]),
        ("sport/#", &["sport", "sport/", "sport/tennis", "sport/tennis/p1"]),
        ("sport/tennis/#", &["sport/tennis", "sport/tennis/p1"]),
        ("sport/+", &["sport/", "sport/tennis"]),
        ("+", &["sport", "finance"]),
        ("+/+", &["sport/", "sport/tennis", "/finance", "/"]),
        ("/+", &["/finance", "/"]),
        ("+/tennis/#", &["sport/tennis", "sport/tennis/p1"]),
        ("+/+/+", &["sport/tennis/p1", "a//b", "//"]),
        ("a//b", &["a//b"]),
        ("a/+/b", &["a//b"]),
        ("/", &["/"]),
        ("/#", &["/finance", "/", "//"]),
        ("sport/tennis/+/#", &["sport/tennis/p1"]),
    ] {
        let mut client = plant.app(level, "1").await;
        assert_eq!(client.subscribe(filter, 0).await, 0, "{filter}");
        for name in names {
            publisher.deliver(0, name, &[], "x").await;
        }
        for name in wanted {
            assert_eq!(client.receive().await.topic, *name, "{filter}");
        }
        client.quiet().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_4_7_2_1_and_v5_4_7_2_1_leading_wildcards_do_not_match_dollar_names() {
    let plant = Plant::open().await;
    for level in LEVELS {
        let mut publisher = plant.app(level, "2").await;
        publisher.deliver(1, "$sys/kept", &[], "kept").await;
        let mut wild = plant.app(level, "wild").await;
        for filter in ["#", "+/x", "+/#", "+", "+/kept"] {
            assert_eq!(wild.subscribe(filter, 0).await, 0);
        }
        let mut exact = plant.app(level, "exact").await;
        assert_eq!(exact.subscribe("$sys/#", 0).await, 0);
        assert_eq!(exact.receive().await.text(), "kept");
        publisher.deliver(0, "$sys/x", &[], "live").await;
        assert_eq!(exact.receive().await.text(), "live");
        wild.quiet().await;
        // `$` further in is a letter like others.
        publisher.deliver(0, "a/$x", &[], "inside").await;
        assert_eq!(wild.receive().await.text(), "inside");
    }
}
