//! `[broker]`: where leaf devices connect, and every limit on what they can do (DESIGN section 8).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use fieldgate_broker::{Config, Limits};
use fieldgate_types::{Section, Size};

use super::load::Ids;
use crate::identity::User;
use crate::identity::mapping::Map;

/// The `[broker]` section.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// mTLS listeners.
    pub listen: Vec<SocketAddr>,
    /// TLS listeners for users with passwords.
    pub users_tls: Vec<SocketAddr>,
    /// Listeners without TLS for users with passwords: loopback addresses.
    pub plain: Vec<SocketAddr>,
    /// MQTT over WebSocket with mTLS.
    pub websocket: Vec<SocketAddr>,
    /// Web pages that may use `websocket` besides those of its own host.
    pub websocket_origins: Vec<String>,
    /// Who comes in with a password.
    pub users: Vec<User>,
    /// Topics of devices whose firmware can't change.
    pub maps: Vec<Map>,
    /// Further names of the server certificate.
    pub names: Vec<String>,
    /// The limits.
    pub limits: Limits,
}

impl BrokerConfig {
    /// Reads the section; its users' names are noted in `ids`, `groups` are the names that exist.
    pub(super) fn read(section: &Section, ids: &mut Ids, groups: &BTreeSet<String>) -> Self {
        let listen = section.get_or("listen", vec![SocketAddr::from(([0, 0, 0, 0], 8883))]);
        if listen.is_empty() {
            section.problem("listen", "is empty, at least one address such as \"0.0.0.0:8883\" is expected");
        }
        let names = section.get_or("names", Vec::<String>::new());
        for name in &names {
            if !is_dns_name(name) {
                section.problem(
                    "names",
                    format_args!(
                        "`{name}` is not a host name; addresses of this machine are in the certificate anyway"
                    ),
                );
            }
        }
        let read = |section: &Section| {
            let user = User::read(section)?;
            ids.take(section, "name", &user.name, "broker.user");
            Some(user)
        };
        Self {
            listen,
            users_tls: section.get_or("users_tls", Vec::new()),
            plain: plain(section),
            websocket: section.get_or("websocket", Vec::new()),
            websocket_origins: origins(section),
            users: section.sections("user").iter().filter_map(read).collect(),
            maps: section.sections("map").iter().filter_map(|map| Map::read(map, groups)).collect(),
            names,
            limits: limits(&section.section_or_empty("limits")),
        }
        .with_each_address_once(section)
    }

    fn with_each_address_once(self, section: &Section) -> Self {
        let lists = [
            ("listen", &self.listen),
            ("users_tls", &self.users_tls),
            ("plain", &self.plain),
            ("websocket", &self.websocket),
        ];
        let mut seen = BTreeMap::new();
        for (key, addresses) in lists {
            for address in addresses.iter().filter(|address| address.port() != 0) {
                if let Some(other) = seen.insert(address, key) {
                    section
                        .problem(key, format_args!("`{address}` stands in `{other}` already, each needs its own port"));
                }
            }
        }
        self
    }

    /// As the broker wants it.
    pub fn config(&self) -> Config {
        Config {
            listen: self.listen.clone(),
            users_tls: self.users_tls.clone(),
            plain: self.plain.clone(),
            websocket: self.websocket.clone(),
            websocket_origins: self.websocket_origins.clone(),
            limits: self.limits.clone(),
            ..Config::default()
        }
    }
}

/// Passwords and data cross it in the clear.
fn plain(section: &Section) -> Vec<SocketAddr> {
    let addresses = section.get_or("plain", Vec::<SocketAddr>::new());
    for address in addresses.iter().filter(|address| !address.ip().to_canonical().is_loopback()) {
        let port = address.port();
        section.problem(
            "plain",
            format_args!(
                "`{address}` can be reached from the network and has no TLS; a loopback address such as \"127.0.0.1:{port}\" is allowed, `users_tls` takes passwords from the network"
            ),
        );
    }
    addresses
}

fn origins(section: &Section) -> Vec<String> {
    let origins = section.get_or("websocket_origins", Vec::<String>::new());
    let is_origin = |origin: &str| {
        origin.split_once("://").is_some_and(|(scheme, host)| {
            matches!(scheme, "https" | "http") && !host.is_empty() && !host.contains(['/', '?', '#', '*', ' '])
        })
    };
    for origin in origins.iter().filter(|origin| !is_origin(origin)) {
        section.problem(
            "websocket_origins",
            format_args!(
                "`{origin}` is not an origin, such as \"https://hmi.plant.example\" or \"http://localhost:3000\""
            ),
        );
    }
    origins
}

