//! The configuration of one link: a `[[modbus]]` table with its devices and points (DESIGN section 6).
//!
//! Everything that can be known to be wrong without a device is refused here, with its place in the file.

mod endpoint;
mod line;
mod point;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use fieldgate_protocol::{FieldDevice, PointName, Report};
use fieldgate_types::{DeviceId, FromToml, Located, Section, Wrong};

pub use self::endpoint::{Endpoint, Framing, HostPort, InvalidEndpoint};
pub use self::line::{InvalidLine, Line, Parity};
pub use self::point::{PointConfig, WriteWith};
use crate::plan::{self, Limits, Read, Skip};
pub use crate::tls::TlsFiles;

const MINUTE: Duration = Duration::from_mins(1);
const DAY: Duration = Duration::from_hours(24);

/// The number by which a device is addressed on its link: 0 to 255.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitId(pub u8);

impl fmt::Display for UnitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromToml for UnitId {
    fn from_toml(value: &Located) -> Result<Self, Wrong> {
        u8::from_toml(value).map(Self)
    }
}

/// One link and the devices on it.
#[derive(Debug, Clone, PartialEq)]
pub struct ModbusConfig {
    /// The link itself.
    pub link: LinkConfig,
    /// How large requests may be and how many registers they may read for nothing.
    pub limits: Limits,
    /// The devices, each with its own unit id and identity.
    pub devices: Vec<DeviceConfig>,
}

/// Where a link leads, and its times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkConfig {
    /// Where it leads.
    pub endpoint: Endpoint,
    /// Certificates of a `mbaps://` link.
    pub tls: TlsFiles,
    /// How long an answer may take, besides the time that it needs on a serial line.
    pub timeout: Duration,
    /// Rest of the link between an answer and the next request.
    pub pause: Duration,
}

/// One unit on a link: a field device.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceConfig {
    /// Its identity on the gateway.
    pub id: DeviceId,
    /// Its number on the link.
    pub unit: UnitId,
    /// Its points, at least one; shared, since there may be tens of thousands.
    pub points: Arc<[PointConfig]>,
    /// What is never read.
    pub skip: Vec<Skip>,
}

impl ModbusConfig {
    /// Reads one `[[modbus]]` table. `None` when something essential is missing; whatever is wrong is noted in the
    /// section's sources.
    pub fn read(section: &Section) -> Option<Self> {
        let endpoint: Option<Endpoint> = section.required("url");
        let tls = TlsFiles::read(section, matches!(endpoint, Some(Endpoint::Tls(_))));
        let timeout = section.duration("timeout", Duration::from_millis(10)..=MINUTE, Duration::from_secs(1));
        let pause = section.duration("pause", Duration::ZERO..=MINUTE, Duration::ZERO);
        let limits = Limits {
            max_block: section.number("max_block", 1..=125, 125),
            max_gap: section.number("max_gap", 0..=124, 8),
        };
        let tables = section.sections("device");
        if tables.is_empty() {
            section.problem("device", "is missing: add a [[modbus.device]] with the id and the unit of each device");
        }
        let mut devices: Vec<DeviceConfig> = Vec::new();
        let mut complete = !tables.is_empty();
        for table in tables {
            let Some(device) = DeviceConfig::read(&table, limits) else {
                complete = false;
                continue;
            };
            if devices.iter().any(|other| other.id == device.id) {
                let id = &device.id;
                table.problem("id", format_args!("`{id}` is used twice on this link, each device needs its own id"));
            }
            if let Some(other) = devices.iter().find(|other| other.unit == device.unit) {
                let (unit, id) = (device.unit, &other.id);
                table.problem("unit", format_args!("`{unit}` is already the unit of `{id}` on this link"));
            }
            if device.unit == UnitId(0) && endpoint.as_ref().is_some_and(|e| e.framing() == Framing::Rtu) {
                table.problem("unit", "`0` speaks to all units of a line and none answers, 1 to 255 is allowed here");
            }
            devices.push(device);
        }
        let link = LinkConfig { endpoint: endpoint.filter(|_| complete)?, tls, timeout, pause };
        let config = Self { link, limits, devices };
        let load = config.plan().load_percent;
        if load > 100.0 {
            section.problem(
                "url",
                format_args!(
                    "the points need {load:.0} % of the time on this link: longer intervals, fewer points, a shorter \
                     `pause` or a faster line are needed, `fieldgate plan` shows each request"
                ),
            );
        }
        Some(config)
    }

