//! The driver of one session: connects, serves, and connects again.
//!
//! Two kinds of failure. A transient one (no connection, no answer, server busy) is tried again with the back-off of
//! field links, 250 ms to 5 s. A refusal (login, certificate, host name, security that the server doesn't offer)
//! is tried once a minute, so that no account is locked and no log is flooded, and at once when the file changes
//! that the refusal was about: a certificate moved to `trusted/`, a new password.

use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use fieldgate_protocol::{
    Command, Driver, Event, FieldDevice, LinkInfo, LinkState, Outcome, Point, PointName, Sample, Status, Tasks, Update,
    Uplink,
};
use fieldgate_types::{Backoff, Clock, DeviceId, Pulse};
use opcua::types::DateTime;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::config::OpcuaConfig;
use crate::connect::unless;
use crate::fault::Fault;
use crate::live::{Ended, Live};
use crate::pki::Pki;

/// How often a refused link is tried.
const REFUSED_WAIT: Duration = Duration::from_mins(1);
/// Opening a session with thousands of points takes many requests, each with a time limit of its own.
const OPENING: Duration = Duration::from_mins(5);
/// How often the file that can mend a refusal is looked at.
const MEND_LOOK: Duration = Duration::from_secs(1);

/// One OPC UA session and its devices.
#[derive(Debug)]
pub struct OpcuaDriver {
    config: Arc<OpcuaConfig>,
    pki: Pki,
}

impl OpcuaDriver {
    /// A driver for one `[[opcua]]`. Certificates lie in `pki_dir` (`<data_dir>/opcua`), which is made when the first
    /// session with security starts; all sessions share it.
    pub fn new(config: OpcuaConfig, pki_dir: PathBuf) -> Self {
        Self { config: Arc::new(config), pki: Pki::new(pki_dir) }
    }
}

impl Driver for OpcuaDriver {
    fn protocol(&self) -> &'static str {
        "opcua"
    }

    fn link(&self) -> String {
        self.config.endpoint.url().to_owned()
    }

    fn devices(&self) -> Vec<FieldDevice> {
        self.config.field_devices()
    }

    fn subscribes(&self) -> bool {
        true
    }

    fn run<'a>(&'a mut self, tasks: Tasks) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        let Tasks { uplink, commands, state, clock, pulse, stop } = tasks;
        let devices = self.config.devices.iter().map(|device| device.id.clone()).collect();
        let link = Link {
            name: self.link(),
            devices,
            uplink,
            commands,
            state,
            pulse,
            presence: Presence::Unknown,
            delivered: Delivered::new(),
        };
        let runner = Runner { config: Arc::clone(&self.config), pki: &self.pki, clock, stop, link };
        Box::pin(runner.run())
    }
}

struct Runner<'a> {
    /// With the points that were found so far: each keeps its name and place from session to session.
    config: Arc<OpcuaConfig>,
    pki: &'a Pki,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
    link: Link,
}

impl Runner<'_> {
    async fn run(mut self) {
        let mut backoff = Backoff::field_link();
        loop {
            self.link.pulse.rest(OPENING);
            // 16 KiB of state while connecting: on the heap, and gone afterwards.
            let delivered = self.link.delivered.clone();
            let opening = Box::pin(Live::open(&self.config, self.pki, &self.clock, delivered));
            let Some(opened) = unless(&self.stop, self.link.while_away(opening)).await else { return };
            let fault = match opened {
                Ok(mut live) => {
                    let ended = unless(&self.stop, live.serve(&mut self.link)).await;
                    self.link.delivered.extend(live.delivered());
                    self.config = live.config();
                    if self.link.presence == Presence::Heard {
                        backoff.reset();
                    }
                    let lost = match ended {
                        Some(Ended::Lost(fault)) => Some(fault),
                        Some(Ended::Unheard) | None => None,
                    };
                    // Bounded to less than the second that a stop may take.
                    live.close().await;
                    let Some(fault) = lost else { return };
                    fault
                }
                Err(fault) => fault,
            };
            let told = unless(&self.stop, self.link.down(&fault)).await;
            if told != Some(true) {
                return;
            }
            let wait = match fault.state() {
                LinkState::Refused => REFUSED_WAIT,
                LinkState::Connecting | LinkState::Up | LinkState::Down => backoff.next_wait(),
            };
            self.link.pulse.rest(wait);
            if unless(&self.stop, self.link.while_away(pause(&fault, wait))).await.is_none() {
                return;
            }
        }
    }
}

