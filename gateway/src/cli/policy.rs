//! `fieldgate policy explain`

use std::process::ExitCode;
use std::sync::Arc;

use super::client::Client;
use super::offline::offline;
use super::show::print_json;
use crate::config::Config;
use crate::identity::Rights;
use crate::identity::explain::{Explanation, Question, RuleInfo, explain as answer};

/// Says whether somebody may do something, and by which rule: asked of the running gateway, else of the configuration
/// and the data directory.
pub async fn explain(config: &Config, question: Question, json: bool) -> anyhow::Result<ExitCode> {
    let explanation: Explanation = match Client::connect(&config.data_dir).await? {
        Some(client) => client.post("/api/v1/policy/explain", &question).await?,
        None => offline(config, |authority| {
            let rights = Rights::new(&config.groups, &config.policies, &config.broker.maps);
            let rights = rights.with_enrolled(Arc::clone(&authority.registry));
            Ok(answer(&question, &rights, &config.broker.users, &authority.registry)?)
        })?,
    };
    if json {
        print_json(&explanation)?;
    } else {
        print!("{}", text(&explanation));
    }
    Ok(ExitCode::SUCCESS)
}

fn text(explanation: &Explanation) -> String {
    let Explanation { who, role, action, topic, rule, closest, groups, notes, add, .. } = explanation;
    let to = match action {
        crate::identity::policy::Action::Publish => "on",
        crate::identity::policy::Action::Subscribe => "to",
    };
    let mut lines = Vec::new();
    match rule {
        Some(rule) => lines.push(format!("allowed: {who} ({role}) may {action} {to} {topic}, by {}", words(rule))),
        None => lines.push(format!("denied: no rule lets {who} ({role}) {action} {to} {topic}")),
    }
    if !groups.is_empty() {
        let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
        lines.push(format!("groups of {who}: {}", groups.join(", ")));
    }
    lines.extend(notes.iter().map(|note| format!("note: {note}")));
    lines.extend(closest.iter().map(|rule| format!("closest: {}", words(rule))));
    if let Some(add) = add {
        lines.push("this would allow it:".to_owned());
        lines.extend(add.lines().map(|line| format!("  {line}")));
    }
    lines.join("\n") + "\n"
}

fn words(rule: &RuleInfo) -> String {
    match (&rule.at, &rule.who) {
        (Some(at), Some(who)) => format!("the [[policy]] at {at}: who = \"{who}\", filter = \"{}\"", rule.filter),
        _ => format!("the default right of its role: {}", rule.filter),
    }
}
