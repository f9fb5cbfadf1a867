//! Accounts of the console: each has a name, a role and a password, of which state.db keeps the argon2id hash.
//!
//! In memory an account is one [`Arc`] for as long as nothing about it changes: who holds an older one (a session) knows by
//! that that it is over.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockWriteGuard};

use fieldgate_store::{Delete, Put, State, StateError};
use fieldgate_types::{DeviceId, Secret, UnixMillis};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::password::{HashError, PasswordHash};
use crate::audit::{Audit, Event};

const TABLE: &str = "console-account";
/// Accounts at a time.
const MOST: usize = 100;
/// Characters of a password.
const SHORTEST: usize = 10;
const LONGEST: usize = 256;

/// What an account may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccountRole {
    /// Look at everything, change nothing.
    Viewer,
    /// Change things, too.
    Admin,
}

impl AccountRole {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for AccountRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for AccountRole {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let found = [Self::Viewer, Self::Admin].into_iter().find(|role| role.word() == text);
        found.ok_or_else(|| format!("`{text}` is no role, viewer or admin is allowed"))
    }
}

/// An account as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Row {
    role: AccountRole,
    /// PHC string.
    hash: String,
    made: UnixMillis,
    changed: UnixMillis,
}

/// An account.
#[derive(Debug)]
pub struct Account {
    /// Its name.
    pub name: DeviceId,
    /// What it may do.
    pub role: AccountRole,
    /// Its password.
    pub hash: PasswordHash,
    made: UnixMillis,
    changed: UnixMillis,
}

/// An account as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountInfo {
    /// Its name.
    pub name: DeviceId,
    /// What it may do.
    pub role: AccountRole,
    /// When it was made.
    pub made: UnixMillis,
    /// When its password was last set.
    pub changed: UnixMillis,
}

/// No account was made or changed.
#[derive(Debug, Error)]
pub enum AccountError {
    /// The name is taken.
    #[error("there is an account named `{0}` already; `fieldgate console user passwd {0}` sets its password")]
    Exists(DeviceId),
    /// The name is not known.
    #[error("there is no account named `{0}`; `fieldgate console user list` names all")]
    Unknown(DeviceId),
    /// There are too many.
    #[error("there are {MOST} accounts already; `fieldgate console user remove NAME` those that nobody uses")]
    TooMany,
    /// The set-up is over.
    #[error("the console has been set up already: sign in, or `fieldgate console user add NAME`")]
    NotFirst,
    /// The password is no good.
    #[error("a password has {SHORTEST} to {LONGEST} characters, and is not the name")]
    Password,
    /// It can't be hashed.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// state.db did not take it.
    #[error("state.db can't be used: {0}")]
    State(#[from] StateError),
}

/// All accounts: rows in state.db, and in memory for looking up.
pub struct Accounts {
    state: Arc<State>,
    audit: Audit,
    /// Held while the disk is waited for, so that changes follow one another.
    changing: Mutex<()>,
    /// Never held while the disk is waited for.
    held: RwLock<Table>,
    /// For names that nobody has; made when it is first needed.
    nobody: OnceLock<Option<PasswordHash>>,
}

type Table = BTreeMap<DeviceId, Arc<Account>>;

impl Accounts {
    /// Reads the rows. One that can't be read lets nobody in, and is said.
    pub fn open(state: Arc<State>, audit: Audit) -> Result<Self, StateError> {
        let mut held = BTreeMap::new();
        for (key, value) in state.scan(TABLE)? {
            let name = std::str::from_utf8(&key).ok().and_then(|name| DeviceId::new(name).ok());
            let row = serde_json::from_slice::<Row>(&value).ok();
            let account = name.zip(row).and_then(|(name, row)| Account::of(name, row));
            if let Some(account) = account {
                held.insert(account.name.clone(), Arc::new(account));
            } else {
                tracing::error!("an account of the console can't be read and lets nobody in; make another");
            }
        }
        Ok(Self { state, audit, changing: Mutex::default(), held: RwLock::new(held), nobody: OnceLock::new() })
    }

