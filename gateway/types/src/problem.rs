//! A complaint that says where, what, and what would be right.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A place in a text file, both counted from 1; the column counts characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Span {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

/// One thing wrong in a configuration: shown as `file:LINE:COL: key: message`, without line and column where it is in no file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// The file as the user named it.
    pub file: String,
    /// Where in the file; `None` for a variable of the environment.
    #[serde(flatten)]
    pub span: Option<Span>,
    /// Dotted key, such as `upstream.url`.
    pub key: String,
    /// What is wrong and what is allowed.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, span, key, message } = self;
        match span {
            Some(span) => write!(f, "{file}:{}:{}: ", span.line, span.column)?,
            None => write!(f, "{file}: ")?,
        }
        if !key.is_empty() {
            write!(f, "{key}: ")?;
        }
        f.write_str(message)
    }
}
