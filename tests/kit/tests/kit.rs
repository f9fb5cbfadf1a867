//! The kit on itself: cloud, observer and relay together, without a gateway.

use std::time::Duration;

use fieldgate_testkit::{Cloud, PATIENCE, Relay, Upstream, wait_until};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, PublishOptions, PublishProperties};

fn properties() -> PublishProperties {
    PublishProperties {
        user_properties: vec![("fg-seq".to_owned(), "7".to_owned()), ("fg-boot".to_owned(), "1".to_owned())],
        response_topic: Some("answers/1".to_owned()),
        ..PublishProperties::default()
    }
}

#[tokio::test]
async fn the_cloud_shows_what_arrives_with_its_properties() {
    let cloud = Cloud::start(Upstream::V5).await.unwrap();
    cloud.publish("a/b", r#"{"n":3}"#, properties()).await.unwrap();
    let seen = cloud.wait_for("a/b", |_| true).await.unwrap();
    assert_eq!((seen.number("fg-seq"), seen.user("none"), seen.retain), (Some(7), None, false));
    assert_eq!(seen.properties.response_topic.as_deref(), Some("answers/1"));
    let arrival = cloud.arrivals("a/b")[0];
    assert_eq!((arrival.n, arrival.boot, arrival.seq, arrival.historical), (3, 1, 7, false));
    assert!(cloud.wait_within("a/c", Duration::ZERO, |_| true).await.is_err());
}

#[tokio::test]
async fn a_cloud_with_a_login_lets_nobody_else_in() {
    let cloud = Cloud::with_login(Upstream::V5, Some(("line-4", "secret"))).await.unwrap();
    let mut options = MqttOptions::new("x", ("127.0.0.1", cloud.address().port()));
    options.set_credentials("line-4", "wrong");
    let (_client, mut events) = AsyncClient::builder(options).capacity(4).build();
    assert!(events.poll().await.is_err());
}

#[tokio::test]
async fn a_cut_line_is_noticed_and_a_retained_message_found() {
    let cloud = Cloud::start(Upstream::V311).await.unwrap();
    let relay = Relay::start(cloud.address()).await.unwrap();
    let mut options = rumqttc_v4::MqttOptions::new("x", ("127.0.0.1", relay.address().port()));
    options.set_last_will(rumqttc_v4::LastWill::new("x/state", "gone", rumqttc_v4::QoS::AtLeastOnce, true));
    let (client, mut events) = rumqttc_v4::AsyncClient::builder(options).capacity(4).build();
    assert!(matches!(events.poll().await, Ok(rumqttc_v4::Event::Incoming(rumqttc_v4::Packet::ConnAck(_)))));
    relay.cut();
    while events.poll().await.is_ok() {}
    drop(client);
    let will = cloud.wait_for("x/state", |_| true).await.unwrap();
    assert_eq!(&will.payload[..], b"gone");
    assert_eq!(&cloud.retained("x/state").await.unwrap().payload[..], b"gone");
}

#[tokio::test]
async fn a_stalled_line_delivers_once_it_is_mended() {
    let cloud = Cloud::start(Upstream::V5).await.unwrap();
    let relay = Relay::start(cloud.address()).await.unwrap();
    let options = MqttOptions::new("x", ("127.0.0.1", relay.address().port()));
    let (client, mut events) = AsyncClient::builder(options).capacity(4).build();
    assert!(matches!(events.poll().await, Ok(Event::Incoming(Packet::ConnAck(_)))));
    let polling = tokio::spawn(async move { while events.poll().await.is_ok() {} });
    relay.stall();
    let notice = client.publish_tracked("t", "1", PublishOptions::at_least_once()).await.unwrap();
    let mut notice = Box::pin(notice.wait_async());
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut notice).await.is_err());
    assert!(cloud.on("t").is_empty());
    relay.mend();
    tokio::time::timeout(PATIENCE, notice).await.unwrap().unwrap();
    wait_until("the message", PATIENCE, || (cloud.on("t").len() == 1).then_some(())).await.unwrap();
    polling.abort();
}
