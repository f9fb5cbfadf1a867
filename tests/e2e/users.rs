//! Users with passwords: over TLS and on loopback, what they may, and what they may not be.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use fieldgate_testkit::{Ack, ConnectError, Gateway, Leaf, Options, PATIENCE, Version, eventually, wait_until};

use crate::leaf_rights::wait_audit;
use crate::stage::{BINARY, Told};

const SECTIONS: &str = r#"
[[broker.user]]
name = "hmi"
password_hash_file = "hmi.hash"

[[broker.user]]
name = "scale-1"
password_hash_file = "hmi.hash"
role = "device"

[[policy]]
who = "user:hmi"
allow = "subscribe"
filter = "devices/+/telemetry/#"

[[policy]]
who = "user:hmi"
allow = "subscribe"
filter = "$SYS/broker/#"
"#;

/// A gateway with users, whose password is "secret", and its doors for them.
struct Plant {
    gateway: Gateway,
    plain: SocketAddr,
    users_tls: SocketAddr,
}

fn hash(gateway: &Gateway, password: &str) -> Told {
    let mut child = Command::new(BINARY)
        .args(["user", "hash", "--out", "hmi.hash"])
        .current_dir(gateway.folder())
        .stdin(Stdio::piped())
        .spawn()?;
    child.stdin.take().unwrap().write_all(format!("{password}\n").as_bytes())?;
    assert!(child.wait()?.success());
    Ok(())
}

impl Plant {
    async fn start() -> anyhow::Result<Self> {
        let mut gateway = Gateway::new(BINARY, "line-1", "")?;
        hash(&gateway, "secret")?;
        gateway.configure_broker("plain = [\"127.0.0.1:0\"]\nusers_tls = [\"127.0.0.1:0\"]", SECTIONS)?;
        gateway.start().await?;
        let status = gateway.status().await?;
        let address = |key: &str| status["broker"][key][0].as_str().unwrap().parse();
        Ok(Self { plain: address("plain")?, users_tls: address("users_tls")?, gateway })
    }

    async fn user(&self, name: &str, password: &str, version: Version) -> Result<Leaf, ConnectError> {
        Leaf::connect_user(name, password, None, self.plain, Options::new(version)).await
    }
}

#[tokio::test]
async fn a_user_reads_what_a_policy_lets_it_over_both_doors() -> Told {
    let plant = Plant::start().await?;
    let bundle = plant.gateway.add_device("press-1").await?;
    let press = Leaf::connect(&bundle, plant.gateway.broker(), Options::new(Version::V5)).await?;
    let ca = plant.gateway.verb(&["ca", "export"]).await?.ok()?.into_bytes();
    for (version, id) in [(Version::V5, "hmi/5"), (Version::V311, "hmi/4")] {
        let options = Options { client_id: Some(id.to_owned()), ..Options::new(version) };
        let over_tls = Leaf::connect_user("hmi", "secret", Some(ca.clone()), plant.users_tls, options).await?;
        let plain = plant.user("hmi", "secret", version).await?;
        for reader in [&over_tls, &plain] {
            assert_eq!(reader.subscribe("devices/press-1/telemetry/#").await?, 1);
            assert!(reader.subscribe("devices/#").await? >= 0x80);
        }
        assert_eq!(press.publish("devices/press-1/telemetry/t", id).await?, Ack::Accepted);
        for reader in [&over_tls, &plain] {
            let came = || reader.received().iter().any(|message| message.payload == id).then_some(());
            wait_until("the reading", PATIENCE, came).await?;
        }
    }
    let denied = plant.user("hmi", "secret", Version::V5).await?;
    assert_eq!(denied.publish("devices/press-1/telemetry/t", "forged").await?, Ack::Refused(0x87));
    wait_audit(&plant.gateway, &["publish_refused", "hmi"]).await
}

#[tokio::test]
async fn a_wrong_password_is_refused_audited_and_in_the_end_not_looked_at() -> Told {
    let plant = Plant::start().await?;
    let refused = async |name: &str, password: &str, version| plant.user(name, password, version).await.err();
    for (name, password) in [("hmi", "wrong"), ("nobody", "secret"), ("../etc", "secret")] {
        let bad = |code: &str| Some(ConnectError::Refused(code.to_owned()));
        assert_eq!(refused(name, password, Version::V5).await, bad("BadUserNamePassword"), "{name}");
        assert_eq!(refused(name, password, Version::V311).await, bad("BadUserNamePassword"), "{name}");
    }
    wait_audit(&plant.gateway, &["connection_refused", "`hmi`", "wrong user name or password"]).await?;
    for _ in 0..3 {
        refused("hmi", "wrong", Version::V5).await;
    }
    let code = refused("hmi", "secret", Version::V5).await;
    assert_eq!(code, Some(ConnectError::Refused("ConnectionRateExceeded".to_owned())));
    wait_audit(&plant.gateway, &["connection_refused", "too many wrong passwords"]).await?;
    plant.user("scale-1", "secret", Version::V5).await?;
    Ok(())
}

