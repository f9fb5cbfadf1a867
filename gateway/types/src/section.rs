//! One table of a configuration file, read key by key.
//!
//! Each component owns its section: it asks for its keys by name and type, and gets values or defaults. What
//! is wrong is noted in the shared [`Sources`] with file, line and column, and reading goes on, so that all
//! problems are reported at once. A section that is dropped complains about the keys that nobody asked for.
//!
//! This module reads text that it is given; other files (`points_from`) come through the caller's [`Loader`].

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::{DeviceId, Problem, Size, Span, duration};

/// Reads the text of another file that the configuration names, by its resolved path.
pub type Loader = dyn Fn(&Path) -> std::io::Result<String>;

/// The files being read and what has been found in them.
pub struct Sources {
    load: Box<Loader>,
    problems: RefCell<Vec<Problem>>,
    asked: RefCell<BTreeSet<String>>,
}

impl Sources {
    /// Nothing read yet.
    pub fn new(load: Box<Loader>) -> Rc<Self> {
        Rc::new(Self { load, problems: RefCell::default(), asked: RefCell::default() })
    }

    /// The root section of `text`. `name` is how problems show the file; relative paths count from `folder`.
    ///
    /// Syntax errors are noted as problems; what could be parsed is still returned.
    pub fn root(self: &Rc<Self>, name: &str, folder: &Path, text: &str) -> Section {
        let file = Rc::new(File { name: name.to_owned(), folder: folder.to_owned(), text: text.to_owned() });
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut reported = None;
        for error in errors {
            let at = error.span().map_or(0, |span| span.start);
            // What follows on the same line is a consequence of the first.
            if reported.replace(file.span(at).line) == Some(file.span(at).line) {
                continue;
            }
            let message = error.message().trim().replace('\n', ", ");
            self.note(&file, at, String::new(), message);
        }
        Section {
            sources: Rc::clone(self),
            file,
            path: String::new(),
            start: 0,
            table: table_of(table.get_ref()),
            seen: RefCell::default(),
        }
    }

    /// Everything found wrong so far, in the order of the file.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = self.problems.borrow().clone();
        problems.sort();
        problems.dedup();
        problems
    }

    /// Every dotted key that was asked for, whether or not it stood there: the keys that exist.
    pub fn asked(&self) -> BTreeSet<String> {
        self.asked.borrow().clone()
    }

    fn note(&self, file: &File, at: usize, key: String, message: impl Display) {
        let problem = Problem { file: file.name.clone(), span: file.span(at), key, message: message.to_string() };
        self.problems.borrow_mut().push(problem);
    }
}

struct File {
    name: String,
    folder: PathBuf,
    text: String,
}

impl File {
    fn span(&self, at: usize) -> Span {
        let before = self.text.get(..at).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.matches('\n').count() + 1;
        let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
        Span { line, column }
    }
}

#[derive(Debug, Clone)]
struct Entry {
    key: Range<usize>,
    value: Located,
}

type Table = BTreeMap<String, Entry>;

/// A value and the bytes of the file that it stands in.
#[derive(Debug, Clone)]
pub struct Located {
    span: Range<usize>,
    node: Node,
}

#[derive(Debug, Clone)]
enum Node {
    Text(String),
    Integer(Option<i64>),
    Float(Option<f64>),
    Bool(bool),
    Datetime,
    Array(Vec<Located>),
    Table(Table),
}

fn table_of(table: &DeTable<'_>) -> Table {
    let entry = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
        let name: &std::borrow::Cow<'_, str> = key.get_ref();
        (name.clone().into_owned(), Entry { key: key.span(), value: located(value) })
    };
    table.iter().map(entry).collect()
}

fn located(value: &Spanned<DeValue<'_>>) -> Located {
    let node = match value.get_ref() {
        DeValue::String(text) => Node::Text(text.clone().into_owned()),
        DeValue::Integer(integer) => Node::Integer(i64::from_str_radix(integer.as_str(), integer.radix()).ok()),
        DeValue::Float(float) => Node::Float(float.as_str().parse().ok()),
        DeValue::Boolean(bool) => Node::Bool(*bool),
        DeValue::Datetime(_) => Node::Datetime,
        DeValue::Array(items) => Node::Array(items.iter().map(located).collect()),
        DeValue::Table(table) => Node::Table(table_of(table)),
    };
    Located { span: value.span(), node }
}

