//! Many messages in one publish: what goes in them, in which order, and what becomes of them when the upstream minds.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fieldgate_store::{Append, Batch, Lane, RecordId};
use fieldgate_types::DeviceId;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::Value;
use tokio::time::Instant;

use super::super::{BatchMode, Protocol, Replay, UpstreamConfig};
use super::liar::{Liar, Published, Reply, Script};
use super::{Bench, assert_complete, config, eventually};
use crate::pipeline::record::{Destination, Upbound};

/// A message as a consumer has it, from a batch or on its own topic.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Message {
    topic: String,
    payload: Vec<u8>,
    history: bool,
}

fn batching(port: u16, protocol: Protocol, window: u16) -> UpstreamConfig {
    UpstreamConfig { batch: BatchMode::Zstd, window, ..config(port, protocol) }
}

fn is_batch(published: &Published) -> bool {
    published.topic == "fieldgate/line-4/batch"
}

fn lines(payload: &[u8]) -> Vec<Value> {
    let raw = zstd::stream::decode_all(payload).unwrap();
    let lines = raw.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

fn opened(published: &Published) -> Vec<Message> {
    if !is_batch(published) {
        let topic = published.topic.strip_prefix("fieldgate/line-4/").unwrap_or(&published.topic).to_owned();
        let history = published.user.iter().any(|(key, _)| key == "fg-hist");
        let enveloped =
            serde_json::from_slice::<Value>(&published.payload).ok().and_then(|json| json.get("json").cloned());
        let payload = enveloped.map_or_else(|| published.payload.clone(), |json| json.to_string().into_bytes());
        return vec![Message { topic, payload, history }];
    }
    let message = |line: Value| {
        let payload = match (line.get("json"), line.get("text"), line.get("base64")) {
            (Some(json), ..) => json.to_string().into_bytes(),
            (_, Some(text), _) => text.as_str().unwrap().as_bytes().to_vec(),
            (.., base64) => STANDARD.decode(base64.unwrap().as_str().unwrap()).unwrap(),
        };
        let history = line.get("hist").is_some();
        Message { topic: line["topic"].as_str().unwrap().to_owned(), payload, history }
    };
    lines(&published.payload).into_iter().map(message).collect()
}

/// Everything that came, in order, states of the gateway left out.
fn arrived(liar: &Liar) -> Vec<Message> {
    let seen = liar.seen();
    seen.published.iter().filter(|published| !published.topic.ends_with("line-4/state")).flat_map(opened).collect()
}

/// Numbers of one device's telemetry.
fn numbers(messages: &[Message]) -> Vec<u32> {
    let telemetry = messages.iter().filter(|message| message.topic.ends_with("/telemetry/t"));
    telemetry.map(|message| String::from_utf8_lossy(&message.payload).parse().unwrap()).collect()
}

fn batches(liar: &Liar) -> usize {
    liar.seen().published.iter().filter(|published| is_batch(published)).count()
}

fn holds(published: &Published, number: &str) -> bool {
    opened(published).iter().any(|message| message.payload == number.as_bytes())
}

/// Payloads that don't compress.
fn noise(count: usize, length: usize) -> Vec<Vec<u8>> {
    let random = SystemRandom::new();
    let one = || {
        let mut payload = vec![0; length];
        random.fill(&mut payload).unwrap();
        payload
    };
    (0..count).map(|_| one()).collect()
}

async fn fill_noise(bench: &Bench, payloads: &[Vec<u8>]) {
    let body = |payload: &Vec<u8>| Upbound::json("devices/press-1/telemetry/t", payload, false).encode().unwrap();
    bench.append("press-1", payloads.iter().map(body)).await;
}

#[tokio::test]
async fn what_waited_goes_in_few_publishes_and_one_puback_settles_each() {
    for (protocol, v5) in [(Protocol::V5, true), (Protocol::V311, false)] {
        let liar = Liar::start(Script::honest(v5)).await;
        let bench = Bench::new();
        bench.fill("press-1", 0, 1000).await;
        let running = bench.start(batching(liar.port, protocol, 400));
        bench.emptied().await;
        assert_complete(&numbers(&arrived(&liar)), 1000, 0, 0);
        assert!((10..=15).contains(&batches(&liar)), "{}", batches(&liar));
        let status = running.handle.status();
        assert_eq!((status.published, status.acknowledged, status.in_flight), (1000, 1000, 0));
        assert_eq!(usize::try_from(status.batches), Ok(batches(&liar)));
        let ledger = bench.queue.ledger();
        assert!(ledger.iter().all(|device| device.delivered == 1000 && device.waiting == 0), "{ledger:?}");
        running.stopped().await;
    }
}

#[tokio::test]
async fn a_lone_message_waits_for_nothing() {
    let liar = Liar::start(Script::honest(true)).await;
    let bench = Bench::new();
    let running = bench.start(batching(liar.port, Protocol::V5, 4096));
    eventually("the birth", || !liar.states().is_empty()).await;
    let mut quickest = Duration::MAX;
    for number in 0..20 {
        let begin = Instant::now();
        bench.fill("press-1", number, number + 1).await;
        eventually("its arrival", || arrived(&liar).len() > number as usize).await;
        quickest = quickest.min(begin.elapsed());
        bench.emptied().await;
    }
    assert_eq!(batches(&liar), 20);
    // A wait for company would be in each of them.
    assert!(quickest < Duration::from_millis(50), "{quickest:?}");
    running.stopped().await;
}

#[tokio::test]
async fn messages_gather_while_one_is_on_the_wire_and_not_for_long() {
    let mut script = Script::honest(true);
    script.reply = Box::new(|_, _| Reply::Silence);
    let liar = Liar::start(script).await;
    let bench = Bench::new();
    let running = bench.start(batching(liar.port, Protocol::V5, 4096));
    for number in 0..10 {
        bench.fill("press-1", number, number + 1).await;
    }
    eventually("all of them", || arrived(&liar).len() == 10).await;
    assert!(batches(&liar) < 10, "each message went alone");
    assert_complete(&numbers(&arrived(&liar)), 10, 0, 0);
    running.stopped().await;
}

#[tokio::test]
async fn what_goes_singly_keeps_its_place_between_batches() {
    let liar = Liar::start(Script::honest(true)).await;
    let bench = Bench::new();
    let telemetry =
        |n: u32| Upbound::json("devices/press-1/telemetry/t", n.to_string().as_bytes(), false).encode().unwrap();
    let own = |topic: &str, retain| Upbound::json(topic, b"{}", retain).encode().unwrap();
    let answer = Upbound { destination: Destination::Absolute("answers/9"), ..Upbound::json("x", b"{}", false) };
    let large = Upbound::json("devices/press-1/telemetry/large", &vec![b'1'; 90_000], false).encode().unwrap();
    let mut bodies = vec![own("devices/press-1/birth", true), telemetry(0), telemetry(1)];
    bodies.extend([
        own("devices/press-1/state", true),
        telemetry(2),
        own("devices/press-1/commands/n/1/result", false),
    ]);
    bodies.extend([answer.encode().unwrap(), telemetry(3), large, telemetry(4), own("devices/press-1/events", false)]);
    bodies.extend([own("plant/speed", false), own("plant/mode", true), telemetry(5)]);
    bench.append("press-1", bodies).await;
    let running = bench.start(batching(liar.port, Protocol::V5, 4096));
    bench.emptied().await;
    let order: Vec<String> = {
        let seen = liar.seen();
        let data = seen.published.iter().filter(|published| !published.topic.ends_with("line-4/state"));
        let named = |published: &Published| {
            let way = if is_batch(published) { "b" } else { "s" };
            let name = |message: Message| match message.topic.rsplit_once('/') {
                Some((_, "t")) => format!("{way} {}", String::from_utf8_lossy(&message.payload)),
                _ => format!("{way} {}", message.topic.rsplit('/').next().unwrap()),
            };
            opened(published).into_iter().map(name).collect::<Vec<_>>()
        };
        data.flat_map(named).collect()
    };
    let expected = [
        "s birth", "b 0", "b 1", "s state", "b 2", "s result", "s 9", "b 3", "s large", "b 4", "s events", "b speed",
        "s mode", "b 5",
    ];
    assert_eq!(order, expected);
    running.stopped().await;
}

#[tokio::test]
async fn a_batch_that_is_refused_for_good_falls_apart_and_the_poison_message_alone_is_put_aside() {
    let mut script = Script::honest(true);
    script.reply = Box::new(|published, _| Reply::Ack(if holds(published, "57") { 0x99 } else { 0 }));
    let liar = Liar::start(script).await;
    let bench = Bench::new();
    bench.fill("press-1", 0, 300).await;
    let running = bench.start(batching(liar.port, Protocol::V5, 100));
    bench.emptied().await;
    let status = running.handle.status();
    assert_eq!((status.quarantined, status.connects, status.acknowledged), (1, 1, 299));
    assert_complete(&numbers(&arrived(&liar)), 300, 100, 1);
    let aside = bench.queue.aside(RecordId(0)).await.unwrap();
    let reasons: Vec<&str> = aside.iter().map(|aside| aside.reason.as_str()).collect();
    assert_eq!(reasons, ["upstream: payload format invalid (0x99)"]);
    let (alone, gathered) = {
        let seen = liar.seen();
        let of = |wanted: bool| seen.published.iter().filter(|published| is_batch(published) == wanted).count();
        (of(false), of(true))
    };
    assert!(alone <= 2 + 25, "more than one batch went singly: {alone}");
    assert!(gathered >= 11, "no batches after the refusal: {gathered}");
    running.stopped().await;
}

#[tokio::test]
async fn an_upstream_that_takes_no_batches_gets_every_message_singly() {
    let mut script = Script::honest(true);
    script.reply = Box::new(|published, _| Reply::Ack(if is_batch(published) { 0x87 } else { 0 }));
    let liar = Liar::start(script).await;
    let bench = Bench::new();
    bench.fill("press-1", 0, 500).await;
    let running = bench.start(batching(liar.port, Protocol::V5, 100));
    bench.emptied().await;
    let status = running.handle.status();
    assert_eq!((status.quarantined, status.acknowledged, status.connects), (0, 500, 1));
    let alone: Vec<u32> = {
        let seen = liar.seen();
        let singly = seen.published.iter().filter(|published| published.topic.ends_with("/telemetry/t"));
        singly.map(|published| String::from_utf8_lossy(&published.payload).parse().unwrap()).collect()
    };
    assert_complete(&alone, 500, 0, 0);
    // Three that were refused, and what was on the wire behind each.
    assert!(batches(&liar) <= 12, "{}", batches(&liar));
    running.stopped().await;
}

#[tokio::test]
async fn a_batch_keeps_below_the_upstreams_maximum_packet_size() {
    let mut script = Script::honest(true);
    // Maximum Packet Size 1000.
    script.properties = vec![0x27, 0, 0, 3, 0xe8];
    let liar = Liar::start(script).await;
    let bench = Bench::new();
    let payloads = noise(200, 100);
    fill_noise(&bench, &payloads).await;
    // One that fits on its own topic, and not in a batch; one that fits nowhere.
    fill_noise(&bench, &noise(1, 850)).await;
    fill_noise(&bench, &noise(1, 1000)).await;
    bench.fill("press-2", 0, 5).await;
    let running = bench.start(batching(liar.port, Protocol::V5, 4096));
    bench.emptied().await;
    let arrived = arrived(&liar);
    let came: Vec<&Vec<u8>> = arrived.iter().take(200).map(|message| &message.payload).collect();
    assert_eq!(came, payloads.iter().collect::<Vec<_>>());
    assert_eq!(arrived.len(), 206);
    assert_eq!(numbers(&arrived[201..]), [0, 1, 2, 3, 4]);
    let largest = liar.seen().published.iter().map(|published| published.payload.len()).max();
    assert!(largest < Some(1000), "{largest:?}");
    assert!(batches(&liar) < 100, "{}", batches(&liar));
    let status = running.handle.status();
    assert_eq!((status.quarantined, status.connects), (1, 1));
    running.stopped().await;
}

#[tokio::test]
async fn a_batch_that_is_too_large_by_the_upstreams_word_is_followed_by_smaller_ones() {
    let mut script = Script::honest(true);
    script.reply = Box::new(|published, _| Reply::Ack(if published.payload.len() > 20_000 { 0x95 } else { 0 }));
    let liar = Liar::start(script).await;
    let bench = Bench::new();
    let payloads = noise(1500, 100);
    fill_noise(&bench, &payloads).await;
    fill_noise(&bench, &noise(1, 30_000)).await;
    let running = bench.start(batching(liar.port, Protocol::V5, 4096));
    bench.emptied().await;
    let status = running.handle.status();
    assert_eq!((status.quarantined, status.connects, status.acknowledged), (1, 1, 1500));
    let mut came: Vec<Vec<u8>> = arrived(&liar).into_iter().map(|message| message.payload).collect();
    came.sort_unstable();
    came.dedup();
    assert_eq!(came.len(), 1501);
    // A few that were refused, and most in batches that were not.
    let refused = liar.seen().published.iter().filter(|published| published.payload.len() > 20_000).count();
    assert!(refused <= 8, "{refused}");
    running.stopped().await;
}

#[tokio::test]
async fn an_upstream_that_ends_the_connection_on_large_packets_gets_smaller_ones() {
    let mut script = Script::honest(false);
    script.reply = Box::new(|published, _| if published.payload.len() > 40_000 { Reply::Close } else { Reply::Ack(0) });
    let liar = Liar::start(script).await;
    let bench = Bench::new();
    let payloads = noise(1500, 200);
    fill_noise(&bench, &payloads).await;
    let running = bench.start(batching(liar.port, Protocol::V311, 4096));
    bench.emptied().await;
    let connects = running.handle.status().connects;
    assert!((3..=12).contains(&connects), "{connects}");
    let came: Vec<Vec<u8>> = {
        let seen = liar.seen();
        let good = seen.published.iter().filter(|published| is_batch(published) && published.payload.len() <= 40_000);
        good.flat_map(opened).map(|message| message.payload).collect()
    };
    assert_eq!(came, payloads);
    running.stopped().await;
}

#[tokio::test]
async fn a_batch_that_is_refused_for_now_goes_again_with_all_behind_it() {
    let mut script = Script::honest(true);
    script.reply = Box::new(|_, before| Reply::Ack(if (2..5).contains(&before) { 0x97 } else { 0 }));
    let liar = Liar::start(script).await;
    let bench = Bench::new();
    bench.fill("press-1", 0, 300).await;
    let running = bench.start(batching(liar.port, Protocol::V5, 100));
    bench.emptied().await;
    assert_complete(&numbers(&arrived(&liar)), 300, 100, 1);
    let status = running.handle.status();
    assert_eq!((status.refused, status.quarantined, status.connects), (3, 0, 1));
    running.stopped().await;
}

#[tokio::test]
async fn connections_that_end_in_the_middle_lose_nothing_and_what_comes_again_has_its_number() {
    for (protocol, v5) in [(Protocol::V5, true), (Protocol::V311, false)] {
        let mut script = Script::honest(v5);
        script.reply = Box::new(|_, before| if before % 5 == 4 { Reply::Close } else { Reply::Ack(0) });
        let liar = Liar::start(script).await;
        let bench = Bench::new();
        bench.fill("press-1", 0, 300).await;
        let running = bench.start(batching(liar.port, protocol, 100));
        bench.emptied().await;
        let connects = u32::try_from(running.handle.status().connects).unwrap();
        assert!(connects >= 3, "{connects}");
        assert_complete(&numbers(&arrived(&liar)), 300, 100, connects);
        for published in liar.seen().published.iter().filter(|published| is_batch(published)) {
            for line in lines(&published.payload) {
                // The numbers were given in the order of the messages.
                assert_eq!(line["seq"].as_u64().unwrap(), line["json"].as_u64().unwrap() + 1, "{line}");
                assert_eq!((&line["device"], &line["boot"]), (&Value::from("press-1"), &Value::from(1)));
            }
        }
        running.stopped().await;
    }
}

#[tokio::test]
async fn live_messages_pass_history_in_batches_too() {
    let liar = Liar::start(Script::honest(true)).await;
    let bench = Bench::new();
    bench.fill("press-1", 0, 1000).await;
    let replay = Replay { live_first: true, rate: Some(300) };
    let running = bench.start_replaying(batching(liar.port, Protocol::V5, 100), replay);
    eventually("history has begun", || !arrived(&liar).is_empty()).await;
    for number in 1000..1005 {
        bench.fill("press-1", number, number + 1).await;
        eventually("the live message", || numbers(&arrived(&liar)).contains(&number)).await;
    }
    assert!(arrived(&liar).len() < 1005, "history went first");
    bench.emptied().await;
    let (history, live): (Vec<Message>, Vec<Message>) = arrived(&liar).into_iter().partition(|message| message.history);
    assert_eq!(numbers(&live), (1000..1005).collect::<Vec<_>>());
    assert_eq!(numbers(&history), (0..1000).collect::<Vec<_>>());
    running.stopped().await;
}

#[tokio::test]
async fn what_a_message_has_left_of_its_life_travels_with_it() {
    let liar = Liar::start(Script::honest(true)).await;
    let bench = Bench::new();
    let now = bench.clock.now();
    let append = |n: &str, seconds: Option<u64>| Append {
        device: DeviceId::new("press-1").unwrap(),
        lane: Lane::Live,
        time: now,
        expires: seconds.map(|seconds| now.plus(Duration::from_secs(seconds))),
        body: Upbound::json("devices/press-1/telemetry/t", n.as_bytes(), false).encode().unwrap(),
    };
    let appends = vec![append("0", None), append("1", Some(3600))];
    bench.queue.commit(Batch { appends, ..Batch::default() }).await.unwrap();
    let running = bench.start(batching(liar.port, Protocol::V5, 100));
    bench.emptied().await;
    let lines: Vec<Value> = {
        let seen = liar.seen();
        seen.published.iter().filter(|published| is_batch(published)).flat_map(|p| lines(&p.payload)).collect()
    };
    assert_eq!(lines.len(), 2);
    assert!(lines[0].get("expiry").is_none());
    assert!((3590..=3600).contains(&lines[1]["expiry"].as_u64().unwrap()), "{}", lines[1]);
    running.stopped().await;
}
