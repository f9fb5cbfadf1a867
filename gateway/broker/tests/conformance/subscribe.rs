//! SUBSCRIBE and UNSUBSCRIBE and their answers.

use fieldgate_broker::Limits;

use crate::LEVELS;
use crate::support::packets::{self, Connect, packet, text};
use crate::support::{Plant, until};

/// The codes of a SUBACK or UNSUBACK of MQTT 5 behind id and empty properties; of a SUBACK of 3.1.1 behind the id.
fn codes(level: u8, body: &[u8]) -> &[u8] {
    if level == 5 {
        assert_eq!(body[2], 0);
        &body[3..]
    } else {
        &body[2..]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_8_4_1_and_3_8_4_2_and_3_8_4_4_and_3_8_4_5_and_3_9_3_1_and_3_9_3_2_and_2_3_1_7_subscribe_is_answered() {
    subscribe_is_answered(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_8_4_1_and_3_8_4_2_and_3_8_4_5_and_3_8_4_6_and_3_8_4_7_and_3_9_3_1_and_3_9_3_2_and_2_2_1_6_answers() {
    subscribe_is_answered(5).await;
}

async fn subscribe_is_answered(level: u8) {
    let plant = Plant::new().await;
    let mut client = plant.socket("d1").await;
    client.connect(Connect::of(level, "d1")).await;
    let list = client.list();
    let filters = [
        ("devices/d1/a", 0),
        ("devices/d2/a", 1),
        ("devices/d1/b/#", 1),
        ("devices/d1/#/b", 2),
        ("devices/d1/+", 2),
        ("#", 0),
    ];
    client.send(&packets::subscribe(0xABCD, list, &filters)).await;
    let suback = client.read().await.unwrap();
    assert_eq!((suback.first, &suback.body[..2]), (0x90, &[0xAB, 0xCD][..]));
    let wanted = if level == 5 { [0, 0x87, 1, 0x8F, 2, 0x87] } else { [0, 0x80, 1, 0x80, 2, 0x80] };
    assert_eq!(codes(level, &suback.body), wanted);
    assert_eq!(plant.broker.metrics().subscriptions, 3, "each filter counts by itself");
    // The same for UNSUBSCRIBE, which is answered whether there was anything or not.
    let filters = ["devices/d1/a", "devices/d1/A", "devices/d1/b", "devices/d1/b/#", "a/#/b"];
    client.send(&packets::unsubscribe(0x1234, list, &filters)).await;
    let unsuback = client.read().await.unwrap();
    assert_eq!((unsuback.first, &unsuback.body[..2]), (0xB0, &[0x12, 0x34][..]));
    if level == 5 {
        assert_eq!(codes(level, &unsuback.body), [0, 0x11, 0x11, 0, 0x8F]);
    } else {
        assert_eq!(unsuback.body.len(), 2);
    }
    assert_eq!(plant.broker.metrics().subscriptions, 1);
    client.quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_10_4_1_and_3_10_4_4_and_3_10_4_5_and_3_10_4_6_unsubscribe_takes_the_very_filter() {
    unsubscribe_takes_the_very_filter(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_10_4_1_and_3_10_4_4_and_3_10_4_5_and_3_10_4_6_and_3_11_3_1_and_3_11_3_2_unsubscribe() {
    unsubscribe_takes_the_very_filter(5).await;
}

async fn unsubscribe_takes_the_very_filter(level: u8) {
    let plant = Plant::open().await;
    let mut client = plant.app(level, "1").await;
    let mut publisher = plant.app(level, "2").await;
    let list = client.list();
    for filter in ["a/b", "c/+"] {
        client.subscribe(filter, 1).await;
    }
    for filter in ["a/+", "a/#", "a/B", "/a/b", "a/b/", "c/d", "c/#", "#"] {
        client.send(&packets::unsubscribe(7, list, &[filter])).await;
        let unsuback = client.read().await.unwrap();
        let wanted: &[u8] = if level == 5 { &[0, 7, 0, 0x11] } else { &[0, 7] };
        assert_eq!((unsuback.first, &unsuback.body[..]), (0xB0, wanted), "{filter}");
    }
    publisher.deliver(0, "a/b", &[], "still").await;
    publisher.deliver(0, "c/d", &[], "still").await;
    client.receive().await;
    client.receive().await;
    client.send(&packets::unsubscribe(8, list, &["x", "c/+", "a/b"])).await;
    let unsuback = client.read().await.unwrap();
    let wanted: &[u8] = if level == 5 { &[0, 8, 0, 0x11, 0, 0] } else { &[0, 8] };
    assert_eq!(unsuback.body, wanted);
    publisher.deliver(0, "a/b", &[], "no more").await;
    publisher.deliver(0, "c/d", &[], "no more").await;
    client.quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_10_4_2_and_3_10_4_3_and_v5_3_10_4_2_and_3_10_4_3_unsubscribe_ends_what_is_new_alone() {
    let plant = Plant::open().await;
    for level in LEVELS {
        let connect = Connect::of(level, "app/1").persistent();
        let (mut client, _) = plant.app_with(connect.clone()).await;
        client.subscribe("a", 2).await;
        let mut publisher = plant.app(level, "2").await;
        publisher.deliver(2, "a", &[], "one").await;
        publisher.deliver(4, "a", &[], "two").await;
        let one = client.receive_only().await;
        let two = client.receive_only().await;
        client.send(&packets::unsubscribe(7, client.list(), &["a"])).await;
        assert_eq!(client.read().await.unwrap().first, 0xB0);
        publisher.deliver(2, "a", &[], "new").await;
        client.quiet().await;
        // What was begun is finished, even on the next connection.
        client.send(&packets::ack(0x50, two.id)).await;
        assert_eq!(client.acked(0x62).await, (two.id, 0));
        drop(client);
        let (mut client, present) = plant.app_with(connect).await;
        assert!(present);
        let again = client.receive_only().await;
        assert_eq!((again.dup, again.id, again.text()), (true, one.id, "one"));
        assert_eq!(client.acked(0x62).await, (two.id, 0));
        client.send(&packets::ack(0x40, one.id)).await;
        client.send(&packets::ack(0x70, two.id)).await;
        client.quiet().await;
        drop(client);
        drop(plant.app(level, "1").await);
        until("gone", || async { plant.broker.metrics().sessions == 1 }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_8_4_3_and_v5_3_8_4_3_and_3_8_4_4_the_same_filter_again_replaces_and_loses_nothing() {
    let plant = Plant::open_with(Limits { message_rate: 0, ..Limits::default() }).await;
    for level in LEVELS {
        let mut client = plant.app(level, "1").await;
        let mut publisher = plant.app(level, "2").await;
        publisher.deliver(3, "a/kept", &[], "kept").await;
        client.subscribe("a/#", 0).await;
        assert_eq!(client.receive().await.text(), "kept");
        for qos in [1, 2, 0, 2] {
            assert_eq!(client.subscribe("a/#", qos).await, qos);
            let got = client.receive().await;
            assert_eq!((got.text(), got.retain, got.qos), ("kept", true, qos.min(1)));
            publisher.deliver(2, "a/b", &[], "once").await;
            let got = client.receive().await;
            assert_eq!((got.text(), got.retain, got.qos), ("once", false, qos.min(1)));
            client.quiet().await;
        }
        publisher.deliver(3, "a/kept", &[], "").await;
        client.receive().await;
        // While messages come, the subscription is replaced again and again.
        let (mut reader, mut writer) = (client, publisher);
        let publish = async {
            for number in 0..200 {
                writer.deliver(2, "a/b", &[], &format!("{number}")).await;
            }
        };
        let receive = async {
            let mut next = 0;
            let mut id = 100;
            while next < 200 {
                if next % 10 == 0 {
                    id += 1;
                    reader.send(&packets::subscribe(id, reader.list(), &[("a/#", 1)])).await;
                }
                let packet = reader.read().await.unwrap();
                if packet.first == 0x90 {
                    continue;
                }
                assert_eq!(packet.first, 0x32);
                let text = String::from_utf8(packet.body[if level == 5 { 8 } else { 7 }..].to_vec()).unwrap();
                assert_eq!(text, format!("{next}"));
                reader.send(&packets::ack(0x40, u16::from_be_bytes([packet.body[5], packet.body[6]]))).await;
                next += 1;
            }
        };
        tokio::join!(publish, receive);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_8_4_6_and_3_3_5_1_and_v5_3_8_4_8_and_3_3_4_2_the_lower_qos_of_publish_and_grant_counts() {
    let plant = Plant::open().await;
    for level in LEVELS {
        let mut publisher = plant.app(level, "2").await;
        for granted in 0..=2 {
            let mut client = plant.app(level, "1").await;
            assert_eq!(client.subscribe("a", granted).await, granted);
            for published in 0..=2 {
                publisher.deliver(published << 1, "a", &[], "x").await;
                let got = client.receive().await;
                assert_eq!(got.qos, granted.min(published));
                if got.qos == 2 {
                    client.complete(got.id).await;
                }
            }
            client.quiet().await;
        }
        // Overlapping: the highest of the grants, whichever way round, and one copy.
        for filters in [[("b/#", 0), ("b/c", 2), ("b/+", 1)], [("b/#", 2), ("b/c", 1), ("+/c", 0)]] {
            let mut client = plant.app(level, "1").await;
            for (filter, qos) in filters {
                client.subscribe(filter, qos).await;
            }
            for published in 0..=2 {
                publisher.deliver(published << 1, "b/c", &[], "x").await;
                let got = client.receive().await;
                assert_eq!(got.qos, published);
                if got.qos == 2 {
                    client.complete(got.id).await;
                }
                client.quiet().await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_8_3_1_and_3_8_3_3_and_3_8_3_4_and_3_10_3_1_and_3_10_3_2_malformed_requests_end_the_connection() {
    malformed_requests_end_the_connection(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_8_3_1_and_3_8_3_2_and_3_8_3_4_and_3_8_3_5_and_3_10_3_1_and_3_10_3_2_malformed_requests() {
    malformed_requests_end_the_connection(5).await;
}

async fn malformed_requests_end_the_connection(level: u8) {
    let plant = Plant::open().await;
    let list: &[u8] = if level == 5 { &[0] } else { &[] };
    let head = [&[0, 1][..], list].concat();
    let filter = |options: u8| packet(0x82, &[&head[..], &text("a"), &[options]].concat());
    let mut cases = vec![
        ("no filter", packet(0x82, &head)),
        ("no filter to remove", packet(0xA2, &head)),
        ("no options", packet(0x82, &[&head[..], &text("a")].concat())),
        ("no options with the second", packet(0x82, &[&head[..], &text("a"), &[0], &text("b")].concat())),
        ("QoS 3", filter(3)),
        ("reserved bit 6", filter(0x40)),
        ("reserved bit 7", filter(0x80)),
        ("not UTF-8", packet(0x82, &[&head[..], &packets::bytes(b"\xFF"), &[0]].concat())),
        ("not UTF-8", packet(0xA2, &[&head[..], &packets::bytes(b"\xFF")].concat())),
    ];
    if level == 4 {
        cases.extend((2..8).map(|bit| ("reserved bit", filter(1 << bit))));
    } else {
        cases.push(("retain handling 3", filter(0x30)));
        cases.push(("no local and shared", packet(0x82, &[&head[..], &text("$share/g/a"), &[4]].concat())));
    }
    for (what, bytes) in cases {
        let mut client = plant.app(level, "1").await;
        client.send(&bytes).await;
        let code = client.disconnected().await;
        assert!(if level == 5 { matches!(code, Some(0x81 | 0x82)) } else { code.is_none() }, "{what}: {code:?}");
    }
    assert_eq!(plant.broker.metrics().subscriptions, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_1_2_29_and_3_4_2_2_and_3_4_2_3_and_3_5_2_2_and_3_5_2_3_acknowledgements_of_publishes_are_bare() {
    acknowledgements_are_bare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_6_2_2_and_3_6_2_3_and_3_7_2_2_and_3_7_2_3_and_3_9_2_1_and_3_9_2_2_and_3_11_2_1_and_3_11_2_2_bare() {
    acknowledgements_are_bare().await;
}

/// Reason strings and user properties are in CONNACK and DISCONNECT alone, whether problem information is asked for
/// or not, and whatever the client's Maximum Packet Size.
async fn acknowledgements_are_bare() {
    let plant = Plant::new().await;
    for list in [&[][..], &[0x17, 0], &[0x17, 1], &[0x27, 0, 0, 0, 40]] {
        let mut client = plant.socket("d1").await;
        client.connect(Connect::v5("d1").property(list)).await;
        client.publish(2, "elsewhere", 1, "x").await;
        assert_eq!(client.read().await.unwrap().body, [0, 1, 0x87]);
        client.publish(4, "elsewhere", 2, "x").await;
        assert_eq!(client.read().await.unwrap().body, [0, 2, 0x87]);
        client.send(&packets::ack(0x62, 3)).await;
        assert_eq!(client.read().await.unwrap().body, [0, 3, 0x92]);
        client.send(&packets::ack(0x50, 4)).await;
        assert_eq!(client.read().await.unwrap().body, [0, 4, 0x92]);
        client.send(&packets::subscribe(5, Some(&[]), &[("elsewhere", 0)])).await;
        assert_eq!(client.read().await.unwrap().body, [0, 5, 0, 0x87]);
        client.send(&packets::unsubscribe(6, Some(&[]), &["elsewhere"])).await;
        assert_eq!(client.read().await.unwrap().body, [0, 6, 0, 0x11]);
        client.publish(2, "devices/d1/telemetry/t", 7, "x").await;
        assert_eq!(client.read().await.unwrap().body, [0, 7]);
        // The DISCONNECT may say more, and does where it is asked for.
        client.send(&[0xF0, 0]).await;
        let goodbye = client.read().await.unwrap();
        assert_eq!(goodbye.body[0], 0x82);
        assert_eq!(goodbye.body.len() == 1, list == [0x17, 0]);
    }
}
