//! The driver: one task that owns the link, and the units on it.
//!
//! - `unit`: what is asked of one unit and when, and what its answers mean. No IO; time is an argument.
//! - `task`: carries requests over the link, one at a time, unit by unit; reconnects; hands samples up.
//! - `command`: writes and reads on command, between two polls.

mod block;
mod command;
mod overload;
mod task;
mod unit;

use std::future::Future;
use std::pin::Pin;

use fieldgate_protocol::{Driver, FieldDevice, Tasks};

use self::task::Task;
use crate::config::{DeviceConfig, ModbusConfig};

/// One Modbus link.
#[derive(Debug)]
pub struct ModbusDriver {
    config: ModbusConfig,
}

impl ModbusDriver {
    /// For this link. Nothing happens until it runs.
    pub fn new(config: ModbusConfig) -> Self {
        Self { config }
    }
}

impl Driver for ModbusDriver {
    fn protocol(&self) -> &'static str {
        "modbus"
    }

    fn link(&self) -> String {
        self.config.link.endpoint.to_string()
    }

    fn devices(&self) -> Vec<FieldDevice> {
        self.config.devices.iter().map(DeviceConfig::field_device).collect()
    }

    fn run<'a>(&'a mut self, tasks: Tasks) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(Task::new(&self.config, tasks).run())
    }
}
