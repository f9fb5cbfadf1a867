//! The client against bytes: what random and mutated input does to it, and what the clock does.

use std::borrow::Cow;
use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::northbound::failure::Failure;
use crate::northbound::packet::Properties;
use crate::northbound::status;

const KEEP_ALIVE: Duration = Duration::from_secs(10);

fn message(payload: &[u8]) -> Packet<'_> {
    Packet {
        topic: ["fieldgate/line-4/", "devices/press-1/telemetry/t"],
        payload: Cow::Borrowed(payload),
        retain: false,
        properties: Properties::default(),
    }
}

/// A client, and the server's end of its connection, behind the CONNECT and a CONNACK.
struct Bench {
    client: Client,
    far: DuplexStream,
    arrivals: mpsc::Receiver<Arrival>,
    wire: JoinHandle<Failure>,
}

async fn bench(protocol: Protocol, pipe: usize, behind_connack: &[u8]) -> Bench {
    let hello = Hello {
        protocol,
        host: "cloud".to_owned(),
        who: Who { client_id: "line-4".to_owned(), login: None, certificate: None },
        login: None,
        keep_alive: KEEP_ALIVE,
        will: message(b"gone"),
    };
    let (near, mut far) = tokio::io::duplex(pipe);
    let connack: &[u8] = if protocol == Protocol::V5 { &[0x20, 3, 0, 0, 0] } else { &[0x20, 2, 0, 0] };
    let answer = [connack, behind_connack].concat();
    let serve = async {
        let mut first = [0; 2];
        far.read_exact(&mut first).await.unwrap();
        assert_eq!((first[0], first[1] & 0x80), (0x10, 0), "a CONNECT of less than 128 bytes");
        let mut connect = vec![0; usize::from(first[1])];
        far.read_exact(&mut connect).await.unwrap();
        // The client may be gone before it has taken all of it.
        let _taken = far.write_all(&answer).await.is_ok();
        far
    };
    let (board, _) = status::board(Arc::new(fieldgate_types::SystemClock::new()));
    // Nobody takes more than this here.
    let (sender, arrivals) = mpsc::channel(128);
    let inward = Inward { arrivals: sender, counters: Arc::clone(&board.counters) };
    let (connected, far) = tokio::join!(connect(&hello, Box::new(near), inward), serve);
    let (client, wire, _) = connected.unwrap();
    Bench { client, far, arrivals, wire: tokio::spawn(wire.run()) }
}

/// Valid packets of a server, for mutation.
fn valid(v5: bool) -> Vec<Vec<u8>> {
    let mut packets: Vec<Vec<u8>> = vec![
        vec![0x40, 2, 0, 1],
        vec![0x40, 2, 0, 2],
        vec![0x90, if v5 { 4 } else { 3 }, 0, 3],
        vec![0xD0, 0],
        vec![0x62, 2, 0, 9],
        [&[0x30, if v5 { 7 } else { 6 }, 0, 1, b'a'][..], if v5 { &[0, 1, 2, 3][..] } else { &[1, 2, 3] }].concat(),
        [&[0x32, if v5 { 8 } else { 7 }, 0, 1, b'a', 0, 5][..], if v5 { &[0, 1, 2][..] } else { &[1, 2] }].concat(),
    ];
    packets[2].extend(if v5 { &[0, 1][..] } else { &[1] });
    if v5 {
        packets.push(vec![0x40, 4, 0, 1, 0x97, 0]);
        packets.push(vec![0x40, 14, 0, 2, 0x10, 10, 0x26, 0, 1, b'k', 0, 1, b'v', 0x1F, 0, 0]);
        packets.push(vec![0xE0, 7, 0x89, 5, 0x1F, 0, 2, b'n', b'o']);
        let properties = [0x01, 1, 0x02, 0, 0, 0, 9, 0x03, 0, 1, b't', 0x08, 0, 1, b'r', 0x09, 0, 1, 7];
        let mut publish = vec![0x32, 5 + 1 + 19 + 1, 0, 1, b'a', 0, 6, 19];
        publish.extend(properties);
        publish.push(b'!');
        packets.push(publish);
    }
    packets
}

