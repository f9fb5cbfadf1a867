//! Connections and sessions: how many, how long, and who watches the silent ones.

use std::time::{Duration, Instant};

use fieldgate_broker::{DisconnectReason, Event, Limits, Role};

use crate::neighbour::Neighbour;
use crate::support::packets::Connect;
use crate::support::{Plant, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_session_lives_no_longer_than_the_limit() {
    let plant = Plant::with_limits(Limits { session_expiry: Duration::from_secs(1), ..Limits::default() }).await;
    let neighbour = Neighbour::beside(&plant).await;
    // MQTT 5 asks for a session without end and is told what it got; 3.1.1 gets the same and can't be told.
    for connect in [
        Connect { clean: false, ..Connect::v5("d1").property(&[0x11, 0xFF, 0xFF, 0xFF, 0xFF]) },
        Connect::v311("d1").persistent(),
    ] {
        let mut device = plant.socket("d1").await;
        let v5 = connect.level == 5;
        let connack = device.connect(connect.clone()).await;
        assert_eq!(connack.windows(5).any(|window| window == [0x11, 0, 0, 0, 1]), v5, "{connack:02x?}");
        assert_eq!(device.subscribe("devices/d1/commands/#", 1).await, 1);
        let dropped = plant.broker.metrics().dropped_session_ended;
        device.send(&[0xE0, 0]).await;
        assert_eq!(device.read().await, None);
        until("away", || async { plant.broker.metrics().connections == 1 }).await;
        let command = fieldgate_broker::Message::new("devices/d1/commands/go/1", "{}", Default::default());
        let delivery = plant.broker.publish(command.with_qos(fieldgate_broker::QoS::AtLeastOnce)).await.unwrap();
        assert_eq!(delivery.stored, 1);
        // The session leaves the registry before its queue is counted.
        let over = || async {
            let metrics = plant.broker.metrics();
            (metrics.sessions, metrics.dropped_session_ended, metrics.subscriptions) == (1, dropped + 1, 1)
        };
        until("over", over).await;
        let mut back = plant.socket("d1").await;
        assert_eq!(back.connect(connect).await[0], 0, "no session is present any more");
        back.send(&[0xE0, 0]).await;
        assert_eq!(back.read().await, None);
        until("over again", || async { plant.broker.metrics().sessions == 1 }).await;
    }
    neighbour.was_not_held_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keep_alive_of_zero_is_watched_by_the_server_or_by_tcp() {
    let plant = Plant::with_limits(Limits { keep_alive: Duration::from_secs(1), ..Limits::default() }).await;
    let neighbour = Neighbour::beside(&plant).await;
    let mut old = plant.socket("d2").await;
    old.connect(Connect::v311("d2").keep_alive(0)).await;
    let began = Instant::now();
    let mut silent = plant.socket("d1").await;
    let connack = silent.connect(Connect::v5("d1").keep_alive(0)).await;
    assert!(connack.windows(3).any(|window| window == [0x13, 0, 1]), "Server Keep Alive: {connack:02x?}");
    assert_eq!(silent.disconnected().await, Some(0x8D));
    assert!(began.elapsed() >= Duration::from_millis(1_500));
    let told = |event: &Event| matches!(event, Event::Disconnected { reason: DisconnectReason::KeepAlive, .. });
    until("told", || async { plant.gate.saw(told) }).await;
    // The 3.1.1 client was silent for longer, and is still there; the kernel asks after it: timer 2 is the keep-alive.
    old.send(&[0xC0, 0]).await;
    assert_eq!(old.read().await.unwrap().first, 0xD0);
    // The broker's end of that one connection, among all sockets of the machine.
    let ports = [plant.address.port(), old.stream.get_ref().0.local_addr().unwrap().port()];
    let [served, client] = ports.map(|port| format!(":{port:04X}"));
    until("a keep-alive timer", || async {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let mut served = lines.filter(|fields| fields[1].ends_with(&served) && fields[2].ends_with(&client));
        served.any(|fields| fields[5].starts_with("02:"))
    })
    .await;
    neighbour.was_not_held_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_bounded_and_a_place_is_free_again_at_once() {
    let plant = Plant::with_limits(Limits { connections: 3, ..Limits::default() }).await;
    let neighbour = Neighbour::beside(&plant).await;
    let mut first = plant.v5("d1").await;
    let _second = plant.v5("d2").await;
    for (connect, code) in [(Connect::v5("d3"), 0x97), (Connect::v311("d3"), 3)] {
        assert_eq!(plant.socket("d3").await.refused(connect).await, code);
    }
    assert_eq!(plant.broker.metrics().refused, 2);
    // A client that takes over its own connection needs no further place.
    let _again = plant.v5("d2").await;
    first.send(&[0xE0, 0]).await;
    assert_eq!(first.read().await, None);
    let _third = plant.v5("d3").await;
    assert_eq!(plant.broker.metrics().connections, 3);
    neighbour.was_not_held_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_has_one_connection_and_an_app_eight() {
    let plant = Plant::new().await;
    let neighbour = Neighbour::beside(&plant).await;
    plant.gate.role("app", Role::App);
    let mut older = plant.v5("d1").await;
    let _newer = plant.v5("d1").await;
    assert_eq!(older.disconnected().await, Some(0x8E));
    assert_eq!(plant.broker.metrics().took_over, 1);
    let mut apps = Vec::new();
    for number in 0..8 {
        let mut app = plant.socket("app").await;
        app.connect(Connect::v5(&format!("app/{number}")).persistent()).await;
        apps.push(app);
    }
    for (connect, code) in [(Connect::v5("app/8"), 0x97), (Connect::v311("app/8"), 3)] {
        assert_eq!(plant.socket("app").await.refused(connect).await, code);
    }
    assert_eq!(plant.broker.metrics().refused, 2);
    // One that is away makes room for a new one: nine sessions there never are.
    apps[0].send(&[0xE0, 0]).await;
    assert_eq!(apps[0].read().await, None);
    until("away", || async { plant.broker.metrics().connections == 9 }).await;
    let mut ninth = plant.socket("app").await;
    ninth.connect(Connect::v5("app/8")).await;
    assert_eq!(plant.broker.metrics().sessions, 8 + 2);
    neighbour.was_not_held_up().await;
}
