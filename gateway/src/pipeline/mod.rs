//! What happens to a message between its source and the store: is it for the upstream, what does it look like.
//! Pure and synchronous: no IO, no clock of its own.
//!
//! - [`topic`]: the local topic tree of DESIGN section 5, taken apart in one place.
//! - [`route`]: does a message go upstream, and how. The one function that decides it.
//! - [`tree`]: topic trees besides those of devices, up and down.
//! - [`record`]: the body of a stored record, independent of the upstream's dialect.
//! - [`report`]: report by exception: which samples of a field device are worth a message.
//! - [`document`]: samples as field telemetry documents.

pub mod document;
pub mod record;
pub mod report;
pub mod route;
pub mod topic;
pub mod tree;
