//! The one table of drivers: a new protocol is one more arm here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fieldgate_modbus::load::LinkPlan;
use fieldgate_modbus::{ModbusConfig, ModbusDriver};
use fieldgate_opcua::{OpcuaConfig, OpcuaDriver};
use fieldgate_protocol::{Driver, PointName};
use fieldgate_types::DeviceId;

use crate::config::Config;

/// Makes a fresh driver for one link: at start, and again after a panic.
pub type MakeDriver = Box<dyn Fn() -> Box<dyn Driver> + Send + Sync>;

/// What one link is to be.
#[derive(Debug, Clone, PartialEq)]
pub enum LinkConfig {
    /// `[[modbus]]`
    Modbus(ModbusConfig),
    /// `[[opcua]]`
    Opcua(OpcuaConfig),
}

/// Which link, from one configuration to the next: where it leads, and the how-manieth that leads there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkKey {
    /// `modbus`, `opcua`: the key of the configuration, too.
    pub protocol: &'static str,
    /// Its URL.
    pub name: String,
    /// From 0 on.
    pub nth: usize,
}

/// Every configured link, in the order of the configuration.
pub fn links(config: &Config) -> Vec<(LinkKey, LinkConfig)> {
    let modbus = config.modbus.iter().cloned().map(LinkConfig::Modbus);
    let opcua = config.opcua.iter().cloned().map(LinkConfig::Opcua);
    let mut seen: BTreeMap<(&'static str, String), usize> = BTreeMap::new();
    let keyed = |link: LinkConfig| {
        let (protocol, name) = link.name();
        let count = seen.entry((protocol, name.clone())).or_default();
        let key = LinkKey { protocol, name, nth: *count };
        *count += 1;
        (key, link)
    };
    modbus.chain(opcua).map(keyed).collect()
}

impl LinkConfig {
    /// What makes its drivers.
    pub fn maker(self: Arc<Self>, data_dir: &Path) -> MakeDriver {
        let pki = data_dir.join("opcua");
        Box::new(move || match &*self {
            Self::Modbus(link) => Box::new(ModbusDriver::new(link.clone())),
            Self::Opcua(session) => Box::new(OpcuaDriver::new(session.clone(), pki.clone())),
        })
    }

    /// What it asks of its bus and when, where it asks.
    pub fn plan(&self) -> Option<LinkPlan> {
        match self {
            Self::Modbus(link) => Some(link.plan()),
            Self::Opcua(_) => None,
        }
    }

    fn name(&self) -> (&'static str, String) {
        let driver = Arc::new(self.clone()).maker(&PathBuf::new())();
        (driver.protocol(), driver.link())
    }

    /// The same with the devices and points that `wanted` takes alone, and without events; nothing where none is left. Of
    /// points that are not known before the driver has found them it is asked once, without a name.
    pub fn only(mut self, wanted: impl Fn(&DeviceId, Option<&PointName>) -> bool) -> Option<Self> {
        match &mut self {
            Self::Modbus(link) => {
                for device in &mut link.devices {
                    let points =
                        device.points.iter().filter(|point| wanted(&device.id, Some(&point.point.name))).cloned();
                    device.points = points.collect();
                }
                link.devices.retain(|device| !device.points.is_empty());
            }
            Self::Opcua(session) => {
                for device in &mut session.devices {
                    // What is found is called otherwise where a point of the configuration is missing.
                    if device.subtrees.is_empty() || !wanted(&device.id, None) {
                        device.points.retain(|point| wanted(&device.id, Some(&point.point.name)));
                        device.subtrees.clear();
                    }
                    device.events.clear();
                }
                session.devices.retain(|device| !(device.points.is_empty() && device.subtrees.is_empty()));
            }
        }
        Some(self).filter(|link| !link.device_ids().is_empty())
    }

    /// The ids of its devices.
    pub fn device_ids(&self) -> Vec<DeviceId> {
        match self {
            Self::Modbus(link) => link.devices.iter().map(|device| device.id.clone()).collect(),
            Self::Opcua(session) => session.devices.iter().map(|device| device.id.clone()).collect(),
        }
    }

    /// What of it is different from `before`, in words.
    pub fn difference(&self, before: &Self) -> String {
        match (self, before) {
            (Self::Modbus(now), Self::Modbus(old)) => {
                let itself = (&now.link, &now.limits) != (&old.link, &old.limits);
                let device = |config: &ModbusConfig| -> BTreeMap<_, _> {
                    config.devices.iter().map(|device| (device.id.clone(), device.clone())).collect()
                };
                words(itself, &device(now), &device(old))
            }
            (Self::Opcua(now), Self::Opcua(old)) => {
                let itself = OpcuaConfig { devices: Vec::new(), ..now.clone() }
                    != OpcuaConfig { devices: Vec::new(), ..old.clone() };
                let device = |config: &OpcuaConfig| -> BTreeMap<_, _> {
                    config.devices.iter().map(|device| (device.id.clone(), device.clone())).collect()
                };
                words(itself, &device(now), &device(old))
            }
            (Self::Modbus(_), Self::Opcua(_)) | (Self::Opcua(_), Self::Modbus(_)) => "another protocol".to_owned(),
        }
    }
}

/// Devices that are named in one reason.
const NAMED: usize = 5;

fn words<T: PartialEq>(itself: bool, now: &BTreeMap<DeviceId, T>, old: &BTreeMap<DeviceId, T>) -> String {
    let added: Vec<_> = now.keys().filter(|id| !old.contains_key(*id)).collect();
    let removed: Vec<_> = old.keys().filter(|id| !now.contains_key(*id)).collect();
    let changed: Vec<_> =
        now.iter().filter(|(id, device)| old.get(*id).is_some_and(|old| old != *device)).map(|(id, _)| id).collect();
    let named = |(what, ids): (&str, Vec<&DeviceId>)| {
        let names: Vec<String> = ids.iter().take(NAMED).map(|id| format!("`{id}`")).collect();
        let more = ids.len().checked_sub(NAMED).filter(|more| *more > 0);
        let more = more.map(|more| format!(" and {more} more")).unwrap_or_default();
        (!ids.is_empty()).then(|| format!("{what} {}{more}", names.join(", ")))
    };
    let devices = [("changed", changed), ("added", added), ("removed", removed)].into_iter().filter_map(named);
    let all: Vec<String> = itself.then(|| "its own keys changed".to_owned()).into_iter().chain(devices).collect();
    if all.is_empty() { "its devices stand in another order".to_owned() } else { all.join("; ") }
}
