//! Tokens for the API on TCP: each has a name, a scope and an end, is shown once and kept as a hash in state.db.
//!
//! A token has 160 random bits, so that nobody guesses one and its SHA-256 needs neither salt nor stretching. Looking
//! one up takes as long whether it is there or not. When one was last used is known from memory and written down each
//! hour and at the stop: a scrape every few seconds must not write to the flash each time.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use fieldgate_certs::est::{TokenHash, random_token};
use fieldgate_certs::{ClockLeapt, TimeFloor};
use fieldgate_store::{Delete, Put, State, StateError};
use fieldgate_types::{DeviceId, Secret, UnixMillis, duration};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::audit::{Audit, Event};
use crate::moment::date;

const TABLE: &str = "api-token";
/// Tokens at a time.
const MOST: usize = 100;

/// How long a token may be good: an hour to ten years.
pub const LIFE: RangeInclusive<Duration> = Duration::from_secs(3_600)..=Duration::from_secs(86_400 * 3_650);
/// How long it is good when nothing is said.
pub const DEFAULT_LIFE: Duration = Duration::from_secs(86_400 * 90);

/// What a token opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// What changes nothing.
    Read,
    /// That, and what changes something.
    Admin,
}

impl Scope {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Scope {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Read, Self::Admin];
        let found = all.into_iter().find(|scope| scope.word() == text);
        found.ok_or_else(|| format!("`{text}` is no scope, read or admin is allowed"))
    }
}

/// Reads how long a token is to be good, such as `30d`; why not, in words.
pub fn parse_life(text: &str) -> Result<Duration, String> {
    let found = duration::parse(text).map_err(|error| error.to_string())?;
    if LIFE.contains(&found) {
        return Ok(found);
    }
    let (least, most) = (duration::format(*LIFE.start()), duration::format(*LIFE.end()));
    Err(format!("`{text}` is out of range, \"{least}\" to \"{most}\" is allowed"))
}

/// A token as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Row {
    scope: Scope,
    hash: TokenHash,
    made: UnixMillis,
    expires: UnixMillis,
    #[serde(default)]
    used: Option<UnixMillis>,
}

/// A token as it is shown: not the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiTokenInfo {
    /// Its name.
    pub name: DeviceId,
    /// What it opens.
    pub scope: Scope,
    /// When it was made.
    pub made: UnixMillis,
    /// Until when it is good.
    pub expires: UnixMillis,
    /// When it was last used; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<UnixMillis>,
}

/// A token that was just made. It can't be shown again.
#[derive(Debug)]
pub struct ApiToken {
    /// To be given to who asks.
    pub secret: Secret,
    /// As it is listed.
    pub info: ApiTokenInfo,
}

/// No token was made or revoked.
#[derive(Debug, Error)]
pub enum ApiTokenError {
    /// The name is taken.
    #[error("there is a token named `{0}` already; `fieldgate token revoke {0}` ends it")]
    Exists(DeviceId),
    /// The name is not known.
    #[error("there is no token named `{0}`; `fieldgate token list` names all")]
    Unknown(DeviceId),
    /// There are too many.
    #[error("there are {MOST} tokens already; `fieldgate token revoke NAME` those that nobody uses")]
    TooMany,
    /// The clock is in doubt: when would it expire?
    #[error(transparent)]
    Clock(#[from] ClockLeapt),
    /// The system has no random numbers to give.
    #[error("the system gives no random numbers, no token was made")]
    Random,
    /// state.db did not take it.
    #[error("state.db can't be used: {0}")]
    State(#[from] StateError),
}

/// Why a token opens nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ApiTokenRefused {
    /// There is no such token, or no more.
    #[error("the token is not known here: a wrong copy, or it was revoked; `fieldgate token list` names all")]
    Unknown,
    /// Its time is over.
    #[error("the token `{name}` expired at {}; make another with `fieldgate token add`", date(*at))]
    Expired {
        /// Which.
        name: DeviceId,
        /// When.
        at: UnixMillis,
    },
}

struct Held {
    row: Row,
    /// Milliseconds since 1970 of its last use; 0: never.
    used: AtomicU64,
}

impl Held {
    fn new(row: Row) -> Self {
        let used = AtomicU64::new(row.used.unwrap_or_default().0);
        Self { row, used }
    }

    fn used(&self) -> Option<UnixMillis> {
        Some(UnixMillis(self.used.load(Ordering::Relaxed))).filter(|at| at.0 > 0)
    }

