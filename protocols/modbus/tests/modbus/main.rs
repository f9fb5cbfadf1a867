//! The driver against a simulated device and against peers that lie, stall and die: hand-written frames after the
//! specification, no Modbus library on the far side.

mod command;
mod harness;
mod lying;
mod peer;
mod polling;
