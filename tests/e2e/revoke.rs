//! Revoked means gone within one second, the live session included, with no way back.

use std::time::{Duration, Instant};

use fieldgate_testkit::{Ack, ConnectError, Gateway, Leaf, Options, PATIENCE, Standstill, Version};

use crate::leaf_rights::wait_audit;
use crate::stage::{BINARY, Told};

#[tokio::test]
async fn a_live_session_ends_within_a_second_and_does_not_come_back() -> Told {
    let machine = Standstill::watch()?;
    let gateway = Gateway::start_new(BINARY, "line-1", "").await?;
    for (id, version) in [("press-1", Version::V5), ("press-2", Version::V311)] {
        let bundle = gateway.add_device(id).await?;
        let leaf = Leaf::connect(&bundle, gateway.broker(), Options::new(version)).await?;
        let topic = format!("devices/{id}/telemetry/t");
        assert_eq!(leaf.publish(&topic, "1").await?, Ack::Accepted);
        gateway.verb(&["device", "revoke", id]).await?.ok()?;
        let returned = Instant::now();
        let (ended, why) = leaf.wait_ended(PATIENCE).await?;
        let after = ended.saturating_duration_since(returned);
        println!("{id}: ended {after:?} after the verb had returned: {why}");
        assert!(after <= machine.allowing(Duration::from_secs(1), returned), "{id}: {after:?}");
        let refused = Leaf::connect(&bundle, gateway.broker(), Options::new(version)).await.err();
        assert!(refused.is_some(), "{id} came back");
        wait_audit(&gateway, &["device_revoked", id]).await?;
        wait_audit(&gateway, &["connection_refused", "revoked"]).await?;
    }
    let status = gateway.status().await?;
    assert_eq!((&status["devices"][0]["online"], &status["devices"][0]["reason"]), (&false.into(), &"revoked".into()));
    Ok(())
}

#[tokio::test]
async fn a_stopped_gateway_revokes_too() -> Told {
    let mut gateway = Gateway::new(BINARY, "line-1", "")?;
    let (bundle, other) = (gateway.add_device("press-1").await?, gateway.add_device("press-2").await?);
    gateway.verb(&["device", "revoke", "press-1"]).await?.ok()?;
    wait_audit(&gateway, &["device_revoked", "press-1"]).await?;
    gateway.start().await?;
    let refused = Leaf::connect(&bundle, gateway.broker(), Options::new(Version::V5)).await.err();
    assert!(matches!(refused, Some(ConnectError::Broken(_) | ConnectError::Refused(_))), "{refused:?}");
    let leaf = Leaf::connect(&other, gateway.broker(), Options::new(Version::V5)).await?;
    assert_eq!(leaf.publish("devices/press-2/telemetry/t", "1").await?, Ack::Accepted);
    Ok(())
}

#[tokio::test]
async fn a_revocation_survives_a_kill() -> Told {
    let mut gateway = Gateway::start_new(BINARY, "line-1", "").await?;
    let bundle = gateway.add_device("press-1").await?;
    gateway.verb(&["device", "revoke", "press-1"]).await?.ok()?;
    gateway.kill()?;
    gateway.start().await?;
    let refused = Leaf::connect(&bundle, gateway.broker(), Options::new(Version::V5)).await.err();
    assert!(refused.is_some());
    let again = gateway.verb(&["device", "revoke", "press-1"]).await?;
    assert_eq!(again.code, Some(0), "revoking twice is no error: {}", again.stderr);
    let unknown = gateway.verb(&["device", "revoke", "nobody"]).await?;
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.stderr.contains("nobody"), "{}", unknown.stderr);
    Ok(())
}