    fn info(&self, name: &DeviceId) -> ApiTokenInfo {
        let Row { scope, made, expires, .. } = self.row;
        ApiTokenInfo { name: name.clone(), scope, made, expires, used: self.used() }
    }
}

/// All tokens: rows in state.db, and in memory for looking up.
pub struct ApiTokens {
    state: Arc<State>,
    audit: Audit,
    /// Held while the disk is waited for, so that changes follow one another.
    changing: Mutex<()>,
    /// Never held while the disk is waited for: requests are judged by it.
    held: RwLock<Tokens>,
}

type Tokens = BTreeMap<DeviceId, Arc<Held>>;

impl ApiTokens {
    /// Reads the rows. One that can't be read opens nothing, and is said.
    pub fn open(state: Arc<State>, audit: Audit) -> Result<Self, StateError> {
        let mut held = BTreeMap::new();
        for (key, value) in state.scan(TABLE)? {
            let name = std::str::from_utf8(&key).ok().and_then(|name| DeviceId::new(name).ok());
            if let (Some(name), Ok(row)) = (name, serde_json::from_slice::<Row>(&value)) {
                held.insert(name, Arc::new(Held::new(row)));
            } else {
                tracing::error!("a token for the API can't be read and opens nothing; make another");
            }
        }
        Ok(Self { state, audit, changing: Mutex::default(), held: RwLock::new(held) })
    }

    fn all(&self) -> Tokens {
        self.held.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn memory(&self) -> RwLockWriteGuard<'_, Tokens> {
        self.held.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new token; durable when this returns.
    pub fn add(
        &self,
        time: &TimeFloor,
        name: &DeviceId,
        scope: Scope,
        life: Duration,
    ) -> Result<ApiToken, ApiTokenError> {
        let made = time.for_issuing()?;
        let changing = self.change();
        let held = self.all();
        if held.contains_key(name) {
            return Err(ApiTokenError::Exists(name.clone()));
        }
        if held.len() >= MOST {
            return Err(ApiTokenError::TooMany);
        }
        let secret = random_token().ok_or(ApiTokenError::Random)?;
        let row = Row { scope, hash: TokenHash::of(secret.expose()), made, expires: made.plus(life), used: None };
        self.state.commit(&[put(name, &row)], &[])?;
        let entry = Held::new(row);
        let info = entry.info(name);
        self.memory().insert(name.clone(), Arc::new(entry));
        drop(changing);
        tracing::info!(token = %name, %scope, "token for the API made");
        self.audit.record(Event::ApiTokenMade { token: name.clone(), scope: scope.word(), expires: info.expires });
        Ok(ApiToken { secret, info })
    }

    /// All of them, by name.
    pub fn list(&self) -> Vec<ApiTokenInfo> {
        self.all().iter().map(|(name, held)| held.info(name)).collect()
    }

    /// Ends a token; durable when this returns, and the next request with it is refused.
    pub fn revoke(&self, name: &DeviceId) -> Result<(), ApiTokenError> {
        let changing = self.change();
        if !self.all().contains_key(name) {
            return Err(ApiTokenError::Unknown(name.clone()));
        }
        self.state.commit(&[], &[Delete { table: TABLE, key: name.as_str().as_bytes().to_vec() }])?;
        self.memory().remove(name);
        drop(changing);
        tracing::info!(token = %name, "token for the API revoked");
        self.audit.record(Event::ApiTokenRevoked { token: name.clone() });
        Ok(())
    }

    /// Whose token was presented, and what it opens. Every row is compared, whichever it is.
    pub fn check(&self, presented: &str, now: UnixMillis) -> Result<(DeviceId, Scope), ApiTokenRefused> {
        let hash = TokenHash::of(presented);
        let mut found = None;
        for (name, held) in self.all() {
            if hash.same(&held.row.hash) {
                found = Some((name, held));
            }
        }
        let (name, held) = found.ok_or(ApiTokenRefused::Unknown)?;
        if now >= held.row.expires {
            return Err(ApiTokenRefused::Expired { name, at: held.row.expires });
        }
        held.used.fetch_max(now.0, Ordering::Relaxed);
        Ok((name, held.row.scope))
    }

    /// Writes down when each was last used, where that is later than what was written.
    pub fn note_uses(&self) -> Result<(), StateError> {
        let _changing = self.change();
        let later = |held: &Held| held.used().filter(|used| Some(*used) > held.row.used);
        let fresh: Vec<(DeviceId, Row)> = self
            .all()
            .iter()
            .filter_map(|(name, held)| Some((name.clone(), Row { used: Some(later(held)?), ..held.row.clone() })))
            .collect();
        if fresh.is_empty() {
            return Ok(());
        }
        let puts: Vec<Put> = fresh.iter().map(|(name, row)| put(name, row)).collect();
        self.state.commit(&puts, &[])?;
        self.memory().extend(fresh.into_iter().map(|(name, row)| (name, Arc::new(Held::new(row)))));
        Ok(())
    }
}

fn put(name: &DeviceId, row: &Row) -> Put {
    // Numbers and words: it can't fail, and an empty row would open nothing.
    let value = serde_json::to_vec(row).unwrap_or_default();
    Put { table: TABLE, key: name.as_str().as_bytes().to_vec(), value }
}

#[cfg(test)]
mod tests {
    use fieldgate_types::{Clock, ManualClock};

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    struct Desk {
        folder: tempfile::TempDir,
        clock: Arc<ManualClock>,
        time: TimeFloor,
        tokens: ApiTokens,
    }

