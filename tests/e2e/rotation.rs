//! The issuing CA is followed by the next while devices are connected, with the root key here or brought along.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use fieldgate_testkit::{Ack, Bundle, Gateway, Leaf, Options, PATIENCE, Standstill, Version, eventually, wait_until};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::leaf_rights::wait_audit;
use crate::stage::{BINARY, Told};

fn certificates(pem: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    Ok(CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>()?)
}

/// What the listener shows in a new handshake: its certificate, then its CA.
async fn shown(bundle: &Bundle, to: SocketAddr) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(certificates(&bundle.ca()?)?);
    let (chain, key) = (certificates(&bundle.certificate()?)?, PrivateKeyDer::from_pem_slice(&bundle.key()?)?);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = config.with_root_certificates(roots).with_client_auth_cert(chain, key)?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let socket = tokio::net::TcpStream::connect(to).await?;
    let stream = connector.connect(ServerName::try_from("localhost")?, socket).await?;
    let shown = stream.get_ref().1.peer_certificates().context("the listener shows no certificate")?;
    Ok(shown.iter().map(|certificate| certificate.clone().into_owned()).collect())
}

async fn issuing(gateway: &Gateway) -> anyhow::Result<usize> {
    let report: serde_json::Value = serde_json::from_str(&gateway.verb(&["ca", "show", "--json"]).await?.ok()?)?;
    let authorities = report["authorities"].as_array().context("no CAs")?;
    Ok(authorities.iter().filter(|ca| ca["kind"] == "issuing").count())
}

#[tokio::test]
async fn devices_stay_connected_through_a_rotation_and_both_generations_come_back() -> Told {
    let mut gateway = Gateway::start_new(BINARY, "line-1", "").await?;
    let watching = gateway.add_device("screen").await?;
    let screen = Leaf::connect(&watching, gateway.broker(), Options::new(Version::V5)).await?;
    assert_eq!(screen.subscribe("$fieldgate/ca").await?, 1);
    wait_until("the bundle of the start", PATIENCE, || screen.received().pop()).await?;
    let mut leaves = Vec::new();
    for n in 0..10 {
        let id = format!("press-{n}");
        let bundle = gateway.add_device(&id).await?;
        let version = if n % 2 == 0 { Version::V5 } else { Version::V311 };
        leaves.push((Leaf::connect(&bundle, gateway.broker(), Options::new(version)).await?, bundle));
    }
    let before = shown(&watching, gateway.broker()).await?;

    let machine = Standstill::watch()?;
    gateway.verb(&["ca", "rotate"]).await?.ok()?;
    let returned = Instant::now();
    let after = eventually("the new chain", PATIENCE, async || {
        let after = shown(&watching, gateway.broker()).await?;
        Ok((after != before).then_some(after))
    })
    .await?;
    let shown_after = returned.elapsed();
    println!("the new chain was shown {shown_after:?} after the verb had returned");
    assert!(shown_after <= machine.allowing(Duration::from_secs(1), returned), "{shown_after:?}");
    assert_ne!(after[1], before[1], "it is of the new CA");
    assert_eq!(issuing(&gateway).await?, 2);

    let exported = certificates(gateway.verb(&["ca", "export"]).await?.ok()?.as_bytes())?;
    assert!(exported.contains(&after[1]) && exported.contains(&before[1]), "both are trusted");
    wait_until("the bundle with three CAs", PATIENCE, || {
        let published = screen.received();
        let last = published.last().and_then(|message| certificates(&message.payload).ok());
        last.filter(|bundle| *bundle == exported)
    })
    .await?;
    wait_audit(&gateway, &["ca_rotated", "\"generation\":2", "\"due\":false"]).await?;

    for (leaf, bundle) in &leaves {
        let topic = format!("devices/{}/telemetry/t", bundle.id);
        assert_eq!(leaf.publish(&topic, "1").await?, Ack::Accepted);
        assert!(leaf.ended().is_none(), "{}: {:?}", bundle.id, leaf.ended());
    }
    let newer = gateway.add_device("newer").await?;
    let (_, old) = leaves.swap_remove(0);
    for bundle in [&newer, &old] {
        let leaf = Leaf::connect(bundle, gateway.broker(), Options::new(Version::V5)).await?;
        assert_eq!(leaf.publish(&format!("devices/{}/telemetry/t", bundle.id), "1").await?, Ack::Accepted);
    }
    gateway.kill()?;
    gateway.start().await?;
    for bundle in [&newer, &old] {
        Leaf::connect(bundle, gateway.broker(), Options::new(Version::V5)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_root_key_is_taken_away_and_brought_along() -> Told {
    let mut gateway = Gateway::start_new(BINARY, "line-1", "").await?;
    let kept = gateway.folder().join("root.key");
    let file = kept.to_str().context("the folder's name is not UTF-8")?.to_owned();
    gateway.verb(&["ca", "remove-root-key", "--out", &file]).await?.ok()?;
    assert!(!gateway.data_dir().join("ca/root-1.key").exists());
    let again = gateway.verb(&["ca", "remove-root-key", "--out", &format!("{file}.2")]).await?;
    assert_eq!(again.code, Some(1), "{again:?}");

    let refused = gateway.verb(&["ca", "rotate"]).await?;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("--root-key FILE"), "{refused:?}");
    gateway.verb(&["ca", "rotate", "--root-key", &file]).await?.ok()?;
    gateway.stop().await?;
    gateway.verb(&["ca", "rotate", "--root-key", &file]).await?.ok()?;
    assert_eq!(issuing(&gateway).await?, 3);
    assert!(!gateway.data_dir().join("ca/root-1.key").exists(), "it is not kept");
    for words in [["root_key_exported"], ["root_key_removed"]] {
        wait_audit(&gateway, &words).await?;
    }
    let log = gateway.log().join("\n");
    assert!(!log.contains("PRIVATE KEY"), "{log}");
    gateway.start().await?;
    let bundle = gateway.add_device("press-1").await?;
    Leaf::connect(&bundle, gateway.broker(), Options::new(Version::V5)).await?;
    Ok(())
}
