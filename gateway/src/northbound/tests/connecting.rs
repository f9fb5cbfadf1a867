//! Coming up, and being refused.

use std::time::Duration;

use super::super::{Login, Protocol, UpstreamState};
use super::liar::{Liar, Reply, Script};
use super::{Bench, config, eventually};

#[tokio::test]
async fn greets_subscribes_announces_itself_then_sends_data() {
    for (protocol, v5) in [(Protocol::V5, true), (Protocol::V311, false)] {
        let liar = Liar::start(Script::honest(v5)).await;
        let bench = Bench::new();
        bench.fill("press-1", 0, 3).await;
        let running = bench.start(config(liar.port, protocol));
        bench.emptied().await;
        {
            let seen = liar.seen();
            assert_eq!(seen.filters, ["fieldgate/line-4/devices/+/commands/#"]);
            let topics: Vec<&str> = seen.published.iter().map(|p| p.topic.as_str()).collect();
            let telemetry = "fieldgate/line-4/devices/press-1/telemetry/t";
            assert_eq!(topics, ["fieldgate/line-4/state", telemetry, telemetry, telemetry]);
            assert!(seen.published[0].retain && !seen.published[1].retain);
            let connect = &seen.connects[0];
            // Flags: will, QoS 1, retained; no clean start.
            assert_eq!((connect[6], connect[7]), (if v5 { 5 } else { 4 }, 0b0010_1100));
            let connect = String::from_utf8_lossy(connect);
            assert!(connect.contains("fieldgate/line-4/state") && connect.contains(r#"{"online":false"#));
        }
        assert!(liar.states()[0].starts_with(r#"{"online":true,"since":1"#), "{:?}", liar.states());
        let status = running.handle.status();
        assert_eq!((status.state, status.connects, status.acknowledged), (UpstreamState::Up, 1, 3));
        running.stopped().await;
    }
}

#[tokio::test]
async fn says_which_password_is_wrong_and_goes_on_trying() {
    let dir = tempfile::tempdir().unwrap();
    let password_file = dir.path().join("up.password");
    std::fs::write(&password_file, "secret\nsecond line\n").unwrap();
    for (protocol, v5, code) in [(Protocol::V5, true, 0x86), (Protocol::V311, false, 4)] {
        let mut script = Script::honest(v5);
        script.connack = Box::new(move |n| if n < 3 { code } else { 0 });
        let liar = Liar::start(script).await;
        let bench = Bench::new();
        bench.fill("press-1", 0, 1).await;
        let login = Some(Login { username: "gw".to_owned(), password_file: password_file.clone() });
        let running = bench.start(super::super::UpstreamConfig { login, ..config(liar.port, protocol) });
        eventually("refused", || running.handle.status().state == UpstreamState::Down).await;
        let why = running.handle.status().last_error.unwrap();
        assert!(why.contains("bad user name or password") && why.contains("up.password"), "{why}");
        bench.emptied().await;
        let connect = String::from_utf8_lossy(&liar.seen().connects[0]).into_owned();
        assert!(connect.contains("secret") && !connect.contains("second"), "{connect}");
        running.stopped().await;
    }
}

#[tokio::test]
async fn says_that_it_is_not_authorized() {
    let mut script = Script::honest(true);
    script.connack = Box::new(|_| 0x87);
    let liar = Liar::start(script).await;
    let bench = Bench::new();
    let running = bench.start(config(liar.port, Protocol::V5));
    eventually("refused", || running.handle.status().last_error.is_some()).await;
    let why = running.handle.status().last_error.unwrap();
    assert!(why.contains("not authorized"), "{why}");
    // Not hammered: a lasting refusal is tried again every retry_max, 1 s here.
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(liar.seen().connections, 1);
    running.stopped().await;
}

#[tokio::test]
async fn a_refused_subscription_is_an_error_with_its_reason() {
    for (protocol, v5, code) in [(Protocol::V5, true, 0x87), (Protocol::V311, false, 0x80), (Protocol::V5, true, 0)] {
        let mut script = Script::honest(v5);
        script.suback = Box::new(move |_| code);
        let liar = Liar::start(script).await;
        let bench = Bench::new();
        let running = bench.start(config(liar.port, protocol));
        eventually("refused", || running.handle.status().last_error.is_some()).await;
        let why = running.handle.status().last_error.unwrap();
        assert!(why.contains("the subscription to `fieldgate/line-4/devices/+/commands/#` was refused"), "{why}");
        assert_eq!(liar.states(), [""; 0]);
        running.stopped().await;
    }
}

#[tokio::test]
async fn says_that_nobody_listens_and_that_a_file_is_missing() {
    let bench = Bench::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let running = bench.start(config(free, Protocol::V5));
    eventually("refused", || running.handle.status().last_error.is_some()).await;
    let why = running.handle.status().last_error.unwrap();
    assert!(why.contains(&format!("can't reach 127.0.0.1:{free}")), "{why}");
    running.stopped().await;

    let tls = Some(super::super::TlsFiles { ca: Some("/nowhere/ca.pem".into()), identity: None });
    let running = bench.start(super::super::UpstreamConfig { tls, ..config(free, Protocol::V5) });
    eventually("refused", || running.handle.status().last_error.is_some()).await;
    let why = running.handle.status().last_error.unwrap();
    assert!(why.contains("`/nowhere/ca.pem` ([upstream] ca)"), "{why}");
    running.stopped().await;
}

#[tokio::test]
async fn keeps_to_the_upstreams_receive_maximum() {
    let mut script = Script::honest(true);
    script.properties = vec![0x21, 0, 7];
    script.reply = Box::new(|_, _| Reply::Silence);
    let liar = Liar::start(script).await;
    let bench = Bench::new();
    bench.fill("press-1", 0, 50).await;
    let running = bench.start(config(liar.port, Protocol::V5));
    eventually("the window is full", || running.handle.status().in_flight == 7).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(liar.numbers()["press-1"].len(), 7);
    running.task.abort();
}
