//! Who may see and do what in the console: the guard before every route of it.
//!
//! | [`Asks`] | what must be there |
//! |---|---|
//! | `Guest` | nothing: the sign-in, the set-up, static files |
//! | `Viewer` | a session |
//! | `Admin` | a session of an account with that role |
//!
//! A `POST` must come from a page of ours ([`origin::from_here`]) and, where there is a session, carry its form token. What is
//! refused is counted, and a line in the audit log where it is more than a page without a session. What an admin changes is a
//! line that names the account and the address.
//!
//! Host names and the bounds of bodies are the whole admin address's (`admin::access::bounded`).

pub mod enter;
pub mod origin;
pub mod sessions;
pub mod setup;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Form, FromRequest, FromRequestParts, Request, State};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use fieldgate_certs::est::TokenHash;
use fieldgate_types::{DeviceId, Secret};
use maud::{Markup, html};
use serde::Deserialize;
use thiserror::Error;

use super::page;
use super::routes::PageRoute;
use crate::admin::Overview;
use crate::admin::access::{Door, LONGEST_BODY};
use crate::admin::api::{Failed, Refusal};
use crate::audit::Event;
use crate::identity::account::AccountRole;

/// What a route asks of who calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    /// Nothing.
    Guest,
    /// A session.
    Viewer,
    /// A session of an admin.
    Admin,
}

/// Whoever asks.
#[derive(Debug, Clone)]
pub struct Guest {
    /// From where.
    pub peer: SocketAddr,
    /// Whether over TLS.
    pub tls: bool,
    /// Their session, if they have one.
    pub session: Option<TokenHash>,
}

/// Whoever is signed in. An extractor for every route that asks for more than a [`Guest`].
#[derive(Debug, Clone)]
pub struct Visitor {
    /// Their account.
    pub account: DeviceId,
    /// What they may do.
    pub role: AccountRole,
    /// From where.
    pub peer: SocketAddr,
    /// Their session.
    pub session: TokenHash,
    form_token: Secret,
}

impl Visitor {
    /// Whether they may change things. The guard decides; this is for showing buttons.
    pub fn is_admin(&self) -> bool {
        self.role == AccountRole::Admin
    }

    /// How the audit log names them.
    pub fn by(&self) -> String {
        format!("{} from {}", self.account, self.peer)
    }

    /// The field that every form with `method="post"` must have.
    pub fn field(&self) -> Markup {
        html! { input type="hidden" name="csrf" value=(self.form_token.expose()); }
    }
}

fn nobody() -> Failed {
    Failed(StatusCode::UNAUTHORIZED, "nobody is signed in".to_owned())
}

impl<S: Sync> FromRequestParts<S> for Visitor {
    type Rejection = Failed;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failed> {
        parts.extensions.get::<Self>().cloned().ok_or_else(nobody)
    }
}

impl<S: Sync> FromRequestParts<S> for Guest {
    type Rejection = Failed;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failed> {
        parts.extensions.get::<Self>().cloned().ok_or_else(nobody)
    }
}

/// Why a request is not answered.
#[derive(Debug, PartialEq, Eq, Error)]
enum Denied {
    #[error("nobody is signed in here: sign in, then do it again")]
    NoSession,
    #[error("this was asked for by a page of another address: open the console itself, and do it there")]
    Foreign,
    #[error("the page is from an earlier session: load it again, then do it again")]
    Stale,
    #[error("an admin may do this, and the account is a viewer: sign in with another one")]
    Role,
    #[error("the body can't be read")]
    Body,
}

impl Denied {
    fn status(&self) -> StatusCode {
        match self {
            Self::NoSession => StatusCode::UNAUTHORIZED,
            Self::Foreign | Self::Stale | Self::Role => StatusCode::FORBIDDEN,
            Self::Body => StatusCode::BAD_REQUEST,
        }
    }

    /// One of a closed set, for metrics.
    fn label(&self) -> &'static str {
        match self {
            Self::NoSession => "console-session",
            Self::Foreign => "console-origin",
            Self::Stale => "console-form",
            Self::Role => "console-role",
            Self::Body => "body",
        }
    }
}

#[derive(Deserialize)]
struct Stamped {
    csrf: String,
}