    fn all(&self) -> Table {
        self.held.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn memory(&self) -> RwLockWriteGuard<'_, Table> {
        self.held.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody can come in: the console waits to be set up.
    pub fn is_empty(&self) -> bool {
        self.held.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// The account of that name as it is now.
    pub fn get(&self, name: &DeviceId) -> Option<Arc<Account>> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// The hash of nobody's password. Computes the first time.
    pub fn nobody(&self) -> Option<PasswordHash> {
        let make = || match PasswordHash::make(b"").and_then(|like| like.of_nobody()) {
            Ok(hash) => Some(hash),
            Err(error) => {
                tracing::error!(%error, "unknown accounts of the console are told faster than known ones");
                None
            }
        };
        self.nobody.get_or_init(make).clone()
    }

    /// All of them, by name.
    pub fn list(&self) -> Vec<AccountInfo> {
        self.all().values().map(|account| account.info()).collect()
    }

    /// The first account, an admin; `by` is how the audit log names who makes it. Computes, and waits for the disk.
    pub fn set_up(
        &self,
        name: &DeviceId,
        password: &Secret,
        now: UnixMillis,
        by: &str,
    ) -> Result<AccountInfo, AccountError> {
        self.make(name, AccountRole::Admin, password, now, by, true)
    }

    /// A new account. Computes, and waits for the disk.
    pub fn add(
        &self,
        name: &DeviceId,
        role: AccountRole,
        password: &Secret,
        now: UnixMillis,
        by: &str,
    ) -> Result<AccountInfo, AccountError> {
        self.make(name, role, password, now, by, false)
    }

    fn make(
        &self,
        name: &DeviceId,
        role: AccountRole,
        password: &Secret,
        now: UnixMillis,
        by: &str,
        first: bool,
    ) -> Result<AccountInfo, AccountError> {
        let hash = hashed(name, password)?;
        let changing = self.change();
        let held = self.all();
        if first && !held.is_empty() {
            return Err(AccountError::NotFirst);
        }
        if held.contains_key(name) {
            return Err(AccountError::Exists(name.clone()));
        }
        if held.len() >= MOST {
            return Err(AccountError::TooMany);
        }
        let account = Account { name: name.clone(), role, hash, made: now, changed: now };
        let info = self.keep(account)?;
        drop(changing);
        tracing::info!(account = %name, %role, by, "account of the console made");
        self.audit.record(Event::AccountMade { account: name.clone(), role: role.word(), by: by.to_owned() });
        Ok(info)
    }

    /// Another password; its sessions are over. Computes, and waits for the disk.
    pub fn set_password(
        &self,
        name: &DeviceId,
        password: &Secret,
        now: UnixMillis,
        by: &str,
    ) -> Result<AccountInfo, AccountError> {
        let hash = hashed(name, password)?;
        let changing = self.change();
        let before = self.get(name).ok_or_else(|| AccountError::Unknown(name.clone()))?;
        let info =
            self.keep(Account { name: name.clone(), role: before.role, hash, made: before.made, changed: now })?;
        drop(changing);
        tracing::info!(account = %name, by, "password of an account of the console set");
        self.audit.record(Event::AccountPassword { account: name.clone(), by: by.to_owned() });
        Ok(info)
    }

    /// Ends an account and its sessions. Waits for the disk.
    pub fn remove(&self, name: &DeviceId, by: &str) -> Result<(), AccountError> {
        let changing = self.change();
        if self.get(name).is_none() {
            return Err(AccountError::Unknown(name.clone()));
        }
        self.state.commit(&[], &[Delete { table: TABLE, key: name.as_str().as_bytes().to_vec() }])?;
        self.memory().remove(name);
        drop(changing);
        tracing::info!(account = %name, by, "account of the console removed");
        self.audit.record(Event::AccountRemoved { account: name.clone(), by: by.to_owned() });
        Ok(())
    }

    /// On disk first, then in memory. Under `changing`.
    fn keep(&self, account: Account) -> Result<AccountInfo, AccountError> {
        let Account { role, made, changed, .. } = account;
        let row = Row { role, hash: account.hash.expose(), made, changed };
        // Numbers and words: it can't fail, and an empty row lets nobody in.
        let value = serde_json::to_vec(&row).unwrap_or_default();
        self.state.commit(&[Put { table: TABLE, key: account.name.as_str().as_bytes().to_vec(), value }], &[])?;
        let info = account.info();
        self.memory().insert(account.name.clone(), Arc::new(account));
        Ok(info)
    }
}

impl Account {
    fn of(name: DeviceId, Row { role, hash, made, changed }: Row) -> Option<Self> {
        Some(Self { name, role, hash: PasswordHash::parse(&hash).ok()?, made, changed })
    }

    /// As it is listed.
    pub fn info(&self) -> AccountInfo {
        let Self { name, role, made, changed, .. } = self;
        AccountInfo { name: name.clone(), role: *role, made: *made, changed: *changed }
    }
}

fn hashed(name: &DeviceId, password: &Secret) -> Result<PasswordHash, AccountError> {
    let text = password.expose();
    if !(SHORTEST..=LONGEST).contains(&text.chars().count()) || text.eq_ignore_ascii_case(name.as_str()) {
        return Err(AccountError::Password);
    }
    Ok(PasswordHash::make(text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use fieldgate_types::{Clock, ManualClock};

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn open(folder: &std::path::Path) -> Accounts {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(NOW));
        let state = Arc::new(State::open(&folder.join("state.db"), Arc::clone(&clock)).unwrap());
        let audit = Audit::open(folder, Arc::clone(&state), clock).unwrap();
        Accounts::open(state, audit).unwrap()
    }

    fn name(text: &str) -> DeviceId {
        DeviceId::new(text).unwrap()
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text)
    }

    #[test]
    fn accounts_survive_a_restart_and_no_password_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let accounts = open(folder.path());
        assert!(accounts.is_empty());
        accounts.set_up(&name("anna"), &secret("correct horse"), NOW, "setup").unwrap();
        accounts.add(&name("ben"), AccountRole::Viewer, &secret("battery staple"), NOW, "socket").unwrap();
        drop(accounts);
        let accounts = open(folder.path());
        let (anna, ben) = (accounts.get(&name("anna")).unwrap(), accounts.get(&name("ben")).unwrap());
        assert_eq!((anna.role, ben.role), (AccountRole::Admin, AccountRole::Viewer));
        assert!(anna.hash.is_of(b"correct horse") && !anna.hash.is_of(b"battery staple"));
        assert!(!accounts.nobody().unwrap().is_of(b""));
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            assert!(!bytes.windows(13).any(|part| part == b"correct horse"));
        }
    }

