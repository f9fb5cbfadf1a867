//! Looking for lines of the log, from its end backwards: what happened lately is found without reading all of it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::chain::Head;
use super::files::opened;

/// Read at a time.
const BLOCK: u64 = 64 * 1024;

/// Which lines.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// Older than the line of that number.
    pub before: Option<u64>,
    /// As many.
    pub most: usize,
    /// Each of these stands in the line, capitals or not.
    pub words: Vec<String>,
    /// Bytes of the log that are looked through at most; zero: all of it.
    pub depth: u64,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// Newest first.
    pub lines: Vec<String>,
    /// Older ones were not looked at: those before the line of that number.
    pub more: Option<u64>,
}

/// Looks through the log in `folder`.
pub fn search(folder: &Path, search: &Search) -> io::Result<Found> {
    let words: Vec<String> = search.words.iter().map(|word| word.to_lowercase()).collect();
    let (mut found, mut read, mut last) = (Found::default(), 0_u64, None);
    for (_, file) in opened(folder)?.into_iter().rev() {
        let mut lines = Backwards::new(file)?;
        while let Some(line) = lines.next()? {
            let enough = found.lines.len() >= search.most || (search.depth > 0 && read > search.depth);
            if enough {
                found.more = last;
                return Ok(found);
            }
            read += line.len() as u64;
            let number = number(&line);
            if search.before.is_some_and(|before| number.is_none_or(|number| number >= before)) {
                continue;
            }
            last = number.or(last);
            let text = String::from_utf8_lossy(&line);
            let folded = text.to_lowercase();
            if words.iter().all(|word| folded.contains(word)) {
                found.lines.push(text.into_owned());
            }
        }
    }
    Ok(found)
}

fn number(line: &[u8]) -> Option<u64> {
    match Head::of(line) {
        Head::Chained { n, .. } => Some(n),
        Head::Unchained | Head::Unreadable => None,
    }
}

/// The whole lines of a file, the last first.
struct Backwards {
    file: File,
    /// What lies before was not read yet.
    at: u64,
    /// What was read and not given.
    held: Vec<u8>,
    /// The end of the file may be half a line.
    begun: bool,
}

impl Backwards {
    fn new(file: File) -> io::Result<Self> {
        let at = file.metadata()?.len();
        Ok(Self { file, at, held: Vec::new(), begun: false })
    }

    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.held.iter().rposition(|byte| *byte == b'\n') {
                let line = self.held.split_off(end + 1);
                self.held.truncate(end);
                if std::mem::replace(&mut self.begun, true) && !line.is_empty() {
                    return Ok(Some(line));
                }
            } else if self.at > 0 {
                self.read()?;
            } else {
                let line = std::mem::take(&mut self.held);
                return Ok(Some(line).filter(|line| self.begun && !line.is_empty()));
            }
        }
    }

    fn read(&mut self) -> io::Result<()> {
        let size = self.at.min(BLOCK);
        self.at -= size;
        self.file.seek(SeekFrom::Start(self.at))?;
        let mut block = Vec::new();
        (&self.file).take(size).read_to_end(&mut block)?;
        block.extend_from_slice(&self.held);
        self.held = block;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use fieldgate_types::UnixMillis;

    use super::super::Event;
    use super::super::files::LogFile;
    use super::*;

    fn log(lines: usize, size: usize) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let mut file = LogFile::open(folder.path(), None, UnixMillis(1)).unwrap();
        for n in 0..lines {
            let (device, topic) = (format!("press-{}", n % 7), "t".repeat(size));
            let event = Event::PublishRefused { device, topic, reason: "no".to_owned() };
            file.write(UnixMillis(1), &event).unwrap();
        }
        folder
    }

    fn numbers(found: &Found) -> Vec<u64> {
        found.lines.iter().map(|line| number(line.as_bytes()).unwrap()).collect()
    }

    #[test]
    fn every_line_is_found_page_by_page_whatever_its_length_and_over_files() {
        for (lines, size) in [(0, 1), (1, 1), (500, 10), (300, 3_000), (700, 60_000)] {
            let folder = log(lines, size);
            let kept = super::super::tail(folder.path(), 10_000).unwrap();
            let mut all = Vec::new();
            let mut before = None;
            loop {
                let found = search(folder.path(), &Search { before, most: 90, ..Search::default() }).unwrap();
                all.extend(found.lines);
                before = found.more;
                if before.is_none() {
                    break;
                }
            }
            all.reverse();
            assert_eq!(all, kept, "{lines} lines of {size} bytes");
        }
    }

    #[test]
    fn words_choose_lines_and_the_depth_ends_the_search() {
        let folder = log(100, 1_000);
        let words = vec!["PRESS-3".to_owned(), "publish".to_owned()];
        let found = search(folder.path(), &Search { most: 3, words: words.clone(), ..Search::default() }).unwrap();
        assert_eq!((numbers(&found), found.more), (vec![95, 88, 81], Some(81)));
        let none = vec!["nobody".to_owned()];
        let found =
            search(folder.path(), &Search { most: 3, words: none, depth: 20_000, ..Search::default() }).unwrap();
        assert!(found.lines.is_empty() && found.more.is_some_and(|more| (75..90).contains(&more)), "{found:?}");
        let half = std::fs::OpenOptions::new().append(true).open(folder.path().join("audit.jsonl"));
        io::Write::write_all(&mut half.unwrap(), b"{\"n\":101,\"press-3 publish").unwrap();
        let found = search(folder.path(), &Search { most: 1, words, ..Search::default() }).unwrap();
        assert_eq!(numbers(&found), [95]);
    }
}
