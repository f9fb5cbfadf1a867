//! Who is who on this gateway: the registry of devices and certificates in state.db, the users of the configuration,
//! and the rights of all of them.
//!
//! The registry is the truth: a certificate that it doesn't know, or knows as revoked, is nobody, whatever the
//! handshake said. `fieldgate-certs` makes and verifies certificates; here is only what must be remembered.

pub mod account;
pub mod api_token;
mod authority;
pub mod ending;
pub mod explain;
pub mod lists;
pub mod mapping;
pub mod password;
pub mod policy;
mod registry;
pub mod throttle;
pub mod trial;
mod users;
mod wanted;

pub use authority::{Authority, AuthorityError, CaReport, DeviceDetails, OpenError};
pub use policy::Rights;
pub use registry::{DeviceEntry, DeviceRegistry, RegisterError};
pub use users::{Known, User, Users};
pub use wanted::{VALIDITY, Wanted, parse_validity};
