//! What brought other brokers down or opened them, each by the number under which it was published, tried here.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::pedantic)]

mod support;

use std::time::Duration;

use fieldgate_broker::{Event, Limits, Message, QoS, Role};
use support::packets::{self, Connect};
use support::{Client, Plant, until};
use tokio::io::AsyncWriteExt;

const TOPIC: &str = "devices/d1/telemetry/t";

/// The broker serves a good client, and nothing of the others is left.
async fn all_is_well(plant: &Plant) {
    let mut good = plant.v5("good").await;
    assert_eq!(good.subscribe("devices/good/#", 0).await, 0);
    good.publish(2, "devices/good/telemetry/t", 1, "x").await;
    let (one, other) = (good.read().await.unwrap(), good.read().await.unwrap());
    assert_eq!(one.first ^ other.first, 0x30 ^ 0x40);
    until("only the good client is left", || async {
        let metrics = plant.broker.metrics();
        (metrics.connections, metrics.sessions, metrics.subscriptions, metrics.pending_sockets) == (1, 1, 1, 0)
    })
    .await;
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

/// Sends `bytes` as the first packet and waits for the close; a CONNACK may come before it.
async fn first_packet(client: &mut Client, bytes: &[u8]) -> Option<u8> {
    client.send(bytes).await;
    let mut code = None;
    while let Some(packet) = client.read().await {
        assert_eq!(packet.first, 0x20, "an answer to {bytes:02x?}");
        code = Some(packet.body[1]);
    }
    code
}

/// CVE-2017-7651, CVE-2023-0809 (mosquitto), CVE-2021-33175 (EMQ X), CVE-2021-33176 (VerneMQ): memory by a length that
/// somebody claims who is nobody yet.
#[tokio::test(flavor = "multi_thread")]
async fn no_memory_is_reserved_for_what_comes_before_a_connect() {
    let plant = Plant::new().await;
    let config = plant.client_config("d1");
    let before = resident();
    for first in (0..=15_u8).map(|kind| kind << 4 | u8::from([6, 8, 10].contains(&kind)) << 1) {
        for claim in [&[0xFF, 0xFF, 0xFF, 0x7F][..], &[0xF0, 0x7F]] {
            let mut client = Client::open(plant.address, config.clone()).await;
            let bytes = [&[first], claim].concat();
            let code = first_packet(&mut client, &bytes);
            if first == 0x10 && claim.len() == 2 {
                // The one that is allowed: it waits for its 16 KiB, which don't come.
                tokio::time::timeout(Duration::from_millis(100), code).await.unwrap_err();
            } else {
                assert!(matches!(code.await, None | Some(0x95)), "{first:02x}");
            }
        }
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes for claims of 4 GB");
    all_is_well(&plant).await;
}

/// CVE-2026-21888 (NanoMQ), CVE-2019-19307 (Mongoose): lengths of five bytes, read past the end or counted for ever.
#[tokio::test(flavor = "multi_thread")]
async fn lengths_of_five_bytes_are_malformed_wherever_they_stand() {
    let plant = Plant::new().await;
    let mut client = plant.socket("d1").await;
    assert_eq!(first_packet(&mut client, &[0x10, 0x80, 0x80, 0x80, 0x80, 0]).await, None);
    let endless: &[u8] = &[0xFF, 0xFF, 0xFF, 0xFF, 0x01];
    let mut connect = packets::text("MQTT");
    connect.extend([5, 2, 0, 60]);
    connect.extend(endless);
    let mut client = plant.socket("d1").await;
    assert_eq!(first_packet(&mut client, &packets::packet(0x10, &connect)).await, Some(0x81));
    for body in [
        [&packets::text(TOPIC)[..], &[0, 1], endless, b"x"].concat(),
        [&packets::text(TOPIC)[..], &[0, 1], &[5, 0x0B], &endless[..4], b"x"].concat(),
    ] {
        let mut client = plant.v5("d1").await;
        client.send(&packets::packet(0x32, &body)).await;
        assert!(matches!(client.disconnected().await, Some(0x81 | 0x82)), "{body:02x?}");
    }
    let mut client = plant.v5("d1").await;
    client.send(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01]).await;
    assert_eq!(client.disconnected().await, Some(0x81));
    all_is_well(&plant).await;
}

/// CVE-2023-28366 (mosquitto): QoS 2 publishes whose PUBREC is never answered, with one id and with ever new ones.
#[tokio::test(flavor = "multi_thread")]
async fn publishes_that_are_never_released_are_bounded() {
    let plant = Plant::with_limits(Limits { message_rate: 0, ..Limits::default() }).await;
    for v5 in [true, false] {
        let mut device = if v5 { plant.v5("d1").await } else { plant.v311("d1").await };
        let before = plant.gate.committed().len();
        for _ in 0..5_000 {
            device.publish(4, TOPIC, 7, "the same").await;
            assert_eq!(device.acked(0x50).await, (7, 0));
        }
        assert_eq!(plant.gate.committed().len(), before + 1, "one message, however often it is sent");
        // New ids: the Receive Maximum on MQTT 5, and a bound of our own on 3.1.1, which has none.
        let most = if v5 { 31 } else { 1_023 };
        for id in 100..100 + most {
            device.publish(4, TOPIC, id, "new").await;
            assert_eq!(device.acked(0x50).await, (id, 0));
        }
        device.publish(4, TOPIC, 5_000, "one too many").await;
        assert_eq!(device.disconnected().await, v5.then_some(0x93));
        assert_eq!(plant.gate.committed().len(), before + 1 + usize::from(most));
    }
    all_is_well(&plant).await;
}

/// CVE-2023-3592, CVE-2021-34431 (mosquitto): MQTT 5 CONNECTs whose will is refused, again and again.
#[tokio::test(flavor = "multi_thread")]
async fn refused_wills_leave_nothing_behind() {
    let plant = Plant::new().await;
    let config = plant.client_config("d1");
    let payload = "x".repeat(8 << 10);
    let before = resident();
    let cases: [(&str, &[u8], u8); 4] = [
        // A property that no will has, one given twice, a payload that isn't what it says, a topic of somebody else.
        (TOPIC, &[0x23, 0, 1], 0x82),
        (TOPIC, &[0x18, 0, 0, 0, 1, 0x18, 0, 0, 0, 1], 0x82),
        (TOPIC, &[0x01, 0x07], 0x82),
        ("devices/d2/telemetry/t", &[], 0x87),
    ];
    for round in 0..50 {
        for (topic, properties, code) in cases {
            let mut client = Client::open(plant.address, config.clone()).await;
            let got = client.refused(Connect::v5("d1").will(topic, &payload, 1, true, properties)).await;
            assert!(got == code || (code == 0x82 && got == 0x81), "{topic} {properties:02x?}: {got:02x}");
        }
        assert_eq!(plant.broker.metrics().refused, (round + 1) * 4);
    }
    let metrics = plant.broker.metrics();
    assert_eq!((metrics.wills_fired, metrics.retained_messages, metrics.sessions), (0, 0, 0));
    let grown = resident().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes after 200 refused wills");
    all_is_well(&plant).await;
}

/// CVE-2021-41039 (mosquitto): a CONNECT full of user properties, which cost the square of their number.
#[tokio::test(flavor = "multi_thread")]
async fn a_connect_full_of_user_properties_costs_what_its_bytes_cost() {
    let plant = Plant::new().await;
    let mut slowest = Duration::ZERO;
    for count in [1, 2_300] {
        let mut client = plant.socket("d1").await;
        let began = std::time::Instant::now();
        client.connect(Connect::v5("d1").property(&[0x26, 0, 1, b'k', 0, 1, b'v'].repeat(count))).await;
        slowest = slowest.max(began.elapsed());
        client.send(&[0xE0, 0]).await;
        assert_eq!(client.read().await, None);
    }
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    all_is_well(&plant).await;
}

/// CVE-2019-11778 (mosquitto): a will delay beyond the session's end.
#[tokio::test(flavor = "multi_thread")]
async fn a_will_delay_beyond_the_session_ends_with_it() {
    let plant = Plant::new().await;
    for (expiry, wills) in [(0, 1), (1, 2)] {
        let connect = Connect { clean: false, ..Connect::v5("d1") }.property(&[0x11, 0, 0, 0, expiry]).will(
            TOPIC,
            "gone",
            0,
            false,
            &[0x18, 0xFF, 0xFF, 0xFF, 0xFF],
        );
        let mut client = plant.socket("d1").await;
        client.connect(connect).await;
        drop(client);
        until("the will at the session's end", || async { plant.broker.metrics().wills_fired == wills }).await;
        assert_eq!(plant.broker.metrics().sessions, 0);
    }
    all_is_well(&plant).await;
}

/// CVE-2021-34432 (mosquitto): a topic of no length, wherever one may stand. CVE-2018-12543: topics that begin with `$`.
/// CVE-2017-7653: one that is no UTF-8, which must not get to anybody.
#[tokio::test(flavor = "multi_thread")]
async fn empty_hidden_and_broken_topics_end_with_their_sender() {
    let plant = Plant::new().await;
    plant.gate.role("app", Role::App);
    plant.gate.allow("app", "#");
    let mut app = plant.v5("app").await;
    assert_eq!(app.subscribe("#", 0).await, 0);
    for v5 in [true, false] {
        let list: Option<&[u8]> = v5.then_some(&[]);
        let raw = |topic: &[u8]| {
            let body = [&packets::bytes(topic)[..], &[0, 1], if v5 { &[0] } else { &[] }, b"x"].concat();
            packets::packet(0x32, &body)
        };
        for bytes in [
            raw(b""),
            raw(b"\xFF\xFE"),
            raw(b"a/\xED\xA0\x80"),
            raw(b"devices/d1/telemetry/\0"),
            packets::subscribe(1, list, &[("a\0", 0)]),
        ] {
            let mut client = if v5 { plant.v5("d1").await } else { plant.v311("d1").await };
            client.send(&bytes).await;
            while let Some(packet) = client.read().await {
                // A filter may be refused by itself.
                assert!(v5 && [0xE0, 0x90].contains(&packet.first) || packet.body[2] == 0x80, "{packet:02x?}");
                if packet.first == 0x90 {
                    break;
                }
            }
        }
        let connect = if v5 { Connect::v5("d1") } else { Connect::v311("d1") };
        let mut client = plant.socket("d1").await;
        assert!(first_packet(&mut client, &connect.will("", "x", 0, false, &[]).build()).await != Some(0));
        for topic in ["$", "$SYS", "$SYS/broker/load", "$CONTROL/dynamic-security/v1", "$share/g/t", "$/"] {
            let mut client = if v5 { plant.v5("d1").await } else { plant.v311("d1").await };
            client.publish(2, topic, 1, "x").await;
            if v5 {
                assert_eq!(client.acked(0x40).await, (1, 0x87), "{topic}");
            } else {
                assert_eq!(client.read().await, None, "{topic}");
            }
            // Three of these in a minute cost a 3.1.1 client ten seconds: once is enough.
            if !v5 {
                break;
            }
        }
    }
    app.silent(50).await;
    assert_eq!(plant.gate.committed(), []);
}

/// CVE-2019-11779 (mosquitto): a filter of 65,400 slashes, which a recursion does not survive.
#[tokio::test(flavor = "multi_thread")]
async fn a_filter_of_slashes_is_refused() {
    let plant = Plant::new().await;
    plant.gate.role("app", Role::App);
    plant.gate.allow("app", "#");
    for filter in ["/".repeat(65_400), "+/".repeat(32_000) + "#", format!("$share/g/{}", "/".repeat(65_000))] {
        let mut app = plant.v5("app").await;
        assert_eq!(app.subscribe(&filter, 0).await, 0x8F);
        app.send(&packets::unsubscribe(2, Some(&[]), &[&filter])).await;
        assert_eq!(app.read().await.unwrap().body.last(), Some(&0x11));
        app.publish(2, &"/".repeat(65_400), 3, "x").await;
        assert_eq!(app.acked(0x40).await, (3, 0x90));
        app.send(&[0xE0, 0]).await;
        assert_eq!(app.read().await, None);
    }
    all_is_well(&plant).await;
}

/// CVE-2021-28166 (mosquitto): a CONNACK from a client, in the bytes that crashed it; CVE-2024-10525's SUBACK without
/// codes; and the other packets that only servers send.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_speak_like_a_server_are_sent_away() {
    let plant = Plant::new().await;
    let packets: [&[u8]; 9] = [
        &[0x20, 3, 0, 0, 0],
        &[0x20, 2, 0, 0],
        &[0x29, 2, 0, 1],
        &[0x90, 4, 0, 1, 0, 0],
        &[0x90, 2, 0, 1],
        &[0xB0, 4, 0, 1, 0, 0],
        &[0xD0, 0],
        &[0xF0, 0],
        &[0xF0, 2, 0x18, 0],
    ];
    for bytes in packets {
        let mut client = plant.v5("d1").await;
        client.send(bytes).await;
        assert!(matches!(client.disconnected().await, Some(0x81 | 0x82)), "{bytes:02x?}");
        let mut old = plant.v311("d1").await;
        old.send(bytes).await;
        assert_eq!(old.read().await, None, "{bytes:02x?}");
    }
    all_is_well(&plant).await;
}

