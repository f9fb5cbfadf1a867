//! The broker's gate: who a leaf is, what it may, and its messages on their way into the store.
//!
//! A publish that goes upstream, is retained, or must be remembered by a session becomes one [`Batch`]; the broker
//! acknowledges it when that is committed, or where switched on when the upstream has it. What needs no disk is acknowledged by the broker alone.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use fieldgate_broker::{
    CommitError, Decision, DisconnectReason, Durable, Event, Gate, Identity, Message, QoS, Refusal,
};
use fieldgate_certs::{Refused, Role};
use fieldgate_store::{Append, Batch, Queue};
use fieldgate_types::{Clock, Current, DeviceId};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rustls_pki_types::CertificateDer;

use super::presence::Presence;
use super::sessions::{add_changes, begun, commit};
use super::taps::Taps;
use crate::audit::{self, Audit};
use crate::command::book::{Answer, Book};
use crate::command::{Router, outcome};
use crate::identity::policy::Subject;
use crate::identity::{Authority, Rights, Users};
use crate::pipeline::record::{Destination, Upbound};
use crate::pipeline::route::{self, Outbound};
use crate::pipeline::topic::LocalTopic;

/// How often something was refused, by a closed set of words.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<BTreeMap<&'static str, u64>>);

impl Refusals {
    /// Once more.
    pub fn add(&self, word: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(word).or_default() += 1;
    }

    /// All words and their counts.
    pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(word, count)| (*word, *count)).collect()
    }

    /// All refusals together.
    pub fn refused(&self) -> u64 {
        self.snapshot().iter().map(|(_, count)| count).sum()
    }
}

/// The gate. Look-ups are from memory; commits go to the queue.
pub struct LeafGate {
    authority: Arc<Authority>,
    rights: Arc<Current<Rights>>,
    users: Arc<Users>,
    queue: Queue,
    book: Arc<Book>,
    presence: Arc<Presence>,
    audit: Audit,
    clock: Arc<dyn Clock>,
    outbound: Arc<Current<Outbound>>,
    counters: Arc<Refusals>,
    taps: Arc<Taps>,
    /// What was last refused: the same again is a counter and an audit line, not a log line.
    last_refusal: Mutex<String>,
    /// Set once the router exists, which needs the broker, which needs this.
    router: OnceLock<Router>,
}

impl LeafGate {
    /// Asks these.
    #[allow(clippy::too_many_arguments)] // Each is a part of the gateway that the gate asks; app.rs shows them.
    pub fn new(
        authority: Arc<Authority>,
        rights: Arc<Current<Rights>>,
        users: Arc<Users>,
        queue: Queue,
        book: Arc<Book>,
        presence: Arc<Presence>,
        audit: Audit,
        clock: Arc<dyn Clock>,
        outbound: Arc<Current<Outbound>>,
    ) -> Self {
        let (counters, taps) = (Arc::default(), Arc::default());
        let (last_refusal, router) = (Mutex::default(), OnceLock::new());
        Self {
            authority,
            rights,
            users,
            queue,
            book,
            presence,
            audit,
            clock,
            outbound,
            counters,
            taps,
            last_refusal,
            router,
        }
    }

    /// Commands that local programs publish for field devices go there.
    pub fn route_commands(&self, router: Router) {
        if self.router.set(router).is_err() {
            tracing::error!("commands were routed before");
        }
    }

    /// What leaves were refused.
    pub fn counters(&self) -> Arc<Refusals> {
        Arc::clone(&self.counters)
    }

    /// What devices send, for who looks at one.
    pub fn taps(&self) -> Arc<Taps> {
        Arc::clone(&self.taps)
    }

    /// Notes a message of a device for who looks at it.
    fn tap(&self, message: &Message, topic: &LocalTopic<'_>) {
        let (LocalTopic::Telemetry { device } | LocalTopic::Result { device, .. }) = topic else { return };
        self.taps.hear(device, &message.topic, &message.payload, message.received, self.clock.monotonic());
    }

