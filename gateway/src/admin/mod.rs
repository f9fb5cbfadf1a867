//! What people and programs can ask the gateway: `/api/v1`, `/healthz`, `/readyz`, `/metrics`.
//!
//! Two doors. `<data_dir>/admin.sock` (mode 0600) answers everything: the verbs of the command line come in here.
//! The `[admin] listen` address, on loopback, answers what only reads.
//!
//! - [`overview`]: handles to every part, and the status made from them.
//! - [`api`]: the routes.
//! - [`quarantine`]: the ones about records kept aside.
//! - [`metrics`]: the same figures for Prometheus.
//! - [`serve`]: the two doors.
//! - [`sys`]: a few of the figures on `$SYS`, for programs.

pub mod api;
pub mod metrics;
pub mod overview;
pub mod quarantine;
pub mod serve;
pub mod sys;

pub use overview::{Overview, Status};
