//! `fieldgate config show`: what is in force, and where each value comes from.

use std::path::Path;
use std::process::ExitCode;

use fieldgate_types::{Origin, Setting};
use serde_json::json;

use super::BAD_CONFIGURATION;
use super::show::print_json;
use crate::config::{LoadError, load_in_detail};

/// The file with defaults and environment. Of secrets there are only the names of their files in it.
pub fn show(path: &Path, as_json: bool) -> anyhow::Result<ExitCode> {
    let loaded = match load_in_detail(path) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("fieldgate: {error}");
            return Ok(ExitCode::from(BAD_CONFIGURATION));
        }
    };
    if as_json {
        print_json(&json!({
            "ok": loaded.problems.is_empty(), "settings": loaded.settings, "problems": loaded.problems,
        }))?;
    } else {
        print!("{}", text(&loaded.settings));
    }
    if loaded.problems.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    if !as_json {
        for problem in &loaded.problems {
            eprintln!("{problem}");
        }
        eprintln!("fieldgate: {}", LoadError::Problems(loaded.problems));
    }
    Ok(ExitCode::from(BAD_CONFIGURATION))
}

/// Table by table, with the origin behind each value.
fn text(settings: &[Setting]) -> String {
    let mut lines = Vec::new();
    let mut table = None;
    for setting in settings {
        let (inside, key) = setting.key.rsplit_once('.').unwrap_or(("", &setting.key));
        if table != Some(inside) {
            lines.extend(table.is_some().then(String::new));
            lines.push(format!("[{inside}]"));
            table = Some(inside);
        }
        let Some(value) = &setting.value else {
            lines.push(format!("# {key} is not set"));
            continue;
        };
        let line = format!("{key} = {}", value.replace('\n', " "));
        lines.push(match &setting.origin {
            Origin::Default => format!("{line:<50} # default"),
            Origin::File { file, span } => format!("{line:<50} # {file}:{}", span.line),
            Origin::Environment { name } => format!("{line:<50} # environment {name}"),
        });
    }
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_each_value_with_its_origin() {
        let text_of = |file: &str| text(&crate::config::read("gateway.toml", Path::new("."), file).settings);
        let shown = text_of("[upstream]\nurl = \"mqtt://h\"\nusername = \"u\"\npassword_file = \"secret.txt\"\n");
        let line = |begin: &str| shown.lines().find(|line| line.starts_with(begin)).unwrap_or_default().to_owned();
        assert!(line("url = \"mqtt://h\"").ends_with("# gateway.toml:2"), "{shown}");
        assert!(line("password_file = \"secret.txt\"").ends_with("# gateway.toml:4"), "{shown}");
        assert!(line("window = 4096").ends_with("# default"), "{shown}");
        assert_eq!(line("# client_id"), "# client_id is not set");
        assert!(shown.contains("\n[broker.limits]\n"), "{shown}");
    }
}
