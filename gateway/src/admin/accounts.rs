//! Accounts of the console, by API. On admin.sock alone: whoever may use it can let anybody in again.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use fieldgate_types::{DeviceId, Secret};
use serde::{Deserialize, Serialize};

use super::api::{Failed, blocking};
use super::overview::Overview;
use crate::identity::account::{AccountError, AccountInfo, AccountRole};
use crate::identity::trial::computed;
use crate::log::in_full;

/// How the audit log names who comes in by the socket.
pub const BY: &str = "admin.sock";

/// The code for the first account.
#[derive(Debug, Serialize, Deserialize)]
pub struct SetupCode {
    /// The code.
    pub code: String,
}

/// What `console user add` asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddAccount {
    /// Its name; as a device id.
    pub name: DeviceId,
    /// What it may do.
    pub role: AccountRole,
    /// Its password.
    pub password: String,
}

/// What `console user passwd` asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetPassword {
    /// The new one.
    pub password: String,
}

impl From<AccountError> for Failed {
    fn from(error: AccountError) -> Self {
        let code = match &error {
            AccountError::Exists(_) | AccountError::TooMany | AccountError::NotFirst => StatusCode::CONFLICT,
            AccountError::Unknown(_) => StatusCode::NOT_FOUND,
            AccountError::Password => StatusCode::BAD_REQUEST,
            AccountError::Hash(_) => StatusCode::SERVICE_UNAVAILABLE,
            AccountError::State(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(code, in_full(&error))
    }
}

/// The code by which the first account is made in the console.
pub async fn setup_code(State(overview): State<Arc<Overview>>) -> Result<Json<SetupCode>, Failed> {
    let code = overview.console.setup.code(&overview.authority.accounts);
    let code = code.ok_or_else(|| Failed::from(AccountError::NotFirst))?;
    Ok(Json(SetupCode { code: code.expose().to_owned() }))
}

/// All of them.
pub async fn list(State(overview): State<Arc<Overview>>) -> Json<Vec<AccountInfo>> {
    Json(overview.authority.accounts.list())
}

async fn hashing<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AccountError> + Send + 'static,
) -> Result<Json<T>, Failed> {
    let done = computed(work).await;
    let done = done.map_err(|error| Failed(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    Ok(Json(done?))
}

/// Makes one.
pub async fn add(
    State(overview): State<Arc<Overview>>,
    Json(wanted): Json<AddAccount>,
) -> Result<Json<AccountInfo>, Failed> {
    let AddAccount { name, role, password } = wanted;
    let password = Secret::new(password);
    hashing(move || overview.authority.accounts.add(&name, role, &password, overview.clock.now(), BY)).await
}

/// Sets a password.
pub async fn set_password(
    State(overview): State<Arc<Overview>>,
    Path(name): Path<DeviceId>,
    Json(wanted): Json<SetPassword>,
) -> Result<Json<AccountInfo>, Failed> {
    let password = Secret::new(wanted.password);
    hashing(move || overview.authority.accounts.set_password(&name, &password, overview.clock.now(), BY)).await
}

/// Ends one.
pub async fn remove(State(overview): State<Arc<Overview>>, Path(name): Path<DeviceId>) -> Result<Json<()>, Failed> {
    Ok(Json(blocking(move || overview.authority.accounts.remove(&name, BY)).await??))
}