/// The sol broker's issue 15 (a PUBACK before the CONNECT kills it), CVE-2024-8376 (mosquitto: packets in no order):
/// anything but a CONNECT as the first packet, and anything after a DISCONNECT.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_heard_before_a_connect_or_after_a_disconnect() {
    let plant = Plant::new().await;
    let others = [
        packets::ack(0x40, 1),
        packets::ack(0x50, 1),
        packets::ack(0x62, 1),
        packets::ack(0x70, 1),
        packets::publish(2, TOPIC, 1, Some(&[]), b"x"),
        packets::publish(4, TOPIC, 1, None, b"x"),
        packets::subscribe(1, Some(&[]), &[("devices/d1/#", 1)]),
        packets::unsubscribe(1, Some(&[]), &["devices/d1/#"]),
        vec![0xC0, 0],
        vec![0xE0, 0],
        vec![0xF0, 0],
    ];
    let config = plant.client_config("d1");
    for bytes in &others {
        let mut client = Client::open(plant.address, config.clone()).await;
        assert_eq!(first_packet(&mut client, bytes).await, None, "{bytes:02x?}");
        // A CONNECT behind it comes too late.
        let mut client = Client::open(plant.address, config.clone()).await;
        assert_eq!(first_packet(&mut client, &[bytes.clone(), Connect::v5("d1").build()].concat()).await, None);
        let mut client = Client::open(plant.address, config.clone()).await;
        client.connect(Connect::v5("d1")).await;
        client.send(&[vec![0xE0, 0], bytes.clone()].concat()).await;
        assert_eq!(client.read().await, None, "after a DISCONNECT: {bytes:02x?}");
    }
    assert_eq!(plant.gate.committed(), []);
    all_is_well(&plant).await;
}

