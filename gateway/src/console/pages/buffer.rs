//! `/console/buffer`: what waits for the upstream, by which way and whose it is, how it drains, and what lies aside.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Form, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use fieldgate_store::{DeviceLedger, LaneReport, RecordId};
use maud::{Markup, html};
use serde::Deserialize;

use super::trends;
use super::words::span;
use crate::admin::Overview;
use crate::admin::api::{Failed, blocking};
use crate::admin::overview::Buffer;
use crate::admin::quarantine::{Entry, MOST, decided, ids};
use crate::audit::Event;
use crate::console::access::Visitor;
use crate::console::charts::{Charts, Figure, Span, Values};
use crate::console::live;
use crate::console::page::{Mood, badge, facts, link, live_page, number, page, panel, time, time_or};
use crate::moment::bytes;

const HERE: &str = "/console/buffer";
const EVERY: Duration = Duration::from_secs(2);
/// Devices on the page, those with the most waiting.
const DEVICES: usize = 100;
/// Records that lie aside, on one page.
const ASIDE: usize = 50;

/// What is looked for among the devices, and the page of what lies aside.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Look {
    #[serde(default)]
    q: String,
    #[serde(default)]
    after: u64,
}

/// Everything that changes while somebody looks.
struct Now {
    buffer: Buffer,
    capacity: u64,
    lanes: [LaneReport; 4],
    devices: Vec<DeviceLedger>,
    found: usize,
    drain: Drain,
}

/// How far what waited is gone.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Drain {
    /// The most that waited within the last hour.
    peak: u64,
    waiting: u64,
    /// Fewer by so many a second, lately.
    rate: Option<f32>,
}

impl Drain {
    fn of(charts: &Charts, waiting: u64) -> Self {
        let last = |figure| match charts.figure(figure, Span::Hour) {
            Values::Each(values) => values.into_iter().rev().find(|value| !value.is_nan()),
            Values::Summed(_) => None,
        };
        let peak = match charts.figure(Figure::Waiting, Span::Hour) {
            Values::Each(values) => values.into_iter().filter(|value| !value.is_nan()).fold(0.0, f32::max),
            Values::Summed(_) => 0.0,
        };
        let rate = last(Figure::Delivered).zip(last(Figure::Stored)).map(|(out, into)| out - into);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // A count, made for a chart.
        let peak = (peak as u64).max(waiting);
        Self { peak, waiting, rate }
    }

    /// How long it takes to the end at that rate.
    fn left(self) -> Option<Duration> {
        #[allow(clippy::cast_precision_loss)] // For people.
        let left = self.rate.filter(|rate| *rate > 0.5).map(|rate| self.waiting as f32 / rate)?;
        Duration::try_from_secs_f32(left).ok()
    }

    fn words(self) -> String {
        let gone = self.peak - self.waiting;
        let far = format!("{} of {} are gone, {} wait", number(gone), number(self.peak), number(self.waiting));
        match self.left() {
            _ if self.waiting == 0 => far,
            Some(left) => format!("{far}; about {} more at the present rate", span(left)),
            None => format!("{far}; at present it does not get less"),
        }
    }
}

fn gather(overview: &Overview, look: &Look) -> Now {
    let buffer = overview.buffer();
    let (devices, found) = overview.queue.deepest(&look.q.trim().to_lowercase(), DEVICES);
    Now {
        drain: Drain::of(&overview.charts, buffer.messages),
        capacity: overview.queue.stats().capacity_bytes,
        lanes: overview.queue.lanes(),
        buffer,
        devices,
        found,
    }
}

