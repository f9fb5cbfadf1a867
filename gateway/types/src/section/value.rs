//! Values of a configuration file with the bytes that they stand in, and the types that they can be read as.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::File;
use crate::{DeviceId, Percent, Size, duration};

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub key: Range<usize>,
    pub value: Located,
    /// What it stands in, where that is not the file around it.
    pub file: Option<Rc<File>>,
}

pub(super) type Table = BTreeMap<String, Entry>;

/// A value and the bytes of the file that it stands in.
#[derive(Debug, Clone)]
pub struct Located {
    pub(super) span: Range<usize>,
    pub(super) node: Node,
    /// As it was given, where quotes are optional: a variable of the environment.
    pub(super) bare: Option<String>,
}

#[derive(Debug, Clone)]
pub(super) enum Node {
    Text(String),
    Integer(Option<i64>),
    Float(Option<f64>),
    Bool(bool),
    Datetime,
    Array(Vec<Located>),
    Table(Rc<Table>),
}

/// Takes the parser's tree apart as it goes: of a large file the two never stand in memory whole.
pub(super) fn table_of(table: DeTable<'_>) -> Table {
    let entry = |(key, value): (Spanned<Cow<'_, str>>, Spanned<DeValue<'_>>)| {
        let span = key.span();
        (key.into_inner().into_owned(), Entry { key: span, value: located(value), file: None })
    };
    table.into_iter().map(entry).collect()
}

pub(super) fn located(value: Spanned<DeValue<'_>>) -> Located {
    let span = value.span();
    let node = match value.into_inner() {
        DeValue::String(text) => Node::Text(text.into_owned()),
        DeValue::Integer(integer) => Node::Integer(i64::from_str_radix(integer.as_str(), integer.radix()).ok()),
        DeValue::Float(float) => Node::Float(float.as_str().parse().ok()),
        DeValue::Boolean(bool) => Node::Bool(bool),
        DeValue::Datetime(_) => Node::Datetime,
        DeValue::Array(items) => Node::Array(items.into_iter().map(located).collect()),
        DeValue::Table(table) => Node::Table(Rc::new(table_of(table))),
    };
    Located { span, node, bare: None }
}

impl Located {
    pub(super) fn kind(&self) -> &'static str {
        match self.node {
            Node::Text(_) => "a string",
            Node::Integer(_) => "a whole number",
            Node::Float(_) => "a number with a fraction",
            Node::Bool(_) => "true or false",
            Node::Datetime => "a date",
            Node::Array(_) => "an array",
            Node::Table(_) => "a table",
        }
    }

    /// A complaint about this value.
    pub fn wrong(&self, message: impl Display) -> Wrong {
        Wrong { at: self.span.start, message: message.to_string() }
    }

    fn expected(&self, wanted: &str) -> Wrong {
        self.wrong(format_args!("{wanted} is expected here, not {}", self.kind()))
    }

    /// The string that stands here.
    pub fn text(&self, wanted: &str) -> Result<&str, Wrong> {
        match (&self.node, &self.bare) {
            (Node::Text(text), _) | (_, Some(text)) => Ok(text),
            _ => Err(self.expected(wanted)),
        }
    }

    /// As TOML: the text of `file` that it stands in.
    pub(super) fn shown(&self, file: &str) -> String {
        match (&self.bare, &self.node) {
            (Some(_), Node::Text(text)) => quoted(text),
            (Some(bare), _) => bare.clone(),
            (None, _) => file.get(self.span.clone()).unwrap_or_default().to_owned(),
        }
    }

    /// The string that stands here, turned into a `T` by `parse`.
    pub fn parse<T, E: Display>(&self, wanted: &str, parse: impl FnOnce(&str) -> Result<T, E>) -> Result<T, Wrong> {
        parse(self.text(wanted)?).map_err(|error| self.wrong(error))
    }
}

/// What is wrong with a value, and at which byte of the file.
#[derive(Debug, Clone)]
pub struct Wrong {
    pub(super) at: usize,
    pub(super) message: String,
}

/// A type that a configuration value can be read as.
pub trait FromToml: Sized {
    /// Reads the value or says what is wrong with it and what is allowed.
    fn from_toml(value: &Located) -> Result<Self, Wrong>;

    /// As TOML, for a default; `None` where there is no word for it.
    fn shown(&self) -> Option<String> {
        None
    }
}

