//! End-to-end stories: each drives the gateway's own binary through its public borders alone, with parts of the test
//! kit around it. `tests/README.md` says what is where and how long it takes.

// Clippy takes this for granted in test functions alone; here the functions around them are of tests too.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod api;
mod arrows;
mod audit;
mod backup;
mod bad_config;
mod batches;
mod bulk;
mod check;
mod clock;
mod console;
mod crash;
mod demo;
mod documented_config;
mod envelope;
mod external;
mod field_modbus;
mod field_opcua;
mod guide;
mod large;
mod leaf_commands;
mod leaf_rights;
mod leaf_to_cloud;
mod live_first;
mod local;
mod offline;
mod operate;
mod packaging;
mod policy;
mod presence;
mod reload;
mod revoke;
mod rotation;
mod stage;
mod state_format;
mod superseded;
mod support;
mod upstream_trouble;
mod users;
mod watchdog;
mod websocket;
