//! Retained messages: per client, in all, in bytes.

use fieldgate_broker::{Limits, Role, Table};

use crate::neighbour::Neighbour;
use crate::support::packets::Connect;
use crate::support::{Client, Plant, until};

async fn keep(device: &mut Client, id: &str, stream: &str, payload: &str) -> u8 {
    device.publish(3, &format!("devices/{id}/telemetry/{stream}"), 7, payload).await;
    device.acked(0x40).await.1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_keeps_so_many_retained_messages() {
    let plant = Plant::with_limits(Limits { retained_per_client: 3, ..Limits::default() }).await;
    let neighbour = Neighbour::beside(&plant).await;
    let mut device = plant.v5("d1").await;
    for (stream, code) in [("a", 0), ("b", 0), ("c", 0), ("d", 0x97), ("a", 0)] {
        assert_eq!(keep(&mut device, "d1", stream, "x").await, code, "{stream}");
    }
    // Clearing one makes room; others have their own.
    assert_eq!(keep(&mut device, "d1", "b", "").await, 0);
    assert_eq!(keep(&mut device, "d1", "d", "x").await, 0);
    let mut other = plant.v5("d2").await;
    assert_eq!(keep(&mut other, "d2", "a", "x").await, 0);
    // 3.1.1 and QoS 0 have no way to be told: delivered, not kept.
    plant.gate.role("app", Role::App);
    plant.gate.allow("app", "devices/#");
    let mut app = plant.v5("app").await;
    assert_eq!(app.subscribe("devices/d1/telemetry/e", 0).await, 0);
    let mut old = plant.v311("d1").await;
    assert_eq!(keep(&mut old, "d1", "e", "not kept").await, 0);
    assert_eq!(app.receive().await.payload, b"not kept");
    let metrics = plant.broker.metrics();
    assert_eq!((metrics.retained_messages, metrics.retained_refused, metrics.publish_refused), (4, 2, 1));
    assert_eq!(plant.sessions.count(Table::Retained), 4);
    neighbour.was_not_held_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_clients_together_keep_so_many_messages_and_bytes() {
    for limits in [
        Limits { retained_messages: 4, ..Limits::default() },
        // Four of some 1.1 KiB each.
        Limits { retained_bytes: 5 << 10, ..Limits::default() },
    ] {
        let plant = Plant::with_limits(limits).await;
        let neighbour = Neighbour::beside(&plant).await;
        let payload = "x".repeat(1_000);
        for id in ["d1", "d2"] {
            let mut device = plant.v5(id).await;
            assert_eq!(keep(&mut device, id, "a", &payload).await, 0);
            assert_eq!(keep(&mut device, id, "b", &payload).await, 0);
        }
        let mut late = plant.v5("d3").await;
        assert_eq!(keep(&mut late, "d3", "a", &payload).await, 0x97);
        // The gateway's own states are not counted among the clients'.
        let state = fieldgate_broker::Message::new("devices/d3/state", payload.clone(), Default::default());
        plant.broker.publish(state.retained()).await.unwrap();
        assert_eq!(plant.broker.metrics().retained_messages, 5);
        let mut first = plant.v5("d1").await;
        assert_eq!(keep(&mut first, "d1", "a", "").await, 0);
        assert_eq!(keep(&mut late, "d3", "a", &payload).await, 0);
        assert_eq!(plant.broker.metrics().retained_refused, 1);
        neighbour.was_not_held_up().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_retained_messages_stays_within_the_limits() {
    let plant = Plant::with_limits(Limits { message_rate: 0, retained_per_client: 50, ..Limits::default() }).await;
    let neighbour = Neighbour::beside(&plant).await;
    let flood = |id: &'static str, mut device: Client| async move {
        let mut refused = 0;
        for number in 0..1_000 {
            refused += u32::from(keep(&mut device, id, &number.to_string(), "x").await == 0x97);
        }
        refused
    };
    let (d1, d2) = (plant.v5("d1").await, plant.v5("d2").await);
    let refused = tokio::join!(tokio::spawn(flood("d1", d1)), tokio::spawn(flood("d2", d2)));
    assert_eq!((refused.0.unwrap(), refused.1.unwrap()), (950, 950));
    let metrics = plant.broker.metrics();
    assert_eq!((metrics.retained_messages, metrics.retained_refused), (100, 1_900));
    // Who comes now gets what was kept, and all of it.
    plant.gate.role("app", Role::App);
    plant.gate.allow("app", "#");
    let mut app = plant.socket("app").await;
    app.connect(Connect::v311("app")).await;
    assert_eq!(app.subscribe("#", 1).await, 1);
    for _ in 0..100 {
        assert!(app.receive().await.retain);
    }
    until("all went out", || async { plant.broker.metrics().messages_out >= 100 }).await;
    neighbour.was_not_held_up().await;
}
