//! A 3.1.1 upstream: telemetry and results travel in the envelope.

use fieldgate_testkit::{Ack, Leaf, Options, Upstream, Version};
use serde_json::{Value as Json, json};

use crate::stage::{Stage, Told, now_millis};

#[tokio::test]
async fn telemetry_is_wrapped_with_its_marks() -> Told {
    let stage = Stage::over(Upstream::V311, "line-1", "").await?;
    let bundle = stage.gateway.add_device("press-1").await?;
    let leaf = Leaf::connect(&bundle, stage.gateway.broker(), Options::new(Version::V5)).await?;
    let local = "devices/press-1/telemetry/t";
    let cases: [(&[u8], &str, Json); 4] = [
        (br#"{"a":1}"#, "json", json!({"a":1})),
        (b"12.5", "json", json!(12.5)),
        (b"warm", "text", json!("warm")),
        (b"\xff\x00", "base64", json!("/wA=")),
    ];
    let mut last = 0;
    for (payload, key, value) in cases {
        let before = now_millis();
        assert_eq!(leaf.publish(local, payload).await?, Ack::Accepted);
        let message = stage.cloud.wait_for(&stage.topic(local), |message| message.json()[key] == value).await?.json();
        assert_eq!((&message["v"], &message["boot"]), (&json!(1), &json!(1)), "{message}");
        assert_eq!(message["id"], bundle.fingerprint()?.as_str());
        assert!(message["ts"].as_u64().is_some_and(|ts| (before..=now_millis()).contains(&ts)), "{message}");
        assert!(message["seq"].as_u64().is_some_and(|seq| seq > last), "{message}");
        assert!(message.get("hist").is_none(), "{message}");
        last = message["seq"].as_u64().unwrap_or_default();
    }
    let state = stage.cloud.wait_for(&stage.topic("devices/press-1/state"), |_| true).await?.json();
    assert_eq!(state["online"], true, "states are not wrapped: {state}");
    Ok(())
}

#[tokio::test]
async fn commands_come_down_over_3_1_1_too() -> Told {
    let stage = Stage::over(Upstream::V311, "line-1", "").await?;
    let bundle = stage.gateway.add_device("press-1").await?;
    let options = Options::new(Version::V311).answering(|_| Some(b"42".to_vec()));
    let leaf = Leaf::connect(&bundle, stage.gateway.broker(), options).await?;
    leaf.serve_commands().await?;
    stage.send_command("press-1", "measure", "r1", "{}").await?;
    let answer = stage.cloud.wait_for(&stage.result_topic("press-1", "measure", "r1"), |_| true).await?.json();
    assert_eq!(answer["json"], json!({"rid":"r1","status":"ok","value":42}), "{answer}");
    Ok(())
}
