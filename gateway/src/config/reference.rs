//! What is known of every key: the gateway.toml that is shipped, taken apart. There and nowhere else keys are documented.

use std::sync::LazyLock;

use fieldgate_types::nearest;

const SHIPPED: &str = include_str!("../../../gateway.toml");

/// Before the names of variables that stand for keys.
const VARIABLE: &str = "FIELDGATE_";

/// A key or a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Dotted.
    pub key: String,
    /// What it is.
    pub kind: Kind,
    /// What is said of it, line by line.
    pub words: Vec<String>,
    /// Whether it stands in a `[[table]]`, of which there may be several.
    pub repeated: bool,
}

/// What stands under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// `[table]`
    Table,
    /// `[[table]]`
    Tables,
    /// A value; here its default, or an example where it has none.
    Value(String),
}

/// All of them, in the order of the document.
pub fn entries() -> &'static [Entry] {
    static ENTRIES: LazyLock<Vec<Entry>> = LazyLock::new(|| parse(SHIPPED));
    &ENTRIES
}

/// The entry of a key as people write it: `broker.limits.packet`, `[[modbus.device]]`, `modbus[0].url`. The nearest where there
/// is none.
pub fn find(text: &str) -> Result<&'static Entry, Option<&'static str>> {
    let bare: String = text.trim().trim_matches(['[', ']']).to_ascii_lowercase();
    let mut key = String::new();
    for part in bare.split('.') {
        if !key.is_empty() {
            key.push('.');
        }
        key.push_str(part.split('[').next().unwrap_or_default());
    }
    if let Some(entry) = entries().iter().find(|entry| entry.key == key) {
        return Ok(entry);
    }
    // The last part alone, where one key alone ends so.
    let ending = format!(".{key}");
    let mut ends = entries().iter().filter(|entry| entry.key.ends_with(&ending));
    match (ends.next(), ends.next()) {
        (Some(one), None) => Ok(one),
        (Some(first), Some(_)) => Err(Some(first.key.as_str())),
        (None, _) => {
            let last = |entry: &'static Entry| entry.key.rsplit('.').next().unwrap_or_default();
            let whole = nearest(&key, entries().iter().map(|entry| entry.key.as_str()));
            let by_last = || {
                let near = nearest(key.rsplit('.').next()?, entries().iter().map(last))?;
                entries().iter().find(|entry| last(entry) == near).map(|entry| entry.key.as_str())
            };
            Err(whole.or_else(by_last))
        }
    }
}

impl Entry {
    /// The variable of the environment that stands for it; tables, and what stands in `[[tables]]`, have none.
    pub fn variable(&self) -> Option<String> {
        let value = matches!(self.kind, Kind::Value(_)) && !self.repeated;
        value.then(|| format!("{VARIABLE}{}", self.key.to_ascii_uppercase().replace('.', "__")))
    }

    /// What stands directly in this table.
    pub fn members(&self) -> impl Iterator<Item = &'static Entry> {
        let inside = format!("{}.", self.key);
        entries().iter().filter(move |entry| entry.key.strip_prefix(&inside).is_some_and(|rest| !rest.contains('.')))
    }
}

fn parse(text: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut words: Vec<String> = Vec::new();
    let mut table = String::new();
    let mut many: Vec<String> = Vec::new();
    for line in text.lines() {
        if let Some(said) = line.strip_prefix("# ") {
            if said.starts_with("---") {
                words.clear();
            } else {
                words.push(said.trim().to_owned());
            }
            continue;
        }
        let line = line.strip_prefix('#').unwrap_or(line).trim();
        let said = std::mem::take(&mut words);
        if let Some(header) = line.strip_prefix("[[").and_then(|rest| rest.strip_suffix("]]")) {
            header.clone_into(&mut table);
            if !many.contains(&table) {
                many.push(table.clone());
            }
            put(&mut entries, Entry { key: table.clone(), kind: Kind::Tables, words: said, repeated: true });
        } else if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            header.clone_into(&mut table);
            put(&mut entries, Entry { key: table.clone(), kind: Kind::Table, words: said, repeated: false });
        } else if let Some((key, value)) = line.split_once(" = ") {
            // A short word may stand behind the value.
            let (value, behind) = value.split_once("  # ").unwrap_or((value, ""));
            let mut words = said;
            words.extend((!behind.is_empty()).then(|| behind.trim().to_owned()));
            let repeated = many.iter().any(|many| table == *many || table.starts_with(&format!("{many}.")));
            let key = format!("{table}.{}", key.trim());
            put(&mut entries, Entry { key, kind: Kind::Value(value.trim().to_owned()), words, repeated });
        }
    }
    entries
}

/// What is documented in several places is one entry.
fn put(entries: &mut Vec<Entry>, entry: Entry) {
    match entries.iter_mut().find(|known| known.key == entry.key) {
        Some(known) => known.words.extend(entry.words),
        None => entries.push(entry),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_and_table_is_explained() {
        let silent: Vec<&str> =
            entries().iter().filter(|entry| entry.words.is_empty()).map(|entry| entry.key.as_str()).collect();
        assert_eq!(silent, Vec::<&str>::new(), "say in gateway.toml what they are");
        assert!(entries().len() > 150, "{}", entries().len());
    }

    #[test]
    fn finds_keys_as_people_write_them() {
        let key = |text: &str| find(text).map(|entry| entry.key.as_str());
        assert_eq!(key("broker.limits.packet"), Ok("broker.limits.packet"));
        assert_eq!(key("[[modbus.device]]"), Ok("modbus.device"));
        assert_eq!(key("modbus[0].device[3].unit"), Ok("modbus.device.unit"));
        assert_eq!(key("retained_per_client"), Ok("broker.limits.retained_per_client"));
        assert_eq!(key("upstream.ulr"), Err(Some("upstream.url")));
        assert_eq!(key("broker.paket"), Err(Some("broker.limits.packet")));
        assert_eq!(key("nonsense"), Err(None));
    }

    #[test]
    fn only_what_stands_once_has_a_variable() {
        let variable = |key: &str| find(key).unwrap().variable();
        assert_eq!(variable("upstream.password_file").as_deref(), Some("FIELDGATE_UPSTREAM__PASSWORD_FILE"));
        assert_eq!(variable("broker.limits.packet").as_deref(), Some("FIELDGATE_BROKER__LIMITS__PACKET"));
        for none in ["broker", "modbus.url", "upstream.forward.filter", "certs.external.device.id"] {
            assert_eq!(variable(none), None, "{none}");
        }
    }
}
