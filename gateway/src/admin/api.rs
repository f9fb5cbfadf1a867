//! What is answered to a request that was let in; `routes` says which is whose.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use fieldgate_broker::DisconnectReason;
use fieldgate_certs::est::Token;
use fieldgate_certs::{AuthorityInfo, CertificateRecord, Issued, Role, RotationError};
use fieldgate_protocol::{Access, FieldDevice, Outcome};
use fieldgate_store::StateError;
use fieldgate_types::{DeviceId, Secret, UnixMillis};
use serde::{Deserialize, Serialize};

use super::overview::{Buffer, Overview, Status};
use crate::audit;
use crate::backup::Snapshot;
use crate::identity::explain::{CantExplain, Explanation, Question, explain};
use crate::identity::{AuthorityError, CaReport, DeviceDetails, Wanted, lists, parse_validity};
use crate::log::in_full;
use crate::reload::Report;
use crate::upkeep;

type Shared = State<Arc<Overview>>;

/// An answer that says why not.
#[derive(Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// In words, with what to do.
    pub error: String,
}

/// Status and reason of a refusal.
pub struct Failed(pub StatusCode, pub String);

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (self.0, Json(Refusal { error: self.1 })).into_response()
    }
}

impl From<AuthorityError> for Failed {
    fn from(error: AuthorityError) -> Self {
        use crate::identity::RegisterError;
        let code = match &error {
            AuthorityError::Configured { .. }
            | AuthorityError::Register(RegisterError::Exists { .. } | RegisterError::OtherRole { .. }) => {
                StatusCode::CONFLICT
            }
            AuthorityError::Register(RegisterError::Unknown { .. }) => StatusCode::NOT_FOUND,
            AuthorityError::Register(_) => StatusCode::INTERNAL_SERVER_ERROR,
            AuthorityError::NoGroup(_) | AuthorityError::Issue(_) => StatusCode::BAD_REQUEST,
            AuthorityError::Token(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self(code, in_full(&error))
    }
}

pub(super) async fn healthz(State(overview): Shared) -> Response {
    answer(overview.healthy())
}

pub(super) async fn readyz(State(overview): Shared) -> Response {
    answer(overview.ready())
}

fn answer(result: Result<(), String>) -> Response {
    match result {
        Ok(()) => (StatusCode::OK, "ok\n").into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

pub(super) async fn metrics(State(overview): Shared) -> Response {
    // With thousands of connections the open files alone take milliseconds to count.
    match tokio::task::spawn_blocking(move || super::metrics::text(overview)).await {
        Ok(Ok(text)) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Ok(Err(error)) => Failed(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        Err(error) => Failed(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

pub(super) async fn status(State(overview): Shared) -> Json<Status> {
    Json(overview.status())
}

pub(super) async fn devices(State(overview): Shared) -> Json<Vec<DeviceDetails>> {
    Json(overview.authority.all_details())
}

pub(super) async fn device(State(overview): Shared, Path(id): Path<DeviceId>) -> Result<Json<DeviceDetails>, Failed> {
    Ok(Json(overview.authority.details(&id)?))
}

/// What `device add` asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddDevice {
    /// Its id.
    pub id: DeviceId,
    /// Its role.
    pub role: Role,
    /// A certificate signing request in PEM, when the key was made elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csr: Option<String>,
    /// How long its certificates are good, such as `365d`; as configured where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validity: Option<String>,
    /// Groups that it belongs to.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub groups: BTreeSet<String>,
}

/// What `device add` gives; the key exists nowhere else.
#[derive(Debug, Serialize, Deserialize)]
pub struct AddedDevice {
    /// As the registry holds it.
    pub record: CertificateRecord,
    /// Whether the validity was cut at the end of the issuing CA.
    pub clamped: bool,
    /// The certificate, then its issuing CA.
    pub certificate: String,
    /// The key, unless it was made elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The trust bundle.
    pub ca: String,
}

impl From<Issued> for AddedDevice {
    fn from(issued: Issued) -> Self {
        Self {
            record: issued.record,
            clamped: issued.clamped,
            certificate: issued.certificate_pem,
            key: issued.key_pem.map(|key| key.expose().to_owned()),
            ca: issued.ca_pem,
        }
    }
}

impl From<AddedDevice> for Issued {
    fn from(added: AddedDevice) -> Self {
        Self {
            record: added.record,
            certificate_pem: added.certificate,
            key_pem: added.key.map(Secret::new),
            ca_pem: added.ca,
            clamped: added.clamped,
        }
    }
}

pub(super) async fn add_device(
    State(overview): Shared,
    Json(wanted): Json<AddDevice>,
) -> Result<Json<AddedDevice>, Failed> {
    let AddDevice { id, role, csr, validity, groups } = wanted;
    let validity = validity.as_deref().map(parse_validity).transpose();
    let validity = validity.map_err(|why| Failed(StatusCode::BAD_REQUEST, why))?;
    let issued = blocking(move || {
        overview.authority.add(&id, &Wanted { role, validity, groups }, csr.as_ref().map(String::as_bytes))
    });
    Ok(Json(issued.await??.into()))
}

/// What `device token` asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MakeToken {
    /// Its role; without, what it is already, or a device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
}

/// What `device token` gives; the token is kept nowhere else.
#[derive(Debug, Serialize, Deserialize)]
pub struct MadeToken {
    /// For whom.
    pub id: DeviceId,
    /// What its holder will be.
    pub role: Role,
    /// The token.
    pub token: String,
    /// Until when it is good.
    pub expires: UnixMillis,
}

impl From<Token> for MadeToken {
    fn from(made: Token) -> Self {
        let (record, token) = (made.record, made.secret.expose().to_owned());
        Self { id: record.device, role: record.role, token, expires: record.expires }
    }
}

pub(super) async fn make_token(
    State(overview): Shared,
    Path(id): Path<DeviceId>,
    Json(wanted): Json<MakeToken>,
) -> Result<Json<MadeToken>, Failed> {
    let made = blocking(move || overview.authority.token(&id, wanted.role));
    Ok(Json(made.await??.into()))
}

pub(super) async fn revoke_device(
    State(overview): Shared,
    Path(id): Path<DeviceId>,
) -> Result<Json<DeviceDetails>, Failed> {
    revoke(&overview, &id).await?;
    Ok(Json(overview.authority.details(&id)?))
}

/// Revokes a device, closes its session and renews the lists.
pub async fn revoke(overview: &Overview, id: &DeviceId) -> Result<(), Failed> {
    let (authority, of) = (Arc::clone(&overview.authority), id.clone());
    blocking(move || authority.revoke(&of)).await??;
    overview.broker.disconnect(id.as_str(), DisconnectReason::Revoked, true);
    let authority = Arc::clone(&overview.authority);
    blocking(move || authority.renew_lists()).await
}

impl From<CantExplain> for Failed {
    fn from(error: CantExplain) -> Self {
        let code = match &error {
            CantExplain::NoUser(_) => StatusCode::NOT_FOUND,
            CantExplain::Nobody(..) | CantExplain::Topic(..) => StatusCode::BAD_REQUEST,
        };
        Self(code, error.to_string())
    }
}

pub(super) async fn explain_policy(
    State(overview): Shared,
    Json(question): Json<Question>,
) -> Result<Json<Explanation>, Failed> {
    let registry = &overview.authority.registry;
    Ok(Json(explain(&question, &overview.rights.get(), &overview.users.all(), registry)?))
}

/// Runs what waits for the disk where it holds up nobody.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failed> {
    let stopping = |_| Failed(StatusCode::SERVICE_UNAVAILABLE, "the gateway is stopping".to_owned());
    tokio::task::spawn_blocking(work).await.map_err(stopping)
}

/// What `reload` asks for.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AskReload {
    /// Say what would be done, and do nothing.
    pub plan: bool,
}

pub(super) async fn reload(
    State(overview): Shared,
    body: axum::body::Bytes,
) -> Result<(StatusCode, Json<Report>), Failed> {
    let asked = if body.is_empty() { Ok(AskReload::default()) } else { serde_json::from_slice(&body) };
    let asked =
        asked.map_err(|error| Failed(StatusCode::BAD_REQUEST, format!("{error}; {{\"plan\":true}} is allowed")))?;
    let report = overview.reload.ask("api", asked.plan).await;
    let code = if report.ok { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    Ok((code, Json(report)))
}

pub(super) async fn authorities(State(overview): Shared) -> Json<CaReport> {
    Json(overview.authority.report())
}

/// What `backup` gets of a running gateway; the rest are files that don't change under it.
#[derive(Debug, Serialize, Deserialize)]
pub struct StateSnapshot {
    /// Whose.
    pub gateway: DeviceId,
    /// The boot counter.
    pub boot: u64,
    /// state.db, in base64.
    pub state: String,
}

pub(super) async fn snapshot(State(overview): Shared) -> Result<Json<StateSnapshot>, Failed> {
    let taken = blocking(move || {
        let Snapshot { gateway, boot, state } = overview.authority.snapshot()?;
        Ok::<_, StateError>(StateSnapshot { gateway, boot, state: BASE64_STANDARD.encode(state) })
    });
    let failed = |error: StateError| Failed(StatusCode::INTERNAL_SERVER_ERROR, in_full(&error));
    Ok(Json(taken.await?.map_err(failed)?))
}

/// What `ca rotate` asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateCa {
    /// The root key in PEM, where it is not kept here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_key: Option<String>,
}

/// What `ca remove-root-key` gets before it removes.
#[derive(Debug, Serialize, Deserialize)]
pub struct RootKey {
    /// In PEM.
    pub key: String,
}

impl From<RotationError> for Failed {
    fn from(error: RotationError) -> Self {
        let code = match &error {
            RotationError::NoRootKey { .. } | RotationError::LastIssuing | RotationError::NotExportable => {
                StatusCode::CONFLICT
            }
            RotationError::NotAKey | RotationError::OtherKey => StatusCode::BAD_REQUEST,
            RotationError::UnknownIssuing { .. } => StatusCode::NOT_FOUND,
            RotationError::Clock(_) => StatusCode::SERVICE_UNAVAILABLE,
            RotationError::Ca(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(code, in_full(&error))
    }
}

pub(super) async fn rotate(
    State(overview): Shared,
    Json(wanted): Json<RotateCa>,
) -> Result<Json<AuthorityInfo>, Failed> {
    let authority = Arc::clone(&overview.authority);
    let made = blocking(move || authority.rotate(wanted.root_key.as_ref().map(String::as_bytes)));
    let made = made.await??;
    upkeep::announce_ca(&overview).await;
    Ok(Json(made))
}

pub(super) async fn export_root_key(State(overview): Shared) -> Result<Json<RootKey>, Failed> {
    let key = blocking(move || overview.authority.export_root_key()).await??;
    Ok(Json(RootKey { key: key.expose().to_owned() }))
}

pub(super) async fn remove_root_key(State(overview): Shared) -> Result<Json<()>, Failed> {
    Ok(Json(blocking(move || overview.authority.remove_root_key()).await??))
}

pub(super) async fn bundle(State(overview): Shared) -> Response {
    let kind = "application/x-pem-file";
    ([(header::CONTENT_TYPE, kind)], overview.authority.ca.trust_bundle_pem()).into_response()
}

pub(super) async fn revocation_list(State(overview): Shared, Path(name): Path<String>) -> Response {
    match overview.authority.list(&name) {
        Some(list) => ([(header::CONTENT_TYPE, lists::MEDIA_TYPE)], list.to_vec()).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// `fieldgate buffer status`
#[derive(Debug, Serialize)]
pub struct BufferReport {
    /// The whole.
    #[serde(flatten)]
    pub buffer: Buffer,
    /// Per device: received = delivered + waiting + expired + evicted + quarantined.
    pub devices: Vec<Ledger>,
}

/// What became of a device's messages.
#[derive(Debug, Serialize)]
pub struct Ledger {
    /// Which device.
    pub device: DeviceId,
    /// Stored.
    pub received: u64,
    /// Acknowledged by the upstream.
    pub delivered: u64,
    /// In the buffer.
    pub waiting: u64,
    /// Too old.
    pub expired: u64,
    /// Made room for newer ones.
    pub evicted: u64,
    /// Put aside: unreadable, or refused by the upstream for good.
    pub quarantined: u64,
    /// The last three by reason.
    pub losses: Vec<Loss>,
}

/// A reason why messages went undelivered.
#[derive(Debug, Serialize)]
pub struct Loss {
    /// `expired`, `evicted`, `quarantined`
    pub fate: &'static str,
    /// Why.
    pub reason: String,
    /// How many.
    pub count: u64,
}

impl From<fieldgate_store::DeviceLedger> for Ledger {
    fn from(ledger: fieldgate_store::DeviceLedger) -> Self {
        let loss = |loss: fieldgate_store::Loss| Loss {
            fate: loss.kind.name(),
            reason: loss.reason.into_owned(),
            count: loss.count,
        };
        Self {
            device: ledger.device,
            received: ledger.received,
            delivered: ledger.delivered,
            waiting: ledger.waiting,
            expired: ledger.expired,
            evicted: ledger.evicted,
            quarantined: ledger.quarantined,
            losses: ledger.losses.into_iter().map(loss).collect(),
        }
    }
}

pub(super) async fn buffer(State(overview): Shared) -> Json<BufferReport> {
    Json(BufferReport {
        buffer: overview.buffer(),
        devices: overview.queue.ledger().into_iter().map(Ledger::from).collect(),
    })
}

/// A point of a field device, for `point list`.
#[derive(Debug, Serialize, Deserialize)]
pub struct PointEntry {
    /// Whose.
    pub device: DeviceId,
    /// Its name.
    pub point: String,
    /// Its unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Whether it may be written.
    pub writable: bool,
}

impl PointEntry {
    /// Those of a device.
    pub fn of(device: &FieldDevice) -> impl Iterator<Item = Self> {
        device.points.iter().map(|point| Self {
            device: device.id.clone(),
            point: point.name.to_string(),
            unit: point.unit.clone(),
            writable: point.access == Access::ReadWrite,
        })
    }
}

pub(super) async fn points(State(overview): Shared) -> Json<Vec<PointEntry>> {
    let links = overview.links.all();
    let devices = links.iter().flat_map(|(_, link)| &link.devices);
    Json(devices.flat_map(|device| PointEntry::of(&device.now()).collect::<Vec<_>>()).collect())
}

pub(super) async fn point_command(
    State(overview): Shared,
    Path((device, command)): Path<(DeviceId, String)>,
    payload: axum::body::Bytes,
) -> Json<Outcome> {
    Json(overview.router.request(&device, &command, &payload, "admin").await)
}

/// How many.
#[derive(Debug, Deserialize)]
pub(super) struct Lines {
    lines: Option<usize>,
}

pub(super) async fn audit_lines(State(overview): Shared, Query(query): Query<Lines>) -> Result<Response, Failed> {
    let lines = query.lines.unwrap_or(100).min(10_000);
    let read = blocking(move || audit::tail(&overview.audit_folder, lines)).await?;
    let lines = read.map_err(|error| Failed(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, "application/jsonl")], lines.join("\n") + "\n").into_response())
}

/// Where the chain ends: what `audit --verify` holds the files against.
pub(super) async fn audit_end(State(overview): Shared) -> Json<Option<audit::End>> {
    Json(overview.audit.end())
}
