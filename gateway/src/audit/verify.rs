//! Whether the log is what was written: every line's place in the chain, then the end against the anchor.
//!
//! A chain without a secret can't show everything: whoever may write the files and state.db can make a new log from
//! some line on, with new hashes. A copy of the last hash kept elsewhere shows that too.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use fieldgate_certs::Fingerprint;
use fieldgate_types::UnixMillis;
use serde::Serialize;

use super::chain::{End, Head, NOTHING_BEFORE};
use super::files::{KEEP, numbered, opened};

/// What a walk through all files gave.
#[derive(Debug, Default, Serialize)]
pub struct Verdict {
    /// Whether the chain is whole.
    pub ok: bool,
    /// Lines in the chain, up to its break.
    pub lines: u64,
    /// Lines before it, of a log from before there was a chain.
    pub unchained: u64,
    /// The first line of the chain that is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Place>,
    /// The last one, or the last before the break.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Place>,
    /// Bytes of an unfinished line at the end: it is being written, or a crash tore it, which the next start sets right.
    pub unfinished: u64,
    /// The first place where the chain breaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broken: Option<Break>,
}

/// A line of the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Its number.
    pub n: u64,
    /// When it was written.
    pub ts: UnixMillis,
    /// Its hash, to be kept elsewhere.
    pub hash: Fingerprint,
}

/// Where the chain breaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Break {
    /// Name of the file.
    pub file: String,
    /// Line in it, counted from 1.
    pub line: u64,
    /// What was done.
    pub what: What,
    /// In words.
    pub words: String,
}

/// What was done to a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// A line is not as it was written.
    Edited,
    /// A line was never written.
    Added,
    /// Lines are gone.
    Removed,
    /// Lines stand in another order.
    Reordered,
    /// The end is gone.
    Cut,
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.words)
    }
}

/// Walks through the log in `folder`. `anchor` is an end that it had before this was called.
pub fn verify(folder: &Path, anchor: Option<End>) -> io::Result<Verdict> {
    let mut walk = Walk { verdict: Verdict::default(), before: None, at: (numbered(KEEP), 0), anchored: None };
    for (name, file) in opened(folder)? {
        if let Err(Stop { broken, missing }) = walk.file(&name, &file, anchor)? {
            let later = match missing {
                Some(n) => find(folder, n)?,
                None => None,
            };
            walk.verdict.broken = Some(later.map_or(broken.clone(), |place| Break {
                what: What::Reordered,
                words: format!("{}, which stands at {place}: lines were reordered", broken.words),
                ..broken
            }));
            return Ok(walk.verdict);
        }
    }
    walk.verdict.broken = anchor.and_then(|anchor| walk.end(anchor));
    walk.verdict.ok = walk.verdict.broken.is_none();
    Ok(walk.verdict)
}

struct Walk {
    verdict: Verdict,
    /// The hash of the line before, and where that is.
    before: Option<(Fingerprint, (String, u64))>,
    /// The last line's file and number in it.
    at: (String, u64),
    /// The line with the anchor's number.
    anchored: Option<(Fingerprint, (String, u64))>,
}

struct Stop {
    broken: Break,
    /// The line that ought to stand here.
    missing: Option<u64>,
}

impl Walk {
    fn file(&mut self, name: &str, file: &File, anchor: Option<End>) -> io::Result<Result<(), Stop>> {
        let (mut reader, mut line) = (BufReader::new(file), Vec::new());
        for number in 1.. {
            line.clear();
            if reader.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            let at = (name.to_owned(), number);
            match line.split_last() {
                Some((b'\n', text)) => {
                    if let Err(stop) = self.line(&at, text, anchor) {
                        return Ok(Err(stop));
                    }
                    self.at = at;
                }
                _ => self.verdict.unfinished = u64::try_from(line.len()).unwrap_or(u64::MAX),
            }
        }
        Ok(Ok(()))
    }

