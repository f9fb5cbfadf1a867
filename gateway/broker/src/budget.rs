//! All buffers together (DESIGN section 8): messages wherever they wait, queues, input and output of connections.
//!
//! A message is counted once, however many receivers share it, for as long as anybody holds it. At the limit new
//! connections are refused and publishes are not read, so that PUBACKs wait; receivers go on. What connected clients
//! hold drains, or they are disconnected for being slow; what absent sessions hold would stay, so the janitor takes
//! from the largest of them when a second has brought no relief.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The count.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: AtomicUsize,
    used: AtomicUsize,
    /// Told when somebody had to wait.
    pub pressed: Notify,
}

/// Bytes that are counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit: AtomicUsize::new(limit), used: AtomicUsize::new(0), pressed: Notify::new() }
    }

    /// Whether the limit is reached.
    pub(crate) fn full(&self) -> bool {
        self.used() >= self.limit.load(Ordering::Relaxed)
    }

    /// Another limit from now on.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Bytes in use.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub(crate) fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Charge { budget: Arc::clone(self), bytes }
    }
}

impl Charge {
    /// It is this much now.
    pub(crate) fn set(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.budget.used.fetch_add(bytes - self.bytes, Ordering::Relaxed);
        } else if bytes < self.bytes {
            self.budget.used.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_is_held() {
        let budget = Arc::new(Budget::new(100));
        let mut first = budget.charge(60);
        let second = budget.charge(40);
        assert!(budget.full());
        first.set(10);
        assert_eq!(budget.used(), 50);
        first.set(30);
        drop(second);
        assert_eq!((budget.used(), budget.full()), (30, false));
    }
}
