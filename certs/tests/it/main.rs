//! Tests of the crate through its public border, in one binary.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests say what they mean, as tests do")]

mod clock;
mod creation;
mod enrolment;
mod external;
mod identify;
mod issue;
mod plant;
mod requests;
mod rotation;
mod server;
mod tls;
mod years;
