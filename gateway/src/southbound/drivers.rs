//! The one table of drivers: a new protocol is one more arm here.

use std::path::Path;

use fieldgate_modbus::ModbusDriver;
use fieldgate_opcua::OpcuaDriver;
use fieldgate_protocol::Driver;

use crate::config::Config;

/// Makes a fresh driver for one link: at start, and again after a panic.
pub type MakeDriver = Box<dyn Fn() -> Box<dyn Driver> + Send + Sync>;

/// One maker per configured link.
pub fn drivers(config: &Config, data_dir: &Path) -> Vec<MakeDriver> {
    let mut makers: Vec<MakeDriver> = Vec::new();
    for link in &config.modbus {
        let link = link.clone();
        makers.push(Box::new(move || Box::new(ModbusDriver::new(link.clone()))));
    }
    for session in &config.opcua {
        let session = session.clone();
        let pki = data_dir.join("opcua");
        makers.push(Box::new(move || Box::new(OpcuaDriver::new(session.clone(), pki.clone()))));
    }
    makers
}
