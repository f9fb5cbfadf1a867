//! Exceptions of a device: what they mean for the poll, and the quality word of the points they hit.

use fieldgate_protocol::Quality;
use tokio_modbus::ExceptionCode;

/// What the driver does about an exception (application protocol V1.1b3, section 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The request is refused as it stands and will be next time: divide it, or ask seldom.
    Refused,
    /// Something is wrong at the moment: say so, ask again in the next cycle.
    Trouble,
    /// Ask again in a moment.
    Busy,
    /// A gateway on the way answers; the unit behind it does not.
    Away,
}

/// Classifies an exception.
pub(crate) fn verdict(code: ExceptionCode) -> Verdict {
    match code {
        ExceptionCode::IllegalFunction | ExceptionCode::IllegalDataAddress | ExceptionCode::IllegalDataValue => {
            Verdict::Refused
        }
        ExceptionCode::Acknowledge | ExceptionCode::ServerDeviceBusy => Verdict::Busy,
        ExceptionCode::GatewayPathUnavailable | ExceptionCode::GatewayTargetDevice => Verdict::Away,
        ExceptionCode::ServerDeviceFailure | ExceptionCode::MemoryParityError | ExceptionCode::Custom(_) => {
            Verdict::Trouble
        }
    }
}

/// Whether the address of some register in the request may be to blame, so that the others can be read without it.
/// Some devices answer 3 where 2 is meant, or 3 to a request longer than they can serve.
pub(crate) fn may_be_divided(code: ExceptionCode) -> bool {
    matches!(code, ExceptionCode::IllegalDataAddress | ExceptionCode::IllegalDataValue)
}

/// The quality of the points that could not be read.
pub(crate) fn quality(code: ExceptionCode) -> Quality {
    match code {
        ExceptionCode::IllegalFunction => Quality::BAD_NOT_SUPPORTED,
        ExceptionCode::IllegalDataAddress => Quality::BAD_NODE_ID_UNKNOWN,
        ExceptionCode::IllegalDataValue => Quality::BAD_OUT_OF_RANGE,
        ExceptionCode::GatewayPathUnavailable | ExceptionCode::GatewayTargetDevice => Quality::BAD_NO_COMMUNICATION,
        ExceptionCode::ServerDeviceFailure
        | ExceptionCode::Acknowledge
        | ExceptionCode::ServerDeviceBusy
        | ExceptionCode::MemoryParityError
        | ExceptionCode::Custom(_) => Quality::BAD_DEVICE_FAILURE,
    }
}

/// The exception in words, with its number.
pub(crate) fn describe(code: ExceptionCode) -> String {
    let words = match code {
        ExceptionCode::IllegalFunction => "the device does not know this function",
        ExceptionCode::IllegalDataAddress => "the device has no such address",
        ExceptionCode::IllegalDataValue => "the device refuses this value or length",
        ExceptionCode::ServerDeviceFailure => "the device failed while doing it",
        ExceptionCode::Acknowledge => "the device is still working on it",
        ExceptionCode::ServerDeviceBusy => "the device is busy",
        ExceptionCode::MemoryParityError => "the device found its memory damaged",
        ExceptionCode::GatewayPathUnavailable => "the Modbus gateway has no path to the unit",
        ExceptionCode::GatewayTargetDevice => "the unit does not answer the Modbus gateway",
        ExceptionCode::Custom(_) => "the device refused",
    };
    format!("{words} (exception {})", u8::from(code))
}