    /// The ids of its devices, in the order of the configuration: so that the gateway can see that none is used twice.
    pub fn device_ids(&self) -> impl Iterator<Item = &DeviceId> {
        self.devices.iter().map(|device| &device.id)
    }
}

/// Lists of points that were read. Devices of a kind have the same ones, by the same `points_from`: they share it in memory.
#[derive(Debug, Default)]
pub struct PointLists(Vec<Arc<[PointConfig]>>);

impl PointLists {
    /// Has the devices of `link` share their lists with those before.
    pub fn share(&mut self, link: &mut ModbusConfig) {
        for device in &mut link.devices {
            match self.0.iter().find(|known| **known == device.points) {
                Some(known) => device.points = Arc::clone(known),
                None => self.0.push(Arc::clone(&device.points)),
            }
        }
    }
}

/// What the points of a device have in common.
struct Defaults {
    unit: UnitId,
    interval: Duration,
    report: Report,
    write: WriteWith,
    limits: Limits,
}

impl Defaults {
    /// Of no device.
    fn alone() -> Self {
        Self {
            unit: UnitId(1),
            interval: Duration::from_secs(1),
            report: Report::default(),
            write: WriteWith::Auto,
            limits: Limits { max_block: 125, max_gap: 0 },
        }
    }
}

impl DeviceConfig {
    fn read(section: &Section, limits: Limits) -> Option<Self> {
        let id = section.required("id");
        let unit = section.get_or("unit", UnitId(1));
        let defaults = Defaults {
            unit,
            interval: interval(section, Duration::from_secs(1)),
            report: Report::read(section, &Report::default()),
            write: section.choice("write", &WriteWith::WORDS, WriteWith::Auto),
            limits,
        };
        let skip: Vec<Skip> = section.get("skip").unwrap_or_default();
        let mut tables = Vec::new();
        let shared = section.has("points_from").then(|| section.include("points_from"));
        let unread = matches!(shared, Some(None));
        if let Some(file) = shared.flatten() {
            tables.extend(file.sections("point"));
        }
        tables.extend(section.sections("point"));
        if tables.is_empty() && !unread {
            section.problem("point", "is missing: add a [[modbus.device.point]], or name a file with `points_from`");
        }
        let mut points: Vec<PointConfig> = Vec::with_capacity(tables.len());
        let mut seen: BTreeSet<PointName> = BTreeSet::new();
        // Of a list of tens of thousands each table goes once it is read.
        for table in tables {
            let Some(point) = PointConfig::read(&table, &defaults) else { continue };
            if !seen.insert(point.point.name.clone()) {
                let name = &point.point.name;
                table.problem("name", format_args!("`{name}` is used twice in this device, each point needs its own"));
                continue;
            }
            let extent = point.extent();
            if skip.iter().any(|skip| skip.touches(extent.at.table, extent.at.offset.into(), extent.end())) {
                table.problem("at", format_args!("`{}` lies in what the device's `skip` forbids to read", extent.at));
            }
            points.push(point);
        }
        Some(Self { id: id?, unit, points: points.into(), skip }).filter(|device| !device.points.is_empty())
    }

    /// The requests of each interval, the shortest first. They name points by their place in `points`.
    pub fn reads(&self, limits: Limits) -> Vec<(Duration, Vec<Read>)> {
        let mut intervals: Vec<Duration> = self.points.iter().map(|point| point.interval).collect();
        intervals.sort_unstable();
        intervals.dedup();
        let reads = |interval| {
            let points = self.points.iter().enumerate().filter(|(_, point)| point.interval == interval);
            let extents = points.map(|(number, point)| (number, point.extent()));
            (interval, plan::merge(extents, limits, &self.skip))
        };
        intervals.into_iter().map(reads).collect()
    }

    /// The device as the gateway sees it.
    pub fn field_device(&self) -> FieldDevice {
        let points = self.points.iter().map(|point| Arc::clone(&point.point)).collect();
        FieldDevice { id: self.id.clone(), points, methods: Vec::new(), grows: false }
    }
}

fn interval(section: &Section, default: Duration) -> Duration {
    section.duration("interval", Duration::from_millis(10)..=DAY, default)
}
