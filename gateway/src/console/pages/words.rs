//! Amounts in words, and lines of the audit log as people read them.

use std::time::Duration;

use fieldgate_types::UnixMillis;
use maud::{Markup, html};
use serde_json::{Map, Value as Json};

use crate::console::page::time;

/// Longest text of one field that is shown.
const SHOWN: usize = 300;

/// How long, in the largest unit that tells something.
pub fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// The beginning of a long text.
pub fn shortened(text: &str) -> String {
    if text.chars().count() <= SHOWN {
        return text.to_owned();
    }
    text.chars().take(SHOWN).chain(['…']).collect()
}

/// A value as people read it.
pub fn plain(value: &Json) -> String {
    match value {
        Json::String(text) => shortened(text),
        other => shortened(&other.to_string()),
    }
}

/// A line of the audit log.
#[derive(Debug)]
pub struct Line {
    /// Its number; none for one from before the log was a chain.
    pub n: Option<u64>,
    /// When.
    pub at: UnixMillis,
    /// What.
    pub event: String,
    fields: Map<String, Json>,
}

impl Line {
    /// Reads it; `None` for what is none.
    pub fn read(text: &str) -> Option<Self> {
        let mut fields: Map<String, Json> = serde_json::from_str(text).ok()?;
        let n = fields.remove("n").and_then(|n| n.as_u64());
        let at = UnixMillis(fields.remove("ts").and_then(|ts| ts.as_u64()).unwrap_or_default());
        let event = fields.remove("event").map(|event| plain(&event))?;
        fields.remove("prev");
        Some(Self { n, at, event, fields })
    }

    /// A field of it.
    pub fn text(&self, field: &str) -> Option<&str> {
        self.fields.get(field)?.as_str()
    }
}

/// A field of a line; a moment where it is one.
fn said(key: &str, value: &Json) -> Markup {
    let moment = value.as_u64().filter(|_| ["expires", "taken"].contains(&key));
    moment.map_or_else(|| html! { (plain(value)) }, |at| time(UnixMillis(at)))
}

/// Lines of the audit log, in the order given.
pub fn audit_table(lines: &[Line], name: &str) -> Markup {
    html! {
        @if lines.is_empty() {
            p class="quiet" { "No lines." }
        } @else {
            table class="cards" aria-label=(name) {
                thead { tr { th scope="col" { "When" } th scope="col" { "What" } th scope="col" { "Details" } } }
                tbody {
                    @for line in lines {
                        tr {
                            td data-label="When" { (time(line.at)) }
                            td data-label="What" { (line.event.replace('_', " ")) }
                            td data-label="Details" class="details" {
                                @for (key, value) in &line.fields {
                                    span class="pair" { span class="quiet" { (key.replace('_', " ")) } " " (said(key, value)) } " "
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_stands_in_a_line_is_text_on_the_page() {
        let line =
            r#"{"n":3,"prev":"00","ts":5,"event":"publish_refused","device":"a","topic":"<script>alert(1)</script>"}"#;
        let line = Line::read(line).unwrap();
        assert_eq!((line.n, line.at, line.text("device")), (Some(3), UnixMillis(5), Some("a")));
        let markup = audit_table(&[line], "Lines").into_string();
        assert!(markup.contains("&lt;script&gt;") && !markup.contains("<script"), "{markup}");
        assert!(Line::read("[]").is_none() && Line::read("{\"ts\":1}").is_none());
    }

    #[test]
    fn spans_are_told_in_units_that_people_use() {
        let told = [0, 119, 120, 7_199, 7_200, 172_799, 172_800].map(|seconds| span(Duration::from_secs(seconds)));
        assert_eq!(told, ["0 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 days"]);
    }
}
