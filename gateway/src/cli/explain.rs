//! `fieldgate check --explain KEY`: what the shipped gateway.toml says of a key.

use std::process::ExitCode;

use serde_json::json;

use super::show::print_json;
use crate::config::reference::{self, Entry, Kind};

/// Says what `key` is.
pub fn explain(key: &str, as_json: bool) -> anyhow::Result<ExitCode> {
    let entry = match reference::find(key) {
        Ok(entry) => entry,
        Err(near) => {
            let hint = near.map_or_else(
                || "`fieldgate config show` lists all".to_owned(),
                |near| format!("did you mean `{near}`?"),
            );
            eprintln!("fieldgate: `{key}` is no key of the configuration, {hint}");
            return Ok(ExitCode::FAILURE);
        }
    };
    let default = default_of(entry);
    let members: Vec<&Entry> = entry.members().collect();
    if as_json {
        let members: Vec<&str> = members.iter().map(|member| member.key.as_str()).collect();
        let (kind, example) = match &entry.kind {
            Kind::Table => ("table", None),
            Kind::Tables => ("tables", None),
            Kind::Value(value) => ("value", Some(value)),
        };
        print_json(&json!({
            "key": entry.key, "kind": kind, "words": entry.words, "default": default, "example": example,
            "variable": entry.variable(), "members": members,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    match &entry.kind {
        Kind::Table => println!("[{}]", entry.key),
        Kind::Tables => println!("[[{}]]", entry.key),
        Kind::Value(_) => println!("{}", entry.key),
    }
    for line in &entry.words {
        println!("  {line}");
    }
    match (&entry.kind, &default) {
        (Kind::Value(_), Some(default)) => println!("  default: {default}"),
        (Kind::Value(example), None) => println!("  example: {example}"),
        (Kind::Table | Kind::Tables, _) => {}
    }
    if let Some(variable) = entry.variable() {
        println!("  in the environment: {variable}");
    }
    if let Some(longest) = members.iter().map(|member| last(member).len()).max() {
        println!();
        for member in &members {
            println!("  {:<longest$}  {}", last(member), member.words.first().map_or("", String::as_str));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn last(entry: &Entry) -> &str {
    entry.key.rsplit('.').next().unwrap_or_default()
}

/// What an empty file gives; of what stands in tables there is no telling.
fn default_of(entry: &Entry) -> Option<String> {
    let loaded = crate::config::read("gateway.toml", std::path::Path::new("."), "");
    let setting = loaded.settings.into_iter().find(|setting| setting.key == entry.key);
    setting.and_then(|setting| setting.value)
}