/// CVE-2025-59946, CVE-2026-22040 (NanoMQ), CVE-2024-8376 (mosquitto): one client id, many connections, subscribing and
/// unsubscribing while they take each other over and messages come.
#[tokio::test(flavor = "multi_thread")]
async fn take_overs_that_race_subscriptions_leave_no_ghosts() {
    let plant = Plant::with_limits(Limits { message_rate: 0, ..Limits::default() }).await;
    plant.gate.role("app", Role::App);
    plant.gate.allow("app", "#");
    let config = plant.client_config("app");
    let mut racers = Vec::new();
    for racer in 0..4_u16 {
        let (address, config) = (plant.address, config.clone());
        racers.push(tokio::spawn(async move {
            for round in 0..40_u16 {
                let mut client = Client::open(address, config.clone()).await;
                let connect =
                    if (racer + round) % 3 == 0 { Connect::v5("app").persistent() } else { Connect::v5("app") };
                let mut bytes = connect.build();
                for id in 1..=4_u16 {
                    let filters = [("race/#", 1), ("$share/g/race/+", 1), ("race/+/x", 2), ("+/1", 0)];
                    bytes.extend(packets::subscribe(id, Some(&[]), &filters));
                    bytes.extend(packets::publish(2, "race/1", id, Some(&[]), b"x"));
                    let gone: &[&str] = if round % 2 == 0 { &["race/#", "$share/g/race/+"] } else { &["+/1"] };
                    bytes.extend(packets::unsubscribe(id + 10, Some(&[]), gone));
                }
                // It may be taken over while it writes.
                if client.stream.write_all(&bytes).await.is_err() || client.stream.flush().await.is_err() {
                    continue;
                }
                for _ in 0..round % 8 {
                    if client.read().await.is_none() {
                        break;
                    }
                }
            }
        }));
    }
    let mut device = plant.v5("d1").await;
    for id in 1..=500 {
        plant
            .broker
            .publish(Message::new("race/1", "gateway", Default::default()).with_qos(QoS::AtLeastOnce))
            .await
            .unwrap();
        device.publish(2, TOPIC, id, "x").await;
        assert_eq!(device.acked(0x40).await, (id, 0));
    }
    for racer in racers {
        racer.await.unwrap();
    }
    // The last one begins anew and has what it asks for, no more.
    let mut last = Client::open(plant.address, config).await;
    last.connect(Connect::v5("app")).await;
    until("no subscriptions", || async { plant.broker.metrics().subscriptions == 0 }).await;
    assert_eq!(last.subscribe("race/1", 0).await, 0);
    plant.broker.publish(Message::new("race/1", "once", Default::default())).await.unwrap();
    assert_eq!(last.receive().await.payload, b"once");
    last.silent(50).await;
    for client in [&mut last, &mut device] {
        client.send(&[0xE0, 0]).await;
        assert_eq!(client.read().await, None);
    }
    all_is_well(&plant).await;
}

