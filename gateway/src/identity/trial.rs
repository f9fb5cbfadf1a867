//! Passwords that are tried: how many may compute at a time, how many may wait, how often somebody may be wrong.
//!
//! A check computes for tens of milliseconds and takes the memory that its hash says. It runs on a thread of its own that
//! ends: the allocator keeps a hash's 19 MiB for each thread that had them, and the pool's threads are many (213 MiB
//! resident after thirty checks).

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fieldgate_types::Clock;
use tokio::sync::{Semaphore, oneshot};

use super::password::PasswordHash;
use super::throttle::{Throttle, Try};

/// Why a password was not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrialRefused {
    /// Too many wrong ones came before; so long until the next.
    TooOften(Duration),
    /// Too many are being checked, or there is no thread for it.
    Busy,
}

/// Where passwords are tried.
pub struct Trials {
    /// Checks and those that wait for them. Full: refused as busy.
    pub(super) places: Arc<Semaphore>,
    computing: Arc<Semaphore>,
    throttle: Mutex<Throttle>,
    clock: Arc<dyn Clock>,
}

impl Trials {
    /// So many checks at a time, and so many with those that wait.
    pub fn new(computing: usize, places: usize, clock: Arc<dyn Clock>) -> Self {
        let (computing, places) = (Arc::new(Semaphore::new(computing)), Arc::new(Semaphore::new(places)));
        Self { places, computing, throttle: Mutex::default(), clock }
    }

    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `key` may try now.
    pub fn may(&self, key: &Try) -> Result<(), TrialRefused> {
        match self.throttle().wait(key, self.clock.monotonic()) {
            Duration::ZERO => Ok(()),
            wait => Err(TrialRefused::TooOften(wait)),
        }
    }

    /// How a try of `key` ended.
    pub fn note(&self, key: &Try, right: bool) {
        if right {
            self.throttle().right(key);
        } else {
            self.throttle().wrong(key.clone(), self.clock.monotonic());
        }
    }

    /// Checks `password`. `who` is asked when it is its turn, where it may compute: the hash to check against, and what is
    /// given to whoever knows its password; nobody's hash with `None` costs as much as somebody's.
    pub async fn check<T: Send + 'static>(
        self: &Arc<Self>,
        key: Try,
        password: Vec<u8>,
        who: impl FnOnce() -> (Option<PasswordHash>, Option<T>) + Send + 'static,
    ) -> Result<Option<T>, TrialRefused> {
        self.may(&key)?;
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| TrialRefused::Busy)?;
        let turn = Arc::clone(&self.computing).acquire_owned().await.map_err(|_| TrialRefused::Busy)?;
        // Again: those in line together must not all get a try.
        self.may(&key)?;
        let trials = Arc::clone(self);
        let check = move || {
            let (hash, given) = who();
            let right = hash.is_some_and(|hash| hash.is_of(&password));
            let given = given.filter(|_| right);
            // Noted here, before the next gets its turn, and even if nobody waits for the answer any more.
            trials.note(&key, given.is_some());
            drop((place, turn));
            given
        };
        computed(check).await.map_err(|_| TrialRefused::Busy)
    }
}

/// Runs what computes with passwords on a thread that ends. Fails where there is no thread.
pub async fn computed<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (done, result) = oneshot::channel();
    let work = move || {
        if done.send(work()).is_err() {
            tracing::debug!("somebody went before a password was computed");
        }
    };
    std::thread::Builder::new().name("password".to_owned()).spawn(work)?;
    result.await.map_err(io::Error::other)
}
