//! How long this machine's disk and processors gave nobody a turn: what a test with a limit in time allows on top of it.
//!
//! A machine that has just written gigabytes, or shares its disk with others, answers an fsync after seconds now and then.
//! A gateway that keeps its promise is as late then. The watcher pays the same price beside it, so that a limit
//! stays as strict as it is on a machine that moves, and says nothing false about one that does not.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);
/// What a look takes beyond its pause where nothing is amiss: one fsync and a wake-up.
const USUAL: Duration = Duration::from_millis(10);

#[derive(Default)]
struct Looks {
    /// Begin and end of those that took longer than usual.
    late: Vec<(Instant, Instant)>,
}

/// A watcher on a thread of its own, until it is dropped.
pub struct Standstill {
    looks: Arc<Mutex<Looks>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Standstill {
    /// Watches the disk that temporary files are on.
    pub fn watch() -> std::io::Result<Self> {
        let file = tempfile::tempfile()?;
        let (looks, stop) = (Arc::<Mutex<Looks>>::default(), Arc::new(AtomicBool::new(false)));
        let (seen, end) = (Arc::clone(&looks), Arc::clone(&stop));
        let thread = thread::spawn(move || watch(&file, &seen, &end));
        Ok(Self { looks, stop, thread: Some(thread) })
    }

    /// How long it stood still between two moments, a look that has not ended yet included as far as it is known.
    pub fn between(&self, from: Instant, until: Instant) -> Duration {
        let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        looks.late.iter().map(|(begin, end)| (*end).min(until).saturating_duration_since((*begin).max(from))).sum()
    }

    /// `limit`, and what it stood still from then until now.
    pub fn allowing(&self, limit: Duration, from: Instant) -> Duration {
        limit + self.between(from, Instant::now())
    }
}

impl Drop for Standstill {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn watch(file: &File, looks: &Mutex<Looks>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let begin = Instant::now();
        thread::sleep(PAUSE);
        // An error is the test's own to find: here it only means that nothing is known.
        if file.write_all_at(&[0; 4096], 0).and_then(|()| file.sync_all()).is_err() {
            return;
        }
        let end = Instant::now();
        let usual = begin + PAUSE + USUAL;
        if end > usual {
            looks.lock().unwrap_or_else(PoisonError::into_inner).late.push((usual, end));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_overlaps_is_counted_and_nothing_else() {
        let standstill = Standstill::watch().unwrap();
        let begin = Instant::now();
        let at = |millis| begin + Duration::from_millis(millis);
        standstill.looks.lock().unwrap().late = vec![(at(1_000), at(1_500)), (at(3_000), at(4_000))];
        let between = |from, until| standstill.between(at(from), at(until)).as_millis();
        assert_eq!((between(0, 900), between(0, 1_200), between(1_400, 3_250)), (0, 200, 350));
    }
}
