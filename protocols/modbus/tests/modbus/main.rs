//! The driver against a simulated device and against peers that lie, stall and die: hand-written frames after the
//! specification, no Modbus library on the far side.

// .clippy.toml allows these in test functions; here the helpers of tests need them as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod command;
mod faults;
mod harness;
mod line;
mod links;
mod lying;
mod peer;
mod polling;
