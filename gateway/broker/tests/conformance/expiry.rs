//! Message expiry.

use std::time::Duration;

use crate::support::packets::{Connect, four};
use crate::support::{Plant, until};

fn seconds(value: Option<Vec<u8>>) -> Option<u32> {
    value.map(|value| u32::from_be_bytes(value.try_into().unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_3_2_5_and_3_3_2_6_waiting_counts_and_what_is_expired_is_not_delivered() {
    let plant = Plant::open().await;
    let connect = Connect::v5("app/1").persistent();
    let (mut client, _) = plant.app_with(connect.clone()).await;
    client.subscribe("a", 1).await;
    let mut publisher = plant.app(5, "2").await;
    // Live: nothing has been waited.
    publisher.deliver(2, "a", &four(2, 100), "live").await;
    assert_eq!(seconds(client.receive().await.property(2)), Some(100));
    publisher.deliver(2, "a", &[], "for ever").await;
    assert_eq!(client.receive().await.property(2), None);
    drop(client);
    until("gone", || async { plant.broker.metrics().connections == 1 }).await;
    publisher.deliver(2, "a", &four(2, 1), "too late").await;
    publisher.deliver(2, "a", &four(2, 100), "in time").await;
    publisher.deliver(3, "kept", &four(2, 1), "too late").await;
    publisher.deliver(3, "kept/2", &four(2, 100), "in time").await;
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    let (mut client, _) = plant.app_with(connect).await;
    let got = client.receive().await;
    assert_eq!(got.text(), "in time");
    let left = seconds(got.property(2)).unwrap();
    assert!((90..=98).contains(&left), "{left}");
    client.quiet().await;
    // The same with retained messages.
    client.subscribe("kept/#", 1).await;
    let got = client.receive().await;
    assert_eq!(got.text(), "in time");
    let left = seconds(got.property(2)).unwrap();
    assert!((90..=98).contains(&left), "{left}");
    client.quiet().await;
    assert_eq!(plant.broker.metrics().dropped_expired, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_3_2_5_a_message_that_is_expired_when_it_comes_is_not_delivered() {
    let plant = Plant::open().await;
    let mut client = plant.app(5, "1").await;
    client.subscribe("a", 1).await;
    let mut publisher = plant.app(5, "2").await;
    publisher.deliver(2, "a", &four(2, 0), "x").await;
    client.quiet().await;
}
