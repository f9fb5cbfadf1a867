//! Takes commands where they can be done: a leaf by the broker, a field device by its driver.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fieldgate_broker::{Broker, Properties, QoS};
use fieldgate_protocol::{Access, Change, Command, FieldDevice, Outcome, Point, PointName, Request, Status, Value};
use fieldgate_types::{Clock, Current, DeviceId, UnixMillis};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value as Json;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::book::{Accepted, Book, BookError, Row};
use super::outcome;
use crate::audit::{Audit, Event};
use crate::identity::DeviceRegistry;
use crate::northbound::Downlink;
use crate::pipeline::topic;
use crate::southbound::{Declared, gateway_message};

/// Commands that are being carried out at one time; further ones wait, and the upstream's messages with them.
const MAX_OPEN: usize = 1024;

/// A field device and the way to its driver.
#[derive(Debug, Clone)]
pub struct FieldTarget {
    /// The device, with the points that it has when a command comes.
    pub device: Declared,
    /// To its link. Full means that the driver is busy with others: the command fails at once, with that reason.
    pub commands: mpsc::Sender<Command>,
}

/// Carries out commands. Cheap to clone.
#[derive(Clone)]
pub struct Router {
    inner: Arc<Inner>,
}

struct Inner {
    book: Arc<Book>,
    broker: Broker,
    registry: Arc<DeviceRegistry>,
    field: Current<HashMap<DeviceId, Arc<FieldTarget>>>,
    timeout: Current<Duration>,
    clock: Arc<dyn Clock>,
    open: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Router {
    /// Routes to the leaves of `broker`, and to field devices once they are told ([`Router::set_field`]). Open commands end
    /// when `stop` is cancelled.
    pub fn new(
        book: Arc<Book>,
        broker: Broker,
        registry: Arc<DeviceRegistry>,
        timeout: Duration,
        clock: Arc<dyn Clock>,
        stop: CancellationToken,
    ) -> Self {
        let open = Arc::new(Semaphore::new(MAX_OPEN));
        Self {
            inner: Arc::new(Inner {
                book,
                broker,
                registry,
                field: Current::default(),
                timeout: Current::new(timeout),
                clock,
                open,
                tasks: TaskTracker::new(),
                stop,
            }),
        }
    }

    /// These are the field devices from now on.
    pub fn set_field(&self, targets: impl Iterator<Item = FieldTarget>) {
        let by_id = targets.map(|target| (target.device.id.clone(), Arc::new(target)));
        self.inner.field.set(by_id.collect());
    }

    /// Commands that don't say how long they may take have so long from now on.
    pub fn set_timeout(&self, timeout: Duration) {
        self.inner.timeout.set(timeout);
    }

    /// Serves commands from upstream until the channel closes.
    pub async fn run(self, mut commands: mpsc::Receiver<Downlink>) {
        while let Some(command) = commands.recv().await {
            let Ok(permit) = Arc::clone(&self.inner.open).acquire_owned().await else { return };
            let inner = Arc::clone(&self.inner);
            self.inner.tasks.spawn(async move {
                if let Err(error) = inner.serve(command, "upstream").await {
                    tracing::error!(%error, "a command could not be served");
                }
                drop(permit);
            });
        }
    }

    /// Waits until no command is being carried out.
    pub async fn finish(&self) {
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// Whether `device` is a field device, whose commands go to a driver.
    pub fn is_field(&self, device: &DeviceId) -> bool {
        self.inner.field.get().contains_key(device)
    }

    /// A command that `by`, a permitted local program, has published for a field device. Its answer goes up like any
    /// other.
    pub fn local(&self, by: Arc<str>, device: DeviceId, name: String, rid: String, payload: Bytes) {
        let Ok(permit) = Arc::clone(&self.inner.open).try_acquire_owned() else {
            tracing::warn!(%device, name, "too many commands are open, one from a local program was dropped");
            return;
        };
        let inner = Arc::clone(&self.inner);
        self.inner.tasks.spawn(async move {
            let command = Downlink {
                device,
                name,
                rid: Some(rid),
                payload,
                response_topic: None,
                correlation: None,
                expiry: None,
                accepted: None,
            };
            if let Err(error) = inner.serve(command, &by).await {
                tracing::error!(%error, "a command of a local program could not be served");
            }
            drop(permit);
        });
    }

    /// A command that somebody at the gateway sends to a leaf; its answer goes up like any other, and is a line in the audit
    /// log.
    pub fn send(&self, by: Arc<str>, device: DeviceId, name: String, payload: Bytes) {
        let rid = new_rid(self.inner.clock.now());
        self.local(by, device, name, rid, payload);
    }

    /// Reads or writes points at once, for the admin API and the console; the audit log names `by`.
    pub async fn request(&self, device: &DeviceId, name: &str, payload: &[u8], by: &str) -> Outcome {
        let deadline = Instant::now() + *self.inner.timeout.get();
        self.inner.carry_out_field(device, name, payload, deadline, by).await.unwrap_or_else(|| {
            Outcome::not(
                Status::Rejected,
                format!("`{device}` is not a field device; `fieldgate point list` shows them"),
            )
        })
    }
}

#[derive(Deserialize)]
struct Timeout {
    timeout_ms: Option<u64>,
}

/// One point, or several that are written in the order in which they stand.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WriteRequest {
    point: Option<String>,
    value: Option<Json>,
    points: Option<InOrder>,
    #[serde(rename = "timeout_ms")]
    _timeout_ms: Option<u64>,
}

/// The members of a JSON object in the order of the text.
struct InOrder(Vec<(String, Json)>);

impl<'de> Deserialize<'de> for InOrder {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = InOrder;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of points and their values")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<InOrder, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(InOrder(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadRequest {
    points: Vec<String>,
    #[serde(rename = "timeout_ms")]
    _timeout_ms: Option<u64>,
}

/// The command that calls a method.
const CALL: &str = "call";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CallRequest {
    method: String,
    #[serde(default)]
    arguments: Vec<Json>,
    #[serde(rename = "timeout_ms")]
    _timeout_ms: Option<u64>,
}

impl Inner {
    async fn serve(&self, command: Downlink, by: &str) -> Result<(), BookError> {
        let Downlink { device, name, rid, payload, response_topic, correlation, expiry, accepted } = command;
        let rid = rid.unwrap_or_else(|| new_rid(self.clock.now()));
        let row = Row { device, name, rid, accepted: self.clock.now(), response_topic, correlation };
        let result = self.book.accept(row.clone()).await?;
        if result == Accepted::Full {
            tracing::error!(device = %row.device, rid = row.rid, "too many commands are remembered, this one stays unacknowledged");
            return Ok(());
        }
        if let Some(accepted) = accepted {
            // Gone when the connection broke meanwhile: the upstream sends it again, and it is known then.
            let _still_connected = accepted.send(()).is_ok();
        }
        if result == Accepted::Again {
            tracing::info!(device = %row.device, rid = row.rid, "a command that was here before is not done again");
            return Ok(());
        }
        if expiry.is_some_and(|expiry| expiry.is_zero()) {
            return self.answer(&row, Outcome::not(Status::Timeout, "expired before it could be carried out")).await;
        }
        let asked =
            serde_json::from_slice::<Timeout>(&payload).ok().and_then(|t| t.timeout_ms).map(Duration::from_millis);
        let allowed = expiry.or(asked).unwrap_or(*self.timeout.get());
        let deadline = Instant::now() + allowed;
        if let Some(outcome) = self.carry_out_field(&row.device, &row.name, &payload, deadline, by).await {
            let answer = outcome::encode(&row.rid, &outcome);
            self.answer(&row, outcome).await?;
            self.publish(topic::result(&row.device, &row.name, &row.rid), answer.into(), None).await;
            return Ok(());
        }
        self.carry_out_leaf(&row, payload, allowed, deadline).await
    }

