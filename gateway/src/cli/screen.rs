//! A terminal, or not: what is shown again and again, and colours.
//!
//! Only on a terminal is anything redrawn or coloured, and never with `NO_COLOR` in the environment (no-color.org) or
//! on one that can't (`TERM=dumb`). Elsewhere the same text comes out plain, one after the other.

use std::ffi::OsStr;
use std::io::{IsTerminal, Write, stdout};
use std::time::Duration;

use clap::Args;
use fieldgate_types::duration;
use tokio::time::{MissedTickBehavior, interval};

/// Home, and clear from there: without the flicker of clearing first.
const AGAIN: &str = "\x1b[H\x1b[J";
const RED: &str = "\x1b[1;31m";
const PLAIN: &str = "\x1b[0m";

/// Whether this stream may be coloured.
pub fn coloured(stream: &impl IsTerminal) -> bool {
    allowed(stream.is_terminal(), std::env::var_os("NO_COLOR").as_deref(), std::env::var_os("TERM").as_deref())
}

fn allowed(terminal: bool, no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    terminal && no_color.is_none_or(OsStr::is_empty) && term.is_none_or(|term| term != "dumb")
}

/// The lines that begin with one of these words in red, where standard output may be coloured.
pub fn with_troubles_in_red(text: String) -> String {
    if coloured(&stdout()) { in_red(&text) } else { text }
}

fn in_red(text: &str) -> String {
    let trouble = |line: &str| ["PROBLEM", "WARNING"].iter().any(|word| line.starts_with(word));
    let paint = |line: &str| if trouble(line) { [RED, line, PLAIN, "\n"].concat() } else { format!("{line}\n") };
    text.lines().map(paint).collect()
}

/// How often something is shown anew.
#[derive(Debug, Clone, Copy, Args)]
pub struct Rounds {
    /// Between two looks
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration::parse)]
    every: Duration,
    /// End after so many looks; default: at Ctrl-C
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

impl Rounds {
    /// Shows what `look` gives, until it fails or has been shown often enough. With `lines` each stays where it is.
    pub async fn show(self, lines: bool, mut look: impl AsyncFnMut() -> anyhow::Result<String>) -> anyhow::Result<()> {
        let mut ticks = interval(self.every.max(Duration::from_millis(10)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let redraw = !lines && stdout().is_terminal();
        let mut looks = 0;
        while self.count.is_none_or(|count| looks < count) {
            ticks.tick().await;
            let text = look().await?;
            let mut out = stdout().lock();
            if redraw {
                out.write_all(AGAIN.as_bytes())?;
            }
            out.write_all(text.as_bytes())?;
            out.flush()?;
            looks += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_that_want_them() {
        let word = |text: &'static str| Some(OsStr::new(text));
        assert!(allowed(true, None, None) && allowed(true, word(""), word("xterm")));
        assert!(!allowed(false, None, word("xterm")));
        assert!(!allowed(true, word("1"), word("xterm")));
        assert!(!allowed(true, None, word("dumb")));
        assert_eq!(in_red("a\nPROBLEM b\n"), "a\n\x1b[1;31mPROBLEM b\x1b[0m\n");
    }
}
