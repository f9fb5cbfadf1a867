//! The list of normative statements (`fixtures/mqtt`) held against the names of the tests.
//!
//! A name begins with the version and the statement's four numbers, and may name several:
//! `v311_3_12_4_1_and_v5_3_12_4_1_a_ping_is_answered`, `v5_3_3_2_8_and_3_3_2_9_…`. What follows the last number is
//! for people, and does not begin with a digit.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

/// One of the two standards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standard {
    V311,
    V5,
}

/// A statement's number: `[MQTT-3.3.2-8]` is 3, 3, 2, 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    pub standard: Standard,
    pub numbers: [u16; 4],
}

impl fmt::Display for Standard {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::V311 => "MQTT 3.1.1",
            Self::V5 => "MQTT 5",
        })
    }
}

impl fmt::Display for Id {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, n] = self.numbers;
        write!(out, "{} [MQTT-{a}.{b}.{c}-{n}]", self.standard)
    }
}

/// One entry of the list.
#[derive(Debug, Clone)]
pub struct Statement {
    pub binds_server: bool,
    pub asks: String,
    /// Why no test names it.
    pub reason: Option<String>,
}

/// The whole list and who names what.
#[derive(Debug, Default)]
pub struct Statements {
    pub list: BTreeMap<Id, Statement>,
    pub tests: BTreeMap<Id, Vec<String>>,
    /// What is wrong with the list or the names.
    pub mistakes: Vec<String>,
}

impl Statements {
    /// Reads the list and the sources of the broker.
    pub fn read() -> Self {
        let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut statements = Self::default();
        for (standard, file) in [(Standard::V311, "statements-3.1.1.toml"), (Standard::V5, "statements-5.toml")] {
            let path = crate_folder.join("../../fixtures/mqtt").join(file);
            let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            statements.add_list(standard, &text);
        }
        let mut names = BTreeSet::new();
        for folder in ["src", "tests"] {
            collect_tests(&crate_folder.join(folder), &mut names);
        }
        for name in names {
            statements.add_test(&name);
        }
        statements
    }

    fn add_list(&mut self, standard: Standard, text: &str) {
        let table: toml::Table = text.parse().expect("the list is TOML");
        for (number, entry) in table {
            let field = |name: &str| entry.get(name).and_then(toml::Value::as_str).map(str::to_owned);
            let (Some(numbers), Some(asks), Some(binds)) = (numbers(&number), field("asks"), field("binds")) else {
                self.mistakes.push(format!("{number}: not a statement: it needs binds and asks"));
                continue;
            };
            if !["server", "client", "both"].contains(&binds.as_str()) {
                self.mistakes.push(format!("{number}: binds `{binds}`: server, client or both"));
            }
            let statement = Statement { binds_server: binds != "client", asks, reason: field("reason") };
            self.list.insert(Id { standard, numbers }, statement);
        }
    }

    fn add_test(&mut self, name: &str) {
        for id in named(name) {
            let Some(statement) = self.list.get(&id) else {
                self.mistakes.push(format!("{name}: there is no {id}"));
                continue;
            };
            if statement.reason.is_some() {
                self.mistakes.push(format!("{name} tests {id}: the list gives a reason why nothing does"));
            }
            self.tests.entry(id).or_default().push(name.to_owned());
        }
    }

    /// Statements that bind a server and have neither a test nor a reason.
    pub fn missing(&self) -> Vec<String> {
        let bare = self.list.iter().filter(|(id, statement)| {
            statement.binds_server && statement.reason.is_none() && !self.tests.contains_key(id)
        });
        bare.map(|(id, statement)| format!("{id} {}", statement.asks)).collect()
    }
}

/// `3.3.2-8` and, as MQTT 5 prints it once, `4.2-1`.
fn numbers(text: &str) -> Option<[u16; 4]> {
    let (section, number) = text.split_once('-')?;
    let section: Result<Vec<u16>, _> = section.split('.').map(str::parse).collect();
    let number = number.parse().ok()?;
    match section.ok()?[..] {
        [a, b, c] => Some([a, b, c, number]),
        [a, b] => Some([a, b, 0, number]),
        _ => None,
    }
}

/// The statements that the name of a test begins with.
pub fn named(name: &str) -> Vec<Id> {
    let mut found = Vec::new();
    let mut standard = None;
    let mut numbers = Vec::new();
    for word in name.split('_') {
        match (word, word.parse::<u16>()) {
            ("v311", _) => standard = Some(Standard::V311),
            ("v5", _) => standard = Some(Standard::V5),
            ("and", _) => {}
            (_, Ok(number)) => numbers.push(number),
            _ => break,
        }
        let Some(standard) = standard else { break };
        if let [a, b, c, n] = numbers[..] {
            found.push(Id { standard, numbers: [a, b, c, n] });
            numbers.clear();
        }
    }
    found
}

/// Names of functions that an attribute marks as tests.
fn collect_tests(folder: &Path, names: &mut BTreeSet<String>) {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect_tests(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source file");
            let mut is_test = false;
            for line in text.lines().map(str::trim) {
                if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                    is_test = true;
                } else if let Some(rest) =
                    line.strip_prefix("async fn ").or_else(|| line.strip_prefix("fn ")).filter(|_| is_test)
                {
                    names.insert(rest.split(['(', '<']).next().unwrap_or_default().to_owned());
                    is_test = false;
                }
            }
        }
    }
}
