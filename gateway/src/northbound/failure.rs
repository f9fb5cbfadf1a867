//! Why there is no connection, in words: what happened, then what to do about it.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

/// Why a session could not begin, or has ended.
#[derive(Debug, Error)]
pub(super) enum Failure {
    /// A file can't be read.
    #[error("can't read `{path}` ([upstream] {key}): {source}", path = path.display())]
    File {
        /// Key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file doesn't hold what it should.
    #[error("`{path}` ([upstream] {key}): {problem}", path = path.display())]
    Content {
        /// Key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The machine's own trust store can't be used.
    #[error("the machine's trusted certificates can't be loaded ({0}); `ca` in [upstream] names a file to use instead")]
    NativeRoots(String),
    /// The host has no address.
    #[error("unknown host `{host}` ({source}); check `url` in [upstream] and this machine's name server")]
    Resolve {
        /// As configured.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// No TCP connection.
    #[error("can't reach {host}:{port}: {source}")]
    Reach {
        /// As configured.
        host: String,
        /// As configured.
        port: u16,
        /// Of the last address tried.
        source: io::Error,
    },
    /// The TLS handshake failed.
    #[error("{}", tls_words(host, source))]
    Tls {
        /// As configured.
        host: String,
        /// What rustls found.
        source: rustls::Error,
    },
    /// The peer took too long to answer.
    #[error("no answer to {to} within {within:?}")]
    Timeout {
        /// What was asked.
        to: &'static str,
        /// How long was waited.
        within: Duration,
    },
    /// The upstream answered CONNECT with a refusal.
    #[error("the upstream refuses the connection: {}", refusal_words(refusal, who))]
    Refused {
        /// Its reason.
        refusal: Refusal,
        /// Who we said we are.
        who: Who,
    },
    /// The upstream doesn't grant the subscription to commands.
    #[error("the subscription to `{filter}` was refused: {reason}; the upstream must allow it to this client")]
    Subscribe {
        /// What was asked for.
        filter: String,
        /// The reason code in words.
        reason: String,
    },
    /// The upstream sent what may not be sent.
    #[error("the upstream breaks the protocol: {0}")]
    Protocol(String),
    /// The connection is gone.
    #[error("connection lost: {0}")]
    Lost(String),
    /// Another client has the same client id.
    #[error("another client connected with the client id `{0}`; give each its own, `client_id` in [upstream]")]
    TakenOver(String),
    /// Nothing came for too long.
    #[error("nothing was heard for {0:?}, though keep-alive asks for an answer")]
    Silent(Duration),
    /// The socket took nothing for too long.
    #[error("nothing could be written for {0:?}")]
    Blocked(Duration),
    /// Messages were sent and not acknowledged for too long.
    #[error("no message was acknowledged for {0:?}")]
    Stalled(Duration),
    /// The queue has stopped.
    #[error("the queue can't be used: {0}")]
    Queue(String),
}

/// Who we say we are in CONNECT and in TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Who {
    /// MQTT client id.
    pub client_id: String,
    /// User name, and the file of the password.
    pub login: Option<(String, PathBuf)>,
    /// The file of the certificate.
    pub certificate: Option<PathBuf>,
}

/// Reasons of a CONNACK, of both versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// v5 0x86, 3.1.1 4.
    BadCredentials,
    /// v5 0x87, 3.1.1 5.
    NotAuthorized,
    /// v5 0x8A.
    Banned,
    /// v5 0x85, 3.1.1 2.
    ClientId,
    /// v5 0x84, 3.1.1 1.
    Version,
    /// v5 0x8C.
    AuthenticationMethod,
    /// v5 0x88, 0x89, 0x97, 0x9F, 3.1.1 3: may pass by itself.
    Busy(&'static str),
    /// The rest of v5.
    Other(String),
}

impl Failure {
    /// Whether files or certificates are wrong, not the line.
    pub fn is_of_configuration(&self) -> bool {
        matches!(self, Self::File { .. } | Self::Content { .. } | Self::NativeRoots(_) | Self::Tls { .. })
    }

    /// Whether somebody must change something before another try can succeed. It is tried all the same, but only
    /// every `retry_max`: hammering would lock accounts and fill the upstream's log.
    pub fn lasting(&self) -> bool {
        match self {
            Self::Refused { refusal, .. } => !matches!(refusal, Refusal::Busy(_) | Refusal::Other(_)),
            Self::Tls { source, .. } => {
                matches!(source, rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_))
            }
            Self::Subscribe { .. } | Self::Content { .. } | Self::TakenOver(_) => true,
            Self::File { .. }
            | Self::NativeRoots(_)
            | Self::Resolve { .. }
            | Self::Reach { .. }
            | Self::Timeout { .. }
            | Self::Protocol(_)
            | Self::Lost(_)
            | Self::Silent(_)
            | Self::Blocked(_)
            | Self::Stalled(_)
            | Self::Queue(_) => false,
        }
    }

    /// For an error on a connection to `host`: a TLS alert may hide in it, because a TLS 1.3 server
    /// judges the client's certificate after the client has finished its handshake.
    pub fn lost(host: &str, error: &(dyn StdError + 'static)) -> Self {
        match tls_cause(error) {
            Some(source) => Self::Tls { host: host.to_owned(), source: source.clone() },
            None => Self::Lost(words(error)),
        }
    }
}

/// The rustls error inside `error`, if there is one.
pub(super) fn tls_cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inside {
            Some(inside) => Some(inside),
            None => error.source(),
        };
    }
    None
}

