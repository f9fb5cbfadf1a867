//! Store and forward: the line to the cloud is cut, stalled, mended; the gateway stopped meanwhile.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use fieldgate_testkit::{
    Ack, Leaf, Load, Observed, Options, PATIENCE, Standstill, Version, eventually, history, wait_until,
};
use serde_json::Value as Json;

use crate::stage::{Stage, Told, now_millis};

/// The sums of the ledger add up, for each device and for all.
fn check_sums(buffer: &Json) {
    let number = |device: &Json, key: &str| device[key].as_u64().unwrap();
    let devices = buffer["devices"].as_array().unwrap();
    for device in devices {
        let fates = ["delivered", "waiting", "expired", "evicted", "quarantined"];
        let sum: u64 = fates.iter().map(|fate| number(device, fate)).sum();
        assert_eq!(number(device, "received"), sum, "{device}");
    }
    let waiting: u64 = devices.iter().map(|device| number(device, "waiting")).sum();
    assert_eq!(number(buffer, "messages"), waiting, "{buffer}");
}

fn ledger(buffer: &Json, device: &str) -> Json {
    let devices = buffer["devices"].as_array().unwrap();
    devices.iter().find(|entry| entry["device"] == device).cloned().unwrap_or_default()
}

/// What waited longer than this is historical, whatever the gateway's idea of "just now" is.
const WAITED: Duration = Duration::from_secs(5);
/// What came faster is live.
const LIVE: Duration = Duration::from_secs(1);

/// What waited is marked as historical, what didn't is not.
fn check_marks(messages: &[Observed]) {
    let mut historical = 0;
    for message in messages {
        let arrived = now_millis().saturating_sub(u64::try_from(message.at.elapsed().as_millis()).unwrap());
        let waited = Duration::from_millis(arrived.saturating_sub(message.number("fg-ts").unwrap()));
        let arrival = message.arrival().unwrap();
        assert!(arrival.historical || waited < WAITED, "number {} waited {waited:?} and is not marked", arrival.n);
        assert!(!arrival.historical || waited > LIVE, "number {} came after {waited:?} and is marked", arrival.n);
        historical += usize::from(arrival.historical);
    }
    assert!(historical >= 100, "only {historical} of {} are marked", messages.len());
}

/// Waits until the oldest message in the buffer has waited for so long; what `buffer status --json` says then.
async fn wait_oldest(stage: &Stage, age: Duration) -> anyhow::Result<Json> {
    eventually("an old message in the buffer", PATIENCE, async || {
        let buffer = stage.gateway.buffer().await?;
        let oldest = buffer["oldest"].as_u64().unwrap_or(u64::MAX);
        Ok((u128::from(now_millis().saturating_sub(oldest)) >= age.as_millis()).then_some(buffer))
    })
    .await
}

async fn wait_down(stage: &Stage) -> Told {
    eventually("the loss of the upstream in status", PATIENCE, async || {
        let status = stage.gateway.status().await?;
        let said = status["problems"].to_string().contains("upstream");
        Ok((status["upstream"]["state"] != "up" && said).then_some(()))
    })
    .await
}

/// Runs a load until `count` more messages are acknowledged.
async fn more(load: &Load, count: usize) -> Told {
    let target = load.count() + count;
    wait_until("more acknowledged messages", PATIENCE, || (load.count() >= target).then_some(())).await
}

async fn check_arrived(stage: &Stage, device: &str, acknowledged: &BTreeSet<u64>) -> anyhow::Result<history::Findings> {
    let topic = stage.topic(&format!("devices/{device}/telemetry/load"));
    let last = *acknowledged.last().unwrap();
    stage.cloud.wait_for(&topic, |message| message.arrival().is_some_and(|arrival| arrival.n >= last)).await?;
    stage.wait_drained().await?;
    let findings = history::check(acknowledged, &stage.cloud.arrivals(&topic));
    assert!(findings.is_clean(), "{device}: {findings:?}");
    Ok(findings)
}

