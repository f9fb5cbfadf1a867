//! `/console/configuration`: what is in force, what the file says by now, and putting that in force.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use fieldgate_types::{Origin, Problem};
use maud::{Markup, html};
use serde::Deserialize;

use crate::admin::Overview;
use crate::config::plan::{Change, Step};
use crate::console::access::Visitor;
use crate::console::page::{Mood, badge, number, page, panel, time};
use crate::reload::{InForce, Look, Report};

const HERE: &str = "/console/configuration";
/// Rows of a table; a plan may have one for each of a thousand links.
const MOST: usize = 300;

fn change(change: Change) -> Markup {
    let mood = match change {
        Change::Kept => Mood::Neutral,
        Change::Changed | Change::Added => Mood::Good,
        Change::Restarted | Change::Removed | Change::Waits => Mood::Warn,
        Change::Refused => Mood::Bad,
    };
    badge(mood, &change.to_string())
}

fn steps(all: &[Step]) -> Markup {
    let kept = all.iter().filter(|step| step.change == Change::Kept).count();
    let changed: Vec<&Step> = all.iter().filter(|step| step.change != Change::Kept).collect();
    html! {
        @if !changed.is_empty() {
            table class="cards" aria-label="Steps" {
                thead { tr { th scope="col" { "What" } th scope="col" { "Becomes" } th scope="col" { "Why" } } }
                tbody {
                    @for step in changed.iter().take(MOST) {
                        tr {
                            th scope="row" { code { (step.key) } @if let Some(what) = &step.what { " " (what) } }
                            td data-label="Becomes" { (change(step.change)) }
                            td data-label="Why" { (step.reason) }
                        }
                    }
                }
            }
            @if let Some(more) = changed.len().checked_sub(MOST).filter(|more| *more > 0) {
                p { (more) " more: " code { "fieldgate reload --plan" } " prints all of them." }
            }
        }
        @if kept > 0 { p class="quiet" { (number(kept as u64)) " parts stay as they are and go on untouched." } }
    }
}

fn problems(all: &[Problem]) -> Markup {
    html! {
        @if !all.is_empty() {
            ul { @for problem in all.iter().take(MOST) { li { code { (problem) } } } }
        }
    }
}

fn trouble(report: &Report) -> Markup {
    html! {
        @if let Some(error) = &report.error {
            p class="wrong" role="alert" { (error) }
            (problems(&report.problems))
            p { "Everything runs on as it was. Mend the file, then load this page again." }
        }
    }
}

fn planned(visitor: &Visitor, look: &Look) -> Markup {
    let plan = &*look.report;
    let something = plan.steps.iter().any(|step| step.change != Change::Kept);
    html! {
        p class="quiet" {
            "Looked at " (time(look.at)) ", and again when the file or one that it names has changed. "
            a href=(format!("{HERE}?afresh=true")) { "Look now" }
        }
        (trouble(plan))
        @if plan.ok && !something { p { "The file says what is in force: a reload would change nothing." } }
        (steps(&plan.steps))
        @if plan.ok && something {
            @if visitor.is_admin() {
                form method="post" action="/console/configuration/reload" {
                    (visitor.field())
                    p { "The file is read once more, and what it says then is put in force as a whole, or not at all." }
                    button { "Reload the configuration" }
                }
            } @else {
                p { "An admin can put it in force." }
            }
        }
    }
}

fn settings(in_force: &InForce) -> Markup {
    let origin = |origin: &Origin| match origin {
        Origin::Default => html! { span class="quiet" { "default" } },
        Origin::File { file, span } => html! { (file) ":" (span.line) },
        Origin::Environment { name } => html! { "environment " code { (name) } },
    };
    let set = || in_force.settings.iter().filter_map(|setting| Some((setting, setting.value.as_ref()?)));
    html! {
        p class="quiet" { "Every key of no list, with its default. Lists, such as links and policies, have pages of their own." }
        table class="cards" aria-label="Settings in force" {
            thead { tr { th scope="col" { "Key" } th scope="col" { "Value" } th scope="col" { "From" } } }
            tbody {
                @for (setting, value) in set() {
                    tr {
                        th scope="row" { code { (setting.key) } }
                        td data-label="Value" { code { (value) } }
                        td data-label="From" { (origin(&setting.origin)) }
                    }
                }
            }
        }
    }
}

/// How to look.
#[derive(Debug, Default, Deserialize)]
pub struct Asked {
    /// Whatever is known from before.
    #[serde(default)]
    afresh: bool,
}

/// What is in force, and what a reload would do.
pub async fn show(State(overview): State<Arc<Overview>>, visitor: Visitor, Query(asked): Query<Asked>) -> Response {
    let look = overview.reload.look(asked.afresh).await;
    let (in_force, waiting) = (overview.reload.in_force(), overview.reload.waiting());
    let body = html! {
        @if let Some(source) = &in_force.source { p { "File: " code { (source.display()) } } }
        (panel("What a reload would do", &planned(&visitor, &look)))
        @if !waiting.is_empty() { (panel("Waits for the next start of the process", &steps(&waiting))) }
        (panel("In force", &settings(&in_force)))
    };
    page(&overview, &visitor, HERE, "Configuration", &body)
}

/// Puts the file in force.
pub async fn reload(State(overview): State<Arc<Overview>>, visitor: Visitor) -> Response {
    let report = overview.reload.ask(&visitor.by(), false).await;
    let body = html! {
        @if report.ok {
            p class="done" role="status" {
                @if report.applied { "Done: the file is in force." } @else { "Nothing had to be changed at once." }
            }
        }
        (trouble(&report))
        (panel("What became of each part", &steps(&report.steps)))
        p { a href=(HERE) { "To the configuration" } }
    };
    let mut response = page(&overview, &visitor, HERE, "Reload", &body);
    if !report.ok {
        *response.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
    }
    response
}
