//! The first page: how the gateway is, at a glance.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use fieldgate_types::UnixMillis;
use maud::{Markup, html};

use super::trends;
use super::words::{Line, audit_table, span};
use crate::admin::Overview;
use crate::admin::api::{Failed, blocking};
use crate::admin::overview::{Buffer, Upstream};
use crate::audit::{Search, search};
use crate::console::access::Visitor;
use crate::console::charts::{Figure, Span};
use crate::console::live::{Parts, stream};
use crate::console::page::{Mood, badge, facts, live_page, number, panel, time};
use crate::console::summary::{Summary, summary};
use crate::moment::bytes;

const EVERY: Duration = Duration::from_secs(2);
/// What is charted here.
const CHARTED: [Figure; 4] = [Figure::Stored, Figure::Delivered, Figure::Waiting, Figure::Acknowledge];
/// Lines of what changed lately, and how much of the log is looked through for them.
const LATELY: usize = 8;
const DEPTH: u64 = 512 * 1024;
/// What changed, not who came and was refused.
const CHANGES: [&str; 17] = [
    "started",
    "stopped",
    "device_added",
    "device_enrolled",
    "device_revoked",
    "token_made",
    "api_token_made",
    "api_token_revoked",
    "ca_rotated",
    "configuration_changed",
    "reload_refused",
    "field_write",
    "field_call",
    "command",
    "restored",
    "account_made",
    "account_removed",
];

/// The page.
pub async fn show(State(overview): State<Arc<Overview>>, visitor: Visitor) -> Result<Response, Failed> {
    let now = summary(&overview).await?;
    let of = Arc::clone(&overview);
    let lately = blocking(move || lately(&of)).await?;
    let body = html! {
        div class="grid" {
            @for (id, part) in parts(&now) { div id=(id) { (part) } }
        }
        (panel("The last hour", &html! {
            div id="charts" { (trends::charts(&overview.charts, &CHARTED, Span::Hour)) }
            p { a href="/console/charts" { "All charts" } }
        }))
        (panel("Lately", &html! {
            (audit_table(&lately, "What changed lately"))
            p { a href="/console/audit" { "The whole audit log" } }
        }))
    };
    Ok(live_page(&overview, &visitor, "/console", "Overview", "/console/live", &body))
}

/// Its figures, again and again.
pub async fn live(State(overview): State<Arc<Overview>>, visitor: Visitor) -> Response {
    let of = Arc::clone(&overview);
    stream(&overview, &visitor, EVERY, move || {
        let of = Arc::clone(&of);
        async move {
            let mut all = summary(&of).await.map(|now| parts(&now)).unwrap_or_default();
            all.push(("charts".to_owned(), trends::charts(&of.charts, &CHARTED, Span::Hour)));
            all
        }
    })
}

fn parts(now: &Summary) -> Parts {
    let parts = [
        ("problems", problems(now)),
        ("upstream", panel("Upstream", &upstream(now))),
        ("buffer", panel("Buffer", &buffer(&now.status.buffer, now.capacity, now.status.now))),
        ("traffic", panel("Devices", &traffic(now))),
        ("links-brief", panel("Links", &links(now))),
        ("certificates", panel("Certificates", &certificates(now))),
    ];
    parts.map(|(id, part)| (id.to_owned(), part)).into()
}

fn problems(now: &Summary) -> Markup {
    let problems = &now.status.problems;
    let body = html! {
        @if problems.is_empty() {
            p { (badge(Mood::Good, "nothing is wrong")) }
        } @else {
            ul class="problems" { @for problem in problems { li { (badge(Mood::Bad, "problem")) " " (problem) } } }
        }
        @if !now.status.waiting.is_empty() {
            p { (badge(Mood::Warn, "waiting")) " Part of the configuration waits for the next start of the process." }
        }
        p class="quiet" { "Running since " (time(now.status.started)) ", version " (now.status.version) }
    };
    panel("State", &body)
}