#[tokio::test]
async fn a_user_is_nobody_else_and_nobody_else_is_a_user() -> Told {
    let plant = Plant::start().await?;
    plant.gateway.add_device("press-1").await?;
    let options = Options { client_id: Some("press-1".to_owned()), ..Options::new(Version::V5) };
    let refused = Leaf::connect_user("hmi", "secret", None, plant.plain, options).await.err();
    assert_eq!(refused, Some(ConnectError::Refused("ClientIdentifierNotValid".to_owned())));
    let out = plant.gateway.folder().join("other");
    let taken = plant.gateway.verb(&["device", "add", "hmi", "--out", out.to_str().unwrap()]).await?;
    assert_eq!(taken.code, Some(1));
    assert!(taken.stderr.contains("user"), "{}", taken.stderr);
    // With the role of a device it has a tree of its own.
    let scale = plant.user("scale-1", "secret", Version::V5).await?;
    assert_eq!(scale.publish("devices/scale-1/telemetry/t", "1").await?, Ack::Accepted);
    assert_eq!(scale.publish("devices/press-1/telemetry/t", "1").await?, Ack::Refused(0x87));
    Ok(())
}

#[tokio::test]
async fn a_user_of_a_devices_name_keeps_the_gateway_from_starting() -> Told {
    let gateway = Gateway::new(BINARY, "line-1", "")?;
    gateway.add_device("hmi").await?;
    hash(&gateway, "secret")?;
    gateway.configure(SECTIONS)?;
    let refused = gateway.verb(&["run"]).await?;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("`hmi`") && refused.stderr.contains("device revoke hmi"), "{}", refused.stderr);
    Ok(())
}

#[tokio::test]
async fn a_removed_user_and_an_old_password_are_gone_after_a_restart() -> Told {
    let mut plant = Plant::start().await?;
    plant.user("hmi", "secret", Version::V5).await?;
    plant.gateway.stop().await?;
    hash(&plant.gateway, "changed")?;
    let port = plant.plain.port();
    let sections = SECTIONS.replace("scale-1", "scale-2");
    plant.gateway.configure_broker(&format!("plain = [\"127.0.0.1:{port}\"]"), &sections)?;
    plant.gateway.start().await?;
    for (name, password) in [("hmi", "secret"), ("scale-1", "changed")] {
        let refused = plant.user(name, password, Version::V5).await.err();
        assert_eq!(refused, Some(ConnectError::Refused("BadUserNamePassword".to_owned())), "{name}");
    }
    plant.user("hmi", "changed", Version::V5).await?;
    Ok(())
}

#[tokio::test]
async fn a_plain_address_on_the_network_is_refused_by_check() -> Told {
    let gateway = Gateway::new(BINARY, "line-1", "")?;
    gateway.configure_broker("plain = [\"0.0.0.0:1883\"]", "")?;
    let refused = gateway.verb(&["check"]).await?;
    assert_eq!(refused.code, Some(78));
    assert!(
        refused.stderr.contains("gateway.toml:6:9: broker.plain: ") && refused.stderr.contains("users_tls"),
        "{refused:?}"
    );
    Ok(())
}

#[tokio::test]
async fn the_hash_is_written_for_its_owner_alone_and_the_password_nowhere() -> Told {
    use std::os::unix::fs::PermissionsExt;
    let plant = Plant::start().await?;
    let file = plant.gateway.folder().join("hmi.hash");
    assert_eq!(std::fs::metadata(&file)?.permissions().mode() & 0o777, 0o600);
    assert!(std::fs::read_to_string(&file)?.starts_with("$argon2id$v=19$"));
    plant.user("hmi", "very-secret-indeed", Version::V5).await.err();
    wait_audit(&plant.gateway, &["wrong user name or password"]).await?;
    let audit = plant.gateway.verb(&["audit"]).await?.ok()?;
    assert!(!audit.contains("very-secret-indeed") && !plant.gateway.log().join("\n").contains("very-secret-indeed"));
    let empty = plant.gateway.verb(&["user", "hash"]).await?;
    assert_eq!((empty.code, empty.stdout.as_str()), (Some(1), ""));
    Ok(())
}

#[tokio::test]
async fn sys_is_for_programs_with_a_policy() -> Told {
    let plant = Plant::start().await?;
    let hmi = plant.user("hmi", "secret", Version::V5).await?;
    assert_eq!(hmi.subscribe("$SYS/broker/#").await?, 1);
    assert_eq!(hmi.publish("$SYS/broker/uptime", "0").await?, Ack::Refused(0x87));
    let scale = plant.user("scale-1", "secret", Version::V5).await?;
    assert_eq!(scale.subscribe("$SYS/broker/#").await?, 0x87);
    for topic in ["clients/connected", "messages/received", "messages/sent", "uptime", "version", "subscriptions/count"]
    {
        let topic = format!("$SYS/broker/{topic}");
        eventually(&topic, std::time::Duration::from_secs(30), async || {
            Ok(hmi.received().into_iter().find(|message| message.topic == topic && !message.retain))
        })
        .await?;
    }
    Ok(())
}
