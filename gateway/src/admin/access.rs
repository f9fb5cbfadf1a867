//! Who may ask what: by the door that a request came in by, and by the token that it carries.
//!
//! What comes in by admin.sock was let in by the file's mode. At the admin address a request must name this gateway in
//! its `Host` header, or a page elsewhere could make a browser ask in its name (DNS rebinding), and must carry a
//! token, except for what is [`Access::Open`] to this machine. A refusal is counted, and a line in the audit log where a
//! token was presented; unknown tokens, which cost nothing to invent, are gathered there by address.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, WWW_AUTHENTICATE};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use fieldgate_types::{Current, DeviceId, UnixMillis};
use thiserror::Error;

use super::api::Refusal;
use super::overview::Overview;
use super::routes::Route;
use crate::audit::{Event, Stranger};
use crate::identity::api_token::{ApiTokenRefused, ApiTokens, Scope};
use crate::southbound::leaf::Refusals;
use crate::upkeep::server_names;

/// Bytes of a request's body.
pub const LONGEST_BODY: usize = 64 * 1024;

/// What a route asks of who calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing, from this machine; from elsewhere as [`Access::Read`].
    Open,
    /// A token of either scope.
    Read,
    /// A token of scope `admin`.
    Admin,
    /// The socket: no token opens it.
    Socket,
}

impl Access {
    /// Its word in the documentation of the API.
    pub fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::Admin => "admin",
            Self::Socket => "socket",
        }
    }
}

/// Where a request came in. Without one it is nobody's, and refused.
#[derive(Debug, Clone, Copy)]
pub enum Door {
    /// admin.sock, which is for the gateway's user alone.
    Socket,
    /// The admin address.
    Tcp {
        /// From where.
        peer: SocketAddr,
        /// Whether over TLS.
        tls: bool,
    },
}

/// Why a request is not answered.
#[derive(Debug, PartialEq, Eq, Error)]
enum Denied {
    #[error("a token is needed, as `Authorization: Bearer …`: `fieldgate token add NAME --scope read` makes one")]
    NoToken,
    #[error("{0}")]
    Token(#[from] ApiTokenRefused),
    #[error("the token `{0}` has scope read, admin is needed: `fieldgate token add NAME --scope admin` makes one")]
    Scope(DeviceId),
    #[error("this is answered on admin.sock alone, to the gateway's own user")]
    SocketOnly(DeviceId),
}

impl Denied {
    fn status(&self) -> StatusCode {
        match self {
            Self::NoToken | Self::Token(_) => StatusCode::UNAUTHORIZED,
            Self::Scope(_) | Self::SocketOnly(_) => StatusCode::FORBIDDEN,
        }
    }

    /// One of a closed set, for metrics.
    fn label(&self) -> &'static str {
        match self {
            Self::NoToken => "no-token",
            Self::Token(ApiTokenRefused::Unknown) => "unknown-token",
            Self::Token(ApiTokenRefused::Expired { .. }) => "expired-token",
            Self::Scope(_) => "scope",
            Self::SocketOnly(_) => "socket-only",
        }
    }

    fn token(&self) -> Option<&DeviceId> {
        match self {
            Self::NoToken | Self::Token(ApiTokenRefused::Unknown) => None,
            Self::Token(ApiTokenRefused::Expired { name, .. }) | Self::Scope(name) | Self::SocketOnly(name) => {
                Some(name)
            }
        }
    }
}

