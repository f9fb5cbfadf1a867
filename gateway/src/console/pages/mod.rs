//! What stands on the pages.

pub mod audit;
pub mod device;
pub mod devices;
pub mod enrol;
pub mod overview;
pub mod words;
