//! What people and programs can ask the gateway: `/api/v1`, `/healthz`, `/readyz`, `/metrics`.
//!
//! Two doors. `<data_dir>/admin.sock` (mode 0600) answers everything: the verbs of the command line come in here.
//! The `[admin] listen` address asks for a token (`fieldgate token add`) but for health and metrics on this machine.
//!
//! - [`overview`]: handles to every part, and the status made from them.
//! - [`routes`]: the table of all routes, of which the router is built.
//! - [`access`]: who may ask what.
//! - [`api`]: what is answered; [`quarantine`], [`tokens`] and [`accounts`]: about records kept aside, about tokens, about
//!   accounts of the console.
//! - [`metrics`]: the figures of the overview for Prometheus.
//! - [`serve`]: the two doors and their bounds; `patience`: with who takes nothing.
//! - [`sys`]: a few of the figures on `$SYS`, for programs.

pub mod access;
pub mod accounts;
pub mod api;
pub mod metrics;
pub mod overview;
mod patience;
pub mod quarantine;
pub mod routes;
pub mod serve;
pub mod sys;
pub mod tokens;

pub use overview::{Overview, Status};