/// The last cause of `error`: the words around it name types of libraries.
fn words(error: &(dyn StdError + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

fn refusal_words(refusal: &Refusal, who: &Who) -> String {
    let login = match &who.login {
        Some((user, file)) => format!("`username` is `{user}`, the password is in `{}`", file.display()),
        None => "no `username` is set in [upstream]".to_owned(),
    };
    match refusal {
        Refusal::BadCredentials => format!("bad user name or password; {login}"),
        Refusal::NotAuthorized => match (&who.login, &who.certificate) {
            (None, Some(file)) => format!("not authorized; the certificate is `{}`", file.display()),
            _ => format!("not authorized; {login}"),
        },
        Refusal::Banned => {
            format!("banned; the upstream has put the client id `{}` or its user on a list", who.client_id)
        }
        Refusal::ClientId => {
            format!("the client id `{}` is not accepted; `client_id` in [upstream] sets another", who.client_id)
        }
        Refusal::Version => "this version of MQTT is not accepted; `protocol` in [upstream] may be 4 or 5".to_owned(),
        Refusal::AuthenticationMethod => format!("the way to authenticate is not accepted; {login}"),
        Refusal::Busy(why) => (*why).to_owned(),
        Refusal::Other(why) => why.clone(),
    }
}

fn tls_words(host: &str, error: &rustls::Error) -> String {
    use rustls::{AlertDescription as Alert, CertificateError as Certificate, Error};
    match error {
        Error::InvalidCertificate(reason) => {
            let advice = match reason {
                Certificate::UnknownIssuer => "its issuer is not trusted; check `ca` in [upstream]".to_owned(),
                Certificate::Expired | Certificate::ExpiredContext { .. } => {
                    "it has expired; check the upstream's certificate and this machine's clock".to_owned()
                }
                Certificate::NotValidYet | Certificate::NotValidYetContext { .. } => {
                    "it is not valid yet; check this machine's clock".to_owned()
                }
                Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
                    format!("it is not for `{host}`; `url` in [upstream] must use a name that is in it")
                }
                other => other.to_string(),
            };
            format!("the certificate of {host} was refused: {advice}")
        }
        Error::AlertReceived(
            alert @ (Alert::BadCertificate
            | Alert::CertificateRequired
            | Alert::CertificateUnknown
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::UnsupportedCertificate
            | Alert::AccessDenied
            | Alert::HandshakeFailure
            | Alert::UnknownCA),
        ) => format!("{host} refused our certificate ({alert:?}); check `cert` and `key` in [upstream]"),
        other => format!("no TLS with {host}: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(login: bool) -> Who {
        Who {
            client_id: "line-4".to_owned(),
            login: login.then(|| ("gw".to_owned(), PathBuf::from("/etc/pw"))),
            certificate: Some(PathBuf::from("/etc/up.pem")),
        }
    }

    #[test]
    fn says_what_to_do() {
        let say = |refusal, login| Failure::Refused { refusal, who: who(login) }.to_string();
        assert!(say(Refusal::BadCredentials, true).contains("`/etc/pw`"));
        assert!(say(Refusal::BadCredentials, false).contains("no `username` is set"));
        assert!(say(Refusal::NotAuthorized, false).contains("`/etc/up.pem`"));
        assert!(say(Refusal::ClientId, false).contains("`line-4`"));
        let tls = |source| Failure::Tls { host: "cloud".to_owned(), source }.to_string();
        let issuer = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        assert!(tls(issuer).contains("check `ca`"));
        assert!(
            tls(rustls::Error::AlertReceived(rustls::AlertDescription::UnknownCA)).contains("check `cert` and `key`")
        );
    }

    #[test]
    fn tells_what_lasts_from_what_passes() {
        let refused = |refusal| Failure::Refused { refusal, who: who(true) }.lasting();
        assert!(refused(Refusal::BadCredentials) && refused(Refusal::NotAuthorized) && refused(Refusal::Banned));
        assert!(!refused(Refusal::Busy("server busy")) && !refused(Refusal::Other("x".to_owned())));
        assert!(!Failure::Silent(Duration::from_secs(1)).lasting());
        assert!(Failure::TakenOver("x".to_owned()).lasting());
    }

    #[test]
    fn finds_an_alert_inside_an_io_error() {
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRequired);
        let wrapped = io::Error::new(io::ErrorKind::InvalidData, alert);
        assert!(matches!(Failure::lost("cloud", &wrapped), Failure::Tls { .. }));
        let plain = io::Error::new(io::ErrorKind::ConnectionReset, "reset by peer");
        assert!(matches!(Failure::lost("cloud", &plain), Failure::Lost(text) if text.contains("reset")));
    }
}
