//! What must be done again and again while the gateway runs: certificates of its own, the time, old commands.
//!
//! | every | what |
//! |---|---|
//! | minute | the server certificate, when it is due; sessions on certificates that were replaced, when their grace is over; answers to commands that nobody needs any more |
//! | hour | the issuing CA, at half of its life; the time, and when tokens of the API were last used, written down; warnings |
//! | day | revocation lists |
//!
//! The uses of tokens are written at the stop as well. All of it happens at the start too, and none but the sessions said here is touched by it. What waits for the disk, or signs, runs on
//! threads that may wait.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fieldgate_broker::{DisconnectReason, Identity, QoS};
use fieldgate_certs::AlarmKind;
use tokio_util::sync::CancellationToken;

use crate::admin::Overview;
use crate::identity::ending::{Ending, endings};
use crate::pipeline::topic;
use crate::southbound::gateway_message;

const MINUTE: Duration = Duration::from_secs(60);
const MINUTES_PER_HOUR: u32 = 60;
const MINUTES_PER_DAY: u32 = 24 * MINUTES_PER_HOUR;

/// The task that does it.
pub struct Upkeep {
    overview: Arc<Overview>,
    stop: CancellationToken,
    /// What was warned of, so that each is logged once.
    alarms: HashSet<(AlarmKind, u32)>,
    endings: HashSet<Ending>,
}

impl Upkeep {
    /// Until `stop`.
    pub fn new(overview: Arc<Overview>, stop: CancellationToken) -> Self {
        Self { overview, stop, alarms: HashSet::new(), endings: HashSet::new() }
    }

    /// Runs until it is stopped.
    pub async fn run(mut self) {
        let mut minute = tokio::time::interval(MINUTE);
        let mut minutes = 0_u32;
        while self.stop.run_until_cancelled(minute.tick()).await.is_some() {
            self.overview.upkeep.rest(MINUTE);
            if minutes.is_multiple_of(MINUTES_PER_HOUR) {
                self.hourly().await;
            }
            if minutes.is_multiple_of(MINUTES_PER_DAY) {
                renew_lists(&self.overview).await;
            }
            refresh_server_certificate(&self.overview).await;
            end_superseded(&self.overview).await;
            if let Err(error) = self.overview.book.forget_old().await {
                tracing::error!(%error, "old commands can't be forgotten");
            }
            minutes = minutes.wrapping_add(1);
        }
        self.overview.upkeep.end();
        self.note_uses().await;
    }

    async fn note_uses(&self) {
        let authority = Arc::clone(&self.overview.authority);
        if let Some(Err(error)) = blocking(move || authority.api_tokens.note_uses()).await {
            tracing::error!(%error, "when tokens of the API were last used can't be written down");
        }
    }

    async fn hourly(&mut self) {
        self.note_uses().await;
        let authority = Arc::clone(&self.overview.authority);
        let done = blocking(move || {
            if let Err(error) = authority.note_time() {
                tracing::error!(%error, "the time can't be written down");
            }
            authority.rotate_if_due()
        });
        match done.await {
            Some(Ok(Some(_))) => announce_ca(&self.overview).await,
            Some(Ok(None)) | None => {}
            Some(Err(error)) => {
                tracing::error!(%error, "the issuing CA is due to be followed by the next, and can't be");
            }
        }
        self.warn();
    }

    fn warn(&mut self) {
        let alarms = self.overview.authority.ca.alarms();
        for alarm in alarms.iter().filter(|alarm| !self.alarms.contains(&(alarm.kind, alarm.generation))) {
            tracing::warn!(kind = alarm.kind.label(), "{alarm}");
        }
        self.alarms = alarms.iter().map(|alarm| (alarm.kind, alarm.generation)).collect();
        let endings: HashSet<_> = endings(&self.overview.authority).into_iter().collect();
        for ending in endings.difference(&self.endings) {
            let (device, stage) = (&ending.device, Ending::label(ending.stage));
            tracing::warn!(%device, stage, "{}", ending.words());
        }
        self.endings = endings;
    }
}

/// Ends the live sessions of those whose certificate was replaced when its grace is over: a new connection with it is
/// refused already.
pub async fn end_superseded(overview: &Arc<Overview>) {
    let overview = Arc::clone(overview);
    let end = move || {
        let authority = &overview.authority;
        let over = authority.registry.superseded(authority.ca.time().now());
        let superseded = |who: &Identity| who.fingerprint.as_ref().is_some_and(|of| over.contains(of));
        if !over.is_empty() {
            overview.broker.disconnect_all(DisconnectReason::Superseded, superseded);
        }
    };
    blocking(end).await;
}

/// After a rotation: listeners show a certificate of the new CA, the trust bundle is published anew, and the new CA has
/// its list.
pub async fn announce_ca(overview: &Arc<Overview>) {
    refresh_server_certificate(overview).await;
    publish_bundle(overview).await;
    renew_lists(overview).await;
}

async fn renew_lists(overview: &Arc<Overview>) {
    let authority = Arc::clone(&overview.authority);
    blocking(move || authority.renew_lists()).await;
}

/// Publishes the trust bundle, retained.
pub async fn publish_bundle(overview: &Overview) {
    let bundle = overview.authority.ca.trust_bundle_pem().into_bytes().into();
    let message = gateway_message(topic::CA.to_owned(), bundle, QoS::AtLeastOnce, true, overview.clock.now());
    if let Err(error) = overview.broker.publish(message).await {
        tracing::error!(%error, "the trust bundle could not be published");
    }
}

/// Replaces the server certificate when its time, its names, the machine's addresses or its CA ask for it.
pub async fn refresh_server_certificate(overview: &Arc<Overview>) {
    let overview = Arc::clone(overview);
    let refresh = move || {
        let (ca, names, addresses) = (&overview.authority.ca, server_names(&overview.names.get()), addresses());
        if !ca.server_certificate_due(&overview.server_certificate, &names, &addresses) {
            return;
        }
        match ca.server_certificate(&names, &addresses) {
            Ok(newer) => {
                tracing::info!(until = %newer.not_after(), "the server certificate was replaced");
                overview.server_certificate.replace(newer);
            }
            Err(error) => tracing::error!(%error, "the server certificate can't be replaced"),
        }
    };
    blocking(refresh).await;
}

/// `None` when the runtime is stopping, or the work panicked, which its thread has said.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

/// The configured names, the host name and `localhost`.
pub fn server_names(configured: &[String]) -> Vec<String> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut names = configured.to_vec();
    names.extend([host, "localhost".to_owned()]);
    names.retain(|name| !name.is_empty());
    names.sort();
    names.dedup();
    names
}

/// All addresses of the machine, the loopback ones included.
pub fn addresses() -> Vec<IpAddr> {
    let mut addresses = vec![std::net::Ipv4Addr::LOCALHOST.into(), std::net::Ipv6Addr::LOCALHOST.into()];
    match if_addrs::get_if_addrs() {
        Ok(interfaces) => addresses.extend(interfaces.iter().map(if_addrs::Interface::ip)),
        Err(error) => tracing::warn!(%error, "the machine's addresses can't be read; [broker] names can say them"),
    }
    addresses.sort();
    addresses.dedup();
    addresses
}
