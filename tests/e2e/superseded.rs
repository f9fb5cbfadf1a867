//! A session on a certificate that was replaced ends when its grace is over, and no other. By a clock that is moved, so
//! the gateway runs in the test.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use fieldgate::app::App;
use fieldgate::identity::Wanted;
use fieldgate::{config, upkeep};
use fieldgate_certs::{Issued, Role, SUPERSEDE_GRACE};
use fieldgate_testkit::{Ack, Bundle, Leaf, Options, PATIENCE, Version, eventually};
use fieldgate_types::{Clock, DeviceId, ManualClock, SystemClock};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::stage::Told;

const HOUR: Duration = Duration::from_hours(1);

fn bundle(folder: &std::path::Path, name: &str, issued: &Issued, key: &str) -> anyhow::Result<Bundle> {
    let folder = folder.join(name);
    std::fs::create_dir(&folder)?;
    std::fs::write(folder.join("cert.pem"), &issued.certificate_pem)?;
    std::fs::write(folder.join("ca.pem"), &issued.ca_pem)?;
    std::fs::write(folder.join("key.pem"), key)?;
    Ok(Bundle::new("hmi", folder))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_on_a_replaced_certificate_ends_with_its_grace_and_the_newer_one_stays() -> Told {
    let folder = tempfile::tempdir()?;
    let text = "[gateway]\nid = \"line-1\"\n[broker]\nlisten = [\"127.0.0.1:0\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n";
    let config = config::read("gateway.toml", folder.path(), text).config.context("no configuration")?;
    let clock = Arc::new(ManualClock::new(SystemClock::new().now()));
    let app = App::start(config, Arc::clone(&clock) as _).await?;
    let overview = Arc::clone(app.overview());
    let (authority, broker) = (&overview.authority, overview.broker.local_addrs()[0]);

    // A program may have several connections.
    let old = authority.add(&DeviceId::new("hmi")?, &Wanted::as_role(Role::App), None)?;
    let key = old.key_pem.as_ref().context("no key")?.expose().to_owned();
    let chain = [CertificateDer::from_pem_slice(old.certificate_pem.as_bytes())?];
    let peer = authority.ca.identify(&chain, &*authority.registry, clock.now())?;
    let fresh = KeyPair::generate()?;
    let request = CertificateParams::default().serialize_request(&fresh)?.pem()?;
    let new = authority.ca.renew_from_csr(&*authority.registry, request.as_bytes(), &peer, 8000 * HOUR)?;
    let (old, new) =
        (bundle(folder.path(), "old", &old, &key)?, bundle(folder.path(), "new", &new, &fresh.serialize_pem())?);
    let connect = async |bundle: &Bundle, client: &str| {
        let options = Options { client_id: Some(client.to_owned()), ..Options::new(Version::V5) };
        Leaf::connect(bundle, broker, options).await
    };
    let leaving = connect(&old, "hmi/1").await?;
    let staying = connect(&new, "hmi/2").await?;
    let replaced = authority.registry.certificates(&peer.id).into_iter().find(|record| record.serial == peer.serial);
    let replaced = replaced.context("the old certificate is not there")?.key();
    eventually("the old certificate marked as replaced", PATIENCE, async || {
        Ok((!authority.registry.to_supersede(&replaced)).then_some(()))
    })
    .await?;

    assert_eq!(SUPERSEDE_GRACE, HOUR * 168);
    // By the wall clock alone, in steps that are believed: the sessions' own timers stand still.
    for step in [HOUR * 100, HOUR * 67] {
        clock.step_to(clock.now().plus(step));
        upkeep::end_superseded(&overview).await;
    }
    assert!(leaving.ended().is_none(), "an hour too early: {:?}", leaving.ended());
    assert!(connect(&old, "hmi/3").await.is_ok(), "it is accepted for another hour");
    clock.step_to(clock.now().plus(HOUR));
    upkeep::end_superseded(&overview).await;
    let (_, why) = leaving.wait_ended(PATIENCE).await?;
    println!("ended: {why}");
    assert!(connect(&old, "hmi/3").await.is_err(), "it came back");
    assert!(staying.ended().is_none(), "{:?}", staying.ended());
    // A program may publish nowhere by itself; that it is told so shows that it is there.
    assert_eq!(staying.publish("devices/hmi/telemetry/t", "1").await?, Ack::Refused(0x87));
    let audit = &overview.audit_folder;
    for words in [["session_ended", "its certificate was replaced"], ["connection_refused", "was replaced by another"]]
    {
        eventually(&format!("an audit line with {words:?}"), PATIENCE, async || {
            let lines = fieldgate::audit::tail(audit, 100)?;
            Ok(lines.iter().any(|line| words.iter().all(|word| line.contains(word))).then_some(()))
        })
        .await?;
    }
    app.stop().await;
    Ok(())
}
