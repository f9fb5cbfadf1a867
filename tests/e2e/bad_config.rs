//! Bad configurations give exactly the text beside them, good ones none: `fixtures/config`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::Context;

use crate::stage::{BINARY, Told, root};

fn folder() -> PathBuf {
    root().join("fixtures/config")
}

/// The `.toml` files of a sub-folder of fixtures/config, as paths from there.
fn files(kind: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder().join(kind))? {
        let name = entry?.file_name();
        if Path::new(&name).extension().is_some_and(|extension| extension == "toml") {
            files.push(Path::new(kind).join(name));
        }
    }
    files.sort();
    Ok(files)
}

fn verb(file: &Path, verb: &[&str]) -> anyhow::Result<Output> {
    Ok(Command::new(BINARY).args(verb).arg("-c").arg(file).current_dir(folder()).output()?)
}

#[test]
fn bad_ones_are_refused_with_every_problem_located() -> Told {
    let files = files("bad")?;
    assert!(files.len() >= 30, "{files:?}");
    for file in files {
        let expected = std::fs::read_to_string(folder().join(&file).with_extension("txt"))
            .with_context(|| format!("the text that {} must give", file.display()))?;
        for how in ["check", "run"] {
            let output = verb(&file, &[how])?;
            assert_eq!(String::from_utf8(output.stderr)?, expected, "{how} {}", file.display());
            assert_eq!(output.status.code(), Some(78), "{how} {}", file.display());
            assert_eq!(output.stdout, b"", "{how} {}", file.display());
        }
    }
    Ok(())
}

#[test]
fn ten_mistakes_give_ten_located_messages() -> Told {
    let output = verb(Path::new("bad/ten-mistakes.toml"), &["check", "--json"])?;
    assert_eq!(output.status.code(), Some(78));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let problems = report["problems"].as_array().context("no problems")?;
    let lines: std::collections::BTreeSet<u64> = problems.iter().filter_map(|p| p["line"].as_u64()).collect();
    assert_eq!((problems.len(), lines.len(), &report["ok"]), (10, 10, &false.into()), "{report:#}");
    for problem in problems {
        let text = |key: &str| problem[key].as_str().is_some_and(|text| !text.is_empty());
        assert!(text("file") && text("key") && text("message") && problem["column"].is_u64(), "{problem}");
    }
    Ok(())
}

#[test]
fn good_ones_are_accepted() -> Told {
    let files = files("good")?;
    assert!(!files.is_empty());
    for file in files {
        let output = verb(&file, &["check"])?;
        assert_eq!(String::from_utf8(output.stderr)?, "", "{}", file.display());
        assert_eq!(output.status.code(), Some(0), "{}", file.display());
    }
    Ok(())
}

#[test]
fn a_file_that_is_not_there_is_named() -> Told {
    let output = verb(Path::new("no-such.toml"), &["check"])?;
    let stderr = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(78));
    assert!(stderr.contains("no-such.toml") && stderr.contains("-c FILE"), "{stderr}");
    Ok(())
}
