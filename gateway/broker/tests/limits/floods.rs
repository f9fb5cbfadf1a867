//! Hostile clients that do much of what is allowed, or claim much that never comes.

use std::time::{Duration, Instant};

use fieldgate_broker::{Limits, Role};
use tokio::io::AsyncWriteExt;

use crate::neighbour::Neighbour;
use crate::support::packets::{self, Connect};
use crate::support::{Client, Plant, until};

const DEEP: &str = "devices/d1/telemetry/a/b/c";

/// Resident memory of this process, clients included.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

/// All 64 filters that match `DEEP`: each level as it is or `+`, and as many as fit with `#` at the end.
fn overlapping() -> Vec<String> {
    let levels: Vec<&str> = DEEP.split('/').collect();
    let mut filters: Vec<String> = (0..64_u32)
        .map(|mask| {
            let level =
                |(index, level): (usize, &&str)| if mask >> index & 1 == 1 { "+".into() } else { (*level).into() };
            levels.iter().enumerate().map(level).collect::<Vec<String>>().join("/")
        })
        .collect();
    for (depth, filter) in filters.iter_mut().enumerate().take(levels.len()) {
        *filter = [&vec!["+"; depth][..], &["#"]].concat().join("/");
    }
    filters
}

async fn subscribe_all(client: &mut Client, filters: &[String]) {
    for (id, some) in (1..).zip(filters.chunks(16)) {
        let some: Vec<(&str, u8)> = some.iter().map(|filter| (filter.as_str(), 0)).collect();
        client.send(&packets::subscribe(id, client.list(), &some)).await;
        let suback = client.read().await.unwrap();
        assert!(suback.body[3..].iter().all(|code| *code == 0), "{suback:02x?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn subscription_bombs_get_each_message_once_and_hold_nobody_up() {
    let plant = Plant::with_limits(Limits { message_rate: 0, ..Limits::default() }).await;
    plant.gate.role("app", Role::App);
    plant.gate.allow("app", "#");
    let filters = overlapping();
    let mut bombs = Vec::new();
    for number in 0..8 {
        let mut bomb = plant.socket("app").await;
        bomb.connect(Connect::v5(&format!("app/{number}"))).await;
        subscribe_all(&mut bomb, &filters).await;
        bombs.push(bomb);
    }
    assert_eq!(plant.broker.metrics().subscriptions, 8 * 64);
    let neighbour = Neighbour::beside(&plant).await;
    let mut device = plant.v5("d1").await;
    let count = 500;
    let storm = async {
        for id in 1..=count {
            device.publish(2, DEEP, id, &id.to_string()).await;
            assert_eq!(device.acked(0x40).await, (id, 0));
        }
    };
    // The neighbour's rounds reach them too, through `#` and `+/+/…`.
    let readers = bombs.into_iter().map(|mut bomb| {
        tokio::spawn(async move {
            let mut next = 1;
            while next <= count {
                let got = bomb.receive().await;
                if got.topic == DEEP {
                    assert_eq!(got.payload, next.to_string().into_bytes(), "once each, in order");
                    next += 1;
                }
            }
            bomb
        })
    });
    let readers: Vec<_> = readers.collect();
    storm.await;
    for reader in readers {
        reader.await.unwrap();
    }
    neighbour.was_not_held_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_wildcard_subscriptions_holds_nobody_up() {
    let plant = Plant::with_limits(Limits { message_rate: 0, ..Limits::default() }).await;
    plant.gate.role("app", Role::App);
    plant.gate.allow("app", "#");
    let neighbour = Neighbour::beside(&plant).await;
    // Every change makes every plan stale.
    let mut storms = Vec::new();
    for number in 0..4 {
        let mut app = plant.socket("app").await;
        app.connect(Connect::v5(&format!("app/{number}"))).await;
        storms.push(tokio::spawn(async move {
            for id in 1..=500_u16 {
                let filter = if id % 2 == 0 { "+/+/+/#" } else { "#" };
                app.send(&packets::subscribe(id, Some(&[]), &[(filter, 0)])).await;
                app.send(&packets::unsubscribe(id, Some(&[]), &[filter])).await;
                // What was on its way meanwhile comes too.
                while app.read().await.unwrap().first != 0xB0 {}
            }
        }));
    }
    let mut device = plant.v5("d1").await;
    let began = Instant::now();
    for id in 1..=1_000 {
        device.publish(2, DEEP, id, "x").await;
        assert_eq!(device.acked(0x40).await, (id, 0));
    }
    let took = began.elapsed();
    for storm in storms {
        storm.await.unwrap();
    }
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert_eq!(plant.broker.metrics().subscriptions, 1, "only the neighbour's is left");
    neighbour.was_not_held_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_take_overs_leave_one_session_and_nothing_behind() {
    let plant = Plant::new().await;
    let neighbour = Neighbour::beside(&plant).await;
    let config = plant.client_config("d1");
    let mut comers = Vec::new();
    for comer in 0..4_u16 {
        let (address, config) = (plant.address, config.clone());
        comers.push(tokio::spawn(async move {
            for number in 0..250_u16 {
                let mut client = Client::open(address, config.clone()).await;
                let connect = if number % 2 == 0 { Connect::v5("d1").persistent() } else { Connect::v5("d1") };
                // Another one may have taken over before the first answer is read.
                client.stream.write_all(&connect.build()).await.ok();
                let filter = format!("devices/d1/x/{comer}/{number}");
                client.stream.write_all(&packets::subscribe(1, Some(&[]), &[(&filter, 1)])).await.ok();
                client.stream.flush().await.ok();
                let connack = client.read().await;
                assert!(connack.is_none_or(|packet| packet.first == 0x20 && packet.body[1] == 0));
            }
        }));
    }
    for comer in comers {
        comer.await.unwrap();
    }
    let mut last = plant.v5("d1").await;
    until("one connection and no subscription but the neighbour's", || async {
        let metrics = plant.broker.metrics();
        (metrics.connections, metrics.sessions, metrics.subscriptions) == (2, 2, 1)
    })
    .await;
    assert!(plant.broker.metrics().took_over > 100, "{}", plant.broker.metrics().took_over);
    last.publish(2, "devices/d1/telemetry/t", 1, "x").await;
    assert_eq!(last.acked(0x40).await, (1, 0));
    neighbour.was_not_held_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_wills_fire_at_once_and_each_arrives() {
    let plant = Plant::new().await;
    plant.gate.role("app", Role::App);
    plant.gate.allow("app", "#");
    let mut app = plant.v5("app").await;
    assert_eq!(app.subscribe("devices/+/telemetry/will", 1).await, 1);
    let mut lost = Vec::new();
    for number in 0..200 {
        let id = format!("d{number}");
        let mut client = plant.socket(&id).await;
        client.connect(Connect::v5(&id).will(&format!("devices/{id}/telemetry/will"), "gone", 1, true, &[])).await;
        lost.push(client);
    }
    let neighbour = Neighbour::beside(&plant).await;
    drop(lost);
    let mut topics = std::collections::BTreeSet::new();
    for _ in 0..200 {
        topics.insert(app.receive().await.topic);
    }
    assert_eq!(topics.len(), 200);
    until("all gone", || async { plant.broker.metrics().connections == 2 }).await;
    let metrics = plant.broker.metrics();
    assert_eq!((metrics.wills_fired, metrics.retained_messages), (200, 200));
    neighbour.was_not_held_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claimed_lengths_reserve_no_memory() {
    let plant = Plant::new().await;
    let neighbour = Neighbour::beside(&plant).await;
    let config = plant.client_config("d1");
    let before = resident();
    let mut claiming = Vec::new();
    // 256 MB, refused as soon as the version can be told.
    for _ in 0..40 {
        let mut client = Client::open(plant.address, config.clone()).await;
        client.send(b"\x10\xFF\xFF\xFF\x7F\x00\x04MQTT\x05").await;
        let connack = client.read().await.unwrap();
        assert_eq!((connack.first, connack.body[1]), (0x20, 0x95));
        claiming.push(client);
    }
    // What is allowed, and never comes: 16 KiB before the CONNECT, 256 KiB after it.
    for number in 0..40 {
        let mut client = Client::open(plant.address, config.clone()).await;
        client.send(&[0x10, 0xF0, 0x7F, 0]).await;
        claiming.push(client);
        let id = format!("c{number}");
        let mut client = plant.v5(&id).await;
        client.send(&[0x32, 0xF0, 0xFF, 0x0F, 0]).await;
        claiming.push(client);
    }
    until("all there", || async { plant.broker.metrics().connections == 41 }).await;
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes for claims of 10 GB");
    assert_eq!(plant.broker.metrics().refused, 40);
    neighbour.was_not_held_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_send_byte_by_byte_hold_nobody_up() {
    let plant = Plant::new().await;
    let neighbour = Neighbour::beside(&plant).await;
    let mut slow = Vec::new();
    for number in 0..30 {
        let id = format!("d{number}");
        let mut client = plant.v5(&id).await;
        slow.push(tokio::spawn(async move {
            let topic = format!("devices/{id}/telemetry/t");
            for byte in packets::publish(2, &topic, 1, Some(&[]), b"slow") {
                client.send(&[byte]).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert_eq!(client.acked(0x40).await, (1, 0));
        }));
    }
    for client in slow {
        client.await.unwrap();
    }
    assert!(plant.broker.metrics().messages_in >= 30);
    neighbour.was_not_held_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_stop_are_put_out_one_by_one_and_the_rest_gets_all() {
    let limits = Limits {
        in_flight: 4,
        session_queue_messages: 20,
        full_queue_wait: Duration::from_millis(200),
        message_rate: 0,
        ..Limits::default()
    };
    let plant = Plant::with_limits(limits).await;
    plant.gate.role("app", Role::App);
    plant.gate.allow("app", "devices/d1/#");
    let mut readers = Vec::new();
    for number in 0..8 {
        let mut app = plant.socket("app").await;
        app.connect(Connect::v5(&format!("app/{number}"))).await;
        assert_eq!(app.subscribe("devices/d1/#", 1).await, 1);
        readers.push(app);
    }
    let neighbour = Neighbour::beside(&plant).await;
    let mut healthy = readers.pop().unwrap();
    let mut device = plant.v5("d1").await;
    let began = Instant::now();
    let publisher = async {
        for id in 1..=200 {
            device.publish(2, DEEP, id, &id.to_string()).await;
            assert_eq!(device.acked(0x40).await, (id, 0));
        }
    };
    let reader = async {
        for id in 1..=200 {
            assert_eq!(healthy.receive().await.payload, id.to_string().into_bytes());
        }
    };
    tokio::join!(publisher, reader);
    // All seven are waited for together, not one after another.
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!(plant.broker.metrics().slow_receivers, 7);
    neighbour.was_not_held_up().await;
}
