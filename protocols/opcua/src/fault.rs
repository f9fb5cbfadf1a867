//! Why a session ended or did not come about, and whether trying again soon can help.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use fieldgate_protocol::LinkState;
use opcua::types::StatusCode;
use thiserror::Error;

use crate::pki::PkiError;

/// Why there is no session (any more).
#[derive(Debug, Error)]
pub(crate) enum Fault {
    /// No TCP connection.
    #[error("can't reach {host}:{port}: {reason}")]
    Unreachable { host: String, port: u16, reason: String },
    /// The server did not answer.
    #[error("no answer within {} s while {step}", limit.as_secs())]
    Silent { step: &'static str, limit: Duration },
    /// The server, or the library on its behalf, said no.
    #[error("{step}: {}{}", name(*status), hint(*status))]
    Status { step: &'static str, status: StatusCode, mend: Option<Mend> },
    /// The server does not offer what is configured.
    #[error("the server has no endpoint with {wanted}; it offers {offered}")]
    NoEndpoint { wanted: String, offered: String },
    /// The password can't be read.
    #[error("can't read the password file `{}`: {reason}", mend.path.display())]
    Password { reason: String, mend: Mend },
    /// The certificate or the key of the user can't be read.
    #[error("can't use the user's certificate `{}` with its key: {reason}", mend.path.display())]
    UserCertificate { reason: String, mend: Mend },
    /// The certificate of the server is not accepted.
    #[error("{reason}")]
    Untrusted { reason: String, mend: Mend },
    /// What the server gave as its certificate is none.
    #[error(
        "the server's certificate can't be read (a single certificate in DER is expected, chains are not supported)"
    )]
    CertificateUnreadable,
    /// Our own certificate is not usable.
    #[error(transparent)]
    Pki(#[from] PkiError),
}

/// A file whose change is a reason to try again at once, and how it was when last looked at.
#[derive(Debug, Clone)]
pub(crate) struct Mend {
    path: PathBuf,
    seen: Option<SystemTime>,
}

impl Mend {
    /// Remembers how the file is now.
    pub(crate) async fn new(path: PathBuf) -> Self {
        let seen = modified(&path).await;
        Self { path, seen }
    }

    /// Whether the file is another one than then.
    pub(crate) async fn changed(&self) -> bool {
        modified(&self.path).await != self.seen
    }
}

async fn modified(path: &std::path::Path) -> Option<SystemTime> {
    tokio::fs::metadata(path).await.ok()?.modified().ok()
}

impl Fault {
    /// Whether trying again can't mend it: somebody has to do something first.
    pub(crate) fn state(&self) -> LinkState {
        let permanent = match self {
            Self::Unreachable { .. } | Self::Silent { .. } | Self::Pki(PkiError::ClockWrong | PkiError::BrokeOff) => {
                false
            }
            Self::Status { status, .. } => permanent(*status),
            Self::NoEndpoint { .. }
            | Self::Password { .. }
            | Self::UserCertificate { .. }
            | Self::Untrusted { .. }
            | Self::CertificateUnreadable
            | Self::Pki(_) => true,
        };
        if permanent { LinkState::Refused } else { LinkState::Down }
    }

