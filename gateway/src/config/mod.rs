//! gateway.toml: composed of the sections that components own, checked as a whole, with every problem located.

mod broker;
pub mod changes;
mod environment;
mod external;
mod load;
mod local;
pub mod plan;
pub mod reference;

use std::collections::BTreeSet;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use fieldgate_modbus::ModbusConfig;
use fieldgate_opcua::OpcuaConfig;
use fieldgate_store::DirectoryLock;
use fieldgate_types::{DeviceId, Setting};

pub use broker::BrokerConfig;
pub use load::{LoadError, Loaded, data_dir_of, load, load_in_detail, read};
pub use local::{AdminConfig, BufferConfig, CertsConfig, EnrolmentConfig};

use crate::backup::{self, Settled};
use crate::identity::policy::{Group, Policy};
use crate::northbound::UpstreamConfig;
use crate::pipeline::route::Outbound;

/// The whole configuration, valid by construction: [`load`] makes one only from a file without problems.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[gateway] id`; the host name, fixed at first start, where it is not set.
    pub id: Option<DeviceId>,
    /// `[gateway] data_dir`
    pub data_dir: PathBuf,
    /// `[broker]`
    pub broker: BrokerConfig,
    /// `[certs]`
    pub certs: CertsConfig,
    /// `[enrolment]`; no EST without.
    pub enrolment: Option<EnrolmentConfig>,
    /// `[upstream]`; a local-only gateway without.
    pub upstream: Option<UpstreamConfig>,
    /// `[buffer]`
    pub buffer: BufferConfig,
    /// `[commands] timeout`
    pub command_timeout: Duration,
    /// `[admin]`
    pub admin: AdminConfig,
    /// `[[group]]`
    pub groups: Vec<Group>,
    /// `[[policy]]`
    pub policies: Vec<Policy>,
    /// `[[modbus]]`, one per link
    pub modbus: Vec<ModbusConfig>,
    /// `[[opcua]]`, one per session
    pub opcua: Vec<OpcuaConfig>,
    /// Files that the configuration names, in all sections and in the files that these include.
    pub files: BTreeSet<PathBuf>,
    /// Every key of no `[[table]]`, as it is shown.
    pub settings: Vec<Setting>,
    /// The file that it was read from, and that a reload reads again; none for one that is made in the program.
    pub source: Option<PathBuf>,
}

impl Config {
    /// Makes the data directory where it isn't there yet, for its owner alone, and takes its lock. A restore that was
    /// interrupted there is finished, or undone where it had not been complete.
    pub fn lock_data_dir(&self) -> anyhow::Result<DirectoryLock> {
        let dir = &self.data_dir;
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.with_context(|| format!("can't make the data directory `{}`", dir.display()))?;
        let lock = DirectoryLock::acquire(dir)?;
        match backup::settle(dir)? {
            Settled::Nothing => {}
            Settled::Undone => tracing::warn!("a restore that had not been complete was undone"),
            Settled::Finished(_) => tracing::info!("a restore that had been interrupted was finished"),
        }
        Ok(lock)
    }

    /// What goes upstream.
    pub fn outbound(&self) -> Outbound {
        let forwards = self.upstream.as_ref().map(|upstream| upstream.forwards.clone());
        Outbound { upstream: forwards.is_some(), forwards: forwards.unwrap_or_default() }
    }

    /// The names of all users.
    pub fn users(&self) -> impl Iterator<Item = &DeviceId> {
        self.broker.users.iter().map(|user| &user.name)
    }

    /// The ids of all devices with certificates that are not ours.
    pub fn external_devices(&self) -> impl Iterator<Item = &DeviceId> {
        self.certs.external.holders().map(|holder| &holder.device)
    }

    /// The ids of all field devices.
    pub fn field_devices(&self) -> impl Iterator<Item = &DeviceId> {
        let modbus = self.modbus.iter().flat_map(|link| link.devices.iter().map(|device| &device.id));
        let opcua = self.opcua.iter().flat_map(|session| session.devices.iter().map(|device| &device.id));
        modbus.chain(opcua)
    }
}
