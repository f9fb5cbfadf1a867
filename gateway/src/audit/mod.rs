//! The audit log: who was let in, refused, added, revoked or commanded, one JSON line each, in `<data_dir>/audit/`.
//!
//! Events are typed, so that a line can't be forgotten or misspelt. A thread of its own writes them; its channel
//! is bounded, and when a flood fills it, lines are dropped, counted, and the count is written as a line. Files
//! are rotated at `MAX_FILE`, `KEEP` old ones are kept. Never payloads, never keys.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use fieldgate_types::{Clock, DeviceId, UnixMillis};
use serde::Serialize;

/// A file is closed and renamed when it has grown to this.
const MAX_FILE: u64 = 8 << 20;
/// Old files that are kept.
const KEEP: usize = 4;
const CURRENT: &str = "audit.jsonl";

/// Something that somebody may ask about later.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The gateway began.
    Started {
        /// Which version.
        version: &'static str,
    },
    /// The gateway ended in order.
    Stopped,
    /// A device was added and a certificate issued.
    DeviceAdded {
        /// Which.
        device: DeviceId,
        /// As what.
        role: String,
        /// Serial number of the certificate, hex.
        serial: String,
    },
    /// A one-time token was made for a device.
    TokenMade {
        /// For which.
        device: DeviceId,
        /// As what.
        role: String,
        /// Until when it is good.
        expires: UnixMillis,
    },
    /// A device got a certificate with its token.
    DeviceEnrolled {
        /// Which.
        device: DeviceId,
        /// From where.
        peer: String,
        /// Serial number of the certificate, hex.
        serial: String,
    },
    /// A device renewed its certificate.
    DeviceRenewed {
        /// Which.
        device: DeviceId,
        /// From where.
        peer: String,
        /// Serial number of the new certificate, hex.
        serial: String,
        /// Serial number of the one before.
        replaces: String,
    },
    /// No certificate was given over EST.
    EnrolmentRefused {
        /// Who it claims, or proves, to be.
        #[serde(skip_serializing_if = "Option::is_none")]
        device: Option<DeviceId>,
        /// From where.
        peer: String,
        /// In words.
        reason: String,
    },
    /// A device was revoked.
    DeviceRevoked {
        /// Which.
        device: DeviceId,
    },
    /// A new issuing CA was made.
    CaRotated {
        /// Its number.
        generation: u32,
        /// Serial number of its certificate, hex.
        serial: String,
        /// Whether by itself, at half of the former one's life.
        due: bool,
    },
    /// Somebody got the root key.
    RootKeyExported,
    /// The root key was removed.
    RootKeyRemoved,
    /// A connection was refused.
    ConnectionRefused {
        /// Who it was, where that is known.
        #[serde(skip_serializing_if = "Option::is_none")]
        device: Option<String>,
        /// From where.
        peer: String,
        /// In words.
        reason: String,
    },
    /// A publish was refused.
    PublishRefused {
        /// Whose.
        device: String,
        /// Where to.
        topic: String,
        /// In words.
        reason: String,
    },
    /// A subscription was refused.
    SubscribeRefused {
        /// Whose.
        device: String,
        /// What.
        filter: String,
        /// In words.
        reason: String,
    },
    /// A command ended.
    Command {
        /// For whom.
        device: DeviceId,
        /// What.
        name: String,
        /// Request id.
        rid: String,
        /// How it ended.
        status: String,
        /// Why not.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// So many lines had no room.
    LinesLost {
        /// How many.
        count: u64,
    },
}

#[derive(Serialize)]
struct Line<'a> {
    ts: UnixMillis,
    #[serde(flatten)]
    event: &'a Event,
}

/// The way into the log. Cheap to clone.
#[derive(Clone)]
pub struct Audit {
    lines: SyncSender<Message>,
    lost: Arc<AtomicU64>,
    clock: Arc<dyn Clock>,
    writer: Arc<Mutex<Option<JoinHandle<()>>>>,
}

enum Message {
    Line(UnixMillis, Event),
    Close,
}

