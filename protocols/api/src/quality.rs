//! How good a sample is: OPC UA StatusCode names, for every protocol (OPC 10000-4 section 7.39).

use std::borrow::Cow;
use std::fmt;

/// The name of an OPC UA status code: `Good…`, `Uncertain…` or `Bad…`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Quality(Cow<'static, str>);

impl Quality {
    /// The value is right.
    pub const GOOD: Self = Self(Cow::Borrowed("Good"));
    /// No connection to the device or server.
    pub const BAD_NO_COMMUNICATION: Self = Self(Cow::Borrowed("BadNoCommunication"));
    /// The device did not answer in time.
    pub const BAD_TIMEOUT: Self = Self(Cow::Borrowed("BadTimeout"));
    /// The connection answers, the device behind it does not.
    pub const BAD_DEVICE_FAILURE: Self = Self(Cow::Borrowed("BadDeviceFailure"));
    /// The device has no such register or node.
    pub const BAD_NODE_ID_UNKNOWN: Self = Self(Cow::Borrowed("BadNodeIdUnknown"));
    /// The device refuses this kind of access.
    pub const BAD_NOT_SUPPORTED: Self = Self(Cow::Borrowed("BadNotSupported"));
    /// The value can't be represented: NaN, infinity, not of the configured type.
    pub const BAD_OUT_OF_RANGE: Self = Self(Cow::Borrowed("BadOutOfRange"));
    /// What came back can't be understood.
    pub const BAD_DECODING_ERROR: Self = Self(Cow::Borrowed("BadDecodingError"));
    /// The configuration does not fit the device.
    pub const BAD_CONFIGURATION_ERROR: Self = Self(Cow::Borrowed("BadConfigurationError"));
    /// Nothing has been read yet.
    pub const BAD_WAITING_FOR_INITIAL_DATA: Self = Self(Cow::Borrowed("BadWaitingForInitialData"));

    /// A status by its name, such as `BadNodeIdUnknown`.
    pub fn named(name: impl Into<Cow<'static, str>>) -> Self {
        Self(name.into())
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a value with this quality is reported as a value: `Good…` and `Uncertain…`.
    pub fn usable(&self) -> bool {
        !self.0.starts_with("Bad")
    }
}

impl fmt::Display for Quality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
