//! `[upstream]`: how to reach the one upstream broker.

use std::path::PathBuf;
use std::time::Duration;

use fieldgate_types::Section;

use crate::pipeline::tree::{PATH, Tree, is_path, overlap};

/// The `[upstream]` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// TLS, for `mqtts://`.
    pub tls: Option<TlsFiles>,
    /// Which MQTT.
    pub protocol: Protocol,
    /// MQTT client id; the gateway's id where it is not set.
    pub client_id: Option<String>,
    /// First levels of every upstream topic.
    pub root: String,
    /// User name and the file that holds its password.
    pub login: Option<Login>,
    /// MQTT keep-alive.
    pub keep_alive: Duration,
    /// The longest wait between two tries to connect.
    pub retry_max: Duration,
    /// The most messages in flight, before the upstream's Receive Maximum.
    pub window: u16,
    /// Whether telemetry and results are wrapped with their sequence numbers.
    pub envelope: bool,
    /// Whether many messages go in one publish.
    pub batch: BatchMode,
    /// Topic trees that go up.
    pub forwards: Vec<Tree>,
    /// Topic trees that come down.
    pub fetches: Vec<Tree>,
}

/// Files of a TLS connection, all PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Who may sign the upstream's certificate; the machine's own trust store where it is not set.
    pub ca: Option<PathBuf>,
    /// Our certificate chain and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// MQTT version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// MQTT 3.1.1 (protocol level 4).
    V311,
    /// MQTT 5.
    V5,
}

/// `batch`: how many messages go in one publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchMode {
    /// One.
    None,
    /// As many as are there, compressed with zstd.
    Zstd,
}

/// Who we are to an upstream that asks for a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// User name.
    pub username: String,
    /// The file whose first line is the password; read at every connection.
    pub password_file: PathBuf,
}

impl UpstreamConfig {
    /// Reads the section; `None` when something that has no default is missing or wrong.
    pub fn read(section: &Section) -> Option<Self> {
        let address = section.required_with("url", |value| value.parse("a URL", parse_url));
        let protocol = protocol(section);
        let (ca, cert, key) = (section.path("ca"), section.path("cert"), section.path("key"));
        let identity = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (Some(_), None) => {
                section.problem("cert", "needs `key` beside it: the private key of this certificate");
                None
            }
            (None, Some(_)) => {
                section.problem("key", "needs `cert` beside it: the certificate of this key");
                None
            }
            (None, None) => None,
        };
        let secure = address.as_ref().is_none_or(|(secure, ..)| *secure);
        for key in ["ca", "cert", "key"] {
            if !secure && section.has(key) {
                section.problem(key, "is for TLS, but the url begins with `mqtt://`; write `mqtts://` or remove it");
            }
        }
        let login = Self::login(section);
        let second = Duration::from_secs(1);
        let client_id = section.get::<String>("client_id");
        if client_id.as_ref().is_some_and(|id| id.is_empty() || id.len() > 256) {
            section.problem("client_id", "1 to 256 bytes are allowed");
        }
        let root = section.get_or("root", "fieldgate".to_owned());
        if !is_path(&root) {
            section.problem("root", format_args!("`{root}` {PATH}"));
        }
        let forwards: Vec<Tree> = section.sections("forward").iter().filter_map(Tree::read).collect();
        let fetches = fetches(section, protocol, &forwards);
        let config = Self {
            protocol,
            client_id,
            root,
            login,
            keep_alive: section.duration("keep_alive", second * 5..=second * 65_535, second * 30),
            retry_max: section.duration("retry_max", second..=second * 3600, second * 30),
            window: section.number("window", 1..=u16::MAX, 4096),
            forwards,
            fetches,
            envelope: section.get_or("envelope", protocol == Protocol::V311),
            batch: section.choice("batch", &[("none", BatchMode::None), ("zstd", BatchMode::Zstd)], BatchMode::None),
            host: String::new(),
            port: 0,
            tls: None,
        };
        let (secure, host, port) = address?;
        Some(Self { host, port, tls: secure.then_some(TlsFiles { ca, identity }), ..config })
    }

    fn login(section: &Section) -> Option<Login> {
        match (section.get::<String>("username"), section.path("password_file")) {
            (Some(username), Some(password_file)) => Some(Login { username, password_file }),
            (Some(_), None) => {
                section.problem("username", "needs `password_file` beside it: a file whose first line is the password");
                None
            }
            (None, Some(_)) => {
                section.problem("password_file", "needs `username` beside it");
                None
            }
            (None, None) => None,
        }
    }
}

