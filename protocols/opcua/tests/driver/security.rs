//! Who the server is, and who we are.

use std::path::Path;

use fieldgate_opcua::Pki;
use fieldgate_opcua::sim::{Options, Simulator};
use fieldgate_protocol::LinkState;
use tempfile::tempdir;

use crate::rig::{NONE, PLAIN, Rig, config, loopback};

fn secure(dir: &Path) -> Options {
    Options { secure: true, ..Options::new(dir.join("sim")) }
}

fn login(file: &Path) -> String {
    format!("auth = {{ username = \"op\", password_file = \"{}\" }}", file.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_trust_refuses_an_unknown_server_until_its_certificate_is_accepted() {
    let dir = tempdir().unwrap();
    let sim = Simulator::start(loopback(), secure(dir.path())).unwrap();
    // Basic256Sha256 and SignAndEncrypt are the defaults, as is strict trust.
    let mut rig = Rig::start(config(&sim.endpoint(), "", PLAIN), dir.path());
    let reason = rig.offline().await;
    let info = rig.state(LinkState::Refused).await;
    assert_eq!(info.last_error.as_ref(), Some(&reason));
    let (_, thumbprint) = reason.split_once("accept it with: fieldgate opcua trust accept ").unwrap();
    let rejected = dir.path().join("opcua/rejected");
    assert_eq!(std::fs::read_dir(&rejected).unwrap().count(), 1);
    assert_eq!(std::fs::read_dir(dir.path().join("opcua/trusted")).unwrap().count(), 0);

    Pki::new(dir.path().join("opcua")).accept(thumbprint).unwrap();
    // At once, not after the minute that refused links wait.
    rig.value("level", 50.0).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn first_use_pins_the_first_server_and_refuses_the_next() {
    let dir = tempdir().unwrap();
    let sim = Simulator::start(loopback(), secure(dir.path())).unwrap();
    let address = sim.address();
    for keys in [
        "trust = \"first-use\"\nsecurity = \"Aes128-Sha256-RsaOaep\"\nmode = \"Sign\"",
        "trust = \"first-use\"\nsecurity = \"Aes256-Sha256-RsaPss\"",
        "trust = \"strict\"\nsecurity = \"Basic256Sha256\"\nmode = \"Sign\"",
    ] {
        let mut rig = Rig::start(config(&sim.endpoint(), keys, PLAIN), dir.path());
        rig.value("level", 50.0).await;
        rig.stop().await;
    }
    drop(sim);

    let other = Options { dir: dir.path().join("another"), ..secure(dir.path()) };
    let other = Simulator::start(address, other).unwrap();
    let mut rig = Rig::start(config(&other.endpoint(), "trust = \"first-use\"", PLAIN), dir.path());
    let reason = rig.offline().await;
    assert!(reason.contains("is not trusted"), "{reason}");
    rig.state(LinkState::Refused).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_another_host_is_refused_with_its_reason() {
    let dir = tempdir().unwrap();
    let options = Options { host_names: vec!["plc.example".to_owned()], ..secure(dir.path()) };
    let sim = Simulator::start(loopback(), options).unwrap();
    let mut rig = Rig::start(config(&sim.endpoint(), "trust = \"first-use\"", PLAIN), dir.path());
    let reason = rig.offline().await;
    assert!(reason.contains("BadCertificateHostNameInvalid") && reason.contains("`endpoint`"), "{reason}");
    rig.state(LinkState::Refused).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_gets_in_with_the_right_password_and_as_soon_as_it_is_right() {
    let dir = tempdir().unwrap();
    let user = Some(("op".to_owned(), "right".to_owned()));
    let options = Options { anonymous: false, user, ..secure(dir.path()) };
    let sim = Simulator::start(loopback(), options).unwrap();
    let file = dir.path().join("op.password");
    let keys = format!("trust = \"first-use\"\n{}", login(&file));

    // No file yet: refused, with its path, and no crash.
    let mut rig = Rig::start(config(&sim.endpoint(), &keys, PLAIN), dir.path());
    let reason = rig.offline().await;
    assert!(reason.contains(&file.display().to_string()), "{reason}");
    rig.state(LinkState::Refused).await;

    std::fs::write(&file, "wrong\n").unwrap();
    let wrong = |info: &fieldgate_protocol::LinkInfo| {
        info.last_error.as_ref().is_some_and(|error| error.contains("user name or its password"))
    };
    tokio::time::timeout(crate::rig::DEADLINE, rig.info.wait_for(wrong)).await.unwrap().unwrap();
    rig.state(LinkState::Refused).await;

    std::fs::write(&file, "right\n").unwrap();
    rig.value("level", 50.0).await;
    rig.stop().await;

    // The same without security, where the simulator takes the password as it is.
    let mut rig = Rig::start(config(&sim.endpoint(), &format!("{NONE}\n{}", login(&file)), PLAIN), dir.path());
    rig.value("level", 50.0).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_the_wanted_security_is_refused_with_what_it_offers() {
    let dir = tempdir().unwrap();
    let sim = Simulator::start(loopback(), Options::new(dir.path().join("sim"))).unwrap();
    let mut rig = Rig::start(config(&sim.endpoint(), "", PLAIN), dir.path());
    let reason = rig.offline().await;
    assert_eq!(reason, "the server has no endpoint with Basic256Sha256/SignAndEncrypt; it offers None/None");
    rig.state(LinkState::Refused).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_policy_and_mode_carries_values() {
    let dir = tempdir().unwrap();
    let sim = Simulator::start(loopback(), secure(dir.path())).unwrap();
    for policy in ["Basic256Sha256", "Aes128-Sha256-RsaOaep", "Aes256-Sha256-RsaPss"] {
        for mode in ["Sign", "SignAndEncrypt"] {
            let keys = format!("trust = \"first-use\"\nsecurity = \"{policy}\"\nmode = \"{mode}\"");
            let mut rig = Rig::start(config(&sim.endpoint(), &keys, PLAIN), dir.path());
            rig.value("level", 50.0).await;
            rig.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_gets_in_with_a_certificate_and_another_one_does_not() {
    let dir = tempdir().unwrap();
    let user = |name: &str| Pki::new(dir.path().join(name)).own_certificate(true).unwrap().path;
    let (holder, stranger) = (user("holder"), user("stranger"));
    let options = Options { anonymous: false, user_cert: Some(holder.clone()), ..secure(dir.path()) };
    let sim = Simulator::start(loopback(), options).unwrap();
    let keys = |cert: &Path| {
        let key = cert.parent().unwrap().parent().unwrap().join("private/private.pem");
        format!("trust = \"first-use\"\nauth = {{ cert = \"{}\", key = \"{}\" }}", cert.display(), key.display())
    };
    let mut rig = Rig::start(config(&sim.endpoint(), &keys(&holder), PLAIN), dir.path());
    rig.value("level", 50.0).await;
    rig.stop().await;

    let mut rig = Rig::start(config(&sim.endpoint(), &keys(&stranger), PLAIN), dir.path());
    let reason = rig.offline().await;
    assert!(reason.contains("user's certificate"), "{reason}");
    rig.state(LinkState::Refused).await;
    rig.stop().await;

    let mut rig = Rig::start(config(&sim.endpoint(), &keys(&dir.path().join("a/b/none.der")), PLAIN), dir.path());
    let reason = rig.offline().await;
    assert!(reason.contains("can't use the user's certificate") && reason.contains("none.der"), "{reason}");
    rig.state(LinkState::Refused).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_certificate_ends_a_session_that_stands_on_it() {
    let dir = tempdir().unwrap();
    let sim = Simulator::start(loopback(), secure(dir.path())).unwrap();
    let mut rig = Rig::start(config(&sim.endpoint(), "trust = \"first-use\"", PLAIN), dir.path());
    rig.value("level", 50.0).await;
    let pki = Pki::new(dir.path().join("opcua"));
    let thumbprint = pki.known().unwrap().remove(0).thumbprint;
    pki.reject(&thumbprint).unwrap();
    let reason = rig.offline().await;
    assert!(reason.contains(&thumbprint), "{reason}");
    pki.accept(&thumbprint).unwrap();
    rig.value("level", 50.0).await;
    rig.stop().await;
}