    async fn answer(&self, row: &Row, outcome: Outcome) -> Result<(), BookError> {
        self.book.answer(&row.device, &row.rid, outcome).await.map(drop)
    }

    /// Publishes to the leaf, and answers for it when it doesn't in time.
    async fn carry_out_leaf(
        &self,
        row: &Row,
        payload: Bytes,
        allowed: Duration,
        deadline: Instant,
    ) -> Result<(), BookError> {
        match self.registry.device(&row.device) {
            None => return self.answer(row, Outcome::not(Status::Rejected, "no such device")).await,
            Some(entry) if entry.revoked.is_some() => {
                return self.answer(row, Outcome::not(Status::Rejected, "the device is revoked")).await;
            }
            Some(_) => {}
        }
        let answered = self.book.answered(&row.device, &row.rid);
        let receivers = self.publish(topic::command(&row.device, &row.name, &row.rid), payload, Some(allowed)).await;
        if receivers == 0 {
            let reason = "the device is not connected, or has not subscribed to its commands";
            return self.answer(row, Outcome::not(Status::Failed, reason)).await;
        }
        tokio::select! {
            // The leaf's own answer came through the gate.
            _ = answered => return Ok(()),
            () = tokio::time::sleep_until(deadline.into()) => {}
            // The next start answers what is open now: the leaf may still do it, and its answer can't be heard.
            () = self.stop.cancelled() => return Ok(()),
        }
        let reason = format!("no answer within {} ms", allowed.as_millis());
        self.answer(row, Outcome::not(Status::Timeout, reason)).await
    }

