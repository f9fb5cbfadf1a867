//! `policy explain` says what the broker does, and which rule makes it so.

use fieldgate_testkit::{Ack, Gateway, Leaf, Options, Version};
use serde_json::Value as Json;

use crate::stage::{BINARY, Told, root};

const SECTIONS: &str = r#"[[group]]
name = "presses"
members = ["press-1"]

[[policy]]
who = "group:presses"
allow = "publish"
filter = "plant/{device}/#"

[[policy]]
who = "user:hmi"
allow = "subscribe"
filter = "devices/+/telemetry/#"

[[broker.user]]
name = "hmi"
password_hash_file = "hmi.hash"
"#;

async fn explain(gateway: &Gateway, who: &str, action: &str, topic: &str) -> anyhow::Result<Json> {
    let said = gateway.verb(&["policy", "explain", who, action, topic, "--json"]).await?.ok()?;
    Ok(serde_json::from_str(&said)?)
}

fn gateway() -> anyhow::Result<Gateway> {
    let gateway = Gateway::new(BINARY, "line-1", "")?;
    std::fs::copy(root().join("fixtures/config/good/hmi.hash"), gateway.folder().join("hmi.hash"))?;
    gateway.configure(SECTIONS)?;
    Ok(gateway)
}

#[tokio::test]
async fn names_the_rule_with_and_without_a_running_gateway() -> Told {
    let mut gateway = gateway()?;
    let bundle = gateway.add_device("press-1").await?;
    let text = std::fs::read_to_string(gateway.config())?;
    let line = text.lines().position(|line| line == "[[policy]]").unwrap() + 1;
    for running in [false, true] {
        if running {
            gateway.start().await?;
        }
        let policy = explain(&gateway, "press-1", "publish", "plant/press-1/speed").await?;
        assert_eq!((&policy["allowed"], &policy["rule"]["source"]), (&true.into(), &"policy".into()), "{policy}");
        let at = policy["rule"]["at"].as_str().unwrap();
        assert!(at.ends_with(&format!("gateway.toml:{line}")), "{at}");
        let own = explain(&gateway, "press-1", "publish", "devices/press-1/telemetry/t").await?;
        assert_eq!((&own["allowed"], &own["rule"]["source"]), (&true.into(), &"default".into()), "{own}");
        let user = explain(&gateway, "user:hmi", "subscribe", "$share/g/devices/press-1/telemetry/#").await?;
        assert_eq!((&user["allowed"], &user["role"]), (&true.into(), &"app".into()), "{user}");
        let wide = explain(&gateway, "user:hmi", "subscribe", "devices/#").await?;
        assert_eq!(wide["allowed"], false, "a filter is granted when one rule covers all of it: {wide}");
        assert_eq!(wide["closest"]["filter"], "devices/+/telemetry/#", "{wide}");
        assert!(wide["add"].as_str().unwrap().contains("who = \"user:hmi\""), "{wide}");
        let stranger = explain(&gateway, "press-9", "publish", "plant/press-9/speed").await?;
        assert_eq!(stranger["allowed"], false, "{stranger}");
        assert!(stranger["notes"][0].as_str().unwrap().contains("not known"), "{stranger}");
        let text = gateway.verb(&["policy", "explain", "press-1", "publish", "plant/press-1/x"]).await?.ok()?;
        assert!(text.starts_with("allowed: press-1 (device)") && text.contains("group:presses"), "{text}");
    }
    // And the broker does what was said.
    let leaf = Leaf::connect(&bundle, gateway.broker(), Options::new(Version::V5)).await?;
    assert_eq!(leaf.publish("plant/press-1/speed", "1").await?, Ack::Accepted);
    assert_eq!(leaf.publish("plant/press-2/speed", "1").await?, Ack::Refused(0x87));
    Ok(())
}

#[tokio::test]
async fn says_what_can_not_be_asked_and_what_nobody_may() -> Told {
    let gateway = gateway()?;
    let reserved = explain(&gateway, "press-1", "publish", "$SYS/broker/uptime").await?;
    assert_eq!((&reserved["allowed"], &reserved["add"]), (&false.into(), &Json::Null), "{reserved}");
    for wrong in [["user:nobody", "publish", "a"], ["-x y", "publish", "a"], ["press-1", "publish", "a/#"]] {
        let refused = gateway.verb(&["policy", "explain", "--", wrong[0], wrong[1], wrong[2]]).await?;
        assert_eq!(refused.code, Some(1), "{wrong:?}: {refused:?}");
        assert!(refused.stderr.contains('`'), "{refused:?}");
    }
    let usage = gateway.verb(&["policy", "explain", "press-1", "read", "a"]).await?;
    assert_eq!(usage.code, Some(2));
    Ok(())
}
