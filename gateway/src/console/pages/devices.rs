//! All devices: found by a part of the name, chosen by state and protocol, fifty at a time.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::response::Response;
use fieldgate_types::{DeviceId, UnixMillis};
use maud::{Markup, html};
use serde::Deserialize;

use super::words::{Line, span};
use crate::admin::Overview;
use crate::admin::api::{Failed, blocking};
use crate::admin::overview::Device;
use crate::audit::{Search, search};
use crate::console::access::Visitor;
use crate::console::live::{Parts, stream};
use crate::console::page::{Mood, badge, link, live_page, number, time};

const PATH: &str = "/console/devices";
const EVERY: Duration = Duration::from_secs(5);
/// Devices on a page.
const ROWS: usize = 50;
/// Of the audit log, for the last refusals.
const DEPTH: u64 = 2 << 20;

/// What is asked for.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Asked {
    #[serde(default)]
    q: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    via: String,
    /// From 1 on.
    #[serde(default)]
    page: usize,
}

const STATES: [(&str, &str); 5] = [
    ("", "any state"),
    ("online", "online"),
    ("offline", "offline"),
    ("never", "never heard of"),
    ("revoked", "revoked"),
];
const VIAS: [(&str, &str); 4] = [("", "any protocol"), ("mqtt", "mqtt"), ("modbus", "modbus"), ("opcua", "opcua")];

impl Asked {
    fn wants(&self, device: &Device, needle: &str) -> bool {
        let named = needle.is_empty() || device.id.as_str().to_ascii_lowercase().contains(needle);
        let via = self.via.is_empty() || self.via == device.via;
        named && via && (self.state.is_empty() || self.state == word(device))
    }

    fn link(&self, page: usize) -> String {
        let page = if page > 1 { page.to_string() } else { String::new() };
        link(PATH, &[("q", &self.q), ("state", &self.state), ("via", &self.via), ("page", &page)])
    }
}

/// How a device is, in a word that the filter knows.
pub(super) fn word(device: &Device) -> &'static str {
    match (device.online, device.reason.as_deref(), device.since) {
        (_, Some("revoked"), _) => "revoked",
        (true, ..) => "online",
        (false, _, None) => "never",
        (false, _, Some(_)) => "offline",
    }
}

/// The same with a colour.
pub(super) fn state(device: &Device) -> Markup {
    match word(device) {
        "online" => badge(Mood::Good, "online"),
        "revoked" => badge(Mood::Warn, "revoked"),
        "never" => badge(Mood::Neutral, "never heard of"),
        _ => badge(Mood::Bad, "offline"),
    }
}

/// One page of them.
struct Chosen {
    devices: Vec<Device>,
    found: usize,
    all: usize,
    page: usize,
    pages: usize,
    received: HashMap<DeviceId, u64>,
    ends: HashMap<DeviceId, UnixMillis>,
    now: UnixMillis,
}

/// Goes over all devices.
fn choose(overview: &Overview, asked: &Asked) -> Chosen {
    let needle = asked.q.trim().to_ascii_lowercase();
    let mut devices = overview.devices();
    let all = devices.len();
    devices.retain(|device| asked.wants(device, &needle));
    devices.sort_by(|a, b| a.id.cmp(&b.id));
    let found = devices.len();
    let pages = found.div_ceil(ROWS).max(1);
    let page = asked.page.clamp(1, pages);
    let devices: Vec<Device> = devices.into_iter().skip((page - 1) * ROWS).take(ROWS).collect();
    let received = |id: &DeviceId| Some((id.clone(), overview.queue.ledger_of(id)?.received));
    let received = devices.iter().filter_map(|device| received(&device.id)).collect();
    let now = overview.authority.ca.time().now();
    let lasting = |id: &DeviceId| {
        let valid = overview.authority.registry.certificates(id).into_iter().filter(|one| one.revoked.is_none());
        Some((id.clone(), valid.map(|one| one.not_after).max()?))
    };
    let ends = devices.iter().filter_map(|device| lasting(&device.id)).collect();
    Chosen { devices, found, all, page, pages, received, ends, now }
}

/// Why each of these was last refused something, as far back as the log is looked through.
fn refusals(overview: &Overview, devices: &[Device]) -> BTreeMap<DeviceId, (UnixMillis, String)> {
    let wanted = Search { most: 2_000, words: vec!["refused".to_owned()], depth: DEPTH, ..Search::default() };
    let found = match search(&overview.audit_folder, &wanted) {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, "the audit log can't be read");
            return BTreeMap::new();
        }
    };
    let mut last = BTreeMap::new();
    for line in found.lines.iter().filter_map(|text| Line::read(text)) {
        let Some((name, reason)) = line.text("device").zip(line.text("reason")) else { continue };
        if let Some(device) = devices.iter().find(|device| device.id.as_str() == name) {
            last.entry(device.id.clone()).or_insert_with(|| (line.at, reason.to_owned()));
        }
    }
    last
}