/// CVE-2018-12546 (mosquitto: retained messages after access is withdrawn), CVE-2021-34434 (mosquitto: subscriptions of
/// absent clients outlive their rights).
#[tokio::test(flavor = "multi_thread")]
async fn withdrawn_rights_hold_for_what_was_stored_before() {
    let plant = Plant::new().await;
    plant.gate.role("app", Role::App);
    plant.gate.role("other", Role::App);
    plant.gate.allow("app", "devices/d1/#");
    let mut device = plant.v5("d1").await;
    device.publish(3, TOPIC, 1, "kept").await;
    assert_eq!(device.acked(0x40).await, (1, 0));
    let mut absent = plant.socket("app").await;
    absent.connect(Connect::v5("app/absent").persistent()).await;
    assert_eq!(absent.subscribe("devices/d1/#", 1).await, 1);
    assert_eq!(absent.receive().await.payload, b"kept");
    absent.send(&[0xE0, 0]).await;
    assert_eq!(absent.read().await, None);
    let mut present = plant.socket("app").await;
    present.connect(Connect::v5("app/present")).await;
    assert_eq!(present.subscribe("devices/d1/#", 1).await, 1);
    assert_eq!(present.receive().await.payload, b"kept");
    device.publish(2, TOPIC, 2, "queued for the absent").await;
    assert_eq!(device.acked(0x40).await, (2, 0));
    assert_eq!(present.receive().await.payload, b"queued for the absent");
    plant.gate.withdraw("app");
    plant.broker.recheck();
    // Who comes without rights, is there without rights, or comes back without them, gets nothing of it.
    let mut newcomer = plant.v5("other").await;
    for filter in ["devices/d1/#", "#", "$share/g/devices/d1/#", "devices/+/telemetry/t"] {
        assert_eq!(newcomer.subscribe(filter, 1).await, 0x87, "{filter}");
    }
    device.publish(2, TOPIC, 3, "after").await;
    assert_eq!(device.acked(0x40).await, (3, 0));
    let mut back = plant.socket("app").await;
    assert_eq!(back.connect(Connect::v5("app/absent").persistent()).await[0], 1);
    for client in [&mut newcomer, &mut present, &mut back] {
        client.silent(100).await;
    }
    // Two for the one that came back, one for the one that was there.
    until("counted", || async { plant.broker.metrics().dropped_not_authorized == 3 }).await;
    // Asking again is refused, retained message and all.
    assert_eq!(present.subscribe("devices/d1/#", 1).await, 0x87);
    present.silent(50).await;
}

