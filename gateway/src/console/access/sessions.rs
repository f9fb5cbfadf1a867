//! Who is signed in. In memory alone: a restart ends all sessions, and signing in writes nothing to the flash.
//!
//! A session has a key of 256 random bits, of which its SHA-256 is kept, and a token for forms. It ends 30 minutes after
//! its last request, after twelve hours, at the sign-out, and when its account changes: it holds the account as it was
//! at the sign-in, which a change replaces.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use fieldgate_certs::est::TokenHash;
use fieldgate_types::{Clock, Secret};
use ring::rand::{SecureRandom, SystemRandom};

use crate::identity::account::{Account, Accounts};

/// Without a request.
pub const IDLE: Duration = Duration::from_secs(30 * 60);
/// In all.
pub const LIFE: Duration = Duration::from_secs(12 * 3_600);
/// Of one account at a time. Full: its one that was idle for longest ends. There are at most 100 accounts.
const MOST: usize = 16;

#[derive(Debug)]
struct Held {
    account: Arc<Account>,
    form_token: Secret,
    began: Duration,
    seen: Duration,
}

/// A session that was found.
#[derive(Debug, Clone)]
pub struct Session {
    /// Its place.
    pub hash: TokenHash,
    /// Whose.
    pub account: Arc<Account>,
    /// What its forms carry.
    pub form_token: Secret,
}

/// All sessions.
pub struct Sessions {
    held: Mutex<HashMap<TokenHash, Held>>,
    clock: Arc<dyn Clock>,
}

impl Sessions {
    /// None yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { held: Mutex::default(), clock }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<TokenHash, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new session; its key, which is kept nowhere. `None` where the system has no random numbers to give.
    pub fn begin(&self, account: &Arc<Account>) -> Option<Secret> {
        let (key, form_token) = (random_key()?, random_key()?);
        let now = self.clock.monotonic();
        let mut held = self.held();
        held.retain(|_, session| !session.over(now));
        let own = held.iter().filter(|(_, session)| session.account.name == account.name);
        if own.clone().count() >= MOST
            && let Some(oldest) = own.min_by_key(|(_, session)| session.seen).map(|(hash, _)| *hash)
        {
            held.remove(&oldest);
        }
        let session = Held { account: Arc::clone(account), form_token, began: now, seen: now };
        held.insert(TokenHash::of(key.expose()), session);
        Some(key)
    }

    /// The session of that key, if it is not over. With `active`, somebody has done something with it.
    pub fn find(&self, key: &str, active: bool, accounts: &Accounts) -> Option<Session> {
        let hash = TokenHash::of(key);
        let now = self.clock.monotonic();
        let mut held = self.held();
        let session = held.get_mut(&hash)?;
        if session.over(now) || !session.is_of(accounts) {
            held.remove(&hash);
            return None;
        }
        if active {
            session.seen = now;
        }
        Some(Session { hash, account: Arc::clone(&session.account), form_token: session.form_token.clone() })
    }

    /// Whether the session at that place is not over.
    pub fn lasts(&self, hash: &TokenHash, accounts: &Accounts) -> bool {
        let now = self.clock.monotonic();
        self.held().get(hash).is_some_and(|session| !session.over(now) && session.is_of(accounts))
    }

    /// Ends one.
    pub fn end(&self, hash: &TokenHash) {
        self.held().remove(hash);
    }
}

impl Held {
    fn over(&self, now: Duration) -> bool {
        now.saturating_sub(self.seen) >= IDLE || now.saturating_sub(self.began) >= LIFE
    }

    fn is_of(&self, accounts: &Accounts) -> bool {
        accounts.get(&self.account.name).is_some_and(|now| Arc::ptr_eq(&now, &self.account))
    }
}

/// 256 random bits as text.
fn random_key() -> Option<Secret> {
    let mut bytes = [0_u8; 32];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(Secret::new(BASE64_URL_SAFE_NO_PAD.encode(bytes)))
}

#[cfg(test)]
mod tests {
    use fieldgate_store::State;
    use fieldgate_types::{DeviceId, ManualClock, UnixMillis};

    use super::*;
    use crate::audit::Audit;
    use crate::identity::account::AccountRole;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
    const MINUTE: Duration = Duration::from_secs(60);

    struct Desk {
        _folder: tempfile::TempDir,
        clock: Arc<ManualClock>,
        accounts: Accounts,
        sessions: Sessions,
    }

    impl Desk {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let clock = Arc::new(ManualClock::new(NOW));
            let state = Arc::new(State::open(&folder.path().join("state.db"), Arc::clone(&clock) as _).unwrap());
            let audit = Audit::open(folder.path(), Arc::clone(&state), Arc::clone(&clock) as _).unwrap();
            let accounts = Accounts::open(state, audit).unwrap();
            accounts.add(&name(), AccountRole::Viewer, &Secret::new("correct horse"), NOW, "test").unwrap();
            Self { _folder: folder, sessions: Sessions::new(Arc::clone(&clock) as _), accounts, clock }
        }

        fn begin(&self) -> String {
            let account = self.accounts.get(&name()).unwrap();
            self.sessions.begin(&account).unwrap().expose().to_owned()
        }

        fn finds(&self, key: &str, active: bool) -> bool {
            self.sessions.find(key, active, &self.accounts).is_some()
        }
    }

    fn name() -> DeviceId {
        DeviceId::new("anna").unwrap()
    }

    #[test]
    fn a_session_ends_after_thirty_idle_minutes_and_what_runs_by_itself_does_not_keep_it() {
        let desk = Desk::new();
        let key = desk.begin();
        desk.clock.advance(MINUTE * 29);
        assert!(desk.finds(&key, true));
        desk.clock.advance(MINUTE * 29);
        assert!(desk.finds(&key, false));
        desk.clock.advance(MINUTE);
        assert!(!desk.finds(&key, true));
    }

    #[test]
    fn a_session_ends_after_twelve_hours_however_busy() {
        let desk = Desk::new();
        let key = desk.begin();
        for _ in 0..12 * 60 - 1 {
            desk.clock.advance(MINUTE);
            assert!(desk.finds(&key, true));
        }
        desk.clock.advance(MINUTE);
        assert!(!desk.finds(&key, true));
    }

    #[test]
    fn a_session_ends_with_its_sign_out_and_with_another_password_or_the_account() {
        let desk = Desk::new();
        let (one, two) = (desk.begin(), desk.begin());
        assert!(one.len() == 43 && one != two);
        let found = desk.sessions.find(&one, true, &desk.accounts).unwrap();
        desk.sessions.end(&found.hash);
        assert!(!desk.finds(&one, true) && desk.finds(&two, true) && !desk.finds("guess", true));
        let place = desk.sessions.find(&two, true, &desk.accounts).unwrap().hash;
        desk.accounts.set_password(&name(), &Secret::new("another horse"), NOW, "test").unwrap();
        assert!(!desk.sessions.lasts(&place, &desk.accounts) && !desk.finds(&two, true));
        let three = desk.begin();
        desk.accounts.remove(&name(), "test").unwrap();
        assert!(!desk.finds(&three, true));
    }

    #[test]
    fn an_account_has_sixteen_sessions_and_the_idlest_makes_room() {
        let desk = Desk::new();
        let mut keys = Vec::new();
        for _ in 0..MOST {
            keys.push(desk.begin());
            desk.clock.advance(Duration::from_secs(1));
        }
        assert!(desk.finds(&keys[0], true));
        let newest = desk.begin();
        assert!(desk.finds(&keys[0], true) && !desk.finds(&keys[1], true) && desk.finds(&newest, true));
    }
}
