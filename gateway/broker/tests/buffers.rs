//! All buffers together: at the limit newcomers are refused and publishes wait, connected receivers go on, and absent
//! ones can't hold everybody up.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::pedantic)]

mod support;

use std::time::{Duration, Instant};

use fieldgate_broker::{Limits, Role, Table};
use support::packets::Connect;
use support::{Plant, until};

const TOPIC: &str = "devices/d1/telemetry/t";

#[tokio::test(flavor = "multi_thread")]
async fn absent_receivers_give_way_when_all_buffers_are_full() {
    let limits = Limits { buffers: 512 << 10, session_queue_bytes: 4 << 20, message_rate: 0, ..Limits::default() };
    let plant = Plant::with_limits(limits).await;
    plant.gate.role("app", Role::App);
    plant.gate.allow("app", "#");
    let mut absent = plant.socket("app").await;
    absent.connect(Connect::v5("app/absent").persistent()).await;
    absent.subscribe("devices/+/telemetry/#", 1).await;
    drop(absent);
    until("away", || async { plant.broker.metrics().connections == 0 }).await;
    let mut live = plant.socket("app").await;
    live.connect(Connect::v5("app/live")).await;
    live.subscribe("devices/+/telemetry/#", 1).await;
    let mut neighbour = plant.v5("d2").await;
    let mut device = plant.v5("d1").await;
    let payload = "x".repeat(8 << 10);
    let mut newcomer = None;
    let mut slowest = Duration::ZERO;
    for id in 1..=200 {
        device.publish(2, TOPIC, id, &payload).await;
        assert_eq!(live.receive().await.payload.len(), payload.len());
        device.acked(0x40).await;
        if newcomer.is_none() && plant.broker.metrics().buffer_bytes >= 512 << 10 {
            newcomer = Some(plant.socket("d3").await.refused(Connect::v5("d3")).await);
            // Pings of everybody are answered meanwhile.
            let began = Instant::now();
            neighbour.send(&[0xC0, 0]).await;
            assert_eq!(neighbour.read().await.unwrap().first, 0xD0);
            slowest = began.elapsed();
        }
    }
    assert_eq!(newcomer, Some(0x97));
    assert!(slowest < Duration::from_millis(500), "a ping took {slowest:?}");
    let metrics = plant.broker.metrics();
    assert!(metrics.buffer_waits > 0 && metrics.dropped_buffers_full > 0, "{metrics:?}");
    // What the absent one lost has left the store as well, and nothing leaks.
    let places = || plant.sessions.keys(Table::Sessions).iter().filter(|key| key[0] == b'q').count();
    let expected = 200 - usize::try_from(metrics.dropped_buffers_full).unwrap();
    until("places", || async { places() == expected }).await;
    let mut absent = plant.socket("app").await;
    absent.connect(Connect::v5("app/absent")).await;
    until("freed", || async { plant.broker.metrics().buffer_bytes < 128 << 10 }).await;
}
