//! Where tests make the disk fail. Outside of them this is nothing.

/// A place in the writer where the disk can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// Before a transaction is committed.
    BeforeCommit,
    /// After it was committed, as if the sync had failed with all pages written.
    AfterCommit,
    /// When the file is opened again.
    Reopen,
}

#[cfg(not(test))]
#[derive(Debug, Clone)]
pub(crate) struct Faults;

#[cfg(not(test))]
impl Faults {
    pub(crate) fn none() -> Self {
        Self
    }

    #[allow(clippy::unused_self, clippy::unnecessary_wraps)] // the shape that the test version needs
    pub(crate) fn check(&self, _point: Point) -> Result<(), rusqlite::Error> {
        Ok(())
    }
}

#[cfg(test)]
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults(std::sync::Arc<std::sync::Mutex<State>>);

#[cfg(test)]
#[derive(Debug, Default)]
struct State {
    failing: Vec<(Point, i32)>,
    hits: usize,
}

#[cfg(test)]
impl Faults {
    pub(crate) fn none() -> Self {
        Self::default()
    }

    /// From now on `points` fail with SQLite's `code`; none: all is well again.
    pub(crate) fn fail(&self, points: &[Point], code: i32) {
        self.0.lock().unwrap().failing = points.iter().map(|point| (*point, code)).collect();
    }

    /// How often something failed.
    pub(crate) fn hits(&self) -> usize {
        self.0.lock().unwrap().hits
    }

    pub(crate) fn check(&self, point: Point) -> Result<(), rusqlite::Error> {
        let mut state = self.0.lock().unwrap();
        let Some((_, code)) = state.failing.iter().copied().find(|(failing, _)| *failing == point) else {
            return Ok(());
        };
        state.hits += 1;
        Err(crate::sqlite::failure(code, "made to fail by a test"))
    }
}
