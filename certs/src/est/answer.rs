//! Answers as HTTP has them, and what a client says of itself in a header.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{EstRefused, TokenRefused};
use crate::encoding::base64_lines;
use crate::{IssueError, Refused};

/// An answer's parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Names and values. The length of the body is the listener's to say.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// Certificates in PKCS #7 (RFC 7030, 4.1.3 and 4.2.3).
    pub(super) fn certificates(pkcs7: &[u8]) -> Self {
        let headers = vec![
            ("content-type", "application/pkcs7-mime; smime-type=certs-only".to_owned()),
            ("content-transfer-encoding", "base64".to_owned()),
        ];
        Self { status: 200, headers, body: base64_lines(pkcs7).into_bytes() }
    }

    fn words(status: u16, words: &str) -> Self {
        let headers = vec![("content-type", "text/plain; charset=utf-8".to_owned())];
        Self { status, headers, body: format!("{words}\n").into_bytes() }
    }

    fn with(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(super) fn no_content() -> Self {
        Self { status: 204, headers: Vec::new(), body: Vec::new() }
    }

    pub(super) fn not_found() -> Self {
        Self::words(404, "EST here is cacerts, simpleenroll, simplereenroll and csrattrs under /.well-known/est/")
    }

    pub(super) fn method_not_allowed(allowed: &str) -> Self {
        Self::words(405, "use the other method").with("allow", allowed.to_owned())
    }

    /// Who proves nothing is told nothing: whether an id exists, and what was wrong with a token, is in the audit log.
    pub(super) fn refusal(reason: &EstRefused) -> Self {
        let again = |wait: std::time::Duration| wait.as_secs().max(1).to_string();
        match reason {
            EstRefused::Token(TokenRefused::Limited { wait, .. }) => {
                Self::words(429, "too many attempts: try again later").with("retry-after", again(*wait))
            }
            EstRefused::NoCredentials | EstRefused::NotAnId | EstRefused::Token(_) => {
                Self::words(401, "give the device id as user name and its one-time token as password")
                    .with("www-authenticate", "Basic realm=\"Fieldgate enrolment\", charset=\"UTF-8\"".to_owned())
            }
            EstRefused::Busy { .. } => Self::words(429, &reason.to_string()).with("retry-after", "1".to_owned()),
            EstRefused::TooOften { wait, .. } => {
                Self::words(429, &reason.to_string()).with("retry-after", again(*wait))
            }
            EstRefused::Peer(Refused::NoCertificate) => {
                Self::words(403, "renewal needs the device's present certificate in the TLS handshake")
            }
            EstRefused::Peer(_) | EstRefused::Barred { .. } | EstRefused::NotOurs { .. } => {
                Self::words(403, &reason.to_string())
            }
            EstRefused::TooLong => Self::words(413, &reason.to_string()),
            EstRefused::Issue(error) => match error {
                IssueError::NotARequest | IssueError::BadSignature | IssueError::WeakKey { .. } => {
                    Self::words(400, &error.to_string())
                }
                IssueError::IssuerExpired { .. }
                | IssueError::Clock(_)
                | IssueError::NoLifetime
                | IssueError::BadName(_)
                | IssueError::NoNames
                | IssueError::Registry(_)
                | IssueError::Crypto(_)
                | IssueError::Tls(_) => {
                    Self::words(503, "no certificate can be issued at the moment: the gateway's log says why")
                        .with("retry-after", "60".to_owned())
                }
            },
        }
    }
}

/// User name and password of an `Authorization` header (RFC 7617). The name ends at the first colon.
pub(super) fn basic(header: &str) -> Option<(String, String)> {
    let (scheme, credentials) = header.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(credentials.trim()).ok()?).ok()?;
    let (name, password) = decoded.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_basic_credentials_and_nothing_else() {
        let good = Some(("press-1".to_owned(), "a:b".to_owned()));
        for header in ["Basic cHJlc3MtMTphOmI=", "basic  cHJlc3MtMTphOmI= ", "BASIC cHJlc3MtMTphOmI="] {
            assert_eq!(basic(header), good, "{header}");
        }
        for header in ["", "Basic", "Basic !", "Basic cHJlc3M=", "Bearer cHJlc3MtMTphOmI=", "Basic //86"] {
            assert_eq!(basic(header), None, "{header}");
        }
    }
}
