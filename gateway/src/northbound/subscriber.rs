//! The way down: commands from the wire to whoever carries them out, PUBACKs back once they are accepted.
//!
//! At most [`Subscriber::MAX_OPEN`] commands wait to be accepted; then no more are taken from the wire's channel, whose
//! bound is stated where it is made. PUBACKs go out in the order in which commands came (MQTT 5 section 4.6).

use std::pin::Pin;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use tokio::sync::{mpsc, oneshot};

use super::client::{Arrival, Client, Gone, MAX_COMMAND, Receipt};
use super::dialect::{Dialect, Downward};
use super::status::Counters;
use super::{Down, Downlink, Fetched, FetchedProperties};

/// What the upstream is owed when the command was accepted.
type Acceptance = Pin<Box<dyn Future<Output = Option<Receipt>> + Send>>;

/// Passes commands on for one connection.
pub(super) struct Subscriber {
    client: Client,
    dialect: Dialect,
    counters: Arc<Counters>,
    arrivals: mpsc::Receiver<Arrival>,
    down: Down,
    waiting: Option<Taken>,
    open: FuturesOrdered<Acceptance>,
    /// Kinds of message that have been logged on this connection.
    logged: Vec<&'static str>,
}

/// What came down and waits for its receiver.
enum Taken {
    Command(Downlink),
    Message(Fetched),
}

enum Woke {
    Passed,
    Closed,
    Arrived(Arrival),
    Accepted(Option<Receipt>),
    Ended,
}

impl Subscriber {
    const MAX_OPEN: usize = 256;

    pub fn new(
        client: Client,
        dialect: Dialect,
        counters: Arc<Counters>,
        arrivals: mpsc::Receiver<Arrival>,
        down: Down,
    ) -> Self {
        let open = FuturesOrdered::new();
        Self { client, dialect, counters, arrivals, down, waiting: None, open, logged: Vec::new() }
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
                Woke::Accepted(Some(receipt)) => {
                    if self.client.acknowledge(receipt).await == Err(Gone) {
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
            passed = hand_over(&self.down, &mut self.waiting), if self.waiting.is_some() => {
                if passed { Woke::Passed } else { Woke::Closed }
            }
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
        let Arrival { topic, payload, retained, receipt, response_topic, correlation, expiry, .. } = arrival;
        let (device, name, rid) = match self.dialect.downward(&topic) {
            Downward::Echo => return self.done_with(receipt),
            Downward::Malformed => return self.ignore(receipt, "neither a command nor fetched", &topic),
            Downward::Fetched { .. } | Downward::Command { .. } if payload.len() > MAX_COMMAND => {
                return self.ignore(receipt, "larger than 256 KiB", &topic);
            }
            Downward::Fetched { topic, retain } => {
                let accepted = self.acceptance(receipt);
                let Arrival { content_type, utf8, user, .. } = arrival;
                self.waiting = Some(Taken::Message(Fetched {
                    topic,
                    payload,
                    retain: retained && retain,
                    properties: FetchedProperties { content_type, utf8, user, response_topic, correlation, expiry },
                    accepted,
                }));
                return;
            }
            // Carried out once per reconnect, if it were: rids are remembered for 24 h only.
            Downward::Command { .. } if retained => return self.ignore(receipt, "retained", &topic),
            Downward::Command { device, name, rid } => (device, name, rid),
        };
        self.counters.command();
        let accepted = self.acceptance(receipt);
        let command = Downlink { device, name, rid, payload, response_topic, correlation, expiry, accepted };
        self.waiting = Some(Taken::Command(command));
    }

    /// To be fired by whoever receives the message; it is acknowledged in its turn then.
    fn acceptance(&mut self, receipt: Option<Receipt>) -> Option<oneshot::Sender<()>> {
        receipt.map(|receipt| {
            let (accepted, acceptance) = oneshot::channel();
            self.open.push_back(Box::pin(async move { acceptance.await.ok().map(|()| receipt) }));
            accepted
        })
    }

    /// Acknowledged in its turn, and forgotten.
    fn done_with(&mut self, receipt: Option<Receipt>) {
        if receipt.is_some() {
            self.open.push_back(Box::pin(std::future::ready(receipt)));
        }
    }

    fn ignore(&mut self, receipt: Option<Receipt>, why: &'static str, topic: &str) {
        self.counters.ignored_command();
        if !self.logged.contains(&why) {
            self.logged.push(why);
            tracing::warn!(why, topic, "a message from upstream is ignored");
        }
        self.done_with(receipt);
    }
}

/// Gives what waits to its receiver; `false`: that is gone. Cancel-safe.
async fn hand_over(down: &Down, waiting: &mut Option<Taken>) -> bool {
    match waiting {
        Some(Taken::Command(_)) => {
            let Ok(permit) = down.commands.reserve().await else { return false };
            if let Some(Taken::Command(command)) = waiting.take() {
                permit.send(command);
            }
        }
        Some(Taken::Message(_)) => {
            let Ok(permit) = down.messages.reserve().await else { return false };
            if let Some(Taken::Message(message)) = waiting.take() {
                permit.send(message);
            }
        }
        None => {}
    }
    true
}