/// CVE-2017-7650 (mosquitto: `+`, `#` and `/` in ids that rights are made from), CVE-2020-13821 (HiveMQ: a client id
/// that is more than a name where it is shown).
#[tokio::test(flavor = "multi_thread")]
async fn ids_with_wildcards_and_slashes_give_no_rights() {
    let plant = Plant::new().await;
    plant.gate.role("app", Role::App);
    for (id, asked) in [
        ("d1", "+"),
        ("d1", "#"),
        ("d1", "d1/+"),
        ("d1", "d1/x"),
        ("d1", "d2"),
        ("d1", "D1"),
        ("d1", "d1 "),
        ("d1", "<script>alert(1)</script>"),
        ("app", "app/+"),
        ("app", "app/#"),
        ("app", "app+"),
        ("app", "/app"),
        ("app", "apple"),
        ("app", "app/../d1/#"),
    ] {
        assert_eq!(plant.socket(id).await.refused(Connect::v5(asked)).await, 0x85, "{id} as {asked}");
        assert_eq!(plant.socket(id).await.refused(Connect::v311(asked)).await, 2, "{id} as {asked}");
    }
    // A client id of an app is a name among its own, and no path to anybody's topics.
    let mut app = plant.socket("app").await;
    app.connect(Connect::v5("app/d1")).await;
    assert_eq!(app.subscribe("devices/d1/#", 0).await, 0x87);
    app.publish(2, TOPIC, 1, "x").await;
    assert_eq!(app.acked(0x40).await, (1, 0x87));
    let told = plant.gate.saw(|event| matches!(event, Event::PublishRefused { topic, .. } if &**topic == TOPIC));
    assert!(told);
}

