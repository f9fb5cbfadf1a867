//! `replay = "live-first"`: what happens now is seen upstream at once, while what waited drains beside it.

use std::time::{Duration, Instant};

use fieldgate_testkit::{Load, Observed, Options, PATIENCE, Standstill, Version, eventually, history, wait_until};

use crate::stage::{Stage, Told, now_millis};

/// Messages that wait. More: `FIELDGATE_TEST_BACKLOG=100000`.
const BACKLOG: u64 = 6_000;
/// Of the live device.
const RATE: u32 = 500;
const FILLERS: usize = 4;
const LIVE_WITHIN: Duration = Duration::from_secs(1);

/// From the reception by the gateway to the arrival at the cloud.
fn took(message: &Observed) -> Option<Duration> {
    let arrived = now_millis().saturating_sub(u64::try_from(message.at.elapsed().as_millis()).ok()?);
    Some(Duration::from_millis(arrived.saturating_sub(message.number("fg-ts")?)))
}

#[tokio::test]
async fn live_messages_pass_a_backlog_that_drains_beside_them() -> Told {
    let backlog = std::env::var("FIELDGATE_TEST_BACKLOG").ok().and_then(|n| n.parse().ok()).unwrap_or(BACKLOG);
    let sections = "[broker.limits]\nmessage_rate = 0\n\n[buffer]\nreplay = \"live-first\"\nreplay_rate = 1500\ncommit_spacing = \"0s\"\n";
    // The rate: the cloud's observer here is slower than its acknowledgements, and its queue is not the gateway's.
    let stage = Stage::start("line-1", sections).await?;
    let live = stage.gateway.add_device("live").await?;
    let mut fillers = Vec::new();
    for number in 0..FILLERS {
        fillers.push((format!("filler-{number}"), stage.gateway.add_device(&format!("filler-{number}")).await?));
    }
    stage.relay.cut();
    let loads: Vec<_> = fillers
        .iter()
        .map(|(id, bundle)| (id, Load::start(bundle, stage.gateway.broker(), Options::new(Version::V5), 5_000)))
        .collect();
    let patience = PATIENCE + Duration::from_millis(backlog);
    let stored = || loads.iter().map(|(_, load)| load.count() as u64).sum::<u64>();
    wait_until("the backlog", patience, || (stored() >= backlog).then_some(())).await?;
    let mut sums = Vec::new();
    for (id, load) in loads {
        sums.push((id.clone(), load.stop().await?));
    }
    let load = Load::start(&live, stage.gateway.broker(), Options::new(Version::V5), RATE);
    wait_until("live messages that wait, too", PATIENCE, || (load.count() > 100).then_some(())).await?;
    let (machine, mended) = (Standstill::watch()?, Instant::now());
    stage.relay.mend();
    stage.wait_up().await?;
    // Of a fixed number of messages: when the fillers' are all there, the backlog is through.
    let waiting: u64 = sums.iter().map(|(_, sum)| sum.acknowledged.len() as u64).sum();
    eventually("the backlog's end", patience, async || {
        let buffer = stage.gateway.buffer().await?;
        let left: u64 = buffer["devices"].as_array().map_or(0, |devices| {
            let fillers = devices.iter().filter(|device| device["device"] != "live");
            fillers.filter_map(|device| device["waiting"].as_u64()).sum()
        });
        Ok((left == 0).then_some(()))
    })
    .await?;
    sums.push(("live".to_owned(), load.stop().await?));
    stage.wait_drained().await?;
    for (id, sum) in &sums {
        let topic = stage.topic(&format!("devices/{id}/telemetry/load"));
        let all = sum.acknowledged.clone();
        stage.cloud.wait_for(&topic, |m| m.arrival().is_some_and(|a| Some(&a.n) == all.last())).await?;
        let (historical, now): (Vec<_>, Vec<_>) =
            stage.cloud.arrivals(&topic).into_iter().partition(|arrival| arrival.historical);
        for (kind, arrivals) in [("history", &historical), ("live", &now)] {
            let findings = history::check([], arrivals);
            assert!(findings.is_clean(), "{id}, {kind}: {findings:?}");
        }
        let lost: Vec<_> = all.iter().filter(|n| !historical.iter().chain(&now).any(|a| a.n == **n)).collect();
        assert!(lost.is_empty(), "{id}: {lost:?}");
    }
    let topic = stage.topic("devices/live/telemetry/load");
    let messages = stage.cloud.messages(|other| other == topic);
    let live = messages.iter().filter(|message| message.arrival().is_some_and(|arrival| !arrival.historical));
    let mut latencies: Vec<Duration> = live.filter_map(took).collect();
    latencies.sort_unstable();
    let p99 = latencies[latencies.len() * 99 / 100];
    println!(
        "{waiting} waited; {} live messages, p50 {:?}, p99 {p99:?}",
        latencies.len(),
        latencies[latencies.len() / 2]
    );
    let allowed = machine.allowing(LIVE_WITHIN, mended);
    assert!(p99 <= allowed, "live p99 {p99:?} of {allowed:?}");
    Ok(())
}
