//! Certificates that are not ours: other CAs by an explicit map, single ones by their SHA-256. Nothing of it by default.

use std::path::Path;
use std::time::{Duration, Instant};

use fieldgate_testkit::{Ack, Bundle, Gateway, Leaf, Options, PATIENCE, Standstill, Version};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

use crate::leaf_rights::wait_audit;
use crate::stage::{BINARY, Told};

struct Corp(CertifiedIssuer<'static, KeyPair>);

impl Corp {
    fn new(folder: &Path) -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Corp device CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let corp = Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?);
        std::fs::write(folder.join("corp.pem"), corp.0.pem())?;
        Ok(corp)
    }

    /// A bundle for the device of that name, which connects as `id`.
    fn device(&self, gateway: &Gateway, name: &str, id: &str) -> anyhow::Result<Bundle> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.0)?;
        let folder = gateway.folder().join(name);
        std::fs::create_dir(&folder)?;
        std::fs::write(folder.join("cert.pem"), certificate.pem())?;
        std::fs::write(folder.join("key.pem"), key.serialize_pem())?;
        Ok(Bundle::new(id, folder))
    }
}

fn mapped(devices: &[(&str, &str)]) -> String {
    let device = |(id, name): &(&str, &str)| {
        format!("[[certs.external.device]]\nid = \"{id}\"\ndns = \"{name}.corp.example\"\n")
    };
    "[[certs.external]]\nca = \"corp.pem\"\n".to_owned() + &devices.iter().map(device).collect::<String>()
}

async fn trusting(gateway: &Gateway, bundles: &[&Bundle]) -> Told {
    let ca = gateway.verb(&["ca", "export"]).await?.ok()?;
    for bundle in bundles {
        std::fs::write(bundle.folder.join("ca.pem"), &ca)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_mapped_device_is_who_the_map_says_until_it_is_revoked_for_good() -> Told {
    let mut gateway = Gateway::new(BINARY, "line-1", "")?;
    let corp = Corp::new(gateway.folder())?;
    let mapped_one = corp.device(&gateway, "press-9.corp.example", "corp-9")?;
    let unmapped = corp.device(&gateway, "press-8.corp.example", "corp-8")?;
    let pinned = corp.device(&gateway, "scale.corp.example", "scale-1")?;
    trusting(&gateway, &[&mapped_one, &unmapped, &pinned]).await?;
    gateway.start().await?;
    for bundle in [&mapped_one, &unmapped, &pinned] {
        let stranger = Leaf::connect(bundle, gateway.broker(), Options::new(Version::V5)).await;
        assert!(stranger.is_err(), "{} came in, and nothing is configured", bundle.id);
    }
    gateway.stop().await?;
    let pin = format!("[[certs.pin]]\nid = \"scale-1\"\nsha256 = \"{}\"\n", pinned.fingerprint()?);
    let sections = mapped(&[("corp-9", "press-9"), ("corp-7", "press-7")]) + &pin;
    gateway.configure(&sections)?;
    gateway.start().await?;

    let leaf = Leaf::connect(&mapped_one, gateway.broker(), Options::new(Version::V311)).await?;
    assert_eq!(leaf.publish("devices/corp-9/telemetry/t", "1").await?, Ack::Accepted);
    let other = Leaf::connect(&pinned, gateway.broker(), Options::new(Version::V5)).await?;
    assert_eq!(other.publish("devices/scale-1/telemetry/t", "1").await?, Ack::Accepted);
    assert_eq!(other.publish("devices/corp-9/telemetry/t", "1").await?, Ack::Refused(0x87));
    assert!(Leaf::connect(&unmapped, gateway.broker(), Options::new(Version::V5)).await.is_err());
    wait_audit(&gateway, &["connection_refused", "none of its names is in that CA's map"]).await?;
    let listed = gateway.verb(&["device", "list"]).await?.ok()?;
    assert!(listed.contains("corp-7") && listed.contains("of another CA, or pinned"), "{listed}");
    let refused = gateway.verb(&["device", "add", "corp-7"]).await?;
    assert!(refused.code == Some(1) && refused.stderr.contains("ids may not coincide"), "{refused:?}");

    let machine = Standstill::watch()?;
    gateway.verb(&["device", "revoke", "corp-9"]).await?.ok()?;
    let returned = Instant::now();
    let (ended, why) = leaf.wait_ended(PATIENCE).await?;
    let after = ended.saturating_duration_since(returned);
    assert!(after <= machine.allowing(Duration::from_secs(1), returned), "{after:?}: {why}");
    wait_audit(&gateway, &["device_revoked", "corp-9"]).await?;
    wait_audit(&gateway, &["session_ended", "corp-9", "it was revoked"]).await?;
    for _ in 0..2 {
        assert!(Leaf::connect(&mapped_one, gateway.broker(), Options::new(Version::V5)).await.is_err(), "it came back");
        wait_audit(&gateway, &["connection_refused", "`corp-9` was revoked"]).await?;
        gateway.kill()?;
        gateway.start().await?;
    }
    other.wait_ended(PATIENCE).await?;
    Leaf::connect(&pinned, gateway.broker(), Options::new(Version::V5)).await?;

    gateway.stop().await?;
    gateway.configure(&mapped(&[("corp-7", "press-7")]))?;
    gateway.start().await?;
    assert!(
        Leaf::connect(&pinned, gateway.broker(), Options::new(Version::V5)).await.is_err(),
        "it is not pinned any more"
    );
    wait_audit(&gateway, &["configuration_changed", "\"sections\":[\"certs\"]"]).await
}

#[tokio::test]
async fn ids_of_our_own_devices_and_of_others_do_not_coincide() -> Told {
    let gateway = Gateway::new(BINARY, "line-1", "")?;
    Corp::new(gateway.folder())?;
    gateway.add_device("press-1").await?;
    gateway.configure(&mapped(&[("press-1", "press-1")]))?;
    let run = gateway.verb(&["run"]).await?;
    assert!(
        run.code == Some(1) && run.stderr.contains("`press-1` is the id of a device of this gateway's own CA"),
        "{run:?}"
    );
    gateway.verb(&["device", "revoke", "press-1"]).await?.ok()?;
    let own = gateway.data_dir().join("ca/issuing-1.pem");
    std::fs::copy(own, gateway.folder().join("corp.pem"))?;
    let run = gateway.verb(&["run"]).await?;
    assert!(run.code == Some(1) && run.stderr.contains("is a CA of this gateway"), "{run:?}");
    Ok(())
}
