//! The way down: commands from the wire to whoever carries them out, PUBACKs back once they are accepted.
//!
//! At most [`Subscriber::MAX_OPEN`] commands wait to be accepted; then no more are taken from the wire's channel, whose
//! bound is stated where it is made. PUBACKs go out in the order in which commands came (MQTT 5 section 4.6).

use std::pin::Pin;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use tokio::sync::{mpsc, oneshot};

use super::Downlink;
use super::dialect::{Dialect, Downward};
use super::status::Counters;
use super::transport::{Arrival, Gone, MAX_COMMAND, Transport};

/// The packet id when the command was accepted.
type Acceptance = Pin<Box<dyn Future<Output = Option<u16>> + Send>>;

/// Passes commands on for one connection.
pub(super) struct Subscriber<T> {
    client: T,
    dialect: Dialect,
    counters: Arc<Counters>,
    arrivals: mpsc::Receiver<Arrival>,
    commands: mpsc::Sender<Downlink>,
    waiting: Option<Downlink>,
    open: FuturesOrdered<Acceptance>,
    /// Kinds of message that have been logged on this connection.
    logged: Vec<&'static str>,
}

enum Woke {
    Passed,
    Closed,
    Arrived(Arrival),
    Accepted(Option<u16>),
    Ended,
}

impl<T: Transport> Subscriber<T> {
    const MAX_OPEN: usize = 256;

    pub fn new(
        client: T,
        dialect: Dialect,
        counters: Arc<Counters>,
        arrivals: mpsc::Receiver<Arrival>,
        commands: mpsc::Sender<Downlink>,
    ) -> Self {
        let open = FuturesOrdered::new();
        Self { client, dialect, counters, arrivals, commands, waiting: None, open, logged: Vec::new() }
    }

    /// Until the wire is gone.
    pub async fn run(mut self) {
        loop {
            match self.next().await {
                Woke::Closed => {
                    // The receiver has stopped before us: what comes now stays unacknowledged.
                    self.waiting = None;
                    self.arrivals.close();
                }
                Woke::Arrived(arrival) => self.arrived(arrival),
                Woke::Passed | Woke::Accepted(None) => {}
                Woke::Accepted(Some(packet_id)) => {
                    if self.client.acknowledge(packet_id).await == Err(Gone) {
                        return;
                    }
                }
                Woke::Ended => return,
            }
        }
    }

    async fn next(&mut self) -> Woke {
        tokio::select! {
            Some(accepted) = self.open.next(), if !self.open.is_empty() => Woke::Accepted(accepted),
            permit = self.commands.reserve(), if self.waiting.is_some() => match (permit, self.waiting.take()) {
                (Ok(permit), Some(command)) => {
                    permit.send(command);
                    Woke::Passed
                }
                _ => Woke::Closed,
            },
            arrival = self.arrivals.recv(), if self.waiting.is_none() && self.open.len() < Self::MAX_OPEN => {
                match arrival {
                    Some(arrival) => Woke::Arrived(arrival),
                    None if self.open.is_empty() => Woke::Ended,
                    // Those that are still open may be accepted yet.
                    None => Woke::Accepted(self.open.next().await.flatten()),
                }
            }
        }
    }

    fn arrived(&mut self, arrival: Arrival) {
        let Arrival { topic, payload, retained, packet_id, response_topic, correlation, expiry } = arrival;
        let parsed = match std::str::from_utf8(&topic) {
            Ok(topic) => self.dialect.downward(topic),
            Err(_) => Downward::Malformed,
        };
        let (device, name, rid) = match parsed {
            Downward::Echo => return self.done_with(packet_id),
            Downward::Malformed => return self.ignore(packet_id, "no command topic", &topic),
            // Carried out once per reconnect, if it were: rids are remembered for 24 h only.
            Downward::Command { .. } if retained => return self.ignore(packet_id, "retained", &topic),
            Downward::Command { .. } if payload.len() > MAX_COMMAND => {
                return self.ignore(packet_id, "larger than 256 KiB", &topic);
            }
            Downward::Command { device, name, rid } => (device, name, rid),
        };
        self.counters.command();
        let accepted = packet_id.map(|packet_id| {
            let (accepted, acceptance) = oneshot::channel();
            self.open.push_back(Box::pin(async move { acceptance.await.ok().map(|()| packet_id) }));
            accepted
        });
        self.waiting = Some(Downlink { device, name, rid, payload, response_topic, correlation, expiry, accepted });
    }

    /// Acknowledged in its turn, and forgotten.
    fn done_with(&mut self, packet_id: Option<u16>) {
        if packet_id.is_some() {
            self.open.push_back(Box::pin(std::future::ready(packet_id)));
        }
    }

    fn ignore(&mut self, packet_id: Option<u16>, why: &'static str, topic: &[u8]) {
        self.counters.ignored_command();
        if !self.logged.contains(&why) {
            self.logged.push(why);
            let topic = String::from_utf8_lossy(topic);
            tracing::warn!(why, %topic, "a message from upstream is ignored");
        }
        self.done_with(packet_id);
    }
}
