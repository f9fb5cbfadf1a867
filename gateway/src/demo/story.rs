//! What happens in the demo, and when.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, bail};
use fieldgate_certs::Role;
use fieldgate_modbus::sim::Simulator as ModbusSimulator;
use fieldgate_opcua::sim::Simulator as OpcuaSimulator;
use fieldgate_types::{Clock, DeviceId};
use tokio::time::Instant;

use super::DemoArgs;
use super::cloud::Cloud;
use super::plant::{Counters, Leaf, MODBUS_COUNT, MODBUS_SETPOINT, OPCUA_COUNT, Plant};
use super::relay::Relay;
use super::screen::Screen;
use super::verdict::{CommandVerdict, DeviceVerdict, Verdict, judge};
use crate::app::App;
use crate::config;
use crate::identity::Wanted;

const ROOT: &str = "fieldgate/demo";
const PATIENCE: Duration = Duration::from_secs(20);

/// The three devices.
struct Cast {
    leaf: DeviceId,
    modbus: DeviceId,
    opcua: DeviceId,
}

impl Cast {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            leaf: DeviceId::new("leaf-1")?,
            modbus: DeviceId::new("press-1")?,
            opcua: DeviceId::new("boiler-1")?,
        })
    }

    fn all(&self) -> [(&DeviceId, &'static str); 3] {
        [(&self.leaf, "mqtt"), (&self.modbus, "modbus"), (&self.opcua, "opcua")]
    }
}

/// Plays it all and judges it.
pub async fn tell(args: DemoArgs, folder: &Path, clock: Arc<dyn Clock>) -> anyhow::Result<Verdict> {
    let began = Instant::now();
    let mut screen = Screen::new(args.json);
    let cast = Cast::new()?;
    let any = "127.0.0.1:0".parse()?;
    let plant = Plant {
        modbus: Arc::new(ModbusSimulator::start(any)?),
        opcua: Arc::new(OpcuaSimulator::start(any, fieldgate_opcua::sim::Options::new(folder.join("opcua-server")))?),
    };
    let cloud = Cloud::start(ROOT).await?;
    let relay = Relay::start(cloud.address()).await?;
    screen.say(&format!("cloud     rumqttd, behind a relay on {}", relay.address()));
    screen.say(&format!("modbus    simulated device on {}", plant.modbus.addr()));
    screen.say(&format!("opcua     simulated server on {}", plant.opcua.endpoint()));

    let app = App::start(configuration(folder, &relay, &plant, &cast)?, clock).await?;
    let broker = app.overview().broker.local_addrs();
    let port = broker.first().context("the broker has no address")?.port();
    let bundle = app.overview().authority.add(&cast.leaf, &Wanted::as_role(Role::Device), None)?;
    screen.say(&format!("gateway   new CA; leaf {} connects over mTLS to port {port}", cast.leaf));
    let leaf = Leaf::connect(&cast.leaf, port, &bundle)?;

    let counters = Arc::new(Counters::default());
    let field = [&cast.modbus, &cast.opcua];
    cloud.wait_for_all(&field, PATIENCE).await.context("the field devices")?;
    let counting = plant.count(leaf, &counters);
    cloud.wait_for_all(&[&cast.leaf], PATIENCE).await.context("the leaf")?;

    // The rest of the time: a third whole, a third cut, a third mended; the end takes a few seconds of its own.
    let left = args
        .duration
        .saturating_sub(began.elapsed())
        .saturating_sub(Duration::from_secs(3))
        .max(Duration::from_secs(6));
    let mut watch = Watch { app: &app, cloud: &cloud, counters: &counters, cast: &cast, waiting_max: 0 };
    watch.show_for(&mut screen, left / 3, "line whole").await;
    relay.cut();
    screen.say("the line to the cloud is cut");
    watch.show_for(&mut screen, left / 3, "line CUT  ").await;
    relay.mend();
    screen.say("the line is mended");
    let mended = Instant::now();
    let commands = command_each(&cloud, &plant, &cast, &mut screen).await?;
    watch.show_for(&mut screen, (left / 3).saturating_sub(mended.elapsed()), "line whole").await;
    let offline_buffered_max = watch.waiting_max;
    counting.stop().await?;

    let mut devices = Vec::new();
    for (id, via) in cast.all() {
        let last = count_of(&counters, via);
        if let Err(error) = cloud.wait_for_count(id, last, PATIENCE).await {
            screen.say(&format!("{id}: {error}"));
        }
        devices.push(verdict_of(&cloud, id, via, last));
    }
    app.stop().await;
    Ok(Verdict::of(devices, commands, offline_buffered_max))
}

