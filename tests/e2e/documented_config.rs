//! The gateway.toml at the root documents every key, and no other.

use std::collections::BTreeSet;
use std::process::Command;

use fieldgate::config;

use crate::stage::{BINARY, Told, root};

fn shipped() -> anyhow::Result<String> {
    Ok(std::fs::read_to_string(root().join("gateway.toml"))?)
}

/// The text with every commented-out key and table switched on: those behind a `#` without a blank.
fn all_switched_on(text: &str) -> String {
    let switched = |line: &str| match line.strip_prefix('#') {
        Some(key) if key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '[') => key.to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(switched).collect::<Vec<_>>().join("\n")
}

/// Every dotted key of the document, tables included.
fn keys(table: &toml::Table, path: &str, into: &mut BTreeSet<String>) {
    for (key, value) in table {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match value {
            toml::Value::Table(table) => keys(table, &path, into),
            toml::Value::Array(items) => {
                items.iter().filter_map(toml::Value::as_table).for_each(|table| keys(table, &path, into));
            }
            _ => {}
        }
        into.insert(path);
    }
}

#[test]
fn the_shipped_configuration_is_accepted() -> Told {
    let output = Command::new(BINARY).args(["check", "-c", "gateway.toml"]).current_dir(root()).output()?;
    assert_eq!((output.status.code(), String::from_utf8(output.stderr)?.as_str()), (Some(0), ""));
    Ok(())
}

#[test]
fn every_key_is_documented_and_every_documented_key_exists() -> Told {
    let folder = tempfile::tempdir()?;
    let text = all_switched_on(&shipped()?);
    let maps = folder.path().join("maps");
    std::fs::create_dir(&maps)?;
    std::fs::write(maps.join("meter.toml"), "[[point]]\nname = \"energy\"\nat = \"input:0\"\ntype = \"u32\"\n")?;
    std::fs::write(maps.join("boiler.toml"), "[[point]]\nname = \"pressure\"\nnode = \"ns=2;s=Pressure\"\n")?;
    for file in ["hmi.hash", "corp.pem"] {
        std::fs::copy(root().join("fixtures/config/good").join(file), folder.path().join(file))?;
    }
    let loaded = config::read("gateway.toml", folder.path(), &text);
    let problems: Vec<String> = loaded.problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems, Vec::<String>::new(), "with everything switched on");

    let mut documented = BTreeSet::new();
    keys(&text.parse()?, "", &mut documented);
    // Keys of the shared point list, a file of its own.
    let own_file = |key: &String| key == "point" || key.starts_with("point.");
    let asked: BTreeSet<String> = loaded.keys.iter().filter(|key| !own_file(key)).cloned().collect();
    let missing: Vec<&String> = asked.difference(&documented).collect();
    assert_eq!(missing, Vec::<&String>::new(), "read by the code and not in gateway.toml");
    // The keys of an `enum` are the user's own.
    documented.retain(|key| !key.contains(".enum."));
    let unknown: Vec<&String> = documented.difference(&asked).collect();
    assert_eq!(unknown, Vec::<&String>::new(), "in gateway.toml and not read by the code");
    Ok(())
}
