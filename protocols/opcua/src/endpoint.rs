//! Where a server is: `opc.tcp://host:port/path`. Owns the notation; connecting is the transport's.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The port of OPC UA (IANA).
const DEFAULT_PORT: u16 = 4840;

/// The address of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    url: String,
    host: String,
    port: u16,
}

/// The text is not the address of a server.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is not an OPC UA endpoint: opc.tcp://HOST:PORT is allowed, such as \"opc.tcp://192.0.2.20:4840\"")]
pub struct InvalidEndpoint(String);

impl Endpoint {
    /// The host: a name or an address, without brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Host and port.
    pub fn address(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// The whole URL.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || InvalidEndpoint(without_password(text));
        let rest = text.strip_prefix("opc.tcp://").ok_or_else(wrong)?;
        let authority = rest.split('/').next().unwrap_or_default();
        let (host, port) = match authority.strip_prefix('[') {
            Some(v6) => {
                let (host, port) = v6.split_once(']').ok_or_else(wrong)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
                (host, if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or_else(wrong)?) })
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || !host.chars().all(allowed) || text.chars().any(|c| c.is_control() || c == ' ') {
            return Err(wrong());
        }
        let port = port.map_or(Ok(DEFAULT_PORT), str::parse).map_err(|_| wrong())?;
        if port == 0 {
            return Err(wrong());
        }
        Ok(Self { url: text.to_owned(), host: host.to_owned(), port })
    }
}

/// Nobody should write a password into the URL; should it happen, it must not be shown.
fn without_password(text: &str) -> String {
    let shown: String = text.chars().take(140).collect();
    match shown.rsplit_once('@') {
        Some((_, rest)) => format!("opc.tcp://…@{rest}"),
        None => shown,
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_hosts_and_ports() {
        for (text, host, port) in [
            ("opc.tcp://192.0.2.20:4841", "192.0.2.20", 4841),
            ("opc.tcp://plc-7/UA/Server", "plc-7", 4840),
            ("opc.tcp://[2001:db8::1]:48010/x", "2001:db8::1", 48010),
            ("opc.tcp://[::1]", "::1", 4840),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!((endpoint.host(), endpoint.port(), endpoint.url()), (host, port, text));
        }
    }

    #[test]
    fn refuses_anything_else_and_shows_no_password() {
        for bad in
            ["", "opc.tcp://", "http://a:1", "opc.tcp://a:x", "opc.tcp://a:0", "opc.tcp://a b", "opc.tcp://[a]:1"]
        {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
        let error = "opc.tcp://me:secret@plc:4840".parse::<Endpoint>().unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}
