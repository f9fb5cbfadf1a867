//! From a configuration to a session: discovery, the choice of an endpoint, trust, login.
//!
//! Each connection gets a fresh session and event loop of the library, and neither survives it. So its built-in
//! reconnect, which leaves subscriptions dead without a word (FINDINGS, OPC UA 1 to 4), never runs, and no stale
//! subscription id can meet a server that has given it to somebody else.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fieldgate_types::Clock;
use futures_util::StreamExt;
use opcua::client::transport::TransportPollResult;
use opcua::client::{
    ClientBuilder, ClientConfig, IdentityToken, Session, SessionActivity, SessionBuilder, SessionEventLoop,
    SessionPollResult,
};
use opcua::core::ResponseMessage;
use opcua::crypto::{CertificateStore, SecurityPolicy};
use opcua::sync::RwLock;
use opcua::types::{
    ByteString, DateTime, EndpointDescription, Error, GetEndpointsRequest, MessageSecurityMode, NodeId, RequestHeader,
    StatusCode, UAString, UserTokenPolicy, UserTokenType,
};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::config::{OpcuaConfig, Security, User};
use crate::fault::{Fault, Mend};
use crate::pki::{Pki, PkiError, Verdict};
use crate::room::Room;
use crate::transport::Source;

/// How long the server may take to tell its endpoints, and again to open the session.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long the server may take to answer a request.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// What the library may add before an answer counts as missing.
const GRACE: Duration = Duration::from_secs(1);
/// How long the server keeps a session that was cut off. Short, because small PLCs have two to five in all.
const SESSION_TIMEOUT_MS: u32 = 30_000;
/// How often the server is asked for its state, which also keeps the session.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Unanswered questions in a row after which the connection counts as dead.
const MAX_UNANSWERED: u32 = 2;
/// Elements of an array at most. The library's own limit of 1,000 ends the session for good with servers that ignore
/// how many notifications were asked for at most: asyncua 2.1.0 sends 2,000 first values at once.
const MAX_ARRAY: usize = 65_536;
/// Bytes of a text or byte string at most.
const MAX_TEXT: usize = 1 << 20;
/// Bytes of a message at most: 65,536 values with two times each take less than 3 MiB.
const MAX_MESSAGE: usize = 4 << 20;
/// How long the farewell may take; `run` returns within a second of `stop`.
const FAREWELL: Duration = Duration::from_millis(600);

/// A session that is open, and the task that drives its network.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) session: SharedSession,
    state: watch::Receiver<State>,
    pump: AbortHandle,
    /// The server's certificate, on which the session stands.
    certificate: Option<ByteString>,
}

/// The library's session.
#[derive(Clone)]
pub(crate) struct SharedSession {
    session: Arc<Session>,
    pub(crate) room: Arc<Room>,
}

impl std::ops::Deref for SharedSession {
    type Target = Session;
    fn deref(&self) -> &Session {
        &self.session
    }
}

impl SharedSession {
    /// Waits for an answer, but not without end.
    pub(crate) async fn ask<T>(
        &self,
        step: &'static str,
        request: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Fault> {
        let _asking = self.room.ask();
        // The library has the same limit, and applies it while its network task runs.
        match tokio::time::timeout(REQUEST_LIMIT + GRACE, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) if error.status() != StatusCode::BadTimeout => {
                Err(Fault::Status { step, status: error.status(), mend: None })
            }
            Ok(Err(_)) | Err(_) => Err(Fault::Silent { step, limit: REQUEST_LIMIT }),
        }
    }
}

impl std::fmt::Debug for SharedSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Session")
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Opening,
    Open,
    Closed(StatusCode),
}