/// The page.
pub async fn show(
    State(overview): State<Arc<Overview>>,
    visitor: Visitor,
    Query(asked): Query<Asked>,
) -> Result<Response, Failed> {
    let (of, wanted) = (Arc::clone(&overview), asked.clone());
    let (chosen, refused) = blocking(move || {
        let chosen = choose(&of, &wanted);
        let refused = refusals(&of, &chosen.devices);
        (chosen, refused)
    })
    .await?;
    let Chosen { found, all, page, pages, .. } = chosen;
    let body = html! {
        form class="filter" role="search" action=(PATH) {
            label for="q" { "Name" }
            input id="q" name="q" type="search" value=(asked.q) maxlength="64" placeholder="part of the name" autocapitalize="none" spellcheck="false";
            label for="state" { "State" }
            (choice("state", &STATES, &asked.state))
            label for="via" { "Protocol" }
            (choice("via", &VIAS, &asked.via))
            button { "Show" }
            @if visitor.is_admin() { a class="button" href="/console/enrol" { "Add a device" } }
        }
        p { (number(found as u64)) " of " (number(all as u64)) " devices" @if pages > 1 { ", page " (page) " of " (pages) } }
        @if chosen.devices.is_empty() {
            p class="quiet" { "No device is like this." }
        } @else {
            table class="cards" aria-label="Devices" {
                thead { tr {
                    th scope="col" { "Device" } th scope="col" { "State" } th scope="col" { "Via" } th scope="col" { "Messages" }
                    th scope="col" { "Certificate" } th scope="col" { "Last refusal" }
                } }
                tbody {
                    @for device in &chosen.devices {
                        tr {
                            th scope="row" { a href=(format!("/console/device/{}", device.id)) { (device.id) } }
                            td data-label="State" id=(format!("state-{}", device.id)) { (state_since(device)) }
                            td data-label="Via" { (device.via) }
                            td data-label="Messages" id=(format!("count-{}", device.id)) { (count(&chosen, device)) }
                            td data-label="Certificate" { (certificate(&chosen, device)) }
                            td data-label="Last refusal" { @match refused.get(&device.id) {
                                Some((at, reason)) => { (reason) " " (time(*at)) },
                                None => span class="quiet" { "none lately" },
                            } }
                        }
                    }
                }
            }
        }
        nav class="paging" aria-label="Pages of the list" {
            @if page > 1 { a href=(asked.link(page - 1)) rel="prev" { "Back" } }
            @if page < pages { a href=(asked.link(page + 1)) rel="next" { "Next" } }
        }
    };
    let page = page.to_string();
    let stream = link(
        "/console/devices/live",
        &[("q", &asked.q), ("state", &asked.state), ("via", &asked.via), ("page", &page)],
    );
    Ok(live_page(&overview, &visitor, PATH, "Devices", &stream, &body))
}

fn choice(name: &str, all: &[(&str, &str)], present: &str) -> Markup {
    html! {
        select id=(name) name=(name) {
            @for (value, word) in all { option value=(value) selected[*value == present] { (word) } }
        }
    }
}

fn state_since(device: &Device) -> Markup {
    let reason = device.reason.as_deref().filter(|reason| !device.online && *reason != "revoked");
    html! {
        (state(device))
        @if let Some(since) = device.since { " since " (time(since)) }
        @if let Some(reason) = reason { " " span class="quiet" { (reason) } }
    }
}

fn count(chosen: &Chosen, device: &Device) -> Markup {
    html! { (number(chosen.received.get(&device.id).copied().unwrap_or_default())) }
}

fn certificate(chosen: &Chosen, device: &Device) -> Markup {
    match chosen.ends.get(&device.id) {
        None => html! { span class="quiet" { "none" } },
        Some(end) if *end <= chosen.now => badge(Mood::Bad, "ended"),
        Some(end) => html! { (span(end.since(chosen.now))) " left" },
    }
}

/// The states of the devices on the page, again and again. Who comes and goes shows with the next loading.
pub async fn live(
    State(overview): State<Arc<Overview>>,
    visitor: Visitor,
    Query(asked): Query<Asked>,
) -> Result<Response, Failed> {
    let of = Arc::clone(&overview);
    let ids = blocking(move || choose(&of, &asked).devices).await?;
    let ids: Arc<HashSet<DeviceId>> = Arc::new(ids.into_iter().map(|device| device.id).collect());
    let of = Arc::clone(&overview);
    Ok(stream(&overview, &visitor, EVERY, move || {
        let (of, ids) = (Arc::clone(&of), Arc::clone(&ids));
        async move { blocking(move || states(&of, &ids)).await.unwrap_or_default() }
    }))
}

fn states(overview: &Overview, ids: &HashSet<DeviceId>) -> Parts {
    let devices = overview.devices().into_iter().filter(|device| ids.contains(&device.id));
    let parts = devices.flat_map(|device| {
        let count = number(overview.queue.ledger_of(&device.id).map_or(0, |row| row.received));
        let (state, count) = (state_since(&device), html! { (count) });
        [(format!("state-{}", device.id), state), (format!("count-{}", device.id), count)]
    });
    parts.collect()
}
