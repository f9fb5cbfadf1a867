//! One table of a configuration file, read key by key.
//!
//! Each component owns its section: it asks for its keys by name and type, and gets values or defaults. What
//! is wrong is noted in the shared [`Sources`] with file, line and column, and reading goes on, so that all
//! problems are reported at once. A section that is dropped complains about the keys that nobody asked for.
//!
//! This module reads text that it is given; other files (`points_from`) come through the caller's [`Loader`].

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use toml::de::DeTable;

use self::value::{Entry, Node, Table, table_of};
pub use self::value::{FromToml, Located, Wrong};
use crate::{Problem, Span, duration};

#[cfg(test)]
mod tests;
mod value;

/// Reads the text of another file that the configuration names, by its resolved path.
pub type Loader = dyn Fn(&Path) -> std::io::Result<String>;

/// The files being read and what has been found in them.
pub struct Sources {
    load: Box<Loader>,
    problems: RefCell<Vec<Problem>>,
    asked: RefCell<BTreeSet<String>>,
    named: RefCell<BTreeSet<PathBuf>>,
}

impl Sources {
    /// Nothing read yet.
    pub fn new(load: Box<Loader>) -> Rc<Self> {
        Rc::new(Self { load, problems: RefCell::default(), asked: RefCell::default(), named: RefCell::default() })
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

    /// Every path that stood there, resolved: files and folders that the configuration relies on.
    pub fn named(&self) -> BTreeSet<PathBuf> {
        self.named.borrow().clone()
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

    /// A whole number within `allowed`, or `default`.
    pub fn number<T>(&self, key: &'static str, allowed: RangeInclusive<T>, default: T) -> T
    where
        T: TryFrom<i64> + PartialOrd + Display,
    {
        // Read at full width, so that the complaint names this key's range and not the type's.
        let Some(value) = self.get::<i64>(key) else { return default };
        if let Some(number) = T::try_from(value).ok().filter(|number| allowed.contains(number)) {
            return number;
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
        let path = self.file.folder.join(text);
        self.sources.named.borrow_mut().insert(path.clone());
        Some(path)
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
        let (path, text) = self.file(key)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        Some(self.sources.root(&path.display().to_string(), folder, &text))
    }

    /// Path and text of the file that `key` names, which must be there.
    pub fn required_file(&self, key: &'static str) -> Option<(PathBuf, String)> {
        if self.entry(key).is_none() {
            self.note(self.start, key, "is missing, it has no default");
        }
        self.file(key)
    }

    fn file(&self, key: &'static str) -> Option<(PathBuf, String)> {
        let path = self.path(key)?;
        let read = (self.sources.load)(&path);
        let complain =
            |error: &std::io::Error| self.problem(key, format_args!("can't read `{}`: {error}", path.display()));
        let text = read.inspect_err(complain).ok()?;
        Some((path, text))
    }

    /// Where this section stands: the file as the user named it, and the place in it.
    pub fn place(&self) -> (&str, Span) {
        (&self.file.name, self.file.span(self.start))
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