    /// Publishes locally; how many receivers it has.
    async fn publish(&self, topic: String, payload: Bytes, expiry: Option<Duration>) -> usize {
        let message = gateway_message(topic, payload, QoS::AtLeastOnce, false, self.clock.now());
        let properties = Properties { message_expiry: expiry, ..Properties::default() };
        match self.broker.publish(message.with_properties(properties)).await {
            Ok(delivery) => delivery.live + delivery.stored,
            Err(error) => {
                tracing::error!(%error, "a command could not be published");
                0
            }
        }
    }

    /// `None` when `device` is no field device.
    async fn carry_out_field(
        &self,
        device: &DeviceId,
        name: &str,
        payload: &[u8],
        deadline: Instant,
        by: &str,
    ) -> Option<Outcome> {
        let target = self.field.get().get(device).map(Arc::clone)?;
        Some(target.carry_out(name, payload, deadline, (by, self.book.audit())).await)
    }
}

/// The longest text of a refused write that is repeated in the audit log.
const SHOWN: usize = 200;

fn shortened(text: String) -> String {
    if text.len() <= SHOWN { text } else { text.chars().take(SHOWN).chain(['…']).collect() }
}

/// What nobody has checked: anything may stand there.
fn shown(value: Json) -> Json {
    let text = value.to_string();
    if text.len() <= SHOWN { value } else { Json::from(shortened(text)) }
}

impl FieldTarget {
    /// Carries out the command `name`. A write and a call are lines in the audit log, whatever comes of them, with who
    /// commanded.
    pub async fn carry_out(&self, name: &str, payload: &[u8], deadline: Instant, by: (&str, &Audit)) -> Outcome {
        match parse(&self.device.now(), name, payload) {
            Ok(Asked::One(request @ Request::Read { .. })) => self.ask(request, deadline).await,
            Ok(Asked::One(Request::Call { method, arguments })) => {
                let given: Json = arguments.iter().map(|one| one.to_json().unwrap_or_default()).collect();
                let request = Request::Call { method: method.clone(), arguments };
                let outcome = self.ask(request, deadline).await;
                self.called(method.to_string(), given, by, &outcome);
                outcome
            }
            Ok(Asked::One(Request::Write { point, value })) => self.write(point, value, deadline, by).await,
            Ok(Asked::Writes(writes)) => {
                let mut several = Several::default();
                for (point, value) in writes {
                    let one = self.write(point.clone(), value, deadline, by).await;
                    if !several.goes_on(&point, one) {
                        break;
                    }
                }
                several.outcome()
            }
            Err(reason) => {
                let outcome = Outcome::not(Status::Rejected, reason);
                if let (CALL, Ok(request)) = (name, serde_json::from_slice::<CallRequest>(payload)) {
                    let given = shown(Json::Array(request.arguments));
                    self.called(shortened(request.method), given, by, &outcome);
                }
                if let Ok(request) = serde_json::from_slice::<WriteRequest>(payload) {
                    let one = request.point.map(|point| (point, request.value.unwrap_or_default()));
                    for (point, value) in one.into_iter().chain(request.points.map(|all| all.0).unwrap_or_default()) {
                        self.wrote((shortened(point), None, shown(value)), by, &outcome);
                    }
                }
                outcome
            }
        }
    }

