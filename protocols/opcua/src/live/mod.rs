//! An open session with its subscriptions: sets them up, hands values on, watches over them.
//!
//! Each device has a subscription of its own, each point a monitored item whose client handle is the point's place
//! plus one; points that are found come behind those that are there. Nothing here survives the connection: after a reconnect everything is built anew, and the first values
//! of the new items report every point.

mod explore;
mod fill;
mod granted;
mod nodes;
mod poll;
mod triggers;
pub(crate) mod watch;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fieldgate_protocol::{Command, PointName, Quality, Request, Sample};
use fieldgate_types::{Clock, DeviceId};
use opcua::types::{DateTime, NodeId, StatusCode};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tracing::{debug, warn};

pub(crate) use self::granted::Granted;

use crate::command::{self, Target, Work};
use crate::config::{OpcuaConfig, PointConfig};
use crate::connect::Connection;
use crate::driver::{Delivered, Link};
use crate::event;
use crate::fault::{self, Fault};
use crate::feed::{Batch, Signs};
use crate::filter::Filter;
use crate::node::NodeName;
use crate::pki::Pki;
use crate::room::BATCHES;
use crate::server::Server;
use crate::value;

/// How often the watchdog looks.
const TICK: Duration = Duration::from_millis(500);

/// What one turn may take: requests to the server, each with a time limit of its own.
const ROUND: Duration = Duration::from_mins(2);

/// Why a session ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It broke.
    Lost(Fault),
    /// The gateway no longer listens.
    Unheard,
}

impl From<Fault> for Ended {
    fn from(fault: Fault) -> Self {
        Self::Lost(fault)
    }
}

/// A device and its subscription.
#[derive(Debug)]
pub(crate) struct Subscribed {
    pub(crate) device: DeviceId,
    /// `None`: it is polled.
    pub(crate) subscription: Option<u32>,
    pub(crate) poll: Option<poll::Poll>,
    pub(crate) granted: Granted,
    pub(crate) signs: Arc<Signs>,
    /// Silence beyond this means that the subscription is dead.
    pub(crate) patience: Duration,
    pub(crate) publishing: Duration,
}

/// A point and its monitored item.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) device: usize,
    pub(crate) point: PointName,
    pub(crate) name: NodeName,
    pub(crate) sampling: Duration,
    pub(crate) queue: u32,
    /// What the server is asked to tell; less than what is configured where it refused that.
    pub(crate) filter: Filter,
    pub(crate) node: Option<NodeId>,
    pub(crate) item: Option<u32>,
    /// The place of the point with which it is told.
    pub(crate) trigger: Option<usize>,
    /// The items of both, once the server has linked them.
    linked: Option<(u32, u32)>,
    /// Why there is no (working) item.
    pub(crate) missing: Option<StatusCode>,
    /// Whether what happened during an outage is read from the server's history.
    history: bool,
    /// When its last value arose that was handed on, as the server says; only where history is wanted.
    last: Option<DateTime>,
    /// The outage before this session, until it is filled.
    gap: Option<fill::Gap>,
    /// What was last heard of it, for comparison.
    pub(crate) told: nodes::Told,
}

impl Entry {
    /// Of a point of the device at this place; `trigger` is the place of its trigger, `last` the time of its last value.
    fn new(device: usize, point: &PointConfig, trigger: Option<usize>, last: Option<DateTime>) -> Self {
        let last = last.filter(|_| point.history);
        Self {
            device,
            point: point.point.name.clone(),
            name: point.node.clone(),
            sampling: point.sampling,
            queue: point.queue,
            filter: point.filter,
            node: None,
            item: None,
            trigger,
            linked: None,
            missing: None,
            history: point.history,
            last,
            gap: last.map(fill::Gap::Since),
            told: nodes::Told::nothing(),
        }
    }

    /// There is no gap (any more), and its last value arose at this time.
    fn close(&mut self, at: Option<DateTime>) {
        self.gap = None;
        self.last = at.filter(|_| self.history).or(self.last);
    }
}

/// Whether the definitions of the server's structures are needed. They take some requests, so only then.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Wanted {
    No,
    Yes,
    /// They were asked for in this session.
    Had,
}

impl Wanted {
    /// A value came whose form is not known.
    fn want(&mut self, sample: &Sample) {
        self.want_for(sample.quality == Quality::BAD_NOT_SUPPORTED);
    }

    /// Something came whose form may be known with them.
    fn want_for(&mut self, formless: bool) {
        if *self == Self::No && formless {
            *self = Self::Yes;
        }
    }
}

