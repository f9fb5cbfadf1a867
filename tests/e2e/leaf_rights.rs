//! What a leaf may not: wrong topics, wrong names, certificates of strangers. Every refusal explains itself.

use fieldgate_testkit::{Ack, ConnectError, Gateway, Leaf, Options, PATIENCE, Version, eventually};

use crate::stage::{BINARY, Told};

/// Waits for an audit line that contains all of `words`.
pub async fn wait_audit(gateway: &Gateway, words: &[&str]) -> Told {
    eventually(&format!("an audit line with {words:?}"), PATIENCE, async || {
        let lines = gateway.verb(&["audit"]).await?.ok()?;
        Ok(lines.lines().any(|line| words.iter().all(|word| line.contains(word))).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_foreign_topic_is_refused_and_said() -> Told {
    let gateway = Gateway::start_new(BINARY, "line-1", "").await?;
    let bundle = gateway.add_device("press-1").await?;
    let leaf = Leaf::connect(&bundle, gateway.broker(), Options::new(Version::V5)).await?;
    for topic in ["devices/press-2/telemetry/t", "devices/press-1/state", "plant/x", "$fieldgate/ca"] {
        assert_eq!(leaf.publish(topic, "1").await?, Ack::Refused(0x87), "{topic}");
    }
    assert_eq!(leaf.subscribe("#").await?, 0x87);
    assert_eq!(leaf.subscribe("devices/+/telemetry/#").await?, 0x87);
    assert_eq!(leaf.subscribe("$share/g/devices/press-2/#").await?, 0x87);
    assert_eq!(leaf.subscribe("devices/press-1/#").await?, 1);
    assert_eq!(leaf.publish("devices/press-1/telemetry/t", "1").await?, Ack::Accepted, "it goes on");
    wait_audit(&gateway, &["publish_refused", "press-1", "devices/press-2/telemetry/t"]).await?;
    wait_audit(&gateway, &["subscribe_refused", "press-1", "devices/+/telemetry/#"]).await
}

#[tokio::test]
async fn a_3_1_1_device_is_disconnected_for_a_foreign_topic() -> Told {
    let gateway = Gateway::start_new(BINARY, "line-1", "").await?;
    let bundle = gateway.add_device("press-1").await?;
    let leaf = Leaf::connect(&bundle, gateway.broker(), Options::new(Version::V311)).await?;
    assert_eq!(leaf.subscribe("#").await?, 0x80);
    assert_eq!(leaf.subscribe("devices/press-1/#").await?, 1);
    assert_eq!(leaf.publish("devices/press-2/telemetry/t", "1").await?, Ack::Lost);
    leaf.wait_ended(PATIENCE).await?;
    let again = Leaf::connect(&bundle, gateway.broker(), Options::new(Version::V311)).await?;
    assert_eq!(again.publish("devices/press-1/telemetry/t", "1").await?, Ack::Accepted);
    Ok(())
}

#[tokio::test]
async fn a_device_may_not_call_itself_otherwise() -> Told {
    let gateway = Gateway::start_new(BINARY, "line-1", "").await?;
    let bundle = gateway.add_device("press-1").await?;
    for (version, code) in [(Version::V5, "ClientIdentifierNotValid"), (Version::V311, "BadClientId")] {
        let options = Options { client_id: Some("press-2".to_owned()), ..Options::new(version) };
        let refused = Leaf::connect(&bundle, gateway.broker(), options).await.err();
        assert_eq!(refused, Some(ConnectError::Refused(code.to_owned())));
    }
    wait_audit(&gateway, &["connection_refused", "press-1"]).await
}

#[tokio::test]
async fn a_certificate_of_another_plant_is_refused() -> Told {
    let gateway = Gateway::start_new(BINARY, "line-1", "").await?;
    let ours = gateway.add_device("press-1").await?;
    // A device of the same name, of a gateway that was never started.
    let other = Gateway::new(BINARY, "line-2", "")?;
    let theirs = other.add_device("press-1").await?;
    for version in [Version::V5, Version::V311] {
        let options = Options { trust: Some(ours.clone()), ..Options::new(version) };
        let refused = Leaf::connect(&theirs, gateway.broker(), options).await.err();
        assert!(matches!(refused, Some(ConnectError::Broken(_))), "{refused:?}");
        let trusting = Leaf::connect(&ours, gateway.broker(), Options::new(version)).await?;
        assert_eq!(trusting.publish("devices/press-1/telemetry/t", "1").await?, Ack::Accepted);
    }
    wait_audit(&gateway, &["connection_refused"]).await
}

#[tokio::test]
async fn a_device_does_not_trust_a_gateway_of_another_plant() -> Told {
    let gateway = Gateway::start_new(BINARY, "line-1", "").await?;
    gateway.add_device("press-1").await?;
    let other = Gateway::new(BINARY, "line-2", "")?;
    let theirs = other.add_device("press-1").await?;
    let refused = Leaf::connect(&theirs, gateway.broker(), Options::new(Version::V5)).await.err();
    assert!(matches!(refused, Some(ConnectError::Broken(_))), "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn a_newer_connection_of_a_device_takes_over() -> Told {
    let gateway = Gateway::start_new(BINARY, "line-1", "").await?;
    let bundle = gateway.add_device("press-1").await?;
    let first = Leaf::connect(&bundle, gateway.broker(), Options::new(Version::V5)).await?;
    let second = Leaf::connect(&bundle, gateway.broker(), Options::new(Version::V311)).await?;
    let (_, why) = first.wait_ended(PATIENCE).await?;
    assert!(why.contains("SessionTakenOver"), "{why}");
    assert_eq!(second.publish("devices/press-1/telemetry/t", "1").await?, Ack::Accepted);
    Ok(())
}

#[tokio::test]
async fn an_id_is_given_once() -> Told {
    let gateway = Gateway::start_new(BINARY, "line-1", "").await?;
    gateway.add_device("press-1").await?;
    let other = gateway.folder().join("other");
    let again = gateway.verb(&["device", "add", "press-1", "--out", other.to_str().unwrap()]).await?;
    assert_eq!(again.code, Some(1));
    assert!(again.stderr.contains("press-1"), "{}", again.stderr);
    let odd = gateway.verb(&["device", "add", "-x", "--out", other.to_str().unwrap()]).await?;
    assert_eq!(odd.code, Some(2), "{odd:?}");
    Ok(())
}
