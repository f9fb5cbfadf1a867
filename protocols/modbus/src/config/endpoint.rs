//! The URL of a link.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use fieldgate_types::{FromToml, Located, Wrong};
use thiserror::Error;

use super::line::{InvalidLine, Line};

/// Where a link leads, and how frames travel on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// Modbus TCP: `tcp://host:port`.
    Tcp(HostPort),
    /// Modbus TCP within TLS: `mbaps://host:port`.
    Tls(HostPort),
    /// RTU frames over TCP, to a serial server: `rtu-tcp://host:port`, with the line behind it where that is known.
    RtuTcp(HostPort, Option<Line>),
    /// RTU frames on a serial port: `rtu:///dev/ttyUSB0?baud=19200&parity=even&stop=1`.
    Rtu(PathBuf, Line),
}

/// A host and a TCP port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// Host name or address; an IPv6 address without its brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// How a frame is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// With a header that holds a transaction id and the length (Messaging on TCP/IP V1.0b, section 3.1.3).
    Mbap,
    /// With a checksum, ended by silence (Serial Line V1.02, section 2.5.1).
    Rtu,
}

impl Framing {
    /// Bytes of a frame besides its function code and data: 7 before them, or unit before and checksum after them.
    pub fn overhead(self) -> usize {
        match self {
            Self::Mbap => 7,
            Self::Rtu => 3,
        }
    }
}

/// The ports that IANA has assigned: `mbap` and `mbap-s`.
const PORT: u16 = 502;
const TLS_PORT: u16 = 802;

/// The text is not the URL of a link that can be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidEndpoint {
    /// Not a URL, or of an unknown scheme.
    #[error(
        "`{0}` is not the URL of a Modbus link: \"tcp://host:port\", \"rtu:///dev/ttyUSB0?baud=19200&parity=even&stop=1\", \
         \"rtu-tcp://host:port\" or \"mbaps://host:port\" is allowed"
    )]
    Syntax(String),
    /// A host and port with something wrong in them.
    #[error("`{text}` is not complete: \"{scheme}://host:port\" is allowed, with an IPv6 address in brackets{default}")]
    Address {
        /// What was given.
        text: String,
        /// Its scheme.
        scheme: &'static str,
        /// Whether the port may be left out.
        default: &'static str,
    },
    /// `rtu://` without the path of a device.
    #[error("`{0}` names no serial port: \"rtu:///dev/ttyUSB0\" is allowed, with three slashes")]
    Port(String),
    /// What follows the question mark.
    #[error("`{text}`: {problem}")]
    Line {
        /// What was given.
        text: String,
        /// What is wrong with it.
        problem: InvalidLine,
    },
}

impl Endpoint {
    /// How frames are made on it.
    pub fn framing(&self) -> Framing {
        match self {
            Self::Tcp(_) | Self::Tls(_) => Framing::Mbap,
            Self::RtuTcp(..) | Self::Rtu(..) => Framing::Rtu,
        }
    }

    /// The serial line on it, as far as it is known.
    pub fn line(&self) -> Option<&Line> {
        match self {
            Self::Tcp(_) | Self::Tls(_) => None,
            Self::RtuTcp(_, line) => line.as_ref(),
            Self::Rtu(_, line) => Some(line),
        }
    }
}

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shown = || text.chars().take(120).collect::<String>();
        let (scheme, rest) = text.split_once("://").ok_or_else(|| InvalidEndpoint::Syntax(shown()))?;
        let host = |rest, scheme, port: Option<u16>, default| {
            let wrong = || InvalidEndpoint::Address { text: shown(), scheme, default };
            host_port(rest, port).ok_or_else(wrong)
        };
        let line = |query: &str| query.parse().map_err(|problem| InvalidEndpoint::Line { text: shown(), problem });
        match scheme {
            "tcp" => Ok(Self::Tcp(host(rest, "tcp", Some(PORT), "; the port may be left out (502)")?)),
            "mbaps" => Ok(Self::Tls(host(rest, "mbaps", Some(TLS_PORT), "; the port may be left out (802)")?)),
            "rtu-tcp" => {
                let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
                let host = host(rest, "rtu-tcp", None, "")?;
                Ok(Self::RtuTcp(host, query.map(line).transpose()?))
            }
            "rtu" => {
                let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
                if !path.starts_with('/') || path.ends_with('/') {
                    return Err(InvalidEndpoint::Port(shown()));
                }
                Ok(Self::Rtu(path.into(), line(query)?))
            }
            _ => Err(InvalidEndpoint::Syntax(shown())),
        }
    }
}

