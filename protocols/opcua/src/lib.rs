//! OPC UA: reads points by subscription, writes and reads them on command.
//!
//! [`OpcuaConfig`] is one `[[opcua]]` table of the configuration, [`OpcuaDriver`] its session. How they go about it:
//! `connect` opens a session, `live` keeps its subscriptions, `driver` tries again. README.md in this folder tells
//! what users have to know. The protocol itself (encoding, secure channel, services) is async-opcua's.

mod browse;
mod command;
mod config;
mod connect;
mod driver;
mod endpoint;
mod event;
mod fault;
mod feed;
mod filter;
mod live;
mod method;
mod node;
mod pki;
mod rhythm;
mod room;
mod server;
#[cfg(feature = "sim")]
pub mod sim;
mod subtree;
mod transport;
mod value;
mod write;

pub use browse::{BrowseError, Extent, Found, Tree, browse};
pub use config::{DeviceConfig, MethodConfig, Mode, OpcuaConfig, Origin, PointConfig, Policy, Security, Trust, User};
pub use driver::OpcuaDriver;
pub use endpoint::{Endpoint, InvalidEndpoint};
pub use event::EventConfig;
pub use filter::{Filter, Trigger};
pub use node::{InvalidNodeName, NodeName};
pub use pki::{Known, OwnCertificate, Pki, PkiError, Standing};
pub use subtree::{InvalidTemplate, SubtreeConfig, Template};
