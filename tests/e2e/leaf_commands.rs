//! Commands from the cloud to a leaf, and their one answer.

use std::time::{Duration, Instant};

use fieldgate_testkit::{Leaf, Options, Version};
use rumqttc::PublishProperties;
use serde_json::json;

use crate::stage::{Stage, Told};

/// A leaf `press-1` that answers as its commands say: an object, a plain value, or not at all.
async fn cast(version: Version) -> anyhow::Result<(Stage, Leaf)> {
    let stage = Stage::start("line-1", "").await?;
    let bundle = stage.gateway.add_device("press-1").await?;
    let options = Options::new(version).answering(|command| match command.topic.split('/').nth(3) {
        Some("object") => Some(br#"{"status":"failed","reason":"jammed"}"#.to_vec()),
        Some("plain") => Some(b"42".to_vec()),
        Some("words") => Some(b"all is well".to_vec()),
        _ => None,
    });
    let leaf = Leaf::connect(&bundle, stage.gateway.broker(), options).await?;
    leaf.serve_commands().await?;
    Ok((stage, leaf))
}

#[tokio::test]
async fn a_leaf_answers_with_an_object_or_anything_else() -> Told {
    for version in [Version::V5, Version::V311] {
        let (stage, leaf) = cast(version).await?;
        let answer = stage.command("press-1", "object", "a", r#"{"x":1}"#).await?;
        assert_eq!(answer, json!({"rid":"a","status":"failed","reason":"jammed"}));
        assert_eq!(stage.command("press-1", "plain", "b", "").await?, json!({"rid":"b","status":"ok","value":42}));
        let words = stage.command("press-1", "words", "c", "").await?;
        assert_eq!(words, json!({"rid":"c","status":"ok","value":"all is well"}));
        let command = leaf.received().remove(0);
        assert_eq!(
            (command.topic.as_str(), &command.payload[..]),
            ("devices/press-1/commands/object/a", &br#"{"x":1}"#[..])
        );
        assert!(!command.retain);
    }
    Ok(())
}

#[tokio::test]
async fn a_silent_leaf_is_answered_for_after_the_time_of_the_command() -> Told {
    let (stage, leaf) = cast(Version::V5).await?;
    let began = Instant::now();
    let answer = stage.command("press-1", "silent", "a", r#"{"timeout_ms":700}"#).await?;
    assert_eq!((&answer["rid"], &answer["status"]), (&json!("a"), &json!("timeout")), "{answer}");
    assert!(began.elapsed() >= Duration::from_millis(700) && began.elapsed() < Duration::from_secs(10));
    assert!(leaf.received().len() == 1);
    // An answer that comes too late changes nothing.
    leaf.publish("devices/press-1/commands/silent/a/result", "1").await?;
    stage.command("press-1", "plain", "fence", "").await?;
    assert_eq!(stage.cloud.on(&stage.result_topic("press-1", "silent", "a")).len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_leaf_that_is_not_there_is_answered_for_at_once() -> Told {
    let (stage, leaf) = cast(Version::V5).await?;
    leaf.disconnect().await?;
    let state = stage.topic("devices/press-1/state");
    stage.cloud.wait_for(&state, |message| message.json()["online"] == false).await?;
    let began = Instant::now();
    let answer = stage.command("press-1", "plain", "a", "").await?;
    assert_eq!(answer["status"], "failed", "{answer}");
    assert!(answer["reason"].is_string() && began.elapsed() < Duration::from_secs(10), "{answer}");
    let unknown = stage.command("nobody", "plain", "b", "").await?;
    assert_eq!(unknown["status"], "rejected", "{unknown}");
    Ok(())
}

#[tokio::test]
async fn a_request_id_is_carried_out_once() -> Told {
    let (stage, leaf) = cast(Version::V5).await?;
    stage.command("press-1", "plain", "a", "").await?;
    stage.send_command("press-1", "plain", "a", "").await?;
    // Commands come in order, so the first one is done with when the last is answered.
    stage.command("press-1", "plain", "fence", "").await?;
    let topics: Vec<String> = leaf.received().into_iter().map(|message| message.topic).collect();
    assert_eq!(topics, ["devices/press-1/commands/plain/a", "devices/press-1/commands/plain/fence"]);
    assert_eq!(stage.cloud.on(&stage.result_topic("press-1", "plain", "a")).len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_request_id_is_remembered_through_a_kill() -> Told {
    let (mut stage, leaf) = cast(Version::V5).await?;
    stage.command("press-1", "plain", "a", "").await?;
    stage.wait_drained().await?;
    stage.gateway.kill()?;
    drop(leaf);
    stage.gateway.start().await?;
    stage.wait_up().await?;
    stage.send_command("press-1", "plain", "a", "").await?;
    let fence = stage.command("press-1", "plain", "fence", "").await?;
    assert_eq!(fence["status"], "failed", "the device is not there: {fence}");
    assert_eq!(stage.cloud.on(&stage.result_topic("press-1", "plain", "a")).len(), 1);
    Ok(())
}

#[tokio::test]
async fn response_topic_and_correlation_data_are_honoured() -> Told {
    let (stage, _leaf) = cast(Version::V5).await?;
    let properties = PublishProperties {
        response_topic: Some("erp/answers/7".to_owned()),
        correlation_data: Some(vec![1, 2, 0xff].into()),
        ..PublishProperties::default()
    };
    // Without a request id: the gateway makes one.
    stage.cloud.publish(&stage.topic("devices/press-1/commands/plain"), "", properties).await?;
    let answer = stage.cloud.wait_for("erp/answers/7", |_| true).await?;
    assert_eq!(answer.properties.correlation_data.as_deref(), Some(&[1, 2, 0xff][..]));
    let json = answer.json();
    assert_eq!((&json["status"], &json["value"]), (&json!("ok"), &json!(42)), "{json}");
    let rid = json["rid"].as_str().unwrap_or_default();
    assert!(rid.len() >= 8, "{json}");
    let usual = stage.cloud.wait_for(&stage.result_topic("press-1", "plain", rid), |_| true).await?;
    assert_eq!(usual.json(), json);
    stage.command("press-1", "plain", "fence", "").await?;
    assert_eq!(stage.cloud.on("erp/answers/7").len(), 1);
    Ok(())
}

#[tokio::test]
async fn the_expiry_of_a_command_is_its_time() -> Told {
    let (stage, _leaf) = cast(Version::V5).await?;
    let properties = PublishProperties { message_expiry_interval: Some(1), ..PublishProperties::default() };
    stage.cloud.publish(&stage.topic("devices/press-1/commands/silent/a"), "", properties).await?;
    let answer = stage.cloud.wait_for(&stage.result_topic("press-1", "silent", "a"), |_| true).await?.json();
    assert_eq!(answer["status"], "timeout", "{answer}");
    Ok(())
}