/// CVE-2025-68699 (NanoMQ: `$share/ab` without a filter is stored and kills it at the next message), and groups as a way
/// around rights or the limits.
#[tokio::test(flavor = "multi_thread")]
async fn shared_subscriptions_are_whole_judged_and_counted() {
    let plant = Plant::with_limits(Limits { subscriptions: 4, ..Limits::default() }).await;
    for filter in
        ["$share", "$share/", "$share/ab", "$share//a", "$share/g/", "$share/+/a", "$share/#/a", "$share/g#/a"]
    {
        // Some are no filter at all, others end the connection: malformed [MQTT-4.8.2-1], [MQTT-4.8.2-2].
        let mut device = plant.v5("d1").await;
        device.send(&packets::subscribe(1, Some(&[]), &[(filter, 1)])).await;
        let answer = device.read().await.unwrap();
        assert!(
            matches!((answer.first, answer.body.last()), (0x90, Some(0x8F)) | (0xE0, _)),
            "{filter}: {answer:02x?}"
        );
    }
    assert_eq!(plant.broker.metrics().subscriptions, 0);
    let mut device = plant.v5("d1").await;
    for filter in ["$share/g/#", "$share/g/devices/d2/#", "$share/g/$SYS/#", "$share/g/$share/h/devices/d1/#"] {
        assert_eq!(device.subscribe(filter, 1).await, 0x87, "{filter}");
    }
    // Each group is a subscription like any other.
    for (number, code) in [(1, 1), (2, 1), (3, 1), (4, 1), (5, 0x97)] {
        assert_eq!(device.subscribe(&format!("$share/g{number}/devices/d1/commands/#"), 1).await, code);
    }
    let command = Message::new("devices/d1/commands/go/1", "{}", Default::default()).with_qos(QoS::AtLeastOnce);
    assert_eq!(plant.broker.publish(command).await.unwrap().live, 4);
    for _ in 0..4 {
        device.receive().await;
    }
    // A publish to the name of a shared subscription is one to a topic that nobody may publish to.
    device.publish(2, "$share/g1/devices/d1/commands/x", 1, "x").await;
    assert_eq!(device.acked(0x40).await, (1, 0x87));
    device.send(&[0xE0, 0]).await;
    assert_eq!(device.read().await, None);
    all_is_well(&plant).await;
}

/// CVE-2020-13849 (SlowITe, the protocol itself): many connections that say nothing for as long as they ask for. One per
/// device bounds them; the places of silent ones are counted, and a device's own place is always its own.
#[tokio::test(flavor = "multi_thread")]
async fn long_keep_alives_hold_no_place_but_their_own() {
    let plant = Plant::with_limits(Limits { connections: 3, ..Limits::default() }).await;
    let config = plant.client_config("d1");
    let mut silent = Vec::new();
    for _ in 0..20 {
        let mut client = Client::open(plant.address, config.clone()).await;
        client.connect(Connect::v311("d1").keep_alive(65_535)).await;
        silent.push(client);
    }
    assert_eq!(plant.broker.metrics().connections, 1);
    let _other = plant.v5("d2").await;
    drop(silent);
}
