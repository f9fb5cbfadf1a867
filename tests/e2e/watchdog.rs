//! A loop that makes no turn is named by /healthz, and those that turn are not. By a clock that is moved, so the gateway runs
//! in the test: to the loop that looks at certificates once a minute, ten of them have passed without a turn.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use fieldgate::admin::overview::LoopKind;
use fieldgate::app::App;
use fieldgate::config;
use fieldgate_testkit::{PATIENCE, eventually, port};
use fieldgate_types::{Clock, ManualClock, SystemClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::stage::Told;

async fn healthz(app: &App) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(app.admin()).await?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_that_makes_no_turn_is_named_and_those_that_turn_are_not() -> Told {
    let folder = tempfile::tempdir()?;
    let nobody = port::free_address()?;
    let text = format!(
        "[gateway]\nid = \"line-1\"\n[broker]\nlisten = [\"127.0.0.1:0\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [upstream]\nurl = \"mqtt://{nobody}\"\nretry_max = \"1s\"\n\
         [[modbus]]\nurl = \"tcp://{nobody}\"\n[[modbus.device]]\nid = \"meter-1\"\n[[modbus.device.point]]\n\
         name = \"a\"\nat = \"holding:0\"\ntype = \"u16\"\n"
    );
    let config = config::read("gateway.toml", folder.path(), &text).config.context("no configuration")?;
    let clock = Arc::new(ManualClock::new(SystemClock::new().now()));
    let app = App::start(config, Arc::clone(&clock) as _).await?;
    assert!(healthz(&app).await?.starts_with("HTTP/1.1 200"), "all of them turn");

    // On a machine that is busy the minute may be over before the others have turned: then ten more pass.
    let answer = eventually("a turn of all loops but one", PATIENCE * 4, async || {
        if app.overview().stuck().is_empty() {
            clock.advance(Duration::from_secs(600));
        }
        let answer = healthz(&app).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("an answer has a head and a body")?;
        // More than one would be parted by a semicolon.
        let alone = body.starts_with("the upkeep of certificates has made no turn for ") && !body.contains(';');
        Ok((alone && head.starts_with("HTTP/1.1 503")).then_some(answer))
    })
    .await?;
    println!("{answer}");
    assert!(app.overview().stuck().iter().all(|(kind, _)| *kind == LoopKind::Upkeep), "{:?}", app.overview().stuck());
    app.stop().await;
    Ok(())
}
