//! The last lines of the log, in memory: what the console shows, filtered and live.
//!
//! At most [`MOST_LINES`] of them and [`MOST_BYTES`]; the oldest make room. Each has a number, counted from 1, so that a reader who
//! was away knows how many it missed. A reader waits for a number to change and then reads what is new: nothing is queued for
//! anybody, and nobody can hold up who logs.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use fieldgate_types::UnixMillis;
use tokio::sync::watch;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Lines that are kept.
pub const MOST_LINES: usize = 2_000;
/// Bytes that all of them may take.
pub const MOST_BYTES: usize = 1024 * 1024;
/// Bytes of one line; a longer one is cut.
pub const LONGEST: usize = 4 * 1024;
/// What a line takes beside its text.
const OVERHEAD: usize = size_of::<Line>();

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its number.
    pub number: u64,
    /// When it was logged.
    pub at: UnixMillis,
    /// How grave it is.
    pub level: Level,
    /// The message, then its fields as `key=value`.
    pub text: Arc<str>,
}

/// What somebody wants to see of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// This level and graver ones.
    pub level: Level,
    /// Text that must be in it, in lower or upper case.
    pub text: String,
}

impl Wanted {
    /// Whether a line is; `text` is ours in lower case.
    fn holds(&self, text: &str, line: &Line) -> bool {
        // A graver level is less in tracing's order.
        line.level <= self.level && (text.is_empty() || line.text.to_lowercase().contains(text))
    }
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Oldest first.
    pub lines: Vec<Line>,
    /// The number of the newest line that was looked at, wanted or not: the next search begins behind it.
    pub upto: u64,
    /// Lines before the first that is kept, of those that were asked for.
    pub missed: u64,
}

/// The ring.
#[derive(Debug)]
pub struct Lines {
    kept: Mutex<Kept>,
    newest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<Line>,
    bytes: usize,
    newest: u64,
}

static LINES: LazyLock<Lines> = LazyLock::new(Lines::new);

/// Those of this process, since [`super::init`].
pub fn lines() -> &'static Lines {
    &LINES
}

