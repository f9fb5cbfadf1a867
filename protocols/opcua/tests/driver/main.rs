//! The driver against a simulated server, through its public border: configuration in, updates out.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod browsing;
mod commands;
mod events;
mod flow;
mod recovery;
mod relay;
mod rig;
mod security;