impl Located {
    fn kind(&self) -> &'static str {
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
        match &self.node {
            Node::Text(text) => Ok(text),
            _ => Err(self.expected(wanted)),
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
    at: usize,
    message: String,
}

/// A type that a configuration value can be read as.
pub trait FromToml: Sized {
    /// Reads the value or says what is wrong with it and what is allowed.
    fn from_toml(value: &Located) -> Result<Self, Wrong>;
}

impl FromToml for String {
    fn from_toml(value: &Located) -> Result<Self, Wrong> {
        value.text("a string").map(str::to_owned)
    }
}

impl FromToml for bool {
    fn from_toml(value: &Located) -> Result<Self, Wrong> {
        match value.node {
            Node::Bool(bool) => Ok(bool),
            _ => Err(value.expected("true or false")),
        }
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
        }
    )*};
}
integers!(u8, u16, u32, u64, usize, i64);

impl FromToml for Duration {
    fn from_toml(value: &Located) -> Result<Self, Wrong> {
        value.parse("a duration such as \"500ms\"", duration::parse)
    }
}

impl FromToml for Size {
    fn from_toml(value: &Located) -> Result<Self, Wrong> {
        value.parse("a size such as \"64MiB\"", str::parse)
    }
}

impl FromToml for DeviceId {
    fn from_toml(value: &Located) -> Result<Self, Wrong> {
        value.parse("a device id", DeviceId::new)
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
}

impl<T: FromToml> FromToml for Vec<T> {
    fn from_toml(value: &Located) -> Result<Self, Wrong> {
        match &value.node {
            Node::Array(items) => items.iter().map(T::from_toml).collect(),
            _ => Err(value.expected("an array")),
        }
    }
}

/// One table of the configuration. Reading a key marks it as known; unknown ones are noted on drop.
pub struct Section {
    sources: Rc<Sources>,
    file: Rc<File>,
    path: String,
    start: usize,
    table: Table,
    seen: RefCell<BTreeSet<&'static str>>,
}

impl Section {
    fn key_path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn entry(&self, key: &'static str) -> Option<&Entry> {
        self.seen.borrow_mut().insert(key);
        self.sources.asked.borrow_mut().insert(self.key_path(key));
        self.table.get(key)
    }

    fn note(&self, at: usize, key: &str, message: impl Display) {
        self.sources.note(&self.file, at, self.key_path(key), message);
    }

    /// Whether the key stands here, whatever its value.
    pub fn has(&self, key: &'static str) -> bool {
        self.entry(key).is_some()
    }

    /// The value, or `None` when the key is absent or wrong; the latter is noted.
    pub fn get<T: FromToml>(&self, key: &'static str) -> Option<T> {
        self.get_with(key, T::from_toml)
    }

    /// As [`Section::get`], read by `read`.
    pub fn get_with<T>(&self, key: &'static str, read: impl FnOnce(&Located) -> Result<T, Wrong>) -> Option<T> {
        let entry = self.entry(key)?;
        read(&entry.value).map_err(|wrong| self.note(wrong.at, key, wrong.message)).ok()
    }

    /// The value, or `default` when the key is absent or wrong.
    pub fn get_or<T: FromToml>(&self, key: &'static str, default: T) -> T {
        self.get(key).unwrap_or(default)
    }

    /// The value, which must be there: its absence is noted at the section's header.
    pub fn required<T: FromToml>(&self, key: &'static str) -> Option<T> {
        self.required_with(key, T::from_toml)
    }

    /// As [`Section::required`], read by `read`.
    pub fn required_with<T>(&self, key: &'static str, read: impl FnOnce(&Located) -> Result<T, Wrong>) -> Option<T> {
        if self.entry(key).is_none() {
            self.note(self.start, key, "is missing, it has no default");
            return None;
        }
        self.get_with(key, read)
    }