    fn open(folder: &std::path::Path, clock: &Arc<ManualClock>) -> ApiTokens {
        let state = Arc::new(State::open(&folder.join("state.db"), Arc::clone(clock) as _).unwrap());
        let audit = Audit::open(folder, Arc::clone(&state), Arc::clone(clock) as _).unwrap();
        ApiTokens::open(state, audit).unwrap()
    }

    fn desk() -> Desk {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(UnixMillis(1_800_000_000_000)));
        let tokens = open(folder.path(), &clock);
        Desk { time: TimeFloor::new(Arc::clone(&clock) as _), tokens, folder, clock }
    }

    fn name(text: &str) -> DeviceId {
        DeviceId::new(text).unwrap()
    }

    #[test]
    fn a_token_opens_its_scope_until_its_end_and_is_kept_as_a_hash() {
        let Desk { folder, clock, time, tokens } = desk();
        let made = tokens.add(&time, &name("grafana"), Scope::Read, DAY).unwrap();
        let secret = made.secret.expose().to_owned();
        assert_eq!(tokens.check(&secret, clock.now()), Ok((name("grafana"), Scope::Read)));
        assert_eq!(tokens.check("guess", clock.now()), Err(ApiTokenRefused::Unknown));
        assert_eq!(tokens.check("", clock.now()), Err(ApiTokenRefused::Unknown));
        assert!(matches!(
            tokens.add(&time, &name("grafana"), Scope::Admin, DAY),
            Err(ApiTokenError::Exists(taken)) if taken == name("grafana")
        ));
        let at = clock.now().plus(DAY);
        assert_eq!(tokens.check(&secret, at), Err(ApiTokenRefused::Expired { name: name("grafana"), at }));
        let everywhere = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        for file in everywhere.filter(|path| path.is_file()) {
            let bytes = std::fs::read(&file).unwrap();
            assert!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()), "{}", file.display());
        }
    }

    #[test]
    fn uses_and_revocations_survive_a_restart() {
        let Desk { folder, clock, time, tokens } = desk();
        let kept = tokens.add(&time, &name("scraper"), Scope::Admin, DAY).unwrap();
        let gone = tokens.add(&time, &name("gone"), Scope::Read, DAY).unwrap();
        clock.advance(Duration::from_secs(60));
        tokens.check(kept.secret.expose(), clock.now()).unwrap();
        tokens.revoke(&name("gone")).unwrap();
        assert!(matches!(tokens.revoke(&name("gone")), Err(ApiTokenError::Unknown(_))));
        tokens.note_uses().unwrap();
        drop(tokens);
        let tokens = open(folder.path(), &clock);
        let [only] = &tokens.list()[..] else { panic!("{:?}", tokens.list()) };
        assert_eq!((only.name.as_str(), only.scope, only.used), ("scraper", Scope::Admin, Some(clock.now())));
        assert_eq!(tokens.check(gone.secret.expose(), clock.now()), Err(ApiTokenRefused::Unknown));
        assert!(tokens.check(kept.secret.expose(), clock.now()).is_ok());
    }

    #[test]
    fn a_life_out_of_range_is_refused_with_what_is_allowed() {
        assert_eq!(parse_life("30d"), Ok(DAY * 30));
        for bad in ["0s", "59m", "4000d", "soon"] {
            assert!(parse_life(bad).is_err(), "{bad}");
        }
        assert!(parse_life("1m").unwrap_err().contains("\"1h\" to \"3650d\""));
    }
}