fn summary(now: &Now) -> Markup {
    let Now { buffer, capacity, .. } = now;
    let hours = |hours: Option<f64>| hours.map_or_else(|| "–".to_owned(), |hours| format!("{hours:.1} h"));
    let state = if buffer.healthy { badge(Mood::Good, "takes messages") } else { badge(Mood::Bad, "refuses") };
    html! {
        @if let Some(reason) = &buffer.reason {
            p class="wrong" role="alert" { "The buffer takes no messages, so nothing is acknowledged: " (reason) }
        }
        (facts(&[
            ("State", state),
            ("Messages waiting", html! { (number(buffer.messages)) }),
            ("Bytes waiting", html! { (bytes(buffer.bytes)) }),
            ("On disk", html! { (bytes(buffer.file_bytes)) " of " (bytes(*capacity)) }),
            ("Holds", html! { (hours(buffer.holds_hours)) " of what comes now" }),
            ("Full in", html! { (hours(buffer.left_hours)) ", should nothing leave" }),
            ("Oldest", time_or(buffer.oldest, "nothing waits")),
        ]))
        @if now.drain.peak > 0 {
            p {
                label for="drain" { "Drained since the peak of the last hour" }
                progress id="drain" max=(now.drain.peak) value=(now.drain.peak - now.drain.waiting) {}
                br; (now.drain.words())
            }
        }
    }
}

fn lanes(all: &[LaneReport]) -> Markup {
    let about = |name: &str| match name {
        "priority" => "states and answers to commands",
        "live" => "telemetry as it comes",
        "history" => "telemetry that yields to live telemetry",
        _ => "what waited before the connection, where live goes first",
    };
    html! {
        table class="cards" aria-label="Lanes" {
            thead { tr { th scope="col" { "Lane" } th class="number" scope="col" { "With the upstream" }
                th class="number" scope="col" { "Next, in memory" } th scope="col" { "What goes there" } } }
            tbody {
                @for lane in all {
                    tr {
                        th scope="row" { (lane.name) }
                        td class="number" data-label="With the upstream" { (number(lane.leased as u64)) }
                        td class="number" data-label="Next, in memory" { (number(lane.next as u64)) }
                        td data-label="What goes there" { (about(lane.name)) }
                    }
                }
            }
        }
    }
}

fn devices(rows: &[DeviceLedger], found: usize) -> Markup {
    let counts = |row: &DeviceLedger| {
        [
            ("Waiting", row.waiting),
            ("Received", row.received),
            ("Delivered", row.delivered),
            ("Expired", row.expired),
            ("Evicted", row.evicted),
            ("Quarantined", row.quarantined),
        ]
    };
    html! {
        @if rows.is_empty() {
            p class="quiet" { "No message of any such device was ever for the upstream." }
        } @else {
            p class="quiet" { "Received = delivered + waiting + expired + evicted + quarantined." }
            table class="cards" aria-label="Messages by device" {
                thead { tr {
                    th scope="col" { "Device" }
                    @for title in ["Waiting", "Received", "Delivered", "Expired", "Evicted", "Quarantined"] {
                        th class="number" scope="col" { (title) }
                    }
                } }
                tbody {
                    @for row in rows {
                        tr {
                            th scope="row" { a href=(format!("/console/device/{}", row.device)) { (row.device) } }
                            @for (title, count) in counts(row) { td class="number" data-label=(title) { (number(count)) } }
                        }
                    }
                }
            }
        }
        @if let Some(more) = found.checked_sub(rows.len()).filter(|more| *more > 0) {
            p { (number(more as u64)) " more devices have less waiting: search for them." }
        }
    }
}

fn parts(now: &Now) -> live::Parts {
    vec![
        ("summary".to_owned(), summary(now)),
        ("lanes".to_owned(), lanes(&now.lanes)),
        ("depth".to_owned(), devices(&now.devices, now.found)),
    ]
}

fn drop_link(ids: &str) -> String {
    link("/console/buffer/drop", &[("ids", ids)])
}

