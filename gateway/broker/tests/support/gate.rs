//! A gate whose answers a test sets: default rights of devices, revocations, commits that wait.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use fieldgate_broker::{
    CommitError, Decision, Durable, Event, Gate, Identity, MemorySessions, Message, Refusal, Role, topic,
};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rustls::pki_types::CertificateDer;
use tokio::sync::oneshot;

type Outcome = Result<(), CommitError>;

#[derive(Default)]
pub struct TestGate {
    sessions: Arc<MemorySessions>,
    state: Mutex<State>,
    /// Called once, when somebody asks whether it may publish: something that happens in the middle of a connection's work.
    meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

#[derive(Default)]
struct State {
    roles: HashMap<String, Role>,
    /// Password users and their passwords.
    users: HashMap<String, String>,
    revoked: HashSet<String>,
    unknown: HashSet<String>,
    /// Further filters: (id, filter), for both directions.
    policies: Vec<(String, String)>,
    /// Whether commits wait to be let through.
    hold: bool,
    held: VecDeque<oneshot::Sender<Outcome>>,
    /// Whose commits never wait.
    spared: HashSet<String>,
    fail: Option<CommitError>,
    events: Vec<Event>,
    committed: Vec<Message>,
}

impl TestGate {
    pub fn new(sessions: Arc<MemorySessions>) -> Self {
        Self { sessions, state: Mutex::default(), meanwhile: Mutex::default() }
    }

    /// The same answers, other rows.
    pub fn with_rows(&self, sessions: Arc<MemorySessions>) -> Self {
        let state = self.state.lock().unwrap();
        let (roles, revoked) = (state.roles.clone(), state.revoked.clone());
        let (unknown, policies) = (state.unknown.clone(), state.policies.clone());
        let state = Mutex::new(State { roles, revoked, unknown, policies, ..State::default() });
        Self { sessions, state, meanwhile: Mutex::default() }
    }

    /// Runs when next somebody asks whether it may publish.
    pub fn meanwhile(&self, happens: impl FnOnce() + Send + 'static) {
        *self.meanwhile.lock().unwrap() = Some(Box::new(happens));
    }

    pub fn role(&self, id: &str, role: Role) {
        self.state.lock().unwrap().roles.insert(id.to_owned(), role);
    }

    pub fn user(&self, name: &str, password: &str) {
        self.state.lock().unwrap().users.insert(name.to_owned(), password.to_owned());
    }

    pub fn allow(&self, id: &str, filter: &str) {
        self.state.lock().unwrap().policies.push((id.to_owned(), filter.to_owned()));
    }

    pub fn withdraw(&self, id: &str) {
        self.state.lock().unwrap().policies.retain(|(of, _)| of != id);
    }

    pub fn revoke(&self, id: &str) {
        self.state.lock().unwrap().revoked.insert(id.to_owned());
    }

    /// `identify` refuses this id.
    pub fn forget(&self, id: &str) {
        self.state.lock().unwrap().unknown.insert(id.to_owned());
    }

    /// From now on commits wait.
    pub fn hold(&self) {
        self.state.lock().unwrap().hold = true;
    }

    /// Commits of this id don't wait with the others.
    pub fn spare(&self, id: &str) {
        self.state.lock().unwrap().spared.insert(id.to_owned());
    }

    /// From now on commits fail.
    pub fn fail(&self, error: Option<CommitError>) {
        self.state.lock().unwrap().fail = error;
    }

    /// Number of commits that wait.
    pub fn held(&self) -> usize {
        self.state.lock().unwrap().held.len()
    }

    /// Lets the oldest waiting commit through.
    pub fn let_through(&self, outcome: Outcome) {
        let sender = self.state.lock().unwrap().held.pop_front().unwrap();
        // The connection may be gone.
        drop(sender.send(outcome));
    }

    pub fn committed(&self) -> Vec<Message> {
        self.state.lock().unwrap().committed.clone()
    }

    pub fn events(&self) -> Vec<Event> {
        self.state.lock().unwrap().events.clone()
    }

