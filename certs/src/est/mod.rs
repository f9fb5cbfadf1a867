//! Enrolment over Secure Transport (RFC 7030, with RFC 8951): what is answered to which request. No sockets, no HTTP
//! library: a request's parts come in, an answer's parts and an event for the audit log go out, so that any listener can
//! stand around it.
//!
//! - `cacerts`: the trust bundle, to anybody.
//! - `simpleenroll`: HTTP Basic with the id and its one-time token, and a signing request, of which the public key alone
//!   counts; the answer is the leaf alone. The token is used up when the certificate is in the registry, so a request
//!   that is refused costs no token, and a crash in between hands nothing out twice.
//! - `simplereenroll`: over mTLS with a certificate of our own in force. From two thirds of its life on as often as a
//!   device may need, before that once a day.
//! - `csrattrs`: nothing is asked for (204).
//!
//! Server-side key generation and full CMC are not offered (404). Not here: which addresses may ask, and how many
//! connections there are (the listener), rows (the caller), revocation of what is lost (`fieldgate device revoke`).

mod answer;
mod limit;
mod pkcs7;
mod token;

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fieldgate_types::{Current, DeviceId, UnixMillis};
use rustls_pki_types::CertificateDer;
use thiserror::Error;

pub use answer::Answer;
pub use token::{TOKEN_LIFE, Token, TokenError, TokenHash, TokenRecord, TokenRefused, TokenStore, random_token};

use crate::encoding::certificates_from_pem;
use crate::identify::Origin;
use crate::{
    Ca, CertificateKey, CertificateRecord, Fingerprint, IssueError, Issued, Refused, Registry, Role, csr, life,
};
use limit::{Allowance, Limiter};

/// 365 days: `[certs] est_validity` unless configured.
pub const EST_VALIDITY: Duration = Duration::from_hours(365 * 24);
/// The longest body that is read: more than any honest signing request in base64. The listener closes longer ones.
pub const LONGEST_BODY: usize = 64 * 1024;

/// Wrong tokens per id.
const WRONG: Allowance = Allowance { times: 5, window: Duration::from_secs(60) };
/// Renewals per id before two thirds of the life are over, and after. Both are generous to a device that loses answers, and
/// keep one that renews in a loop from filling the registry.
const EARLY: Allowance = Allowance { times: 1, window: Duration::from_hours(24) };
const DUE: Allowance = Allowance { times: 6, window: Duration::from_hours(24) };
/// Ids whose attempts are counted at the same time: about 400 KB.
const MOST_IDS: usize = 4096;

/// A request's parts, as any HTTP library has them.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// `GET`, `POST`, …
    pub method: &'a str,
    /// With or without a query.
    pub path: &'a str,
    /// The header of that name.
    pub authorization: Option<&'a str>,
    /// The body, whole. PKCS #10 in base64, PEM or DER; its content type doesn't matter.
    pub body: &'a [u8],
    /// What the TLS connection has as the client's certificates, leaf first; empty for none.
    pub peer: &'a [CertificateDer<'a>],
}

/// What happened, for the audit log.
#[derive(Debug)]
pub enum Event {
    /// A device got a certificate with its token.
    Enrolled {
        /// As the registry holds it.
        record: CertificateRecord,
    },
    /// A device renewed.
    Renewed {
        /// As the registry holds it.
        record: CertificateRecord,
        /// In whose place.
        replaces: CertificateKey,
        /// How old that one was.
        stage: crate::Stage,
    },
    /// A certificate was asked for, and not given.
    Refused {
        /// Who it claims, or, for renewals, proves to be.
        device: Option<DeviceId>,
        /// Why.
        reason: EstRefused,
    },
}