/// Waits before the next try: until the time is over, or until the file changes that the fault was about.
async fn pause(fault: &Fault, wait: Duration) {
    let mended = async {
        match fault.mend() {
            Some(mend) => {
                while !mend.changed().await {
                    tokio::time::sleep(MEND_LOOK).await;
                }
            }
            None => std::future::pending().await,
        }
    };
    // Either end of the wait is good.
    drop(tokio::time::timeout(wait, mended).await);
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Presence {
    /// Nothing has been told about the devices yet.
    Unknown,
    /// They were told to be online.
    Online,
    /// Values have come since.
    Heard,
    /// They were told to be offline.
    Offline,
}

/// The driver's side of the gateway.
#[derive(Debug)]
pub(crate) struct Link {
    name: String,
    devices: Vec<DeviceId>,
    uplink: Uplink,
    pub(crate) commands: mpsc::Receiver<Command>,
    state: watch::Sender<LinkInfo>,
    pub(crate) pulse: Pulse,
    presence: Presence,
    /// When the last value arose of each point whose history is wanted, as its server says.
    delivered: Delivered,
}

/// By the device's place in the configuration and the point's name.
pub(crate) type Delivered = HashMap<(usize, PointName), DateTime>;

impl Link {
    async fn tell(&self, update: Update) -> Result<(), Ended> {
        // Waits while the gateway can't take more; the feed drops and re-reads meanwhile.
        let _waiting = self.pulse.excuse();
        if self.uplink.send(update).await { Ok(()) } else { Err(Ended::Unheard) }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) async fn online(&mut self, device: &DeviceId) -> Result<(), Ended> {
        if self.presence != Presence::Online {
            self.presence = Presence::Online;
            info!(link = %self.name, "opcua link up");
            self.state.send_modify(|info| {
                info.state = LinkState::Up;
                info.connects += 1;
            });
        }
        self.tell(Update::Online { device: device.clone() }).await
    }

    /// All points of a device that grows.
    pub(crate) async fn points(&self, device: &DeviceId, points: Vec<Arc<Point>>) -> Result<(), Ended> {
        self.tell(Update::Points { device: device.clone(), points }).await
    }

    pub(crate) async fn samples(&mut self, device: &DeviceId, samples: Vec<Sample>) -> Result<(), Ended> {
        self.presence = Presence::Heard;
        self.tell(Update::Samples { device: device.clone(), samples }).await
    }

    /// Values from the time of an outage.
    pub(crate) async fn history(&mut self, device: &DeviceId, samples: Vec<Sample>) -> Result<(), Ended> {
        self.tell(Update::History { device: device.clone(), samples }).await
    }

    pub(crate) async fn events(&mut self, device: &DeviceId, events: Vec<Event>) -> Result<(), Ended> {
        self.presence = Presence::Heard;
        self.tell(Update::Events { device: device.clone(), events }).await
    }

    pub(crate) fn answered(&self, count: u64) {
        self.state.send_modify(|info| info.answers += count);
    }

    pub(crate) fn failed(&self) {
        self.state.send_modify(|info| info.failures += 1);
    }

    /// What the server does otherwise than asked, for `status`; and once in the log when it is news.
    pub(crate) fn notes(&self, notes: Vec<String>) {
        if self.state.borrow().notes == notes {
            return;
        }
        for note in &notes {
            warn!(link = %self.name, note, "opcua link is not all that was asked for");
        }
        self.state.send_modify(|info| info.notes = notes);
    }

    pub(crate) fn overrun(&self, count: u64) {
        self.state.send_modify(|info| info.overruns += count);
    }

    /// There is no session (any more). `false` when the gateway no longer listens.
    async fn down(&mut self, fault: &Fault) -> bool {
        let reason = fault.to_string();
        let state = fault.state();
        let before = self.state.borrow().clone();
        self.state.send_modify(|info| {
            info.state = state;
            info.last_error = Some(reason.clone());
            info.failures += 1;
        });
        // A change is logged once, a repetition is a counter.
        if before.state != state || before.last_error.as_ref() != Some(&reason) {
            warn!(link = %self.name, ?state, reason, "opcua link down");
        } else {
            debug!(link = %self.name, reason, "opcua link still down");
        }
        if self.presence == Presence::Offline {
            return true;
        }
        self.presence = Presence::Offline;
        for device in &self.devices {
            let offline = Update::Offline { device: device.clone(), reason: reason.clone() };
            if self.tell(offline).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Does `work` while there is no session; commands are answered meanwhile, instead of waiting for one.
    async fn while_away<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                Some(command) = self.commands.recv() => {
                    let reason = self.state.borrow().last_error.clone();
                    let reason = reason.unwrap_or_else(|| "the connection is being opened".to_owned());
                    let outcome = Outcome::not(Status::Failed, format!("no session with the server: {reason}"));
                    // Whoever asked may have gone.
                    drop(command.reply.send(outcome));
                }
            }
        }
    }
}
