//! The writer's last work: everything that still waits, then tidy files.

use std::time::{Duration, Instant};

use crate::error::CloseError;
use crate::writer::Writer;

/// The end waits so long for records that are being salvaged; what is not back then stays in the file set aside.
const SALVAGE: Duration = Duration::from_secs(5);

impl Writer {
    /// Everything that still waits, then the tidy end.
    pub(crate) fn finish(mut self) -> Result<(), CloseError> {
        // What a damaged file held comes back, for as long as a stop may take.
        let begin = Instant::now();
        while !self.salvages.is_empty() && begin.elapsed() < SALVAGE {
            if let Err(error) = self.salvage() {
                tracing::error!(%error, "salvage ended early");
                break;
            }
        }
        loop {
            let woke = self.inbox.wait(Duration::ZERO, false);
            self.pending.extend(woke.jobs);
            self.absorb();
            self.flush = true;
            self.removals.extend(self.shared.desk().take_removals());
            let before = self.pending.len();
            if self.conn.is_none() {
                return Err(self.give_up("the disk refuses"));
            }
            let last = self.transact(true);
            let stuck = self.blocked.is_some() && self.pending.len() == before;
            if let Err(error) = last {
                return Err(self.give_up(&error.to_string()));
            }
            if self.pending.is_empty() && self.removals.is_empty() && self.inbox.waiting() == 0 {
                break;
            }
            if stuck {
                return Err(self.give_up("there is no room"));
            }
        }
        let conn = self.conn.take().ok_or(CloseError::WriterLost)?;
        if let Err(error) = crate::sqlite::checkpoint(&conn) {
            // All is durable in the log; the next start moves it.
            tracing::warn!(%error, "queue closed without its last checkpoint");
        }
        if let Err((_, error)) = conn.close() {
            tracing::warn!(%error, "queue closed untidily");
        }
        if let Some(footing) = self.footing.take() {
            footing.keep(self.room);
        }
        Ok(())
    }

    fn give_up(&self, reason: &str) -> CloseError {
        // Dropping the jobs tells their callers that the queue is closed.
        CloseError::NotFlushed { batches: self.inbox.waiting(), reason: reason.to_owned() }
    }
}