    /// Writes one point, and a line in the audit log.
    async fn write(&self, point: PointName, value: Value, deadline: Instant, by: (&str, &Audit)) -> Outcome {
        // What it was, for the log alone: where that can't be read, the write is tried all the same.
        let read = self.ask(Request::Read { points: vec![point.clone()] }, deadline).await;
        let old = read.value.and_then(|values| values.get(point.as_str()).cloned());
        let new = value.to_json().unwrap_or_default();
        let outcome = self.ask(Request::Write { point: point.clone(), value }, deadline).await;
        self.wrote((point.as_str().to_owned(), old, new), by, &outcome);
        outcome
    }

    fn called(&self, method: String, arguments: Json, (by, audit): (&str, &Audit), outcome: &Outcome) {
        let (status, reason) = (outcome.status, outcome.reason.clone());
        let (device, by) = (self.device.id.clone(), by.to_owned());
        audit.record(Event::FieldCall { device, method, arguments, by, status, reason });
    }

    fn wrote(&self, (point, old, new): (String, Option<Json>, Json), (by, audit): (&str, &Audit), outcome: &Outcome) {
        let (status, reason) = (outcome.status, outcome.reason.clone());
        let (device, by) = (self.device.id.clone(), by.to_owned());
        audit.record(Event::FieldWrite { device, point, old, new, by, status, reason });
    }

    async fn ask(&self, request: Request, deadline: Instant) -> Outcome {
        let (reply, answer) = oneshot::channel();
        let command = Command { device: self.device.id.clone(), request, deadline, reply };
        if self.commands.try_send(command).is_err() {
            return Outcome::not(Status::Failed, "the link is busy with other commands");
        }
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Outcome::not(Status::Failed, "the link was restarted while the command ran"),
            Err(_) => Outcome::not(Status::Timeout, "the device did not answer in time"),
        }
    }
}

/// Points that are written one after the other, up to the first that can't be written. The value of their one outcome
/// holds what was read back of each.
#[derive(Default)]
struct Several {
    values: serde_json::Map<String, Json>,
    changes: Vec<Change>,
    failure: Option<(Status, String)>,
}

impl Several {
    /// Notes how the next write ended. Whether another may follow.
    fn goes_on(&mut self, point: &PointName, one: Outcome) -> bool {
        self.changes.extend(one.changes);
        if one.status == Status::Ok {
            self.values.insert(point.to_string(), one.value.unwrap_or_default());
            return true;
        }
        // "Rejected" says that nothing was changed.
        let first = self.values.is_empty();
        let status = if one.status == Status::Rejected && !first { Status::Failed } else { one.status };
        let rest = if first { "nothing was written before it" } else { "those in `value` were written before it" };
        self.failure = Some((status, format!("{point}: {}; {rest}", one.reason.unwrap_or_default())));
        false
    }

    fn outcome(self) -> Outcome {
        let (status, reason) = match self.failure {
            Some((status, reason)) => (status, Some(reason)),
            None => (Status::Ok, None),
        };
        Outcome { status, value: Some(Json::Object(self.values)), reason, changes: self.changes }
    }
}

/// What a command asks of a driver.
#[derive(Debug, PartialEq)]
enum Asked {
    One(Request),
    /// In this order.
    Writes(Vec<(PointName, Value)>),
}

