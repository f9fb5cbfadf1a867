//! What OpenSSL's command line says of this crate, and what it makes to get past it. Needs the programs `openssl` and
//! `curl`, and fails without them; the other tests need nothing.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    dead_code,
    reason = "helpers of tests say what they mean, and are shared with the other binary"
)]

mod bad_clients;
mod enrolment;
#[path = "../it/plant.rs"]
mod plant;
mod resumption;
mod strict;
mod tool;
