//! Properties that travel with a message.

use crate::support::packets::{self, Connect, four, string, user};
use crate::support::{Plant, until};

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_3_2_4_and_3_3_2_15_and_3_3_2_16_and_3_3_2_17_and_3_3_2_18_and_3_3_2_20_properties_travel_unaltered() {
    let plant = Plant::open().await;
    let mut live = plant.app(5, "1").await;
    live.subscribe("a", 0).await;
    let connect = Connect::v5("app/2").persistent();
    let (mut absent, _) = plant.app_with(connect.clone()).await;
    absent.subscribe("a", 1).await;
    drop(absent);
    until("gone", || async { plant.broker.metrics().connections == 1 }).await;
    let mut publisher = plant.app(5, "3").await;
    // Names may repeat, be empty, and come in any order, before and behind the others.
    let users = [("b", "2"), ("a", "1"), ("b", "1"), ("", ""), ("b", "2"), ("\u{1F980}", "\u{FEFF}"), ("a", "1")];
    let binary = [&[0x09][..], &packets::bytes(&[0, 0xFF, 1])].concat();
    let list = [
        user(users[0].0, users[0].1),
        vec![1, 1],
        user(users[1].0, users[1].1),
        string(8, "replies/to me"),
        binary,
        string(3, "text/plain; charset=utf-8"),
        users[2..].iter().flat_map(|(name, value)| user(name, value)).collect(),
    ]
    .concat();
    publisher.deliver(3, "a", &list, "payload").await;
    let (mut absent, _) = plant.app_with(connect).await;
    let mut late = plant.app(5, "4").await;
    late.subscribe("a", 0).await;
    for (client, what) in [(&mut live, "live"), (&mut absent, "stored"), (&mut late, "retained")] {
        let got = client.receive().await;
        assert_eq!(got.text(), "payload");
        assert_eq!(got.property(1), Some(vec![1]), "{what}");
        assert_eq!(got.property(8), Some(packets::text("replies/to me")), "{what}");
        assert_eq!(got.property(9), Some(packets::bytes(&[0, 0xFF, 1])), "{what}");
        assert_eq!(got.property(3), Some(packets::text("text/plain; charset=utf-8")), "{what}");
        let found: Vec<Vec<u8>> =
            got.list().into_iter().filter(|(id, _)| *id == 0x26).map(|(_, value)| value).collect();
        let wanted: Vec<Vec<u8>> = users.iter().map(|(name, value)| user(name, value)[1..].to_vec()).collect();
        assert_eq!(found, wanted, "{what}");
    }
    // A format of 0 travels as well, and nothing appears that was not there.
    publisher.deliver(0, "a", &[1, 0], "x").await;
    assert_eq!(live.receive().await.properties, [1, 0]);
    publisher.deliver(0, "a", &[], "x").await;
    assert!(live.receive().await.properties.is_empty());
    // Nor does any of it reach 3.1.1.
    let mut old = plant.app(4, "5").await;
    old.subscribe("a", 0).await;
    assert_eq!(old.receive().await.text(), "payload");
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_2_2_2_1_no_properties_are_a_length_of_0() {
    let plant = Plant::open().await;
    let mut client = plant.app(5, "1").await;
    client.subscribe("a", 0).await;
    let mut publisher = plant.app(4, "2").await;
    publisher.deliver(0, "a", &[], "x").await;
    let packet = client.read().await.unwrap();
    assert_eq!(packet.body, [0, 1, b'a', 0, b'x']);
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_3_2_14_a_response_topic_is_a_name() {
    let plant = Plant::open().await;
    for topic in ["#", "+", "a/#", "a/+/b", ""] {
        let mut client = plant.app(5, "1").await;
        client.send(&packets::publish(0, "a", 0, Some(&string(8, topic)), b"x")).await;
        let code = client.disconnected().await;
        assert!(matches!(code, Some(0x81 | 0x82)), "{topic}: {code:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_finds_its_response() {
    let plant = Plant::open().await;
    let mut asks = plant.app(5, "1").await;
    let mut answers = plant.app(5, "2").await;
    asks.subscribe("replies/1", 1).await;
    answers.subscribe("requests", 1).await;
    let list = [string(8, "replies/1"), [&[9][..], &packets::bytes(b"42")].concat()].concat();
    asks.deliver(2, "requests", &list, "how much?").await;
    let request = answers.receive().await;
    let topic = String::from_utf8(request.property(8).unwrap()[2..].to_vec()).unwrap();
    let data = [&[9][..], &request.property(9).unwrap()].concat();
    answers.deliver(2, &topic, &data, "this much").await;
    let response = asks.receive().await;
    assert_eq!((response.property(9), response.text()), (Some(packets::bytes(b"42")), "this much"));
}

#[tokio::test(flavor = "multi_thread")]
async fn large_lists_of_properties_are_carried() {
    let plant = Plant::open().await;
    let mut client = plant.app(5, "1").await;
    client.subscribe("a", 0).await;
    let mut publisher = plant.app(5, "2").await;
    for count in [10, 100, 1_000] {
        let list: Vec<u8> = (0..count).flat_map(|number| user(&format!("name {number}"), "value")).collect();
        let list = [list, four(2, 100)].concat();
        publisher.deliver(0, "a", &list, "x").await;
        let got = client.receive().await;
        assert_eq!(got.properties.len(), list.len());
        assert_eq!(got.text(), "x");
    }
}
