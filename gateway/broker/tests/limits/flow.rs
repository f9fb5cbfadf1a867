//! What is on its way: from a client, to a client, and in the queue between.

use std::time::{Duration, Instant};

use fieldgate_broker::{DisconnectReason, Event, Limits, Role};

use crate::neighbour::Neighbour;
use crate::support::packets::{self, Connect};
use crate::support::{Client, Plant, until};

const TOPIC: &str = "devices/d1/telemetry/t";

/// Publishes at QoS 1 and waits for the PUBACK, so many times; the longest wait.
async fn publish_all(device: &mut Client, count: u16, payload: &str) -> Duration {
    let mut longest = Duration::ZERO;
    for id in 1..=count {
        let began = Instant::now();
        device.publish(2, TOPIC, id, &format!("{id}{payload}")).await;
        assert_eq!(device.acked(0x40).await, (id, 0));
        longest = longest.max(began.elapsed());
    }
    longest
}

async fn app(plant: &Plant, connect: Connect, filter: &str) -> Client {
    plant.gate.role("app", Role::App);
    plant.gate.allow("app", "#");
    let mut client = plant.socket("app").await;
    client.connect(connect).await;
    assert_eq!(client.subscribe(filter, 1).await, 1);
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn more_unacknowledged_publishes_than_announced_end_the_connection() {
    let plant = Plant::with_limits(Limits { receive_maximum: 4, ..Limits::default() }).await;
    let neighbour = Neighbour::beside(&plant).await;
    plant.gate.hold();
    // QoS 2 counts until its PUBREL, which would stand behind what is not read.
    let mut device = plant.socket("d1").await;
    let connack = device.connect(Connect::v5("d1")).await;
    assert!(connack.windows(3).any(|window| window == [0x21, 0, 4]), "announced: {connack:02x?}");
    for id in 1..=5 {
        device.publish(4, TOPIC, id, "x").await;
    }
    let decide = async {
        until("commits", || async { plant.gate.held() == 4 }).await;
        (0..4).for_each(|_| plant.gate.let_through(Ok(())));
    };
    let (code, ()) = tokio::join!(device.disconnected(), decide);
    assert_eq!(code, Some(0x93));
    let exceeded =
        |event: &Event| matches!(event, Event::Disconnected { reason: DisconnectReason::ReceiveMaximumExceeded, .. });
    until("told", || async { plant.gate.saw(exceeded) }).await;
    neighbour.was_not_held_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_pauses_while_commits_wait() {
    let plant = Plant::with_limits(Limits { receive_maximum: 8, ..Limits::default() }).await;
    let neighbour = Neighbour::beside(&plant).await;
    plant.gate.hold();
    for v5 in [false, true] {
        let mut device = if v5 { plant.v5("d1").await } else { plant.v311("d1").await };
        for id in 1..=30 {
            device.publish(2, TOPIC, id, "x").await;
        }
        until("commits", || async { plant.gate.held() == 8 }).await;
        device.silent(50).await;
        assert_eq!(plant.gate.held(), 8);
        for id in 1..=30 {
            until("a commit", || async { plant.gate.held() > 0 }).await;
            plant.gate.let_through(Ok(()));
            assert_eq!(device.acked(0x40).await, (id, 0));
        }
    }
    neighbour.was_not_held_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_has_so_many_in_flight_and_the_rest_waits() {
    let plant = Plant::with_limits(Limits { in_flight: 5, ..Limits::default() }).await;
    let neighbour = Neighbour::beside(&plant).await;
    // 3.1.1, MQTT 5 with the server's number, and with a lower one of its own.
    for (connect, most) in
        [(Connect::v311("app"), 5), (Connect::v5("app"), 5), (Connect::v5("app").property(&[0x21, 0, 2]), 2)]
    {
        let mut lazy = app(&plant, connect, TOPIC).await;
        let mut device = plant.v5("d1").await;
        publish_all(&mut device, 8, "").await;
        let mut ids = Vec::new();
        for number in 1..=most {
            let got = lazy.receive_only().await;
            assert_eq!(got.payload, format!("{number}").into_bytes());
            ids.push(got.id);
        }
        lazy.silent(100).await;
        // One acknowledged, one more comes.
        for (number, id) in (most + 1..=8).zip(ids) {
            lazy.send(&packets::ack(0x40, id)).await;
            assert_eq!(lazy.receive_only().await.payload, format!("{number}").into_bytes());
        }
    }
    neighbour.was_not_held_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publishers_wait_for_a_full_queue_and_then_the_receiver_goes() {
    let wait = Duration::from_millis(300);
    let limits = Limits { in_flight: 5, session_queue_messages: 20, full_queue_wait: wait, ..Limits::default() };
    let plant = Plant::with_limits(limits).await;
    let neighbour = Neighbour::beside(&plant).await;
    let mut stuck = app(&plant, Connect::v5("app/stuck").persistent(), "devices/d1/#").await;
    let mut healthy = app(&plant, Connect::v5("app/healthy"), "devices/d1/#").await;
    let mut device = plant.v5("d1").await;
    let reader = async {
        for number in 1..=100 {
            assert_eq!(healthy.receive().await.payload, format!("{number}").into_bytes());
        }
    };
    let (longest, ()) = tokio::join!(publish_all(&mut device, 100, ""), reader);
    assert!(longest >= wait, "nobody waited: {longest:?}");
    assert!(longest <= wait + Duration::from_secs(1), "waited for {longest:?}");
    assert_eq!(stuck.disconnected_after_publishes().await, (5, Some(0x97)));
    let metrics = plant.broker.metrics();
    assert!(metrics.slow_receivers == 1 && metrics.queue_waits >= 1, "{metrics:?}");
    // It is an absent client now: 5 in flight, 20 queued, the oldest of the rest gone.
    assert_eq!(metrics.dropped_queue_full, 75);
    neighbour.was_not_held_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_full_by_its_bytes_too() {
    let wait = Duration::from_millis(200);
    let limits = Limits { in_flight: 1, session_queue_bytes: 8 << 10, full_queue_wait: wait, ..Limits::default() };
    let plant = Plant::with_limits(limits).await;
    let neighbour = Neighbour::beside(&plant).await;
    let mut stuck = app(&plant, Connect::v5("app"), "devices/d1/#").await;
    let mut device = plant.v5("d1").await;
    // One in flight, three of 2 KiB and their overhead queued; the fifth waits.
    let kilobytes = "x".repeat(2 << 10);
    publish_all(&mut device, 1, &kilobytes).await;
    stuck.receive_only().await;
    publish_all(&mut device, 3, &kilobytes).await;
    assert_eq!(plant.broker.metrics().queue_waits, 0);
    let longest = publish_all(&mut device, 1, &kilobytes).await;
    assert!(longest >= wait && longest <= wait + Duration::from_secs(1), "{longest:?}");
    assert_eq!(stuck.disconnected_after_publishes().await, (0, Some(0x97)));
    assert_eq!(plant.broker.metrics().slow_receivers, 1);
    neighbour.was_not_held_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absent_client_keeps_the_newest_by_number_and_by_bytes() {
    for (messages, bytes, kept) in [(10, 1 << 20, 10), (1_000, 8 << 10, 7)] {
        let limits = Limits { session_queue_messages: messages, session_queue_bytes: bytes, ..Limits::default() };
        let plant = Plant::with_limits(limits).await;
        let neighbour = Neighbour::beside(&plant).await;
        let mut absent = app(&plant, Connect::v5("app").persistent(), "devices/d1/#").await;
        absent.send(&[0xE0, 0]).await;
        assert_eq!(absent.read().await, None);
        until("away", || async { plant.broker.metrics().connections == 1 }).await;
        let mut device = plant.v5("d1").await;
        publish_all(&mut device, 50, &"x".repeat(1_000)).await;
        let metrics = plant.broker.metrics();
        assert_eq!(
            (metrics.dropped_queue_full, metrics.queue_waits),
            (50 - kept, 0),
            "nobody waits for an absent client"
        );
        let told: u64 = (plant.gate.events().iter())
            .map(|event| if let Event::Dropped { count, .. } = event { *count } else { 0 })
            .sum();
        assert_eq!(told, 50 - kept, "each is in an event");
        let mut back = plant.socket("app").await;
        assert_eq!(back.connect(Connect::v5("app").persistent()).await[0], 1);
        for number in 50 - kept + 1..=50 {
            let payload = back.receive().await.payload;
            assert_eq!(String::from_utf8_lossy(&payload).trim_end_matches('x'), number.to_string());
        }
        neighbour.was_not_held_up().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn output_waits_for_a_client_that_takes_nothing_and_then_it_goes() {
    let stall = Duration::from_secs(1);
    let limits = Limits { output_buffer: 16 << 10, receiver_stall: stall, message_rate: 0, ..Limits::default() };
    let plant = Plant::with_limits(limits).await;
    let neighbour = Neighbour::beside(&plant).await;
    // 20 MiB of retained messages, more than the kernel takes on the way to somebody who does not read.
    plant.gate.role("app", Role::App);
    plant.gate.allow("app", "#");
    let payload = "x".repeat(128 << 10);
    for number in 0..160 {
        let message = fieldgate_broker::Message::new(format!("big/{number}"), payload.clone(), Default::default());
        plant.broker.publish(message.retained()).await.unwrap();
    }
    let mut deaf = plant.socket("app").await;
    deaf.connect(Connect::v5("app")).await;
    let began = Instant::now();
    deaf.send(&packets::subscribe(1, Some(&[]), &[("big/#", 0)])).await;
    let gone = |event: &Event| matches!(event, Event::Disconnected { reason: DisconnectReason::SlowReceiver, .. });
    until("put out", || async { plant.gate.saw(gone) }).await;
    assert!(began.elapsed() >= stall);
    let metrics = plant.broker.metrics();
    assert_eq!(metrics.slow_receivers, 1);
    assert!(metrics.bytes_out < 20 << 20, "{} bytes left for a client that takes none", metrics.bytes_out);
    neighbour.was_not_held_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_slowed_to_their_rate_and_apps_and_gateways_are_not() {
    let plant = Plant::with_limits(Limits { message_rate: 50, message_burst: 20, ..Limits::default() }).await;
    let neighbour = Neighbour::beside(&plant).await;
    plant.gate.role("app", Role::App);
    plant.gate.allow("app", TOPIC);
    plant.gate.role("gw", Role::Gateway);
    plant.gate.allow("gw", TOPIC);
    for (id, slowed) in [("d1", true), ("app", false), ("gw", false)] {
        let mut client = plant.v5(id).await;
        let waits = plant.broker.metrics().rate_waits;
        let began = Instant::now();
        for _ in 0..70 {
            client.publish(0, TOPIC, 0, "x").await;
        }
        client.publish(2, TOPIC, 1, "last").await;
        assert_eq!(client.acked(0x40).await, (1, 0));
        // 51 messages beyond the burst, at 50 a second.
        let took = began.elapsed();
        assert!(!slowed || took >= Duration::from_millis(900), "{id}: {took:?}");
        assert_eq!(plant.broker.metrics().rate_waits > waits, slowed, "{id}");
    }
    let committed = plant.gate.committed();
    assert_eq!(committed.iter().filter(|message| &*message.topic == TOPIC).count(), 3 * 71, "nothing is lost");
    neighbour.was_not_held_up().await;
}