fn protocol(section: &Section) -> Protocol {
    match section.get_or("protocol", 5_u8) {
        4 => Protocol::V311,
        5 => Protocol::V5,
        other => {
            section.problem("protocol", format_args!("`{other}` is unknown, 5 (MQTT 5) or 4 (MQTT 3.1.1) is allowed"));
            Protocol::V5
        }
    }
}

/// `mqtt://host[:1883]` or `mqtts://host[:8883]`.
fn parse_url(text: &str) -> Result<(bool, String, u16), String> {
    let wrong = || format!("`{text}` is not an upstream, mqtt://host[:port] or mqtts://host[:port] is allowed");
    let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
    let (secure, default) = match scheme {
        "mqtt" => (false, 1883),
        "mqtts" => (true, 8883),
        _ => return Err(wrong()),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains('@') {
        return Err("a user name doesn't belong into the url, use `username` and `password_file`".to_owned());
    }
    let (host, port) = match rest.strip_prefix('[') {
        Some(v6) => {
            let (host, after) = v6.split_once(']').ok_or_else(wrong)?;
            (host, after.strip_prefix(':').or_else(|| after.is_empty().then_some("")).ok_or_else(wrong)?)
        }
        None => rest.split_once(':').unwrap_or((rest, "")),
    };
    let odd = |c: char| !(c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%'));
    if host.is_empty() || host.contains(odd) || (host.contains(':') && !rest.starts_with('[')) {
        return Err(wrong());
    }
    let port = if port.is_empty() { default } else { port.parse().ok().filter(|p| *p != 0).ok_or_else(wrong)? };
    Ok((secure, host.to_owned(), port))
}

/// Reads `[[upstream.fetch]]`: no topic in two of them, and none that comes back as an echo of what goes up.
fn fetches(section: &Section, protocol: Protocol, forwards: &[Tree]) -> Vec<Tree> {
    let mut fetches: Vec<Tree> = Vec::new();
    for table in section.sections("fetch") {
        let Some(fetch) = Tree::read(&table) else { continue };
        let meets = |other: &&Tree| overlap(&other.filter, &fetch.filter) && other.prefix == fetch.prefix;
        if let Some(other) = fetches.iter().find(meets) {
            table.problem(
                "filter",
                format_args!("`{}` and `{}` have topics in common, which would come twice", other.filter, fetch.filter),
            );
        }
        // MQTT 5 has No Local.
        if let Some(other) = forwards.iter().find(meets).filter(|_| protocol == Protocol::V311) {
            table.problem(
                "filter",
                format_args!(
                    "what `{}` sends up would come back: MQTT 3.1.1 can't tell; use `protocol = 5`, other filters or another `prefix`",
                    other.filter
                ),
            );
        }
        fetches.push(fetch);
    }
    fetches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_upstream_urls() {
        assert_eq!(parse_url("mqtts://cloud.example"), Ok((true, "cloud.example".to_owned(), 8883)));
        assert_eq!(parse_url("mqtt://127.0.0.1:1884/"), Ok((false, "127.0.0.1".to_owned(), 1884)));
        assert_eq!(parse_url("mqtts://[::1]:9"), Ok((true, "::1".to_owned(), 9)));
        for bad in
            ["cloud:8883", "http://x", "mqtt://", "mqtt://a:0", "mqtt://a:b", "mqtt://a b", "mqtt://u@h", "mqtt://::1"]
        {
            assert!(parse_url(bad).is_err(), "{bad}");
        }
    }
}