#[tokio::test]
async fn what_was_acknowledged_while_the_line_was_cut_arrives_in_order() -> Told {
    let stage = Stage::start("line-1", "").await?;
    let mut loads = Vec::new();
    for (id, version) in [("press-1", Version::V5), ("press-2", Version::V311)] {
        let bundle = stage.gateway.add_device(id).await?;
        loads.push((id, Load::start(&bundle, stage.gateway.broker(), Options::new(version), 300)));
    }
    for (_, load) in &loads {
        more(load, 50).await?;
    }
    stage.relay.cut();
    wait_down(&stage).await?;
    for (_, load) in &loads {
        more(load, 200).await?;
    }
    let buffer = wait_oldest(&stage, WAITED).await?;
    check_sums(&buffer);
    assert!(ledger(&buffer, "press-1")["waiting"].as_u64() >= Some(200), "{buffer}");

    let machine = Standstill::watch()?;
    stage.relay.mend();
    let mended = Instant::now();
    let mut sums = Vec::new();
    for (id, load) in loads {
        more(&load, 50).await?;
        sums.push((id, load.stop().await?.acknowledged));
    }
    for (id, acknowledged) in sums {
        let findings = check_arrived(&stage, id, &acknowledged).await?;
        assert_eq!(findings.device_resends, 0, "{findings:?}");
        let messages = stage.cloud.on(&stage.topic(&format!("devices/{id}/telemetry/load")));
        check_marks(&messages);
        let first = messages.iter().find(|message| message.at >= mended).unwrap();
        let noticed = first.at.duration_since(mended);
        println!("{id}: first message {noticed:?} after the line was mended; {findings:?}");
        let allowed = Duration::from_secs(3) + machine.between(mended, first.at);
        assert!(noticed < allowed, "retry_max is 1 s, the first message came after {noticed:?}");
    }
    let buffer = stage.wait_drained().await?;
    check_sums(&buffer);
    for id in ["press-1", "press-2"] {
        let ledger = ledger(&buffer, id);
        assert_eq!(ledger["delivered"], ledger["received"], "{ledger}");
    }
    Ok(())
}

#[tokio::test]
async fn what_waits_survives_a_stop_and_a_kill() -> Told {
    let mut stage = Stage::start("line-1", "").await?;
    let bundle = stage.gateway.add_device("press-1").await?;
    let load = Load::start(&bundle, stage.gateway.broker(), Options::new(Version::V5), 300);
    stage.relay.cut();
    wait_down(&stage).await?;
    more(&load, 100).await?;
    let began = Instant::now();
    assert_eq!(stage.gateway.stop().await?.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(11), "a stop takes at most 10 s: {:?}", began.elapsed());
    stage.gateway.start().await?;
    more(&load, 100).await?;
    stage.gateway.kill()?;
    stage.gateway.start().await?;
    more(&load, 100).await?;
    let acknowledged = load.stop().await?.acknowledged;
    stage.relay.mend();
    let findings = check_arrived(&stage, "press-1", &acknowledged).await?;
    println!("{findings:?}");
    let boots: BTreeSet<u64> =
        stage.cloud.arrivals(&stage.topic("devices/press-1/telemetry/load")).iter().map(|a| a.boot).collect();
    assert_eq!(boots, BTreeSet::from([1, 2, 3]));
    Ok(())
}

#[tokio::test]
async fn a_line_that_falls_silent_is_noticed_and_nothing_is_lost() -> Told {
    let stage = Stage::start("line-1", "").await?;
    let sections =
        format!("[upstream]\nurl = \"mqtt://{}\"\nkeep_alive = \"5s\"\nretry_max = \"1s\"\n", stage.relay.address());
    stage.gateway.configure(&sections)?;
    let mut stage = stage;
    stage.gateway.stop().await?;
    stage.gateway.start().await?;
    stage.wait_up().await?;
    let bundle = stage.gateway.add_device("press-1").await?;
    let leaf = Leaf::connect(&bundle, stage.gateway.broker(), Options::new(Version::V5)).await?;
    stage.relay.stall();
    let local = "devices/press-1/telemetry/t";
    assert_eq!(leaf.publish(local, "1").await?, Ack::Accepted);
    wait_down(&stage).await?;
    stage.relay.mend();
    let message = stage.cloud.wait_for(&stage.topic(local), |_| true).await?;
    assert_eq!(&message.payload[..], b"1");
    let buffer = stage.wait_drained().await?;
    check_sums(&buffer);
    Ok(())
}

