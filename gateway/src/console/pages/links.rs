//! `/console/links`: how each link is, and what is asked of it.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use fieldgate_modbus::load::{LinkPlan, PlannedRequest};
use fieldgate_protocol::{LinkInfo, LinkState};
use maud::{Markup, html};
use serde::Deserialize;

use super::trends::{self, Over};
use crate::admin::Overview;
use crate::admin::api::{Failed, blocking};
use crate::console::access::Visitor;
use crate::console::charts::{Chart, Charts, LinkFigure, Span, draw};
use crate::console::live;
use crate::console::page::{Mood, badge, encoded, facts, link, live_page, number, panel};
use crate::southbound::drivers::LinkKey;
use crate::southbound::link::LinkHandle;

const HERE: &str = "/console/links";
/// Between two looks of a page that is open.
const EVERY: Duration = Duration::from_secs(3);
/// Links on one page; further ones are found by their text.
const MOST: usize = 300;
/// Requests of a plan on one page.
const MOST_REQUESTS: usize = 400;
/// Points that are named for one request.
const NAMED: usize = 6;

/// What is looked for.
#[derive(Debug, Default, Deserialize)]
pub struct Search {
    #[serde(default)]
    q: String,
}

/// What the list says of one.
#[derive(Debug, Clone)]
struct Row {
    /// Its place in the configuration, from 1 on: its address here.
    place: usize,
    name: String,
    protocol: &'static str,
    devices: usize,
    load: Option<f64>,
    info: LinkInfo,
}

/// The list.
pub async fn show(
    State(overview): State<Arc<Overview>>,
    visitor: Visitor,
    Query(search): Query<Search>,
) -> Result<Response, Failed> {
    let (of, text) = (Arc::clone(&overview), search.q.clone());
    let rows = blocking(move || rows(&of, &text)).await?;
    let body = html! {
        form class="filter" role="search" action=(HERE) {
            label for="q" { "Link or device" }
            input id="q" name="q" type="search" value=(search.q) maxlength="200" autocapitalize="none" spellcheck="false";
            button { "Show" }
        }
        div id="links" { (table(&rows)) }
    };
    let stream = link("/console/links/live", &[("q", &search.q)]);
    Ok(live_page(&overview, &visitor, HERE, "Links", &stream, &body))
}

/// The list, live.
pub async fn live(State(overview): State<Arc<Overview>>, visitor: Visitor, Query(search): Query<Search>) -> Response {
    let of = Arc::clone(&overview);
    live::stream(&overview, &visitor, EVERY, move || {
        let (of, text) = (Arc::clone(&of), search.q.clone());
        async move {
            let rows = blocking(move || rows(&of, &text)).await;
            rows.map(|rows| ("links".to_owned(), table(&rows))).into_iter().collect()
        }
    })
}

fn nth(overview: &Overview, place: usize) -> Result<(LinkKey, LinkHandle), Failed> {
    let links = overview.links.all();
    let found = place.checked_sub(1).and_then(|place| links.get(place)).cloned();
    let words = || format!("there is no link {place}: the configuration may have changed, see the list of links");
    found.ok_or_else(|| Failed(StatusCode::NOT_FOUND, words()))
}

/// One of them.
pub async fn one(
    State(overview): State<Arc<Overview>>,
    visitor: Visitor,
    Path(place): Path<usize>,
    Query(over): Query<Over>,
) -> Result<Response, Failed> {
    let (key, handle) = nth(&overview, place)?;
    let config = Arc::clone(&handle.config);
    let plan = blocking(move || config.plan()).await?;
    let here = format!("{HERE}/{place}");
    let body = html! {
        p { a href=(HERE) { "All links" } }
        div class="panel" id="summary" { (summary(&handle)) }
        (panel("Over time", &html! {
            (trends::choice(&here, over.span()))
            div id="charts" { (charts(&overview.charts, &key, over.span())) }
        }))
        @if let Some(plan) = &plan { (panel("Poll plan", &planned(plan))) }
        (panel("Devices", &devices(&handle)))
    };
    let stream = link(&format!("{here}/live"), &[("span", over.word())]);
    Ok(live_page(&overview, &visitor, HERE, &handle.name, &stream, &body))
}

/// One of them, live.
pub async fn one_live(
    State(overview): State<Arc<Overview>>,
    visitor: Visitor,
    Path(place): Path<usize>,
    Query(over): Query<Over>,
) -> Response {
    let of = Arc::clone(&overview);
    live::stream(&overview, &visitor, EVERY, move || {
        let now = nth(&of, place).map(|(key, handle)| {
            let charts = charts(&of.charts, &key, over.span());
            vec![("summary".to_owned(), summary(&handle)), ("charts".to_owned(), charts)]
        });
        // A link that is gone: the page stays as it was.
        async move { now.unwrap_or_default() }
    })
}

