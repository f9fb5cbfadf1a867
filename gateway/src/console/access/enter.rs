//! The way in and out: setting up, signing in, signing out, another password.

use std::sync::Arc;

use axum::extract::{Form, Query, State};
use axum::http::header::SET_COOKIE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use fieldgate_types::{DeviceId, Secret};
use maud::{Markup, html};
use serde::Deserialize;

use super::{Guest, Visitor, origin};
use crate::admin::Overview;
use crate::admin::api::Failed;
use crate::audit::Event;
use crate::console::page::{self, bare_page, page};
use crate::identity::account::{Account, AccountError};
use crate::identity::throttle::{self, Try};
use crate::identity::trial::{TrialRefused, computed};

type Shared = State<Arc<Overview>>;

const HOME: &str = "/console";
const SIGN_IN: &str = "/console/login";
const SET_UP: &str = "/console/setup";

/// Where somebody without a session is sent, who wanted to go to `target`.
pub(super) fn door(overview: &Overview, target: &str) -> String {
    if overview.authority.accounts.is_empty() {
        return SET_UP.to_owned();
    }
    match inside(target) {
        HOME => SIGN_IN.to_owned(),
        target => format!("{SIGN_IN}?next={}", page::encoded(target)),
    }
}

/// A page of the console, or its first one: nobody is sent elsewhere.
fn inside(target: &str) -> &str {
    let ours = target == HOME || target.starts_with("/console/") || target.starts_with("/console?");
    let plain = target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    let page = !target.starts_with(SIGN_IN) && !target.starts_with(SET_UP) && !target.contains("/live");
    if ours && plain && page { target } else { HOME }
}

/// What is asked for after the sign-in.
#[derive(Debug, Default, Deserialize)]
pub struct Onward {
    #[serde(default)]
    next: String,
}

/// The sign-in.
pub async fn login(State(overview): Shared, guest: Guest, Query(onward): Query<Onward>) -> Response {
    let target = inside(&onward.next);
    if guest.session.is_some() {
        return Redirect::to(target).into_response();
    }
    if overview.authority.accounts.is_empty() {
        return Redirect::to(SET_UP).into_response();
    }
    login_page(&overview, StatusCode::OK, "", target, None)
}

fn login_page(overview: &Overview, status: StatusCode, name: &str, target: &str, wrong: Option<&str>) -> Response {
    let body = html! {
        form method="post" action=(SIGN_IN) class="narrow" {
            (said(wrong))
            input type="hidden" name="next" value=(target);
            label for="name" { "Account" }
            input id="name" name="name" value=(name) required maxlength="64" autocomplete="username" autocapitalize="none" spellcheck="false" autofocus;
            label for="password" { "Password" }
            input id="password" name="password" type="password" required maxlength="1024" autocomplete="current-password";
            button { "Sign in" }
            p class="hint" { "Forgotten? On the gateway itself, " code { "fieldgate console user passwd NAME" } " sets a new one." }
        }
    };
    bare_page(overview, status, "Sign in", &body)
}

fn said(wrong: Option<&str>) -> Markup {
    html! { @if let Some(wrong) = wrong { p class="wrong" role="alert" { (wrong) } } }
}

/// Name and password.
#[derive(Deserialize)]
pub struct Credentials {
    name: String,
    password: String,
    #[serde(default)]
    next: String,
}

/// Signs in: another session, whatever key came with the request.
pub async fn sign_in(State(overview): Shared, guest: Guest, Form(form): Form<Credentials>) -> Response {
    let target = inside(&form.next);
    let name = DeviceId::new(form.name.trim()).ok();
    let key: Try = (name.as_ref().map_or("", DeviceId::as_str).into(), throttle::from(guest.peer.ip()));
    let (of, wanted) = (Arc::clone(&overview), name.clone());
    let who = move || {
        let accounts = &of.authority.accounts;
        let account = wanted.and_then(|name| accounts.get(&name));
        let hash = account.as_ref().map(|account| account.hash.clone()).or_else(|| accounts.nobody());
        (hash, account)
    };
    let refuse = |status, reason: String| {
        overview.refused_requests.add("console-password");
        let (account, peer, route) = (name.clone(), guest.peer.to_string(), format!("POST {SIGN_IN}"));
        overview.audit.record(Event::ConsoleRefused { account, peer, route, reason: reason.clone() });
        let name = name.as_ref().map_or("", DeviceId::as_str);
        login_page(&overview, status, name, target, Some(&reason))
    };
    match overview.console.trials.check(key, form.password.into_bytes(), who).await {
        Ok(Some(account)) => welcome(&overview, &guest, &account, target),
        Ok(None) => refuse(StatusCode::UNAUTHORIZED, "wrong account or password".to_owned()),
        Err(refused) => refuse(StatusCode::TOO_MANY_REQUESTS, wait_words(refused)),
    }
}