impl Audit {
    /// Opens the log in `folder` and starts its writer, which ends by [`Audit::close`] or with the last clone.
    pub fn open(folder: &Path, clock: Arc<dyn Clock>) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let file = LogFile::open(folder)?;
        // Full: the line is dropped and counted, see `record`. A flood of refusals must not stop the broker.
        let (lines, queue) = sync_channel(4096);
        let lost = Arc::new(AtomicU64::new(0));
        let writer = Writer { queue, file, lost: Arc::clone(&lost) };
        let thread = std::thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run())?;
        Ok(Self { lines, lost, clock, writer: Arc::new(Mutex::new(Some(thread))) })
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

    /// Writes what waits and ends the log, for every clone. Blocks until it is written.
    pub fn close(&self) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(writer) = writer else { return };
        // An error means that the writer has ended, which the join says too.
        let ended_before = self.lines.send(Message::Close).is_err();
        if writer.join().is_err() || ended_before {
            tracing::error!("the audit log's writer ended early");
        }
    }
}

struct Writer {
    queue: Receiver<Message>,
    file: LogFile,
    lost: Arc<AtomicU64>,
}

impl Writer {
    fn run(mut self) {
        let mut failing = false;
        while let Ok(Message::Line(ts, event)) = self.queue.recv() {
            let lost = self.lost.swap(0, Ordering::Relaxed);
            let written = if lost > 0 { self.file.write(ts, &Event::LinesLost { count: lost }) } else { Ok(()) };
            match written.and_then(|()| self.file.write(ts, &event)) {
                Ok(()) if failing => {
                    failing = false;
                    tracing::info!("the audit log is written again");
                }
                Ok(()) => {}
                Err(error) => {
                    self.lost.fetch_add(lost + 1, Ordering::Relaxed);
                    if !failing {
                        failing = true;
                        tracing::error!(%error, "the audit log can't be written");
                    }
                }
            }
        }
    }
}

struct LogFile {
    folder: PathBuf,
    file: File,
    size: u64,
}

impl LogFile {
    fn open(folder: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(folder.join(CURRENT))?;
        let size = file.metadata()?.len();
        Ok(Self { folder: folder.to_owned(), file, size })
    }

    fn write(&mut self, ts: UnixMillis, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(&Line { ts, event })?;
        line.push(b'\n');
        if self.size + line.len() as u64 > MAX_FILE {
            self.rotate()?;
        }
        self.file.write_all(&line)?;
        self.size += line.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let numbered = |n: usize| self.folder.join(format!("audit.{n}.jsonl"));
        for n in (1..KEEP).rev() {
            if numbered(n).exists() {
                fs::rename(numbered(n), numbered(n + 1))?;
            }
        }
        fs::rename(self.folder.join(CURRENT), numbered(1))?;
        *self = Self::open(&self.folder)?;
        Ok(())
    }
}

/// The last `count` lines of the log in `folder`, oldest first.
pub fn tail(folder: &Path, count: usize) -> io::Result<Vec<String>> {
    let mut lines: std::collections::VecDeque<String> = std::collections::VecDeque::new();
    let old = (1..=KEEP).rev().map(|n| folder.join(format!("audit.{n}.jsonl")));
    for path in old.chain([folder.join(CURRENT)]) {
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for line in BufReader::new(file).lines() {
            if lines.len() == count {
                lines.pop_front();
            }
            lines.push_back(line?);
        }
    }
    Ok(lines.into())
}

#[cfg(test)]
mod tests {
    use fieldgate_types::ManualClock;

    use super::*;

    #[test]
    fn keeps_lines_and_shows_the_last() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(UnixMillis(5)));
        let audit = Audit::open(folder.path(), clock).unwrap();
        audit.record(Event::Started { version: "1" });
        audit.record(Event::DeviceRevoked { device: DeviceId::new("a").unwrap() });
        audit.close();
        let lines = tail(folder.path(), 1).unwrap();
        assert_eq!(lines, [r#"{"ts":5,"event":"device_revoked","device":"a"}"#]);
        assert_eq!(tail(folder.path(), 10).unwrap().len(), 2);
    }

    #[test]
    fn rotates_and_stays_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = LogFile::open(folder.path()).unwrap();
        let event =
            Event::PublishRefused { device: "a".to_owned(), topic: "t".repeat(65_000), reason: "no".to_owned() };
        for _ in 0..1000 {
            file.write(UnixMillis(1), &event).unwrap();
        }
        let total: u64 = fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum();
        assert!(total <= MAX_FILE * (KEEP as u64 + 1), "{total}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), KEEP + 1);
    }
}