    /// The record for a message that goes upstream.
    fn append(&self, who: &Identity, message: &Message, topic: &LocalTopic<'_>) -> Result<Option<Append>, CommitError> {
        let outbound = self.outbound.get();
        if !outbound.upstream {
            return Ok(None);
        }
        let routed = match topic {
            LocalTopic::Other => route::forward(&outbound.forwards, &who.id, &message.topic, message.retain),
            _ => route::upward(topic).map(|up| (up, None)),
        };
        let Some((up, absolute)) = routed else { return Ok(None) };
        let properties = message.properties();
        let record = Upbound {
            destination: absolute.as_deref().map_or(Destination::Local(&message.topic), Destination::Absolute),
            payload: &message.payload,
            retain: up.retain,
            content_type: properties.content_type.as_deref(),
            utf8: properties.utf8_payload == Some(true),
            correlation: properties.correlation_data.as_deref(),
            user: properties.user.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect(),
            identity: Some(who.fingerprint.as_deref().unwrap_or("user")),
        };
        let body = record.encode().map_err(|error| CommitError::Failed(error.to_string()))?;
        let expires = properties.message_expiry.map(|expiry| message.received.plus(expiry));
        Ok(Some(Append { device: up.device, lane: up.lane, time: message.received, expires, body }))
    }
}

impl Gate for LeafGate {
    fn identify(&self, chain: &[CertificateDer<'_>], _peer: SocketAddr) -> Result<Identity, Refusal> {
        let authority = &self.authority;
        let peer = authority.ca.identify(chain, &*authority.registry, self.clock.now()).map_err(|refused| {
            self.counters.add(refused.label());
            let refusal = Refusal::new(refused.to_string());
            match refused.device() {
                Some(id) => refusal.of(id.as_str()),
                None => refusal,
            }
        })?;
        if let Some(replaced) = peer.replaces {
            Authority::supersede(authority, replaced);
        }
        Ok(Identity {
            id: peer.id.as_str().into(),
            role: broker_role(peer.role),
            fingerprint: Some(peer.fingerprint.to_string()),
            not_after: Some(peer.not_after),
        })
    }

    fn explain_handshake(&self, error: &io::Error) -> Option<String> {
        let tls = error.get_ref()?.downcast_ref::<rustls::Error>()?;
        let refused = Refused::in_handshake(tls)?;
        self.counters.add(refused.label());
        Some(refused.to_string())
    }

    fn identify_user(
        &self,
        name: &str,
        password: &[u8],
        peer: SocketAddr,
    ) -> BoxFuture<'static, Result<Identity, Refusal>> {
        let (checking, counters) = (self.users.check(name, password, peer), Arc::clone(&self.counters));
        let id: Arc<str> = name.into();
        async move {
            let role = checking.await.inspect_err(|_| counters.add("password"))?;
            Ok(Identity { id, role: broker_role(role), fingerprint: None, not_after: None })
        }
        .boxed()
    }

    fn still_valid(&self, who: &Identity) -> Result<(), Refusal> {
        if is_user(who) {
            let known = self.users.role(&who.id).map(broker_role) == Some(who.role);
            return known.then_some(()).ok_or_else(|| Refusal::new(format!("there is no user `{}` any more", who.id)));
        }
        let id = DeviceId::new(&who.id).map_err(|error| Refusal::new(error.to_string()))?;
        if who.fingerprint.as_ref().is_some_and(|fingerprint| self.authority.registry.in_force(&id, fingerprint)) {
            return Ok(());
        }
        self.counters.add("revoked");
        Err(Refusal::new(format!(
            "the certificate of `{id}` was revoked: issue a new one with `fieldgate device add {id}`"
        )))
    }

    fn rename(&self, who: &Identity, topic: &str) -> Option<Arc<str>> {
        self.rights.get().rename(&subject(who), topic).map(|(renamed, _)| renamed.into())
    }

    fn may_publish(&self, who: &Identity, topic: &str) -> Decision {
        decision(self.rights.get().may_publish(&subject(who), topic))
    }

