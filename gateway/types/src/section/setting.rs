//! What is in force, key by key, and where it came from.

use serde::Serialize;

use crate::Span;

/// A key, or a `[[table]]` and its number.
pub(super) type Step = (&'static str, Option<usize>);

/// A key with the value that is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Dotted, tables of an array by their number: `broker.limits.packet`, `modbus[0].url`.
    pub key: String,
    /// As TOML; absent where nothing is set and there is no default. The password of a URL is not shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Where it comes from.
    #[serde(flatten)]
    pub origin: Origin,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "from", rename_all = "lowercase")]
pub enum Origin {
    /// Nobody has set it.
    Default,
    /// A file.
    File {
        /// As the user named it.
        file: String,
        /// Where in it the value stands.
        #[serde(flatten)]
        span: Span,
    },
    /// A variable of the environment.
    Environment {
        /// Its name.
        name: String,
    },
}

impl Origin {
    /// As a [`crate::Problem`] says it; no file for a default.
    pub fn place(&self) -> (String, Option<Span>) {
        match self {
            Self::Default => (String::new(), None),
            Self::File { file, span } => (file.clone(), Some(*span)),
            Self::Environment { name } => (format!("environment {name}"), None),
        }
    }
}

pub(super) fn path_text(path: &[Step]) -> String {
    let mut text = String::new();
    for (key, number) in path {
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(key);
        if let Some(number) = number {
            text.push('[');
            text.push_str(&number.to_string());
            text.push(']');
        }
    }
    text
}

/// Without the password of a URL.
pub(super) fn masked(value: &str) -> String {
    let Some((scheme, rest)) = value.split_once("://") else { return value.to_owned() };
    let authority = rest.find(['/', '?', '#', '"', '\'']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(authority);
    let hidden = authority.rsplit_once('@').and_then(|(who, host)| {
        let (user, _) = who.split_once(':')?;
        Some(format!("{scheme}://{user}:…@{host}{path}"))
    });
    hidden.unwrap_or_else(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_of_a_url_is_not_shown() {
        assert_eq!(masked("\"opc.tcp://op:geheim@192.0.2.20:4840/x\""), "\"opc.tcp://op:…@192.0.2.20:4840/x\"");
        assert_eq!(masked("\"mqtt://a:p@ss@h\""), "\"mqtt://a:…@h\"");
        for same in ["\"mqtt://h:1883\"", "\"a@b:c\"", "\"opc.tcp://op@h/x:y@z\"", "7"] {
            assert_eq!(masked(same), same);
        }
    }
}