/// An open session with its subscriptions.
#[derive(Debug)]
pub(crate) struct Live {
    config: Arc<OpcuaConfig>,
    pki: Pki,
    connection: Connection,
    server: Server,
    clock: Arc<dyn Clock>,
    devices: Vec<Subscribed>,
    entries: Vec<Entry>,
    watches: Vec<watch::Watch>,
    kinds: watch::Kinds,
    explorers: explore::Explorers,
    fill: Option<fill::Fill>,
    /// Gaps that stay, for each device: how many, the first, and why.
    unfilled: HashMap<usize, (usize, PointName, fill::Unfilled)>,
    batches: mpsc::Receiver<Batch>,
    round: nodes::Round,
    types: Wanted,
}

impl Live {
    /// Opens a session and subscribes to everything.
    pub(crate) async fn open(
        config: &Arc<OpcuaConfig>,
        pki: &Pki,
        clock: &Arc<dyn Clock>,
        delivered: Delivered,
    ) -> Result<Self, Fault> {
        let connection = Connection::open(config, pki, clock).await?;
        match Self::subscribe(config, &connection, delivered).await {
            Ok((server, devices, entries, watches, batches)) => {
                let clock = Arc::clone(clock);
                let gaps = entries.iter().filter(|entry| entry.gap.is_some()).count();
                let fill = fill::Fill::start(&server, gaps);
                let round = nodes::Round::new(entries.iter().any(|entry| entry.trigger.is_some()));
                let explorers = explore::Explorers::new(config);
                let (config, pki) = (Arc::clone(config), pki.clone());
                Ok(Self {
                    config,
                    pki,
                    connection,
                    server,
                    clock,
                    devices,
                    entries,
                    watches,
                    kinds: watch::Kinds::default(),
                    explorers,
                    fill,
                    unfilled: HashMap::new(),
                    batches,
                    round,
                    types: Wanted::No,
                })
            }
            Err(fault) => {
                connection.close().await;
                Err(fault)
            }
        }
    }

    async fn subscribe(
        config: &OpcuaConfig,
        connection: &Connection,
        mut delivered: Delivered,
    ) -> Result<(Server, Vec<Subscribed>, Vec<Entry>, Vec<watch::Watch>, mpsc::Receiver<Batch>), Fault> {
        let server = Server::ask(connection.session.clone()).await?;
        // Never full: a batch needs room first, and there is none for more (see `room`).
        let (up, batches) = mpsc::channel(BATCHES);
        let (mut devices, mut entries, mut watches) = (Vec::new(), Vec::new(), Vec::new());
        for (place, device) in config.devices.iter().enumerate() {
            let subscribed = match device.poll {
                Some(interval) => Subscribed::polled(device.id.clone(), interval),
                None => server.create_subscription(place, device, up.clone()).await?,
            };
            devices.push(subscribed);
            watches.extend(device.events.iter().map(|wanted| watch::Watch::new(place, wanted.clone())));
            let first = entries.len();
            let named = |name: &PointName| device.points.iter().position(|point| point.point.name == *name);
            entries.extend(device.points.iter().map(|point| {
                let last = delivered.remove(&(place, point.point.name.clone()));
                let trigger = point.triggered_by.as_ref().and_then(named).map(|place| first + place);
                Entry::new(place, point, trigger, last)
            }));
        }
        let all: Vec<usize> = (0..entries.len()).collect();
        server.locate(&mut entries, &all).await?;
        server.create_items(&mut devices, &mut entries, &all).await?;
        watch::create(&server, &devices, &mut watches).await?;
        Ok((server, devices, entries, watches, batches))
    }

    /// With the points that were found.
    pub(crate) fn config(&self) -> Arc<OpcuaConfig> {
        Arc::clone(&self.config)
    }

    /// When the last value arose of each point whose history is wanted.
    pub(crate) fn delivered(&self) -> impl Iterator<Item = ((usize, PointName), DateTime)> {
        self.entries.iter().filter_map(|entry| Some(((entry.device, entry.point.clone()), entry.last?)))
    }

    /// Takes leave of the server.
    pub(crate) async fn close(self) {
        self.connection.close().await;
    }

