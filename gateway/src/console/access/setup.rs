//! The code by which the first account is made, while there is none. It stands in the log, which is for who looks after the
//! box, and is another after each start.

use std::sync::{Mutex, PoisonError};

use fieldgate_certs::est::{TokenHash, random_token};
use fieldgate_types::Secret;

use crate::identity::account::Accounts;

/// Letters in a group, and groups: 60 bits.
const GROUP: usize = 4;
const GROUPS: usize = 3;

/// The code, while there is one.
#[derive(Default)]
pub struct Setup(Mutex<Option<Secret>>);

impl Setup {
    /// The code; made, and told in the log, when it is first asked for. `None` where there are accounts, or no random
    /// numbers.
    pub fn code(&self, accounts: &Accounts) -> Option<Secret> {
        let mut code = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !accounts.is_empty() {
            *code = None;
            return None;
        }
        if code.is_none() {
            *code = new_code();
            if let Some(code) = &*code {
                let code = code.expose();
                tracing::warn!(
                    code,
                    "the console has no account yet: open /console at the admin address, and use this code"
                );
            } else {
                tracing::error!("the system gives no random numbers, the console can't be set up");
            }
        }
        code.clone()
    }

    /// Whether that is the code. Dashes, spaces and capitals don't count.
    pub fn is(&self, presented: &str, accounts: &Accounts) -> bool {
        let Some(code) = self.code(accounts) else { return false };
        TokenHash::of(&bare(presented)).same(&TokenHash::of(&bare(code.expose())))
    }
}

fn bare(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase()).collect()
}

fn new_code() -> Option<Secret> {
    let token = random_token()?;
    let letters: Vec<char> = token.expose().chars().take(GROUP * GROUPS).collect();
    let groups: Vec<String> = letters.chunks(GROUP).map(|group| group.iter().collect()).collect();
    Some(Secret::new(groups.join("-")))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fieldgate_store::State;
    use fieldgate_types::{Clock, DeviceId, ManualClock, UnixMillis};

    use super::*;
    use crate::audit::Audit;

    #[test]
    fn the_code_is_good_until_there_is_an_account() {
        let folder = tempfile::tempdir().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(UnixMillis(1_800_000_000_000)));
        let state = Arc::new(State::open(&folder.path().join("state.db"), Arc::clone(&clock)).unwrap());
        let audit = Audit::open(folder.path(), Arc::clone(&state), Arc::clone(&clock)).unwrap();
        let accounts = Accounts::open(state, audit).unwrap();
        let setup = Setup::default();
        let code = setup.code(&accounts).unwrap().expose().to_owned();
        assert_eq!((code.len(), setup.code(&accounts).unwrap().expose()), (14, code.as_str()));
        assert!(setup.is(&code, &accounts) && setup.is(&format!(" {} ", code.to_uppercase()), &accounts));
        assert!(!setup.is("", &accounts) && !setup.is(&code[1..], &accounts));
        let anna = DeviceId::new("anna").unwrap();
        accounts.set_up(&anna, &Secret::new("correct horse"), clock.now(), "setup").unwrap();
        assert!(setup.code(&accounts).is_none() && !setup.is(&code, &accounts));
        accounts.remove(&anna, "test").unwrap();
        let next = setup.code(&accounts).unwrap();
        assert!(next.expose() != code && !setup.is(&code, &accounts));
    }
}