impl Lines {
    fn new() -> Self {
        Self { kept: Mutex::default(), newest: watch::Sender::new(0) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, at: UnixMillis, level: Level, text: String) {
        let newest = {
            let mut kept = self.kept();
            kept.newest += 1;
            let number = kept.newest;
            kept.bytes += text.len() + OVERHEAD;
            kept.lines.push_back(Line { number, at, level, text: text.into() });
            while kept.lines.len() > MOST_LINES || kept.bytes > MOST_BYTES {
                let Some(oldest) = kept.lines.pop_front() else { break };
                kept.bytes -= oldest.text.len() + OVERHEAD;
            }
            number
        };
        self.newest.send_replace(newest);
    }

    /// The newest lines that are wanted, at most so many, of those behind the line with the number `after`. Looking for text in
    /// all of them takes milliseconds.
    pub fn find(&self, wanted: &Wanted, after: u64, most: usize) -> Found {
        // Looked through without the lock: who logs must not wait.
        let (fresh, upto, missed) = {
            let kept = self.kept();
            let first = kept.lines.front().map_or(kept.newest + 1, |line| line.number);
            let old = kept.lines.partition_point(|line| line.number <= after);
            let fresh: Vec<Line> = kept.lines.range(old..).cloned().collect();
            (fresh, kept.newest, first.saturating_sub(after.saturating_add(1)))
        };
        let text = wanted.text.to_lowercase();
        let mut lines: Vec<Line> =
            fresh.into_iter().rev().filter(|line| wanted.holds(&text, line)).take(most).collect();
        lines.reverse();
        Found { lines, upto, missed }
    }

    /// Tells when there are new lines, by the number of the newest.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}

/// Fills [`lines`] with what the log's filter lets through.
pub struct Keep;

impl<S: Subscriber> Layer<S> for Keep {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        lines().push(at, *event.metadata().level(), text.whole());
    }
}

/// An event as one line of text.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn whole(mut self) -> String {
        self.message.push_str(&self.fields);
        // What somebody else sent may be in it.
        let mut text: String =
            self.message.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect();
        if text.len() > LONGEST {
            let end = text.floor_char_boundary(LONGEST - '…'.len_utf8());
            text.truncate(end);
            text.push('…');
        }
        text
    }
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.record_debug(field, &format_args!("{value}"));
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
        if written.is_err() {
            self.fields.push_str(" (a field that can't be written)");
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    const ALL: Wanted = Wanted { level: Level::TRACE, text: String::new() };

    fn filled(count: usize, text: &str) -> Lines {
        let lines = Lines::new();
        for n in 1..=count {
            lines.push(UnixMillis(0), Level::INFO, format!("{text}{n}"));
        }
        lines
    }

    fn texts(found: &Found) -> Vec<&str> {
        found.lines.iter().map(|line| &*line.text).collect()
    }

    #[test]
    fn the_oldest_lines_make_room_and_a_reader_learns_how_many_it_missed() {
        let lines = filled(MOST_LINES + 10, "line ");
        let found = lines.find(&ALL, 0, 3);
        assert_eq!(texts(&found), ["line 2008", "line 2009", "line 2010"]);
        assert_eq!((found.upto, found.missed), (2_010, 10));
        assert_eq!(lines.find(&ALL, 2_008, 100).lines.len(), 2);
        assert_eq!(lines.find(&ALL, 2_008, 100).missed, 0);
        assert_eq!(lines.find(&ALL, 2_010, 100), Found { upto: 2_010, ..Found::default() });
        assert_eq!(lines.find(&ALL, 0, usize::MAX).lines.len(), MOST_LINES);
    }

    #[test]
    fn all_lines_together_take_no_more_than_their_bytes() {
        let lines = filled(1_000, &"x".repeat(3_000));
        let kept = lines.kept();
        assert!(kept.bytes <= MOST_BYTES && kept.bytes > MOST_BYTES - 4_000, "{}", kept.bytes);
        let counted: usize = kept.lines.iter().map(|line| line.text.len() + OVERHEAD).sum();
        assert_eq!(counted, kept.bytes);
    }

    #[test]
    fn lines_are_found_by_level_and_text() {
        let lines = Lines::new();
        lines.push(UnixMillis(1), Level::ERROR, "The store refuses".to_owned());
        lines.push(UnixMillis(2), Level::WARN, "the link is down link=\"tcp://192.0.2.1:502\"".to_owned());
        lines.push(UnixMillis(3), Level::DEBUG, "turn".to_owned());
        let found = |level, text: &str| lines.find(&Wanted { level, text: text.to_owned() }, 0, 10).lines.len();
        assert_eq!(found(Level::TRACE, ""), 3);
        assert_eq!(found(Level::WARN, ""), 2);
        assert_eq!(found(Level::ERROR, ""), 1);
        assert_eq!(found(Level::TRACE, "STORE"), 1);
        assert_eq!(found(Level::ERROR, "link"), 0);
    }

    #[tokio::test]
    async fn who_watches_is_told_of_a_new_line() {
        let lines = filled(1, "line ");
        let mut watch = lines.watch();
        assert_eq!(*watch.borrow_and_update(), 1);
        lines.push(UnixMillis(0), Level::INFO, "another".to_owned());
        watch.changed().await.unwrap();
        assert_eq!(*watch.borrow(), 2);
    }

    #[test]
    fn an_event_becomes_one_line_with_its_fields() {
        let before = lines().find(&ALL, 0, 0).upto;
        tracing::subscriber::with_default(tracing_subscriber::registry().with(Keep), || {
            tracing::warn!(link = "tcp://a", count = 3, error = %"two\nlines", "the link is down");
            tracing::info!("{}", "€".repeat(LONGEST));
        });
        let found = lines().find(&ALL, before, 10);
        let kept = texts(&found);
        assert!(kept.contains(&"the link is down link=\"tcp://a\" count=3 error=two\u{fffd}lines"), "{kept:?}");
        let long = kept.iter().find(|text| text.starts_with('€')).unwrap();
        assert!(long.len() <= LONGEST && long.ends_with('…'), "{}", long.len());
        assert_eq!(found.lines[0].level, Level::WARN);
    }
}
