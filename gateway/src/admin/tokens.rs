//! Tokens for the API, by API. On admin.sock alone: no token makes another.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use fieldgate_types::DeviceId;
use serde::{Deserialize, Serialize};

use super::api::{Failed, blocking};
use super::overview::Overview;
use crate::identity::api_token::{ApiToken, ApiTokenError, ApiTokenInfo, DEFAULT_LIFE, Scope, parse_life};
use crate::log::in_full;

/// What `token add` asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddToken {
    /// Its name; as a device id.
    pub name: DeviceId,
    /// What it opens.
    pub scope: Scope,
    /// How long it is good, such as `30d`; 90 days where nothing is said.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub life: Option<String>,
}

/// What `token add` gives; the token is kept nowhere.
#[derive(Debug, Serialize, Deserialize)]
pub struct AddedToken {
    /// As it is listed.
    #[serde(flatten)]
    pub info: ApiTokenInfo,
    /// The token.
    pub token: String,
}

impl From<ApiToken> for AddedToken {
    fn from(made: ApiToken) -> Self {
        Self { token: made.secret.expose().to_owned(), info: made.info }
    }
}

impl From<ApiTokenError> for Failed {
    fn from(error: ApiTokenError) -> Self {
        let code = match &error {
            ApiTokenError::Exists(_) | ApiTokenError::TooMany => StatusCode::CONFLICT,
            ApiTokenError::Unknown(_) => StatusCode::NOT_FOUND,
            ApiTokenError::Clock(_) | ApiTokenError::Random => StatusCode::SERVICE_UNAVAILABLE,
            ApiTokenError::State(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(code, in_full(&error))
    }
}

/// Makes one.
pub async fn add(
    State(overview): State<Arc<Overview>>,
    Json(wanted): Json<AddToken>,
) -> Result<Json<AddedToken>, Failed> {
    let life = wanted.life.as_deref().map_or(Ok(DEFAULT_LIFE), parse_life);
    let life = life.map_err(|why| Failed(StatusCode::BAD_REQUEST, why))?;
    let made = blocking(move || {
        let authority = &overview.authority;
        authority.api_tokens.add(authority.ca.time(), &wanted.name, wanted.scope, life)
    });
    Ok(Json(made.await??.into()))
}

/// All of them.
pub async fn list(State(overview): State<Arc<Overview>>) -> Json<Vec<ApiTokenInfo>> {
    Json(overview.authority.api_tokens.list())
}

/// Ends one.
pub async fn revoke(State(overview): State<Arc<Overview>>, Path(name): Path<DeviceId>) -> Result<Json<()>, Failed> {
    Ok(Json(blocking(move || overview.authority.api_tokens.revoke(&name)).await??))
}
