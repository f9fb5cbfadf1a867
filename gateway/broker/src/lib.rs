//! The MQTT server that leaf devices talk to.

mod broker;
mod event;
mod identity;
mod limits;
mod message;
mod metrics;
mod ports;
pub mod topic;

pub use broker::{Broker, Delivery, PublishError, StartError};
pub use event::{DisconnectReason, DropReason, Event};
pub use identity::{Decision, Identity, Refusal, Role};
pub use limits::{Config, Limits};
pub use message::{Message, Properties, QoS, Version};
pub use metrics::{BrokerMetrics, ConnectionInfo};
pub use ports::{Change, CommitError, Durable, Gate, LoadError, MemorySessions, Row, Sessions, Table};