#[tokio::test]
async fn a_full_buffer_drops_the_oldest_and_says_how_many() -> Told {
    let stage = Stage::start("line-1", "[buffer]\nmax_size = \"4MiB\"\n").await?;
    let bundle = stage.gateway.add_device("press-1").await?;
    let leaf = Leaf::connect(&bundle, stage.gateway.broker(), Options::new(Version::V5)).await?;
    // The device's state is the oldest message: it is not to be among the dropped ones.
    stage.cloud.wait_for(&stage.topic("devices/press-1/state"), |_| true).await?;
    stage.wait_drained().await?;
    stage.relay.cut();
    wait_down(&stage).await?;
    let local = "devices/press-1/telemetry/t";
    for n in 0..60 {
        let payload = format!("{{\"n\":{n},\"filler\":\"{}\"}}", "x".repeat(200_000));
        assert_eq!(leaf.publish(local, payload).await?, Ack::Accepted, "message {n}");
    }
    let buffer = stage.gateway.buffer().await?;
    check_sums(&buffer);
    let device = ledger(&buffer, "press-1");
    assert!(device["evicted"].as_u64() > Some(20), "{device}");
    assert!(device["losses"][0]["reason"].is_string(), "{device}");
    let files = ["queue.db", "queue.db-wal"].map(|name| stage.gateway.data_dir().join(name));
    let size: u64 = files.iter().filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum();
    assert!(size < 12 << 20, "4 MiB and a write-ahead log: {size}");

    stage.relay.mend();
    stage.wait_drained().await?;
    stage.cloud.wait_for(&stage.topic(local), |message| message.json()["n"] == 59).await?;
    let arrived: Vec<u64> =
        stage.cloud.on(&stage.topic(local)).iter().filter_map(|message| message.json()["n"].as_u64()).collect();
    let oldest = arrived[0];
    assert_eq!(arrived, (oldest..60).collect::<Vec<u64>>(), "the newest, without a gap");
    let device = ledger(&stage.gateway.buffer().await?, "press-1");
    assert_eq!(device["evicted"].as_u64(), Some(oldest), "{device}");
    Ok(())
}

/// The cloud retains states and births: one that had to give way would leave it with an older one for good.
#[tokio::test]
async fn a_state_and_a_birth_that_had_to_give_way_are_told_again() -> Told {
    let oven = "[[modbus]]\nurl = \"tcp://127.0.0.1:1\"\n  [[modbus.device]]\n  id = \"oven-1\"\n  unit = 1\n\
                    [[modbus.device.point]]\n    name = \"level\"\n    at = \"holding:0\"\n    type = \"u16\"\n";
    let small = format!("[buffer]\nmax_size = \"4MiB\"\ndevice_share = \"100%\"\n\n{oven}");
    let mut stage = Stage::start("line-1", &small).await?;
    let bundle = stage.gateway.add_device("press-1").await?;
    stage.wait_drained().await?;
    stage.relay.cut();
    wait_down(&stage).await?;
    let births = stage.topic("devices/oven-1/birth");
    let before = stage.cloud.on(&births).len();
    // Which makes a birth.
    stage.gateway.stop().await?;
    stage.gateway.start().await?;
    let leaf = Leaf::connect(&bundle, stage.gateway.broker(), Options::new(Version::V5)).await?;
    let local = "devices/press-1/telemetry/t";
    for n in 0..60 {
        let payload = format!("{{\"n\":{n},\"filler\":\"{}\"}}", "x".repeat(200_000));
        assert_eq!(leaf.publish(local, payload).await?, Ack::Accepted, "message {n}");
    }
    stage.relay.mend();
    let told = stage.cloud.wait_for(&stage.topic("devices/press-1/state"), |_| true).await?;
    assert_eq!(told.json()["online"], true, "{told:?}");
    let first = stage.cloud.wait_for(&stage.topic(local), |_| true).await?;
    assert!(first.json()["n"].as_u64() > Some(0), "nothing was evicted");
    // It was told after what waited, not kept from before.
    assert!(told.number("fg-seq") > first.number("fg-seq"), "{told:?}");
    let gap = stage.cloud.wait_for(&stage.topic("devices/oven-1/events"), |_| true).await?;
    assert_eq!(gap.json()["event"], "gap", "{gap:?}");
    wait_until("the birth", PATIENCE, || stage.cloud.on(&births).get(before).cloned()).await?;
    let buffer = stage.wait_drained().await?;
    check_sums(&buffer);
    Ok(())
}
