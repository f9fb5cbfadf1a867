//! Where messages come from: leaf devices through the broker, field devices through their drivers.
//!
//! - [`drivers`]: the one table of protocols.
//! - [`declared`]: the points of a field device as they are now.
//! - [`links`]: all links, and how they change with the configuration.
//! - [`link`]: one supervised task per link: its driver, its restarts, its samples on their way into the store.
//! - [`handshakes`]: threads of lower priority for TLS handshakes.
//! - [`leaf`]: the broker's `Gate`: who a leaf is, what it may, and its messages on their way into the store.
//! - [`presence`]: which device is online, told locally and upstream.
//! - [`fetch`]: trees that come down from upstream, to local subscribers.
//! - [`taps`]: the last messages of a device that somebody looks at.
//! - [`outlet`]: the gateway's own messages into the store and to local subscribers.

pub mod birth;
pub mod declared;
pub mod drivers;
pub mod fetch;
pub mod handshakes;
pub mod leaf;
pub mod link;
pub mod links;
pub mod outlet;
pub mod presence;
pub mod sessions;
pub mod taps;

pub use declared::Declared;
pub use links::Links;
pub use outlet::{Outlet, gateway_message};
pub use presence::Presence;
