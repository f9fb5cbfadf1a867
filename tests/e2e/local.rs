//! A gateway without an upstream: local programs and devices among themselves.

use fieldgate_testkit::{Ack, Gateway, Leaf, Options, PATIENCE, Version, wait_until};

use crate::stage::{BINARY, Told};

const POLICY: &str = r#"
[[policy]]
who = "role:app"
allow = "subscribe"
filter = "devices/#"

[[policy]]
who = "hmi"
allow = "publish"
filter = "devices/+/commands/+/+"
"#;

#[tokio::test]
async fn a_program_sees_devices_and_commands_them_as_its_policy_says() -> Told {
    let gateway = Gateway::start_new(BINARY, "line-1", POLICY).await?;
    let (device, program) = (gateway.add_device("press-1").await?, gateway.add_device_as("hmi", "app").await?);
    let hmi = Leaf::connect(&program, gateway.broker(), Options::new(Version::V5)).await?;
    assert_eq!(hmi.subscribe("devices/+/telemetry/#").await?, 1);
    assert_eq!(hmi.subscribe("devices/+/state").await?, 1);
    assert_eq!(hmi.subscribe("#").await?, 0x87);
    assert_eq!(hmi.publish("devices/press-1/telemetry/t", "1").await?, Ack::Refused(0x87));

    let options = Options::new(Version::V311);
    let leaf = Leaf::connect(&device, gateway.broker(), options).await?;
    leaf.serve_commands().await?;
    assert_eq!(leaf.publish("devices/press-1/telemetry/t", "12").await?, Ack::Accepted);
    let got = |leaf: &Leaf, topic: &str| leaf.received().into_iter().find(|message| message.topic == topic);
    let reading = wait_until("the reading", PATIENCE, || got(&hmi, "devices/press-1/telemetry/t")).await?;
    assert_eq!(&reading.payload[..], b"12");
    let state = wait_until("the state", PATIENCE, || got(&hmi, "devices/press-1/state")).await?;
    assert!(String::from_utf8_lossy(&state.payload).contains(r#""online":true"#), "{state:?}");

    assert_eq!(hmi.publish("devices/press-1/commands/blink/1", "now").await?, Ack::Accepted);
    let command = wait_until("the command", PATIENCE, || got(&leaf, "devices/press-1/commands/blink/1")).await?;
    assert_eq!(&command.payload[..], b"now", "delivered as it is");

    let status = gateway.status().await?;
    assert!(status.get("upstream").is_none() && status["buffer"]["messages"] == 0, "{status}");
    assert_eq!(status["problems"], serde_json::json!([]), "{status}");
    Ok(())
}

#[tokio::test]
async fn the_trust_bundle_is_the_same_everywhere() -> Told {
    let gateway = Gateway::start_new(BINARY, "line-1", "").await?;
    let bundle = gateway.add_device("press-1").await?;
    let leaf = Leaf::connect(&bundle, gateway.broker(), Options::new(Version::V5)).await?;
    assert_eq!(leaf.subscribe("$fieldgate/ca").await?, 1);
    let retained = wait_until("the trust bundle", PATIENCE, || leaf.received().pop()).await?;
    assert!(retained.retain);
    let exported = gateway.verb(&["ca", "export"]).await?.ok()?;
    assert_eq!(String::from_utf8_lossy(&retained.payload), exported);
    assert_eq!(String::from_utf8_lossy(&bundle.ca()?), exported);
    assert_eq!(exported.matches("BEGIN CERTIFICATE").count(), 2, "the root, then the issuing CA");
    Ok(())
}