    /// The file whose change may mend it.
    pub(crate) fn mend(&self) -> Option<&Mend> {
        match self {
            Self::Password { mend, .. } | Self::UserCertificate { mend, .. } | Self::Untrusted { mend, .. } => {
                Some(mend)
            }
            Self::Status { mend, .. } => mend.as_ref(),
            Self::Unreachable { .. }
            | Self::Silent { .. }
            | Self::NoEndpoint { .. }
            | Self::CertificateUnreadable
            | Self::Pki(_) => None,
        }
    }
}

/// Refusals for a reason that stays: who we are, who the server is, how we speak (OPC 10000-4 section 7.39).
fn permanent(status: StatusCode) -> bool {
    [
        StatusCode::BadUserAccessDenied,
        StatusCode::BadIdentityTokenInvalid,
        StatusCode::BadIdentityTokenRejected,
        StatusCode::BadUserSignatureInvalid,
        StatusCode::BadApplicationSignatureInvalid,
        StatusCode::BadSecurityChecksFailed,
        StatusCode::BadSecurityPolicyRejected,
        StatusCode::BadSecurityModeRejected,
        StatusCode::BadSecurityModeInsufficient,
        StatusCode::BadCertificateInvalid,
        StatusCode::BadCertificateTimeInvalid,
        StatusCode::BadCertificateHostNameInvalid,
        StatusCode::BadCertificateUriInvalid,
        StatusCode::BadCertificateUseNotAllowed,
        StatusCode::BadCertificateUntrusted,
        StatusCode::BadCertificateRevoked,
        StatusCode::BadCertificateChainIncomplete,
        StatusCode::BadCertificatePolicyCheckFailed,
        StatusCode::BadNoValidCertificates,
        StatusCode::BadTcpEndpointUrlInvalid,
        StatusCode::BadServerUriInvalid,
    ]
    .contains(&status)
}

/// What to do about the refusals that people meet.
fn hint(status: StatusCode) -> &'static str {
    match status {
        StatusCode::BadUserAccessDenied | StatusCode::BadIdentityTokenRejected => {
            " (the server does not accept the user name or its password, or the user's certificate)"
        }
        StatusCode::BadIdentityTokenInvalid => " (the server wants another kind of login)",
        StatusCode::BadSecurityChecksFailed => {
            " (most often: the server does not trust this gateway, accept own/cert.der there)"
        }
        StatusCode::BadSecurityPolicyRejected => " (the server does not offer this login with this security)",
        StatusCode::BadCertificateHostNameInvalid => {
            " (the host in `endpoint` is not among the names in the server's certificate)"
        }
        StatusCode::BadCertificateUriInvalid => " (the server's ApplicationUri is not the one in its certificate)",
        StatusCode::BadCertificateTimeInvalid => " (the certificate is not valid now: compare both clocks)",
        _ => "",
    }
}

/// Whether a server says with it that it has no such node (any more).
pub(crate) fn gone(status: StatusCode) -> bool {
    [StatusCode::BadNodeIdUnknown, StatusCode::BadNodeIdInvalid].contains(&status)
}

/// The name of a status code, without its information bits; for a code that the specification doesn't know, the
/// name of its severity, so that a bad one stays bad.
pub(crate) fn name(status: StatusCode) -> &'static str {
    let name = status.sub_code().name();
    let severity = match (status.is_good(), status.is_uncertain()) {
        (true, _) => "Good",
        (_, true) => "Uncertain",
        (false, false) => "Bad",
    };
    if name.starts_with(severity) { name } else { severity }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_no_bits_and_keep_their_severity() {
        assert_eq!(name(StatusCode::Good), "Good");
        assert_eq!(name(StatusCode::BadNodeIdUnknown), "BadNodeIdUnknown");
        assert_eq!(name(StatusCode::from(0x8034_0480)), "BadNodeIdUnknown");
        assert_eq!(name(StatusCode::from(0x8fff_0000)), "Bad");
        assert_eq!(name(StatusCode::from(0x4fff_0000)), "Uncertain");
        assert_eq!(name(StatusCode::UncertainLastUsableValue), "UncertainLastUsableValue");
    }

    #[test]
    fn only_refusals_that_stay_are_refused() {
        let state = |status| Fault::Status { step: "logging in", status, mend: None }.state();
        for status in [
            StatusCode::BadIdentityTokenRejected,
            StatusCode::BadCertificateHostNameInvalid,
            StatusCode::BadCertificateUntrusted,
        ] {
            assert_eq!(state(status), LinkState::Refused, "{status}");
        }
        for status in [StatusCode::BadTimeout, StatusCode::BadTooManySessions, StatusCode::BadServerHalted] {
            assert_eq!(state(status), LinkState::Down, "{status}");
        }
    }
}