/// Judges a request for `access` from elsewhere; the name of its token, where one was needed.
fn judge(
    access: Access,
    peer: IpAddr,
    headers: &HeaderMap,
    tokens: &ApiTokens,
    now: UnixMillis,
) -> Result<Option<DeviceId>, Denied> {
    if access == Access::Open && peer.to_canonical().is_loopback() {
        return Ok(None);
    }
    let (name, scope) = tokens.check(bearer(headers).ok_or(Denied::NoToken)?, now)?;
    match access {
        Access::Open | Access::Read => Ok(Some(name)),
        Access::Admin if scope == Scope::Admin => Ok(Some(name)),
        Access::Admin => Err(Denied::Scope(name)),
        Access::Socket => Err(Denied::SocketOnly(name)),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Stands before every route.
pub async fn guard(
    State((overview, route)): State<(Arc<Overview>, &'static Route)>,
    request: Request,
    next: Next,
) -> Response {
    let door = request.extensions().get::<Door>().copied();
    let peer = match door {
        Some(Door::Socket) => return next.run(request).await,
        Some(Door::Tcp { peer, .. }) => peer,
        None => return refused(StatusCode::FORBIDDEN, "where this came from is not known".to_owned()),
    };
    let authority = &overview.authority;
    let judged = judge(route.access, peer.ip(), request.headers(), &authority.api_tokens, authority.ca.time().now());
    let words = || format!("{} {}", route.method, route.path);
    match judged {
        Ok(token) => {
            let response = next.run(request).await;
            if let Some(token) = token.filter(|_| route.access == Access::Admin) {
                let status = response.status().as_u16();
                overview.audit.record(Event::ApiChange { token, peer: peer.to_string(), route: words(), status });
            }
            response
        }
        Err(denied) => {
            overview.refused_requests.add(denied.label());
            let event = || {
                let (token, reason) = (denied.token().cloned(), denied.to_string());
                Event::ApiRefused { token, peer: peer.to_string(), route: words(), reason }
            };
            match &denied {
                Denied::NoToken => {}
                Denied::Token(ApiTokenRefused::Unknown) => {
                    overview.audit.record_stranger(Stranger::Request, peer.ip(), denied.label(), event);
                }
                Denied::Token(ApiTokenRefused::Expired { .. }) | Denied::Scope(_) | Denied::SocketOnly(_) => {
                    overview.audit.record(event());
                }
            }
            let mut response = refused(denied.status(), denied.to_string());
            if denied.status() == StatusCode::UNAUTHORIZED {
                let how = HeaderValue::from_static("Bearer realm=\"fieldgate\"");
                response.headers_mut().insert(WWW_AUTHENTICATE, how);
            }
            response
        }
    }
}

/// What stands before all of it: the name by which this gateway was asked, and the bounds of a body.
#[derive(Clone)]
pub struct Bounds {
    /// The configured names, beside those of this machine; addresses are always right, since nobody's page can be served under
    /// one.
    pub names: Arc<Current<Vec<String>>>,
    /// How long a body may take to come.
    pub body_within: Duration,
    /// What was refused.
    pub refused: Arc<Refusals>,
}

/// Refuses what was asked of another host, and what is too long or too slow.
pub async fn bounded(State(bounds): State<Bounds>, request: Request, next: Next) -> Response {
    let tcp = !matches!(request.extensions().get::<Door>(), Some(Door::Socket));
    let names = server_names(&bounds.names.get());
    if tcp && !asked_here(request.headers(), &names) {
        bounds.refused.add("host");
        let names = names.join(", ");
        let words =
            format!("the Host header must be an address of this gateway or one of {names}; [broker] names adds names");
        return refused(StatusCode::MISDIRECTED_REQUEST, words);
    }
    let (head, body) = request.into_parts();
    match tokio::time::timeout(bounds.body_within, to_bytes(body, LONGEST_BODY)).await {
        Ok(Ok(bytes)) => next.run(Request::from_parts(head, Body::from(bytes))).await,
        Ok(Err(_)) => {
            bounds.refused.add("body");
            let words = format!("the body can't be read, or is longer than {LONGEST_BODY} bytes");
            refused(StatusCode::PAYLOAD_TOO_LARGE, words)
        }
        Err(_) => {
            bounds.refused.add("slow");
            refused(StatusCode::REQUEST_TIMEOUT, "the body did not come in time".to_owned())
        }
    }
}

fn asked_here(headers: &HeaderMap, names: &[String]) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).and_then(|host| host.parse::<Authority>().ok());
    let Some(host) = host else { return false };
    let host = host.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.parse::<IpAddr>().is_ok() || names.iter().any(|name| name.eq_ignore_ascii_case(host))
}

fn refused(status: StatusCode, words: String) -> Response {
    (status, Json(Refusal { error: words })).into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fieldgate_certs::TimeFloor;
    use fieldgate_store::State as Tables;
    use fieldgate_types::{Clock, ManualClock};

    use super::*;
    use crate::audit::Audit;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn headers(token: Option<&str>) -> HeaderMap {
        let value = token.map(|token| (AUTHORIZATION, format!("bearer {token}").parse().unwrap()));
        value.into_iter().collect()
    }

    #[test]
    fn a_token_opens_what_its_scope_says_and_this_machine_what_is_open() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(UnixMillis(1_800_000_000_000)));
        let state = Arc::new(Tables::open(&folder.path().join("state.db"), Arc::clone(&clock) as _).unwrap());
        let audit = Audit::open(folder.path(), Arc::clone(&state), Arc::clone(&clock) as _).unwrap();
        let tokens = ApiTokens::open(state, audit).unwrap();
        let time = TimeFloor::new(Arc::clone(&clock) as _);
        let name = |text: &str| DeviceId::new(text).unwrap();
        let [read, admin] = [("r", Scope::Read), ("a", Scope::Admin)]
            .map(|(of, scope)| tokens.add(&time, &name(of), scope, HOUR).unwrap().secret.expose().to_owned());
        let here: IpAddr = "::ffff:127.0.0.1".parse().unwrap();
        let there: IpAddr = "192.0.2.7".parse().unwrap();
        let ask = |access, peer, token: Option<&str>| judge(access, peer, &headers(token), &tokens, clock.now());

        assert_eq!(ask(Access::Open, here, None), Ok(None));
        assert_eq!(ask(Access::Open, there, None), Err(Denied::NoToken));
        assert_eq!(ask(Access::Open, there, Some(&read)), Ok(Some(name("r"))));
        for peer in [here, there] {
            for access in [Access::Read, Access::Admin, Access::Socket] {
                assert_eq!(ask(access, peer, None), Err(Denied::NoToken), "{access:?}");
                let unknown = Err(Denied::Token(ApiTokenRefused::Unknown));
                assert_eq!(ask(access, peer, Some("guess")), unknown, "{access:?}");
            }
            assert_eq!(ask(Access::Read, peer, Some(&read)), Ok(Some(name("r"))));
            assert_eq!(ask(Access::Read, peer, Some(&admin)), Ok(Some(name("a"))));
            assert_eq!(ask(Access::Admin, peer, Some(&read)), Err(Denied::Scope(name("r"))));
            assert_eq!(ask(Access::Admin, peer, Some(&admin)), Ok(Some(name("a"))));
            assert_eq!(ask(Access::Socket, peer, Some(&admin)), Err(Denied::SocketOnly(name("a"))));
        }
        clock.advance(HOUR);
        assert!(matches!(ask(Access::Read, here, Some(&read)), Err(Denied::Token(ApiTokenRefused::Expired { .. }))));
    }

    #[test]
    fn a_request_names_this_gateway() {
        let names = ["line-4".to_owned(), "localhost".to_owned()];
        let asked = |host: &str| asked_here(&[(HOST, host.parse().unwrap())].into_iter().collect(), &names);
        for good in ["localhost", "LOCALHOST:9080", "line-4", "127.0.0.1:9080", "[::1]:9080", "192.0.2.7"] {
            assert!(asked(good), "{good}");
        }
        for bad in ["evil.example", "localhost.evil.example:9080", "", "line-4@evil.example", "127.0.0.1.evil.example"]
        {
            assert!(!asked(bad), "{bad}");
        }
        assert!(!asked_here(&HeaderMap::new(), &names));
    }
}
