//! `/console/logs`: the last lines of the log, filtered and live.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;
use tracing::Level;

use crate::admin::Overview;
use crate::admin::api::{Failed, blocking};
use crate::console::access::Visitor;
use crate::console::live;
use crate::console::page::{Mood, badge, link, live_page, number, time};
use crate::log::lines::{Found, MOST_LINES, Wanted, lines};

const HERE: &str = "/console/logs";
const EVERY: Duration = Duration::from_secs(1);
/// Lines on the page, and their bytes: the rest is found by its text.
const SHOWN: usize = 250;
const BYTES: usize = 128 * 1024;
/// Of the text that is looked for.
const LONGEST: usize = 200;

/// What is looked for.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Filter {
    #[serde(default)]
    level: String,
    #[serde(default)]
    q: String,
}

impl Filter {
    fn wanted(&self) -> Wanted {
        let level = match self.level.as_str() {
            "error" => Level::ERROR,
            "warn" => Level::WARN,
            "debug" => Level::DEBUG,
            "trace" => Level::TRACE,
            _ => Level::INFO,
        };
        Wanted { level, text: self.q.trim().chars().take(LONGEST).collect() }
    }
}

fn word(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        _ => "trace",
    }
}

fn find(wanted: &Wanted) -> Found {
    let mut found = lines().find(wanted, 0, SHOWN);
    let mut left = BYTES;
    let fit = found.lines.iter().rev().take_while(|line| {
        left = left.saturating_sub(line.text.len());
        left > 0
    });
    let fit = fit.count();
    found.lines.drain(..found.lines.len() - fit);
    found
}

fn table(found: &Found) -> Markup {
    html! {
        p class="quiet" {
            (found.lines.len()) " lines, the newest first"
            @if found.missed > 0 { "; " (number(found.missed)) " older ones are gone" }
        }
        table class="cards log" aria-label="Log" {
            thead { tr { th scope="col" { "Time" } th scope="col" { "Level" } th scope="col" { "Message" } } }
            tbody {
                @for line in found.lines.iter().rev() {
                    tr {
                        td data-label="Time" { (time(line.at)) }
                        td data-label="Level" { (badge(mood(line.level), word(line.level))) }
                        td data-label="Message" { code { (line.text) } }
                    }
                }
            }
        }
        @if found.lines.is_empty() { p { "No line like that among the last " (number(MOST_LINES as u64)) "." } }
    }
}

fn mood(level: Level) -> Mood {
    match level {
        Level::ERROR => Mood::Bad,
        Level::WARN => Mood::Warn,
        _ => Mood::Neutral,
    }
}

/// The page.
pub async fn show(
    State(overview): State<Arc<Overview>>,
    visitor: Visitor,
    Query(filter): Query<Filter>,
) -> Result<Response, Failed> {
    let wanted = filter.wanted();
    let of = wanted.clone();
    let found = blocking(move || find(&of)).await?;
    let level = word(wanted.level);
    let body = html! {
        form class="filter" role="search" action=(HERE) {
            label for="level" { "At least" }
            select id="level" name="level" {
                @for each in ["error", "warn", "info", "debug", "trace"] {
                    option value=(each) selected[each == level] { (each) }
                }
            }
            label for="q" { "Text" }
            input id="q" name="q" type="search" value=(filter.q) maxlength=(LONGEST) autocapitalize="none" spellcheck="false";
            button { "Show" }
        }
        p class="quiet" {
            "The last " (number(MOST_LINES as u64)) " lines of this process. " code { "FIELDGATE_LOG" }
            " says what is logged; all of it goes to standard error."
        }
        div id="lines" { (table(&found)) }
    };
    let stream = link("/console/logs/live", &[("level", level), ("q", &filter.q)]);
    Ok(live_page(&overview, &visitor, HERE, "Logs", &stream, &body))
}

/// The lines, live.
pub async fn live(State(overview): State<Arc<Overview>>, visitor: Visitor, Query(filter): Query<Filter>) -> Response {
    let wanted = filter.wanted();
    let mut news = lines().watch();
    news.mark_changed();
    live::stream(&overview, &visitor, EVERY, move || {
        let wanted = news.has_changed().unwrap_or(false).then(|| wanted.clone());
        news.mark_unchanged();
        async move {
            // Nothing was logged: nothing to look for.
            let Some(wanted) = wanted else { return Vec::new() };
            let found = blocking(move || find(&wanted)).await;
            found.map(|found| ("lines".to_owned(), table(&found))).into_iter().collect()
        }
    })
}

#[cfg(test)]
mod tests {
    use fieldgate_types::UnixMillis;

    use super::*;
    use crate::log::lines::Line;

    #[test]
    fn what_somebody_else_wrote_into_the_log_is_shown_as_text() {
        let text = "refused id=\"<script>alert(1)</script>\"".into();
        let line = Line { number: 1, at: UnixMillis(0), level: Level::WARN, text };
        let page = table(&Found { lines: vec![line], upto: 1, missed: 3 }).into_string();
        assert!(page.contains("&lt;script&gt;alert(1)") && !page.contains("<script>"), "{page}");
        assert!(page.contains("3 older ones are gone"), "{page}");
    }

    #[test]
    fn a_level_that_is_unknown_is_info_and_the_text_has_a_bound() {
        let filter = |level: &str, q: &str| Filter { level: level.to_owned(), q: q.to_owned() }.wanted();
        assert_eq!(filter("", "").level, Level::INFO);
        assert_eq!(filter("loud", "").level, Level::INFO);
        assert_eq!(filter("error", &"x".repeat(10_000)), Wanted { level: Level::ERROR, text: "x".repeat(LONGEST) });
    }
}