fn limits(section: &Section) -> Limits {
    let default = Limits::default();
    let many = 1..=1_000_000;
    let seconds = Duration::from_millis(100)..=Duration::from_secs(3600);
    Limits {
        connections: section.number("connections", many.clone(), default.connections),
        connections_per_app: section.number("connections_per_app", many.clone(), default.connections_per_app),
        packet: size(section, "packet", 1 << 10, 256 << 20, default.packet),
        connect_packet: size(section, "connect_packet", 256, 1 << 20, default.connect_packet),
        topic: size(section, "topic", 64, 65_535, default.topic),
        topic_levels: section.number("topic_levels", 1..=1024, default.topic_levels),
        subscriptions: section.number("subscriptions", many.clone(), default.subscriptions),
        filters_per_subscribe: section.number("filters_per_subscribe", 1..=10_000, default.filters_per_subscribe),
        receive_maximum: section.number("receive_maximum", 1..=u16::MAX, default.receive_maximum),
        in_flight: section.number("in_flight", 1..=u16::MAX, default.in_flight),
        topic_alias_maximum: section.number("topic_alias_maximum", 0..=u16::MAX, default.topic_alias_maximum),
        session_queue_messages: section.number("session_queue_messages", many.clone(), default.session_queue_messages),
        session_queue_bytes: size(section, "session_queue_bytes", 1 << 10, 1 << 30, default.session_queue_bytes),
        session_expiry: section.duration(
            "session_expiry",
            Duration::ZERO..=Duration::from_secs(31_536_000),
            default.session_expiry,
        ),
        output_buffer: size(section, "output_buffer", 1 << 10, 256 << 20, default.output_buffer),
        receiver_stall: section.duration("receiver_stall", seconds.clone(), default.receiver_stall),
        full_queue_wait: section.duration(
            "full_queue_wait",
            Duration::ZERO..=Duration::from_secs(60),
            default.full_queue_wait,
        ),
        keep_alive: section.duration("keep_alive", Duration::ZERO..=Duration::from_secs(65_535), default.keep_alive),
        message_rate: section.number("message_rate", 0..=10_000_000, default.message_rate),
        message_burst: section.number("message_burst", 1..=10_000_000, default.message_burst),
        retained_per_client: section.number("retained_per_client", many.clone(), default.retained_per_client),
        retained_messages: section.number("retained_messages", many, default.retained_messages),
        retained_bytes: size(section, "retained_bytes", 1 << 10, 1 << 30, default.retained_bytes),
        buffers: size(section, "buffers", 1 << 20, 64 << 30, default.buffers),
        client_hello_timeout: section.duration("client_hello_timeout", seconds.clone(), default.client_hello_timeout),
        connect_timeout: section.duration("connect_timeout", seconds, default.connect_timeout),
        pending_sockets: section.number("pending_sockets", 16..=100_000, default.pending_sockets),
        handshakes: section.number("handshakes", 1..=10_000, default.handshakes),
        handshakes_per_second: section.number("handshakes_per_second", 0..=1_000_000, default.handshakes_per_second),
    }
}

fn size(section: &Section, key: &'static str, low: u64, high: u64, default: usize) -> usize {
    let size = section.get_or(key, Size(u64::try_from(default).unwrap_or(u64::MAX)));
    let fits = (low..=high).contains(&size.bytes()).then(|| usize::try_from(size.bytes()).ok()).flatten();
    fits.unwrap_or_else(|| {
        let (low, high) = (Size(low), Size(high));
        section.problem(key, format_args!("`{size}` is out of range, \"{low}\" to \"{high}\" is allowed"));
        default
    })
}

/// Letters, digits and hyphens in labels of 1 to 63 (RFC 1123 section 2.1), not an address.
fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    name.len() <= 253 && name.split('.').all(label) && name.parse::<std::net::IpAddr>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_host_names_from_others() {
        for good in ["gw", "gw.plant.example", "a-1.b"] {
            assert!(is_dns_name(good), "{good}");
        }
        for bad in ["", "192.0.2.1", "a..b", "-a", "a_b", "a b", "*.plant.example"] {
            assert!(!is_dns_name(bad), "{bad}");
        }
    }
}
