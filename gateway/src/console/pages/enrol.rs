//! Enrolment: a device with a bundle that is fetched once, or a one-time token as text and QR.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{Form, Path, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use fieldgate_certs::{Issued, Role};
use fieldgate_types::DeviceId;
use maud::{Markup, html};
use qrcode::{Color, EcLevel, QrCode};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::admin::Overview;
use crate::admin::api::{Failed, blocking};
use crate::console::access::Visitor;
use crate::console::page::{page, panel, time};
use crate::identity::{Wanted, parse_validity};

const AT: &str = "/console/enrol";
/// Bundles that wait to be fetched. Full: the oldest is let go of.
const HELD: usize = 16;
/// How long one waits.
const WAIT: Duration = Duration::from_secs(10 * 60);

struct Held {
    tar: Zeroizing<Vec<u8>>,
    made: Duration,
}

/// Bundles that were made and not fetched yet. In memory alone, for ten minutes.
#[derive(Default)]
pub struct Bundles(Mutex<BTreeMap<DeviceId, Held>>);

impl Bundles {
    fn held(&self, now: Duration) -> MutexGuard<'_, BTreeMap<DeviceId, Held>> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|_, bundle| now.saturating_sub(bundle.made) < WAIT);
        held
    }

    fn keep(&self, id: DeviceId, tar: Zeroizing<Vec<u8>>, now: Duration) {
        let mut held = self.held(now);
        if held.len() >= HELD
            && let Some(oldest) = held.iter().min_by_key(|(_, bundle)| bundle.made).map(|(id, _)| id.clone())
        {
            held.remove(&oldest);
        }
        held.insert(id, Held { tar, made: now });
    }

    fn waits(&self, id: &DeviceId, now: Duration) -> bool {
        self.held(now).contains_key(id)
    }

    fn take(&self, id: &DeviceId, now: Duration) -> Option<Zeroizing<Vec<u8>>> {
        self.held(now).remove(id).map(|bundle| bundle.tar)
    }
}

/// `ca.pem`, `cert.pem` and `key.pem` in a folder named as the device.
fn packed(id: &DeviceId, issued: &Issued, now: u64) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let key = issued.key_pem.as_ref().map_or("", |key| key.expose());
    let files = [("ca.pem", issued.ca_pem.as_str()), ("cert.pem", issued.certificate_pem.as_str()), ("key.pem", key)];
    // Room for all of it: growing would leave copies of the key behind.
    let room = files.iter().map(|(_, text)| text.len() + 1_024).sum::<usize>() + 4_096;
    let mut packed = Zeroizing::new(Vec::with_capacity(room));
    let mut tar = tar::Builder::new(&mut *packed);
    for (name, text) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now);
        tar.append_data(&mut header, format!("{id}/{name}"), text.as_bytes())?;
    }
    tar.finish()?;
    drop(tar);
    Ok(packed)
}

/// The page.
pub async fn show(State(overview): State<Arc<Overview>>, visitor: Visitor) -> Response {
    shown(&overview, &visitor, StatusCode::OK, None, "")
}

fn shown(overview: &Overview, visitor: &Visitor, status: StatusCode, wrong: Option<&str>, id: &str) -> Response {
    let body = html! {
        @if let Some(wrong) = wrong { p class="wrong" role="alert" { (wrong) } }
        @if visitor.is_admin() {
            div class="grid" {
                (panel("A device with its bundle", &html! {
                    p { "The gateway makes the key. The bundle with key, certificate and CA is fetched once, and kept nowhere." }
                    form method="post" action="/console/enrol/device" {
                        (visitor.field())
                        (name_and_role("device", id))
                        label for="validity" { "Good for" }
                        input id="validity" name="validity" placeholder="as configured" maxlength="20" autocomplete="off" aria-describedby="validity-hint";
                        p class="hint" id="validity-hint" { "Such as 365d; empty is what the configuration says" }
                        @let groups = overview.authority.groups();
                        @if !groups.is_empty() {
                            label for="group" { "Group" }
                            select id="group" name="group" { option value="" { "none" } @for group in &groups { option { (group) } } }
                        }
                        button { "Add the device" }
                    }
                }))
                (panel("A one-time token", &html! {
                    p { "The device makes its own key and fetches its certificate over EST with this token, within 24 hours." }
                    form method="post" action="/console/enrol/token" {
                        (visitor.field())
                        (name_and_role("token", id))
                        button { "Make the token" }
                    }
                }))
            }
        } @else {
            p { "An admin adds devices and makes tokens here." }
        }
        p class="hint" { "A device is revoked on its own page, which the " a href="/console/devices" { "list of devices" } " leads to." }
    };
    let mut response = page(overview, visitor, AT, "Enrolment", &body);
    *response.status_mut() = status;
    response
}

