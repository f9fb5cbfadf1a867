//! The frame of every page, and the small parts that pages are made of.

use std::sync::{Arc, LazyLock};

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use fieldgate_certs::Fingerprint;
use fieldgate_types::UnixMillis;
use maud::{DOCTYPE, Markup, html};

use super::access::{Asks, Visitor};
use super::routes::PAGES;
use crate::admin::Overview;
use crate::moment::date;

const STYLE: &str = include_str!("assets/style.css");
const SCRIPT: &str = include_str!("assets/console.js");
const ICON: &str = include_str!("assets/icon.svg");

/// Changes with the files, so that a browser keeps them for as long as they are the same.
static STAMP: LazyLock<String> = LazyLock::new(|| {
    let both = [STYLE, SCRIPT].concat();
    Fingerprint::of(both.as_bytes()).to_string().chars().take(12).collect()
});

/// A page for who is signed in. `at` is the path in the navigation that it belongs to.
pub fn page(overview: &Overview, visitor: &Visitor, at: &str, title: &str, body: &Markup) -> Response {
    framed(overview, Some(visitor), at, title, None, body)
}

/// As [`page`], with parts that change: `stream` is the path of [`super::live::stream`].
pub fn live_page(
    overview: &Overview,
    visitor: &Visitor,
    at: &str,
    title: &str,
    stream: &str,
    body: &Markup,
) -> Response {
    framed(overview, Some(visitor), at, title, Some(stream), body)
}

/// A page for who is not.
pub fn bare_page(overview: &Overview, status: StatusCode, title: &str, body: &Markup) -> Response {
    (status, framed(overview, None, "", title, None, body)).into_response()
}

/// What went wrong, with what to do.
pub fn trouble(overview: &Overview, visitor: Option<&Visitor>, status: StatusCode, words: &str) -> Response {
    let title = match status {
        StatusCode::NOT_FOUND => "Not here",
        StatusCode::UNAUTHORIZED => "Not signed in",
        StatusCode::FORBIDDEN => "Not allowed",
        StatusCode::CONFLICT => "Not as things are",
        _ if status.is_server_error() => "The gateway can't",
        _ => "Not understood",
    };
    let words = words.trim();
    let words = if words.is_empty() { status.canonical_reason().unwrap_or("it failed") } else { words };
    let body = html! {
        p class="wrong" role="alert" { (words) }
        p { a href="/console" { "To the overview" } }
    };
    (status, framed(overview, visitor, "", title, None, &body)).into_response()
}

fn framed(
    overview: &Overview,
    visitor: Option<&Visitor>,
    at: &str,
    title: &str,
    stream: Option<&str>,
    body: &Markup,
) -> Response {
    let gateway = &overview.authority.gateway;
    let stamp = STAMP.as_str();
    let tabs = || PAGES.iter().filter_map(|route| Some((route, route.tab?)));
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · " (gateway) " · Fieldgate" }
                link rel="icon" type="image/svg+xml" href=(format!("/console/icon.svg?{stamp}"));
                link rel="stylesheet" href=(format!("/console/style.css?{stamp}"));
                script src=(format!("/console/console.js?{stamp}")) defer {}
            }
            body {
                a class="skip" href="#main" { "Skip to the content" }
                header class="top" {
                    a class="brand" href="/console" { span { "Fieldgate" } " " strong { (gateway) } }
                    @if let Some(visitor) = visitor {
                        nav aria-label="Pages" {
                            ul {
                                @for (route, word) in tabs() {
                                    @if route.asks != Asks::Admin || visitor.is_admin() {
                                        li { a href=(route.path) aria-current=[(route.path == at).then_some("page")] { (word) } }
                                    }
                                }
                            }
                        }
                        form class="who" method="post" action="/console/logout" {
                            (visitor.field())
                            a href="/console/account" { (visitor.account) }
                            span class="quiet" { " " (visitor.role.word()) " " }
                            button class="plain" { "Sign out" }
                        }
                    }
                }
                main id="main" tabindex="-1" data-live=[stream] {
                    h1 { (title) }
                    (body)
                }
                footer {
                    p {
                        "Fieldgate " (env!("CARGO_PKG_VERSION")) " · times in " span id="zone" { "UTC" }
                        @if stream.is_some() { " · " span id="live-state" role="status" { "as of the loading of this page" } }
                    }
                }
            }
        }
    };
    Html(markup.into_string()).into_response()
}

