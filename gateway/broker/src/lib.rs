//! The MQTT server that leaf devices talk to.

mod broker;
mod codec;
mod connection;
mod core;
mod counters;
mod event;
mod fanout;
mod identity;
mod inbox;
mod janitor;
mod limits;
mod message;
mod metrics;
mod net;
mod penalties;
mod ports;
mod registry;
mod retained;
mod router;
mod session;
mod stored;
pub mod topic;

pub use broker::{Broker, Delivery, PublishError, StartError};
pub use event::{DisconnectReason, DropReason, Event};
pub use identity::{Decision, Identity, Refusal, Role};
pub use limits::{Config, Limits};
pub use message::{Message, Properties, QoS, Version};
pub use metrics::{BrokerMetrics, ConnectionInfo};
pub use ports::{Change, CommitError, Durable, Gate, LoadError, MemorySessions, Row, Sessions, Table};
