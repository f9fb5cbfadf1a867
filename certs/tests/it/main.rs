//! Tests of the crate through its public border, in one binary.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests say what they mean, as tests do")]

mod creation;
mod identify;
mod issue;
mod plant;
mod requests;
mod server;
mod tls;
