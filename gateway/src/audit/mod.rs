//! The audit log: who was let in, refused, added, revoked or commanded, one JSON line each, in `<data_dir>/audit/`.
//!
//! Events are typed, so that a line can't be forgotten or misspelt. A thread of its own writes them; its channel
//! is bounded, and when a flood fills it, lines are dropped, counted, and the count is written as a line. Files
//! are rotated at 8 MiB, four old ones are kept. What anybody can cause is gathered by address (`strangers`), so that a
//! flood of it doesn't push older lines out. Never payloads, never keys.
//!
//! Each line carries a number and the hash of the line before (`chain`), over files and restarts; where the chain
//! ended stands in state.db too, a few seconds late (`anchor`), after the lines are on the disk. So `verify` finds what
//! was edited, removed or cut off. A line that a crash tore is cut off at the next start, which is a line of its own.

mod anchor;
mod chain;
mod event;
mod files;
mod search;
mod strangers;
mod verify;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fieldgate_store::State;
use fieldgate_types::{Clock, UnixMillis};
use thiserror::Error;

use self::anchor::Anchor;
pub use self::anchor::{AnchorError, anchored, forget_end};
pub use self::chain::End;
pub use self::event::Event;
use self::files::LogFile;
pub use self::files::tail;
pub use self::search::{Found, Search, search};
pub use self::strangers::Stranger;
use self::strangers::{Count, Strangers};
pub use self::verify::{Break, Place, Verdict, What, verify};

/// How long lines may be there before the anchor says so.
const ANCHOR_AFTER: Duration = Duration::from_secs(3);