/// Feeds `bytes` behind the CONNACK, with three messages and a SUBSCRIBE open. It ends, with a reason, or it goes on;
/// what it holds stays bounded.
fn survives(protocol: Protocol, bytes: &[u8]) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let Bench { client, mut far, mut arrivals, wire } = bench(protocol, 1 << 16, &[]).await;
        for _ in 0..2 {
            client.publish(&message(b"1")).unwrap();
        }
        let asking = tokio::spawn({
            let client = client.clone();
            async move {
                let wanted = Wanted { filter: "a/#".to_owned(), retained: false };
                let _granted = client.subscribe(wanted).await.is_ok();
                let _ack = client.deliver(&message(b"2")).await;
            }
        });
        tokio::task::yield_now().await;
        client.flush();
        // It may have ended in the middle.
        let _taken = far.write_all(bytes).await.is_ok();
        far.shutdown().await.unwrap();
        let mut out = Vec::new();
        let all = async {
            let _read = far.read_to_end(&mut out).await;
            wire.await.unwrap()
        };
        let failure = tokio::time::timeout(Duration::from_secs(60), all).await;
        prop_assert!(failure.is_ok(), "it never ends, though the other side has");
        let failure = failure.unwrap().to_string();
        prop_assert!(failure.len() < 1000, "{failure}");
        // Two messages, a SUBSCRIBE, a third message, and a PUBCOMP for each PUBREL of four bytes.
        prop_assert!(out.len() < 1000 + bytes.len(), "{} bytes went out", out.len());
        let mut answers = 0;
        while let Some(some) = client.answers(10).await {
            answers += some.len();
        }
        prop_assert!(answers <= 2, "{answers} answers to two messages");
        let mut held = 0;
        while let Ok(arrival) = arrivals.try_recv() {
            held += arrival.payload.len() + arrival.topic.len();
        }
        prop_assert!(held <= bytes.len());
        prop_assert!(asking.await.is_ok());
        Ok(())
    })
}

fn versions() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::V5), Just(Protocol::V311)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn random_bytes_do_no_harm(protocol in versions(), bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        survives(protocol, &bytes)?;
    }

    #[test]
    fn mutated_packets_do_no_harm(
        protocol in versions(),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 1..40),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..3), 0..6),
    ) {
        let packets = valid(protocol == Protocol::V5);
        let mut bytes: Vec<u8> = picks.iter().flat_map(|pick| pick.get(&packets).clone()).collect();
        for (at, value, how) in changes {
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = value,
                1 => bytes.insert(at, value),
                _ => drop(bytes.drain(at..=at).next()),
            }
            if bytes.is_empty() {
                break;
            }
        }
        survives(protocol, &bytes)?;
    }

    #[test]
    fn no_packet_makes_the_decoder_panic(protocol in versions(), first: u8, body in prop::collection::vec(any::<u8>(), 0..200)) {
        let frame = fieldgate_broker::codec::Frame { first, header: 0, body: body.len() };
        let _outcome = decode::decode(protocol, frame, &body).is_ok();
    }
}