/// Why no certificate was given.
#[derive(Debug, Error)]
pub enum EstRefused {
    /// No user name and token.
    #[error("no id and token were given: use HTTP Basic with both")]
    NoCredentials,
    /// The user name is no id.
    #[error("the user name is not a device id")]
    NotAnId,
    /// The token is not good.
    #[error(transparent)]
    Token(#[from] TokenRefused),
    /// Another request with the same token is being answered.
    #[error("the token of `{id}` is being used by another request")]
    Busy {
        /// Who it claims to be.
        id: DeviceId,
    },
    /// The device was revoked after its token was made.
    #[error("`{id}` is revoked: `fieldgate device token {id}` takes it back")]
    Barred {
        /// Whose token it is.
        id: DeviceId,
        /// Since when.
        since: UnixMillis,
    },
    /// The certificate by which it came is not good.
    #[error(transparent)]
    Peer(#[from] Refused),
    /// Its certificate is not ours to renew.
    #[error("the certificate of `{id}` is not from this gateway's CA: renew it where it came from")]
    NotOurs {
        /// Who it is.
        id: DeviceId,
    },
    /// It renews too often.
    #[error("`{id}` has renewed just now: the next time is in {} s", wait.as_secs().max(1))]
    TooOften {
        /// Who it is.
        id: DeviceId,
        /// How long to wait.
        wait: Duration,
    },
    /// The request can't be fulfilled.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The body is too long.
    #[error("the request is longer than {LONGEST_BODY} bytes")]
    TooLong,
}

impl EstRefused {
    /// One of a closed set of words, for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NoCredentials => "no-credentials",
            Self::NotAnId => "not-an-id",
            Self::Token(refused) => refused.label(),
            Self::Busy { .. } => "busy",
            Self::Barred { .. } => "revoked",
            Self::Peer(refused) => refused.label(),
            Self::NotOurs { .. } => "not-ours",
            Self::TooOften { .. } => "too-often",
            Self::Issue(_) => "not-issued",
            Self::TooLong => "too-long",
        }
    }

    /// Whether anybody could have caused it: nothing, neither a token nor a certificate, has proven who it was.
    pub fn is_of_a_stranger(&self) -> bool {
        match self {
            Self::NoCredentials | Self::NotAnId => true,
            Self::Token(refused) => refused.is_of_a_stranger(),
            Self::Peer(refused) => refused.device().is_none(),
            // Looked at after one of both was good.
            Self::Busy { .. }
            | Self::Barred { .. }
            | Self::NotOurs { .. }
            | Self::TooOften { .. }
            | Self::Issue(_)
            | Self::TooLong => false,
        }
    }
}

/// Answers EST requests. One per gateway; it counts attempts.
#[derive(Debug)]
pub struct Enrolment {
    validity: Current<Duration>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    wrong: Limiter<DeviceId>,
    early: Limiter<DeviceId>,
    due: Limiter<DeviceId>,
    /// Tokens that are being used: at most one per thread that answers.
    busy: BTreeSet<DeviceId>,
}

/// What answering needs.
#[derive(Clone, Copy)]
pub struct Desk<'a> {
    /// Who signs.
    pub ca: &'a Ca,
    /// Where certificates are remembered.
    pub registry: &'a dyn Registry,
    /// Where tokens are remembered.
    pub tokens: &'a dyn TokenStore,
}

impl Enrolment {
    /// `validity`: of certificates given here, where nothing else was said for a device.
    pub fn new(validity: Duration) -> Self {
        let state = State {
            wrong: Limiter::new(WRONG, MOST_IDS),
            early: Limiter::new(EARLY, MOST_IDS),
            due: Limiter::new(DUE, MOST_IDS),
            busy: BTreeSet::new(),
        };
        Self { validity: Current::new(validity), state: Mutex::new(state) }
    }

    /// Another validity from now on.
    pub fn set_validity(&self, validity: Duration) {
        self.validity.set(validity);
    }

    /// A one-time token for `id`, kept when this returns, in the place of one given before. The caller has made the id
    /// known to the registry. Waits for the disk.
    pub fn token(
        &self,
        desk: Desk<'_>,
        id: &DeviceId,
        role: Role,
        validity: Option<Duration>,
    ) -> Result<Token, TokenError> {
        token::create(desk.tokens, &desk.ca.time, id, role, validity)
    }

    /// Answers. Waits for the disk when a certificate is given: not for an async worker.
    pub fn answer(&self, desk: Desk<'_>, request: &Request<'_>) -> (Answer, Option<Event>) {
        let path = request.path.split('?').next().unwrap_or_default();
        let Some(operation) = path.strip_prefix("/.well-known/est/") else { return (Answer::not_found(), None) };
        let (method, result) = match operation {
            "cacerts" => ("GET", None),
            "csrattrs" => ("GET", Some(Answer::no_content())),
            "simpleenroll" | "simplereenroll" => ("POST", None),
            _ => return (Answer::not_found(), None),
        };
        if request.method != method && !(method == "GET" && request.method == "HEAD") {
            return (Answer::method_not_allowed(method), None);
        }
        if let Some(answer) = result {
            return (answer, None);
        }
        let given = match operation {
            "cacerts" => return (cacerts(desk.ca), None),
            "simpleenroll" => self.enrol(desk, request),
            _ => self.renew(desk, request),
        };
        match given {
            Ok((issued, event)) => (leaf(&issued), Some(event)),
            Err((device, reason)) => (Answer::refusal(&reason), Some(Event::Refused { device, reason })),
        }
    }

