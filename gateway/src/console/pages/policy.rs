//! `/console/policy`: may somebody, and which rule says so.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;

use crate::admin::Overview;
use crate::admin::api::{Failed, blocking};
use crate::console::access::Visitor;
use crate::console::page::{Mood, badge, facts, page, panel};
use crate::identity::explain::{Explanation, Question, RuleInfo, explain};
use crate::identity::policy::Action;

const HERE: &str = "/console/policy";

/// What is asked, if anything is.
#[derive(Debug, Default, Deserialize)]
pub struct Asked {
    #[serde(default)]
    who: String,
    #[serde(default)]
    action: String,
    #[serde(default)]
    topic: String,
}

impl Asked {
    fn question(&self) -> Option<Question> {
        let action = if self.action == "subscribe" { Action::Subscribe } else { Action::Publish };
        let (who, topic) = (self.who.trim().to_owned(), self.topic.trim().to_owned());
        (!who.is_empty() && !topic.is_empty()).then_some(Question { who, action, topic })
    }
}

fn rule(rule: &RuleInfo) -> Markup {
    html! {
        code { (rule.filter) } " "
        @match (&rule.at, &rule.who) {
            (Some(at), Some(who)) => { "for " code { (who) } ", " (at) },
            _ => "a right that every one of its role has",
        }
    }
}

fn answer(said: &Explanation) -> Markup {
    let verdict = if said.allowed { badge(Mood::Good, "allowed") } else { badge(Mood::Bad, "denied") };
    let groups = said.groups.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    html! {
        p { strong { (said.who) } " to " (said.action) " " code { (said.topic) } ": " (verdict) }
        (facts(&[
            ("Role", html! { (said.role) }),
            ("Groups", html! { @if groups.is_empty() { "none" } @else { (groups) } }),
        ]))
        @if let Some(by) = &said.rule { p { "By the rule " (rule(by)) "." } }
        @if let Some(by) = &said.closest { p { "The rule that comes closest: " (rule(by)) "." } }
        @for note in &said.notes { p { (note) } }
        @if let Some(add) = &said.add {
            p { "This in the configuration would allow it, from the next reload on:" }
            pre { code { (add) } }
        }
    }
}

/// The question, and its answer.
pub async fn show(
    State(overview): State<Arc<Overview>>,
    visitor: Visitor,
    Query(asked): Query<Asked>,
) -> Result<Response, Failed> {
    let said = match asked.question() {
        Some(question) => {
            let of = Arc::clone(&overview);
            let said = blocking(move || explain(&question, &of.rights.get(), &of.users.all(), &of.authority.registry));
            Some(said.await?.map_err(|error| error.to_string()))
        }
        None => None,
    };
    let subscribes = asked.action == "subscribe";
    let body = html! {
        form class="narrow" action=(HERE) {
            label for="who" { "Who" }
            input id="who" name="who" value=(asked.who) required maxlength="80" autocapitalize="none" spellcheck="false" aria-describedby="who-hint";
            p class="hint" id="who-hint" { "A device's id, or " code { "user:NAME" } }
            label for="action" { "Wants to" }
            select id="action" name="action" {
                option value="publish" selected[!subscribes] { "publish" }
                option value="subscribe" selected[subscribes] { "subscribe" }
            }
            label for="topic" { "Topic or filter" }
            input id="topic" name="topic" value=(asked.topic) required maxlength="1024" autocapitalize="none" spellcheck="false" aria-describedby="topic-hint";
            p class="hint" id="topic-hint" { "Such as " code { "devices/press-1/telemetry/points" } " or " code { "devices/#" } }
            button { "Explain" }
        }
        @match &said {
            Some(Ok(said)) => (panel("Answer", &answer(said))),
            Some(Err(words)) => { p class="wrong" role="alert" { (words) } },
            None => {},
        }
    };
    let mut response = page(&overview, &visitor, HERE, "Policy", &body);
    if matches!(said, Some(Err(_))) {
        *response.status_mut() = StatusCode::BAD_REQUEST;
    }
    Ok(response)
}