impl Connection {
    /// Opens a session as configured.
    pub(crate) async fn open(config: &OpcuaConfig, pki: &Pki, clock: &Arc<dyn Clock>) -> Result<Self, Fault> {
        let (token, password) = identity(config).await?;
        let source = Source::new(config.endpoint.clone());
        let application_uri = match config.security {
            Security::None => "urn:fieldgate".to_owned(),
            Security::Policy { .. } => {
                let (pki, clock_right) = (pki.clone(), clock.plausible());
                blocking(move || pki.own(clock_right)).await?
            }
        };
        let settings = settings(config, pki, application_uri);
        let store = Arc::new(RwLock::new(CertificateStore::new(pki.dir())));
        let offered = discover(config, &settings, &store, &source).await?;
        let endpoint = choose(config, &offered)?;
        let certificate = if config.security == Security::None {
            warn_of_clear_password(config, &endpoint);
            None
        } else {
            judge(config, pki, &endpoint.server_certificate).await?;
            Some(endpoint.server_certificate.clone())
        };

        let step = "opening the session";
        let built = SessionBuilder::new(&settings)
            .connect_to_endpoint_directly(endpoint)
            .map(|builder| builder.user_identity_token(token).with_connector(source.clone()))
            .and_then(|builder| builder.build(store));
        let (session, event_loop) = built.map_err(|error| source.fault(step, error.status()))?;
        let (up, mut state) = watch::channel(State::Opening);
        let room = Room::new();
        let pump = tokio::spawn(pump(event_loop, up, Arc::clone(&room))).abort_handle();
        let opened = state.wait_for(|state| *state != State::Opening);
        let reached = match tokio::time::timeout(CONNECT_LIMIT, opened).await {
            Ok(Ok(state)) => Ok(*state),
            Ok(Err(_)) => Ok(State::Closed(StatusCode::BadUnexpectedError)),
            Err(_) => Err(Fault::Silent { step, limit: CONNECT_LIMIT }),
        };
        let connection = Self { session: SharedSession { session, room }, state, pump, certificate };
        match reached? {
            State::Closed(status) => Err(match source.fault(step, status) {
                // A login may succeed as soon as the password is another.
                Fault::Status { step, status, .. } => Fault::Status { step, status, mend: password },
                fault => fault,
            }),
            State::Opening | State::Open => Ok(connection),
        }
    }

    /// Waits until the connection is lost.
    pub(crate) async fn lost(&mut self) -> Fault {
        let step = "the connection was lost";
        loop {
            if let State::Closed(status) = *self.state.borrow_and_update() {
                return Fault::Status { step, status, mend: None };
            }
            if self.state.changed().await.is_err() {
                return Fault::Status { step, status: StatusCode::BadConnectionClosed, mend: None };
            }
        }
    }

    /// Whether the server's certificate is still trusted: it may have been rejected since.
    pub(crate) async fn trusted(&self, config: &OpcuaConfig, pki: &Pki) -> Result<(), Fault> {
        match &self.certificate {
            Some(certificate) => judge(config, pki, certificate).await,
            None => Ok(()),
        }
    }

    /// Takes leave of the server, so that it frees the session now; not waiting long for it.
    pub(crate) async fn close(self) {
        if matches!(*self.state.borrow(), State::Closed(_)) {
            return;
        }
        // Whether the server heard it makes no difference any more.
        let _heard = tokio::time::timeout(FAREWELL, self.session.disconnect()).await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

/// Drives the library's event loop until the connection ends, for whatever reason: what comes after is a new one.
/// Each turn brings one notification at most, and begins when there is room for it.
async fn pump(event_loop: SessionEventLoop<Source>, up: watch::Sender<State>, room: Arc<Room>) {
    let events = event_loop.enter();
    tokio::pin!(events);
    let mut unanswered = 0;
    let status = loop {
        room.wait().await;
        // Yielding is ours to do: where tokio has an answer wait for the task's next turn, one that came later is taken
        // before it, and notifications swap places.
        tokio::task::consume_budget().await;
        match tokio::task::unconstrained(events.next()).await {
            Some(Ok(SessionPollResult::Reconnected(_))) => {
                up.send_replace(State::Open);
            }
            Some(Ok(SessionPollResult::ConnectionLost(status) | SessionPollResult::ReconnectFailed(status))) => {
                break status;
            }
            Some(Ok(SessionPollResult::SessionActivity(SessionActivity::KeepAliveSucceeded))) => unanswered = 0,
            Some(Ok(SessionPollResult::SessionActivity(SessionActivity::KeepAliveFailed(status)))) => {
                // A server that is not `Running` answers, and its values may be fine: their status tells.
                unanswered = if status == StatusCode::BadServerHalted { 0 } else { unanswered + 1 };
                if unanswered == MAX_UNANSWERED {
                    break status;
                }
            }
            // Traffic, and failures of single publish requests: the watchdog judges those.
            Some(Ok(_)) => {}
            Some(Err(status)) => break status,
            None => break StatusCode::BadConnectionClosed,
        }
    };
    up.send_replace(State::Closed(status));
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PkiError> + Send + 'static,
) -> Result<T, PkiError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(PkiError::BrokeOff))
}