    fn line(&mut self, at: &(String, u64), text: &[u8], anchor: Option<End>) -> Result<(), Stop> {
        let stop = |(file, line): &(String, u64), what, words, missing| {
            Err(Stop { broken: Break { file: file.clone(), line: *line, what, words }, missing })
        };
        let hash = Fingerprint::of(text);
        let last = self.verdict.to.as_ref().map(|to| to.n);
        let (n, prev, ts) = match (Head::of(text), last) {
            (Head::Chained { n, prev, ts }, _) => (n, prev, ts),
            (Head::Unchained, None) => {
                self.verdict.unchained += 1;
                self.before = Some((hash, at.clone()));
                return Ok(());
            }
            (Head::Unchained, Some(n)) => {
                let words = format!("has no place in the chain, after line {n}: it was added, or edited");
                return stop(at, What::Added, words, None);
            }
            (Head::Unreadable, _) => {
                return stop(
                    at,
                    What::Edited,
                    "is no line of the log: it was edited, or the disk is damaged".to_owned(),
                    None,
                );
            }
        };
        let before = self.before.as_ref().map_or(NOTHING_BEFORE, |(hash, _)| *hash);
        match last {
            // The oldest kept file may begin anywhere; another one was not the oldest.
            None if n > 1 && at.0 == numbered(KEEP) && self.before.is_none() => {}
            None | Some(_) if n > last.unwrap_or(0).saturating_add(1) => {
                let missing = last.unwrap_or(0).saturating_add(1);
                let words = if missing == n - 1 {
                    format!("is line {n}, and line {missing} was removed before it")
                } else {
                    format!("is line {n}, and lines {missing} to {} were removed before it", n - 1)
                };
                return stop(at, What::Removed, words, Some(missing));
            }
            Some(last) if n <= last => {
                let words = format!("is line {n}, after line {last}: it was moved, or copied");
                return stop(at, What::Reordered, words, None);
            }
            None | Some(_) if prev != before => {
                // The line before is not what this one was written after.
                let (place, words) = match &self.before {
                    Some((_, place)) => (place, format!("was edited: the hash in line {n} is of another text")),
                    None => (at, "was edited: it says that a line stood before it".to_owned()),
                };
                return stop(place, What::Edited, words, None);
            }
            None | Some(_) => {}
        }
        if anchor.is_some_and(|anchor| anchor.n == n) {
            self.anchored = Some((hash, at.clone()));
        }
        let place = Place { n, ts, hash };
        self.verdict.lines += 1;
        self.verdict.from.get_or_insert_with(|| place.clone());
        self.verdict.to = Some(place);
        self.before = Some((hash, at.clone()));
        Ok(())
    }

    fn end(&self, anchor: End) -> Option<Break> {
        let last = self.verdict.to.as_ref().map_or(0, |to| to.n);
        if last < anchor.n {
            let ((file, line), n) = (self.at.clone(), anchor.n);
            let words = format!("is the end, line {last}, but line {n} had been written: the end was cut off");
            return Some(Break { file, line, what: What::Cut, words });
        }
        let (hash, (file, line)) = self.anchored.clone()?;
        let words = "was edited, or written anew with all that follows: its hash is not the one in state.db".to_owned();
        (hash != anchor.hash).then_some(Break { file, line, what: What::Edited, words })
    }
}

