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
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use toml::de::DeTable;

pub use self::overlay::Override;
use self::overlay::laid_over;
pub use self::setting::{Origin, Setting};
use self::setting::{Step, masked};
use self::value::{Entry, Node, Table, table_of};
pub use self::value::{FromToml, Located, Wrong};
use crate::{Problem, Span, duration};

mod overlay;
mod setting;
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
    settings: RefCell<BTreeMap<Vec<Step>, Setting>>,
    /// The file that was included last: devices of a kind name the same one, one after the other, and it may be long.
    included: RefCell<Option<(PathBuf, Parsed)>>,
    /// Whether the keys of `[[tables]]` are among the settings.
    in_tables: bool,
}

impl Sources {
    /// Nothing read yet.
    pub fn new(load: Box<Loader>) -> Rc<Self> {
        Rc::new(Self::with(load, false))
    }

    /// As [`Sources::new`], and [`Sources::settings`] tells of the keys of `[[tables]]` too: many, in a large file.
    pub fn in_detail(load: Box<Loader>) -> Rc<Self> {
        Rc::new(Self::with(load, true))
    }

    fn with(load: Box<Loader>, in_tables: bool) -> Self {
        Self {
            load,
            problems: RefCell::default(),
            asked: RefCell::default(),
            named: RefCell::default(),
            settings: RefCell::default(),
            included: RefCell::default(),
            in_tables,
        }
    }

    /// The root section of `text`. `name` is how problems show the file; relative paths count from `folder`.
    ///
    /// Syntax errors are noted as problems; what could be parsed is still returned.
    pub fn root(self: &Rc<Self>, name: &str, folder: &Path, text: &str) -> Section {
        self.root_with(name, folder, text, &[])
    }

    /// As [`Sources::root`], with `overrides` in the place of what stands in the text.
    pub fn root_with(self: &Rc<Self>, name: &str, folder: &Path, text: &str, overrides: &[Override]) -> Section {
        self.root_of(self.parsed(name, folder, text, overrides))
    }

    fn parsed(&self, name: &str, folder: &Path, text: &str, overrides: &[Override]) -> Parsed {
        let file = Rc::new(File::new(name, folder, text));
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut reported = None;
        for error in errors {
            let at = error.span().map_or(0, |span| span.start);
            // What follows on the same line is a consequence of the first.
            let line = file.span(at).map(|span| span.line);
            if reported.replace(line) == Some(line) {
                continue;
            }
            let message = error.message().trim().replace('\n', ", ");
            self.note(&file, at, String::new(), message);
        }
        let table = laid_over(table_of(table.into_inner()), folder, overrides);
        (file, Rc::new(table))
    }

    fn root_of(self: &Rc<Self>, (file, table): Parsed) -> Section {
        Section {
            sources: Rc::clone(self),
            file,
            path: String::new(),
            steps: Vec::new(),
            start: 0,
            table,
            seen: RefCell::default(),
        }
    }

