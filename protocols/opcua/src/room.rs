//! The room between the library's network task and the driver, and when that task may go on reading.
//!
//! A driver that can't keep up has the network task stop reading: then the line fills, the server runs out of requests to
//! answer, and its items keep the values in their queues. So nothing is lost that the server can keep. Two bounds hold
//! against waiting for ever: a pause is shorter than any time limit of the session, and while somebody waits for an
//! answer, which stands behind notifications in the same stream, these may take the reserve.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Values that wait for the driver before the network task stops reading: about 10 MiB.
const AT_EASE: usize = 65_536;
/// Values in front of an answer that somebody waits for.
const RESERVE: usize = 32_768;
/// What a batch takes at least, so that the number of batches is bounded too.
const LEAST: usize = 1024;
/// Batches that there can be: each has taken [`LEAST`].
pub(crate) const BATCHES: usize = (AT_EASE + RESERVE) / LEAST;
/// How long the network task doesn't read at most: a request may take 5 s, answers in front of it included, and a session
/// and its subscriptions live much longer without us.
const DEAF: Duration = Duration::from_secs(2);
/// How long it reads then, whatever becomes of the values: what waits on the line is through within that.
const LISTEN: Duration = Duration::from_millis(250);

/// Shared by the network task, the feeds and the driver of one session.
#[derive(Debug)]
pub(crate) struct Room {
    free: Arc<Semaphore>,
    /// Requests whose answer is awaited.
    asking: AtomicUsize,
    asked: Notify,
    ears: Mutex<Ears>,
}

#[derive(Debug)]
struct Ears {
    /// Not reading at this moment.
    deaf: bool,
    /// When that began, or when it last ended.
    since: Instant,
    /// Reading in any case until then.
    listen_until: Instant,
}

impl Room {
    pub(crate) fn new() -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            free: Arc::new(Semaphore::new(AT_EASE + RESERVE)),
            asking: AtomicUsize::new(0),
            asked: Notify::new(),
            ears: Mutex::new(Ears { deaf: false, since: now, listen_until: now }),
        })
    }

    /// The room of a batch with so many values, until it is dropped; of a batch that is larger than what is left, all of
    /// that. `None`: there is none. Called by the network task alone.
    pub(crate) fn take(&self, values: usize) -> Option<OwnedSemaphorePermit> {
        let free = self.free.available_permits();
        let wanted = values.max(LEAST).min(free);
        let count = u32::try_from(wanted).ok().filter(|_| free >= LEAST)?;
        Arc::clone(&self.free).try_acquire_many_owned(count).ok()
    }

    /// Whether the driver is behind.
    pub(crate) fn is_low(&self) -> bool {
        self.free.available_permits() < RESERVE + LEAST
    }

    /// Waits until the next batch has room, within the bounds told above. Called by the network task before it reads.
    pub(crate) async fn wait(&self) {
        if !self.is_low() || self.asking.load(Ordering::SeqCst) > 0 {
            return;
        }
        let now = Instant::now();
        if now < self.ears(|ears| ears.listen_until) {
            return;
        }
        self.ears(|ears| (ears.deaf, ears.since) = (true, now));
        let enough = self.free.acquire_many(u32::try_from(RESERVE + LEAST).unwrap_or(u32::MAX));
        let late = tokio::select! {
            // Room is taken in `take` alone.
            _enough = enough => false,
            () = self.asked.notified() => false,
            () = tokio::time::sleep(DEAF) => true,
        };
        let now = Instant::now();
        self.ears(|ears| {
            (ears.deaf, ears.since) = (false, now);
            if late {
                ears.listen_until = now + LISTEN;
            }
        });
    }

    /// Until the value is dropped, an answer is awaited.
    pub(crate) fn ask(&self) -> Asking<'_> {
        self.asking.fetch_add(1, Ordering::SeqCst);
        // Kept for the network task when it is about to wait.
        self.asked.notify_one();
        Asking(self)
    }

    /// Until when the server's silence is none, because it was not listened to.
    pub(crate) fn deaf_until(&self) -> Instant {
        let now = Instant::now();
        self.ears(|ears| if ears.deaf { now } else { ears.since })
    }

    fn ears<T>(&self, with: impl FnOnce(&mut Ears) -> T) -> T {
        with(&mut self.ears.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// See [`Room::ask`].
#[derive(Debug)]
pub(crate) struct Asking<'a>(&'a Room);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.asking.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is taken until the network task has to wait.
    fn fill(room: &Room) -> Vec<OwnedSemaphorePermit> {
        (1..AT_EASE / LEAST).map(|_| room.take(1).unwrap()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn reading_pauses_while_the_driver_is_behind_and_goes_on_when_it_has_caught_up() {
        let room = Room::new();
        let mut held = fill(&room);
        room.wait().await;
        assert!(!room.is_low() && room.deaf_until() <= Instant::now());
        held.push(room.take(1).unwrap());
        let began = Instant::now();
        let waiting = {
            let room = Arc::clone(&room);
            tokio::spawn(async move { room.wait().await })
        };
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(!waiting.is_finished());
        assert_eq!(room.deaf_until(), Instant::now(), "silence is none meanwhile");
        held.pop();
        waiting.await.unwrap();
        assert_eq!((began.elapsed().as_millis(), room.is_low()), (500, false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_ends_in_time_and_what_is_on_the_line_is_read_before_the_next() {
        let room = Room::new();
        let mut held = fill(&room);
        held.push(room.take(1).unwrap());
        let began = Instant::now();
        room.wait().await;
        assert_eq!(began.elapsed(), DEAF);
        room.wait().await;
        assert_eq!(began.elapsed(), DEAF, "no second pause at once");
        while let Some(more) = room.take(70_000) {
            held.push(more);
        }
        assert!(held.len() <= BATCHES, "{}", held.len());
        tokio::time::sleep(LISTEN).await;
        room.wait().await;
        assert_eq!(began.elapsed(), DEAF + LISTEN + DEAF);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_who_asks_waits_for_the_driver() {
        let room = Room::new();
        let mut held = fill(&room);
        held.push(room.take(1).unwrap());
        let began = Instant::now();
        let waiting = {
            let room = Arc::clone(&room);
            tokio::spawn(async move { room.wait().await })
        };
        tokio::time::sleep(Duration::from_millis(100)).await;
        let asking = room.ask();
        waiting.await.unwrap();
        room.wait().await;
        assert_eq!(began.elapsed().as_millis(), 100);
        assert!(room.take(1).is_some(), "the reserve is for what stands in front of the answer");
        drop(asking);
        room.wait().await;
        assert!(began.elapsed() > DEAF);
    }
}