/// Stands before every route of the console.
pub async fn guard(
    State((overview, route)): State<(Arc<Overview>, &'static PageRoute)>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(Door::Tcp { peer, tls }) = request.extensions().get::<Door>().copied() else {
        return Failed(StatusCode::NOT_FOUND, "the console is at the admin address".to_owned()).into_response();
    };
    let gateway = &overview.authority.gateway;
    let session = origin::key(request.headers(), gateway, tls)
        .and_then(|key| overview.console.sessions.find(key, !route.quiet, &overview.authority.accounts));
    let visitor = session.map(|session| Visitor {
        account: session.account.name.clone(),
        role: session.account.role,
        peer,
        session: session.hash,
        form_token: session.form_token,
    });
    let guest = Guest { peer, tls, session: visitor.as_ref().map(|visitor| visitor.session) };
    request.extensions_mut().insert(guest);
    if let Some(visitor) = visitor.clone() {
        request.extensions_mut().insert(visitor);
    }
    let path = request.uri().path().to_owned();
    let target = request.uri().path_and_query().map_or_else(String::new, ToString::to_string);
    let mut response = match judge(route, visitor.as_ref(), tls, request).await {
        Ok(request) => {
            let response = next.run(request).await;
            if let Some(visitor) = visitor.as_ref().filter(|_| route.changes()) {
                let (account, status) = (visitor.account.clone(), response.status().as_u16());
                let route = format!("{} {path}", route.method);
                overview.audit.record(Event::ConsoleChange { account, peer: peer.to_string(), route, status });
            }
            dressed(&overview, visitor.as_ref(), response).await
        }
        Err(Denied::NoSession) if route.method == Method::GET && !route.quiet => {
            overview.refused_requests.add(Denied::NoSession.label());
            Redirect::to(&enter::door(&overview, &target)).into_response()
        }
        Err(denied) => refuse(&overview, route, peer, visitor.as_ref(), &denied),
    };
    origin::guarded(response.headers_mut());
    response
}

/// What of the rules above holds for this request; it is given back whole.
async fn judge(route: &PageRoute, visitor: Option<&Visitor>, tls: bool, request: Request) -> Result<Request, Denied> {
    let changes = route.method != Method::GET;
    if changes && !origin::from_here(request.headers(), tls) {
        return Err(Denied::Foreign);
    }
    let Some(visitor) = visitor else {
        return if route.asks == Asks::Guest { Ok(request) } else { Err(Denied::NoSession) };
    };
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, LONGEST_BODY).await.map_err(|_| Denied::Body)?;
    if changes && route.asks != Asks::Guest && !stamped(visitor, &parts, &body).await {
        return Err(Denied::Stale);
    }
    if route.asks == Asks::Admin && !visitor.is_admin() {
        return Err(Denied::Role);
    }
    Ok(Request::from_parts(parts, Body::from(body)))
}

async fn stamped(visitor: &Visitor, parts: &Parts, body: &Bytes) -> bool {
    let form = Request::from_parts(parts.clone(), Body::from(body.clone()));
    let Ok(Form(Stamped { csrf })) = Form::from_request(form, &()).await else { return false };
    TokenHash::of(&csrf).same(&TokenHash::of(visitor.form_token.expose()))
}

fn refuse(
    overview: &Overview,
    route: &PageRoute,
    peer: SocketAddr,
    visitor: Option<&Visitor>,
    denied: &Denied,
) -> Response {
    overview.refused_requests.add(denied.label());
    if *denied != Denied::NoSession {
        let (account, peer) = (visitor.map(|visitor| visitor.account.clone()), peer.to_string());
        let (route, reason) = (format!("{} {}", route.method, route.path), denied.to_string());
        overview.audit.record(Event::ConsoleRefused { account, peer, route, reason });
    }
    page::trouble(overview, visitor, denied.status(), &denied.to_string())
}

/// An error in words, from wherever it came, as a page.
async fn dressed(overview: &Overview, visitor: Option<&Visitor>, response: Response) -> Response {
    let status = response.status();
    let is_page = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    if is_page || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, LONGEST_BODY).await.unwrap_or_default();
    let words = match serde_json::from_slice::<Refusal>(&bytes) {
        Ok(refusal) => refusal.error,
        Err(_) => String::from_utf8_lossy(&bytes).into_owned(),
    };
    let mut page = page::trouble(overview, visitor, status, &words);
    if let Some(wait) = parts.headers.get(RETRY_AFTER) {
        page.headers_mut().insert(RETRY_AFTER, HeaderValue::clone(wait));
    }
    page
}
