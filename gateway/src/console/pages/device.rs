//! One device: its state, its points or streams as they come, its ledger, its certificates, its lines of the audit log;
//! commands, writes and its revocation, each asked about once more.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Form, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use bytes::Bytes;
use fieldgate_protocol::{Access, FieldDevice, Point, Status};
use fieldgate_store::DeviceLedger;
use fieldgate_types::{DeviceId, UnixMillis};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::devices::state;
use super::words::{Line, audit_table, plain, shortened, span};
use crate::admin::Overview;
use crate::admin::api::{self, Failed, blocking};
use crate::admin::overview::Device;
use crate::audit::{Search, search};
use crate::console::access::Visitor;
use crate::console::charts::{Chart, Span, Unit, Values, draw};
use crate::console::live::{Parts, stream};
use crate::console::page::{Mood, badge, facts, link, live_page, number, page, panel, time, time_or};
use crate::identity::DeviceDetails;
use crate::moment::bytes;
use crate::pipeline::report::LastReport;
use crate::southbound::link::LinkHandle;

const AT: &str = "/console/devices";
const EVERY: Duration = Duration::from_secs(1);
/// Points on a page.
const POINTS: usize = 100;
const LINES: usize = 20;
const DEPTH: u64 = 8 << 20;

/// Which points.
#[derive(Debug, Default, Deserialize)]
pub struct Asked {
    /// From 1 on.
    #[serde(default)]
    page: usize,
    /// What was just done.
    #[serde(default)]
    done: String,
}

/// A field device, and its link.
fn field(overview: &Overview, id: &DeviceId) -> Option<(LinkHandle, Arc<FieldDevice>)> {
    let links = overview.links.all();
    links.iter().find_map(|(_, link)| {
        let device = link.devices.iter().find(|device| device.id == *id)?;
        Some((link.clone(), device.now()))
    })
}

fn unknown(id: &str) -> Failed {
    Failed(StatusCode::NOT_FOUND, format!("there is no device `{}`: the list of devices names all", shortened(id)))
}

fn known(overview: &Overview, id: &str) -> Result<DeviceId, Failed> {
    let id = DeviceId::new(id).map_err(|_| unknown(id))?;
    overview.device_state(&id).map(|_| id.clone()).ok_or_else(|| unknown(id.as_str()))
}

/// What is read off the async workers.
struct Looked {
    ledger: Option<DeviceLedger>,
    details: Option<DeviceDetails>,
    lines: Vec<Line>,
}

fn look(overview: &Overview, id: &DeviceId) -> Looked {
    let wanted = Search { most: LINES, words: vec![format!("\"device\":\"{id}\"")], depth: DEPTH, ..Search::default() };
    let lines = match search(&overview.audit_folder, &wanted) {
        Ok(found) => {
            let lines = found.lines.iter().filter_map(|text| Line::read(text));
            lines.filter(|line| line.text("device") == Some(id.as_str())).collect()
        }
        Err(error) => {
            tracing::warn!(%error, "the audit log can't be read");
            Vec::new()
        }
    };
    Looked { ledger: overview.queue.ledger_of(id), details: overview.authority.details(id).ok(), lines }
}

/// The page.
pub async fn show(
    State(overview): State<Arc<Overview>>,
    visitor: Visitor,
    Path(id): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Response, Failed> {
    let id = known(&overview, &id)?;
    let (of, wanted) = (Arc::clone(&overview), id.clone());
    let looked = blocking(move || look(&of, &wanted)).await?;
    let field = field(&overview, &id);
    let pages = field.as_ref().map_or(1, |(_, field)| field.points.len().div_ceil(POINTS).max(1));
    let number = asked.page.clamp(1, pages);
    let parts = parts(&overview, &id, number).await;
    let part = |name: &str| parts.iter().find(|(id, _)| id == name).map(|(_, part)| part.clone()).unwrap_or_default();
    let path = format!("/console/device/{id}");
    let body = html! {
        @if let Some(words) = done(&asked.done) { p class="done" role="status" { (words) } }
        div class="panel" id="state" { (part("state")) }
        @match &field {
            Some((_, field)) => (points(&visitor, &id, field, number, pages, &parts)),
            None => (panel("Streams", &html! { div id="streams" { (part("streams")) } })),
        }
        @if visitor.is_admin() { (commands(&id, field.as_ref().map(|(_, field)| &**field))) }
        (panel("Ledger", &html! {
            (ledger(looked.ledger.as_ref()))
            (sent(&overview, &id))
        }))
        @if let Some(details) = &looked.details { (panel("Certificates", &certificates(details, overview.authority.ca.time().now()))) }
        (panel("Audit", &html! {
            (audit_table(&looked.lines, "Audit lines of this device"))
            p { a href=(link("/console/audit", &[("q", &format!("\"device\":\"{id}\""))])) { "All of its lines" } }
        }))
        @if visitor.is_admin() && looked.details.as_ref().is_some_and(|details| details.entry.revoked.is_none()) {
            p { a class="button danger" href=(format!("{path}/revoke")) { "Revoke this device" } }
        }
    };
    let live = link(&format!("{path}/live"), &[("page", &number.to_string())]);
    Ok(live_page(&overview, &visitor, AT, id.as_str(), &live, &body))
}

fn done(what: &str) -> Option<&'static str> {
    match what {
        "revoked" => Some("The device is revoked: its certificates are good no more, and its connection is closed."),
        "sent" => Some(
            "The command is on its way. Its answer is a line of the audit log, below, when the device has given it.",
        ),
        _ => None,
    }
}

