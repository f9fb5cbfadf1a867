//! What a field protocol is to the gateway: samples go up, commands come down.
//!
//! A [`Driver`] owns one link (a TCP endpoint, a serial port, an OPC UA session) and the field devices on it.
//! It reads points and hands batches of [`Sample`]s to the gateway through [`Uplink`], takes [`Command`]s from
//! a bounded channel, and says which of its devices answer. It never sees MQTT, SQLite or TLS listeners, and it
//! doesn't decide what is reported: deadband, heartbeat and report-by-exception are the pipeline's, one rule
//! for every protocol, driven by the [`Point`]s that the driver declares.

mod command;
mod driver;
mod event;
mod point;
mod quality;
mod value;

pub use command::{Change, Command, Outcome, Request, Status};
pub use driver::{Driver, FieldDevice, LinkInfo, LinkState, Tasks, Update, Uplink};
pub use event::Event;
pub use point::{Access, Deadband, InvalidPointName, Point, PointName, Report};
pub use quality::Quality;
pub use value::{Reading, Sample, Value};
