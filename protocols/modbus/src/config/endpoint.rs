//! The URL of a link.

use std::fmt;
use std::str::FromStr;

use fieldgate_types::{FromToml, Located, Wrong};
use thiserror::Error;

/// A Modbus TCP endpoint: `tcp://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Host name or address; an IPv6 address without its brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// The port that IANA has assigned to Modbus (`mbap`).
const PORT: u16 = 502;

/// Schemes of DESIGN section 6 that are still to come.
const LATER: [(&str, &str); 3] =
    [("rtu", "a serial port"), ("rtu-tcp", "RTU frames over TCP"), ("mbaps", "Modbus over TLS")];

/// The text is not the URL of a link that can be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidEndpoint {
    /// Not a URL, or of an unknown scheme.
    #[error("`{0}` is not the URL of a Modbus link: \"tcp://host:port\" is allowed")]
    Syntax(String),
    /// `tcp://` with something wrong behind it.
    #[error(
        "`{0}` is not complete: \"tcp://host:port\" is allowed, with an IPv6 address in brackets; the port may be left out (502)"
    )]
    Address(String),
    /// Known, and still to come.
    #[error(
        "`{scheme}://` ({meaning}) is a link that this version of the driver can't open: \"tcp://host:port\" is allowed"
    )]
    Later {
        /// The scheme that was asked for.
        scheme: &'static str,
        /// What it stands for.
        meaning: &'static str,
    },
}

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shown = || text.chars().take(120).collect::<String>();
        let (scheme, rest) = text.split_once("://").ok_or_else(|| InvalidEndpoint::Syntax(shown()))?;
        if let Some((scheme, meaning)) = LATER.into_iter().find(|(later, _)| *later == scheme) {
            return Err(InvalidEndpoint::Later { scheme, meaning });
        }
        if scheme != "tcp" {
            return Err(InvalidEndpoint::Syntax(shown()));
        }
        let (host, port) = address(rest).ok_or_else(|| InvalidEndpoint::Address(shown()))?;
        Ok(Self { host: host.to_owned(), port })
    }
}

fn address(text: &str) -> Option<(&str, u16)> {
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
        None => PORT,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().ok().filter(|port| *port > 0)?
        }
        Some(_) => return None,
    };
    Some((host, port))
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "tcp://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "tcp://{}:{}", self.host, self.port)
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
    fn reads_tcp_urls() {
        for (text, shown) in [
            ("tcp://192.0.2.10:502", "tcp://192.0.2.10:502"),
            ("tcp://plc-4.plant.example", "tcp://plc-4.plant.example:502"),
            ("tcp://[2001:db8::1]:1502", "tcp://[2001:db8::1]:1502"),
            ("tcp://[::1]", "tcp://[::1]:502"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn tells_a_mistake_from_what_comes_later() {
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
        ] {
            assert!(matches!(text.parse::<Endpoint>(), Err(E::Address(_))), "{text}: {:?}", text.parse::<Endpoint>());
        }
        for text in ["rtu:///dev/ttyUSB0?baud=19200", "rtu-tcp://h:4001", "mbaps://h:802"] {
            assert!(matches!(text.parse::<Endpoint>(), Err(E::Later { .. })), "{text}");
        }
    }
}
