//! What the demo shows: progress while it runs, a table at the end.

use std::fmt::Write;
use std::io::{IsTerminal, Write as _};

use super::verdict::Verdict;

/// Progress for people: a block that is redrawn on a terminal, a line a second elsewhere. With `--json` it goes to
/// standard error, so that standard output holds one document alone.
pub struct Screen {
    to_stderr: bool,
    redraw: bool,
    drawn: usize,
}

impl Screen {
    /// Shows on standard output, or with `json` on standard error.
    pub fn new(json: bool) -> Self {
        let terminal = if json { std::io::stderr().is_terminal() } else { std::io::stdout().is_terminal() };
        Self { to_stderr: json, redraw: terminal, drawn: 0 }
    }

    /// A line that stays.
    pub fn say(&mut self, line: &str) {
        self.clear();
        self.print(&format!("{line}\n"));
    }

    /// The state now: redrawn on a terminal, one line elsewhere.
    pub fn show(&mut self, lines: &[String]) {
        if self.redraw {
            self.clear();
            self.print(&format!("{}\n", lines.join("\n")));
            self.drawn = lines.len();
        } else {
            self.print(&format!("{}\n", lines.join(" | ")));
        }
    }

    fn clear(&mut self) {
        if self.drawn > 0 {
            // Up by what was drawn, then clear to the end of the screen (ECMA-48 CUU, ED).
            self.print(&format!("\x1b[{}A\x1b[J", self.drawn));
            self.drawn = 0;
        }
    }

    fn print(&self, text: &str) {
        let written = if self.to_stderr {
            std::io::stderr().write_all(text.as_bytes())
        } else {
            std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush())
        };
        if let Err(error) = written {
            tracing::debug!(%error, "progress can't be shown");
        }
    }
}

/// The table at the end.
pub fn table(verdict: &Verdict) -> String {
    let mut out = String::new();
    // Writing to a String can't fail.
    let _infallible = write(&mut out, verdict).is_ok();
    out
}

fn write(out: &mut String, verdict: &Verdict) -> std::fmt::Result {
    writeln!(out)?;
    let head = ["device", "via", "sent", "stored offline", "delivered", "lost", "duplicated", "out of order"];
    let [device, via, sent, stored, delivered, lost, duplicated, disorder] = head;
    writeln!(
        out,
        "{device:<12} {via:<8} {sent:>6} {stored:>15} {delivered:>10} {lost:>6} {duplicated:>11} {disorder:>13}"
    )?;
    for row in &verdict.devices {
        writeln!(
            out,
            "{:<12} {:<8} {:>6} {:>15} {:>10} {:>6} {:>11} {:>13}",
            row.id, row.via, row.sent, row.stored, row.delivered, row.lost, row.duplicates, row.out_of_order
        )?;
    }
    for command in &verdict.commands {
        writeln!(out, "command to {}: {}", command.device, command.status)?;
    }
    writeln!(out, "at most {} messages waited while the line was cut", verdict.offline_buffered_max)?;
    writeln!(
        out,
        "{}",
        if verdict.ok { "OK: nothing lost, nothing out of order, every command answered" } else { "NOT OK" }
    )
}
