//! A value that is replaced as a whole while others read it: what a reload of the configuration changes.

use std::sync::{Arc, PoisonError, RwLock};

/// The value that is in force. Whoever has got one keeps it, whatever follows.
#[derive(Debug, Default)]
pub struct Current<T>(RwLock<Arc<T>>);

impl<T> Current<T> {
    /// Begins with `value`.
    pub fn new(value: T) -> Self {
        Self(RwLock::new(Arc::new(value)))
    }

    /// The value now.
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on this.
    pub fn set(&self, value: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_value_keeps_it() {
        let current = Current::new(1);
        let before = current.get();
        current.set(2);
        assert_eq!((*before, *current.get()), (1, 2));
    }
}
