//! What stands on the pages.

pub mod audit;
pub mod buffer;
pub mod configuration;
pub mod device;
pub mod devices;
pub mod enrol;
pub mod links;
pub mod logs;
pub mod overview;
pub mod policy;
pub mod trends;
pub mod words;
