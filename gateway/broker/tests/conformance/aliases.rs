//! Topic aliases, both ways.

use crate::support::packets::{self, Connect, read_properties, two};
use crate::support::{Plant, until};

fn publish(topic: &str, alias: u16, payload: &str) -> Vec<u8> {
    packets::publish(2, topic, 1, Some(&two(0x23, alias)), payload.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_3_2_12_every_alias_up_to_the_maximum_is_taken() {
    let plant = Plant::open().await;
    let mut watch = plant.app(5, "watch").await;
    watch.subscribe("a/#", 0).await;
    let mut client = plant.socket("app").await;
    let connack = client.connect(Connect::v5("app/1")).await;
    let (_, maximum) = read_properties(&connack[3..]).into_iter().find(|(id, _)| *id == 0x22).unwrap();
    let maximum = u16::from_be_bytes([maximum[0], maximum[1]]);
    assert!(maximum > 0);
    for alias in 1..=maximum {
        client.send(&publish(&format!("a/{alias}"), alias, "set")).await;
        assert_eq!(client.acked(0x40).await, (1, 0));
        assert_eq!(watch.receive().await.topic, format!("a/{alias}"));
    }
    for alias in (1..=maximum).rev() {
        client.send(&publish("", alias, "used")).await;
        assert_eq!(client.acked(0x40).await, (1, 0));
        let got = watch.receive().await;
        assert_eq!((got.topic, got.properties), (format!("a/{alias}"), vec![]), "an alias is not passed on");
    }
    // Set anew, and a name without an alias beside it.
    client.send(&publish("a/new", 1, "set")).await;
    client.acked(0x40).await;
    client.send(&publish("", 1, "used")).await;
    client.acked(0x40).await;
    client.deliver(0, "a/1", &[], "by name").await;
    for topic in ["a/new", "a/new", "a/1"] {
        assert_eq!(watch.receive().await.topic, topic);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_3_2_8_and_3_3_2_9_aliases_out_of_range_end_the_connection() {
    let plant = Plant::open().await;
    for (topic, alias, code) in [("a", 0, 0x82), ("", 0, 0x82), ("a", 17, 0x94), ("a", 0xFFFF, 0x94), ("", 17, 0x94)] {
        let mut client = plant.app(5, "1").await;
        client.send(&publish(topic, alias, "x")).await;
        assert_eq!(client.disconnected().await, Some(code), "{topic} {alias}");
    }
    // One that was never set.
    let mut client = plant.app(5, "1").await;
    client.send(&publish("", 1, "x")).await;
    assert_eq!(client.disconnected().await, Some(0x82));
    assert_eq!(plant.gate.committed(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_3_2_7_aliases_end_with_the_connection() {
    let plant = Plant::open().await;
    let connect = Connect::v5("app/1").persistent().property(&two(0x22, 10));
    let (mut client, _) = plant.app_with(connect.clone()).await;
    client.send(&publish("a", 1, "x")).await;
    client.acked(0x40).await;
    client.subscribe("b", 1).await;
    let mut publisher = plant.app(5, "2").await;
    publisher.deliver(2, "b", &[], "1").await;
    assert_eq!(client.receive().await.topic, "b");
    publisher.deliver(2, "b", &[], "2").await;
    assert_eq!(client.receive_only().await.topic, "");
    drop(client);
    until("gone", || async { plant.broker.metrics().connections == 1 }).await;
    publisher.deliver(2, "b", &[], "3").await;
    // The session is the same; what is sent again and what is new spells its name anew.
    let (mut client, present) = plant.app_with(connect).await;
    assert!(present);
    let again = client.receive().await;
    assert_eq!((again.dup, again.topic.as_str(), again.text()), (true, "b", "2"));
    let new = client.receive().await;
    assert_eq!((new.dup, new.topic.as_str(), new.text()), (false, "b", "3"));
    client.send(&publish("", 1, "x")).await;
    assert_eq!(client.disconnected().await, Some(0x82));
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_1_2_26_and_3_1_2_27_and_3_3_2_11_the_server_keeps_to_the_clients_maximum() {
    let plant = Plant::open().await;
    let mut publisher = plant.app(5, "publisher").await;
    for (maximum, allowed) in [(None, 0), (Some(0), 0), (Some(1), 1), (Some(3), 3), (Some(0xFFFF), 0xFFFF)] {
        let list = maximum.map(|maximum| two(0x22, maximum)).unwrap_or_default();
        let mut client = plant.app_with(Connect::v5("app/1").property(&list)).await.0;
        client.subscribe("a/#", 1).await;
        let mut names = vec![None; 0x1_0000];
        for round in 0..3 {
            for number in 0..20 {
                let topic = format!("a/{number}");
                publisher.deliver(2, &topic, &[], &topic).await;
                let got = client.receive().await;
                let alias = got.property(0x23).map(|value| usize::from(u16::from_be_bytes([value[0], value[1]])));
                let name = match alias {
                    None => got.topic.clone(),
                    Some(alias) => {
                        assert!(alias > 0 && alias <= allowed, "{alias} of {allowed}");
                        if !got.topic.is_empty() {
                            names[alias] = Some(got.topic.clone());
                        }
                        names[alias].clone().expect("an alias that was set")
                    }
                };
                assert_eq!((name.as_str(), got.text()), (topic.as_str(), topic.as_str()));
                if allowed >= 16 && round > 0 && number < 10 {
                    assert_eq!(got.topic, "", "the first topics are known by number");
                }
            }
        }
    }
}