fn asset(kind: &'static str, text: &'static str) -> Response {
    let kept = HeaderValue::from_static("public, max-age=604800, immutable");
    ([(CONTENT_TYPE, HeaderValue::from_static(kind)), (CACHE_CONTROL, kept)], text).into_response()
}

/// The style sheet.
pub async fn style(State(_): State<Arc<Overview>>) -> Response {
    asset("text/css; charset=utf-8", STYLE)
}

/// The script.
pub async fn script(State(_): State<Arc<Overview>>) -> Response {
    asset("text/javascript; charset=utf-8", SCRIPT)
}

/// The icon.
pub async fn icon(State(_): State<Arc<Overview>>) -> Response {
    asset("image/svg+xml", ICON)
}

/// A moment: UTC as it comes, in the reader's zone where the script runs.
pub fn time(at: UnixMillis) -> Markup {
    let machine = date(at);
    let shown = machine.replacen('T', " ", 1).replacen('Z', " UTC", 1);
    html! { time datetime=(machine) { (shown) } }
}

/// A moment, if there is one.
pub fn time_or(at: Option<UnixMillis>, otherwise: &str) -> Markup {
    html! { @match at { Some(at) => (time(at)), None => span class="quiet" { (otherwise) } } }
}

/// How a word is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// As it should be.
    Good,
    /// Somebody should look.
    Warn,
    /// It doesn't work.
    Bad,
    /// Neither.
    Neutral,
}

/// A word with a colour and a sign, so that it can be told without the colour.
pub fn badge(mood: Mood, word: &str) -> Markup {
    let (class, sign) = match mood {
        Mood::Good => ("badge good", "●"),
        Mood::Warn => ("badge warn", "▲"),
        Mood::Bad => ("badge bad", "■"),
        Mood::Neutral => ("badge", "○"),
    };
    html! { span class=(class) { span aria-hidden="true" { (sign) } " " (word) } }
}

/// A part of a page with a heading.
pub fn panel(title: &str, body: &Markup) -> Markup {
    html! { section class="panel" { h2 { (title) } (body) } }
}

/// Names and values.
pub fn facts(rows: &[(&str, Markup)]) -> Markup {
    html! { dl class="facts" { @for (name, value) in rows { div { dt { (name) } dd { (value) } } } } }
}

/// A number with thin spaces between thousands.
pub fn number(count: u64) -> String {
    let digits = count.to_string();
    let first = digits.len() % 3;
    let (head, rest) = digits.split_at_checked(first).unwrap_or(("", &digits));
    let groups = rest.as_bytes().chunks(3).map(|group| String::from_utf8_lossy(group).into_owned());
    let parts = Some(head.to_owned()).filter(|head| !head.is_empty()).into_iter().chain(groups);
    parts.collect::<Vec<_>>().join("\u{202f}")
}

/// Text as a part of an address.
pub fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.extend(["%", &format!("{byte:02X}")]);
        }
    }
    out
}

/// An address with those parameters that say something.
pub fn link(path: &str, parameters: &[(&str, &str)]) -> String {
    let said = parameters.iter().filter(|(_, value)| !value.is_empty());
    let pairs: Vec<String> = said.map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_addresses_and_moments_are_written_for_people_and_browsers() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(number), ["0", "999", "1\u{202f}000", "1\u{202f}234\u{202f}567"]);
        assert_eq!(
            link("/console/devices", &[("q", "a&b=<ü>"), ("state", "")]),
            "/console/devices?q=a%26b%3D%3C%C3%BC%3E"
        );
        assert_eq!(link("/console", &[("q", "")]), "/console");
        let text = time(UnixMillis(1_793_491_200_000)).into_string();
        assert_eq!(text, "<time datetime=\"2026-11-01T00:00:00Z\">2026-11-01 00:00:00 UTC</time>");
    }
}
