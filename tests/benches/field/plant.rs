//! 100,000 floats at 1 s over ten TCP devices, reported on change, a tenth of them changing each second, all the way to a
//! cloud; and 1,000 writes from there, each answered once, while that goes on.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use fieldgate_testkit::cloud::{Cloud, Upstream};
use fieldgate_testkit::{Gateway, eventually, wait_until};
use rumqttc::PublishProperties;

use crate::device::{Device, WRITTEN};
use crate::report::{Goal, Report, Row, mebibytes, percentile};
use crate::{Settings, process, scrape};

const DEVICES: usize = 10;
/// For the first full set of values and for stragglers, in a debug build.
const PATIENCE: Duration = Duration::from_secs(60);

pub async fn plant(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let floats = settings.size(10_000, 500);
    report.note(format!(
        "plant: {DEVICES} TCP devices with {floats} f32 points each at 1 s; each second a tenth gets another value; the cloud and the devices share the machine"
    ));
    let whole = format!("{} points at 1 s, a tenth changing: ", DEVICES * floats);
    let mut on_time = Row::new("plant", format!("{whole}cycles on time"), "%", Goal::None);
    let mut cpu = Row::new("plant", format!("{whole}CPU of the whole gateway"), "% of a core", Goal::AtMost(10.0));
    let mut memory = Row::new("plant", format!("{whole}memory at the end"), "MiB resident", Goal::AtMost(120.0));
    let mut peak =
        Row::new("plant", format!("{whole}most memory, the start included"), "MiB resident", Goal::AtMost(120.0));
    let mut values = Row::new("plant", format!("{whole}values that reached the cloud"), "per second", Goal::None);
    let mut p50 = Row::new("plant", "a write from the cloud until its answer there, p50".to_owned(), "ms", Goal::None);
    let mut p99 =
        Row::new("plant", "a write from the cloud until its answer there, p99".to_owned(), "ms", Goal::AtMost(50.0));
    for _ in 0..settings.rounds() {
        let round = Round::start(settings, floats).await?;
        let measured = round.measure(settings).await.with_context(|| round.gateway.log().join("\n"))?;
        on_time.add("fieldgate", measured.on_time);
        cpu.add("fieldgate", measured.cpu);
        memory.add("fieldgate", measured.memory);
        peak.add("fieldgate", measured.peak);
        values.add("fieldgate", measured.values);
        let writes = round.writes(settings).await.with_context(|| round.gateway.log().join("\n"))?;
        for problem in writes.problems {
            report.problem(problem);
        }
        p50.add("fieldgate", percentile(&writes.took, 0.5));
        p99.add("fieldgate", percentile(&writes.took, 0.99));
        round.end().await?;
    }
    for row in [on_time, cpu, memory, peak, values, p50, p99] {
        report.row(row);
    }
    Ok(())
}

/// What a while of polling cost.
struct Measured {
    on_time: f64,
    cpu: f64,
    memory: f64,
    peak: f64,
    values: f64,
}

struct Writes {
    /// Milliseconds.
    took: Vec<f64>,
    problems: Vec<String>,
}

struct Round {
    gateway: Gateway,
    cloud: Cloud,
    ended: Arc<AtomicBool>,
}

