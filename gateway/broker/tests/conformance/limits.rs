//! Receive Maximum and Maximum Packet Size, both ways.

use fieldgate_broker::Limits;

use crate::support::packets::{self, Connect, ack, four, read_properties, two};
use crate::support::{Plant, until};

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_3_4_9_and_3_3_4_10_and_4_9_0_1_and_4_9_0_2_and_4_9_0_3_the_clients_receive_maximum_is_kept() {
    let plant = Plant::open().await;
    for maximum in [1, 2, 10] {
        for qos in [1, 2] {
            let connect = Connect::v5("app/1").property(&two(0x21, maximum));
            let mut client = plant.app_with(connect).await.0;
            client.subscribe("a", qos).await;
            client.subscribe("zero", 0).await;
            let mut publisher = plant.app(5, "2").await;
            for number in 0..20 {
                publisher.deliver(4, "a", &[], &format!("{number}")).await;
            }
            let mut open = std::collections::VecDeque::new();
            for number in 0..maximum {
                let got = client.receive_only().await;
                assert_eq!((got.qos, got.text()), (qos, format!("{number}").as_str()));
                open.push_back(got.id);
            }
            // Nothing more above QoS 0, but everything else.
            client.quiet().await;
            assert_eq!(client.subscribe("b", 0).await, 0);
            client.publish(2, "c", 9, "x").await;
            assert_eq!(client.acked(0x40).await, (9, 0));
            // Each that is finished lets one more out; a PUBREC alone none.
            for number in maximum..20 {
                let id = open.pop_front().unwrap();
                if qos == 1 {
                    client.send(&ack(0x40, id)).await;
                } else if number % 2 == 0 {
                    client.send(&packets::ack_code(0x50, id, 0x83)).await;
                } else {
                    client.send(&ack(0x50, id)).await;
                    assert_eq!(client.acked(0x62).await, (id, 0));
                    client.quiet().await;
                    client.send(&ack(0x70, id)).await;
                }
                let got = client.receive_only().await;
                assert_eq!(got.text(), format!("{number}"));
                open.push_back(got.id);
            }
            client.quiet().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_3_4_7_and_4_13_1_1_more_than_the_servers_receive_maximum_ends_the_connection() {
    let plant = Plant::open_with(Limits { receive_maximum: 5, ..Limits::default() }).await;
    let mut client = plant.socket("app").await;
    let connack = client.connect(Connect::v5("app/1")).await;
    assert!(read_properties(&connack[3..]).contains(&(0x21, vec![0, 5])));
    // QoS 2 counts until its PUBCOMP.
    for id in 1..=5 {
        client.publish(4, "a", id, "x").await;
        assert_eq!(client.acked(0x50).await, (id, 0));
    }
    // QoS 0 and copies do not count.
    client.publish(0, "a", 0, "x").await;
    client.publish(0b1100, "a", 3, "x").await;
    assert_eq!(client.acked(0x50).await, (3, 0));
    client.send(&ack(0x62, 3)).await;
    assert_eq!(client.acked(0x70).await, (3, 0));
    client.publish(2, "a", 6, "x").await;
    assert_eq!(client.acked(0x40).await, (6, 0));
    client.publish(4, "a", 7, "x").await;
    assert_eq!(client.acked(0x50).await, (7, 0));
    client.publish(2, "a", 8, "x").await;
    assert_eq!(client.disconnected().await, Some(0x93));
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_1_2_24_and_3_1_2_25_what_is_too_large_for_the_client_is_passed_over() {
    let plant = Plant::open().await;
    let connect = Connect::v5("app/1").persistent().property(&four(0x27, 60)).property(&two(0x21, 2));
    let (mut client, _) = plant.app_with(connect.clone()).await;
    client.subscribe("a", 2).await;
    let mut publisher = plant.app(5, "2").await;
    let (fits, large) = ("x".repeat(52), "x".repeat(53));
    for (flags, qos) in [(2, 1), (4, 2)] {
        for _ in 0..3 {
            publisher.deliver(flags, "a", &[], &large).await;
        }
        publisher.deliver(flags, "a", &[], &fits).await;
        let packet = client.read().await.unwrap();
        assert_eq!((packet.first >> 1 & 3, packet.body.len() + 2), (qos, 60));
        let id = u16::from_be_bytes([packet.body[3], packet.body[4]]);
        if qos == 2 {
            client.complete(id).await;
        } else {
            client.send(&ack(0x40, id)).await;
        }
        // Those passed over took no place in its Receive Maximum.
        for _ in 0..2 {
            publisher.deliver(flags, "a", &[], "small").await;
            client.receive_only().await;
        }
        publisher.deliver(flags, "a", &[], "waits").await;
        client.quiet().await;
        drop(client);
        until("gone", || async { plant.broker.metrics().connections == 1 }).await;
        client = plant.app_with(connect.clone()).await.0;
        let open = [client.receive_only().await.id, client.receive_only().await.id];
        client.quiet().await;
        for id in open {
            client.send(&ack(if qos == 2 { 0x50 } else { 0x40 }, id)).await;
        }
        if qos == 2 {
            for id in open {
                assert_eq!(client.acked(0x62).await, (id, 0));
            }
            for id in open {
                client.send(&ack(0x70, id)).await;
            }
        }
        let last = client.receive_only().await;
        if qos == 2 {
            client.complete(last.id).await;
        } else {
            client.send(&ack(0x40, last.id)).await;
        }
        client.quiet().await;
    }
    assert_eq!(plant.broker.metrics().dropped_too_large, 6);
    // A retained one, and one that became too large for the next connection.
    publisher.deliver(3, "kept", &[], &large).await;
    client.subscribe("kept", 1).await;
    client.quiet().await;
    drop(client);
    let wide = Connect::v5("app/1").persistent();
    let (mut client, _) = plant.app_with(wide).await;
    publisher.deliver(2, "a", &[], &large).await;
    assert_eq!(client.receive_only().await.text(), large);
    drop(client);
    let (mut client, present) = plant.app_with(connect).await;
    assert!(present);
    client.quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_1_2_24_an_answer_that_does_not_fit_is_not_sent() {
    let plant = Plant::open().await;
    let mut client = plant.app_with(Connect::v5("app/1").property(&four(0x27, 40))).await.0;
    let filters: Vec<String> = (0..40).map(|number| format!("a/{number}")).collect();
    let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
    client.send(&packets::unsubscribe(1, Some(&[]), &filters[..35])).await;
    assert_eq!(client.read().await.unwrap().body.len() + 2, 40);
    client.send(&packets::unsubscribe(1, Some(&[]), &filters[..36])).await;
    let goodbye = client.read().await.unwrap();
    assert_eq!((goodbye.first, goodbye.body[0]), (0xE0, 0x95));
    assert!(goodbye.body.len() + 2 <= 40);
    assert_eq!(client.read().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_2_2_15_packets_beyond_the_servers_maximum_end_the_connection() {
    let plant = Plant::open_with(Limits { packet: 1_000, ..Limits::default() }).await;
    let mut client = plant.socket("app").await;
    let connack = client.connect(Connect::v5("app/1")).await;
    assert!(read_properties(&connack[3..]).contains(&(0x27, 1_000_u32.to_be_bytes().to_vec())));
    let largest = packets::publish(2, "a", 1, Some(&[]), &[b'x'; 991]);
    assert_eq!(largest.len(), 1_000);
    client.send(&largest).await;
    assert_eq!(client.acked(0x40).await, (1, 0));
    client.send(&packets::publish(2, "a", 1, Some(&[]), &[b'x'; 992])).await;
    assert_eq!(client.disconnected().await, Some(0x95));
}