fn kept(visitor: &Visitor, entry: &Entry) -> Markup {
    html! {
        tr {
            th scope="row" { (entry.device) " " span class="quiet" { (entry.boot) "/" (entry.seq) } }
            td data-label="Topic" { @match &entry.topic { Some(topic) => code { (topic) }, None => "–" } }
            td class="number" data-label="Bytes" { (number(entry.bytes as u64)) }
            td data-label="Aside since" { (time(entry.since)) }
            td data-label="Why" { (entry.reason) }
            @if visitor.is_admin() {
                td data-label="What to do" {
                    @if !entry.spoiled {
                        button name="ids" value=(entry.id) aria-label=(format!("Retry message {}", entry.id)) { "Retry" } " "
                    }
                    a href=(drop_link(&entry.id.to_string())) aria-label=(format!("Drop message {}", entry.id)) { "Drop…" }
                }
            }
        }
    }
}

fn aside(visitor: &Visitor, entries: &[Entry]) -> Markup {
    let shown = entries.get(..ASIDE.min(entries.len())).unwrap_or_default();
    let whole: Vec<String> = shown.iter().filter(|entry| !entry.spoiled).map(|entry| entry.id.to_string()).collect();
    let all: Vec<String> = shown.iter().map(|entry| entry.id.to_string()).collect();
    html! {
        @if shown.is_empty() {
            p { "Nothing lies aside." }
        } @else {
            form method="post" action="/console/buffer/retry" {
                (visitor.field())
                table class="cards" aria-label="Messages in quarantine" {
                    thead { tr { th scope="col" { "Device" } th scope="col" { "Topic" } th class="number" scope="col" { "Bytes" }
                        th scope="col" { "Aside since" } th scope="col" { "Why" }
                        @if visitor.is_admin() { th scope="col" { "What to do" } } } }
                    tbody { @for entry in shown { (kept(visitor, entry)) } }
                }
                @if visitor.is_admin() {
                    p {
                        @if !whole.is_empty() { button name="ids" value=(whole.join(",")) { "Retry all of these" } " " }
                        a href=(drop_link(&all.join(","))) { "Drop all of these…" }
                    }
                }
            }
            @if let Some(last) = shown.last().filter(|_| entries.len() > ASIDE) {
                p { a href=(link(HERE, &[("after", &last.id.to_string())])) { "The next ones" } }
            }
        }
    }
}

