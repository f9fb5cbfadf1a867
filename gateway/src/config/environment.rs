//! Variables of the environment in the place of keys: `FIELDGATE_UPSTREAM__URL` for `[upstream] url`.
//!
//! The environment goes before the file, the file before the default. A value is written as in the file, a string without
//! its quotes too: `FIELDGATE_BROKER__LISTEN='["0.0.0.0:8883"]'`, `FIELDGATE_BUFFER__MAX_SIZE=64MiB`. What stands in `[[tables]]`
//! has no variable. A name with `__` that stands for nothing is a mistake, and so is a key's with `_` in its place; others are not
//! ours: container platforms set `FIELDGATE_SERVICE_HOST` and the like for a service of this name.

use fieldgate_types::{Override, Problem, nearest};

use super::reference::{Entry, entries};

const PREFIX: &str = "FIELDGATE_";
/// Not of the configuration.
const OTHERS: [&str; 1] = ["FIELDGATE_LOG"];

/// Those of this process. What isn't UTF-8 is no key, and no value either.
pub fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| name.into_string().ok().zip(value.into_string().ok()))
}

/// The values among `variables`, and what is wrong with the others of them.
pub fn overrides(variables: impl IntoIterator<Item = (String, String)>) -> (Vec<Override>, Vec<Problem>) {
    let (mut overrides, mut problems) = (Vec::new(), Vec::new());
    let mut known: Vec<(String, &Entry)> = Vec::new();
    for entry in entries() {
        known.extend(entry.variable().map(|variable| (variable, entry)));
    }
    let ours = |(name, _): &(String, String)| name.starts_with(PREFIX) && !OTHERS.contains(&name.as_str());
    for (variable, text) in variables.into_iter().filter(ours) {
        let name = format!("environment {variable}");
        match known.iter().find(|(known, _)| *known == variable) {
            Some((_, entry)) => {
                let path = entry.key.split('.').map(str::to_owned).collect();
                overrides.push(Override { path, name, variable, text });
            }
            None => problems.extend(unknown(&variable, name, &known)),
        }
    }
    overrides.sort_by(|one, other| one.variable.cmp(&other.variable));
    (overrides, problems)
}

/// What is wrong with a name that stands for no key, if it is meant to.
fn unknown(variable: &str, file: String, known: &[(String, &Entry)]) -> Option<Problem> {
    let key = variable.strip_prefix(PREFIX).unwrap_or(variable).to_ascii_lowercase().replace("__", ".");
    // With one `_` for two, too.
    let flat = |name: &str| name.replace("__", "_");
    let same = known.iter().find(|(name, _)| flat(name) == flat(&variable.to_ascii_uppercase()));
    if same.is_none() && !variable.contains("__") {
        return None;
    }
    let near =
        same.map(|(name, _)| name.as_str()).or_else(|| nearest(variable, known.iter().map(|(name, _)| name.as_str())));
    let repeated = entries().iter().any(|entry| entry.repeated && entry.key == key);
    let message = match near {
        _ if repeated => "stands in a [[table]], of which there may be several: set it in the file".to_owned(),
        Some(near) => format!("is no key of the configuration, did you mean {near}?"),
        None => "is no key of the configuration; `fieldgate config show` names the variable of each".to_owned(),
    };
    Some(Problem { file, span: None, key: String::new(), message })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::load::read_with;

    fn problems(variables: &[(&str, &str)], text: &str) -> Vec<String> {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let loaded = read_with("gateway.toml", Path::new("/srv"), text, variables, false);
        loaded.problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_environment_goes_before_the_file() {
        let variables = [
            ("FIELDGATE_UPSTREAM__URL", "mqtt://b"),
            ("FIELDGATE_UPSTREAM__PROTOCOL", "4"),
            ("FIELDGATE_UPSTREAM__ROOT", "2026"),
            ("FIELDGATE_BROKER__LISTEN", "[\"127.0.0.1:1\"]"),
            ("FIELDGATE_BUFFER__MAX_SIZE", "64MiB"),
            ("FIELDGATE_LOG", "debug"),
            ("PATH", "/bin"),
        ];
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let text = "[upstream]\nurl = \"mqtt://a\"\nwindow = 7\n";
        let loaded = read_with("gateway.toml", Path::new("/srv"), text, variables, false);
        assert_eq!(loaded.problems, []);
        let config = loaded.config.unwrap();
        let upstream = config.upstream.unwrap();
        assert_eq!((upstream.host.as_str(), upstream.window, upstream.root.as_str()), ("b", 7, "2026"));
        assert_eq!((config.broker.listen.len(), config.buffer.max_size.bytes()), (1, 64 << 20));
        let setting = |key: &str| config.settings.iter().find(|setting| setting.key == key).unwrap();
        assert_eq!(setting("upstream.url").value.as_deref(), Some("\"mqtt://b\""));
        assert_eq!(setting("upstream.url").origin.place().0, "environment FIELDGATE_UPSTREAM__URL");
        assert_eq!(setting("upstream.window").origin.place().0, "gateway.toml");
        assert_eq!(setting("commands.timeout").value.as_deref(), Some("\"30s\""));
    }

    #[test]
    fn what_is_wrong_says_which_variable() {
        let one = |name, value| problems(&[(name, value)], "");
        assert_eq!(
            one("FIELDGATE_COMMANDS__TIMEOUT", "5"),
            [
                "environment FIELDGATE_COMMANDS__TIMEOUT: commands.timeout: `5` is not a duration: write a whole number and a unit, one of ms s m h d, such as \"500ms\""
            ]
        );
        assert_eq!(
            one("FIELDGATE_UPSTREAM__ROOT", "plant"),
            ["environment FIELDGATE_UPSTREAM__ROOT: upstream.url: is missing, it has no default"]
        );
        assert_eq!(
            one("FIELDGATE_UPSTREAM_URL", "mqtt://a"),
            [
                "environment FIELDGATE_UPSTREAM_URL: is no key of the configuration, did you mean FIELDGATE_UPSTREAM__URL?"
            ]
        );
        assert_eq!(
            one("FIELDGATE_BROKER__LIMITS__PAKET", "1KiB"),
            [
                "environment FIELDGATE_BROKER__LIMITS__PAKET: is no key of the configuration, did you mean FIELDGATE_BROKER__LIMITS__PACKET?"
            ]
        );
        assert_eq!(
            one("FIELDGATE_MODBUS__URL", "tcp://h"),
            [
                "environment FIELDGATE_MODBUS__URL: stands in a [[table]], of which there may be several: set it in the file"
            ]
        );
        assert_eq!(
            one("FIELDGATE_NONSENSE__X", "1"),
            [
                "environment FIELDGATE_NONSENSE__X: is no key of the configuration; `fieldgate config show` names the variable of each"
            ]
        );
        assert_eq!(one("FIELDGATE_SERVICE_HOST", "10.0.0.1"), Vec::<String>::new(), "of somebody else");
        assert_eq!(
            problems(&[("FIELDGATE_BUFFER__MAX_SIZE", "1GiB")], "buffer = 5\n").len(),
            1,
            "the table is not one"
        );
    }
}