/// What changes while somebody looks.
async fn parts(overview: &Arc<Overview>, id: &DeviceId, page: usize) -> Parts {
    let Some(device) = overview.device_state(id) else {
        return vec![("state".to_owned(), badge(Mood::Bad, "no longer known"))];
    };
    let mut parts = vec![("state".to_owned(), state_words(&device))];
    match field(overview, id) {
        Some((link, field)) => {
            let shown: Vec<&Arc<Point>> = field.points.iter().skip((page - 1) * POINTS).take(POINTS).collect();
            let names = shown.iter().map(|point| point.name.clone()).collect();
            let reports = link.last_reports(id, names).await;
            for (place, point) in shown.into_iter().enumerate() {
                parts.push((format!("point-{place}"), value(point, reports.as_deref())));
            }
        }
        None => parts.push(("streams".to_owned(), streams(overview, id))),
    }
    parts
}

fn state_words(device: &Device) -> Markup {
    facts(&[
        ("State", state(device)),
        ("Since", time_or(device.since, "never heard of")),
        ("Via", html! { (device.via) }),
        (
            "Reason",
            html! { @match device.reason.as_deref().filter(|_| !device.online) {
                Some(reason) => (reason),
                None => span class="quiet" { "none" },
            } },
        ),
    ])
}

/// `reports` is `None` where the link had no time.
fn value(point: &Point, reports: Option<&[LastReport]>) -> Markup {
    let Some(reports) = reports else { return html! { span class="quiet" { "the link is busy" } } };
    let Some(last) = reports.iter().find(|last| last.point == point.name) else {
        return html! { span class="quiet" { "not read yet" } };
    };
    let told = last.value.as_ref().and_then(fieldgate_protocol::Value::to_json);
    html! {
        @match told.filter(|_| last.quality.usable()) {
            Some(told) => { strong { (plain(&told)) } " " (point.unit.as_deref().unwrap_or_default()) },
            None => (badge(Mood::Bad, last.quality.as_str())),
        }
        " " span class="quiet" { (span(last.age)) " ago" }
    }
}

fn points(visitor: &Visitor, id: &DeviceId, field: &FieldDevice, page: usize, pages: usize, parts: &Parts) -> Markup {
    let path = format!("/console/device/{id}");
    let value = |place: usize| {
        let name = format!("point-{place}");
        parts.iter().find(|(id, _)| *id == name).map(|(_, part)| part.clone()).unwrap_or_default()
    };
    panel(
        "Points",
        &html! {
            @if field.points.is_empty() { p class="quiet" { "It has none." } }
            @else {
                table class="cards" aria-label="Points" {
                    thead { tr { th scope="col" { "Point" } th scope="col" { "Last reported" } th scope="col" { "Meaning" } th scope="col" { "Write" } } }
                    tbody {
                        @for (place, point) in field.points.iter().skip((page - 1) * POINTS).take(POINTS).enumerate() {
                            tr {
                                th scope="row" { (point.name) }
                                td data-label="Last reported" id=(format!("point-{place}")) { (value(place)) }
                                td data-label="Meaning" { (point.description.as_deref().unwrap_or_default()) }
                                td data-label="Write" {
                                    @if point.access == Access::Read { span class="quiet" { "read-only" } }
                                    @else if visitor.is_admin() {
                                        form class="inline" action=(format!("{path}/command")) {
                                            input type="hidden" name="point" value=(point.name);
                                            input name="value" aria-label=(format!("New value of {}", point.name)) required maxlength="1000" autocomplete="off";
                                            button { "Write…" }
                                        }
                                        @if let Some((low, high)) = point.range { span class="quiet" { (low) " to " (high) } }
                                    } @else { span class="quiet" { "an admin may" } }
                                }
                            }
                        }
                    }
                }
                @if pages > 1 {
                    nav class="paging" aria-label="Pages of points" {
                        @if page > 1 { a href=(link(&path, &[("page", &(page - 1).to_string())])) rel="prev" { "Back" } }
                        span { "page " (page) " of " (pages) }
                        @if page < pages { a href=(link(&path, &[("page", &(page + 1).to_string())])) rel="next" { "Next" } }
                    }
                }
            }
        },
    )
}