fn name_and_role(form: &str, id: &str) -> Markup {
    let (name, role) = (format!("{form}-id"), format!("{form}-role"));
    html! {
        label for=(name) { "Device id" }
        input id=(name) name="id" value=(id) required maxlength="64" pattern="[A-Za-z0-9][A-Za-z0-9._\\-]*" autocomplete="off" autocapitalize="none" spellcheck="false" title="Letters, digits and . _ -, the first a letter or a digit";
        label for=(role) { "Role" }
        select id=(role) name="role" {
            option value="device" { "device: one machine" }
            option value="app" { "app: a program here" }
            option value="gateway" { "gateway: another Fieldgate" }
        }
    }
}

/// Who is to come.
#[derive(Debug, Deserialize)]
pub struct Newcomer {
    id: String,
    role: Role,
    #[serde(default)]
    validity: String,
    #[serde(default)]
    group: String,
}

impl Newcomer {
    fn id(&self) -> Result<DeviceId, Failed> {
        DeviceId::new(self.id.trim()).map_err(|error| Failed(StatusCode::BAD_REQUEST, error.to_string()))
    }
}

/// Adds a device.
pub async fn add(State(overview): State<Arc<Overview>>, visitor: Visitor, Form(form): Form<Newcomer>) -> Response {
    match added_device(&overview, &form).await {
        Ok(id) => Redirect::to(&format!("/console/bundle/{id}")).into_response(),
        Err(Failed(status, words)) => shown(&overview, &visitor, status, Some(&words), form.id.trim()),
    }
}

