//! Whether a link keeps up with its intervals. No IO; time is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// Late polls are looked at over this time.
const WINDOW: Duration = Duration::from_secs(10);
/// So many such times in a row with late polls are an overload; a dead unit's probes alone are not.
const LASTING: u32 = 3;

/// What is to be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// The link can't do what its intervals ask.
    Overloaded,
    /// It keeps up again.
    KeepsUp,
}

/// Counts late polls.
#[derive(Debug)]
pub(super) struct Overload {
    window_ends: Instant,
    late: u64,
    windows: u32,
    said: bool,
}

impl Overload {
    pub(super) fn new(now: Instant) -> Self {
        Self { window_ends: now + WINDOW, late: 0, windows: 0, said: false }
    }

    /// Notes so many late polls. Each state is said once.
    pub(super) fn note(&mut self, late: u64, now: Instant) -> Option<News> {
        self.late += late;
        if now < self.window_ends {
            return None;
        }
        self.windows = if self.late > 0 { self.windows.saturating_add(1) } else { 0 };
        self.late = 0;
        self.window_ends = now + WINDOW;
        let overloaded = self.windows >= LASTING || (self.said && self.windows > 0);
        if std::mem::replace(&mut self.said, overloaded) == overloaded {
            return None;
        }
        Some(if overloaded { News::Overloaded } else { News::KeepsUp })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lasting_overload_is_said_once_and_its_end_once() {
        let mut now = Instant::now();
        let mut overload = Overload::new(now);
        let mut said = Vec::new();
        // Half a minute late, a minute late, then on time.
        for second in 0..150 {
            now += Duration::from_secs(1);
            said.extend(overload.note(u64::from(second < 100), now).map(|news| (second, news)));
        }
        assert_eq!(said.iter().map(|(_, news)| *news).collect::<Vec<_>>(), [News::Overloaded, News::KeepsUp]);
        assert!((29..=31).contains(&said[0].0), "{said:?}");
    }

    #[test]
    fn a_late_poll_now_and_then_is_no_overload() {
        let mut now = Instant::now();
        let mut overload = Overload::new(now);
        for second in 0..600 {
            now += Duration::from_secs(1);
            assert_eq!(overload.note(u64::from(second % 25 == 0), now), None);
        }
    }
}