    /// A number within `allowed`, or `default`.
    pub fn number<T>(&self, key: &'static str, allowed: RangeInclusive<T>, default: T) -> T
    where
        T: FromToml + PartialOrd + Display,
    {
        let Some(value) = self.get::<T>(key) else { return default };
        if allowed.contains(&value) {
            return value;
        }
        self.problem(
            key,
            format_args!("`{value}` is out of range, {} to {} is allowed", allowed.start(), allowed.end()),
        );
        default
    }

    /// A duration within `allowed`, or `default`.
    pub fn duration(&self, key: &'static str, allowed: RangeInclusive<Duration>, default: Duration) -> Duration {
        let Some(value) = self.get::<Duration>(key) else { return default };
        if allowed.contains(&value) {
            return value;
        }
        let (low, high) = (duration::format(*allowed.start()), duration::format(*allowed.end()));
        let value = duration::format(value);
        self.problem(key, format_args!("`{value}` is out of range, \"{low}\" to \"{high}\" is allowed"));
        default
    }

    /// One of `words`, or `default`.
    pub fn choice<T: Copy>(&self, key: &'static str, words: &[(&str, T)], default: T) -> T {
        self.optional_choice(key, words).unwrap_or(default)
    }

    /// One of `words`, when the key stands there.
    pub fn optional_choice<T: Copy>(&self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        let text: String = self.get(key)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let allowed: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let near = nearest(&text, words.iter().map(|(word, _)| *word));
        let hint = near.map(|word| format!(", did you mean \"{word}\"?")).unwrap_or_default();
        self.problem(key, format_args!("`{text}` is unknown, {} is allowed{hint}", or_list(&allowed)));
        None
    }

    /// A path; relative ones count from the file's folder.
    pub fn path(&self, key: &'static str) -> Option<PathBuf> {
        let text: String = self.get(key)?;
        if text.is_empty() {
            self.problem(key, "is empty, a path is expected");
            return None;
        }
        Some(self.file.folder.join(text))
    }

    /// A path, or `default` below the file's folder.
    pub fn path_or(&self, key: &'static str, default: &str) -> PathBuf {
        self.path(key).unwrap_or_else(|| self.file.folder.join(default))
    }

    /// The sub-table `key`, when it is there.
    pub fn section(&self, key: &'static str) -> Option<Self> {
        let entry = self.entry(key)?;
        if let Node::Table(table) = &entry.value.node {
            return Some(self.below(key, entry.key.start, table));
        }
        self.note(entry.value.span.start, key, format_args!("a table is expected here, not {}", entry.value.kind()));
        None
    }

    /// The sub-table `key`; an empty one when it is absent, so that its keys get their defaults.
    pub fn section_or_empty(&self, key: &'static str) -> Self {
        self.section(key).unwrap_or_else(|| self.below(key, self.start, &Table::new()))
    }

    /// The tables of `[[key]]`.
    pub fn sections(&self, key: &'static str) -> Vec<Self> {
        let Some(entry) = self.entry(key) else { return Vec::new() };
        let wrong = |value: &Located| {
            self.note(value.span.start, key, format_args!("write [[{}]] for each", self.key_path(key)));
        };
        let Node::Array(items) = &entry.value.node else {
            wrong(&entry.value);
            return Vec::new();
        };
        let mut sections = Vec::new();
        for item in items {
            match &item.node {
                Node::Table(table) => sections.push(self.below(key, item.span.start, table)),
                _ => wrong(item),
            }
        }
        sections
    }

    /// The root section of the file that `key` names, when it is there and can be read.
    pub fn include(&self, key: &'static str) -> Option<Self> {
        let path = self.path(key)?;
        match (self.sources.load)(&path) {
            Ok(text) => {
                let folder = path.parent().unwrap_or(Path::new("."));
                Some(self.sources.root(&path.display().to_string(), folder, &text))
            }
            Err(error) => {
                self.problem(key, format_args!("can't read `{}`: {error}", path.display()));
                None
            }
        }
    }

    /// Notes a problem at the value of `key`, or at the section's header where it is absent.
    pub fn problem(&self, key: &'static str, message: impl Display) {
        let at = self.entry(key).map_or(self.start, |entry| entry.value.span.start);
        self.note(at, key, message);
    }

    fn below(&self, key: &str, start: usize, table: &Table) -> Self {
        Self {
            sources: Rc::clone(&self.sources),
            file: Rc::clone(&self.file),
            path: self.key_path(key),
            start,
            table: table.clone(),
            seen: RefCell::default(),
        }
    }
}

impl Drop for Section {
    fn drop(&mut self) {
        let seen = self.seen.borrow();
        for (key, entry) in &self.table {
            if seen.contains(key.as_str()) {
                continue;
            }
            let known = || seen.iter().copied();
            let message = if let Some(near) = nearest(key, known()) {
                format!("unknown key, did you mean `{near}`?")
            } else {
                let allowed: Vec<String> = known().map(|key| format!("`{key}`")).collect();
                format!("unknown key, {} is allowed here", or_list(&allowed))
            };
            self.note(entry.key.start, key, message);
        }
    }
}

/// The word that was probably meant: at most two typing mistakes away, fewer for short words.
fn nearest<'a>(text: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = words.map(|word| (strsim::damerau_levenshtein(text, word), word)).min()?;
    (near.0 <= 2.min(text.chars().count() / 2)).then_some(near.1)
}

fn or_list(words: &[String]) -> String {
    match words {
        [] => "nothing".to_owned(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, check: impl FnOnce(&Section)) -> Vec<String> {
        let sources = Sources::new(Box::new(|_| Err(std::io::Error::other("no such file"))));
        check(&sources.root("gateway.toml", Path::new("/etc/fieldgate"), text));
        sources.problems().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn reads_values_and_defaults() {
        let problems = read("a = 1\nb = \"5s\"\n[t]\npath = \"x.pem\"\n[[l]]\nn = 1.5\n[[l]]\nn = 2\n", |root| {
            assert_eq!(root.number("a", 1..=5_u8, 3), 1);
            assert_eq!(root.get_or("b", Duration::ZERO), Duration::from_secs(5));
            assert_eq!(root.get_or("absent", Size(7)), Size(7));
            assert_eq!(root.section("t").and_then(|t| t.path("path")), Some(PathBuf::from("/etc/fieldgate/x.pem")));
            let numbers: Vec<f64> = root.sections("l").iter().filter_map(|l| l.get("n")).collect();
            assert_eq!(numbers, [1.5, 2.0]);
        });
        assert_eq!(problems, [""; 0]);
    }

    #[test]
    fn reports_every_problem_with_its_place() {
        let text = "[up]\nurll = \"x\"\nwindow = 0\nproto = \"five\"\n  keep = 30\nids = [\"a\", \"-b\"]\n[other]\n";
        let problems = read(text, |root| {
            let up = root.section_or_empty("up");
            assert_eq!(up.required::<String>("url"), None);
            up.number("window", 1..=65_535_u32, 100);
            up.choice("proto", &[("four", 4), ("five5", 5)], 5);
            up.get::<Duration>("keep");
            up.get::<Vec<DeviceId>>("ids");
        });
        assert_eq!(
            problems,
            [
                "gateway.toml:1:2: up.url: is missing, it has no default",
                "gateway.toml:2:1: up.urll: unknown key, did you mean `url`?",
                "gateway.toml:3:10: up.window: `0` is out of range, 1 to 65535 is allowed",
                "gateway.toml:4:9: up.proto: `five` is unknown, \"four\" or \"five5\" is allowed, did you mean \"five5\"?",
                "gateway.toml:5:10: up.keep: a duration such as \"500ms\" is expected here, not a whole number",
                "gateway.toml:6:13: up.ids: `-b` is not a device id: 1 to 64 of A-Z a-z 0-9 . _ - are allowed, the first a letter or a digit",
                "gateway.toml:7:2: other: unknown key, `up` is allowed here",
            ]
        );
    }

    #[test]
    fn reports_syntax_errors_and_goes_on() {
        let problems = read("a = = 1\nb = 2\n", |root| {
            assert_eq!(root.get::<u8>("b"), Some(2));
            root.has("a");
        });
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems.iter().all(|p| p.starts_with("gateway.toml:1:5: ")), "{problems:?}");
    }
}