    pub fn saw(&self, wanted: impl Fn(&Event) -> bool) -> bool {
        self.state.lock().unwrap().events.iter().any(wanted)
    }
}

impl Gate for TestGate {
    fn identify(&self, chain: &[CertificateDer<'_>], _peer: SocketAddr) -> Result<Identity, Refusal> {
        let leaf = chain.first().ok_or_else(|| Refusal::new("no certificate"))?;
        // The URI SAN, with its DER length in front.
        let prefix = b"urn:fieldgate:device:";
        let at = leaf.windows(prefix.len()).position(|window| window == prefix);
        let at = at.ok_or_else(|| Refusal::new("no identity in the certificate"))?;
        let uri = &leaf[at..at + usize::from(leaf[at - 1])];
        let id = String::from_utf8(uri[prefix.len()..].to_vec()).unwrap();
        let state = self.state.lock().unwrap();
        if state.unknown.contains(&id) {
            return Err(Refusal::new("unknown device"));
        }
        let role = state.roles.get(&id).copied().unwrap_or(Role::Device);
        Ok(Identity { id: id.into(), role, fingerprint: None, not_after: None })
    }

    fn identify_user(
        &self,
        name: &str,
        password: &[u8],
        _peer: SocketAddr,
    ) -> BoxFuture<'static, Result<Identity, Refusal>> {
        let state = self.state.lock().unwrap();
        let right = state.users.get(name).is_some_and(|right| right.as_bytes() == password);
        let role = state.roles.get(name).copied().unwrap_or(Role::App);
        let identity = Identity { id: name.into(), role, fingerprint: None, not_after: None };
        async move { if right { Ok(identity) } else { Err(Refusal::new("wrong user name or password")) } }.boxed()
    }

    fn still_valid(&self, who: &Identity) -> Result<(), Refusal> {
        let revoked = self.state.lock().unwrap().revoked.contains(&*who.id);
        if revoked { Err(Refusal::new("revoked")) } else { Ok(()) }
    }

    fn rename(&self, who: &Identity, name: &str) -> Option<Arc<str>> {
        let stream = name.strip_prefix("old/")?;
        Some(format!("devices/{}/telemetry/{stream}", who.id).into())
    }

    fn may_publish(&self, who: &Identity, name: &str) -> Decision {
        let happens = self.meanwhile.lock().unwrap().take();
        if let Some(happens) = happens {
            happens();
        }
        let own = [format!("devices/{}/telemetry/#", who.id), format!("devices/{}/commands/+/+/result", who.id)];
        self.decide(who, own.iter().any(|filter| topic::matches(filter, name)), |filter| topic::matches(filter, name))
    }

    fn may_subscribe(&self, who: &Identity, filter: &str) -> Decision {
        let own = topic::covers(&format!("devices/{}/#", who.id), filter);
        self.decide(who, own, |allowed| topic::covers(allowed, filter))
    }

    fn may_receive(&self, who: &Identity, name: &str) -> Decision {
        let own = topic::matches(&format!("devices/{}/#", who.id), name);
        self.decide(who, own, |filter| topic::matches(filter, name))
    }

    fn commit(
        &self,
        who: &Identity,
        message: &Message,
        durable: &Durable<'_>,
    ) -> Option<BoxFuture<'static, Result<(), CommitError>>> {
        let mut state = self.state.lock().unwrap();
        state.committed.push(message.clone());
        if let Some(error) = state.fail.clone() {
            return Some(async move { Err(error) }.boxed());
        }
        self.sessions.apply(durable.changes);
        if !state.hold || state.spared.contains(&*who.id) {
            return (!durable.changes.is_empty()).then(|| async { Ok(()) }.boxed());
        }
        let (sender, receiver) = oneshot::channel();
        state.held.push_back(sender);
        Some(async move { receiver.await.unwrap_or_else(|_| Err(CommitError::Failed("gone".to_owned()))) }.boxed())
    }

    fn event(&self, event: Event) {
        self.state.lock().unwrap().events.push(event);
    }
}

impl TestGate {
    fn decide(&self, who: &Identity, own: bool, matches: impl Fn(&str) -> bool) -> Decision {
        let state = self.state.lock().unwrap();
        let by_policy = state.policies.iter().any(|(id, filter)| **id == *who.id && matches(filter));
        if own || by_policy { Decision::Allow } else { Decision::Deny }
    }
}
