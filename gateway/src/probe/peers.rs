//! Those at the other ends: the upstream, servers and devices.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fieldgate_protocol::{Driver, LinkInfo, Tasks, Update, Uplink};
use fieldgate_types::{Clock, DeviceId, Pulse, SystemClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{Finding, Running, Try};
use crate::config::Config;
use crate::northbound::{self, UpstreamConfig};
use crate::southbound::drivers::{LinkConfig, LinkKey, links as configured};

/// A device that has not answered by then is not there.
const PATIENCE: Duration = Duration::from_secs(6);
/// For a server's greeting.
const GREETING: Duration = Duration::from_secs(4);

/// Looks the upstream up, connects, and with TLS shakes hands. `up`: what a running gateway says of the same.
pub(super) async fn upstream(
    config: UpstreamConfig,
    what: String,
    up: Option<(String, Option<String>)>,
) -> Vec<Finding> {
    let key = "upstream.url";
    let secure = if config.tls.is_some() { "TCP and TLS" } else { "TCP" };
    let mut findings = vec![match northbound::reach(&config).await {
        Ok(()) => Finding::ok(
            key,
            &what,
            format_args!("answers: {secure}; MQTT is not tried, it would end a session of this id"),
        ),
        Err((words, true)) => Finding::error(key, &what, words),
        Err((words, false)) => Finding::warning(key, &what, words),
    }];
    if let Some((state, why)) = up.filter(|(state, _)| state != "up") {
        let why = why.unwrap_or_else(|| "no reason yet".to_owned());
        findings.push(Finding::warning(key, &what, format_args!("the gateway that runs here is {state}: {why}")));
    }
    findings
}

/// A try for each link.
pub(super) fn links(config: &Config, running: Option<&Running>) -> Vec<Try> {
    let each = configured(config).into_iter().map(|(key, link)| -> Try {
        let LinkKey { protocol, name, .. } = key;
        if let Some(running) = running.filter(|running| running.keeps(protocol, &name)) {
            let said = running.status.links.iter().find(|link| link.link == name).cloned();
            let finding = match said {
                Some(link) if link.state == "up" => {
                    Finding::ok(protocol, &name, "is connected by the gateway that runs here")
                }
                said => {
                    let state = said.as_ref().map_or("unknown", |link| link.state.as_str());
                    let why = said.as_ref().and_then(|link| link.last_error.as_deref()).unwrap_or("no reason yet");
                    let words = format_args!("by the gateway that runs here it is {state}: {why}");
                    Finding::warning(protocol, &name, words)
                }
            };
            return (protocol, name, Box::pin(std::future::ready(vec![finding])));
        }
        match link {
            LinkConfig::Opcua(session) => {
                let (url, of) = (session.endpoint.url().to_owned(), name.clone());
                (protocol, name, Box::pin(async move { vec![greet(&of, &url, session.endpoint.address()).await] }))
            }
            LinkConfig::Modbus(_) => {
                let make = Arc::new(link).maker(&config.data_dir);
                let of = name.clone();
                (protocol, name, Box::pin(async move { poll(&of, make()).await }))
            }
        }
    });
    each.collect()
}

/// Lets the driver poll until every device has answered or failed.
async fn poll(name: &str, mut driver: Box<dyn Driver>) -> Vec<Finding> {
    let deadline = Instant::now() + PATIENCE;
    let protocol = driver.protocol();
    let mut open: BTreeMap<DeviceId, Option<Result<(), String>>> =
        driver.devices().into_iter().map(|device| (device.id, None)).collect();
    // Full: the driver waits.
    let (uplink, mut updates) = mpsc::channel(16);
    // Nobody commands.
    let (_commands, receiver) = mpsc::channel(1);
    let (state, watched) = watch::channel(LinkInfo::default());
    let stop = CancellationToken::new();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let tasks = Tasks {
        uplink: Uplink::new(uplink),
        commands: receiver,
        state,
        pulse: Pulse::new(Arc::clone(&clock)),
        clock,
        stop: stop.clone(),
    };
    let task = tokio::spawn(async move { driver.run(tasks).await });
    while open.values().any(Option::is_none) {
        let Ok(Some(update)) = timeout_at(deadline, updates.recv()).await else { break };
        let (device, answer) = match update {
            Update::Online { device }
            | Update::Points { device, .. }
            | Update::Samples { device, .. }
            | Update::Readings { device, .. }
            | Update::History { device, .. }
            | Update::Events { device, .. } => (device, Ok(())),
            Update::Offline { device, reason } => (device, Err(reason)),
        };
        // Its first word counts.
        open.entry(device).or_default().get_or_insert(answer);
    }
    stop.cancel();
    drop(updates);
    let why = watched.borrow().last_error.clone();
    let ended = timeout(Duration::from_secs(1), task).await;
    if !matches!(ended, Ok(Ok(()))) {
        tracing::debug!(link = name, "the driver did not end in time");
    }
    let finding = |(device, answer): (DeviceId, Option<Result<(), String>>)| {
        let what = format!("{name} `{device}`");
        match answer {
            Some(Ok(())) => Finding::ok(protocol, what, "answers its polls"),
            Some(Err(reason)) => Finding::warning(protocol, what, reason),
            None => Finding::warning(protocol, what, why.clone().unwrap_or_else(|| "no answer".to_owned())),
        }
    };
    open.into_iter().map(finding).collect()
}

/// Hello and Acknowledge of OPC UA (part 6, 7.1.2): a server answers one with the other, before any session.
async fn greet(name: &str, url: &str, (host, port): (&str, u16)) -> Finding {
    let key = "opcua";
    let work = async {
        let mut stream = TcpStream::connect((host, port)).await?;
        stream.write_all(&hello(url)).await?;
        let mut kind = [0_u8; 4];
        stream.read_exact(&mut kind).await?;
        Ok::<_, std::io::Error>(kind)
    };
    match timeout(GREETING, work).await {
        Ok(Ok(kind)) if &kind == b"ACKF" => Finding::ok(key, name, "is an OPC UA server"),
        Ok(Ok(kind)) if &kind == b"ERRF" => {
            Finding::warning(key, name, "is an OPC UA server, and refuses this endpoint")
        }
        Ok(Ok(_)) => Finding::error(key, name, "answers, but not as an OPC UA server"),
        Ok(Err(error)) => Finding::warning(key, name, format_args!("can't be reached: {error}")),
        Err(_) => Finding::warning(key, name, "no answer in time"),
    }
}

fn hello(url: &str) -> Vec<u8> {
    let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes();
    let mut message = b"HELF".to_vec();
    message.extend(length(8 + 20 + 4 + url.len()));
    // Version 0; buffers of 64 KiB; no limit on messages and chunks.
    for number in [0_u32, 65_536, 65_536, 0, 0] {
        message.extend(number.to_le_bytes());
    }
    message.extend(length(url.len()));
    message.extend(url.as_bytes());
    message
}