impl Round {
    async fn start(settings: &Settings, floats: usize) -> anyhow::Result<Self> {
        let devices: Vec<Device> = (0..DEVICES).map(|_| Device::start(floats)).collect::<anyhow::Result<_>>()?;
        let cloud = Cloud::start(Upstream::V5).await?;
        let link = |(number, device): (usize, &Device)| {
            format!(
                "[[modbus]]\nurl = \"tcp://{}\"\n[[modbus.device]]\nid = \"plc-{number}\"\nunit = 1\npoints_from = \"points.toml\"\n",
                device.address
            )
        };
        let links = devices.iter().enumerate().map(link).collect::<Vec<_>>().concat();
        let sections = format!("[upstream]\nurl = \"mqtt://{}\"\n{links}", cloud.address());
        let mut gateway = Gateway::new(settings.binary(), "bench", "")?.quiet();
        let point = |float: usize| {
            let at = float * 2;
            format!("[[point]]\nname = \"p{float}\"\nat = \"holding:{at}\"\ntype = \"f32\"\naccess = \"rw\"\n")
        };
        let list = (0..floats).map(point).collect::<Vec<_>>().concat();
        std::fs::write(gateway.folder().join("points.toml"), list)?;
        gateway.configure(&sections)?;
        gateway.start().await?;
        let ended = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ended);
        std::thread::spawn(move || {
            let mut second = 0_u16;
            while !seen.load(Ordering::Relaxed) {
                second += 1;
                for device in &devices {
                    device.change_a_tenth(usize::from(second % 10), f32::from(second));
                }
                std::thread::sleep(Duration::from_secs(1));
            }
        });
        Ok(Self { gateway, cloud, ended })
    }

    /// The number of values in documents that have arrived.
    fn arrived(&self) -> usize {
        let documents = self.cloud.messages(|topic| topic.ends_with("/telemetry/points"));
        let of = |json: &serde_json::Value| json["values"].as_object().map_or(0, serde_json::Map::len);
        let values = documents.iter().map(|document| match document.json() {
            serde_json::Value::Array(several) => several.iter().map(of).sum(),
            one => of(&one),
        });
        values.sum()
    }

    async fn measure(&self, settings: &Settings) -> anyhow::Result<Measured> {
        let gateway = &self.gateway;
        let overruns = async || scrape::total(gateway, "fieldgate_link_overruns_total").await;
        let all = DEVICES * settings.size(10_000, 500);
        wait_until("the first values of all points", PATIENCE, || (self.arrived() >= all).then_some(())).await?;
        let pid = gateway.pid()?;
        let (cpu, late, values, began) =
            (process::cpu_seconds(pid)?, overruns().await?, self.arrived(), Instant::now());
        let time = if settings.short { Duration::from_secs(2) } else { settings.load_time() };
        tokio::time::sleep(time).await;
        let spent = began.elapsed().as_secs_f64();
        let (cpu, late) = (process::cpu_seconds(pid)? - cpu, overruns().await? - late);
        let values = self.arrived() - values;
        let cycles = spent * f64::from(u32::try_from(DEVICES)?);
        Ok(Measured {
            on_time: 100.0 * (1.0 - late / cycles),
            cpu: 100.0 * cpu / spent,
            memory: mebibytes(process::resident(pid)?),
            peak: mebibytes(process::peak(pid)?),
            values: f64::from(u32::try_from(values)?) / spent,
        })
    }

    async fn writes(&self, settings: &Settings) -> anyhow::Result<Writes> {
        let count = settings.size(1_000, 50);
        let mut sent: HashMap<String, Instant> = HashMap::new();
        let mut pace = tokio::time::interval(Duration::from_millis(10));
        for number in 0..count {
            pace.tick().await;
            let (rid, device) = (format!("w{number}"), number % DEVICES);
            let topic = format!("fieldgate/bench/devices/plc-{device}/commands/write/{rid}");
            sent.insert(rid, Instant::now());
            let point = number % WRITTEN;
            let payload = format!("{{\"point\":\"p{point}\",\"value\":{number}}}");
            self.cloud.publish(&topic, &payload, PublishProperties::default()).await?;
        }
        let results = || self.cloud.messages(|topic| topic.ends_with("/result"));
        wait_until("all answers", PATIENCE, || (results().len() >= count).then_some(())).await?;
        let (mut took, mut problems) = (Vec::new(), Vec::new());
        let mut answered: HashMap<String, u32> = HashMap::new();
        for result in results() {
            let json = result.json();
            let rid = json["rid"].as_str().unwrap_or_default().to_owned();
            if json["status"] != "ok" {
                problems.push(format!("write {rid} was answered {json}"));
            }
            if let Some(began) = sent.get(&rid) {
                took.push((result.at - *began).as_secs_f64() * 1_000.0);
            }
            *answered.entry(rid).or_default() += 1;
        }
        if answered.len() != count || answered.values().any(|times| *times != 1) {
            problems.push(format!("{} of {count} writes were answered, or one more than once", answered.len()));
        }
        Ok(Writes { took, problems })
    }

    async fn end(mut self) -> anyhow::Result<()> {
        self.ended.store(true, Ordering::Relaxed);
        // The queue may hold what the cloud has not acknowledged yet.
        eventually("an end of the backlog", PATIENCE, async || {
            Ok((scrape::total(&self.gateway, "fieldgate_buffer_messages").await? < 100.0).then_some(()))
        })
        .await?;
        self.gateway.stop().await?;
        Ok(())
    }
}
