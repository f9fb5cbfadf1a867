//! CONNECT: what is accepted, and how the rest is refused.

use fieldgate_broker::Limits;

use crate::LEVELS;
use crate::support::packets::{self, Connect, bytes, packet, string, text};
use crate::support::{Plant, until};

/// A CONNECT with these connect flags and this payload.
fn raw(level: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut body = text("MQTT");
    body.extend([level, flags, 0, 60]);
    if level == 5 {
        body.push(0);
    }
    body.extend(payload);
    packet(0x10, &body)
}

/// Asserts that bytes that can't be a CONNECT end the connection: on 3.1.1 without an answer, on MQTT 5 with a
/// CONNACK that refuses at most.
async fn ends(plant: &Plant, level: u8, what: &str, bytes: &[u8]) {
    let mut client = plant.socket("d1").await;
    client.send(bytes).await;
    if let Some(packet) = client.read().await {
        assert_eq!((level, packet.first), (5, 0x20), "{what}: {packet:02x?}");
        assert_eq!(packet.body[0], 0, "{what}: session present in a refusal");
        assert!(packet.body[1] >= 0x80, "{what}: {packet:02x?}");
        assert_eq!(client.read().await, None, "{what}");
    }
    assert_eq!(plant.broker.metrics().connections, 0, "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_1_0_1_and_v5_3_1_0_1_the_first_packet_is_a_connect() {
    let plant = Plant::new().await;
    for first in (0..=15_u8).filter(|kind| *kind != 1).map(|kind| kind << 4) {
        for flags in [0, 2] {
            let mut client = plant.socket("d1").await;
            client.send(&packet(first | flags, &[0, 1, 0, 0])).await;
            assert_eq!(client.read().await, None, "{first:#x}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_1_0_2_and_v5_3_1_0_2_a_second_connect_ends_the_connection() {
    let plant = Plant::new().await;
    for level in LEVELS {
        let mut client = plant.socket("d1").await;
        client.connect(Connect::of(level, "d1")).await;
        client.send(&Connect::of(level, "d1").build()).await;
        assert_eq!(client.disconnected().await, (level == 5).then_some(0x82));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_1_2_1_and_v5_3_1_2_1_another_protocol_name_is_not_served() {
    let plant = Plant::new().await;
    for level in LEVELS {
        for name in ["MQTS", "mqtt", "MQTTX", "MQT", ""] {
            let mut body = text(name);
            body.extend([level, 2, 0, 60]);
            if level == 5 {
                body.push(0);
            }
            body.extend(text("d1"));
            let mut client = plant.socket("d1").await;
            client.send(&packet(0x10, &body)).await;
            assert_eq!(client.read().await, None, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_1_2_2_and_v5_3_1_2_2_other_protocol_levels_are_refused() {
    let plant = Plant::new().await;
    for level in [0, 1, 2, 3, 6, 0x84, 255] {
        let mut client = plant.socket("d1").await;
        assert_eq!(client.refused(Connect { level, ..Connect::v311("d1") }).await, 1, "{level}");
    }
    let mut body = text("MQIsdp");
    body.extend([3, 2, 0, 60]);
    body.extend(text("d1"));
    let mut client = plant.socket("d1").await;
    client.send(&packet(0x10, &body)).await;
    assert_eq!(client.read().await.unwrap().body, [0, 1]);
    assert_eq!(client.read().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_1_2_3_and_v5_3_1_2_3_the_reserved_connect_flag_is_checked() {
    let plant = Plant::new().await;
    for level in LEVELS {
        ends(&plant, level, "reserved", &raw(level, 3, &text("d1"))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_1_2_9_and_3_1_2_11_and_3_1_2_13_and_3_1_2_14_and_3_1_2_15_will_flags_and_fields_agree() {
    will_flags_and_fields_agree(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_1_2_9_and_3_1_2_11_and_3_1_2_12_and_3_1_2_13_will_flags_and_fields_agree() {
    will_flags_and_fields_agree(5).await;
}

async fn will_flags_and_fields_agree(level: u8) {
    let plant = Plant::new().await;
    let list: &[u8] = if level == 5 { &[0] } else { &[] };
    let id = text("d1");
    let will = [&id[..], list, &text("devices/d1/telemetry/w"), &bytes(b"x")].concat();
    for (what, flags, payload) in [
        ("QoS without a will", 0b0000_1010, &id),
        ("QoS 2 without a will", 0b0001_0010, &id),
        ("retain without a will", 0b0010_0010, &id),
        ("will QoS 3", 0b0001_1110, &will),
        ("will fields without the flag", 0b0000_0010, &will),
        ("no will fields", 0b0000_0110, &id),
        ("no will payload", 0b0000_0110, &will[..will.len() - 3].to_vec()),
        ("half a will payload", 0b0000_0110, &will[..will.len() - 1].to_vec()),
    ] {
        ends(&plant, level, what, &raw(level, flags, payload)).await;
    }
    let mut client = plant.socket("d1").await;
    client.send(&raw(level, 0b0011_0110, &will)).await;
    assert_eq!(client.read().await.unwrap().body[1], 0, "will QoS 2, retained");
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_1_2_18_and_3_1_2_19_and_3_1_2_20_and_3_1_2_21_and_3_1_2_22_user_name_flags_and_fields_agree() {
    user_name_flags_and_fields_agree(4).await;
    let plant = Plant::new().await;
    ends(&plant, 4, "a password alone", &raw(4, 0x42, &[text("d1"), bytes(b"p")].concat())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_1_2_16_and_3_1_2_17_and_3_1_2_18_and_3_1_2_19_user_name_flags_and_fields_agree() {
    user_name_flags_and_fields_agree(5).await;
    let plant = Plant::new().await;
    let mut client = plant.socket("d1").await;
    client.send(&raw(5, 0x42, &[text("d1"), bytes(b"p")].concat())).await;
    assert_eq!(client.read().await.unwrap().body[1], 0, "MQTT 5 allows a password alone");
}

async fn user_name_flags_and_fields_agree(level: u8) {
    let plant = Plant::new().await;
    let (id, name, password) = (text("d1"), text("name"), bytes(b"password"));
    for (what, flags, payload) in [
        ("a user name without its flag", 0x02, [&id[..], &name].concat()),
        ("a flag without a user name", 0x82, id.clone()),
        ("a password without its flag", 0x82, [&id[..], &name, &password].concat()),
        ("a flag without a password", 0xC2, [&id[..], &name].concat()),
        ("half a password", 0xC2, [&id[..], &name, &password[..5]].concat()),
        ("bytes behind the end", 0xC2, [&id[..], &name, &password, b"x"].concat()),
    ] {
        ends(&plant, level, what, &raw(level, flags, &payload)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_1_3_1_and_3_1_3_3_and_v5_3_1_3_1_and_3_1_3_3_the_fields_of_the_payload_have_their_order() {
    let plant = Plant::open().await;
    for level in LEVELS {
        let mut app = plant.app(level, "watch").await;
        app.subscribe("devices/#", 0).await;
        let mut connect = Connect::of(level, "d1").will("devices/d1/telemetry/w", "will payload", 0, false, &[]);
        connect.user_name = Some("devices/d1/telemetry/u".to_owned());
        connect.password = Some(b"password".to_vec());
        let mut client = plant.socket("d1").await;
        client.connect(connect).await;
        assert_eq!(&*plant.broker.connections().iter().find(|one| &*one.id == "d1").unwrap().client_id, "d1");
        drop(client);
        let got = app.receive().await;
        assert_eq!((got.topic.as_str(), got.text()), ("devices/d1/telemetry/w", "will payload"));
    }
    // A CONNECT that ends before its client id.
    ends(&Plant::new().await, 4, "no client id", &raw(4, 2, &[])).await;
    ends(&Plant::new().await, 5, "no client id", &raw(5, 2, &[])).await;
}

/// Not UTF-8, and U+0000.
const ILL: [&[u8]; 8] =
    [b"\xED\xA0\x80", b"\xED\xBF\xBF", b"\xC0\x80", b"\xFF", b"a\xC3", b"\xF4\x90\x80\x80", b"\xE0\x9F\xBF", b"a\0b"];

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_1_3_4_and_3_1_3_10_and_3_1_3_11_the_strings_of_a_connect_are_utf_8() {
    the_strings_of_a_connect_are_utf_8(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_1_3_4_and_3_1_3_11_and_3_1_3_12_the_strings_of_a_connect_are_utf_8() {
    the_strings_of_a_connect_are_utf_8(5).await;
}

async fn the_strings_of_a_connect_are_utf_8(level: u8) {
    let plant = Plant::new().await;
    let list: &[u8] = if level == 5 { &[0] } else { &[] };
    for ill in ILL.map(bytes) {
        ends(&plant, level, "client id", &raw(level, 2, &ill)).await;
        let will = [&text("d1")[..], list, &ill, &bytes(b"x")].concat();
        ends(&plant, level, "will topic", &raw(level, 6, &will)).await;
        ends(&plant, level, "user name", &raw(level, 0x82, &[text("d1"), ill].concat())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_1_4_1_and_v5_3_1_4_1_and_4_13_1_1_a_malformed_connect_ends_the_connection() {
    let plant = Plant::new().await;
    let id = text("d1");
    for level in LEVELS {
        let whole = raw(level, 2, &id);
        for flags in 1..16 {
            let mut flagged = whole.clone();
            flagged[0] |= flags;
            ends(&plant, level, "fixed header", &flagged).await;
        }
        // Every packet that ends too early.
        for length in 0..whole.len() - 2 {
            ends(&plant, level, "cut", &packet(0x10, &whole[2..2 + length])).await;
        }
    }
    let connect = |list: &[u8]| Connect::v5("d1").property(list).build();
    for (what, list) in [
        ("session expiry twice", [packets::four(0x11, 1), packets::four(0x11, 1)].concat()),
        ("receive maximum twice", [packets::two(0x21, 1), packets::two(0x21, 1)].concat()),
        ("receive maximum 0", packets::two(0x21, 0)),
        ("maximum packet size twice", [packets::four(0x27, 99), packets::four(0x27, 99)].concat()),
        ("maximum packet size 0", packets::four(0x27, 0)),
        ("topic alias maximum twice", [packets::two(0x22, 1), packets::two(0x22, 1)].concat()),
        ("request response information 2", vec![0x19, 2]),
        ("request response information twice", vec![0x19, 1, 0x19, 1]),
        ("request problem information 2", vec![0x17, 2]),
        ("request problem information twice", vec![0x17, 1, 0x17, 1]),
        ("authentication method twice", [string(0x15, "m"), string(0x15, "m")].concat()),
        ("authentication data without a method", string(0x16, "d")),
        ("a server's keep-alive", packets::two(0x13, 1)),
        ("an assigned client id", string(0x12, "d1")),
        ("a topic alias", packets::two(0x23, 1)),
        ("a reason string", string(0x1F, "r")),
        ("a will delay outside of the will", packets::four(0x18, 1)),
        ("a property that is none", vec![0x7F, 0]),
        ("U+0000 in a user property", packets::user("a\0", "b")),
        ("half a property", vec![0x11, 0, 0]),
    ] {
        ends(&plant, 5, what, &connect(&list)).await;
    }
    for (what, list) in [
        ("will delay twice", [packets::four(0x18, 1), packets::four(0x18, 1)].concat()),
        ("format twice", vec![1, 1, 1, 1]),
        ("format 2", vec![1, 2]),
        ("expiry twice", [packets::four(2, 1), packets::four(2, 1)].concat()),
        ("content type twice", [string(3, "t"), string(3, "t")].concat()),
        ("response topic twice", [string(8, "t"), string(8, "t")].concat()),
        ("response topic with a wildcard", string(8, "t/#")),
        ("correlation data twice", [string(9, "t"), string(9, "t")].concat()),
        ("a topic alias", packets::two(0x23, 1)),
        ("a session expiry", packets::four(0x11, 1)),
        ("a subscription identifier", vec![0x0B, 1]),
    ] {
        let connect = Connect::v5("d1").will("devices/d1/telemetry/w", "x", 0, false, &list);
        ends(&plant, 5, what, &connect.build()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_1_3_2_and_3_1_3_5_and_v5_3_1_3_2_and_3_1_3_5_ids_of_letters_and_digits_name_sessions() {
    let plant = Plant::new().await;
    for level in LEVELS {
        for id in ["a", "Z", "0", "0123456789abcdefghijklm", "nopqrstuvwxyzABCDEFGHIJ", "KLMNOPQRSTUVWXYZ"] {
            let mut client = plant.socket(id).await;
            assert_eq!(client.connect(Connect::of(level, id).persistent()).await[0], u8::from(level == 5));
            assert_eq!(&*plant.broker.connections()[0].client_id, id);
            drop(client);
            until("gone", || async { plant.broker.metrics().connections == 0 }).await;
        }
    }
    assert_eq!(plant.broker.metrics().sessions, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_1_3_6_and_3_1_3_7_and_3_1_3_8_an_empty_id_is_assigned_to_clean_sessions_alone() {
    let plant = Plant::open().await;
    let (mut first, _) = plant.app_with(Connect::v311("")).await;
    let (mut second, _) = plant.app_with(Connect::v311("")).await;
    first.quiet().await;
    second.quiet().await;
    let ids: Vec<_> = plant.broker.connections().into_iter().map(|one| one.client_id).collect();
    assert!(ids.len() == 2 && ids[0] != ids[1] && ids.iter().all(|id| id.starts_with("app/")), "{ids:?}");
    for id in ["app", "d1"] {
        let mut client = plant.socket(id).await;
        assert_eq!(client.refused(Connect::v311("").resuming()).await, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_1_3_6_and_3_1_3_7_and_3_2_2_16_an_empty_id_is_assigned_and_told() {
    let plant = Plant::open().await;
    let mut clients = Vec::new();
    let mut ids = Vec::new();
    // One that a session has already is not given to another.
    let (parked, _) = plant.app_with(Connect::v5("app/1").persistent()).await;
    drop(parked);
    for _ in 0..4 {
        let mut client = plant.socket("app").await;
        let connack = client.connect(Connect::v5("")).await;
        let list = packets::read_properties(&connack[3..]);
        let (_, assigned) = list.into_iter().find(|(id, _)| *id == 0x12).expect("an assigned client id");
        ids.push(String::from_utf8(assigned[2..].to_vec()).unwrap());
        clients.push(client);
    }
    let mut different = ids.clone();
    different.sort();
    different.dedup();
    assert_eq!(different.len(), 4, "{ids:?}");
    assert!(!ids.contains(&"app/1".to_owned()), "{ids:?}");
    for client in &mut clients {
        client.quiet().await;
    }
    // The CONNECT counts as if it had said that id: its session is found under it.
    drop(clients);
    let (persistent, present) = plant.app_with(Connect::v5("").persistent()).await;
    assert!(!present);
    let id = plant.broker.connections().into_iter().map(|one| one.client_id).max().unwrap();
    drop(persistent);
    until("gone", || async { plant.broker.metrics().connections == 0 }).await;
    assert!(plant.app_with(Connect::v5(&id).resuming()).await.1, "{id}");
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_1_3_9_and_3_2_2_4_and_3_2_2_5_and_v5_3_1_3_8_and_3_1_4_2_refusals_say_why_and_close() {
    let plant = Plant::new().await;
    plant.gate.forget("d9");
    for (id, asked, code4, code5) in [("d1", "d2", 2, 0x85), ("d1", "D1", 2, 0x85), ("d9", "d9", 5, 0x87)] {
        for (level, code) in [(4, code4), (5, code5)] {
            let mut client = plant.socket(id).await;
            client.send(&Connect::of(level, asked).persistent().build()).await;
            let connack = client.read().await.unwrap();
            assert_eq!((connack.first, &connack.body[..2]), (0x20, &[0, code][..]));
            assert_eq!(client.read().await, None);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_1_4_5_and_v5_3_1_4_6_nothing_behind_a_refused_connect_is_looked_at() {
    let plant = Plant::open().await;
    let mut app = plant.app(5, "watch").await;
    app.subscribe("#", 0).await;
    for level in LEVELS {
        let mut client = plant.socket("d1").await;
        let list = (level == 5).then_some(&[][..]);
        let publish = packets::publish(2, "devices/d1/telemetry/t", 1, list, b"x");
        client.send(&[Connect::of(level, "d2").build(), publish.clone(), publish].concat()).await;
        assert_eq!(client.read().await.unwrap().first, 0x20);
        assert_eq!(client.read().await, None);
    }
    assert_eq!(plant.gate.committed(), []);
    app.quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_2_2_6_where_no_return_code_fits_there_is_no_connack() {
    let plant = Plant::new().await;
    ends(&plant, 4, "will topic", &Connect::v311("d1").will("a/#", "x", 0, false, &[]).build()).await;
    ends(&plant, 4, "empty will topic", &Connect::v311("d1").will("", "x", 0, false, &[]).build()).await;
    let large = Connect::v311("d1").will("devices/d1/telemetry/w", &"x".repeat(17 << 10), 0, false, &[]);
    ends(&plant, 4, "too large", &large.build()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_1_4_2_and_v5_3_1_4_3_the_older_connection_is_ended() {
    let plant = Plant::new().await;
    for level in LEVELS {
        for clean in [true, false] {
            let connect = Connect { clean, ..Connect::of(level, "d1") };
            let mut older = plant.socket("d1").await;
            older.connect(connect.clone()).await;
            let mut newer = plant.socket("d1").await;
            newer.connect(connect).await;
            assert_eq!(older.disconnected().await, (level == 5).then_some(0x8E));
            newer.quiet().await;
            assert_eq!(plant.broker.connections().len(), 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_4_12_0_1_and_4_12_0_6_and_4_12_0_7_and_3_15_1_1_there_are_no_authentication_methods() {
    let plant = Plant::new().await;
    for list in [string(0x15, "SCRAM-SHA-256"), [string(0x15, "m"), string(0x16, "d")].concat()] {
        let mut client = plant.socket("d1").await;
        assert_eq!(client.refused(Connect::v5("d1").property(&list)).await, 0x8C);
    }
    let mut client = plant.socket("d1").await;
    let connack = client.connect(Connect::v5("d1")).await;
    let list = packets::read_properties(&connack[3..]);
    assert!(list.iter().all(|(id, _)| *id != 0x15 && *id != 0x16), "{list:?}");
    client.send(&packet(0xF0, &[&[0x19, 4][..], &string(0x15, "m")].concat())).await;
    assert_eq!(client.disconnected().await, Some(0x82));
    for flags in 1..16 {
        let mut client = plant.v5("d1").await;
        client.send(&packet(0xF0 | flags, &[])).await;
        assert_eq!(client.disconnected().await, Some(0x81));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_7_1_1_1_and_v5_4_2_0_1_bytes_are_a_stream_however_they_arrive() {
    let plant = Plant::open_with(Limits { message_rate: 0, ..Limits::default() }).await;
    for level in LEVELS {
        let list = (level == 5).then_some(&[][..]);
        let mut client = plant.socket("app").await;
        let connect = Connect::of(level, "app/1").build();
        let subscribe = packets::subscribe(7, list, &[("a", 1)]);
        let publish = packets::publish(2, "a", 8, list, b"hello");
        for byte in [connect, subscribe, publish].concat() {
            client.send(&[byte]).await;
        }
        assert_eq!(client.read().await.unwrap().first, 0x20);
        assert_eq!(client.read().await.unwrap().first, 0x90);
        let (mut acked, mut got) = (false, false);
        for _ in 0..2 {
            match client.read().await.unwrap().first {
                0x40 => acked = true,
                0x32 => got = true,
                other => panic!("{other:#x}"),
            }
        }
        assert!(acked && got);
    }
}