/// The log can't be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Its files.
    #[error("the audit log can't be written")]
    Files(#[from] io::Error),
    /// Its end in state.db.
    #[error("the audit log's end can't be read")]
    Anchor(#[from] AnchorError),
}

/// The way into the log. Cheap to clone.
#[derive(Clone)]
pub struct Audit {
    lines: SyncSender<Message>,
    lost: Arc<AtomicU64>,
    strangers: Arc<Mutex<[Strangers; 3]>>,
    clock: Arc<dyn Clock>,
    writer: Arc<Mutex<Option<JoinHandle<()>>>>,
    end: Arc<Mutex<Option<End>>>,
}

enum Message {
    Line(UnixMillis, Event),
    Close,
}

impl Audit {
    /// Opens the log in `folder` and starts its writer, which ends by [`Audit::close`] or with the last clone.
    pub fn open(folder: &Path, state: Arc<State>, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        std::fs::create_dir_all(folder)?;
        let file = LogFile::open(folder, anchored(&state)?, clock.now())?;
        // Full: the line is dropped and counted, see `record`. A flood of refusals must not stop the broker.
        let (lines, queue) = sync_channel(4096);
        let lost = Arc::new(AtomicU64::new(0));
        let strangers = Arc::default();
        let end = Arc::new(Mutex::new(file.end()));
        let writer = Writer {
            queue,
            file,
            anchor: Anchor(state),
            lost: Arc::clone(&lost),
            strangers: Arc::clone(&strangers),
            end: Arc::clone(&end),
            clock: Arc::clone(&clock),
            // What opening wrote.
            anchor_due: Some(Instant::now()),
            failing: false,
        };
        let thread = std::thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run())?;
        Ok(Self { lines, lost, strangers, clock, writer: Arc::new(Mutex::new(Some(thread))), end })
    }

    /// Adds a line. Never waits.
    pub fn record(&self, event: Event) {
        match self.lines.try_send(Message::Line(self.clock.now(), event)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Adds the refusal of somebody unknown at `peer`, who was not let do `what` for `reason`: a line of its own where that is the
    /// first for a minute, else one more in the count that is written each minute. Never waits.
    pub fn record_stranger(&self, what: Stranger, peer: IpAddr, reason: &str, event: impl FnOnce() -> Event) {
        let now = self.clock.monotonic();
        let news = what.of(&mut held(&self.strangers)).note(peer.to_canonical(), reason, now);
        if news {
            self.record(event());
        }
    }

    /// Adds the refusal of a connection from `peer`: a line where it has proven to be `device`, else as of a stranger.
    pub fn refused_connection(&self, device: Option<&str>, peer: SocketAddr, reason: String) {
        let (known, from) = (device.map(ToOwned::to_owned), peer.to_string());
        if known.is_some() {
            return self.record(Event::ConnectionRefused { device: known, peer: from, reason });
        }
        let event = || Event::ConnectionRefused { device: None, peer: from, reason: reason.clone() };
        self.record_stranger(Stranger::Connection, peer.ip(), &reason, event);
    }

    /// Where the chain ends now; `None` before its first line.
    pub fn end(&self) -> Option<End> {
        *held(&self.end)
    }

    /// Writes what waits and ends the log, for every clone. Blocks until it is on the disk.
    pub fn close(&self) {
        let writer = held(&self.writer).take();
        let Some(writer) = writer else { return };
        // An error means that the writer has ended, which the join says too.
        let ended_before = self.lines.send(Message::Close).is_err();
        if writer.join().is_err() || ended_before {
            tracing::error!("the audit log's writer ended early");
        }
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Writer {
    queue: Receiver<Message>,
    file: LogFile,
    anchor: Anchor,
    lost: Arc<AtomicU64>,
    strangers: Arc<Mutex<[Strangers; 3]>>,
    end: Arc<Mutex<Option<End>>>,
    clock: Arc<dyn Clock>,
    /// When the end is to be written down; `None` when it is.
    anchor_due: Option<Instant>,
    failing: bool,
}

impl Writer {
    fn run(mut self) {
        loop {
            let message = match self.rest() {
                Some(Duration::ZERO) => Err(RecvTimeoutError::Timeout),
                Some(wait) => self.queue.recv_timeout(wait),
                None => self.queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match message {
                Ok(Message::Line(ts, event)) => self.write(ts, Some(&event)),
                Err(RecvTimeoutError::Timeout) => {
                    self.tell_strangers(self.clock.monotonic());
                    if self.anchor_due.is_some_and(|due| due <= Instant::now()) {
                        self.write_end();
                    }
                }
                Ok(Message::Close) | Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.tell_strangers(Duration::MAX);
        self.write(self.clock.now(), None);
        self.write_end();
    }

    /// How long there is nothing to do but what comes. The first refusal that is counted came after a line, which woke this.
    fn rest(&self) -> Option<Duration> {
        let anchor = self.anchor_due.map(|due| due.saturating_duration_since(Instant::now()));
        let due = held(&self.strangers).iter().filter_map(Strangers::due).min();
        let strangers = due.map(|due| due.saturating_sub(self.clock.monotonic()));
        anchor.into_iter().chain(strangers).min()
    }

    /// Writes what was counted of them up to `now`.
    fn tell_strangers(&mut self, now: Duration) {
        for what in Stranger::ALL {
            let told = what.of(&mut held(&self.strangers)).take(now);
            for count in told {
                self.write(self.clock.now(), Some(&more(what, count)));
            }
        }
    }

    /// How many were lost, where some were; then `event`.
    fn write(&mut self, ts: UnixMillis, event: Option<&Event>) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let counted = if lost > 0 { self.file.write(ts, &Event::LinesLost { count: lost }) } else { Ok(()) };
        if counted.is_err() {
            self.lost.fetch_add(lost, Ordering::Relaxed);
        }
        let written = counted.and_then(|()| event.map_or(Ok(()), |event| self.file.write(ts, event)));
        if written.is_err() && event.is_some() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        if self.file.end() != *held(&self.end) {
            *held(&self.end) = self.file.end();
            self.anchor_due.get_or_insert_with(|| Instant::now() + ANCHOR_AFTER);
        }
        match written {
            Ok(()) if self.failing => {
                self.failing = false;
                tracing::info!("the audit log is written again");
            }
            Err(error) if !self.failing => {
                self.failing = true;
                tracing::error!(%error, "the audit log can't be written");
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// The lines first: a power cut must not leave an anchor beyond them.
    fn write_end(&mut self) {
        let Some(end) = self.file.end() else {
            self.anchor_due = None;
            return;
        };
        let written = self.file.sync().map_err(OpenError::Files);
        let written = written.and_then(|()| Ok(self.anchor.put(end)?));
        self.anchor_due = None;
        if let Err(error) = written {
            tracing::error!(error = crate::log::in_full(&error), "the audit log's end can't be written down");
            self.anchor_due = Some(Instant::now() + ANCHOR_AFTER);
        }
    }
}

fn more(what: Stranger, Count { peer, more: count, last }: Count) -> Event {
    let peer = peer.map(|peer| peer.to_string());
    let from = peer.as_deref().unwrap_or("further addresses");
    match what {
        Stranger::Request => {
            let reason = format!("{count} more refusals of unknown tokens from {from} in the last minute");
            Event::ApiRefusedMore { peer, count, reason }
        }
        Stranger::Connection => {
            let reason =
                format!("{count} more connections from {from} were refused in the last minute, the last: {last}");
            Event::ConnectionRefusedMore { peer, count, reason }
        }
        Stranger::Enrolment => {
            let reason =
                format!("{count} more certificates were refused to {from} in the last minute, the last: {last}");
            Event::EnrolmentRefusedMore { peer, count, reason }
        }
    }
}

#[cfg(test)]
mod tests {
    use fieldgate_types::{DeviceId, ManualClock};

    use super::*;

    fn clock() -> Arc<dyn Clock> {
        Arc::new(ManualClock::new(UnixMillis(5)))
    }

    fn state(folder: &Path) -> Arc<State> {
        Arc::new(State::open(&folder.join("state.db"), clock()).unwrap())
    }

    #[test]
    fn keeps_lines_and_shows_the_last() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::open(folder.path(), state(folder.path()), clock()).unwrap();
        audit.record(Event::Started { version: "1" });
        audit.record(Event::DeviceRevoked { device: DeviceId::new("a").unwrap() });
        audit.close();
        let lines = tail(folder.path(), 1).unwrap();
        assert!(lines[0].ends_with(r#""ts":5,"event":"device_revoked","device":"a"}"#), "{lines:?}");
        assert_eq!(tail(folder.path(), 10).unwrap().len(), 2);
        assert_eq!(tail(folder.path(), 0).unwrap().len(), 0);
    }

    #[test]
    fn the_chain_goes_on_over_restarts_and_its_end_is_anchored() {
        let folder = tempfile::tempdir().unwrap();
        for starts in 1..=3 {
            let audit = Audit::open(folder.path(), state(folder.path()), clock()).unwrap();
            audit.record(Event::Stopped);
            audit.close();
            let anchor = anchored(&state(folder.path())).unwrap();
            assert_eq!((anchor, anchor.unwrap().n), (audit.end(), starts));
            let verdict = verify(folder.path(), anchor).unwrap();
            assert!(verdict.ok && verdict.lines == starts, "{verdict:?}");
        }
    }

    #[test]
    fn state_without_its_log_begins_anew_where_that_is_said_and_else_misses_its_lines() {
        for (said, first, whole) in [(false, 2, false), (true, 1, true)] {
            let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let state = state(old.path());
            let audit = Audit::open(old.path(), Arc::clone(&state), clock()).unwrap();
            audit.record(Event::Stopped);
            audit.close();
            if said {
                forget_end(&state).unwrap();
            }
            let audit = Audit::open(new.path(), state, clock()).unwrap();
            audit.record(Event::Stopped);
            audit.close();
            let verdict = verify(new.path(), audit.end()).unwrap();
            assert!(tail(new.path(), 9).unwrap()[0].starts_with(&format!("{{\"n\":{first},")));
            assert_eq!(verdict.ok, whole, "{verdict:?}");
        }
    }

    #[test]
    fn the_end_is_anchored_while_the_log_stays_open() {
        let folder = tempfile::tempdir().unwrap();
        let state = state(folder.path());
        let audit = Audit::open(folder.path(), Arc::clone(&state), clock()).unwrap();
        audit.record(Event::Stopped);
        let deadline = Instant::now() + Duration::from_secs(30);
        while anchored(&state).unwrap().is_none() {
            assert!(Instant::now() < deadline, "no anchor");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(anchored(&state).unwrap(), audit.end());
        audit.close();
    }

    #[test]
    fn a_flood_from_one_address_is_a_line_and_a_count_each_minute() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(UnixMillis(5)));
        let audit = Audit::open(folder.path(), state(folder.path()), Arc::clone(&clock) as _).unwrap();
        let peer: IpAddr = "192.0.2.7".parse().unwrap();
        let refuse = || audit.record_stranger(Stranger::Request, peer, "unknown", || Event::RootKeyExported);
        let lines = |of: &str| tail(folder.path(), 100).unwrap().into_iter().filter(|line| line.contains(of)).count();
        (0..10_000).for_each(|_| refuse());
        clock.advance(Duration::from_secs(61));
        audit.record(Event::Stopped);
        let deadline = Instant::now() + Duration::from_secs(30);
        while lines("9999 more refusals of unknown tokens from 192.0.2.7 in the last minute") == 0 {
            assert!(Instant::now() < deadline, "no count");
            std::thread::yield_now();
        }
        (0..3).for_each(|_| refuse());
        audit.close();
        assert_eq!(lines("root_key_exported"), 1);
        assert_eq!(lines(r#""event":"api_refused_more","peer":"192.0.2.7","count":"#), 2);
        assert_eq!(lines(r#""count":3"#), 1, "what was counted is told before the log ends");
        assert!(verify(folder.path(), audit.end()).unwrap().ok);
    }

    #[test]
    fn refused_connections_and_certificates_are_gathered_apart_with_the_last_reason() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::open(folder.path(), state(folder.path()), clock()).unwrap();
        let peer: IpAddr = "::ffff:192.0.2.7".parse().unwrap();
        for reason in ["no certificate", "no certificate", "a foreign one", "no certificate"] {
            let event = |device: Option<String>| Event::ConnectionRefused {
                device,
                peer: "192.0.2.7:9".to_owned(),
                reason: reason.to_owned(),
            };
            audit.record_stranger(Stranger::Connection, peer, reason, || event(None));
            audit.record(event(Some("press-7".to_owned())));
        }
        for _ in 0..3 {
            let (reason, peer_words) = ("no token".to_owned(), peer.to_string());
            let event = || Event::EnrolmentRefused { device: None, peer: peer_words, reason: reason.clone() };
            audit.record_stranger(Stranger::Enrolment, peer, &reason, event);
        }
        audit.close();
        let lines = tail(folder.path(), 100).unwrap();
        let having = |of: &[&str]| lines.iter().filter(|line| of.iter().all(|word| line.contains(word))).count();
        assert_eq!(having(&["\"connection_refused\"", "press-7"]), 4, "who is known has each of its lines");
        assert_eq!(having(&["\"connection_refused\""]), 4 + 2, "{lines:?}");
        let more = "2 more connections from 192.0.2.7 were refused in the last minute, the last: no certificate";
        assert_eq!(having(&["\"connection_refused_more\",\"peer\":\"192.0.2.7\",\"count\":2", more]), 1, "{lines:?}");
        let more = "2 more certificates were refused to 192.0.2.7 in the last minute, the last: no token";
        assert_eq!((having(&["\"enrolment_refused\""]), having(&["\"enrolment_refused_more\"", more])), (1, 1));
    }

    #[test]
    fn what_found_no_room_is_counted_in_the_chain() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::open(folder.path(), state(folder.path()), clock()).unwrap();
        for _ in 0..20_000 {
            audit.record(Event::Stopped);
        }
        audit.close();
        let lines = tail(folder.path(), 30_000).unwrap();
        let value = |line: &String| serde_json::from_str::<serde_json::Value>(line).unwrap();
        let lost: u64 = lines.iter().filter_map(|line| value(line)["count"].as_u64()).sum();
        let written = lines.iter().filter(|line| line.contains("stopped")).count() as u64;
        assert_eq!(written + lost, 20_000);
        assert!(lost > 0 && verify(folder.path(), audit.end()).unwrap().ok);
    }
}