    fn may_subscribe(&self, who: &Identity, filter: &str) -> Decision {
        decision(self.rights.get().may_subscribe(&subject(who), filter))
    }

    fn may_receive(&self, who: &Identity, topic: &str) -> Decision {
        decision(self.rights.get().may_receive(&subject(who), topic))
    }

    fn commit(
        &self,
        who: &Identity,
        message: &Message,
        durable: &Durable<'_>,
    ) -> Option<BoxFuture<'static, Result<(), CommitError>>> {
        // Taken apart once: this is done for every message.
        let topic = LocalTopic::parse(&message.topic);
        if self.taps.any() {
            self.tap(message, &topic);
        }
        if let LocalTopic::Command { device, name, rid } = &topic
            && let Some(router) = self.router.get().filter(|router| router.is_field(device))
        {
            router.local(
                Arc::clone(&who.id),
                device.clone(),
                (*name).to_owned(),
                (*rid).to_owned(),
                message.payload.clone(),
            );
        }
        let append = match self.append(who, message, &topic) {
            Ok(append) => append,
            Err(error) => return Some(async { Err(error) }.boxed()),
        };
        // A packet id of QoS 2 must not be forgotten between PUBREC and PUBREL.
        let durable_id = message.qos == QoS::ExactlyOnce;
        let mut batch = Batch { appends: append.into_iter().collect(), durable: durable_id, ..Batch::default() };
        add_changes(&mut batch, durable.changes);
        if let LocalTopic::Result { device, rid, .. } = topic {
            return Some(self.answer(device, rid.to_owned(), message, batch));
        }
        if batch.appends.is_empty() && batch.puts.is_empty() && batch.deletes.is_empty() {
            return None;
        }
        Some(commit(&self.queue, batch))
    }

    fn event(&self, event: Event) {
        match event {
            Event::Connected { who, peer, version, .. } => {
                tracing::info!(device = %who.id, %peer, ?version, "leaf connected");
                self.presence_of(&who, |id, now| self.presence.online(id, "mqtt", now));
            }
            // A newer connection of the same device is there: it is not offline.
            Event::Disconnected { reason: DisconnectReason::TakenOver, .. } => {}
            Event::Disconnected { who, reason, .. } => {
                tracing::info!(device = %who.id, reason = reason.word(), "leaf disconnected");
                if let Some(words) = ended_by_us(reason) {
                    let (device, reason) = (who.id.to_string(), words.to_owned());
                    self.audit.record(audit::Event::SessionEnded { device, reason });
                }
                self.presence_of(&who, |id, now| self.presence.offline(id, "mqtt", reason.word().to_owned(), now));
            }
            Event::Refused { who, peer, words, .. } => {
                self.counters.add("connect");
                let device = who.as_deref();
                if self.is_news(&format!("{} {words}", peer.ip())) {
                    tracing::warn!(device, %peer, reason = words, "a connection was refused, `fieldgate audit` tells of each");
                }
                self.audit.refused_connection(device, peer, words);
            }
            Event::SubscriptionRefused { who, filter, code } => {
                self.counters.add("subscribe");
                let reason = refusal_words(code).to_owned();
                self.audit.record(audit::Event::SubscribeRefused { device: who.id.to_string(), filter, reason });
            }
            Event::PublishRefused { who, topic, code } => {
                self.counters.add("publish");
                let (device, topic) = (who.id.to_string(), topic.to_string());
                self.audit.record(audit::Event::PublishRefused {
                    device,
                    topic,
                    reason: refusal_words(code).to_owned(),
                });
            }
            Event::TookOver { who, by, .. } => tracing::info!(device = %who.id, %by, "a newer connection took over"),
            Event::WillFired { who, topic } => tracing::info!(device = %who.id, %topic, "will fired"),
            // Counted by the broker; see its metrics.
            Event::Dropped { id, reason, count } => {
                tracing::warn!(device = %id, reason = reason.word(), count, "messages for a receiver were dropped");
            }
        }
    }
}

