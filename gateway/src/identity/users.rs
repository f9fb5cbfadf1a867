//! `[[broker.user]]`: who comes in with a password, where there is no certificate.
//!
//! Two passwords are checked at a time, some wait, and what comes on top is told to come back (`trial`). An unknown name
//! costs the same as a known one, and is answered the same.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use fieldgate_broker::Refusal;
use fieldgate_certs::Role;
use fieldgate_types::{Clock, Current, DeviceId, Section};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::password::{HashError, PasswordHash};
use super::throttle::{self, Try};
use super::trial::{TrialRefused, Trials};

/// Checks at a time.
const COMPUTING: usize = 2;
/// Checks at a time and those that wait for them. Full: refused, "server busy".
const PLACES: usize = 256;

/// CONNACK reason codes of MQTT 5; on 3.1.1 both are "server unavailable".
const BUSY: u8 = 0x89;
const TOO_OFTEN: u8 = 0x9F;

/// `[[broker.user]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its name, which is its id too.
    pub name: DeviceId,
    /// Its password.
    pub hash: PasswordHash,
    /// `app` or `device`
    pub role: Role,
}

impl User {
    /// Reads a `[[broker.user]]`.
    pub fn read(section: &Section) -> Option<Self> {
        let name = section.required("name");
        let roles = [("app", Role::App), ("device", Role::Device)];
        let role = section.choice("role", &roles, Role::App);
        let hash = section.required_file("password_hash_file").and_then(|(path, text)| {
            let hash = PasswordHash::parse(&text);
            let complain = |error: &super::password::BadHash| {
                let path = path.display();
                section.problem(
                    "password_hash_file",
                    format_args!("what stands in `{path}` {error}: `fieldgate user hash --out {path}` makes one"),
                );
            };
            hash.inspect_err(complain).ok()
        });
        Some(Self { name: name?, hash: hash?, role })
    }
}

/// Who there is.
#[derive(Debug)]
pub struct Known {
    by_name: BTreeMap<DeviceId, User>,
    /// For names that nobody has; `None` when there are no users, and nothing to hide.
    nobody: Option<PasswordHash>,
}

impl Known {
    /// These.
    pub fn new(users: &[User]) -> Result<Self, HashError> {
        let dearest = users.iter().map(|user| &user.hash).max_by_key(|hash| hash.cost());
        let nobody = dearest.map(PasswordHash::of_nobody).transpose()?;
        Ok(Self { by_name: users.iter().map(|user| (user.name.clone(), user.clone())).collect(), nobody })
    }
}

/// All users.
pub struct Users {
    known: Current<Known>,
    trials: Arc<Trials>,
}

impl Users {
    /// These.
    pub fn new(users: &[User], clock: Arc<dyn Clock>) -> Result<Self, HashError> {
        let trials = Arc::new(Trials::new(COMPUTING, PLACES, clock));
        Ok(Self { known: Current::new(Known::new(users)?), trials })
    }

    /// From now on these. Wrong passwords stay counted.
    pub fn replace(&self, known: Known) {
        self.known.set(known);
    }

    /// The role of a user.
    pub fn role(&self, name: &str) -> Option<Role> {
        self.known.get().by_name.get(name).map(|user| user.role)
    }

    /// All of them, by name.
    pub fn all(&self) -> Vec<User> {
        self.known.get().by_name.values().cloned().collect()
    }