/// Where line `n` stands.
fn find(folder: &Path, n: u64) -> io::Result<Option<String>> {
    for (name, file) in opened(folder)? {
        for (number, line) in (1..).zip(BufReader::new(file).split(b'\n')) {
            if matches!(Head::of(&line?), Head::Chained { n: here, .. } if here == n) {
                return Ok(Some(format!("{name}:{number}")));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::audit::Event;
    use crate::audit::files::LogFile;

    struct Log {
        folder: tempfile::TempDir,
        end: End,
    }

    impl Log {
        /// Ten lines.
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let mut file = LogFile::open(folder.path(), None, UnixMillis(1)).unwrap();
            for n in 1..=10 {
                file.write(UnixMillis(n), &Event::LinesLost { count: n }).unwrap();
            }
            Self { end: file.end().unwrap(), folder }
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("audit.jsonl")
        }

        fn change(&self, change: impl FnOnce(&mut Vec<String>)) {
            let mut lines: Vec<String> =
                fs::read_to_string(self.path()).unwrap().lines().map(|line| format!("{line}\n")).collect();
            change(&mut lines);
            fs::write(self.path(), lines.concat()).unwrap();
        }

        fn broken(&self) -> (What, String) {
            let verdict = verify(self.folder.path(), Some(self.end)).unwrap();
            let broken = verdict.broken.unwrap_or_else(|| panic!("nothing was noticed"));
            assert!(!verdict.ok);
            (broken.what, broken.to_string())
        }
    }

    #[test]
    fn an_intact_log_says_from_where_to_where() {
        let log = Log::new();
        let verdict = verify(log.folder.path(), Some(log.end)).unwrap();
        assert!(verdict.ok && verdict.broken.is_none(), "{verdict:?}");
        assert_eq!((verdict.lines, verdict.from.unwrap().n, verdict.to.unwrap().hash), (10, 1, log.end.hash));
        // A line that is being written is no break.
        fs::write(log.path(), fs::read_to_string(log.path()).unwrap() + "{\"n\":11").unwrap();
        let verdict = verify(log.folder.path(), Some(log.end)).unwrap();
        assert!(verdict.ok && verdict.unfinished == 7, "{verdict:?}");
        let empty = tempfile::tempdir().unwrap();
        assert!(verify(empty.path(), None).unwrap().ok);
    }

    #[test]
    fn names_the_line_that_was_edited() {
        for (change, at) in [("\"count\":4}", 4), ("\"count\":10}", 10), ("\"ts\":1,", 1)] {
            let log = Log::new();
            log.change(|lines| {
                let line = lines.iter_mut().find(|line| line.contains(change)).unwrap();
                *line = line.replace(change, &change.replace(':', ":8"));
            });
            let (what, words) = log.broken();
            assert!(what == What::Edited && words.starts_with(&format!("audit.jsonl:{at}: was edited")), "{words}");
        }
        let log = Log::new();
        log.change(|lines| lines[4] = "hello\n".to_owned());
        assert_eq!(
            log.broken(),
            (What::Edited, "audit.jsonl:5: is no line of the log: it was edited, or the disk is damaged".to_owned())
        );
    }

    #[test]
    fn tells_removed_added_moved_and_cut_lines_apart() {
        let log = Log::new();
        log.change(|lines| drop(lines.drain(3..5)));
        let (what, words) = log.broken();
        assert_eq!(
            (what, words.as_str()),
            (What::Removed, "audit.jsonl:4: is line 6, and lines 4 to 5 were removed before it")
        );

        let log = Log::new();
        log.change(|lines| drop(lines.remove(0)));
        assert_eq!(log.broken().1, "audit.jsonl:1: is line 2, and line 1 was removed before it");

        let log = Log::new();
        log.change(|lines| lines.swap(3, 4));
        let (what, words) = log.broken();
        assert!(what == What::Reordered && words.starts_with("audit.jsonl:4: is line 5,"), "{words}");
        assert!(words.contains("stands at audit.jsonl:5"), "{words}");

        let log = Log::new();
        log.change(|lines| lines.insert(5, lines[2].clone()));
        assert_eq!(
            log.broken(),
            (What::Reordered, "audit.jsonl:6: is line 3, after line 5: it was moved, or copied".to_owned())
        );

        let log = Log::new();
        log.change(|lines| lines.insert(2, "{\"ts\":2,\"event\":\"stopped\"}\n".to_owned()));
        assert_eq!(log.broken().0, What::Added);

        let log = Log::new();
        log.change(|lines| lines.truncate(7));
        let (what, words) = log.broken();
        assert!(what == What::Cut && words.starts_with("audit.jsonl:7: is the end, line 7, but line 10"), "{words}");
        // Without the anchor this is what a chain can't show.
        assert!(verify(log.folder.path(), None).unwrap().ok);
        fs::remove_file(log.path()).unwrap();
        assert_eq!(log.broken().0, What::Cut);
    }

    #[test]
    fn a_break_that_a_start_has_found_stays_one() {
        let log = Log::new();
        log.change(|lines| lines.truncate(7));
        let mut file = LogFile::open(log.folder.path(), Some(log.end), UnixMillis(11)).unwrap();
        file.write(UnixMillis(12), &Event::Stopped).unwrap();
        let verdict = verify(log.folder.path(), file.end()).unwrap();
        assert_eq!(
            verdict.broken.unwrap().to_string(),
            "audit.jsonl:8: is line 11, and lines 8 to 10 were removed before it"
        );

        let log = Log::new();
        log.change(|lines| lines[9] = lines[9].replace("\"count\":10", "\"count\":11"));
        let file = LogFile::open(log.folder.path(), Some(log.end), UnixMillis(11)).unwrap();
        let verdict = verify(log.folder.path(), file.end()).unwrap();
        let words = verdict.broken.unwrap().to_string();
        assert!(words.starts_with("audit.jsonl:10: was edited"), "{words}");
    }

    #[test]
    fn walks_over_files_of_which_only_the_oldest_may_begin_anywhere() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = LogFile::open(folder.path(), None, UnixMillis(1)).unwrap();
        let event =
            Event::PublishRefused { device: "a".to_owned(), topic: "t".repeat(65_000), reason: "no".to_owned() };
        for _ in 0..300 {
            file.write(UnixMillis(1), &event).unwrap();
        }
        let verdict = verify(folder.path(), file.end()).unwrap();
        assert!(verdict.ok && verdict.lines == 300, "{verdict:?}");
        fs::remove_file(folder.path().join(numbered(2))).unwrap();
        let broken = verify(folder.path(), file.end()).unwrap().broken.unwrap();
        assert!(broken.what == What::Removed && broken.file == numbered(1) && broken.line == 1, "{broken:?}");
        for _ in 0..600 {
            file.write(UnixMillis(1), &event).unwrap();
        }
        let verdict = verify(folder.path(), file.end()).unwrap();
        assert!(verdict.ok && verdict.from.unwrap().n > 1 && verdict.to.unwrap().n == 900);
    }

    #[test]
    fn lines_from_before_the_chain_are_a_prefix_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("audit.jsonl"), "{\"ts\":1,\"event\":\"a\"}\n{\"ts\":2,\"event\":\"b\"}\n")
            .unwrap();
        let mut file = LogFile::open(folder.path(), None, UnixMillis(1)).unwrap();
        file.write(UnixMillis(3), &Event::Stopped).unwrap();
        let verdict = verify(folder.path(), file.end()).unwrap();
        assert!(verdict.ok && (verdict.unchained, verdict.lines) == (2, 1), "{verdict:?}");
        let path = folder.path().join("audit.jsonl");
        fs::write(&path, fs::read_to_string(&path).unwrap().replace("\"b\"", "\"c\"")).unwrap();
        let broken = verify(folder.path(), file.end()).unwrap().broken.unwrap();
        assert!(broken.to_string().starts_with("audit.jsonl:2: was edited"), "{broken}");
    }
}
