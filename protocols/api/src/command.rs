//! Commands to a field device, and their one answer.

use std::time::Instant;

use fieldgate_types::DeviceId;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::{PointName, Value};

/// Something to do on a field device. The gateway has checked that the points exist and, for a write, that the
/// point is `rw` and the value within its range.
#[derive(Debug)]
pub struct Command {
    /// Which device of the link.
    pub device: DeviceId,
    /// What to do.
    pub request: Request,
    /// Not to be begun after this; the gateway answers `timeout` by itself then.
    pub deadline: Instant,
    /// Takes the one answer. A dropped sender counts as `failed`.
    pub reply: oneshot::Sender<Outcome>,
}

/// What a field device can be asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Write a value, in the point's unit, then read it back: the outcome's value is what was read.
    Write {
        /// The point.
        point: PointName,
        /// The value, before scale and offset are undone.
        value: Value,
    },
    /// Read points now: the outcome's value is an object of name → value (null where there is none).
    Read {
        /// The points, at least one.
        points: Vec<PointName>,
    },
    /// Call a method that the device declares: the outcome's value is what it gives back.
    Call {
        /// The method.
        method: PointName,
        /// What it is given, in its order.
        arguments: Vec<Value>,
    },
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Done.
    Ok,
    /// Not allowed or not understood; nothing was changed.
    Rejected,
    /// No answer in time; it may or may not have been done.
    Timeout,
    /// Tried, and it went wrong.
    Failed,
}

/// The one answer to a command, without its request id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// What came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<serde_json::Value>,
    /// Why not, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What a driver wrote, for the audit. Never taken from what a device sends.
    #[serde(skip)]
    pub changes: Vec<Change>,
}

/// A point that was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Which.
    pub point: PointName,
    /// What was read just before, where it can be read.
    pub old: Option<Value>,
    /// What was read afterwards, where it can be read.
    pub new: Option<Value>,
}

impl Outcome {
    /// Done, with this value.
    pub fn ok(value: Option<serde_json::Value>) -> Self {
        Self { status: Status::Ok, value, reason: None, changes: Vec::new() }
    }

    /// With a reason beside what it is.
    #[must_use]
    pub fn because(mut self, reason: Option<String>) -> Self {
        self.reason = reason;
        self
    }

    /// Not done, for this reason.
    pub fn not(status: Status, reason: impl Into<String>) -> Self {
        Self { status, value: None, reason: Some(reason.into()), changes: Vec::new() }
    }
}