async fn added_device(overview: &Arc<Overview>, form: &Newcomer) -> Result<DeviceId, Failed> {
    let id = form.id()?;
    let validity = match form.validity.trim() {
        "" => None,
        text => Some(parse_validity(text).map_err(|why| Failed(StatusCode::BAD_REQUEST, why))?),
    };
    let groups: BTreeSet<String> = Some(form.group.clone()).filter(|group| !group.is_empty()).into_iter().collect();
    let wanted = Wanted { role: form.role, validity, groups };
    let (of, who) = (Arc::clone(overview), id.clone());
    let issued = blocking(move || of.authority.add(&who, &wanted, None)).await??;
    let tar = packed(&id, &issued, overview.clock.now().as_secs());
    let tar = tar.map_err(|error| Failed(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    overview.console.bundles.keep(id.clone(), tar, overview.clock.monotonic());
    Ok(id)
}

/// What to do with the new device.
pub async fn added(
    State(overview): State<Arc<Overview>>,
    visitor: Visitor,
    Path(id): Path<DeviceId>,
) -> Result<Response, Failed> {
    overview.authority.details(&id)?;
    let waits = overview.console.bundles.waits(&id, overview.clock.monotonic());
    let body = html! {
        @if waits {
            p class="done" role="status" { "The device is added. Its bundle waits here for ten minutes, and is given once." }
            form method="post" action=(format!("/console/bundle/{id}")) {
                (visitor.field())
                button { "Download " (id) ".tar" }
            }
            p { "In it are " code { "ca.pem" } ", " code { "cert.pem" } " and " code { "key.pem" } ". Whoever has them is this device: give them to it, and to nobody else." }
        } @else {
            p { "There is no bundle to fetch: it was fetched, or ten minutes are over. The key is kept nowhere." }
            p { "Is it lost? " a href=(format!("/console/device/{id}/revoke")) { "Revoke the device" } ", and add it again." }
        }
        p { a href=(format!("/console/device/{id}")) { "To the device" } }
    };
    Ok(page(&overview, &visitor, AT, id.as_str(), &body))
}

/// Gives the bundle, once.
pub async fn bundle(State(overview): State<Arc<Overview>>, Path(id): Path<DeviceId>) -> Result<Response, Failed> {
    let Some(mut tar) = overview.console.bundles.take(&id, overview.clock.monotonic()) else {
        let words =
            format!("the bundle of `{id}` was fetched, or ten minutes are over: revoke the device, and add it again");
        return Err(Failed(StatusCode::GONE, words));
    };
    let name = HeaderValue::from_str(&format!("attachment; filename=\"{id}.tar\""));
    let name = name.map_err(|error| Failed(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let kind = HeaderValue::from_static("application/x-tar");
    Ok(([(CONTENT_TYPE, kind), (CONTENT_DISPOSITION, name)], std::mem::take(&mut *tar)).into_response())
}

/// Makes a one-time token, and shows it.
pub async fn token(State(overview): State<Arc<Overview>>, visitor: Visitor, Form(form): Form<Newcomer>) -> Response {
    let made = async {
        let (id, role, of) = (form.id()?, form.role, Arc::clone(&overview));
        Ok::<_, Failed>(blocking(move || of.authority.token(&id, Some(role))).await??)
    };
    let made = match made.await {
        Ok(made) => made,
        Err(Failed(status, words)) => return shown(&overview, &visitor, status, Some(&words), form.id.trim()),
    };
    let (id, token) = (&made.record.device, made.secret.expose());
    let body = html! {
        p { "For " strong { (id) } ", good once until " (time(made.record.expires)) ". It is shown this once, and a new one takes its place." }
        p { code class="token" { (token) } }
        (qr(token))
        p class="hint" { "The device asks the enrolment port with user name " code { (id) } " and this token as password (EST, simpleenroll)." }
        p { a href=(format!("/console/device/{id}")) { "To the device" } " · " a href=(AT) { "Another one" } }
    };
    page(&overview, &visitor, AT, "A one-time token", &body)
}

/// The text as a QR code.
fn qr(text: &str) -> Markup {
    let Ok(code) = QrCode::with_error_correction_level(text, EcLevel::M) else { return Markup::default() };
    let width = code.width();
    // Four modules of quiet around it, as the standard asks for.
    let side = width + 8;
    let mut path = String::new();
    for (place, colour) in code.to_colors().into_iter().enumerate() {
        if colour == Color::Dark {
            let (x, y) = (place % width + 4, place / width + 4);
            path.extend(["M", &x.to_string(), " ", &y.to_string(), "h1v1h-1z"]);
        }
    }
    html! {
        svg class="qr" role="img" aria-label="The token as a QR code" viewBox=(format!("0 0 {side} {side}")) width="240" height="240" shape-rendering="crispEdges" {
            rect width=(side) height=(side) fill="#fff" {}
            path d=(path) fill="#000" {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn id(text: &str) -> DeviceId {
        DeviceId::new(text).unwrap()
    }

    #[test]
    fn a_bundle_is_given_once_within_ten_minutes_and_few_wait() {
        let bundles = Bundles::default();
        let keep = |name: &str, now| bundles.keep(id(name), Zeroizing::new(vec![1]), now);
        keep("a", SECOND);
        assert!(bundles.waits(&id("a"), SECOND) && bundles.take(&id("a"), SECOND).is_some());
        assert!(bundles.take(&id("a"), SECOND).is_none());
        keep("b", SECOND);
        assert!(bundles.take(&id("b"), WAIT + SECOND).is_none());
        for (n, seconds) in (0..=HELD).zip(1_000..) {
            keep(&format!("c{n}"), SECOND * seconds);
        }
        let now = SECOND * 1_100;
        assert!(!bundles.waits(&id("c0"), now) && bundles.waits(&id("c1"), now));
    }

    #[test]
    fn a_qr_code_is_dark_on_light_in_either_scheme() {
        let code = qr("abcdefghijkmnpqrstuvwxyz23456789").into_string();
        assert!(code.contains("fill=\"#fff\"") && code.matches("h1v1h-1z").count() > 200, "{code}");
    }
}