fn host_port(text: &str, default: Option<u16>) -> Option<HostPort> {
    let (host, port) = if let Some(bracketed) = text.strip_prefix('[') {
        let (host, rest) = bracketed.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let well_formed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.is_empty() || !host.chars().all(well_formed) {
        return None;
    }
    let port = match port {
        None => default?,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().ok().filter(|port| *port > 0)?
        }
        Some(_) => return None,
    };
    Some(HostPort { host: host.to_owned(), port })
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host) => write!(f, "tcp://{host}"),
            Self::Tls(host) => write!(f, "mbaps://{host}"),
            Self::RtuTcp(host, None) => write!(f, "rtu-tcp://{host}"),
            Self::RtuTcp(host, Some(line)) => write!(f, "rtu-tcp://{host}?{line}"),
            Self::Rtu(path, line) => write!(f, "rtu://{}?{line}", path.display()),
        }
    }
}

impl FromToml for Endpoint {
    fn from_toml(value: &Located) -> Result<Self, Wrong> {
        value.parse("a URL such as \"tcp://192.0.2.10:502\"", str::parse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_urls_of_all_links() {
        for (text, shown) in [
            ("tcp://192.0.2.10:502", "tcp://192.0.2.10:502"),
            ("tcp://plc-4.plant.example", "tcp://plc-4.plant.example:502"),
            ("tcp://[2001:db8::1]:1502", "tcp://[2001:db8::1]:1502"),
            ("tcp://[::1]", "tcp://[::1]:502"),
            ("mbaps://plc", "mbaps://plc:802"),
            ("rtu-tcp://192.0.2.7:4001", "rtu-tcp://192.0.2.7:4001"),
            ("rtu-tcp://h:4001?baud=9600", "rtu-tcp://h:4001?baud=9600&parity=even&stop=1"),
            ("rtu:///dev/ttyUSB0", "rtu:///dev/ttyUSB0?baud=19200&parity=even&stop=1"),
            (
                "rtu:///dev/serial/by-id/x?stop=2&parity=none&baud=115200",
                "rtu:///dev/serial/by-id/x?baud=115200&parity=none&stop=2",
            ),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn says_what_is_wrong_with_a_url() {
        use InvalidEndpoint as E;
        for text in ["", "192.0.2.10:502", "tpc://h:1", "http://h:1", "RTU:///dev/ttyUSB0"] {
            assert!(matches!(text.parse::<Endpoint>(), Err(E::Syntax(_))), "{text}");
        }
        for text in [
            "tcp://",
            "tcp://:502",
            "tcp://h:",
            "tcp://h:0",
            "tcp://h:65536",
            "tcp://h:+1",
            "tcp://u@h:1",
            "tcp://h/x",
            "tcp://::1",
            "tcp://[::1",
            "tcp://[::1]5",
            "tcp://[plc]:1",
            "tcp://h:502?baud=9600",
            "rtu-tcp://h",
            "mbaps://:1",
        ] {
            assert!(
                matches!(text.parse::<Endpoint>(), Err(E::Address { .. })),
                "{text}: {:?}",
                text.parse::<Endpoint>()
            );
        }
        for text in ["rtu://dev/ttyUSB0", "rtu://", "rtu:///dev/"] {
            assert!(matches!(text.parse::<Endpoint>(), Err(E::Port(_))), "{text}");
        }
        for text in ["rtu:///dev/ttyS0?baud=1", "rtu:///dev/ttyS0?speed=9600", "rtu-tcp://h:1?stop=3", "rtu:///d?baud"]
        {
            assert!(matches!(text.parse::<Endpoint>(), Err(E::Line { .. })), "{text}");
        }
    }
}