    /// Checks a password; the user's role.
    pub fn check(
        self: &Arc<Self>,
        name: &str,
        password: &[u8],
        peer: SocketAddr,
    ) -> BoxFuture<'static, Result<Role, Refusal>> {
        let (users, password) = (Arc::clone(self), password.to_vec());
        // What no user can be called is all one, and not repeated in logs.
        let name = DeviceId::new(name).ok();
        let key: Try = (name.as_ref().map_or("", DeviceId::as_str).into(), throttle::from(peer.ip()));
        async move { users.check_one(name, password, key).await }.boxed()
    }

    async fn check_one(self: Arc<Self>, name: Option<DeviceId>, password: Vec<u8>, key: Try) -> Result<Role, Refusal> {
        let shown = name.as_ref().map_or_else(String::new, |name| format!("user `{name}`: "));
        let users = Arc::clone(&self);
        let who = move || {
            let known = users.known.get();
            let user = name.as_ref().and_then(|name| known.by_name.get(name));
            (user.map(|user| &user.hash).or(known.nobody.as_ref()).cloned(), user.map(|user| user.role))
        };
        match self.trials.check(key, password, who).await {
            Ok(Some(role)) => Ok(role),
            Ok(None) => Err(Refusal::new(format!("{shown}wrong user name or password"))),
            Err(TrialRefused::Busy) => {
                Err(Refusal::with_code(BUSY, format!("{shown}too many passwords to check, try again")))
            }
            Err(TrialRefused::TooOften(wait)) => {
                let seconds = wait.as_secs() + 1;
                Err(Refusal::with_code(TOO_OFTEN, format!("{shown}too many wrong passwords, try again in {seconds} s")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use fieldgate_types::{ManualClock, UnixMillis};

    use super::*;

    fn users() -> (Arc<Users>, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::new(UnixMillis(0)));
        let hash = PasswordHash::make(b"secret").unwrap();
        let user = User { name: DeviceId::new("hmi").unwrap(), hash, role: Role::App };
        (Arc::new(Users::new(&[user], Arc::clone(&clock) as _).unwrap()), clock)
    }

    fn peer(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 4_000))
    }

    #[tokio::test]
    async fn unknown_names_and_wrong_passwords_are_answered_alike_and_cost_alike() {
        let (users, _) = users();
        let mut took = Vec::new();
        for (name, password) in [("hmi", "wrong"), ("nobody", "secret"), ("../x", "secret")] {
            let began = Instant::now();
            let refusal = users.check(name, password.as_bytes(), peer(1)).await.unwrap_err();
            took.push(began.elapsed());
            assert!(refusal.words.ends_with("wrong user name or password") && refusal.code.is_none(), "{refusal:?}");
            assert!(!refusal.words.contains("../"), "{refusal:?}");
        }
        // Computing is what takes the time; a name that is not computed for would answer in microseconds.
        assert!(took.iter().all(|took| *took > Duration::from_millis(2)), "{took:?}");
        assert_eq!(users.check("hmi", b"secret", peer(1)).await, Ok(Role::App));
    }

    #[tokio::test]
    async fn the_sixth_wrong_password_is_not_looked_at_even_when_all_come_at_once() {
        let (users, clock) = users();
        let wrong = (0..20).map(|_| users.check("hmi", b"wrong", peer(1)));
        let answers = futures_util::future::join_all(wrong).await;
        let codes = answers.iter().filter(|answer| matches!(answer, Err(refusal) if refusal.code == Some(TOO_OFTEN)));
        // Two compute at a time, so one more than five may slip through.
        assert!(codes.clone().count() >= 14, "{answers:?}");
        let refused = users.check("hmi", b"secret", peer(1)).await.unwrap_err();
        assert_eq!(refused.code, Some(TOO_OFTEN));
        assert_eq!(users.check("hmi", b"secret", peer(2)).await, Ok(Role::App), "from elsewhere");
        clock.advance(Duration::from_secs(61));
        assert_eq!(users.check("hmi", b"secret", peer(1)).await, Ok(Role::App));
    }

    #[tokio::test]
    async fn more_than_can_wait_are_told_to_come_back() {
        let (users, _) = users();
        let held = Arc::clone(&users.trials.places).acquire_many_owned(u32::try_from(PLACES).unwrap()).await.unwrap();
        assert_eq!(users.check("hmi", b"secret", peer(1)).await.unwrap_err().code, Some(BUSY));
        drop(held);
        assert_eq!(users.check("hmi", b"secret", peer(1)).await, Ok(Role::App));
    }
}
