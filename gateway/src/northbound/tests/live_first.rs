//! Live messages first, what waited for the connection beside them.

use super::super::{Protocol, Replay};
use super::liar::{Liar, Published, Reply, Script};
use super::{Bench, config, eventually};

fn is_history(message: &Published) -> bool {
    message.user.iter().any(|(key, value)| key == "fg-hist" && value == "1")
}

/// Numbers in the order of their arrival: live ones, then history.
fn arrived(liar: &Liar) -> (Vec<u32>, Vec<u32>) {
    let seen = liar.seen();
    let telemetry = seen.published.iter().filter(|message| message.topic.contains("telemetry"));
    let (history, live): (Vec<&Published>, Vec<&Published>) = telemetry.partition(|message| is_history(message));
    let number = |message: &&Published| String::from_utf8_lossy(&message.payload).parse().unwrap();
    (live.iter().map(number).collect(), history.iter().map(number).collect())
}

/// First occurrences ascend.
fn assert_in_order(numbers: &[u32]) {
    let mut last = None;
    for number in numbers {
        if last < Some(*number) {
            last = Some(*number);
        } else {
            assert!(numbers.iter().filter(|other| *other == number).count() > 1, "{number} came late");
        }
    }
}

#[tokio::test]
async fn live_messages_pass_what_waited_and_both_keep_their_order() {
    let liar = Liar::start(Script::honest(true)).await;
    let bench = Bench::new();
    bench.fill("press-1", 0, 1000).await;
    let replay = Replay { live_first: true, rate: Some(400) };
    let running = bench.start_replaying(config(liar.port, Protocol::V5), replay);
    eventually("history has begun", || !arrived(&liar).1.is_empty()).await;
    for number in 1000..1020 {
        bench.fill("press-1", number, number + 1).await;
        eventually("the live message", || arrived(&liar).0.last() == Some(&number)).await;
    }
    assert!(arrived(&liar).1.len() < 1000, "history went first");
    bench.emptied().await;
    let (live, history) = arrived(&liar);
    assert_eq!(live, (1000..1020).collect::<Vec<_>>());
    assert_eq!(history, (0..1000).collect::<Vec<_>>());
    running.stopped().await;
}

#[tokio::test]
async fn history_is_not_starved_by_a_full_live_stream() {
    let liar = Liar::start(Script::honest(true)).await;
    let bench = Bench::new();
    bench.fill("press-1", 0, 100).await;
    let replay = Replay { live_first: true, rate: None };
    let running = bench.start_replaying(config(liar.port, Protocol::V5), replay);
    let mut next = 100;
    while arrived(&liar).1.len() < 100 {
        assert!(next < 10_000, "live messages alone");
        // There always is more than one turn's worth.
        bench.fill("press-1", next, next + 200).await;
        next += 200;
        eventually("most of them", || arrived(&liar).0.len() + 500 > next as usize).await;
    }
    bench.emptied().await;
    let (live, history) = arrived(&liar);
    assert_eq!((live, history), ((100..next).collect(), (0..100).collect()));
    running.stopped().await;
}

#[tokio::test]
async fn what_a_lost_connection_leaves_is_history_on_the_next_and_nothing_is_lost() {
    let mut script = Script::honest(true);
    // Each connection ends in the middle of something.
    script.reply = Box::new(|_, before| if before % 150 == 149 { Reply::Close } else { Reply::Ack(0) });
    let liar = Liar::start(script).await;
    let bench = Bench::new();
    bench.fill("press-1", 0, 300).await;
    let replay = Replay { live_first: true, rate: None };
    let running = bench.start_replaying(config(liar.port, Protocol::V5), replay);
    for from in (300..700).step_by(20) {
        bench.fill("press-1", from, from + 20).await;
    }
    bench.emptied().await;
    let (live, history) = arrived(&liar);
    assert_in_order(&live);
    assert_in_order(&history);
    let mut all = [live, history].concat();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all, (0..700).collect::<Vec<_>>());
    running.stopped().await;
}