impl LeafGate {
    /// A leaf's answer to a command from upstream goes up as the one answer; to any other command as it is.
    fn answer(
        &self,
        device: DeviceId,
        rid: String,
        message: &Message,
        as_it_is: Batch,
    ) -> BoxFuture<'static, Result<(), CommitError>> {
        let (book, queue) = (Arc::clone(&self.book), self.queue.clone());
        let outcome = outcome::decode(&message.payload);
        begun(async move {
            let failed = |error: crate::command::BookError| CommitError::Failed(error.to_string());
            match book.answer(&device, &rid, outcome).await.map_err(failed)? {
                Answer::Given => Ok(()),
                Answer::Late => {
                    tracing::info!(%device, rid, "an answer came after the command was answered, and is dropped");
                    Ok(())
                }
                Answer::Unknown => commit(&queue, as_it_is).await,
            }
        })
    }

    fn is_news(&self, refusal: &str) -> bool {
        let mut last = self.last_refusal.lock().unwrap_or_else(PoisonError::into_inner);
        if *last == refusal {
            return false;
        }
        refusal.clone_into(&mut last);
        true
    }

    fn presence_of(&self, who: &Identity, tell: impl FnOnce(DeviceId, fieldgate_types::UnixMillis)) {
        // Programs come and go with several connections; only devices have a state.
        if who.role == fieldgate_broker::Role::App {
            return;
        }
        if let Ok(id) = DeviceId::new(&who.id) {
            tell(id, self.clock.now());
        }
    }
}

fn decision(allowed: bool) -> Decision {
    if allowed { Decision::Allow } else { Decision::Deny }
}

/// Whoever has no certificate came in with a password.
fn is_user(who: &Identity) -> bool {
    who.fingerprint.is_none()
}

fn subject(who: &Identity) -> Subject<'_> {
    let role = match who.role {
        fieldgate_broker::Role::Device => Role::Device,
        fieldgate_broker::Role::App => Role::App,
        fieldgate_broker::Role::Gateway => Role::Gateway,
    };
    Subject { id: &who.id, role, user: is_user(who) }
}

fn broker_role(role: Role) -> fieldgate_broker::Role {
    match role {
        Role::Device => fieldgate_broker::Role::Device,
        Role::App => fieldgate_broker::Role::App,
        Role::Gateway => fieldgate_broker::Role::Gateway,
    }
}

/// Why, in words, by MQTT 5 reason code (MQTT 5 section 2.4).
fn refusal_words(code: u8) -> &'static str {
    match code {
        0x87 => "no rule allows it; [[policy]] in the configuration would",
        0x8f => "the filter is not valid",
        0x90 => "the topic is not valid",
        0x97 => "a limit is reached",
        _ => "the request is not acceptable",
    }
}

/// Why a session's right to be here was over. What went wrong on the way, or was its own wish, is for the log alone.
fn ended_by_us(reason: DisconnectReason) -> Option<&'static str> {
    match reason {
        DisconnectReason::Revoked => Some("it was revoked"),
        DisconnectReason::CertificateEnded => Some("its certificate has ended"),
        DisconnectReason::Superseded => Some("its certificate was replaced, and is not accepted any more"),
        DisconnectReason::Administrative => Some("it was closed by an administrator"),
        DisconnectReason::NotAuthorized => Some("it published where it may not"),
        DisconnectReason::Client
        | DisconnectReason::ClientWithWill
        | DisconnectReason::Network
        | DisconnectReason::KeepAlive
        | DisconnectReason::TakenOver
        | DisconnectReason::ServerShutdown
        | DisconnectReason::SlowReceiver
        | DisconnectReason::Malformed
        | DisconnectReason::ProtocolError
        | DisconnectReason::ReceiveMaximumExceeded
        | DisconnectReason::TopicAliasInvalid
        | DisconnectReason::PacketTooLarge
        | DisconnectReason::TopicInvalid
        | DisconnectReason::StoreFailed => None,
    }
}