#[tokio::test]
async fn every_packet_that_is_mutated_is_valid_before() {
    for protocol in [Protocol::V5, Protocol::V311] {
        for bytes in valid(protocol == Protocol::V5) {
            let frame = fieldgate_broker::codec::frame(&bytes, 1000).unwrap().unwrap();
            assert_eq!(frame.len(), bytes.len(), "{bytes:?}");
            assert!(decode::decode(protocol, frame, &bytes).is_ok(), "{bytes:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_half_open_connection_is_pinged_and_left_after_one_and_a_half_keep_alives() {
    let Bench { client, mut far, wire, .. } = bench(Protocol::V5, 1 << 16, &[]).await;
    let begin = Instant::now();
    // Written to all the time, which the other side takes and never answers.
    let writing = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        while client.publish(&message(b"1")).is_ok() {
            client.flush();
            ticks.tick().await;
        }
    });
    let mut seen = Vec::new();
    far.read_to_end(&mut seen).await.unwrap();
    assert!(matches!(wire.await.unwrap(), Failure::Silent(limit) if limit == KEEP_ALIVE * 3 / 2));
    let took = begin.elapsed();
    assert!((KEEP_ALIVE * 3 / 2..KEEP_ALIVE * 3 / 2 + Duration::from_secs(1)).contains(&took), "{took:?}");
    assert_eq!(seen.windows(2).filter(|pair| *pair == [0xC0, 0]).count(), 1, "one PINGREQ");
    writing.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_quiet_connection_lives_on_its_pings() {
    let Bench { mut far, wire, client, .. } = bench(Protocol::V311, 1 << 16, &[]).await;
    for _ in 0..5 {
        let asked = Instant::now();
        let mut ping = [0; 2];
        far.read_exact(&mut ping).await.unwrap();
        assert_eq!((ping, asked.elapsed().as_secs()), ([0xC0, 0], KEEP_ALIVE.as_secs()));
        far.write_all(&[0xD0, 0]).await.unwrap();
    }
    client.disconnect().unwrap();
    let mut rest = Vec::new();
    far.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, [0xE0, 0]);
    assert!(wire.await.unwrap().to_string().contains("as asked"));
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_takes_nothing_ends_the_connection_though_bytes_come() {
    let Bench { client, mut far, wire, .. } = bench(Protocol::V5, 4096, &[]).await;
    client.publish(&message(&vec![0; 20_000])).unwrap();
    client.flush();
    let begin = Instant::now();
    let talking = async {
        loop {
            far.write_all(&[0xD0, 0]).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let failure = tokio::select! {
        failure = wire => failure.unwrap(),
        () = talking => unreachable!(),
        () = tokio::time::sleep(KEEP_ALIVE * 3) => panic!("it lives on"),
    };
    assert!(matches!(failure, Failure::Blocked(limit) if limit == KEEP_ALIVE * 3 / 2), "{failure}");
    assert!(begin.elapsed() < KEEP_ALIVE * 2);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_releases_and_does_not_read_is_left_before_it_costs_memory() {
    let Bench { client, mut far, wire, .. } = bench(Protocol::V5, 4096, &[]).await;
    let pubrel = [0x62, 2, 0, 9].repeat(1024);
    while far.write_all(&pubrel).await.is_ok() {}
    let failure = wire.await.unwrap().to_string();
    assert!(failure.contains("doesn't read what it is answered"), "{failure}");
    assert_eq!(client.publish(&message(b"1")), Err(Gone));
}

#[tokio::test(start_paused = true)]
async fn output_that_nobody_takes_makes_its_writers_wait() {
    let Bench { client, mut far, wire, .. } = bench(Protocol::V5, 4096, &[]).await;
    let payload = vec![0; 10_000];
    // What the wire has taken, and what waits behind it.
    let mut given = 0;
    for _ in 0..2 {
        while client.publish(&message(&payload)).unwrap() {
            given += 1;
        }
        given += 1;
        client.flush();
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
    }
    assert!((50..60).contains(&given), "{given}");
    let receipt = Receipt { packet_id: 7, exactly_once: false };
    let pressed = tokio::time::timeout(Duration::from_secs(1), client.acknowledge(receipt)).await;
    assert!(pressed.is_err(), "it waits");
    let reading = tokio::spawn(async move {
        let mut seen = Vec::new();
        far.read_to_end(&mut seen).await.unwrap();
        seen
    });
    client.acknowledge(receipt).await.unwrap();
    client.room().await;
    client.disconnect().unwrap();
    wire.await.unwrap();
    let seen = reading.await.unwrap();
    assert_eq!(&seen[seen.len() - 6..], [0x40, 2, 0, 7, 0xE0, 0]);
    assert!(seen.len() > given * payload.len());
}

#[tokio::test]
async fn packets_behind_the_connack_are_not_lost() {
    let bench = bench(Protocol::V5, 1 << 16, &[0x32, 8, 0, 1, b'a', 0, 5, 0, 1, 2]).await;
    let mut arrivals = bench.arrivals;
    let arrival = tokio::time::timeout(Duration::from_secs(10), arrivals.recv()).await.unwrap().unwrap();
    let receipt = Receipt { packet_id: 5, exactly_once: false };
    assert_eq!((arrival.topic.as_str(), &arrival.payload[..], arrival.receipt), ("a", &[1, 2][..], Some(receipt)));
}
