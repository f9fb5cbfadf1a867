//! What tests of the gateway stand on: the process under test, and parts around it that are not the gateway's own.
//!
//! The kit knows the gateway by its public borders alone (its binary, its configuration, MQTT, HTTP, its files) and
//! depends on none of its crates, so that it can't share a mistake with them.
//!
//! - [`gateway`]: the binary in a folder of its own: start, kill, stop, verbs, HTTP.
//! - [`cloud`]: rumqttd on loopback and an observer that keeps what arrives, in order.
//! - [`relay`]: the line between the two, which can be cut, stalled and mended.
//! - [`leaf`]: an MQTT client over mTLS that knows what was acknowledged to it. [`bundle`]: its certificate.
//! - [`load`]: a leaf that publishes numbers and goes on after every loss of its connection.
//! - [`history`]: whether every acknowledged number arrived, once and in order.
//! - [`standstill`]: how long the machine itself stood still, for limits in time.
//! - [`wait`]: waiting for a condition, with a deadline. [`port`]: ports that nobody else takes.

pub mod bundle;
pub mod cloud;
pub mod gateway;
pub mod history;
mod http;
pub mod leaf;
pub mod load;
pub mod port;
pub mod relay;
pub mod standstill;
pub mod wait;

use std::time::Duration;

pub use bundle::Bundle;
pub use cloud::{Cloud, Observed, Upstream};
pub use gateway::{Gateway, Verb};
pub use http::Answer;
pub use leaf::{Ack, ConnectError, Leaf, Options, Received, Version};
pub use load::Load;
pub use relay::Relay;
pub use standstill::Standstill;
pub use wait::{eventually, wait_until};

/// How long anything that should happen soon may take, on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(20);
