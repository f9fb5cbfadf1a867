//! `[broker]`: where leaf devices connect, and every limit on what they can do (DESIGN section 8).

use std::net::SocketAddr;
use std::time::Duration;

use fieldgate_broker::{Config, Limits};
use fieldgate_types::{Section, Size};

use super::load::not_yet;

/// The `[broker]` section.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// mTLS listeners.
    pub listen: Vec<SocketAddr>,
    /// Further names of the server certificate.
    pub names: Vec<String>,
    /// The limits.
    pub limits: Limits,
}

impl BrokerConfig {
    /// Reads the section.
    pub fn read(section: &Section) -> Self {
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
        not_yet(section, "users_tls", "password over TLS");
        not_yet(section, "plain", "the listener without TLS");
        not_yet(section, "websocket", "MQTT over WebSocket");
        not_yet(section, "user", "a user with a password");
        Self { listen, names, limits: limits(&section.section_or_empty("limits")) }
    }

    /// As the broker wants it.
    pub fn config(&self) -> Config {
        Config { listen: self.listen.clone(), limits: self.limits.clone() }
    }
}

fn limits(section: &Section) -> Limits {
    let default = Limits::default();
    let many = 1..=1_000_000;
    let seconds = Duration::from_millis(100)..=Duration::from_secs(3600);
    Limits {
        connections: section.number("connections", many.clone(), default.connections),
        packet: size(section, "packet", 1 << 10, 256 << 20, default.packet),
        topic: size(section, "topic", 64, 65_535, default.topic),
        topic_levels: section.number("topic_levels", 1..=1024, default.topic_levels),
        subscriptions: section.number("subscriptions", many.clone(), default.subscriptions),
        filters_per_subscribe: section.number("filters_per_subscribe", 1..=10_000, default.filters_per_subscribe),
        receive_maximum: section.number("receive_maximum", 1..=u16::MAX, default.receive_maximum),
        in_flight: section.number("in_flight", 1..=u16::MAX, default.in_flight),
        session_queue_messages: section.number("session_queue_messages", many.clone(), default.session_queue_messages),
        session_queue_bytes: size(section, "session_queue_bytes", 1 << 10, 1 << 30, default.session_queue_bytes),
        session_expiry: section.duration(
            "session_expiry",
            Duration::ZERO..=Duration::from_secs(31_536_000),
            default.session_expiry,
        ),
        output_buffer: size(section, "output_buffer", 1 << 10, 256 << 20, default.output_buffer),
        receiver_stall: section.duration("receiver_stall", seconds.clone(), default.receiver_stall),
        message_rate: section.number("message_rate", 0..=10_000_000, default.message_rate),
        message_burst: section.number("message_burst", 1..=10_000_000, default.message_burst),
        retained_per_client: section.number("retained_per_client", many.clone(), default.retained_per_client),
        retained_messages: section.number("retained_messages", many, default.retained_messages),
        retained_bytes: size(section, "retained_bytes", 1 << 10, 1 << 30, default.retained_bytes),
        client_hello_timeout: section.duration("client_hello_timeout", seconds.clone(), default.client_hello_timeout),
        connect_timeout: section.duration("connect_timeout", seconds, default.connect_timeout),
        pending_sockets: section.number("pending_sockets", 16..=100_000, default.pending_sockets),
        handshakes: section.number("handshakes", 1..=10_000, default.handshakes),
        ..default
    }
}

fn size(section: &Section, key: &'static str, low: u64, high: u64, default: usize) -> usize {
    let Some(size) = section.get::<Size>(key) else { return default };
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