fn streams(overview: &Overview, id: &DeviceId) -> Markup {
    let heard = overview.taps.look(id, overview.clock.monotonic());
    let prefix = format!("devices/{id}/");
    html! {
        @if heard.is_empty() {
            p class="quiet" { "Nothing has come since this page was opened. What comes is shown here." }
        } @else {
            table class="cards" aria-label="Streams" {
                thead { tr { th scope="col" { "Stream" } th scope="col" { "Last message" } th scope="col" { "When" } th scope="col" { "Messages" } } }
                tbody {
                    @for (topic, one) in &heard {
                        tr {
                            th scope="row" { (shortened(topic.strip_prefix(&prefix).unwrap_or(topic))) }
                            td data-label="Last message" { (payload(&one.payload, one.size)) }
                            td data-label="When" { (time(one.at)) }
                            td data-label="Messages" { (number(one.count)) }
                        }
                    }
                }
            }
        }
    }
}

fn payload(beginning: &Bytes, size: usize) -> Markup {
    let text = match std::str::from_utf8(beginning) {
        Ok(text) => Some(text),
        // The beginning may end within a letter.
        Err(error) if error.error_len().is_none() => {
            beginning.get(..error.valid_up_to()).and_then(|whole| std::str::from_utf8(whole).ok())
        }
        Err(_) => None,
    };
    html! {
        @match text {
            Some(text) => { code { (text) } @if size > text.len() { "…" } },
            None => span class="quiet" { (bytes(size as u64)) " that are no text" },
        }
    }
}

fn commands(id: &DeviceId, field: Option<&FieldDevice>) -> Markup {
    let path = format!("/console/device/{id}/command");
    let body = match field {
        Some(field) if field.methods.is_empty() => return Markup::default(),
        Some(field) => html! {
            form class="filter" action=(path) {
                label for="method" { "Method" }
                select id="method" name="method" { @for method in &field.methods { option { (method) } } }
                label for="arguments" { "Arguments, a JSON array" }
                input id="arguments" name="arguments" value="[]" maxlength="4000" autocomplete="off" spellcheck="false";
                button { "Call…" }
            }
        },
        None => html! {
            form class="filter" action=(path) {
                label for="command" { "Name" }
                input id="command" name="command" required maxlength="64" pattern="[A-Za-z0-9._\\-]+" autocomplete="off" autocapitalize="none" spellcheck="false";
                label for="payload" { "Payload" }
                input id="payload" name="payload" maxlength="4000" autocomplete="off" spellcheck="false";
                button { "Send…" }
            }
        },
    };
    panel("Commands", &body)
}

fn ledger(ledger: Option<&DeviceLedger>) -> Markup {
    let Some(ledger) = ledger else {
        return html! { p class="quiet" { "Nothing of it went through the buffer yet." } };
    };
    let row = |count: u64| html! { (number(count)) };
    html! {
        (facts(&[
            ("Received", row(ledger.received)),
            ("Delivered", row(ledger.delivered)),
            ("Waiting", row(ledger.waiting)),
            ("Expired", row(ledger.expired)),
            ("Evicted", row(ledger.evicted)),
            ("Quarantined", row(ledger.quarantined)),
        ]))
        @if !ledger.losses.is_empty() {
            ul { @for loss in &ledger.losses { li { (number(loss.count)) " " (loss.kind.name()) ": " (loss.reason) } } }
        }
    }
}