    fn included(self: &Rc<Self>, path: &Path) -> std::io::Result<Section> {
        let known = self.included.take().filter(|(known, _)| known == path);
        let parsed = if let Some((_, parsed)) = known {
            parsed
        } else {
            let folder = path.parent().unwrap_or(Path::new("."));
            self.parsed(&path.display().to_string(), folder, &(self.load)(path)?, &[])
        };
        self.included.replace(Some((path.to_owned(), parsed.clone())));
        Ok(self.root_of(parsed))
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

    /// Every key that was asked for with a value of its own, by section and in the order of its `[[tables]]`: the value that
    /// is in force, and where it comes from.
    pub fn settings(&self) -> Vec<Setting> {
        self.settings.borrow().values().cloned().collect()
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

/// A file, and what stands in it.
type Parsed = (Rc<File>, Rc<Table>);

/// Something that values stand in: a file, or one variable of the environment.
#[derive(Debug)]
struct File {
    name: String,
    folder: PathBuf,
    text: String,
    /// Where its lines begin; `None` for a variable, which has none.
    lines: Option<Vec<usize>>,
}

impl File {
    fn new(name: &str, folder: &Path, text: &str) -> Self {
        let after = text.match_indices('\n').map(|(newline, _)| newline + 1);
        let lines = Some(std::iter::once(0).chain(after).collect());
        Self { name: name.to_owned(), folder: folder.to_owned(), text: text.to_owned(), lines }
    }

    fn span(&self, at: usize) -> Option<Span> {
        let lines = self.lines.as_ref()?;
        let at = at.min(self.text.len());
        let line = lines.partition_point(|begin| *begin <= at);
        let begin = lines.get(line.saturating_sub(1)).copied().unwrap_or_default();
        let column = self.text.get(begin..at).unwrap_or_default().chars().count() + 1;
        Some(Span { line, column })
    }

    fn origin(&self, at: usize) -> Origin {
        match self.span(at) {
            Some(span) => Origin::File { file: self.name.clone(), span },
            None => Origin::Environment { name: self.text.clone() },
        }
    }
}

/// One table of the configuration. Reading a key marks it as known; unknown ones are noted on drop.
pub struct Section {
    sources: Rc<Sources>,
    file: Rc<File>,
    path: String,
    steps: Vec<Step>,
    start: usize,
    table: Rc<Table>,
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

    /// As [`Section::note`], about what stands in `entry`.
    fn note_of(&self, entry: &Entry, at: usize, key: &str, message: impl Display) {
        self.sources.note(entry.file.as_ref().unwrap_or(&self.file), at, self.key_path(key), message);
    }

    fn record(&self, key: &'static str, value: Option<String>, origin: Origin) {
        let in_table = self.steps.iter().any(|step| step.1.is_some());
        if in_table && !self.sources.in_tables {
            return;
        }
        let mut path = self.steps.clone();
        path.push((key, None));
        let setting = Setting { key: setting::path_text(&path), value, origin };
        self.sources.settings.borrow_mut().insert(path, setting);
    }

    /// Notes the default of a key that isn't there.
    fn defaulted(&self, key: &'static str, shown: impl FnOnce() -> Option<String>) {
        if !self.table.contains_key(key) {
            self.record(key, shown(), Origin::Default);
        }
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
        let Some(entry) = self.entry(key) else {
            self.record(key, None, Origin::Default);
            return None;
        };
        let file = entry.file.as_ref().unwrap_or(&self.file);
        self.record(key, Some(masked(&entry.value.shown(&file.text))), file.origin(entry.value.span.start));
        read(&entry.value).map_err(|wrong| self.note_of(entry, wrong.at, key, wrong.message)).ok()
    }

    /// The value, or `default` when the key is absent or wrong.
    pub fn get_or<T: FromToml>(&self, key: &'static str, default: T) -> T {
        self.defaulted_after(key, self.get(key), default)
    }

    fn defaulted_after<T: FromToml>(&self, key: &'static str, found: Option<T>, default: T) -> T {
        self.defaulted(key, || default.shown());
        found.unwrap_or(default)
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
        let found = self.get::<i64>(key);
        self.defaulted(key, || Some(default.to_string()));
        let Some(value) = found else { return default };
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
        let found = self.get::<Duration>(key);
        self.defaulted(key, || default.shown());
        let Some(value) = found else { return default };
        if allowed.contains(&value) {
            return value;
        }
        let (low, high) = (duration::format(*allowed.start()), duration::format(*allowed.end()));
        let value = duration::format(value);
        self.problem(key, format_args!("`{value}` is out of range, \"{low}\" to \"{high}\" is allowed"));
        default
    }

    /// One of `words`, or `default`.
    pub fn choice<T: Copy + PartialEq>(&self, key: &'static str, words: &[(&str, T)], default: T) -> T {
        let found = self.optional_choice(key, words);
        self.defaulted(key, || {
            words.iter().find(|(_, value)| *value == default).map(|(word, _)| format!("\"{word}\""))
        });
        found.unwrap_or(default)
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
        let found = self.path(key);
        self.defaulted(key, || Some(format!("\"{default}\"")));
        found.unwrap_or_else(|| self.file.folder.join(default))
    }

    /// The sub-table `key`, when it is there.
    pub fn section(&self, key: &'static str) -> Option<Self> {
        let entry = self.entry(key)?;
        if let Node::Table(table) = &entry.value.node {
            return Some(self.below(key, None, entry, entry.key.start, table));
        }
        let message = format_args!("a table is expected here, not {}", entry.value.kind());
        self.note_of(entry, entry.value.span.start, key, message);
        None
    }

    /// The sub-table `key`; an empty one when it is absent, so that its keys get their defaults.
    pub fn section_or_empty(&self, key: &'static str) -> Self {
        self.section(key).unwrap_or_else(|| self.under(key, None, &self.file, self.start, &Rc::default()))
    }

    /// The tables of `[[key]]`.
    pub fn sections(&self, key: &'static str) -> Vec<Self> {
        let Some(entry) = self.entry(key) else { return Vec::new() };
        let wrong = |value: &Located| {
            self.note_of(entry, value.span.start, key, format_args!("write [[{}]] for each", self.key_path(key)));
        };
        let Node::Array(items) = &entry.value.node else {
            wrong(&entry.value);
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (number, item) in items.iter().enumerate() {
            match &item.node {
                Node::Table(table) => sections.push(self.below(key, Some(number), entry, item.span.start, table)),
                _ => wrong(item),
            }
        }
        sections
    }

    /// The root section of the file that `key` names, when it is there and can be read.
    pub fn include(&self, key: &'static str) -> Option<Self> {
        let path = self.path(key)?;
        self.readable(key, &path, self.sources.included(&path))
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
        let text = self.readable(key, &path, (self.sources.load)(&path))?;
        Some((path, text))
    }

    /// What was read at `path`, which `key` names; that it can't be read is noted.
    fn readable<T>(&self, key: &'static str, path: &Path, read: std::io::Result<T>) -> Option<T> {
        let complain =
            |error: &std::io::Error| self.problem(key, format_args!("can't read `{}`: {error}", path.display()));
        read.inspect_err(complain).ok()
    }

    /// Where this section stands: the file as the user named it, and the place in it.
    pub fn place(&self) -> (&str, Option<Span>) {
        (&self.file.name, self.file.span(self.start))
    }

    /// The same in words: `gateway.toml:7`.
    pub fn place_text(&self) -> String {
        match self.place() {
            (file, Some(span)) => format!("{file}:{}", span.line),
            (file, None) => file.to_owned(),
        }
    }

    /// Notes a problem at the value of `key`, or at the section's header where it is absent.
    pub fn problem(&self, key: &'static str, message: impl Display) {
        match self.entry(key) {
            Some(entry) => self.note_of(entry, entry.value.span.start, key, message),
            None => self.note(self.start, key, message),
        }
    }

    fn below(&self, key: &'static str, number: Option<usize>, of: &Entry, start: usize, table: &Rc<Table>) -> Self {
        self.under(key, number, of.file.as_ref().unwrap_or(&self.file), start, table)
    }

    fn under(
        &self,
        key: &'static str,
        number: Option<usize>,
        file: &Rc<File>,
        start: usize,
        table: &Rc<Table>,
    ) -> Self {
        let mut steps = self.steps.clone();
        steps.push((key, number));
        Self {
            sources: Rc::clone(&self.sources),
            file: Rc::clone(file),
            path: self.key_path(key),
            steps,
            start,
            table: Rc::clone(table),
            seen: RefCell::default(),
        }
    }
}

impl Drop for Section {
    fn drop(&mut self) {
        let seen = self.seen.borrow();
        for (key, entry) in &*self.table {
            if seen.contains(key.as_str()) {
                continue;
            }
            let known = || seen.iter().copied();
            let quoted = |keys: Vec<&str>| or_list(&keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>());
            let near = nearest(key, known()).map_or_else(|| alike(key, known()), |near| vec![near]);
            let message = if near.is_empty() {
                format!("unknown key, {} is allowed here", quoted(known().collect()))
            } else {
                format!("unknown key, did you mean {}?", quoted(near))
            };
            self.note_of(entry, entry.key.start, key, message);
        }
    }
}

/// The word that was probably meant: at most two typing mistakes away, fewer for short words.
pub fn nearest<'a>(text: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = words.map(|word| (strsim::damerau_levenshtein(text, word), word)).min()?;
    (near.0 <= 2.min(text.chars().count() / 2)).then_some(near.1)
}

/// Words of which one is a part of the other, or that begin alike: a few, where no single one is near.
fn alike<'a>(text: &str, words: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    const SHORTEST: usize = 4;
    const MOST: usize = 4;
    let inside = |one: &str, other: &str| one.len() >= SHORTEST && other.contains(one);
    let begins = |word: &str| {
        let same = word.chars().zip(text.chars()).take_while(|(one, other)| one == other).count();
        same > SHORTEST && same * 2 >= word.len()
    };
    words.filter(|word| inside(word, text) || inside(text, word) || begins(word)).take(MOST).collect()
}

fn or_list(words: &[String]) -> String {
    match words {
        [] => "nothing".to_owned(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}
