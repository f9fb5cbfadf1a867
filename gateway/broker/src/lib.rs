//! The MQTT server that leaf devices talk to: MQTT 3.1.1 and 5 on one mTLS port; on others with passwords over TLS or
//! plain, and over WebSocket.
//!
//! It takes a [`rustls::ServerConfig`] and two ports that others implement: [`Gate`] (who is this, may it, make this
//! durable, this happened) and [`Sessions`] (rows that outlive the process). It knows nothing of certificates' rules,
//! policies, SQLite or the upstream.
//!
//! # Shape
//! | module | owns | IO |
//! |---|---|---|
//! | `codec` | bytes to packets and back, every check of form | none |
//! | `session` | the machine: QoS, ids, quotas, aliases, resume. Packets and `now` in, steps and bytes out | none |
//! | `router`, [`topic`] | the subscription tree, the plans made from it, matching and covering | none |
//! | `retained`, `stored` | retained messages, their limits and rows | none |
//! | `durable` | sessions that outlive the process: their rows, and the writer of what no message's commit carries | none |
//! | `budget` | the count over all buffers | none |
//! | `inbox`, `fanout` | the bounded queue of each receiver, and what waits when it is full | wakes tasks |
//! | `registry` | one slot per client id: live or parked session, take-over | none |
//! | `connection` | one attached client: a task that polls everything it waits for in one loop | socket |
//! | `net` | accept, TLS, WebSocket, CONNECT, lingering close | socket |
//! | `core`, `janitor`, `broker` | what is shared, what falls due, the public handle | |
//!
//! # The way of a publish
//! ```text
//! socket → codec → machine → Gate::may_publish → Gate::commit ┐ (the line of publishes, in order)
//!       (upstream record, retained copy,     on disk, or nothing to commit
//!        places in durable sessions)
//!   retained copy → plan → inbox of each receiver → its connection → socket
//!                                        queued for all
//!   PUBACK / PUBREC to the publisher
//! ```
//! A message is routed after its commit and acknowledged after it is queued: no subscriber and no retained copy knows
//! what a crash could undo. Only the head of the line moves, so commits, deliveries and acknowledgements keep the order
//! of the publishes. A commit that fails is never acknowledged: 0x97 on MQTT 5 when the buffer is full, else the
//! connection ends with 0x83 and the client sends again. When a connection ends, its line is finished before the
//! session is handed to the next connection (for five seconds at most), so that QoS 2 stays exactly once.
//!
//! # What waits, what is dropped
//! | bound | full |
//! |---|---|
//! | line of publishes: as many as the Receive Maximum (QoS 0 counts) | reading stops |
//! | QoS 2 ids that are not released: Receive Maximum on MQTT 5, 1,024 in a session | disconnected (0x93) |
//! | output buffer | the inbox fills; reading stops |
//! | inbox of a connected client | its publishers wait: one second in which it takes less than a quarter of its queue, and it is disconnected (0x97) |
//! | inbox of an absent client | the oldest is dropped and counted; QoS 0 is not kept |
//! | message rate of a device | reading stops |
//! | a client that takes no byte for 10 s | disconnected |
//! | sockets before their CONNECT | the oldest is closed |
//! | all buffers together | no new connections (0x97), publishes are not read; after a second the largest queues of absent clients lose their oldest |
//! | completed handshakes a second | they wait, pending |
//! | connections, subscriptions, filters, retained messages | refused with 0x97 (3.1.1: 0x03, 0x80; a retained message over the limit is delivered, not kept) |
//!
//! # Decisions
//! - A will is published at a stop of the server, unless it has a delay, which goes on at the next start. The will of a
//!   client that was connected at a crash is published at the next start if its session is durable: the connection
//!   has ended. A revoked client's will is not published.
//! - A message to several subscriptions of one session arrives once, with the highest QoS and all identifiers.
//! - Decisions about topics are cached per connection until [`Broker::recheck`].
//! - A session is durable when its client asks for one that outlives its connection. Packet ids follow from places in
//!   the session, so that nothing is written between commit and sending. Every session is in memory too, within the
//!   limits; the store is read at start alone.

mod broker;
mod budget;
pub mod codec;
mod connection;
mod core;
mod counters;
mod durable;
mod event;
mod fanout;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod identity;
mod inbox;
mod janitor;
mod limits;
mod message;
mod metrics;
mod net;
mod penalties;
mod ports;
mod registry;
mod retained;
mod router;
mod session;
mod stored;
pub mod topic;

pub use broker::{Addresses, Broker, Delivery, PublishError, StartError};
pub use event::{DisconnectReason, DropReason, Event};
pub use identity::{Decision, Identity, Refusal, Role};
pub use limits::{Config, Limits};
pub use message::{Message, Properties, QoS, Version};
pub use metrics::{BrokerMetrics, ConnectionInfo};
pub use ports::{Change, CommitError, Durable, Gate, LoadError, MemorySessions, Row, Sessions, Table};
