#![doc = include_str!("../ARCHITECTURE.md")]

pub mod admin;
pub mod app;
pub mod audit;
pub mod cli;
pub mod command;
pub mod config;
#[cfg(feature = "demo")]
pub mod demo;
pub mod enrolment;
pub mod identity;
pub mod log;
pub mod moment;
pub mod northbound;
pub mod pipeline;
pub mod southbound;
pub mod upkeep;
