//! The way back: commands from upstream (and from permitted local programs, for field devices) to a device, and
//! their one answer.
//!
//! - [`book`]: which commands have been accepted, which are open, what was answered; survives a crash.
//! - [`router`]: takes a command to the broker or to the driver that can do it.
//! - [`outcome`]: what a leaf's answer means, what the upstream gets to see.
//!
//! A command is accepted (acknowledged upstream) once its row is durable in state.db. It is answered once: the
//! answer and the mark that there is one are committed to queue.db in one transaction.

pub mod book;
pub mod outcome;
pub mod router;

pub use book::{Book, BookError};
pub use router::{FieldTarget, Router};
