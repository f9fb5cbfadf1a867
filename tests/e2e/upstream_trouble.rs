//! An upstream that refuses or isn't there: the gateway runs on and says so.

use fieldgate_testkit::{Ack, Cloud, Gateway, Leaf, Options, PATIENCE, Upstream, Version, eventually, port};
use serde_json::Value as Json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::stage::{BINARY, Told};

async fn wait_problem(gateway: &Gateway, words: &[&str]) -> anyhow::Result<Json> {
    eventually(&format!("a problem with {words:?}"), PATIENCE, async || {
        let status = gateway.status().await?;
        let problems = status["problems"].to_string();
        Ok(words.iter().all(|word| problems.contains(word)).then_some(status))
    })
    .await
}

async fn works_locally(gateway: &Gateway) -> Told {
    assert_eq!(gateway.get("/readyz").await?.status, 200);
    let bundle = gateway.add_device("press-1").await?;
    let leaf = Leaf::connect(&bundle, gateway.broker(), Options::new(Version::V5)).await?;
    assert_eq!(leaf.publish("devices/press-1/telemetry/t", "1").await?, Ack::Accepted);
    Ok(())
}

#[tokio::test]
async fn a_wrong_password_is_said_and_a_mended_one_is_used() -> Told {
    for (upstream, protocol) in [(Upstream::V5, 5), (Upstream::V311, 4)] {
        let cloud = Cloud::with_login(upstream, Some(("line-1", "secret"))).await?;
        let url = cloud.address();
        let sections = format!(
            "[upstream]\nurl = \"mqtt://{url}\"\nprotocol = {protocol}\nusername = \"line-1\"\n\
             password_file = \"upstream.password\"\nretry_max = \"1s\"\n"
        );
        let mut gateway = Gateway::new(BINARY, "line-1", &sections)?;
        let file = gateway.folder().join("upstream.password");
        std::fs::write(&file, "wrong\n")?;
        gateway.start().await?;
        let status = wait_problem(&gateway, &["upstream"]).await?;
        works_locally(&gateway).await?;
        println!("{}", status["problems"]);
        std::fs::write(&file, "secret\n")?;
        let topic = "fieldgate/line-1/devices/press-1/telemetry/t";
        cloud.wait_for(topic, |_| true).await?;
        assert_eq!(gateway.status().await?["problems"], serde_json::json!([]));
        let log = gateway.log().join("\n");
        assert!(!log.contains("secret"), "no secrets in the log: {log}");
    }
    Ok(())
}

#[tokio::test]
async fn a_refusal_is_said_in_words() -> Told {
    // rumqttd closes without a CONNACK, so this upstream is a listener that answers the CONNECT by hand: bad user name
    // or password (MQTT 5 table 3-1, 3.1.1 table 3.1).
    for (protocol, connack) in [(5, &[0x20, 3, 0, 0x86, 0][..]), (4, &[0x20, 2, 0, 4])] {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = listener.local_addr()?;
        let answering = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut connect = [0; 1024];
                let asked = stream.read(&mut connect).await;
                let answered = stream.write_all(connack).await;
                assert!(asked.is_ok() && answered.is_ok(), "{asked:?} {answered:?}");
            }
        });
        let sections = format!("[upstream]\nurl = \"mqtt://{url}\"\nprotocol = {protocol}\n");
        let gateway = Gateway::start_new(BINARY, "line-1", &sections).await?;
        let status = wait_problem(&gateway, &["password"]).await?;
        println!("{}", status["problems"]);
        works_locally(&gateway).await?;
        answering.abort();
    }
    Ok(())
}

#[tokio::test]
async fn an_unreachable_upstream_is_said() -> Told {
    let nobody = port::free_address()?;
    let gateway = Gateway::start_new(BINARY, "line-1", &format!("[upstream]\nurl = \"mqtt://{nobody}\"\n")).await?;
    let status = wait_problem(&gateway, &["upstream", "refused"]).await?;
    assert!(status["upstream"]["last_error"].is_string(), "{status}");
    works_locally(&gateway).await
}

#[tokio::test]
async fn a_missing_password_file_is_said() -> Told {
    let sections = "[upstream]\nurl = \"mqtt://127.0.0.1:9\"\nusername = \"a\"\npassword_file = \"none.password\"\n";
    let gateway = Gateway::start_new(BINARY, "line-1", sections).await?;
    wait_problem(&gateway, &["none.password"]).await?;
    works_locally(&gateway).await
}
