//! What the OASIS texts ask of a server, over real TLS sockets, with packets built by hand. A test's name begins with
//! the statements that it checks (see `statements.rs`).
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::pedantic
)]

#[path = "../support/mod.rs"]
mod support;

mod aliases;
mod connack;
mod connect;
mod expiry;
mod filters;
mod goodbye;
mod limits;
mod malformed;
mod options;
mod properties;
mod publish;
mod qos;
mod retained;
mod sessions;
mod shared;
mod statements;
mod subscribe;
mod will;

/// Both versions.
const LEVELS: [u8; 2] = [4, 5];

#[test]
fn every_statement_that_binds_a_server_has_a_test_or_a_reason() {
    let statements = statements::Statements::read();
    assert_eq!(statements.mistakes, Vec::<String>::new());
    assert_eq!(statements.list.len(), 141 + 251);
    let missing = statements.missing();
    assert!(missing.is_empty(), "neither test nor reason:\n{}", missing.join("\n"));
}

#[test]
fn names_of_tests_are_read() {
    use statements::{Id, Standard, named};
    let v311 = Id { standard: Standard::V311, numbers: [3, 1, 0, 1] };
    let v5 = |n| Id { standard: Standard::V5, numbers: [3, 3, 2, n] };
    assert_eq!(named("v311_3_1_0_1_and_v5_3_3_2_8_and_3_3_2_9_no_alias_is_0"), [v311, v5(8), v5(9)]);
    assert_eq!(named("names_of_tests_are_read"), []);
}
