//! A leaf's messages, from its TLS socket to the cloud.

use fieldgate_testkit::{Ack, Leaf, Load, Observed, Options, Version, history};
use rumqttc::PublishProperties;

use crate::stage::{Stage, Told, now_millis};

/// The gateway's own properties are right.
fn check_marks(message: &Observed, fingerprint: &str, sent: (u64, u64)) {
    let at = message.number("fg-ts").unwrap();
    assert!((sent.0..=sent.1).contains(&at), "fg-ts {at} in {sent:?}");
    assert!(message.number("fg-seq").is_some(), "{message:?}");
    assert_eq!(message.number("fg-boot"), Some(1), "the first boot");
    assert_eq!(message.user("fg-id"), Some(fingerprint));
    assert_eq!(message.user("fg-hist"), None, "nothing was replayed");
    assert!(!message.retain);
}

#[tokio::test]
async fn a_message_arrives_untouched_with_who_and_when() -> Told {
    let stage = Stage::start("line-1", "").await?;
    let payload = b"\x00\xff not text \xfe\n".to_vec();
    for (id, version) in [("press-1", Version::V5), ("press-2", Version::V311)] {
        let bundle = stage.gateway.add_device(id).await?;
        let leaf = Leaf::connect(&bundle, stage.gateway.broker(), Options::new(version)).await?;
        let local = format!("devices/{id}/telemetry/raw/deep");
        let before = now_millis();
        assert_eq!(leaf.publish(&local, payload.clone()).await?, Ack::Accepted);
        let message = stage.cloud.wait_for(&stage.topic(&local), |_| true).await?;
        assert_eq!(&message.payload[..], &payload[..]);
        check_marks(&message, &bundle.fingerprint()?, (before, now_millis()));
    }
    Ok(())
}

#[tokio::test]
async fn properties_of_a_device_travel() -> Told {
    let stage = Stage::start("line-1", "").await?;
    let bundle = stage.gateway.add_device("press-1").await?;
    let leaf = Leaf::connect(&bundle, stage.gateway.broker(), Options::new(Version::V5)).await?;
    let local = "devices/press-1/telemetry/csv";
    let properties = PublishProperties {
        content_type: Some("text/csv".to_owned()),
        payload_format_indicator: Some(1),
        message_expiry_interval: Some(120),
        user_properties: vec![("shift".to_owned(), "2".to_owned()), ("shift".to_owned(), "3".to_owned())],
        ..PublishProperties::default()
    };
    assert_eq!(leaf.publish_with(local, "a;b", properties).await?, Ack::Accepted);
    let message = stage.cloud.wait_for(&stage.topic(local), |_| true).await?;
    let travelled = &message.properties;
    assert_eq!(travelled.content_type.as_deref(), Some("text/csv"));
    assert_eq!(travelled.payload_format_indicator, Some(1));
    assert!(travelled.message_expiry_interval.is_some_and(|left| (1..=120).contains(&left)), "{travelled:?}");
    let own: Vec<&str> =
        travelled.user_properties.iter().filter(|(key, _)| key == "shift").map(|(_, value)| value.as_str()).collect();
    assert_eq!(own, ["2", "3"]);
    Ok(())
}

#[tokio::test]
async fn the_retain_flag_of_a_device_does_not_travel() -> Told {
    let stage = Stage::start("line-1", "").await?;
    let bundle = stage.gateway.add_device("press-1").await?;
    let leaf = Leaf::connect(&bundle, stage.gateway.broker(), Options::new(Version::V5)).await?;
    let local = "devices/press-1/telemetry/last";
    assert_eq!(leaf.publish_retained(local, "1").await?, Ack::Accepted);
    stage.cloud.wait_for(&stage.topic(local), |_| true).await?;
    stage.cloud.wait_for(&stage.topic("devices/press-1/state"), |_| true).await?;
    let retained: Vec<String> = stage.cloud.all_retained().await?.into_iter().map(|message| message.topic).collect();
    assert!(retained.contains(&stage.topic("state")), "{retained:?}");
    assert!(!retained.contains(&stage.topic(local)), "{retained:?}");
    // Locally it is: a newcomer gets it.
    assert_eq!(leaf.subscribe(local).await?, 1);
    fieldgate_testkit::wait_until("the retained message", fieldgate_testkit::PATIENCE, || {
        leaf.received().iter().find(|message| message.retain && &message.payload[..] == b"1").cloned()
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn messages_of_each_device_arrive_in_order() -> Told {
    let stage = Stage::start("line-1", "").await?;
    let mut loads = Vec::new();
    for (id, version) in [("press-1", Version::V5), ("press-2", Version::V311)] {
        let bundle = stage.gateway.add_device(id).await?;
        loads.push((id, Load::start(&bundle, stage.gateway.broker(), Options::new(version), 500)));
    }
    let enough = || loads.iter().all(|(_, load)| load.count() >= 400).then_some(());
    fieldgate_testkit::wait_until("400 messages of each", fieldgate_testkit::PATIENCE, enough).await?;
    for (id, load) in loads {
        let acknowledged = load.stop().await?.acknowledged;
        let topic = stage.topic(&format!("devices/{id}/telemetry/load"));
        let last = *acknowledged.last().unwrap();
        stage.cloud.wait_for(&topic, |m| m.arrival().is_some_and(|a| a.n == last)).await?;
        let findings = history::check(&acknowledged, &stage.cloud.arrivals(&topic));
        assert!(findings.is_clean(), "{id}: {findings:?}");
        assert_eq!((findings.gateway_resends, findings.device_resends), (0, 0), "{id}: {findings:?}");
    }
    Ok(())
}
