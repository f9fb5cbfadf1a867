//! `batch = "zstd"`: telemetry arrives in batches, complete and in order over an outage; everything else where it always is.

use std::time::Duration;

use fieldgate_testkit::history::{self, Arrival};
use fieldgate_testkit::{Load, Options, PATIENCE, Upstream, Version, wait_until};
use serde_json::{Value as Json, json};

use crate::stage::{Stage, Told};

/// The lines of all batches so far, in order.
fn lines(stage: &Stage) -> anyhow::Result<Vec<Json>> {
    let mut lines = Vec::new();
    for batch in stage.cloud.on(&stage.topic("batch")) {
        let text = zstd::bulk::decompress(&batch.payload, 1 << 20)?;
        for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            lines.push(serde_json::from_slice(line)?);
        }
    }
    Ok(lines)
}

fn arrival(line: &Json) -> Option<Arrival> {
    let number = |key: &str| line[key].as_u64();
    let historical = line["hist"] == true;
    Some(Arrival { n: line["json"]["n"].as_u64()?, boot: number("boot")?, seq: number("seq")?, historical })
}

#[tokio::test]
async fn nothing_is_lost_or_overtaken_in_batches_and_states_stay_single() -> Told {
    for upstream in [Upstream::V5, Upstream::V311] {
        let stage = Stage::over(upstream, "line-1", "batch = \"zstd\"\n\n[broker.limits]\nmessage_rate = 0\n").await?;
        let bundle = stage.gateway.add_device("press-1").await?;
        let load = Load::start(&bundle, stage.gateway.broker(), Options::new(Version::V5), 1_000);
        wait_until("live messages", PATIENCE, || (load.count() > 200).then_some(())).await?;
        stage.relay.cut();
        let before = load.count();
        wait_until("messages that wait", PATIENCE, || (load.count() > before + 500).then_some(())).await?;
        stage.relay.mend();
        let sum = load.stop().await?;
        stage.wait_drained().await?;
        let last = sum.acknowledged.last().copied();
        let arrivals = wait_until("the last message", PATIENCE, || {
            let arrivals: Vec<Arrival> = lines(&stage).ok()?.iter().filter_map(arrival).collect();
            arrivals.iter().any(|arrival| Some(arrival.n) == last).then_some(arrivals)
        })
        .await?;
        let findings = history::check(&sum.acknowledged, &arrivals);
        assert!(findings.is_clean(), "{findings:?}");
        assert!(findings.gateway_resends <= 4096, "{findings:?}");
        let batches = stage.cloud.on(&stage.topic("batch")).len();
        assert!(batches * 2 < arrivals.len(), "{} messages in {batches} batches", arrivals.len());
        assert!(stage.cloud.on(&stage.topic("devices/press-1/telemetry/load")).is_empty());
        let line = lines(&stage)?.into_iter().next().unwrap_or_default();
        assert_eq!((&line["v"], &line["device"]), (&json!(1), &json!("press-1")), "{line}");
        assert_eq!(line["topic"], "devices/press-1/telemetry/load");
        assert_eq!(line["id"], bundle.fingerprint()?.as_str());
        let state =
            stage.cloud.wait_within(&stage.topic("devices/press-1/state"), Duration::from_secs(5), |_| true).await?;
        assert_eq!(state.json()["via"], "mqtt");
    }
    Ok(())
}
