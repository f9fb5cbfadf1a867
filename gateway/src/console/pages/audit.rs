//! The audit log, newest first: page by page, and by words.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use maud::html;
use serde::Deserialize;

use super::words::{Line, audit_table};
use crate::admin::Overview;
use crate::admin::api::{Failed, blocking};
use crate::audit::{Search, search};
use crate::console::access::Visitor;
use crate::console::page::{link, number, page};

const PATH: &str = "/console/audit";
/// Lines on a page.
const LINES: usize = 100;
/// Of the log for one page: what isn't found in it is looked for on the next.
const DEPTH: u64 = 16 << 20;
/// Words that are looked for.
const WORDS: usize = 8;

/// What is looked for.
#[derive(Debug, Deserialize)]
pub struct Asked {
    #[serde(default)]
    q: String,
    before: Option<u64>,
}

/// The page.
pub async fn show(
    State(overview): State<Arc<Overview>>,
    visitor: Visitor,
    Query(asked): Query<Asked>,
) -> Result<Response, Failed> {
    let words: Vec<String> = asked.q.split_whitespace().take(WORDS).map(str::to_owned).collect();
    let wanted = Search { before: asked.before, most: LINES, words, depth: DEPTH };
    let folder = overview.audit_folder.clone();
    let found = blocking(move || search(&folder, &wanted)).await?;
    let found = found.map_err(|error| Failed(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let lines: Vec<Line> = found.lines.iter().filter_map(|text| Line::read(text)).collect();
    let end = overview.audit.end().map_or(0, |end| end.n);
    let body = html! {
        form class="filter" role="search" action=(PATH) {
            label for="q" { "Words in the line" }
            input id="q" name="q" type="search" value=(asked.q) maxlength="200" placeholder="press-1 refused";
            button { "Search" }
            @if !asked.q.is_empty() { a href=(PATH) { "All lines" } }
        }
        p class="quiet" { (number(end)) " lines were ever written. " code { "fieldgate audit --verify" } " checks that none was changed." }
        (audit_table(&lines, "Audit log, newest first"))
        nav class="paging" aria-label="Pages of the log" {
            @if asked.before.is_some() { a href=(link(PATH, &[("q", &asked.q)])) { "Newest" } }
            @if let Some(more) = found.more {
                a href=(link(PATH, &[("q", &asked.q), ("before", &more.to_string())])) rel="next" { "Older lines" }
            } @else {
                span class="quiet" { "No older lines are kept." }
            }
        }
    };
    Ok(page(&overview, &visitor, PATH, "Audit", &body))
}