    /// Hands values and commands on until the session ends. Cancel-safe: dropped at any point, it leaves commands
    /// without an answer, which counts as failed.
    pub(crate) async fn serve(&mut self, link: &mut Link) -> Ended {
        match self.run(link).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn run(&mut self, link: &mut Link) -> Result<std::convert::Infallible, Ended> {
        for device in &self.devices {
            link.online(&device.device).await?;
        }
        let missing: Vec<usize> = self.places(|entry| entry.missing.is_some());
        self.report_missing(link, &missing).await?;

        link.notes(self.notes());
        for device in 0..self.devices.len() {
            self.refresh(device).await?;
        }

        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // One command at a time, so that writes happen in the order in which they came; values flow meanwhile.
        let mut running: JoinSet<bool> = JoinSet::new();
        loop {
            let next_poll = self.next_poll();
            link.pulse.rest(ROUND);
            tokio::select! {
                fault = self.connection.lost() => return Err(fault.into()),
                batch = self.batches.recv() => if let Some(batch) = batch {
                    link.answered(1);
                    self.pass_on(link, batch).await?;
                },
                Some(command) = link.commands.recv(), if running.is_empty() => {
                    let work = self.work(&command);
                    running.spawn(command::execute(self.server.clone(), work, command));
                }
                Some(done) = running.join_next(), if !running.is_empty() => match done {
                    Ok(true) => link.answered(1),
                    // A command that panicked has dropped its reply, which answers it with `failed`.
                    Ok(false) | Err(_) => link.failed(),
                },
                seen = self.explorers.next() => self.adopt(link, seen).await?,
                filled = fill::Fill::next(&mut self.fill) => self.fill_in(link, filled).await?,
                () = poll::due(next_poll) => self.poll(link).await?,
                _ = tick.tick() => self.look_after(link).await?,
            }
        }
    }

    fn places(&self, which: impl Fn(&Entry) -> bool) -> Vec<usize> {
        self.entries.iter().enumerate().filter(|(_, entry)| which(entry)).map(|(place, _)| place).collect()
    }

    /// Hands a notification on as samples, and notes nodes that the server says are gone.
    async fn pass_on(&mut self, link: &mut Link, batch: Batch) -> Result<(), Ended> {
        let received = self.clock.now();
        let (mut samples, mut overflows) = (Vec::with_capacity(batch.values.len()), 0);
        for (handle, data) in batch.values {
            let place = usize::try_from(handle).ok().and_then(|handle| handle.checked_sub(1));
            let Some(entry) = place.and_then(|place| self.entries.get_mut(place)) else { continue };
            if entry.device != batch.device {
                continue;
            }
            // The server says that it has dropped the values before this one.
            overflows += u64::from(data.status.is_some_and(|status| status.overflow()));
            // Some servers never revive the item of a node that went away: it is made anew then.
            let status = data.status.unwrap_or(StatusCode::Good);
            entry.missing = fault::gone(status).then_some(status);
            let at = data.source_timestamp;
            let sample = value::sample(&entry.point, data, received, self.server.types());
            self.types.want(&sample);
            entry.told.notified(&sample);
            let Some(place) = place else { continue };
            pass(&mut self.fill, place, entry, at, sample, &mut samples);
        }
        if overflows > 0 {
            link.overrun(overflows);
        }
        self.send(link, batch.device, samples).await?;
        self.pass_events(link, batch.device, batch.events).await
    }

    /// Hands on what was read of the time of an outage, and at its end what was held back.
    async fn fill_in(&mut self, link: &mut Link, filled: fill::Filled) -> Result<(), Ended> {
        let received = self.clock.now();
        let (Some(entry), Some(fill)) = (self.entries.get_mut(filled.place), &mut self.fill) else { return Ok(()) };
        let device = entry.device;
        // Given up meanwhile: newer values have been handed on.
        let late = !matches!(entry.gap, Some(fill::Gap::Reading(..)));
        let why = if late { Some(fill::Unfilled::TooMuch) } else { filled.end.and_then(Result::err) };
        if let Some(why) = why.filter(|_| filled.end.is_some()) {
            self.unfilled.entry(device).or_insert_with(|| (0, entry.point.clone(), why)).0 += 1;
        }
        if late {
            return Ok(());
        }
        let newest = filled.values.last().and_then(|data| data.source_timestamp);
        entry.last = newest.or(entry.last);
        let types = self.server.types();
        let sample = |data| value::sample(&entry.point, data, received, types);
        let history: Vec<Sample> = filled.values.into_iter().map(sample).collect();
        let held = if filled.end.is_some() { fill.release(entry) } else { Vec::new() };
        if let Some(subscribed) = self.devices.get(device).filter(|_| !history.is_empty()) {
            link.history(&subscribed.device, history).await?;
        }
        self.send(link, device, held).await?;
        if filled.end.is_some() {
            link.notes(self.notes());
        }
        Ok(())
    }

    /// What the server does otherwise than asked, in words.
    fn notes(&self) -> Vec<String> {
        let events = self.watches.iter().filter_map(|watch| Some(watch.note(&self.devices.get(watch.device)?.device)));
        let gaps = self.unfilled.iter().filter_map(|(device, (points, first, why))| {
            let device = &self.devices.get(*device)?.device;
            Some(format!(
                "{device}: the gap of the last outage stays in {points} points, the first is `{first}`: {why}"
            ))
        });
        let devices = self.devices.iter().flat_map(Subscribed::notes);
        devices.chain(events.flatten()).chain(gaps).chain(self.explorers.notes()).collect()
    }

    async fn send(&self, link: &mut Link, device: usize, samples: Vec<Sample>) -> Result<(), Ended> {
        match self.devices.get(device) {
            Some(device) if !samples.is_empty() => link.samples(&device.device, samples).await,
            _ => Ok(()),
        }
    }

    async fn report_missing(&self, link: &mut Link, places: &[usize]) -> Result<(), Ended> {
        let received = self.clock.now();
        for (place, device) in self.devices.iter().enumerate() {
            let entries = places.iter().filter_map(|place| self.entries.get(*place));
            let bad = |entry: &Entry| {
                let quality = entry.missing.map_or(Quality::BAD_WAITING_FOR_INITIAL_DATA, value::quality);
                Sample::bad(entry.point.clone(), quality, received)
            };
            let samples: Vec<Sample> = entries.filter(|entry| entry.device == place).map(bad).collect();
            if let Some(first) = samples.first() {
                let (points, first_point) = (samples.len(), first.point.clone());
                warn!(device = %device.device, points, %first_point, status = %first.quality, "opcua nodes can't be monitored");
                self.send(link, place, samples).await?;
            }
        }
        Ok(())
    }

    /// Reads the definitions of the server's structures once a value has asked for them.
    async fn load_types(&mut self, link: &Link) {
        if self.types != Wanted::Yes {
            return;
        }
        self.types = Wanted::Had;
        match self.server.load_types().await {
            // What came as a structure until now is read again.
            Ok(()) => self.forget(|entry| entry.told.is(&Quality::BAD_NOT_SUPPORTED)),
            Err(fault) => warn!(link = %link.name(), %fault, "opcua structures stay without values"),
        }
    }

    /// What is due from time to time: the watchdog, counters, missing nodes.
    async fn look_after(&mut self, link: &mut Link) -> Result<(), Ended> {
        self.report_lost(link).await?;
        let mut stale = Vec::with_capacity(self.devices.len());
        for device in &self.devices {
            let dropped = device.signs.take_dropped();
            if dropped > 0 {
                link.overrun(dropped);
                debug!(device = %device.device, dropped, "opcua notifications dropped");
            }
            stale.push(device.signs.take_stale());
            if let Some(status) = device.signs.ended() {
                return Err(Fault::Status { step: "the server ended the subscription", status, mend: None }.into());
            }
            let heard = device.signs.alive().max(self.connection.session.room.deaf_until());
            if device.subscription.is_some() && heard.elapsed() > device.patience {
                let step = "waiting for a publish response";
                return Err(Fault::Silent { step, limit: device.patience }.into());
            }
        }
        // Of a lost value nothing may follow: where that is so, it is read.
        self.forget(|entry| stale.get(entry.device).copied().unwrap_or(false));
        self.load_types(link).await;
        self.explorers.start(&self.server, &self.config);
        self.look_at_nodes(link).await
    }

    /// The nodes that a command is about.
    fn work(&self, command: &Command) -> Work {
        let device = self.devices.iter().position(|device| device.device == command.device);
        let target = |point: &PointName| {
            let entry = self.entries.iter().find(|entry| Some(entry.device) == device && entry.point == *point);
            Target { point: point.clone(), node: entry.and_then(|entry| entry.node.clone()) }
        };
        match &command.request {
            Request::Write { point, value } => Work::Write(target(point), value.clone()),
            Request::Read { points } => Work::Read(points.iter().map(target).collect()),
            Request::Call { method, arguments } => {
                let config = self.config.devices.iter().find(|device| device.id == command.device);
                let known = config.and_then(|device| device.methods.iter().find(|known| known.name == *method));
                match config {
                    Some(device) if device.acknowledges() && method.as_str() == event::ACKNOWLEDGE => {
                        Work::Acknowledge(arguments.clone())
                    }
                    _ => Work::Call(known.cloned(), arguments.clone()),
                }
            }
        }
    }
}

/// Adds to `samples` what may be handed on now: the sample, unless the time before it is still being read.
fn pass(
    fill: &mut Option<fill::Fill>,
    place: usize,
    entry: &mut Entry,
    at: Option<DateTime>,
    sample: Sample,
    samples: &mut Vec<Sample>,
) {
    match fill {
        Some(fill) if entry.gap.is_some() => samples.extend(fill.pass(place, entry, at, sample)),
        _ => {
            entry.close(at);
            samples.push(sample);
        }
    }
}