/// All of them whose name, or the id of a device on them, has `text` in it.
fn rows(overview: &Overview, text: &str) -> Vec<Row> {
    let links = overview.links.all();
    let text = text.trim().to_lowercase();
    let wanted = |link: &LinkHandle| {
        text.is_empty()
            || link.name.to_lowercase().contains(&text)
            || link.devices.iter().any(|device| device.id.as_str().to_lowercase().contains(&text))
    };
    let all = links.iter().zip(1..).filter(|((_, link), _)| wanted(link));
    let row = |((_, link), place): (&(LinkKey, LinkHandle), usize)| Row {
        place,
        name: link.name.clone(),
        protocol: link.protocol,
        devices: link.devices.len(),
        load: link.load,
        info: link.state.borrow().clone(),
    };
    all.map(row).collect()
}

fn state(state: LinkState) -> Markup {
    match state {
        LinkState::Connecting => badge(Mood::Neutral, "connecting"),
        LinkState::Up => badge(Mood::Good, "up"),
        LinkState::Down => badge(Mood::Bad, "down"),
        LinkState::Refused => badge(Mood::Bad, "refused"),
    }
}

fn response(info: &LinkInfo) -> Option<Duration> {
    let answers = u32::try_from(info.answers).unwrap_or(u32::MAX);
    info.response.checked_div(answers).filter(|mean| !mean.is_zero())
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1_000.0)
}

/// Of all requests, in percent.
fn failed(info: &LinkInfo) -> String {
    #[allow(clippy::cast_precision_loss)] // A percentage for people.
    let (failures, all) = (info.failures as f64, info.answers.saturating_add(info.failures) as f64);
    if all > 0.0 { format!("{} ({:.1} %)", info.failures, failures * 100.0 / all) } else { "0".to_owned() }
}

fn load(load: Option<f64>) -> String {
    load.map_or_else(|| "–".to_owned(), |load| format!("{load:.1} %"))
}

fn table(rows: &[Row]) -> Markup {
    html! {
        @if rows.is_empty() {
            p class="quiet" { "No such link. " code { "[[modbus]]" } " and " code { "[[opcua]]" } " in the configuration make them." }
        } @else {
            table class="cards" aria-label="Links" {
                thead { tr {
                    th scope="col" { "Link" } th scope="col" { "State" }
                    @for title in ["Devices", "Response", "Answers", "Failed", "Late polls", "Bus load"] {
                        th class="number" scope="col" { (title) }
                    }
                } }
                tbody { @for row in rows.iter().take(MOST) { (line(row)) } }
            }
        }
        @if let Some(more) = rows.len().checked_sub(MOST).filter(|more| *more > 0) {
            p { (more) " more: search for them." }
        }
    }
}

fn line(row: &Row) -> Markup {
    let info = &row.info;
    let why = info.last_error.as_ref().filter(|_| info.state != LinkState::Up);
    html! {
        tr {
            th scope="row" { a href=(format!("{HERE}/{}", row.place)) { (row.name) } " " span class="quiet" { (row.protocol) } }
            td data-label="State" { (state(info.state)) @if let Some(why) = why { " " span class="quiet" { (why) } } }
            td class="number" data-label="Devices" { (row.devices) }
            td class="number" data-label="Response" { (response(info).map_or_else(|| "–".to_owned(), millis)) }
            td class="number" data-label="Answers" { (number(info.answers)) }
            td class="number" data-label="Failed" { (failed(info)) }
            td class="number" data-label="Late polls" { (number(info.overruns)) }
            td class="number" data-label="Bus load" { (load(row.load)) }
        }
    }
}

fn summary(link: &LinkHandle) -> Markup {
    let info = link.state.borrow().clone();
    html! {
        (facts(&[
            ("State", state(info.state)),
            ("Protocol", html! { (link.protocol) }),
            ("Mean response", html! { (response(&info).map_or_else(|| "–".to_owned(), millis)) }),
            ("Answers", html! { (number(info.answers)) }),
            ("Failed", html! { (failed(&info)) }),
            ("Late polls", html! { (number(info.overruns)) }),
            ("Connections made", html! { (number(info.connects)) }),
            ("Bus load", html! { (load(link.load)) }),
        ]))
        @if let Some(why) = &info.last_error {
            p { @if info.state == LinkState::Up { "Last trouble: " } @else { "Why: " } (why) }
        }
        @if !info.notes.is_empty() {
            h2 { "What the far side does otherwise than asked" }
            ul { @for note in &info.notes { li { (note) } } }
        }
    }
}

fn charts(charts: &Charts, key: &LinkKey, span: Span) -> Markup {
    let times = draw::times(span);
    html! {
        div class="charts" {
            @for figure in LinkFigure::ALL {
                @if let Some(values) = charts.link(key, figure, span) {
                    (Chart { id: &format!("chart-{}", figure.word()), title: figure.title(), unit: figure.unit(), times, values: &values }
                        .render())
                }
            }
        }
    }
}

