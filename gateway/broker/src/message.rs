//! What travels: a message, its properties, and the two protocol versions. No topics' rules (see [`crate::topic`]).

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use fieldgate_types::UnixMillis;

/// How often a message arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum QoS {
    /// 0: sent once, never acknowledged.
    #[default]
    AtMostOnce,
    /// 1: acknowledged with PUBACK, may arrive twice.
    AtLeastOnce,
    /// 2: acknowledged with PUBREC, PUBREL, PUBCOMP.
    ExactlyOnce,
}

impl QoS {
    /// The number on the wire.
    pub fn number(self) -> u8 {
        match self {
            Self::AtMostOnce => 0,
            Self::AtLeastOnce => 1,
            Self::ExactlyOnce => 2,
        }
    }

    /// From the number on the wire; `None` for 3 and above.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// Protocol version of a connection; both share one port, the CONNECT says which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// MQTT 3.1.1 (protocol level 4).
    V311,
    /// MQTT 5.
    V5,
}

/// Application message properties of MQTT 5, in the order in which the publisher gave them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    /// Payload Format Indicator: `Some(true)` promises UTF-8.
    pub utf8_payload: Option<bool>,
    /// Message Expiry Interval, counted from [`Message::received`].
    pub message_expiry: Option<Duration>,
    /// Content Type.
    pub content_type: Option<Arc<str>>,
    /// Response Topic.
    pub response_topic: Option<Arc<str>>,
    /// Correlation Data.
    pub correlation_data: Option<Bytes>,
    /// User Properties, in order, names may repeat.
    pub user: Vec<(String, String)>,
}

impl Properties {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// An application message. Cloning copies three reference counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Topic name, valid, without wildcards.
    pub topic: Arc<str>,
    /// The bytes, untouched.
    pub payload: Bytes,
    /// As published.
    pub qos: QoS,
    /// As published: replaces the topic's retained message, or clears it when the payload is empty.
    pub retain: bool,
    /// `None` when there are none, which is the common case and costs nothing.
    pub properties: Option<Arc<Properties>>,
    /// Time of reception by the broker (wall clock).
    pub received: UnixMillis,
}

static NO_PROPERTIES: LazyLock<Properties> = LazyLock::new(Properties::default);

impl Message {
    /// A QoS 0 message without properties.
    pub fn new(topic: impl Into<Arc<str>>, payload: impl Into<Bytes>, received: UnixMillis) -> Self {
        Self {
            topic: topic.into(),
            payload: payload.into(),
            qos: QoS::AtMostOnce,
            retain: false,
            properties: None,
            received,
        }
    }

    /// The same with another QoS.
    pub fn with_qos(mut self, qos: QoS) -> Self {
        self.qos = qos;
        self
    }

    /// The same, retained.
    pub fn retained(mut self) -> Self {
        self.retain = true;
        self
    }

    /// The same with these properties.
    pub fn with_properties(mut self, properties: Properties) -> Self {
        self.properties = if properties.is_empty() { None } else { Some(Arc::new(properties)) };
        self
    }

    /// The properties; an empty set when there are none.
    pub fn properties(&self) -> &Properties {
        self.properties.as_deref().unwrap_or(&NO_PROPERTIES)
    }

    /// Bytes that this message is counted with in queues and stores: topic, payload, properties and a flat
    /// overhead for the structures around them.
    pub fn cost(&self) -> usize {
        const OVERHEAD: usize = 96;
        let properties = self.properties.as_deref().map_or(0, |p| {
            let user: usize = p.user.iter().map(|(name, value)| name.len() + value.len() + 48).sum();
            96 + user
                + p.content_type.as_deref().map_or(0, str::len)
                + p.response_topic.as_deref().map_or(0, str::len)
                + p.correlation_data.as_ref().map_or(0, Bytes::len)
        });
        OVERHEAD + self.topic.len() + self.payload.len() + properties
    }
}
