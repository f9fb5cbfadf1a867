//! CONNACK, keep-alive, and what the server says about itself.

use std::time::Duration;

use fieldgate_broker::Limits;
use tokio::time::Instant;

use crate::LEVELS;
use crate::support::packets::{self, Connect, four, read_properties};
use crate::support::{Plant, until};

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_2_0_1_and_3_1_4_4_and_v5_3_2_0_1_and_3_2_0_2_and_3_1_4_5_one_connack_comes_before_all_else() {
    let plant = Plant::open().await;
    for level in LEVELS {
        let connect = Connect::of(level, "app/1").persistent();
        let (mut client, _) = plant.app_with(connect.clone()).await;
        client.subscribe("a", 2).await;
        drop(client);
        until("gone", || async { plant.broker.metrics().connections == 0 }).await;
        let mut publisher = plant.app(level, "2").await;
        for payload in ["1", "2", "3"] {
            publisher.deliver(2, "a", &[], payload).await;
        }
        // The publish behind the CONNECT is answered behind the CONNACK.
        let mut client = plant.socket("app").await;
        client.send(&[connect.build(), vec![0xC0, 0]].concat()).await;
        let mut kinds = Vec::new();
        while kinds.len() < 5 {
            let packet = client.read().await.unwrap();
            kinds.push(packet.first >> 4);
            if kinds.len() == 1 {
                assert_eq!(packet.body[..2], [1, 0]);
            }
        }
        assert_eq!(kinds[0], 2);
        assert_eq!(kinds.iter().filter(|kind| **kind == 2).count(), 1);
        kinds.sort();
        assert_eq!(kinds, [2, 3, 3, 3, 13]);
        drop((client, publisher));
        until("gone", || async { plant.broker.metrics().connections == 0 }).await;
        plant.app_with(Connect::of(level, "app/1")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_2_2_1_and_3_2_2_6_and_3_2_2_7_and_3_2_2_8_and_4_13_2_1_flags_and_codes_are_those_of_a_connack() {
    let plant = Plant::new().await;
    plant.gate.forget("d9");
    let known = [
        0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97, 0x99, 0x9A, 0x9B,
        0x9C, 0x9D, 0x9F,
    ];
    let topic = "devices/d1/telemetry/w";
    for (id, connect, code) in [
        ("d1", Connect::v5("d2").persistent(), 0x85),
        ("d9", Connect::v5("d9"), 0x87),
        ("d1", Connect::v5("d1").property(&packets::string(0x15, "m")), 0x8C),
        ("d1", Connect::v5("d1").will("a/#", "x", 0, false, &[]), 0x90),
        ("d1", Connect::v5("d1").will("a", "x", 0, false, &[]), 0x87),
        ("d1", Connect::v5("d1").will(topic, "x", 3, false, &[]), 0x81),
        ("d1", Connect::v5("d1").will(topic, "x", 0, false, &[1, 2]), 0x82),
        ("d1", Connect::v5("d1").will(topic, &"x".repeat(17 << 10), 0, false, &[]), 0x95),
    ] {
        let mut client = plant.socket(id).await;
        client.send(&connect.build()).await;
        let connack = client.read().await.unwrap();
        assert_eq!((connack.first, connack.body[0], connack.body[1]), (0x20, 0, code));
        assert!(known.contains(&code));
        assert_eq!(client.read().await, None, "a refusal ends the connection");
    }
    let mut will = Connect::v5("d1").will(topic, "", 0, false, &[1, 1]);
    will.will.as_mut().unwrap().1 = vec![0xFF];
    let mut client = plant.socket("d1").await;
    assert_eq!(client.refused(will).await, 0x99);
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_1_2_28_no_response_information_is_given() {
    let plant = Plant::new().await;
    for list in [&[][..], &[0x19, 0], &[0x19, 1]] {
        let mut client = plant.socket("d1").await;
        let connack = client.connect(Connect::v5("d1").property(list)).await;
        assert_eq!(usize::from(connack[2]), connack.len() - 3);
        assert!(read_properties(&connack[3..]).iter().all(|(id, _)| *id != 0x1A));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_2_2_19_and_3_2_2_20_and_3_14_2_3_and_3_14_2_4_reasons_never_make_a_packet_too_large() {
    let plant = Plant::new().await;
    // With room the reason is told; without, the code alone. User properties are never sent.
    for (limit, told) in [(200, true), (40, false), (5, false)] {
        let mut client = plant.socket("d1").await;
        client.send(&Connect::v5("somebody-else").property(&four(0x27, limit)).build()).await;
        let connack = client.read().await.unwrap();
        assert_eq!(connack.body[1], 0x85);
        assert!(connack.body.len() + 2 <= limit as usize, "{connack:02x?}");
        let kinds: Vec<u8> = read_properties(&connack.body[3..]).iter().map(|(id, _)| *id).collect();
        assert_eq!(kinds, if told { vec![0x1F] } else { vec![] });
    }
    for (limit, told) in [(100, true), (26, true), (25, false), (24, false), (23, false), (6, false)] {
        let mut client = plant.socket("d1").await;
        if limit < 24 {
            // No CONNACK that accepts fits: refused, which fits.
            assert_eq!(client.refused(Connect::v5("d1").property(&four(0x27, limit))).await, 0x95);
            continue;
        }
        // The longest CONNACK there is: with a server's keep-alive and a lower session expiry.
        let longest = Connect::v5("d1").keep_alive(0).property(&four(0x27, limit)).property(&four(0x11, u32::MAX));
        assert_eq!(client.connect(longest).await.len() + 2, 24);
        client.send(&packets::publish(0, "a", 0, Some(&packets::two(0x23, 99)), b"")).await;
        let goodbye = client.read().await.unwrap();
        assert_eq!((goodbye.first, goodbye.body[0]), (0xE0, 0x94));
        assert!(goodbye.body.len() + 2 <= limit as usize);
        let list = goodbye.body.get(2..).unwrap_or_default();
        let kinds: Vec<u8> = read_properties(list).iter().map(|(id, _)| *id).collect();
        assert_eq!(kinds, if told { vec![0x1F] } else { vec![] });
        assert_eq!(client.read().await, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_1_2_24_an_assigned_client_id_counts_in_the_connack() {
    let plant = Plant::open().await;
    let id = "d".repeat(64);
    let nameless = |limit| Connect::v5("").keep_alive(0).property(&four(0x27, limit)).property(&four(0x11, u32::MAX));
    let mut client = plant.socket(&id).await;
    assert_eq!(client.refused(nameless(91)).await, 0x95);
    let mut client = plant.socket(&id).await;
    let connack = client.connect(nameless(93)).await;
    assert!(connack.len() + 2 <= 93, "{}", connack.len());
    // An id that was said is not said again.
    let mut client = plant.socket(&id).await;
    client.connect(Connect { client_id: id.clone(), ..nameless(24) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v311_3_1_2_24_and_v5_3_1_2_22_and_3_2_2_22_silence_ends_the_connection() {
    let plant = Plant::open().await;
    let mut app = plant.app(5, "watch").await;
    app.subscribe("devices/#", 0).await;
    for level in LEVELS {
        let mut client = plant.socket("d1").await;
        let connect = Connect::of(level, "d1").keep_alive(1).will("devices/d1/telemetry/w", "lost", 0, false, &[]);
        let connack = client.connect(connect).await;
        if level == 5 {
            assert!(read_properties(&connack[3..]).iter().all(|(id, _)| *id != 0x13), "the client's counts");
        }
        client.quiet().await;
        let heard = Instant::now();
        assert_eq!(client.disconnected().await, (level == 5).then_some(0x8D));
        let silent = heard.elapsed();
        assert!(silent > Duration::from_millis(1_400) && silent < Duration::from_secs(8), "{silent:?}");
        assert_eq!(app.receive().await.text(), "lost");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_3_1_2_22_bytes_that_make_no_packet_are_silence() {
    let plant = Plant::new().await;
    let mut client = plant.socket("d1").await;
    client.connect(Connect::v5("d1").keep_alive(1)).await;
    let packet = packets::publish(0, "devices/d1/telemetry/t", 0, Some(&[]), &[b'x'; 100]);
    let (mut reader, mut writer) = tokio::io::split(client.stream);
    let trickle = async {
        for byte in packet {
            if tokio::io::AsyncWriteExt::write_all(&mut writer, &[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let listen = async {
        let mut heard = Vec::new();
        // A close without TLS goodbye is an end too.
        tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut heard).await.unwrap_or_default();
        heard
    };
    let heard = tokio::select! {
        () = trickle => panic!("the whole packet went through"),
        heard = listen => heard,
    };
    assert_eq!((heard[0], heard[2]), (0xE0, 0x8D));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_keep_alive_counts_where_the_client_has_none() {
    let plant = Plant::with_limits(Limits { keep_alive: Duration::from_secs(1), ..Limits::default() }).await;
    let mut client = plant.socket("d1").await;
    let connack = client.connect(Connect::v5("d1").keep_alive(0)).await;
    assert!(read_properties(&connack[3..]).contains(&(0x13, vec![0, 1])));
    assert_eq!(client.disconnected().await, Some(0x8D));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_expiry_beyond_the_limit_is_told() {
    let limits = Limits { session_expiry: Duration::from_secs(100), ..Limits::default() };
    let plant = Plant::with_limits(limits).await;
    for (asked, told) in [(50, None), (100, None), (101, Some(100)), (u32::MAX, Some(100))] {
        let mut client = plant.socket("d1").await;
        let connack = client.connect(Connect::v5("d1").property(&four(0x11, asked))).await;
        let list = read_properties(&connack[3..]);
        let found = list.into_iter().find(|(id, _)| *id == 0x11).map(|(_, value)| value);
        assert_eq!(found, told.map(|told: u32| told.to_be_bytes().to_vec()), "{asked}");
    }
}