/// The page.
pub async fn show(
    State(overview): State<Arc<Overview>>,
    visitor: Visitor,
    Query(look): Query<Look>,
) -> Result<Response, Failed> {
    let kept = overview.queue.aside(RecordId(look.after)).await;
    let kept = kept.map_err(|error| Failed(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    let kept: Vec<Entry> = kept.into_iter().map(Entry::from).collect();
    let (of, wanted) = (Arc::clone(&overview), look.clone());
    let now = blocking(move || gather(&of, &wanted)).await?;
    let charted = [Figure::Waiting, Figure::WaitingBytes, Figure::Stored, Figure::Delivered];
    let body = html! {
        div class="panel" id="summary" { (summary(&now)) }
        (panel("Over the last hour", &html! { div id="charts" { (trends::charts(&overview.charts, &charted, Span::Hour)) } }))
        (panel("Lanes", &html! { div id="lanes" { (lanes(&now.lanes)) } }))
        (panel("By device", &html! {
            form class="filter" role="search" action=(HERE) {
                label for="q" { "Device" }
                input id="q" name="q" type="search" value=(look.q) maxlength="64" autocapitalize="none" spellcheck="false";
                button { "Show" }
            }
            div id="depth" { (devices(&now.devices, now.found)) }
        }))
        (panel("Quarantine", &html! {
            p class="quiet" { "Messages that the upstream refused for good, or that are damaged. They are counted above." }
            (aside(&visitor, &kept))
        }))
    };
    Ok(live_page(&overview, &visitor, HERE, "Buffer", &link("/console/buffer/live", &[("q", &look.q)]), &body))
}

/// The page, live.
pub async fn live(State(overview): State<Arc<Overview>>, visitor: Visitor, Query(look): Query<Look>) -> Response {
    let of = Arc::clone(&overview);
    let charted = [Figure::Waiting, Figure::WaitingBytes, Figure::Stored, Figure::Delivered];
    live::stream(&overview, &visitor, EVERY, move || {
        let (of, look) = (Arc::clone(&of), look.clone());
        async move {
            let made = blocking(move || {
                let mut all = parts(&gather(&of, &look));
                all.push(("charts".to_owned(), trends::charts(&of.charts, &charted, Span::Hour)));
                all
            });
            made.await.unwrap_or_default()
        }
    })
}

/// Numbers of records, parted by commas.
#[derive(Debug, Deserialize)]
pub struct Chosen {
    #[serde(default)]
    ids: String,
}

impl Chosen {
    fn read(&self) -> Result<Vec<u64>, Failed> {
        let all: Result<Vec<u64>, _> = self.ids.split(',').filter(|id| !id.is_empty()).map(str::parse).collect();
        let wrong = || {
            Failed(StatusCode::BAD_REQUEST, "these are no messages: choose them on the page of the buffer".to_owned())
        };
        all.ok().filter(|all| !all.is_empty() && all.len() <= MOST).ok_or_else(wrong)
    }
}

/// They go to the upstream once more.
pub async fn retry(State(overview): State<Arc<Overview>>, Form(chosen): Form<Chosen>) -> Result<Response, Failed> {
    let records = overview.queue.retry(ids(chosen.read()?)?).await?;
    decided(&overview, records, |records| Event::QuarantineRetried { records });
    Ok(Redirect::to(HERE).into_response())
}

/// Whether that is meant.
pub async fn ask_drop(
    State(overview): State<Arc<Overview>>,
    visitor: Visitor,
    Query(chosen): Query<Chosen>,
) -> Result<Response, Failed> {
    let count = chosen.read()?.len();
    let body = html! {
        p {
            "Let go of " strong { (count) } @if count == 1 { " message" } @else { " messages" }
            " for good? The upstream will never have " @if count == 1 { "it" } @else { "them" }
            ", and nothing brings " @if count == 1 { "it" } @else { "them" } " back."
        }
        form method="post" action="/console/buffer/drop" {
            (visitor.field())
            input type="hidden" name="ids" value=(chosen.ids);
            button class="danger" { "Drop for good" } " " a href=(HERE) { "Keep" }
        }
    };
    Ok(page(&overview, &visitor, HERE, "Drop messages", &body))
}

/// They are let go of.
pub async fn forget(State(overview): State<Arc<Overview>>, Form(chosen): Form<Chosen>) -> Result<Response, Failed> {
    let records = overview.queue.forget(ids(chosen.read()?)?).await?;
    decided(&overview, records, |records| Event::QuarantineDropped { records });
    Ok(Redirect::to(HERE).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drain_says_how_far_it_is_and_how_long_it_takes() {
        let drain = Drain { peak: 12_000, waiting: 3_000, rate: Some(100.0) };
        assert_eq!(
            drain.words(),
            "9\u{202f}000 of 12\u{202f}000 are gone, 3\u{202f}000 wait; about 30 s more at the present rate"
        );
        let stuck = Drain { rate: Some(-5.0), ..drain };
        assert!(stuck.words().ends_with("at present it does not get less"), "{}", stuck.words());
        assert_eq!(Drain { waiting: 0, ..drain }.words(), "12\u{202f}000 of 12\u{202f}000 are gone, 0 wait");
    }

    #[test]
    fn chosen_messages_are_numbers_and_not_too_many() {
        let read = |ids: &str| Chosen { ids: ids.to_owned() }.read().ok();
        assert_eq!(read("1,22"), Some(vec![1, 22]));
        assert_eq!(read("7"), Some(vec![7]));
        for wrong in ["", ",", "a", "1,x", "-1", "99999999999999999999999"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(read(&vec!["1"; MOST + 1].join(",")), None);
    }
}