/// Its messages over the last hour.
fn sent(overview: &Overview, id: &DeviceId) -> Markup {
    let Some(values) = overview.charts.device(id).map(Values::Each) else {
        return html! { p class="quiet" { "The last hour is kept of fewer devices than there are, and not of this one." } };
    };
    let (unit, times) = (Unit::PerMinute, draw::times(Span::Hour));
    Chart { id: "chart-sent", title: "Messages for the upstream", unit, times, values: &values }.render()
}

fn certificates(details: &DeviceDetails, now: UnixMillis) -> Markup {
    let entry = &details.entry;
    let groups: Vec<&str> = entry.groups.iter().map(String::as_str).collect();
    html! {
        (facts(&[
            ("Role", html! { (entry.role) }),
            ("Known since", time(entry.added)),
            ("Groups", html! { @if groups.is_empty() { span class="quiet" { "none" } } @else { (groups.join(", ")) } }),
        ]))
        @if entry.external { p { "It has a certificate of another CA, or a pinned one." } }
        @if !details.certificates.is_empty() {
            table class="cards" aria-label="Certificates" {
                thead { tr { th scope="col" { "Serial number" } th scope="col" { "State" } th scope="col" { "From" } th scope="col" { "Until" } } }
                tbody {
                    @for one in details.certificates.iter().take(10) {
                        tr {
                            th scope="row" class="details" { (one.serial) }
                            td data-label="State" {
                                @if one.revoked.is_some() { (badge(Mood::Warn, "revoked")) }
                                @else if one.not_after <= now { (badge(Mood::Bad, "ended")) }
                                @else if one.superseded.is_some() { (badge(Mood::Neutral, "replaced")) }
                                @else { (badge(Mood::Good, "good")) }
                            }
                            td data-label="From" { (time(one.not_before)) }
                            td data-label="Until" { (time(one.not_after)) }
                        }
                    }
                }
            }
        }
    }
}

