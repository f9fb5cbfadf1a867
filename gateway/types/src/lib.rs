//! What every crate of Fieldgate may know: ids, times, sizes, durations, secrets, and where in a file a
//! problem lies. No IO and no async: files are read by the caller, time is asked of a [`Clock`].
//!
//! - [`DeviceId`]: who somebody is (DESIGN section 4).
//! - [`Clock`], [`UnixMillis`]: what time it is.
//! - [`Size`], [`duration`], [`Percent`]: `"64MiB"`, `"500ms"`, `"50%"`.
//! - [`Secret`]: text that never reaches a log.
//! - [`Problem`], [`Span`]: a located, actionable complaint.
//! - [`Section`]: one table of a configuration file, read key by key; components own their sections.
//! - [`Current`]: a value that is replaced as a whole while others read it.
//! - [`Pulse`]: whether a loop still turns.
//! - [`Backoff`]: how long to wait before trying again.

mod backoff;
mod clock;
mod current;
mod device_id;
pub mod duration;
mod percent;
mod problem;
pub mod pulse;
mod secret;
mod section;
mod size;

pub use backoff::Backoff;
pub use clock::{BUILD_FLOOR, Clock, ManualClock, SystemClock, UnixMillis};
pub use current::Current;
pub use device_id::{DeviceId, InvalidDeviceId};
pub use percent::{InvalidPercent, Percent};
pub use problem::{Problem, Span};
pub use pulse::Pulse;
pub use secret::Secret;
pub use section::{FromToml, Loader, Located, Origin, Override, Section, Setting, Sources, Wrong, nearest};
pub use size::{InvalidSize, Size};