    fn enrol(&self, desk: Desk<'_>, request: &Request<'_>) -> Result<(Issued, Event), Refusal> {
        let nobody = |reason| (None, reason);
        let (name, token) = request.authorization.and_then(answer::basic).ok_or(nobody(EstRefused::NoCredentials))?;
        let id = DeviceId::new(&name).map_err(|_| nobody(EstRefused::NotAnId))?;
        let of = |reason| (Some(id.clone()), reason);
        let running = desk.ca.time.running();

        // Counted as wrong until it is known to be right, so that many at once are no way around the limit.
        let taken = self.state().wrong.take(&id, running);
        taken.map_err(|wait| of(TokenRefused::Limited { id: id.clone(), wait }.into()))?;
        let row = token::check(desk.tokens, &id, &token, desk.ca.time.now()).map_err(|refused| of(refused.into()))?;
        self.state().wrong.give_back(&id);
        if request.body.len() > LONGEST_BODY {
            return Err(of(EstRefused::TooLong));
        }
        if let Some(since) = desk.registry.barred(&id) {
            return Err(of(EstRefused::Barred { id: id.clone(), since }));
        }
        let busy = Busy::claim(self, &id).ok_or_else(|| of(EstRefused::Busy { id: id.clone() }))?;
        // Another request may have used it between the check and the claim.
        let row =
            token::check(desk.tokens, &row.device, &token, desk.ca.time.now()).map_err(|refused| of(refused.into()))?;
        let validity = row.validity.unwrap_or(*self.validity.get());
        let issued = desk.ca.issue_from_csr(desk.registry, request.body, &row.device, row.role, validity);
        let issued = issued.map_err(|error| of(error.into()))?;
        let used = TokenRecord { used: Some(desk.ca.time.now()), ..row };
        desk.tokens.keep(&used).map_err(|error| of(IssueError::Registry(error).into()))?;
        drop(busy);
        let event = Event::Enrolled { record: issued.record.clone() };
        Ok((issued, event))
    }

    fn renew(&self, desk: Desk<'_>, request: &Request<'_>) -> Result<(Issued, Event), Refusal> {
        let now = desk.ca.time.now();
        let peer = desk.ca.identify(request.peer, desk.registry, now).map_err(|refused| {
            let device = refused.device().cloned();
            (device, refused.into())
        })?;
        let of = |reason| (Some(peer.id.clone()), reason);
        if peer.origin != Origin::Own {
            return Err(of(EstRefused::NotOurs { id: peer.id.clone() }));
        }
        if request.body.len() > LONGEST_BODY {
            return Err(of(EstRefused::TooLong));
        }
        let running = desk.ca.time.running();
        let due = peer.life().past(life::RENEW, now);
        // A request that can't be read costs nothing.
        csr::public_key(request.body).map_err(|error| of(error.into()))?;
        let taken =
            if due { self.state().due.take(&peer.id, running) } else { self.state().early.take(&peer.id, running) };
        taken.map_err(|wait| of(EstRefused::TooOften { id: peer.id.clone(), wait }))?;
        let validity = desk.registry.validity(&peer.id).unwrap_or(*self.validity.get());
        let issued = desk.ca.renew_from_csr(desk.registry, request.body, &peer, validity);
        let issued = issued.map_err(|error| of(error.into()))?;
        let event = Event::Renewed {
            record: issued.record.clone(),
            replaces: CertificateKey { issuer: peer.issuer, serial: peer.serial.clone() },
            stage: peer.life().stage(now),
        };
        Ok((issued, event))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Refusal = (Option<DeviceId>, EstRefused);

/// A token that is being used, until dropped.
struct Busy<'a> {
    enrolment: &'a Enrolment,
    id: DeviceId,
}

impl<'a> Busy<'a> {
    /// `None` when somebody has it.
    fn claim(enrolment: &'a Enrolment, id: &DeviceId) -> Option<Self> {
        enrolment.state().busy.insert(id.clone()).then(|| Self { enrolment, id: id.clone() })
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.enrolment.state().busy.remove(&self.id);
    }
}

fn cacerts(ca: &Ca) -> Answer {
    Answer::certificates(&pkcs7::certs_only(ca.trust.get().bundle(ca.time.now())))
}

/// The leaf alone: chains are completed by the server from its own issuing CAs.
fn leaf(issued: &Issued) -> Answer {
    let certificates = certificates_from_pem(issued.certificate_pem.as_bytes()).unwrap_or_default();
    debug_assert_eq!(certificates.first().map(|der| Fingerprint::of(der)), Some(issued.record.fingerprint));
    Answer::certificates(&pkcs7::certs_only(certificates.first()))
}