fn parse(device: &FieldDevice, name: &str, payload: &[u8]) -> Result<Asked, String> {
    match name {
        "write" => {
            let example = r#"{"point":"setpoint","value":42.5}"#;
            let request: WriteRequest =
                serde_json::from_slice(payload).map_err(|error| format!("{error}; a write looks like {example}"))?;
            let one = |name: &str, value: &Json| {
                let point = point(device, name)?;
                let value = Value::from_json(value).ok_or_else(|| {
                    format!("a number, text, truth value, array or object is allowed, as in {example}")
                })?;
                writable(point, &value)?;
                Ok::<_, String>((point.name.clone(), value))
            };
            match (request.point, request.value, request.points) {
                (Some(name), value, None) => {
                    let (point, value) = one(&name, &value.unwrap_or_default())?;
                    Ok(Asked::One(Request::Write { point, value }))
                }
                (None, None, Some(InOrder(members))) if !members.is_empty() => {
                    let writes = members.iter().map(|(name, value)| one(name, value));
                    writes.collect::<Result<_, _>>().map(Asked::Writes)
                }
                _ => Err(format!("a write looks like {example} or {{\"points\":{{\"a\":1,\"b\":2}}}}")),
            }
        }
        "read" => {
            let example = r#"{"points":["a","b"]}"#;
            let request: ReadRequest =
                serde_json::from_slice(payload).map_err(|error| format!("{error}; a read looks like {example}"))?;
            if request.points.is_empty() {
                return Err(format!("no point is named; a read looks like {example}"));
            }
            let points = request
                .points
                .iter()
                .map(|name| point(device, name).map(|p| p.name.clone()))
                .collect::<Result<Vec<PointName>, _>>()?;
            Ok(Asked::One(Request::Read { points }))
        }
        CALL => {
            let example = r#"{"method":"start","arguments":[1,"fast"]}"#;
            let request: CallRequest =
                serde_json::from_slice(payload).map_err(|error| format!("{error}; a call looks like {example}"))?;
            let method = device.methods.iter().find(|method| method.as_str() == request.method);
            let method = method.ok_or_else(|| format!("`{}` has no method `{}`", device.id, request.method))?;
            let argument = |json: &Json| {
                Value::from_json(json).ok_or_else(|| {
                    format!("numbers, texts, truth values, arrays and objects are allowed, as in {example}")
                })
            };
            let arguments = request.arguments.iter().map(argument).collect::<Result<Vec<Value>, _>>()?;
            Ok(Asked::One(Request::Call { method: method.clone(), arguments }))
        }
        _ => Err(format!("`{name}` is not a command of a field device, write, read or call is allowed")),
    }
}

fn point<'a>(device: &'a FieldDevice, name: &str) -> Result<&'a Point, String> {
    device
        .points
        .iter()
        .map(Arc::as_ref)
        .find(|point| point.name.as_str() == name)
        .ok_or_else(|| format!("`{}` has no point `{name}`", device.id))
}

/// Only `rw` points, and only within their range; one rule for every protocol.
fn writable(point: &Point, value: &Value) -> Result<(), String> {
    let name = &point.name;
    if point.access == Access::Read {
        return Err(format!("point `{name}` is read-only; access = \"rw\" in the configuration would allow writing"));
    }
    let Some((low, high)) = point.range else { return Ok(()) };
    match value.as_f64() {
        Some(number) if (low..=high).contains(&number) => Ok(()),
        Some(number) => Err(format!("`{number}` is out of range for `{name}`, {low} to {high} is allowed")),
        None => Err(format!("a number is expected for `{name}`, {low} to {high} is allowed")),
    }
}

/// A request id for a command that came without one.
fn new_rid(now: UnixMillis) -> String {
    let now = now.0;
    let mut bytes = [0_u8; 8];
    if ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes).is_err() {
        // The time in front still tells the requests of one device apart, a millisecond from each other.
        tracing::error!("the machine gives no random numbers");
    }
    format!("{now:x}-{:016x}", u64::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests;
