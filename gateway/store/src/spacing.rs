//! How long a commit waits for company while nobody takes records away.
//!
//! Each transaction costs the flash its pages, however little is in them: 9 kB for one message of 200 bytes, 0.7 kB for
//! each of a hundred. While a consumer is there it should have each record soon, so nothing waits. While it is away
//! nobody but the sender's PUBACK waits, and transactions follow each other at `interval`, sooner when much has gathered.
//!
//! A sender that waits for each answer would be slowed to one message per interval. Such senders give themselves away:
//! they all come back right after an answer, and then there is silence. When most of what came between two
//! transactions came in the first fifth of the interval, nothing waits for a second; then one interval is looked at again.
//!
//! No IO and no clock in here: moments are arguments.

use std::time::{Duration, Instant};

/// This much is worth a transaction: more pages would save no more than a tenth.
const ENOUGH_BYTES: usize = 64 << 10;
/// After a look that found senders waiting for their answers.
const HURRY: Duration = Duration::from_secs(1);

/// The spacing of one queue's transactions.
#[derive(Debug)]
pub(crate) struct Spacing {
    interval: Duration,
    /// When the last batches were answered.
    answered: Option<Instant>,
    /// Batches that came since then, in the first fifth of the interval and after it.
    early: usize,
    late: usize,
    bytes: usize,
    /// Something that can't wait is among them.
    urgent: bool,
    hurry_until: Option<Instant>,
}

impl Spacing {
    /// Zero: nothing ever waits.
    pub(crate) fn new(interval: Duration) -> Self {
        Self { interval, answered: None, early: 0, late: 0, bytes: 0, urgent: false, hurry_until: None }
    }

    /// Another interval from now on.
    pub(crate) fn set_interval(&mut self, interval: Duration) {
        self.interval = interval;
    }

    /// A batch has come.
    pub(crate) fn arrived(&mut self, now: Instant, bytes: usize, urgent: bool) {
        let since = self.answered.map(|answered| now.saturating_duration_since(answered));
        if since.is_some_and(|since| since < self.interval / 5) {
            self.early += 1;
        } else {
            self.late += 1;
        }
        self.bytes += bytes;
        self.urgent |= urgent;
    }

    /// How long what has come still waits.
    pub(crate) fn wait(&self, now: Instant) -> Duration {
        let hurried = self.hurry_until.is_some_and(|until| now < until);
        if hurried || self.urgent || self.bytes >= ENOUGH_BYTES {
            return Duration::ZERO;
        }
        let Some(answered) = self.answered else { return Duration::ZERO };
        self.interval.saturating_sub(now.saturating_duration_since(answered))
    }

    /// The writer has taken what came.
    pub(crate) fn taken(&mut self, now: Instant) {
        let looked = self.answered.is_some_and(|answered| {
            let since = now.saturating_duration_since(answered);
            since >= self.interval && since < 2 * self.interval
        });
        if looked && self.early > self.late {
            self.hurry_until = Some(now + HURRY);
        }
        (self.early, self.late, self.bytes, self.urgent) = (0, 0, 0, false);
        // Until the answer: what comes meanwhile is not an answer's echo.
        self.answered = None;
    }

    /// What was taken is durable and answered.
    pub(crate) fn answered(&mut self, now: Instant) {
        self.answered = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(100);

    fn ms(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    #[test]
    fn a_rare_message_never_waits_and_the_next_one_does() {
        let mut spacing = Spacing::new(INTERVAL);
        let begin = Instant::now();
        spacing.arrived(begin, 10, false);
        assert_eq!(spacing.wait(begin), Duration::ZERO);
        spacing.taken(begin);
        spacing.answered(begin);
        spacing.arrived(begin + ms(30), 10, false);
        assert_eq!(spacing.wait(begin + ms(40)), ms(60));
        assert_eq!(spacing.wait(begin + ms(100)), Duration::ZERO);
        spacing.taken(begin + ms(100));
        spacing.answered(begin + ms(101));
        spacing.arrived(begin + ms(900), 10, false);
        assert_eq!(spacing.wait(begin + ms(900)), Duration::ZERO);
    }

    #[test]
    fn much_and_urgent_batches_do_not_wait() {
        let mut spacing = Spacing::new(INTERVAL);
        let begin = Instant::now();
        spacing.answered(begin);
        spacing.arrived(begin + ms(30), ENOUGH_BYTES, false);
        assert_eq!(spacing.wait(begin + ms(30)), Duration::ZERO);
        spacing.taken(begin + ms(30));
        spacing.answered(begin + ms(31));
        spacing.arrived(begin + ms(60), 1, false);
        assert!(spacing.wait(begin + ms(60)) > Duration::ZERO);
        spacing.arrived(begin + ms(61), 1, true);
        assert_eq!(spacing.wait(begin + ms(61)), Duration::ZERO);
    }

    /// Messages in the second that begins at `from`, answered together, from a sender that waits for each answer.
    #[test]
    fn a_sender_that_waits_for_its_answers_is_slowed_once_a_second_only() {
        let mut spacing = Spacing::new(INTERVAL);
        let begin = Instant::now();
        let mut now = begin;
        let mut sent = 0;
        while now < begin + ms(10_000) {
            spacing.arrived(now, 10, false);
            now += spacing.wait(now);
            spacing.taken(now);
            now += ms(2);
            spacing.answered(now);
            now += ms(1);
            sent += 1;
        }
        assert!(sent > 2800, "{sent} in ten seconds, 3,333 without any spacing");
    }

    #[test]
    fn a_steady_stream_is_gathered() {
        let mut spacing = Spacing::new(INTERVAL);
        let begin = Instant::now();
        let mut commits = 0;
        let mut waiting = 0;
        for at in 0..10_000 {
            let now = begin + ms(at);
            spacing.arrived(now, 200, false);
            waiting += 1;
            if spacing.wait(now).is_zero() {
                spacing.taken(now);
                spacing.answered(now);
                commits += 1;
                waiting = 0;
            }
        }
        assert!((95..=105).contains(&commits), "{commits}, {waiting} waiting");
    }
}