/// As a TOML string. A basic string escapes what a debug string does in the texts that stand here.
fn quoted(text: impl Display) -> String {
    format!("{:?}", text.to_string())
}

impl FromToml for String {
    fn from_toml(value: &Located) -> Result<Self, Wrong> {
        value.text("a string").map(str::to_owned)
    }

    fn shown(&self) -> Option<String> {
        Some(quoted(self))
    }
}

impl FromToml for bool {
    fn from_toml(value: &Located) -> Result<Self, Wrong> {
        match value.node {
            Node::Bool(bool) => Ok(bool),
            _ => Err(value.expected("true or false")),
        }
    }

    fn shown(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl FromToml for f64 {
    fn from_toml(value: &Located) -> Result<Self, Wrong> {
        match value.node {
            Node::Float(Some(float)) if float.is_finite() => Ok(float),
            // Configured scales and limits are far below 2^53.
            #[allow(clippy::cast_precision_loss)]
            Node::Integer(Some(integer)) => Ok(integer as f64),
            Node::Float(_) | Node::Integer(None) => Err(value.wrong("is out of range, a finite number is allowed")),
            _ => Err(value.expected("a number")),
        }
    }

    fn shown(&self) -> Option<String> {
        Some(format!("{self:?}"))
    }
}

fn integer<T: TryFrom<i64>>(value: &Located, allowed: &str) -> Result<T, Wrong> {
    match value.node {
        Node::Integer(found) => {
            let found = found.ok_or_else(|| value.wrong(format_args!("is out of range, {allowed} is allowed")))?;
            T::try_from(found).map_err(|_| value.wrong(format_args!("`{found}` is out of range, {allowed} is allowed")))
        }
        _ => Err(value.expected("a whole number")),
    }
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl FromToml for $type {
            fn from_toml(value: &Located) -> Result<Self, Wrong> {
                integer(value, &format!("{} to {}", <$type>::MIN, <$type>::MAX))
            }

            fn shown(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    )*};
}
integers!(u8, u16, u32, u64, usize, i64);

impl FromToml for Duration {
    fn from_toml(value: &Located) -> Result<Self, Wrong> {
        value.parse("a duration such as \"500ms\"", duration::parse)
    }

    fn shown(&self) -> Option<String> {
        Some(quoted(duration::format(*self)))
    }
}

impl FromToml for Size {
    fn from_toml(value: &Located) -> Result<Self, Wrong> {
        value.parse("a size such as \"64MiB\"", str::parse)
    }

    fn shown(&self) -> Option<String> {
        Some(quoted(self))
    }
}

impl FromToml for Percent {
    fn from_toml(value: &Located) -> Result<Self, Wrong> {
        value.parse("a share such as \"50%\"", str::parse)
    }

    fn shown(&self) -> Option<String> {
        Some(quoted(self))
    }
}

impl FromToml for DeviceId {
    fn from_toml(value: &Located) -> Result<Self, Wrong> {
        value.parse("a device id", DeviceId::new)
    }

    fn shown(&self) -> Option<String> {
        Some(quoted(self))
    }
}

impl FromToml for std::net::SocketAddr {
    fn from_toml(value: &Located) -> Result<Self, Wrong> {
        value.parse("an address and port", |text| {
            text.parse().map_err(|_| {
                format!("`{text}` is not an address and port, such as \"127.0.0.1:9080\" or \"[::]:8883\"")
            })
        })
    }

    fn shown(&self) -> Option<String> {
        Some(quoted(self))
    }
}

impl<T: FromToml> FromToml for Vec<T> {
    fn from_toml(value: &Located) -> Result<Self, Wrong> {
        match &value.node {
            Node::Array(items) => items.iter().map(T::from_toml).collect(),
            _ => Err(value.expected("an array")),
        }
    }

    fn shown(&self) -> Option<String> {
        let items: Option<Vec<String>> = self.iter().map(T::shown).collect();
        items.map(|items| format!("[{}]", items.join(", ")))
    }
}

/// A table whose keys are the user's own.
impl<T: FromToml> FromToml for BTreeMap<String, T> {
    fn from_toml(value: &Located) -> Result<Self, Wrong> {
        match &value.node {
            Node::Table(table) => {
                table.iter().map(|(key, entry)| Ok((key.clone(), T::from_toml(&entry.value)?))).collect()
            }
            _ => Err(value.expected("a table")),
        }
    }
}
