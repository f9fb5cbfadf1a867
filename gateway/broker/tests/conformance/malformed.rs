//! Packets that are none: every one ends its connection.

use crate::LEVELS;
use crate::support::Plant;
use crate::support::packets::{self, Connect, packet, string, text, user};

const TOPIC: &str = "devices/d1/telemetry/t";

/// Asserts that the bytes end a connection, on MQTT 5 with one of the codes.
async fn ends(plant: &Plant, level: u8, what: &str, bytes: &[u8], codes: &[u8]) {
    let mut client = plant.socket("d1").await;
    client.connect(Connect::of(level, "d1")).await;
    client.send(bytes).await;
    let code = client.disconnected().await;
    if level == 5 {
        assert!(code.is_some_and(|code| codes.contains(&code)), "{what}: {code:02x?}");
    } else {
        assert_eq!(code, None, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_2_2_2_1_and_2_2_2_2_and_3_6_1_1_and_3_8_1_1_and_3_10_1_1_flags_have_their_values() {
    flags_have_their_values(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_2_1_3_1_and_3_6_1_1_and_3_8_1_1_and_3_10_1_1_flags_have_their_values() {
    flags_have_their_values(5).await;
}

async fn flags_have_their_values(level: u8) {
    let plant = Plant::new().await;
    let list = (level == 5).then_some(&[][..]);
    for (what, good) in [
        ("PUBACK", packets::ack(0x40, 1)),
        ("PUBREC", packets::ack(0x50, 1)),
        ("PUBREL", packets::ack(0x62, 1)),
        ("PUBCOMP", packets::ack(0x70, 1)),
        ("SUBSCRIBE", packets::subscribe(1, list, &[("devices/d1/x", 0)])),
        ("UNSUBSCRIBE", packets::unsubscribe(1, list, &["devices/d1/x"])),
        ("PINGREQ", packet(0xC0, &[])),
        ("DISCONNECT", packet(0xE0, &[])),
    ] {
        for flags in (0..16).filter(|flags| *flags != good[0] & 0x0F) {
            let mut bad = good.clone();
            bad[0] = good[0] & 0xF0 | flags;
            ends(&plant, level, what, &bad, &[0x81]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_4_8_0_1_and_v5_4_13_1_1_what_only_servers_send_ends_the_connection() {
    let plant = Plant::new().await;
    for level in LEVELS {
        for first in [0x00, 0x20, 0x90, 0xB0, 0xD0] {
            for body in [&[][..], &[0, 0], &[0, 1, 0], &[0, 1, 0, 0]] {
                ends(&plant, level, "a server's packet", &packet(first, body), &[0x81, 0x82]).await;
            }
        }
        ends(&plant, level, "AUTH", &packet(0xF0, &[]), &[0x82]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_2_3_1_1_and_v5_2_2_1_3_packet_id_0_ends_the_connection() {
    let plant = Plant::new().await;
    for level in LEVELS {
        let list = (level == 5).then_some(&[][..]);
        for bytes in [
            packets::publish(2, TOPIC, 0, list, b"x"),
            packets::publish(4, TOPIC, 0, list, b"x"),
            packets::subscribe(0, list, &[("devices/d1/x", 0)]),
            packets::unsubscribe(0, list, &["devices/d1/x"]),
            packets::ack(0x40, 0),
            packets::ack(0x50, 0),
            packets::ack(0x62, 0),
            packets::ack(0x70, 0),
        ] {
            ends(&plant, level, "id 0", &bytes, &[0x81, 0x82]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_1_5_3_1_and_1_5_3_2_and_v5_1_5_4_1_and_1_5_4_2_strings_are_utf_8_without_nul() {
    let plant = Plant::new().await;
    let ill: [&[u8]; 8] = [
        b"devices/d1/\xED\xA0\x80",
        b"devices/d1/\xED\xBF\xBF",
        b"devices/d1/\xC0\x80",
        b"devices/d1/\xFF",
        b"devices/d1/\xC3",
        b"devices/d1/\xF4\x90\x80\x80",
        b"devices/d1/\xE0\x9F\xBF",
        b"devices/d1/\0",
    ];
    for ill in ill.map(packets::bytes) {
        for level in LEVELS {
            let list: &[u8] = if level == 5 { &[0] } else { &[] };
            ends(&plant, level, "PUBLISH", &packet(0x30, &[&ill[..], list, b"x"].concat()), &[0x81]).await;
            let filter = [&[0, 1][..], list, &ill, &[0]].concat();
            ends(&plant, level, "SUBSCRIBE", &packet(0x82, &filter), &[0x81]).await;
            let filter = [&[0, 1][..], list, &ill].concat();
            ends(&plant, level, "UNSUBSCRIBE", &packet(0xA2, &filter), &[0x81]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_1_5_7_1_and_3_3_2_13_and_3_3_2_19_strings_in_properties_are_utf_8_without_nul() {
    let plant = Plant::new().await;
    for ill in [b"a\xED\xA0\x80".as_slice(), b"\xFF", b"\0"].map(packets::bytes) {
        let property = |id: u8| packets::properties(&[&[id][..], &ill].concat());
        let pairs = [
            packets::properties(&[&[0x26][..], &ill, &text("v")].concat()),
            packets::properties(&[&[0x26][..], &text("n"), &ill].concat()),
        ];
        for list in [property(0x03), property(0x08)].iter().chain(&pairs) {
            let publish = packet(0x30, &[&text(TOPIC)[..], list, b"x"].concat());
            ends(&plant, 5, "PUBLISH", &publish, &[0x81]).await;
        }
        for list in [property(0x1F)].iter().chain(&pairs) {
            for first in [0x40, 0x50, 0x62, 0x70] {
                let ack = packet(first, &[&[0, 1, 0][..], list].concat());
                ends(&plant, 5, "acknowledgement", &ack, &[0x81]).await;
            }
            ends(&plant, 5, "DISCONNECT", &packet(0xE0, &[&[0][..], list].concat()), &[0x81]).await;
        }
        for list in &pairs {
            let subscribe = [&[0, 1][..], list, &text("devices/d1/x"), &[0]].concat();
            ends(&plant, 5, "SUBSCRIBE", &packet(0x82, &subscribe), &[0x81]).await;
            let unsubscribe = [&[0, 1][..], list, &text("devices/d1/x")].concat();
            ends(&plant, 5, "UNSUBSCRIBE", &packet(0xA2, &unsubscribe), &[0x81]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_1_5_5_1_lengths_take_no_more_bytes_than_they_need() {
    let plant = Plant::new().await;
    for bytes in [
        &[0xC0, 0x80, 0][..],
        &[0xC0, 0x80, 0x80, 0],
        &[0xC0, 0x80, 0x80, 0x80, 0],
        &[0x40, 0x82, 0, 0, 1],
        &[0xE0, 0x80, 0x80, 0],
    ] {
        ends(&plant, 5, "a padded length", bytes, &[0x81]).await;
    }
    // And one that never ends.
    for level in LEVELS {
        ends(&plant, level, "five bytes of length", &[0x30, 0x80, 0x80, 0x80, 0x80, 1], &[0x81]).await;
        ends(&plant, level, "five bytes of length", &[0xC0, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F], &[0x81]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_2_2_2_1_and_v311_4_8_0_1_packets_that_end_too_early_or_too_late_end_the_connection() {
    let plant = Plant::new().await;
    for level in LEVELS {
        let list = (level == 5).then_some(&[][..]);
        for (what, whole, least) in [
            ("PUBLISH", packets::publish(2, TOPIC, 1, list, b""), 0),
            ("SUBSCRIBE", packets::subscribe(1, list, &[("devices/d1/x", 0)]), 0),
            ("UNSUBSCRIBE", packets::unsubscribe(1, list, &["devices/d1/x"]), 0),
            ("PUBREL", packets::ack(0x62, 1), 0),
        ] {
            for length in least..whole.len() - 2 {
                ends(&plant, level, what, &packet(whole[0], &whole[2..2 + length]), &[0x81, 0x82, 0x90]).await;
            }
        }
        for (what, bytes) in [
            ("PINGREQ with a body", packet(0xC0, &[0])),
            ("PUBACK with more", packet(0x40, &[0, 1, 0, 0, 0])),
            ("DISCONNECT with more", packet(0xE0, &[0, 0, 0])),
        ] {
            ends(&plant, level, what, &bytes, &[0x81]).await;
        }
    }
    // Properties that run past the packet's end, or into the payload of SUBSCRIBE.
    for (what, bytes) in [
        ("PUBLISH", packet(0x30, &[&text(TOPIC)[..], &[9, 1, 1]].concat())),
        ("SUBSCRIBE", packet(0x82, &[&[0, 1, 40][..], &text("devices/d1/x"), &[0]].concat())),
        ("PUBACK", packet(0x40, &[0, 1, 0, 9, 0x1F])),
        ("a length that never ends", packet(0x30, &[&text(TOPIC)[..], &[0xFF, 0xFF, 0xFF, 0xFF, 1]].concat())),
    ] {
        ends(&plant, 5, what, &bytes, &[0x81]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_4_13_1_1_properties_belong_to_their_packets_and_come_once() {
    let plant = Plant::new().await;
    let publish = |list: &[u8]| packets::publish(0, TOPIC, 0, Some(list), b"x");
    let subscribe = |list: &[u8]| packets::subscribe(1, Some(list), &[("devices/d1/x", 0)]);
    let unsubscribe = |list: &[u8]| packets::unsubscribe(1, Some(list), &["devices/d1/x"]);
    let puback = |list: &[u8]| packet(0x40, &[&[0, 1, 0][..], &packets::properties(list)].concat());
    let pubrel = |list: &[u8]| packet(0x62, &[&[0, 1, 0][..], &packets::properties(list)].concat());
    let twice = |one: &[u8]| one.repeat(2);
    for (what, bytes) in [
        ("format twice", publish(&[1, 0, 1, 0])),
        ("format 2", publish(&[1, 2])),
        ("expiry twice", publish(&twice(&packets::four(2, 9)))),
        ("content type twice", publish(&twice(&string(3, "t")))),
        ("response topic twice", publish(&twice(&string(8, "t")))),
        ("correlation data twice", publish(&twice(&string(9, "t")))),
        ("alias twice", publish(&twice(&packets::two(0x23, 1)))),
        ("session expiry", publish(&packets::four(0x11, 1))),
        ("will delay", publish(&packets::four(0x18, 1))),
        ("reason string", publish(&string(0x1F, "r"))),
        ("maximum QoS", publish(&[0x24, 1])),
        ("identifier twice", subscribe(&[0x0B, 1, 0x0B, 2])),
        ("identifier 0", subscribe(&[0x0B, 0])),
        ("identifier too large", subscribe(&[0x0B, 0xFF, 0xFF, 0xFF, 0xFF])),
        ("expiry in SUBSCRIBE", subscribe(&packets::four(2, 9))),
        ("reason in SUBSCRIBE", subscribe(&string(0x1F, "r"))),
        ("identifier in UNSUBSCRIBE", unsubscribe(&[0x0B, 1])),
        ("reason in UNSUBSCRIBE", unsubscribe(&string(0x1F, "r"))),
        ("reason twice", puback(&twice(&string(0x1F, "r")))),
        ("format in PUBACK", puback(&[1, 1])),
        ("reason twice in PUBREL", pubrel(&twice(&string(0x1F, "r")))),
        ("alias in PUBREL", pubrel(&packets::two(0x23, 1))),
        ("number 0", publish(&[0, 0])),
        ("number 127", publish(&[0x7F, 0])),
    ] {
        ends(&plant, 5, what, &bytes, &[0x81, 0x82]).await;
    }
    // What is allowed stays allowed.
    let mut client = plant.v5("d1").await;
    client.send(&subscribe(&[&[0x0B, 0xFF, 0xFF, 0xFF, 0x7F][..], &user("a", "b"), &user("a", "b")].concat())).await;
    assert_eq!(client.read().await.unwrap().first, 0x90);
    client.send(&unsubscribe(&user("a", "b"))).await;
    assert_eq!(client.read().await.unwrap().first, 0xB0);
    client.send(&puback(&[string(0x1F, "r"), user("a", "b"), user("a", "b")].concat())).await;
    client.quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_4_2_1_and_3_5_2_1_and_3_6_2_1_and_3_7_2_1_acknowledgements_have_their_own_codes() {
    let plant = Plant::new().await;
    for (first, bad) in [(0x40, [0x01, 0x92]), (0x50, [0x11, 0x92]), (0x62, [0x10, 0x80]), (0x70, [0x10, 0x87])] {
        for code in bad {
            ends(&plant, 5, "a code of another packet", &packets::ack_code(first, 1, code), &[0x81, 0x82]).await;
        }
        let good: &[u8] = if first < 0x60 { &[0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99] } else { &[0, 0x92] };
        let mut client = plant.v5("d1").await;
        for code in good {
            client.send(&packets::ack_code(first, 1, *code)).await;
            // Each is answered where an answer is due, with a code of its own.
            match first {
                0x50 if *code < 0x80 => assert_eq!(client.acked(0x62).await, (1, 0x92)),
                0x62 => assert_eq!(client.acked(0x70).await, (1, 0x92)),
                _ => client.quiet().await,
            }
        }
    }
}