/// Who logs in, and the file whose change is a reason to log in again.
async fn identity(config: &OpcuaConfig) -> Result<(IdentityToken, Option<Mend>), Fault> {
    match &config.user {
        None => Ok((IdentityToken::Anonymous, None)),
        Some(User::Password { name, file }) => {
            let mend = Mend::new(PathBuf::clone(file)).await;
            match tokio::fs::read_to_string(file).await {
                // Editors end the last line; no password ends with a line feed.
                Ok(text) => {
                    let password = text.trim_end_matches(['\n', '\r']).to_owned();
                    Ok((IdentityToken::new_user_name(name.clone(), password), Some(mend)))
                }
                Err(error) => Err(Fault::Password { reason: error.to_string(), mend }),
            }
        }
        Some(User::Certificate { cert, key }) => {
            let mend = Mend::new(PathBuf::clone(cert)).await;
            let (cert, key) = (cert.clone(), key.clone());
            let read = tokio::task::spawn_blocking(move || IdentityToken::new_x509_path(cert, key)).await;
            match read {
                Ok(Ok(token)) => Ok((token, Some(mend))),
                Ok(Err(error)) => Err(Fault::UserCertificate { reason: error.to_string(), mend }),
                Err(_) => Err(PkiError::BrokeOff.into()),
            }
        }
    }
}

fn settings(config: &OpcuaConfig, pki: &Pki, application_uri: String) -> ClientConfig {
    // A publish request waits for the slowest keep-alive, and then for the network.
    let slowest = config.devices.iter().map(|device| device.publishing).max().unwrap_or_default();
    ClientBuilder::new()
        .application_name("Fieldgate")
        .application_uri(application_uri)
        .product_uri("urn:fieldgate")
        .session_name("fieldgate")
        .pki_dir(pki.dir())
        .trust_server_certs(false)
        .verify_server_certs(true)
        .recreate_subscriptions(false)
        // One attempt: retries are the driver's, with a reason and a state for each.
        .session_retry_limit(0)
        .session_timeout(SESSION_TIMEOUT_MS)
        .keep_alive_interval(KEEP_ALIVE)
        .max_failed_keep_alive_count(0)
        .request_timeout(REQUEST_LIMIT)
        .publish_timeout(slowest * 2 + Duration::from_mins(1))
        .min_publish_interval(Duration::from_millis(10))
        .max_array_length(MAX_ARRAY)
        .max_string_length(MAX_TEXT)
        .max_byte_string_length(MAX_TEXT)
        .max_message_size(MAX_MESSAGE)
        // Bounded by the size; a chunk may be as small as 8 KiB (OPC 10000-6 section 7.1.2.3).
        .max_chunk_count(MAX_MESSAGE / 8192)
        .into_config()
}