    #[test]
    fn the_set_up_happens_once_and_a_change_makes_another_account_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let accounts = open(folder.path());
        accounts.set_up(&name("anna"), &secret("correct horse"), NOW, "setup").unwrap();
        let again = accounts.set_up(&name("eve"), &secret("correct horse"), NOW, "setup");
        assert!(matches!(again, Err(AccountError::NotFirst)));
        let before = accounts.get(&name("anna")).unwrap();
        accounts.set_password(&name("anna"), &secret("another horse"), NOW, "socket").unwrap();
        let after = accounts.get(&name("anna")).unwrap();
        assert!(!Arc::ptr_eq(&before, &after) && after.hash.is_of(b"another horse"));
        accounts.remove(&name("anna"), "socket").unwrap();
        assert!(accounts.get(&name("anna")).is_none() && accounts.is_empty());
        assert!(matches!(accounts.remove(&name("anna"), "socket"), Err(AccountError::Unknown(_))));
    }

    #[test]
    fn short_long_and_obvious_passwords_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let accounts = open(folder.path());
        let long = "x".repeat(LONGEST + 1);
        for bad in ["", "123456789", "LongEnoughName", long.as_str()] {
            let made = accounts.add(&name("longenoughname"), AccountRole::Viewer, &secret(bad), NOW, "socket");
            assert!(matches!(made, Err(AccountError::Password)), "{bad}");
        }
    }
}