fn devices(link: &LinkHandle) -> Markup {
    let more = link.devices.len().checked_sub(MOST).filter(|more| *more > 0);
    html! {
        ul class="columns" {
            @for device in link.devices.iter().take(MOST) {
                li { a href=(format!("/console/device/{}", encoded(device.id.as_str()))) { (device.id) } " " span class="quiet" { (device.now().points.len()) " points" } }
            }
        }
        @if let Some(more) = more { p { (more) " more: search for them under Devices." } }
    }
}

fn planned(plan: &LinkPlan) -> Markup {
    html! {
        @if plan.timed {
            p { "Of all time on the bus, the requests take " strong { (format!("{:.1} %", plan.load_percent)) } "." }
        } @else {
            p { "How long the network takes for an answer is not known before it is asked: the response time above tells."
                @if plan.load_percent > 0.0 { " Pauses alone take " strong { (format!("{:.1} %", plan.load_percent)) } " of the time." } }
        }
        table class="cards tight" aria-label="Requests by interval" {
            thead { tr {
                th scope="col" { "Every" }
                @for title in ["Requests", "Bytes", "Share"] { th class="number" scope="col" { (title) } }
            } }
            tbody {
                @for cycle in &plan.cycles {
                    tr {
                        th scope="row" { (cycle.interval_ms) " ms" }
                        td class="number" data-label="Requests" { (cycle.requests) }
                        td class="number" data-label="Bytes" { (cycle.bytes) }
                        td class="number" data-label="Share" { @if plan.timed { (format!("{:.1} %", cycle.load_percent)) } @else { "–" } }
                    }
                }
            }
        }
        table class="cards" aria-label="Each request" {
            thead { tr {
                th scope="col" { "Device" }
                @for title in ["Unit", "Every", "Function"] { th class="number" scope="col" { (title) } }
                th scope="col" { "From" } th class="number" scope="col" { "Count" } th scope="col" { "Points" }
                @for title in ["Out, back", "On the bus"] { th class="number" scope="col" { (title) } }
            } }
            tbody { @for request in plan.requests.iter().take(MOST_REQUESTS) { (request_line(request, plan.timed)) } }
        }
        @if let Some(more) = plan.requests.len().checked_sub(MOST_REQUESTS).filter(|more| *more > 0) {
            p { (more) " more: " code { "fieldgate plan" } " on the gateway prints all of them." }
        }
    }
}

fn request_line(request: &PlannedRequest, timed: bool) -> Markup {
    html! {
        tr {
            th scope="row" { (request.device) }
            td class="number" data-label="Unit" { (request.unit) }
            td class="number" data-label="Every" { (request.interval_ms) " ms" }
            td class="number" data-label="Function" { (request.function) }
            td data-label="From" { code { (request.at) } }
            td class="number" data-label="Count" { (request.count) }
            td data-label="Points" { (points(&request.points)) }
            td class="number" data-label="Out, back" { (request.request_bytes) " B, " (request.answer_bytes) " B" }
            td class="number" data-label="On the bus" {
                @if timed { (request.bus_us / 1_000) "." (request.bus_us % 1_000 / 100) " ms" } @else { "–" }
            }
        }
    }
}

fn points(names: &[String]) -> String {
    let named = names.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(NAMED).filter(|more| *more > 0) {
        Some(more) => format!("{named} and {more} more"),
        None => named,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(place: usize, info: LinkInfo) -> Row {
        Row {
            place,
            name: format!("tcp://192.0.2.{place}:502"),
            protocol: "modbus",
            devices: 3,
            load: Some(12.34),
            info,
        }
    }

    #[test]
    fn the_list_says_how_each_link_is_and_why_it_is_not_up() {
        let info = LinkInfo {
            answers: 90,
            failures: 10,
            response: Duration::from_millis(900),
            state: LinkState::Up,
            ..LinkInfo::default()
        };
        let down =
            LinkInfo { state: LinkState::Down, last_error: Some("<b>refused</b>".to_owned()), ..LinkInfo::default() };
        let text = table(&[row(1, info), row(2, down)]).into_string();
        for part in ["10.0 ms", "10 (10.0 %)", "12.3 %", "href=\"/console/links/2\"", "&lt;b&gt;refused&lt;/b&gt;"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn thousands_of_links_are_a_page_that_is_not_too_long() {
        let rows: Vec<Row> = (0..5_000).map(|n| row(n, LinkInfo::default())).collect();
        let text = table(&rows).into_string();
        assert!(text.contains("4700 more") && text.len() < 250_000, "{}", text.len());
    }

    #[test]
    fn a_request_names_a_few_of_its_points() {
        let names: Vec<String> = (0..8).map(|n| format!("p{n}")).collect();
        assert_eq!(points(&names), "p0, p1, p2, p3, p4, p5 and 2 more");
        assert_eq!(points(&names[..2]), "p0, p1");
    }
}
