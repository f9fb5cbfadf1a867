//! Who is who on this gateway: the registry of devices and certificates in state.db, and their rights.
//!
//! The registry is the truth: a certificate that it doesn't know, or knows as revoked, is nobody, whatever the
//! handshake said. `fieldgate-certs` makes and verifies certificates; here is only what must be remembered.

mod authority;
pub mod policy;
mod registry;

pub use authority::{Authority, AuthorityError, DeviceDetails, OpenError};
pub use policy::Rights;
pub use registry::{DeviceEntry, DeviceRegistry, RegisterError};
