//! How much of the wire stored messages may take beside live ones, with `replay = "live-first"`.
//!
//! What was sent first is answered first: a live message waits for all history that is on the wire before it. So history is given
//! as much of the window as the upstream answers in a moment: more while answers come quickly, half as much when one
//! took long. And live messages go first, but not alone: one message in [`EACH`] is history's, or it would never end beside a full
//! live stream.

use std::time::{Duration, Instant};

/// History begins with this many on the wire, and always may have them.
const LEAST: usize = 64;
/// An answer that took no longer lets history grow; one that took this long halves it. A live message may take a second.
const QUICK: Duration = Duration::from_millis(100);
const SLOW: Duration = Duration::from_millis(250);
/// One message in so many goes to history however much is live.
const EACH: usize = 8;

/// The share of one connection.
#[derive(Debug)]
pub(super) struct Share {
    /// Stored messages that may be on the wire.
    allowed: usize,
    /// At most: half the window.
    most: usize,
    flying: usize,
    /// Live messages in a row.
    row: usize,
    /// When it was last halved: the answers to what was on the wire then say nothing new.
    halved: Option<Instant>,
}

impl Share {
    /// Of a window.
    pub fn new(window: usize) -> Self {
        let most = (window / 2).max(1);
        Self { allowed: LEAST.min(most), most, flying: 0, row: 0, halved: None }
    }

    /// Whether history may send now.
    pub fn has_room(&self) -> bool {
        self.flying < self.allowed
    }

    /// Whether it is history's turn although live messages wait.
    pub fn is_due(&self) -> bool {
        self.row + 1 >= EACH
    }

    /// A message was sent.
    pub fn sent(&mut self, history: bool) {
        if history {
            self.flying += 1;
            self.row = 0;
        } else {
            self.row += 1;
        }
    }

    /// A stored message that was sent so long ago has its answer.
    pub fn answered(&mut self, took: Duration, now: Instant) {
        self.flying = self.flying.saturating_sub(1);
        let sent = now.checked_sub(took).unwrap_or(now);
        if took >= SLOW {
            if self.halved.is_none_or(|halved| sent >= halved) {
                self.allowed = (self.allowed / 2).max(LEAST.min(self.most));
                self.halved = Some(now);
            }
        } else if took <= QUICK {
            self.allowed = (self.allowed + 1).min(self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_takes_what_a_quick_upstream_answers_and_gives_way_to_a_slow_one() {
        let mut share = Share::new(4096);
        let mut now = Instant::now();
        let send_all = |share: &mut Share| {
            let mut sent = 0;
            while share.has_room() {
                share.sent(true);
                sent += 1;
            }
            sent
        };
        assert_eq!(send_all(&mut share), 64);
        for _ in 0..100 {
            now += QUICK;
            for _ in 0..send_all(&mut share).max(64) {
                share.answered(QUICK, now);
            }
        }
        assert_eq!(share.allowed, 2048);
        send_all(&mut share);
        now += SLOW;
        for _ in 0..2048 {
            share.answered(SLOW, now);
        }
        assert_eq!(share.allowed, 1024, "one slow round halves it once");
        for _ in 0..20 {
            share.sent(true);
            now += SLOW;
            share.answered(SLOW, now);
        }
        assert_eq!(share.allowed, 64);
    }

    #[test]
    fn one_message_in_eight_is_historys() {
        let mut share = Share::new(100);
        let mut history = 0;
        for _ in 0..800 {
            let due = share.is_due();
            share.sent(due);
            history += usize::from(due);
        }
        assert_eq!(history, 100);
    }

    #[test]
    fn a_window_of_one_lets_history_through() {
        assert!(Share::new(1).has_room());
    }
}