fn upstream(now: &Summary) -> Markup {
    let Some(of) = &now.status.upstream else {
        return html! { p { (badge(Mood::Neutral, "none")) " This gateway serves local programs alone." } };
    };
    let Upstream { state, since, last_error, connects, in_flight, quarantined, .. } = of;
    let mood = if state == "up" { Mood::Good } else { Mood::Bad };
    html! {
        (facts(&[
            ("State", html! { (badge(mood, state)) " since " (time(*since)) }),
            ("Answers within", html! { @match now.latency {
                Some(latency) => (format!("{:.1} ms", latency.as_secs_f64() * 1e3)),
                None => span class="quiet" { "nothing sent yet" },
            } }),
            ("Rate", rate(now.rate_up)),
            ("In flight", html! { (number(*in_flight)) }),
            ("Put aside", html! { (number(*quarantined)) }),
            ("Connections made", html! { (number(*connects)) }),
        ]))
        @if let Some(error) = last_error.as_ref().filter(|_| state != "up") { p class="wrong" { (error) } }
    }
}

fn rate(rate: Option<f64>) -> Markup {
    html! { @match rate { Some(rate) => (format!("{rate:.1} messages/s")), None => span class="quiet" { "counting" } } }
}

fn buffer(buffer: &Buffer, capacity: u64, now: UnixMillis) -> Markup {
    let mood = if buffer.healthy { Mood::Good } else { Mood::Bad };
    let share = buffer.file_bytes.saturating_mul(100).checked_div(capacity).unwrap_or(0).min(100);
    let hours =
        |hours: Option<f64>| hours.map_or_else(|| "at this rate no end".to_owned(), |hours| format!("{hours:.1} h"));
    html! {
        (facts(&[
            ("State", badge(mood, if buffer.healthy { "takes messages" } else { "refuses" })),
            ("Waiting", html! { (number(buffer.messages)) " messages, " (bytes(buffer.bytes)) }),
            ("Oldest", html! { @match buffer.oldest {
                Some(oldest) => { (span(now.since(oldest))) " old" },
                None => span class="quiet" { "none" },
            } }),
            ("On disk", html! { (bytes(buffer.file_bytes)) " of " (bytes(capacity)) " "
                meter min="0" max="100" value=(share) aria-label="Share of the buffer in use" { (share) " %" } }),
            ("Whole buffer lasts", html! { (hours(buffer.holds_hours)) }),
            ("What is free lasts", html! { (hours(buffer.left_hours)) }),
        ]))
        @if let Some(reason) = &buffer.reason { p class="wrong" { (reason) } }
    }
}

fn traffic(now: &Summary) -> Markup {
    facts(&[
        (
            "Online",
            html! { a href="/console/devices?state=online" { (number(now.online as u64)) } " of " a href="/console/devices" { (number(now.devices as u64)) } },
        ),
        ("Connections", html! { (number(now.status.broker.connections)) }),
        ("Rate", rate(now.rate_in)),
        ("Refused so far", html! { a href="/console/audit?q=refused" { (number(now.status.broker.refused)) } }),
        ("Open commands", html! { (number(now.status.open_commands as u64)) }),
    ])
}

fn links(now: &Summary) -> Markup {
    let links = &now.status.links;
    html! {
        @if links.is_empty() {
            p class="quiet" { "There are no field devices in the configuration." }
        } @else {
            @let down: Vec<_> = links.iter().filter(|link| link.state != "up").collect();
            (facts(&[("Up", html! { (links.len() - down.len()) " of " (links.len()) })]))
            @if !down.is_empty() {
                ul { @for link in down.iter().take(5) { li { (badge(Mood::Bad, &link.state)) " " (link.link) } } }
                @if down.len() > 5 { p { "and " (down.len() - 5) " more" } }
            }
        }
    }
}

fn certificates(now: &Summary) -> Markup {
    let ends = |at: UnixMillis| {
        let left = at.since(now.status.now);
        let mood = if left.is_zero() { Mood::Bad } else { Mood::Good };
        html! { (badge(mood, &format!("{} left", span(left)))) " until " (time(at)) }
    };
    facts(&[
        ("Of the listeners", ends(now.status.certificates.server_not_after)),
        ("Of the issuing CA", ends(now.status.certificates.issuing_not_after)),
    ])
}

fn lately(overview: &Overview) -> Vec<Line> {
    let wanted = Search { most: 400, depth: DEPTH, ..Search::default() };
    match search(&overview.audit_folder, &wanted) {
        Ok(found) => {
            let lines = found.lines.iter().filter_map(|text| Line::read(text));
            lines.filter(|line| CHANGES.contains(&line.event.as_str())).take(LATELY).collect()
        }
        Err(error) => {
            tracing::warn!(%error, "the audit log can't be read");
            Vec::new()
        }
    }
}
