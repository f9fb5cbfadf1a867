//! The data directory of a gateway that doesn't run, for the verbs that can work on it.

use std::sync::Arc;

use fieldgate_store::{DirectoryLock, State};
use fieldgate_types::{Clock, SystemClock};

use crate::audit::Audit;
use crate::config::Config;
use crate::identity::Authority;

/// The identities of a stopped gateway. Holds the directory lock.
pub struct Offline {
    /// CA and registry.
    pub authority: Authority,
    _lock: DirectoryLock,
}

impl Offline {
    /// Runs `work` on the data directory; makes the directory and its CA when they aren't there yet.
    pub fn with<T>(config: &Config, work: impl FnOnce(&Authority) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let lock = config.lock_data_dir()?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let state = Arc::new(State::open(&config.data_dir.join("state.db"), Arc::clone(&clock))?);
        let (audit, writer) = Audit::open(&config.data_dir.join("audit"), Arc::clone(&clock))?;
        let authority = Authority::open(config, state, audit, clock)?;
        let offline = Self { authority, _lock: lock };
        let result = work(&offline.authority);
        // The audit line is written before the verb returns.
        drop(offline);
        if writer.join().is_err() {
            tracing::error!("the audit log's writer panicked");
        }
        result
    }
}