/// Asks the server for its endpoints, on a connection of its own and without security (OPC 10000-4 section 5.5.4).
/// What it says is not protected: only its certificate is used, after it was judged, and the ids of login policies.
async fn discover(
    config: &OpcuaConfig,
    settings: &ClientConfig,
    store: &Arc<RwLock<CertificateStore>>,
    source: &Source,
) -> Result<Vec<EndpointDescription>, Fault> {
    let step = "asking for its endpoints";
    let plain: EndpointDescription =
        (config.endpoint.url(), SecurityPolicy::None.to_str(), MessageSecurityMode::None, UserTokenPolicy::anonymous())
            .into();
    let ask = async {
        let channel =
            SessionBuilder::new(settings).connect_to_endpoint_directly(plain)?.build_channel(Arc::clone(store))?;
        let mut network = channel.connect_no_retry(source).await?;
        let request = GetEndpointsRequest {
            request_header: RequestHeader::new(&NodeId::null(), &DateTime::now(), 1),
            endpoint_url: UAString::from(config.endpoint.url()),
            locale_ids: None,
            profile_uris: None,
        };
        let answer = {
            let answer = channel.send(request, REQUEST_LIMIT);
            tokio::pin!(answer);
            loop {
                tokio::select! {
                    answer = &mut answer => break answer?,
                    event = network.poll() => if let TransportPollResult::Closed(status) = event {
                        return Err(Error::new(status, "the connection was closed"));
                    }
                }
            }
        };
        // The server frees the channel when it sees the connection close.
        match answer {
            ResponseMessage::GetEndpoints(answer) => Ok(answer.endpoints.unwrap_or_default()),
            _ => Err(Error::new(StatusCode::BadUnknownResponse, "not a list of endpoints")),
        }
    };
    match tokio::time::timeout(CONNECT_LIMIT, ask).await {
        Ok(answer) => answer.map_err(|error| source.fault(step, error.status())),
        Err(_) => Err(Fault::Silent { step, limit: CONNECT_LIMIT }),
    }
}

/// The endpoint with the configured security. Its URL becomes the configured one: many servers tell a host name that
/// means nothing elsewhere, and the host-name check has to be about what the user wrote.
fn choose(config: &OpcuaConfig, offered: &[EndpointDescription]) -> Result<EndpointDescription, Fault> {
    let (policy, mode) = (config.security.policy(), config.security.mode());
    let fits = |endpoint: &&EndpointDescription| {
        endpoint.security_policy_uri.as_ref() == policy.to_uri() && endpoint.security_mode == mode
    };
    let wanted_token = match config.user {
        Some(User::Password { .. }) => UserTokenType::UserName,
        Some(User::Certificate { .. }) => UserTokenType::Certificate,
        None => UserTokenType::Anonymous,
    };
    let found = offered.iter().filter(fits).max_by_key(|endpoint| endpoint.find_policy(wanted_token).is_some());
    let Some(found) = found else {
        let name = |endpoint: &EndpointDescription| {
            let uri: &str = endpoint.security_policy_uri.as_ref();
            // Anybody may have sent this: nothing that could write on a terminal.
            let policy = uri.rsplit('#').next().unwrap_or_default().chars().filter(char::is_ascii_graphic).take(40);
            format!("{}/{}", policy.collect::<String>(), endpoint.security_mode)
        };
        let mut names: Vec<String> = offered.iter().map(name).collect();
        names.dedup();
        names.truncate(12);
        let offered = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        return Err(Fault::NoEndpoint { wanted: format!("{}/{mode}", policy.to_str()), offered });
    };
    Ok(EndpointDescription { endpoint_url: UAString::from(config.endpoint.url()), ..found.clone() })
}

async fn judge(config: &OpcuaConfig, pki: &Pki, certificate: &ByteString) -> Result<(), Fault> {
    let (certificate, pki) = (certificate.clone(), pki.clone());
    let (endpoint, trust) = (config.endpoint.url().to_owned(), config.trust);
    match blocking(move || pki.judge(&certificate, &endpoint, trust)).await? {
        Verdict::Accepted => Ok(()),
        Verdict::Refused { reason, accept_at } => Err(Fault::Untrusted { reason, mend: Mend::new(accept_at).await }),
        Verdict::Unreadable => Err(Fault::CertificateUnreadable),
    }
}

/// Without security, the password is encrypted only if the server's login policy asks for it.
fn warn_of_clear_password(config: &OpcuaConfig, endpoint: &EndpointDescription) {
    if !matches!(config.user, Some(User::Password { .. })) {
        return;
    }
    let clear = endpoint.find_policy(UserTokenType::UserName).is_none_or(|policy| {
        policy.security_policy_uri.is_empty() || policy.security_policy_uri.as_ref() == SecurityPolicy::None.to_uri()
    });
    if clear {
        warn!(link = %config.endpoint, "opcua password travels in clear text, use another security than None");
    }
}

/// Runs `work` unless `stop` comes first.
pub(crate) async fn unless<T>(stop: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = stop.cancelled() => None,
        done = work => Some(done),
    }
}