fn count_of(counters: &Counters, via: &str) -> u64 {
    match via {
        "mqtt" => counters.leaf.load(Ordering::Relaxed),
        "modbus" => counters.modbus.load(Ordering::Relaxed),
        _ => counters.opcua.load(Ordering::Relaxed),
    }
}

fn verdict_of(cloud: &Cloud, id: &DeviceId, via: &'static str, last: u64) -> DeviceVerdict {
    judge(id.clone(), via, 1, last, &cloud.arrivals(id))
}

/// One command to each kind of device; the writes are checked at the device itself.
async fn command_each(
    cloud: &Cloud,
    plant: &Plant,
    cast: &Cast,
    screen: &mut Screen,
) -> anyhow::Result<Vec<CommandVerdict>> {
    let write = r#"{"point":"setpoint","value":42}"#;
    let sent = [(&cast.leaf, "blink", r#"{"times":3}"#), (&cast.modbus, "write", write), (&cast.opcua, "write", write)];
    let mut verdicts = Vec::new();
    for (device, name, payload) in sent {
        let answer = cloud.command(device, name, payload, PATIENCE).await;
        let status = answer.unwrap_or_else(|error| error.to_string());
        screen.say(&format!("command   {name} to {device}: {status}"));
        verdicts.push(CommandVerdict { device: device.clone(), status });
    }
    let written = (plant.modbus.holding(MODBUS_SETPOINT), plant.opcua.get("setpoint"));
    if written != (42, Some(42.0)) {
        bail!("the devices hold {written:?} after the writes, 42 was written");
    }
    Ok(verdicts)
}

/// What is shown while time passes.
struct Watch<'a> {
    app: &'a App,
    cloud: &'a Cloud,
    counters: &'a Counters,
    cast: &'a Cast,
    waiting_max: u64,
}

impl Watch<'_> {
    async fn show_for(&mut self, screen: &mut Screen, time: Duration, line: &str) {
        let until = Instant::now() + time;
        let mut ticks = 0_u32;
        while Instant::now() < until {
            self.waiting_max = self.waiting_max.max(self.app.overview().buffer().messages);
            if ticks.is_multiple_of(5) {
                screen.show(&self.lines(line));
            }
            ticks += 1;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn lines(&self, line: &str) -> Vec<String> {
        let waiting = self.app.overview().buffer().messages;
        let mut lines = vec![format!("{line}  {waiting:>4} waiting in the buffer")];
        for (id, via) in self.cast.all() {
            let arrivals = self.cloud.arrivals(id);
            let latest = arrivals.last().map_or(0, |arrival| arrival.count);
            let sent = count_of(self.counters, via);
            lines.push(format!("{id:<10} {via:<7} sent {sent:>5}  arrived {:>5}  latest {latest:>5}", arrivals.len()));
        }
        lines
    }
}

fn configuration(folder: &Path, relay: &Relay, plant: &Plant, cast: &Cast) -> anyhow::Result<config::Config> {
    let Cast { modbus, opcua, .. } = cast;
    let text = format!(
        r#"
[gateway]
id = "demo"
[broker]
listen = ["127.0.0.1:0"]
[upstream]
url = "mqtt://{relay}"
retry_max = "2s"
[admin]
listen = "127.0.0.1:0"
[[modbus]]
url = "tcp://{modbus_at}"
  [[modbus.device]]
  id = "{modbus}"
  unit = 1
  interval = "50ms"
  heartbeat = "1h"
    [[modbus.device.point]]
    name = "count"
    at = "holding:{MODBUS_COUNT}"
    type = "u32"
    [[modbus.device.point]]
    name = "setpoint"
    at = "holding:{MODBUS_SETPOINT}"
    type = "u16"
    access = "rw"
    range = [0, 100]
[[opcua]]
endpoint = "{opcua_at}"
security = "None"
  [[opcua.device]]
  id = "{opcua}"
  publishing = "100ms"
  sampling = "50ms"
  queue = 100
  heartbeat = "1h"
    [[opcua.device.point]]
    name = "count"
    node = "nsu={namespace};s={OPCUA_COUNT}"
    [[opcua.device.point]]
    name = "setpoint"
    node = "nsu={namespace};s=setpoint"
    access = "rw"
    range = [0, 100]
"#,
        relay = relay.address(),
        modbus_at = plant.modbus.addr(),
        opcua_at = plant.opcua.endpoint(),
        namespace = fieldgate_opcua::sim::NAMESPACE,
    );
    let loaded = config::read("demo", folder, &text);
    match loaded.config {
        Some(config) => Ok(config),
        None => bail!("the demo's configuration is wrong: {:?}", loaded.problems),
    }
}