fn wait_words(refused: TrialRefused) -> String {
    match refused {
        TrialRefused::TooOften(wait) => format!("too many wrong tries, try again in {} s", wait.as_secs() + 1),
        TrialRefused::Busy => "too many passwords are being checked, try again in a moment".to_owned(),
    }
}

/// Begins a session, and goes on. The one before is over: its key may be known to others.
fn welcome(overview: &Overview, guest: &Guest, account: &Arc<Account>, target: &str) -> Response {
    let console = &overview.console;
    if let Some(before) = &guest.session {
        console.sessions.end(before);
    }
    let Some(key) = console.sessions.begin(account) else {
        let words = "the system gives no random numbers, nobody can sign in: restart the gateway, and report it";
        return page::trouble(overview, None, StatusCode::SERVICE_UNAVAILABLE, words);
    };
    overview.audit.record(Event::ConsoleSignIn { account: account.name.clone(), peer: guest.peer.to_string() });
    with_cookie(overview, guest.tls, Some(key.expose()), Redirect::to(target))
}

fn with_cookie(overview: &Overview, tls: bool, key: Option<&str>, onward: Redirect) -> Response {
    let mut response = onward.into_response();
    // Letters and digits alone.
    if let Ok(value) = HeaderValue::from_str(&origin::cookie(&overview.authority.gateway, tls, key)) {
        response.headers_mut().insert(SET_COOKIE, value);
    }
    response
}

/// Ends the session.
pub async fn sign_out(State(overview): Shared, guest: Guest, visitor: Visitor) -> Response {
    overview.console.sessions.end(&visitor.session);
    overview.audit.record(Event::ConsoleSignOut { account: visitor.account, peer: visitor.peer.to_string() });
    with_cookie(&overview, guest.tls, None, Redirect::to(SIGN_IN))
}

/// The set-up, while there is no account.
pub async fn setup(State(overview): Shared) -> Response {
    // Told in the log again where the last account was removed.
    if overview.console.setup.code(&overview.authority.accounts).is_none() {
        return Redirect::to(HOME).into_response();
    }
    setup_page(&overview, StatusCode::OK, "", None)
}

fn setup_page(overview: &Overview, status: StatusCode, name: &str, wrong: Option<&str>) -> Response {
    let body = html! {
        form method="post" action=(SET_UP) class="narrow" {
            (said(wrong))
            p { "This gateway's console has no account yet. Make the first one, an admin, with the code that stands in the gateway's log; "
                code { "fieldgate console setup-code" } " on the gateway shows it too." }
            label for="code" { "Set-up code" }
            input id="code" name="code" required maxlength="64" autocomplete="off" autocapitalize="none" spellcheck="false" placeholder="xxxx-xxxx-xxxx" autofocus;
            label for="name" { "Account" }
            input id="name" name="name" value=(name) required maxlength="64" autocomplete="username" autocapitalize="none" spellcheck="false" aria-describedby="name-hint";
            p class="hint" id="name-hint" { "Letters, digits and . _ - are allowed" }
            (new_password())
            button { "Make the account" }
        }
    };
    bare_page(overview, status, "Set up the console", &body)
}

fn new_password() -> Markup {
    html! {
        label for="password" { "Password" }
        input id="password" name="password" type="password" required minlength="10" maxlength="256" autocomplete="new-password" aria-describedby="password-hint";
        p class="hint" id="password-hint" { "At least 10 characters" }
        label for="again" { "The same again" }
        input id="again" name="again" type="password" required minlength="10" maxlength="256" autocomplete="new-password";
    }
}

/// The code, and the first account.
#[derive(Deserialize)]
pub struct SetUp {
    code: String,
    name: String,
    password: String,
    again: String,
}

