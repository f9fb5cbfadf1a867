//! `kill -9` of the gateway under load: what was acknowledged arrives, in order.

use std::time::Duration;

use fieldgate_testkit::{Load, Options, PATIENCE, Relay, Standstill, Version, history, wait_until};

use crate::stage::{Stage, Told, now_millis};

const RATE: u32 = 200;
const KILLS: u32 = 4;
/// From the start of the process to the first PUBACK.
const BACK_WITHIN: Duration = Duration::from_secs(2);

/// Numbers for a test that prints its seed (xorshift, Marsaglia 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_over_kills_under_load() -> Told {
    let mut stage = Stage::start("line-1", "").await?;
    survives_kills(&mut stage, |_, _| ()).await
}

/// The upstream's word is as good as the disk's, and the upstream is there, silent or gone as chance will have it.
#[tokio::test]
async fn nothing_acknowledged_is_lost_over_kills_when_either_word_counts() -> Told {
    let mut stage = Stage::start("line-1", "[buffer]\nacknowledge = \"either\"\n").await?;
    survives_kills(&mut stage, |random, relay| match random.below(4) {
        0 => relay.stall(),
        1 => relay.cut(),
        _ => relay.mend(),
    })
    .await
}

/// Load, and kills at random moments; `weather` may do something to the line before each.
async fn survives_kills(stage: &mut Stage, mut weather: impl FnMut(&mut Random, &Relay)) -> Told {
    let seed = std::env::var("FIELDGATE_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(now_millis);
    println!("FIELDGATE_TEST_SEED={seed}");
    let mut random = Random(seed.max(1));
    let machine = Standstill::watch()?;
    let mut loads = Vec::new();
    for (id, version) in [("press-1", Version::V5), ("press-2", Version::V311)] {
        let bundle = stage.gateway.add_device(id).await?;
        loads.push((id, Load::start(&bundle, stage.gateway.broker(), Options::new(version), RATE)));
    }
    for kill in 1..=KILLS {
        weather(&mut random, &stage.relay);
        let targets: Vec<usize> =
            loads.iter().map(|(_, load)| load.count() + 20 + usize::try_from(random.below(150)).unwrap_or(0)).collect();
        let enough = || loads.iter().zip(&targets).all(|((_, load), target)| load.count() >= *target).then_some(());
        wait_until("acknowledged messages", PATIENCE, enough).await?;
        stage.gateway.kill()?;
        stage.gateway.start().await?;
        let started = stage.gateway.started()?;
        let firsts = || {
            let connections = loads.iter().map(|(_, load)| load.connection());
            connections.filter(|(count, _)| *count > u64::from(kill)).filter_map(|(_, first)| first).min()
        };
        let first = wait_until("a PUBACK after the start", PATIENCE, firsts).await?;
        let back = first.duration_since(started);
        let allowed = BACK_WITHIN + machine.between(started, first);
        println!(
            "kill {kill}: ready after {:?}, first PUBACK after {back:?} of {allowed:?}",
            stage.gateway.start_took()?
        );
        assert!(back <= allowed, "kill {kill}: the first PUBACK came {back:?} after the start");
    }
    stage.relay.mend();
    let mut sums = Vec::new();
    for (id, load) in loads {
        sums.push((id, load.stop().await?));
    }
    stage.wait_drained().await?;
    for (id, sum) in sums {
        let topic = stage.topic(&format!("devices/{id}/telemetry/load"));
        let last = *sum.acknowledged.last().unwrap();
        stage.cloud.wait_for(&topic, |m| m.arrival().is_some_and(|a| a.n >= last)).await?;
        let findings = history::check(&sum.acknowledged, &stage.cloud.arrivals(&topic));
        println!("{id}: {} acknowledged over {} connections; {findings:?}", sum.acknowledged.len(), sum.connections);
        assert!(findings.is_clean(), "{id}: {findings:?}");
        assert_eq!(sum.connections, u64::from(KILLS) + 1, "{id} was disconnected by kills alone");
        // A device sends at most its window again after each loss.
        assert!(findings.device_resends <= 20 * KILLS as usize, "{id}: {findings:?}");
    }
    Ok(())
}
