//! Who is there: retained states of devices and gateway upstream, and the Will.

use fieldgate_testkit::{Leaf, Options, Version};
use serde_json::json;

use crate::stage::{Stage, Told};

#[tokio::test]
async fn states_of_devices_and_gateway_are_retained_upstream() -> Told {
    let stage = Stage::start("line-1", "").await?;
    let gateway = stage.cloud.retained(&stage.topic("state")).await?.json();
    assert_eq!(gateway["online"], true, "{gateway}");
    assert!(gateway["since"].is_u64(), "{gateway}");

    let bundle = stage.gateway.add_device("press-1").await?;
    let leaf = Leaf::connect(&bundle, stage.gateway.broker(), Options::new(Version::V5)).await?;
    let topic = stage.topic("devices/press-1/state");
    stage.cloud.wait_for(&topic, |message| message.json()["online"] == true).await?;
    let state = stage.cloud.retained(&topic).await?.json();
    assert_eq!((&state["online"], &state["via"]), (&json!(true), &json!("mqtt")), "{state}");
    assert!(state["since"].is_u64() && state.get("reason").is_none(), "{state}");

    leaf.disconnect().await?;
    let gone = stage.cloud.wait_for(&topic, |message| message.json()["online"] == false).await?.json();
    assert!(gone["reason"].is_string(), "{gone}");
    let status = stage.gateway.status().await?;
    assert_eq!(status["devices"][0]["online"], false, "{status}");
    Ok(())
}

#[tokio::test]
async fn a_killed_gateway_leaves_its_will_and_puts_it_right_afterwards() -> Told {
    let mut stage = Stage::start("line-1", "").await?;
    let bundle = stage.gateway.add_device("press-1").await?;
    let leaf = Leaf::connect(&bundle, stage.gateway.broker(), Options::new(Version::V5)).await?;
    let device = stage.topic("devices/press-1/state");
    stage.cloud.wait_for(&device, |message| message.json()["online"] == true).await?;
    stage.gateway.kill()?;
    let topic = stage.topic("state");
    stage.cloud.wait_for(&topic, |message| message.json()["online"] == false).await?;
    assert_eq!(stage.cloud.retained(&topic).await?.json()["online"], false);

    drop(leaf);
    stage.gateway.start().await?;
    let states = || stage.cloud.on(&topic).iter().filter(|message| message.json()["online"] == true).count();
    fieldgate_testkit::wait_until("the gateway's return", fieldgate_testkit::PATIENCE, || {
        (states() == 2).then_some(())
    })
    .await?;
    assert_eq!(stage.cloud.retained(&topic).await?.json()["online"], true);
    // The device was online when the gateway was killed, and has not come back.
    let state = stage.cloud.wait_for(&device, |message| message.json()["online"] == false).await?.json();
    assert!(state["reason"].as_str().is_some_and(|reason| reason.contains("restart")), "{state}");
    Ok(())
}

#[tokio::test]
async fn a_will_is_published_for_a_device_that_vanishes() -> Told {
    let stage = Stage::start("line-1", "").await?;
    let bundle = stage.gateway.add_device("press-1").await?;
    let local = "devices/press-1/telemetry/last-words";
    let options = Options { will: Some((local.to_owned(), b"gone".to_vec())), ..Options::new(Version::V5) };
    let leaf = Leaf::connect(&bundle, stage.gateway.broker(), options).await?;
    drop(leaf);
    let will = stage.cloud.wait_for(&stage.topic(local), |_| true).await?;
    assert_eq!(&will.payload[..], b"gone");
    assert_eq!(will.user("fg-id"), Some(bundle.fingerprint()?.as_str()));
    Ok(())
}

#[tokio::test]
async fn a_stopped_gateway_says_goodbye() -> Told {
    let mut stage = Stage::start("line-1", "").await?;
    let bundle = stage.gateway.add_device("press-1").await?;
    let _leaf = Leaf::connect(&bundle, stage.gateway.broker(), Options::new(Version::V311)).await?;
    let device = stage.topic("devices/press-1/state");
    stage.cloud.wait_for(&device, |message| message.json()["online"] == true).await?;
    let status = stage.gateway.stop().await?;
    assert_eq!(status.code(), Some(0));
    stage.cloud.wait_for(&device, |message| message.json()["online"] == false).await?;
    stage.cloud.wait_for(&stage.topic("state"), |message| message.json()["online"] == false).await?;
    Ok(())
}