/// Makes the first account, and signs in.
pub async fn set_up(State(overview): Shared, guest: Guest, Form(form): Form<SetUp>) -> Response {
    let (console, accounts) = (&overview.console, &overview.authority.accounts);
    let key: Try = ("".into(), throttle::from(guest.peer.ip()));
    let refuse = |status, reason: &str| {
        overview.refused_requests.add("console-setup");
        let (peer, route, reason) = (guest.peer.to_string(), format!("POST {SET_UP}"), reason.to_owned());
        overview.audit.record(Event::ConsoleRefused { account: None, peer, route, reason: reason.clone() });
        setup_page(&overview, status, form.name.trim(), Some(&reason))
    };
    if accounts.is_empty() {
        if let Err(refused) = console.trials.may(&key) {
            return refuse(StatusCode::TOO_MANY_REQUESTS, &wait_words(refused));
        }
        let right = console.setup.is(&form.code, accounts);
        console.trials.note(&key, right);
        if !right {
            let words = "that is not the code: the gateway's log has it, a new one after each start";
            return refuse(StatusCode::FORBIDDEN, words);
        }
    }
    let name = match DeviceId::new(form.name.trim()) {
        Ok(name) => name,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    if form.password != form.again {
        return refuse(StatusCode::BAD_REQUEST, "the two passwords differ");
    }
    let (of, password, by) = (Arc::clone(&overview), Secret::new(form.password), format!("set-up from {}", guest.peer));
    let made = computed(move || {
        let account = of.authority.accounts.set_up(&name, &password, of.clock.now(), &by)?;
        Ok::<_, AccountError>(of.authority.accounts.get(&account.name))
    });
    match made.await {
        Ok(Ok(Some(account))) => welcome(&overview, &guest, &account, HOME),
        Ok(Ok(None)) | Err(_) => refuse(StatusCode::SERVICE_UNAVAILABLE, "the gateway is busy, try again"),
        Ok(Err(AccountError::NotFirst)) => Redirect::to(HOME).into_response(),
        Ok(Err(error)) => {
            let Failed(status, words) = error.into();
            setup_page(&overview, status, "", Some(&words))
        }
    }
}

/// One's own account.
pub async fn account(State(overview): Shared, visitor: Visitor) -> Response {
    account_page(&overview, &visitor, StatusCode::OK, None)
}

fn account_page(overview: &Overview, visitor: &Visitor, status: StatusCode, wrong: Option<&str>) -> Response {
    let body = html! {
        p { "Signed in as " strong { (visitor.account) } ", " (visitor.role.word()) ". A session ends after 30 minutes without a request and after twelve hours." }
        section class="panel" {
            h2 { "Another password" }
            form method="post" action="/console/account/password" class="narrow" {
                (visitor.field())
                (said(wrong))
                label for="old" { "Present password" }
                input id="old" name="old" type="password" required maxlength="1024" autocomplete="current-password";
                (new_password())
                button { "Set it" }
                p class="hint" { "Every session of this account ends, and you sign in anew." }
            }
        }
        p class="hint" { "Accounts are added and removed on the gateway itself: " code { "fieldgate console user" } "." }
    };
    let mut response = page(overview, visitor, "/console/account", "Account", &body);
    *response.status_mut() = status;
    response
}

/// The present password, and another.
#[derive(Deserialize)]
pub struct NewPassword {
    old: String,
    password: String,
    again: String,
}

/// Sets one's own password.
pub async fn set_password(
    State(overview): Shared,
    guest: Guest,
    visitor: Visitor,
    Form(form): Form<NewPassword>,
) -> Response {
    let refuse = |status, words: &str| account_page(&overview, &visitor, status, Some(words));
    if form.password != form.again {
        return refuse(StatusCode::BAD_REQUEST, "the two passwords differ");
    }
    let key: Try = (visitor.account.as_str().into(), throttle::from(guest.peer.ip()));
    let (of, name) = (Arc::clone(&overview), visitor.account.clone());
    let who = move || {
        let account = of.authority.accounts.get(&name);
        (account.as_ref().map(|account| account.hash.clone()), account)
    };
    match overview.console.trials.check(key, form.old.into_bytes(), who).await {
        Ok(Some(_)) => {}
        Ok(None) => return refuse(StatusCode::FORBIDDEN, "the present password is another"),
        Err(refused) => return refuse(StatusCode::TOO_MANY_REQUESTS, &wait_words(refused)),
    }
    let (of, name, by) = (Arc::clone(&overview), visitor.account.clone(), visitor.by());
    let password = Secret::new(form.password);
    let set = move || of.authority.accounts.set_password(&name, &password, of.clock.now(), &by);
    match computed(set).await {
        Ok(Ok(_)) => with_cookie(&overview, guest.tls, None, Redirect::to(SIGN_IN)),
        Ok(Err(error)) => {
            let Failed(status, words) = error.into();
            refuse(status, &words)
        }
        Err(_) => refuse(StatusCode::SERVICE_UNAVAILABLE, "the gateway is busy, try again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_away_from_the_console() {
        assert_eq!(inside("/console/devices?q=a&state=online"), "/console/devices?q=a&state=online");
        for other in [
            "",
            "/",
            "https://evil.example",
            "//evil.example",
            "/consolex",
            "/console/\\evil",
            "/console/a\r\nSet-Cookie: a=b",
            "/console/login",
            "/console/setup",
            "/console/overview/live",
        ] {
            assert_eq!(inside(other), HOME, "{other}");
        }
    }
}
