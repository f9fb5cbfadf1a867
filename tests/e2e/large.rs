//! A thousand field devices with twenty points each: starting, checking and asking for figures stay quick. The bounds here are
//! those of an unoptimised program on a busy machine; DESIGN's are for a release build, and `--nocapture` prints what it took:
//! `cargo test --release -p fieldgate --test e2e large -- --nocapture`.

use std::fmt::Write;
use std::time::{Duration, Instant};

use fieldgate_testkit::{Gateway, port};

use crate::stage::{BINARY, Told};

const DEVICES: usize = 1_000;
const POINTS: usize = 20;

/// How much slower an unoptimised build may be, on two processors that other tests share: what is quadratic is slower still.
const SLACK: u32 = if cfg!(debug_assertions) { 40 } else { 1 };

fn sections() -> anyhow::Result<String> {
    // Nobody is there: what is measured is the gateway alone.
    let nobody = port::free_address()?;
    let mut text = String::new();
    for device in 0..DEVICES {
        write!(
            text,
            "[[modbus]]\nurl = \"tcp://{nobody}\"\n[[modbus.device]]\nid = \"press-{device}\"\ninterval = \"10s\"\n"
        )?;
        for point in 0..POINTS {
            let at = point * 4;
            write!(
                text,
                "[[modbus.device.point]]\nname = \"p{point}\"\nat = \"holding:{at}\"\ntype = \"f32\"\ndeadband = 0.5\n"
            )?;
        }
    }
    Ok(text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_devices_and_twenty_thousand_points_are_no_burden() -> Told {
    let mut gateway = Gateway::new(BINARY, "line-1", &sections()?)?.quiet();
    let begin = Instant::now();
    gateway.verb(&["check"]).await?.ok()?;
    let check = begin.elapsed();
    gateway.start().await?;
    let start = gateway.start_took()?;
    let mut slowest = Duration::ZERO;
    for _ in 0..5 {
        let begin = Instant::now();
        let metrics = gateway.get("/metrics").await?;
        slowest = slowest.max(begin.elapsed());
        assert_eq!(metrics.status, 200);
    }
    let begin = Instant::now();
    let plan = gateway.verb(&["reload", "--plan"]).await?.ok()?;
    let reload = begin.elapsed();
    println!("start {start:?}, check {check:?}, /metrics {slowest:?}, reload --plan {reload:?}");
    assert!(plan.contains("nothing changes, 1001 parts go on untouched"), "{plan}");
    assert!(start <= Duration::from_secs(3) * SLACK, "start {start:?}");
    assert!(check <= Duration::from_secs(1) * SLACK, "check {check:?}");
    assert!(slowest <= Duration::from_millis(100) * SLACK, "/metrics {slowest:?}");
    Ok(())
}
