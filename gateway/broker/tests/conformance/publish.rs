//! PUBLISH: flags, names, answers, order.

use fieldgate_broker::{CommitError, Limits};

use crate::LEVELS;
use crate::support::packets::{self, Connect, packet};
use crate::support::{Plant, until};

const TOPIC: &str = "devices/d1/telemetry/t";

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_3_1_2_and_3_3_1_4_and_v5_3_3_1_2_and_3_3_1_4_qos_3_and_dup_on_qos_0_end_the_connection() {
    let plant = Plant::new().await;
    for level in LEVELS {
        let list = (level == 5).then_some(&[][..]);
        for flags in [0b0110, 0b0111, 0b1110, 0b1111, 0b1000, 0b1001] {
            let mut client = plant.socket("d1").await;
            client.connect(Connect::of(level, "d1")).await;
            client.send(&packets::publish(flags, TOPIC, 1, list, b"x")).await;
            assert_eq!(client.disconnected().await, (level == 5).then_some(0x81), "{flags:#b}");
        }
    }
    assert_eq!(plant.gate.committed(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_3_2_1_and_3_3_2_2_and_4_7_1_1_and_4_7_3_1_and_4_7_3_2_names_are_names() {
    names_are_names(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_3_2_1_and_3_3_2_2_and_4_7_0_1_and_4_7_3_1_and_4_7_3_2_names_are_names() {
    names_are_names(5).await;
}

async fn names_are_names(level: u8) {
    let plant = Plant::open().await;
    let list = (level == 5).then_some(&[][..]);
    for (name, code) in [
        ("", 0x82),
        ("+", 0x90),
        ("#", 0x90),
        ("a/+", 0x90),
        ("a/#", 0x90),
        ("a+", 0x90),
        ("a/b#c", 0x90),
        ("a\0b", 0x81),
        ("\0", 0x81),
    ] {
        for flags in [0, 2, 4] {
            let mut client = plant.app(level, "1").await;
            client.send(&packets::publish(flags, name, 1, list, b"x")).await;
            assert_eq!(client.disconnected().await, (level == 5).then_some(code), "{name:?}");
        }
    }
    // The name comes first: a packet with nothing in it, and with half a name.
    for body in [&[][..], &[0], &[0, 5, b'a']] {
        let mut client = plant.app(level, "1").await;
        client.send(&packet(0x30, body)).await;
        assert_eq!(client.disconnected().await, (level == 5).then_some(0x81));
    }
    assert_eq!(plant.gate.committed(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_4_7_3_3_and_v5_4_7_3_3_the_longest_name_and_filter_have_65535_bytes() {
    let limits = Limits { topic: 65_535, topic_levels: 65_535, ..Limits::default() };
    let plant = Plant::open_with(limits).await;
    let longest = "x".repeat(65_535);
    for level in LEVELS {
        let mut client = plant.app(level, "1").await;
        assert_eq!(client.subscribe(&longest, 1).await, 1);
        let mut publisher = plant.app(level, "2").await;
        publisher.deliver(2, &longest, &[], "payload").await;
        let got = client.receive().await;
        assert_eq!((got.topic.len(), got.text()), (65_535, "payload"));
    }
    // A limit of ours that is lower is told, and does no harm.
    let plant = Plant::open_with(Limits { topic: 100, ..Limits::default() }).await;
    let mut client = plant.app(5, "1").await;
    assert_eq!(client.subscribe(&"x".repeat(101), 0).await, 0x8F);
    client.publish(2, &"x".repeat(101), 1, "x").await;
    assert_eq!(client.acked(0x40).await, (1, 0x90));
    client.publish(4, &"x".repeat(101), 2, "x").await;
    assert_eq!(client.acked(0x50).await, (2, 0x90));
    client.quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_1_5_3_3_and_4_7_3_4_and_v5_1_5_4_3_and_4_7_3_4_names_are_compared_as_they_are() {
    let plant = Plant::open().await;
    for level in LEVELS {
        let mut client = plant.app(level, "1").await;
        let names = [
            "accounts",
            "Accounts",
            "accounts/",
            "/accounts",
            "//",
            "a b",
            " a b",
            "\u{FEFF}accounts",
            "e\u{301}",
            "\u{E9}",
            "\u{1F980}/\u{4E2D}",
            "$sys/x",
        ];
        for name in names {
            assert_eq!(client.subscribe(name, 0).await, 0);
        }
        let mut publisher = plant.app(level, "2").await;
        for name in names {
            publisher.deliver(0, name, &[], name).await;
            let got = client.receive().await;
            assert_eq!((got.topic.as_str(), got.text()), (name, name));
        }
        client.quiet().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_3_4_1_and_4_3_1_1_and_2_3_1_5_and_2_3_1_6_each_qos_has_its_answer() {
    each_qos_has_its_answer(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_3_4_1_and_4_3_1_1_and_2_2_1_2_and_2_2_1_5_each_qos_has_its_answer() {
    each_qos_has_its_answer(5).await;
}

async fn each_qos_has_its_answer(level: u8) {
    let plant = Plant::open().await;
    let mut client = plant.app(level, "1").await;
    client.subscribe("a", 2).await;
    let mut publisher = plant.app(level, "2").await;
    publisher.publish(0, "a", 0, "zero").await;
    publisher.quiet().await;
    let got = client.receive().await;
    assert_eq!((got.qos, got.dup, got.id, got.text()), (0, false, 0, "zero"));
    publisher.publish(2, "a", 0xFFFF, "one").await;
    assert_eq!(publisher.acked(0x40).await, (0xFFFF, 0));
    let got = client.receive().await;
    assert_eq!((got.qos, got.dup, got.text()), (1, false, "one"));
    assert_ne!(got.id, 0);
    publisher.publish(4, "a", 0x0102, "two").await;
    assert_eq!(publisher.acked(0x50).await, (0x0102, 0));
    publisher.send(&packets::ack(0x62, 0x0102)).await;
    assert_eq!(publisher.acked(0x70).await, (0x0102, 0));
    let got = client.receive().await;
    assert_eq!((got.qos, got.dup, got.text()), (2, false, "two"));
    client.complete(got.id).await;
    client.quiet().await;
    publisher.quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_3_1_3_and_v5_3_3_1_3_dup_of_the_publisher_is_not_passed_on() {
    let plant = Plant::open().await;
    for level in LEVELS {
        let mut client = plant.app(level, "1").await;
        client.subscribe("a", 2).await;
        let mut publisher = plant.app(level, "2").await;
        for flags in [0b1010, 0b1100] {
            publisher.deliver(flags, "a", &[], "x").await;
            let got = client.receive().await;
            assert!(!got.dup);
            if got.qos == 2 {
                client.complete(got.id).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_3_2_3_and_v5_3_3_2_3_a_client_gets_what_it_subscribed_to_under_its_name() {
    let plant = Plant::open().await;
    for level in LEVELS {
        let mut client = plant.app(level, "1").await;
        client.subscribe("a/+/c", 0).await;
        client.subscribe("b/#", 0).await;
        let mut publisher = plant.app(level, "2").await;
        for (name, wanted) in
            [("a/b/c", true), ("a/c", false), ("b", true), ("b/c/d", true), ("c", false), ("a/b/c/d", false)]
        {
            publisher.deliver(0, name, &[], "x").await;
            if wanted {
                assert_eq!(client.receive().await.topic, name);
            } else {
                client.quiet().await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_3_5_2_a_publish_without_the_right_ends_the_connection() {
    let plant = Plant::new().await;
    for flags in [0, 2] {
        let mut client = plant.v311("d1").await;
        client.publish(flags, "elsewhere", 1, "x").await;
        assert_eq!(client.disconnected().await, None);
    }
    assert_eq!(plant.gate.committed(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_4_8_0_2_a_publish_that_can_not_be_kept_ends_the_connection() {
    let plant = Plant::new().await;
    plant.gate.fail(Some(CommitError::Failed("disk".to_owned())));
    let mut client = plant.v311("d1").await;
    client.publish(2, TOPIC, 1, "x").await;
    assert_eq!(client.disconnected().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_4_6_0_5_and_4_6_0_6_and_v5_4_6_0_5_and_4_6_0_6_messages_keep_the_order_of_their_publisher() {
    let plant = Plant::open_with(Limits { message_rate: 0, ..Limits::default() }).await;
    for level in LEVELS {
        for qos in 0..=2 {
            let mut client = plant.app(level, "1").await;
            client.subscribe("a", qos).await;
            let mut publisher = plant.app(level, "2").await;
            let list = (level == 5).then_some(&[][..]);
            let mut next = 0;
            for _ in 0..5 {
                let mut burst = Vec::new();
                for number in 0..30_u16 {
                    let payload = format!("{}", next + number);
                    burst.extend(packets::publish(2, "a", number + 1, list, payload.as_bytes()));
                }
                publisher.send(&burst).await;
                for number in 0..30_u16 {
                    let got = client.receive().await;
                    assert_eq!(got.text(), format!("{}", next + number));
                    assert_eq!(got.qos, qos.min(1));
                }
                for number in 0..30_u16 {
                    assert_eq!(publisher.acked(0x40).await, (number + 1, 0));
                }
                next += 30;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_4_6_0_2_and_4_6_0_3_acknowledgements_keep_the_order_of_the_publishes() {
    let plant = Plant::new().await;
    for level in LEVELS {
        plant.gate.hold();
        let mut client = plant.socket("d1").await;
        client.connect(Connect::of(level, "d1")).await;
        let list = (level == 5).then_some(&[][..]);
        for id in [9, 3, 7, 5] {
            client.send(&packets::publish(2, TOPIC, id, list, b"x")).await;
            client.send(&packets::publish(4, TOPIC, id + 10, list, b"x")).await;
        }
        until("commits", || async { plant.gate.held() == 8 }).await;
        while plant.gate.held() > 0 {
            plant.gate.let_through(Ok(()));
        }
        for id in [9, 3, 7, 5] {
            assert_eq!(client.acked(0x40).await, (id, 0));
            assert_eq!(client.acked(0x50).await, (id + 10, 0));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_is_not_what_it_claims_is_refused() {
    let plant = Plant::open().await;
    let mut client = plant.app(5, "1").await;
    client.subscribe("a", 2).await;
    for (flags, kind) in [(2, 0x40), (4, 0x50)] {
        client.send(&packets::publish(flags, "a", 1, Some(&[1, 1]), b"\xED\xA0\x80")).await;
        assert_eq!(client.acked(kind).await, (1, 0x99));
    }
    client.quiet().await;
    // Bytes that claim nothing may be anything; U+0000 is text.
    let mut publisher = plant.app(5, "2").await;
    publisher.send(&packets::publish(2, "a", 1, Some(&[1, 0]), b"\xFF")).await;
    assert_eq!(publisher.acked(0x40).await, (1, 0));
    assert_eq!(client.receive().await.payload, b"\xFF");
    publisher.send(&packets::publish(2, "a", 2, Some(&[1, 1]), b"\0")).await;
    assert_eq!(publisher.acked(0x40).await, (2, 0));
    assert_eq!(client.receive().await.payload, b"\0");
    // Nothing says so at QoS 0 but the end.
    publisher.send(&packets::publish(0, "a", 0, Some(&[1, 1]), b"\xFF")).await;
    assert!(publisher.disconnected().await.is_some());
    client.quiet().await;
}
