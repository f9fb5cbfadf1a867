//! The Modbus driver: polls register blocks of the units on one link and serves writes.
//!
//! Data path of one poll: [`config`] says which points there are → [`plan`] merges them into requests → the driver's
//! task asks for one request at a time, unit by unit → the link carries it over tokio-modbus, with the checks that
//! this lacks → [`codec`] turns registers into values → samples go up, all of one cycle in one batch.
//!
//! Owned here: everything that is Modbus. Not owned: what is reported and when (the pipeline's), back-off figures and
//! configuration syntax (fieldgate-types).
//!
//! Links: TCP, TLS, RTU on a serial port and RTU over TCP; see [`config::Endpoint`].

mod address;
pub mod codec;
pub mod config;
mod driver;
mod exception;
mod link;
pub mod list;
pub mod load;
pub mod plan;
mod serial;
#[cfg(feature = "sim")]
pub mod sim;
mod tls;
mod wire;

pub use address::{Address, InvalidAddress, Place, Table};
pub use config::{ModbusConfig, PointLists};
pub use driver::ModbusDriver;
