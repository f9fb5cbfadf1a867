//! The data directory of a gateway that doesn't run, for the verbs that can work on it.

use std::sync::Arc;

use fieldgate_store::State;
use fieldgate_types::{Clock, SystemClock};

use crate::audit::Audit;
use crate::config::Config;
use crate::identity::Authority;

/// Runs `work` on the identities in the data directory, which it holds locked; makes the directory and its CA when
/// they aren't there yet.
pub fn offline<T>(config: &Config, work: impl FnOnce(&Authority) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let _lock = config.lock_data_dir()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let state = Arc::new(State::open(&config.data_dir.join("state.db"), Arc::clone(&clock))?);
    let audit = Audit::open(&config.data_dir.join("audit"), Arc::clone(&state), Arc::clone(&clock))?;
    let authority = Authority::open(config, state, audit.clone(), clock)?;
    let result = work(&authority);
    // The audit line is written before the verb returns.
    audit.close();
    result
}