/// The parts that change, again and again.
pub async fn live(
    State(overview): State<Arc<Overview>>,
    visitor: Visitor,
    Path(id): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Response, Failed> {
    let id = known(&overview, &id)?;
    let (of, page) = (Arc::clone(&overview), asked.page.max(1));
    Ok(stream(&overview, &visitor, EVERY, move || {
        let (of, id) = (Arc::clone(&of), id.clone());
        async move { parts(&of, &id, page).await }
    }))
}

/// Whether the device is really to be revoked.
pub async fn ask_revoke(
    State(overview): State<Arc<Overview>>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Result<Response, Failed> {
    let id = known(&overview, &id)?;
    let body = html! {
        p { "Revoking " strong { (id) } " ends its certificates and its token at once and for good, and closes its connection. It can be added again, with a new key." }
        form method="post" action=(format!("/console/device/{id}/revoke")) {
            (visitor.field())
            button class="danger" { "Revoke " (id) }
            " " a href=(format!("/console/device/{id}")) { "Leave it" }
        }
    };
    Ok(page(&overview, &visitor, AT, "Revoke a device?", &body))
}

/// Revokes it.
pub async fn revoke(State(overview): State<Arc<Overview>>, Path(id): Path<String>) -> Result<Redirect, Failed> {
    let id = DeviceId::new(&id).map_err(|_| unknown(&id))?;
    api::revoke(&overview, &id).await?;
    Ok(Redirect::to(&format!("/console/device/{id}?done=revoked")))
}

/// What is to be done: one of a write, a call and a command for a leaf.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Wanted {
    point: String,
    value: String,
    method: String,
    arguments: String,
    command: String,
    payload: String,
}

/// What it comes to.
enum Deed {
    /// For a driver: name of the command, and payload.
    Field(&'static str, Json),
    /// For the device itself.
    Leaf(String, String),
}

impl Wanted {
    fn deed(&self, is_field: bool) -> Result<Deed, Failed> {
        let bad = |words: String| Failed(StatusCode::BAD_REQUEST, words);
        if !is_field {
            let name = DeviceId::new(self.command.trim());
            let name = name.map_err(|_| bad("the name of a command has letters, digits and . _ - alone".to_owned()))?;
            return Ok(Deed::Leaf(name.as_str().to_owned(), self.payload.clone()));
        }
        if !self.point.is_empty() {
            return Ok(Deed::Field("write", json!({ "point": self.point, "value": typed(&self.value) })));
        }
        let arguments: Vec<Json> = serde_json::from_str(&self.arguments)
            .map_err(|error| bad(format!("the arguments are no JSON array such as [1,\"fast\"]: {error}")))?;
        Ok(Deed::Field("call", json!({ "method": self.method, "arguments": arguments })))
    }

    fn fields(&self) -> Markup {
        let all = [
            ("point", &self.point),
            ("value", &self.value),
            ("method", &self.method),
            ("arguments", &self.arguments),
            ("command", &self.command),
            ("payload", &self.payload),
        ];
        html! { @for (name, value) in all { @if !value.is_empty() { input type="hidden" name=(name) value=(value); } } }
    }
}

/// JSON where it reads as that, else text: as `fieldgate point write` takes it.
fn typed(value: &str) -> Json {
    serde_json::from_str(value).unwrap_or_else(|_| Json::from(value))
}

/// Whether that is really to be done.
pub async fn ask_command(
    State(overview): State<Arc<Overview>>,
    visitor: Visitor,
    Path(id): Path<String>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Failed> {
    let id = known(&overview, &id)?;
    let field = field(&overview, &id);
    let deed = wanted.deed(field.is_some())?;
    let now = match (&field, wanted.point.is_empty()) {
        (Some((link, field)), false) => {
            let point = field.points.iter().find(|point| point.name.as_str() == wanted.point);
            let point = point.ok_or_else(|| Failed(StatusCode::NOT_FOUND, format!("`{id}` has no such point")))?;
            let reports = link.last_reports(&id, vec![point.name.clone()]).await;
            Some(value(point, reports.as_deref()))
        }
        _ => None,
    };
    let body = html! {
        @match &deed {
            Deed::Field("write", json) => {
                p { "Write " strong { (plain(&json["value"])) } " to " strong { (wanted.point) } " of " strong { (id) } "?" }
                @if let Some(now) = now { p { "Now: " (now) } }
            },
            Deed::Field(_, json) => p { "Call " strong { (wanted.method) } " of " strong { (id) } " with " code { (plain(&json["arguments"])) } "?" },
            Deed::Leaf(name, payload) => p { "Send the command " strong { (name) } " to " strong { (id) } " with " code { (shortened(payload)) } "?" },
        }
        form method="post" action=(format!("/console/device/{id}/command")) {
            (visitor.field())
            (wanted.fields())
            button { "Do it" }
            " " a href=(format!("/console/device/{id}")) { "Leave it" }
        }
    };
    Ok(page(&overview, &visitor, AT, "Are you sure?", &body))
}

/// Does it: by the same functions as the API and the upstream.
pub async fn command(
    State(overview): State<Arc<Overview>>,
    visitor: Visitor,
    Path(id): Path<String>,
    Form(wanted): Form<Wanted>,
) -> Result<Response, Failed> {
    let id = known(&overview, &id)?;
    let path = format!("/console/device/{id}");
    match wanted.deed(overview.router.is_field(&id))? {
        Deed::Leaf(name, payload) => {
            let by = format!("console:{}", visitor.account);
            overview.router.send(by.into(), id, name, Bytes::from(payload.into_bytes()));
            Ok(Redirect::to(&format!("{path}?done=sent")).into_response())
        }
        Deed::Field(name, payload) => {
            let by = format!("console:{}", visitor.account);
            let outcome = overview.router.request(&id, name, payload.to_string().as_bytes(), &by).await;
            let good = outcome.status == Status::Ok;
            let body = html! {
                p class=(if good { "done" } else { "wrong" }) role="status" {
                    @if good { "Done." } @else { "Not done: " (outcome.reason.as_deref().unwrap_or("no reason was given")) "." }
                }
                @if let Some(value) = &outcome.value { p { "The device says " code { (plain(value)) } } }
                p { a href=(path) { "Back to " (id) } }
            };
            let title = if good { "Done" } else { "Not done" };
            Ok(page(&overview, &visitor, AT, title, &body))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_a_number_a_truth_value_or_text() {
        assert_eq!(
            ["42.5", " true ", "on", "\"x\"", "[1]"].map(typed),
            [json!(42.5), json!(true), json!("on"), json!("x"), json!([1])]
        );
    }

    #[test]
    fn what_a_device_sends_is_text_on_the_page_whatever_it_is() {
        let shown = |bytes: &'static [u8]| payload(&Bytes::from_static(bytes), bytes.len()).into_string();
        assert_eq!(shown(b"<script>alert(1)</script>"), "<code>&lt;script&gt;alert(1)&lt;/script&gt;</code>");
        assert_eq!(shown(b"21 \xc2"), "<code>21 </code>…");
        assert!(shown(&[0xff, 0xfe]).contains("2 B that are no text"));
    }
}
