//! The files of the log: `audit.jsonl`, and `audit.1.jsonl` and so on, the higher the older.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use fieldgate_certs::Fingerprint;
use fieldgate_types::UnixMillis;

use super::Event;
use super::chain::{self, End, Head, NOTHING_BEFORE};

/// A file is closed and renamed when it has grown to this.
pub(super) const MAX_FILE: u64 = 8 << 20;
/// Old files that are kept.
pub(super) const KEEP: usize = 4;
const CURRENT: &str = "audit.jsonl";
/// How often files may be renamed while they are being opened for reading.
const TRIES: usize = 10;

/// The name of the old file number `n`.
pub(super) fn numbered(n: usize) -> String {
    format!("audit.{n}.jsonl")
}

/// All names, oldest first.
fn names() -> impl Iterator<Item = String> {
    (1..=KEEP).rev().map(numbered).chain([CURRENT.to_owned()])
}

/// The file that is written to.
pub(super) struct LogFile {
    folder: PathBuf,
    file: File,
    size: u64,
    end: Option<End>,
    /// The hash that the next line has for the one before.
    prev: Fingerprint,
    /// Part of a line may stand after `size`: a write has failed.
    untidy: bool,
}

impl LogFile {
    /// Opens the log in `folder`, of which `anchor` was once the end: sets right what a crash left, and writes down what
    /// is not as it was.
    pub(super) fn open(folder: &Path, anchor: Option<End>, now: UnixMillis) -> io::Result<Self> {
        let mut found = Found::default();
        let mut files: Vec<_> = names().map(|name| folder.join(name)).collect();
        files.reverse();
        // The newest file that has a line: the end of the chain is in the current one, or a rotation was cut short.
        let mut torn = 0;
        for path in &files {
            if let Some(here) = read_end(path, anchor)? {
                torn += cut_off(path, here.torn_after)?;
                found = here;
                if found.last.is_some() {
                    break;
                }
            }
        }
        let mut log = Self::append_to(folder, found.end, found.last.unwrap_or(NOTHING_BEFORE))?;
        log.say_what_is_wrong(anchor, found.at_anchor, now)?;
        if torn > 0 {
            log.write(now, &Event::LineTorn { bytes: torn })?;
        }
        Ok(log)
    }

    fn append_to(folder: &Path, end: Option<End>, prev: Fingerprint) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(folder.join(CURRENT))?;
        let size = file.metadata()?.len();
        if size == 0 {
            // Its name must not be lost once its lines are known to be there.
            File::open(folder)?.sync_all()?;
        }
        Ok(Self { folder: folder.to_owned(), file, size, end, prev, untidy: false })
    }

    /// The chain goes on from the anchor then, so that the break stays in the log.
    fn say_what_is_wrong(&mut self, anchor: Option<End>, there: Option<End>, now: UnixMillis) -> io::Result<()> {
        let Some(anchor) = anchor else { return Ok(()) };
        let last = self.end.map_or(0, |end| end.n);
        let event = if last < anchor.n {
            self.end = Some(anchor);
            Event::LinesMissing { from: last + 1, to: anchor.n }
        } else if there.is_some_and(|there| there.hash != anchor.hash) {
            Event::LineRewritten { line: anchor.n }
        } else {
            return Ok(());
        };
        tracing::error!(?event, "the audit log is not as it was left, `fieldgate audit --verify` shows where");
        self.prev = anchor.hash;
        self.write(now, &event)
    }

    /// Where the chain ends; `None` before its first line.
    pub(super) fn end(&self) -> Option<End> {
        self.end
    }

    pub(super) fn write(&mut self, ts: UnixMillis, event: &Event) -> io::Result<()> {
        self.tidy()?;
        let n = self.end.map_or(1, |end| end.n.saturating_add(1));
        let (line, end) = chain::line(n, self.prev, ts, event)?;
        let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if self.size.saturating_add(length) > MAX_FILE {
            self.rotate()?;
        }
        self.untidy = true;
        io::Write::write_all(&mut self.file, &line)?;
        self.untidy = false;
        self.size = self.size.saturating_add(length);
        (self.end, self.prev) = (Some(end), end.hash);
        Ok(())
    }

    /// Takes part of a line away, which a full disk may have left.
    fn tidy(&mut self) -> io::Result<()> {
        if self.untidy {
            self.file.set_len(self.size)?;
            self.untidy = false;
        }
        Ok(())
    }

    /// What was written is on the disk when this returns.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.sync()?;
        let (current, path) = (self.folder.join(CURRENT), |n| self.folder.join(numbered(n)));
        // Gone already when the new file could not be made the last time.
        if current.exists() {
            for n in (1..KEEP).rev() {
                if path(n).exists() {
                    fs::rename(path(n), path(n + 1))?;
                }
            }
            fs::rename(current, path(1))?;
        }
        *self = Self::append_to(&self.folder, self.end, self.prev)?;
        Ok(())
    }
}

/// What the end of a file says.
#[derive(Default)]
struct Found {
    /// The last line of the chain.
    end: Option<End>,
    /// The hash of the last line that can be read, in the chain or from before it.
    last: Option<Fingerprint>,
    /// The line with the anchor's number.
    at_anchor: Option<End>,
    /// What follows after so many bytes is no line.
    torn_after: u64,
}

fn read_end(path: &Path, anchor: Option<End>) -> io::Result<Option<Found>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut found = Found::default();
    let (mut reader, mut line, mut at) = (BufReader::new(file), Vec::new(), 0_u64);
    let mut newest: Option<(Vec<u8>, Option<u64>)> = None;
    loop {
        line.clear();
        at += u64::try_from(reader.read_until(b'\n', &mut line)?).unwrap_or(0);
        let Some((b'\n', text)) = line.split_last() else { break };
        let n = match Head::of(text) {
            Head::Chained { n, .. } => Some(n),
            Head::Unchained => None,
            Head::Unreadable => continue,
        };
        if let (Some(n), Some(anchor)) = (n, anchor)
            && n == anchor.n
        {
            found.at_anchor = Some(End { n, hash: Fingerprint::of(text) });
        }
        let (kept, last_n) = newest.get_or_insert_default();
        kept.clear();
        kept.extend_from_slice(text);
        *last_n = n.or(*last_n);
        found.torn_after = at;
    }
    if let Some((text, n)) = newest {
        let hash = Fingerprint::of(&text);
        (found.last, found.end) = (Some(hash), n.map(|n| End { n, hash }));
    }
    Ok(Some(found))
}

/// Cuts `path` after `length` bytes; how many those were.
fn cut_off(path: &Path, length: u64) -> io::Result<u64> {
    let before = fs::metadata(path)?.len();
    if before > length {
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(length)?;
        file.sync_all()?;
    }
    Ok(before.saturating_sub(length))
}

/// The files there are, oldest first, open: as they were at one moment, though the gateway may rename them.
pub(super) fn opened(folder: &Path) -> io::Result<Vec<(String, File)>> {
    let identity = |file: &File| file.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
    let open = || -> io::Result<Vec<(String, File)>> {
        let mut files = Vec::new();
        for name in names() {
            match File::open(folder.join(&name)) {
                Ok(file) => files.push((name, file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(files)
    };
    for _ in 0..TRIES {
        let (files, again) = (open()?, open()?);
        let mut same = files.len() == again.len();
        for ((name, file), (other_name, other)) in files.iter().zip(&again) {
            same &= name == other_name && identity(file)? == identity(other)?;
        }
        if same {
            return Ok(files);
        }
    }
    Err(io::Error::other("the audit log's files are renamed faster than they can be opened"))
}

/// The last `count` lines of the log in `folder`, oldest first.
pub fn tail(folder: &Path, count: usize) -> io::Result<Vec<String>> {
    let mut lines: VecDeque<String> = VecDeque::new();
    for (_, file) in opened(folder)? {
        let (mut reader, mut line) = (BufReader::new(file), Vec::new());
        while reader.read_until(b'\n', &mut line)? > 0 {
            // The last one may be half written.
            if let Some((b'\n', text)) = line.split_last() {
                lines.push_back(String::from_utf8_lossy(text).into_owned());
                if lines.len() > count {
                    lines.pop_front();
                }
            }
            line.clear();
        }
    }
    Ok(lines.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1);

    fn texts(folder: &Path) -> Vec<String> {
        tail(folder, 1_000).unwrap()
    }

    fn append(folder: &Path, bytes: &[u8]) {
        let mut file = OpenOptions::new().append(true).create(true).open(folder.join(CURRENT)).unwrap();
        io::Write::write_all(&mut file, bytes).unwrap();
    }

    #[test]
    fn rotates_and_stays_bounded_and_the_numbers_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = LogFile::open(folder.path(), None, NOW).unwrap();
        let event =
            Event::PublishRefused { device: "a".to_owned(), topic: "t".repeat(65_000), reason: "no".to_owned() };
        for _ in 0..1000 {
            file.write(NOW, &event).unwrap();
        }
        let total: u64 = fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum();
        assert!(total <= MAX_FILE * (KEEP as u64 + 1), "{total}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), KEEP + 1);
        let end = file.end().unwrap();
        assert_eq!(end.n, 1000);
        // The current file is empty, or gone, when the power fails while it is made.
        fs::rename(folder.path().join(CURRENT), folder.path().join(numbered(1))).unwrap();
        let mut file = LogFile::open(folder.path(), Some(end), NOW).unwrap();
        assert_eq!(file.end(), Some(end));
        file.write(NOW, &Event::Stopped).unwrap();
        assert_eq!(file.end().unwrap().n, 1001);
    }

    #[test]
    fn a_torn_line_is_cut_off_and_the_chain_goes_on() {
        for torn in [&b"{\"n\":2,\"prev\":\"00"[..], b"\0\0\0\0", b"\0\0\n\0", b"{\"n\":2,\"ts\":1}"] {
            let folder = tempfile::tempdir().unwrap();
            let mut file = LogFile::open(folder.path(), None, NOW).unwrap();
            file.write(NOW, &Event::Stopped).unwrap();
            let end = file.end();
            append(folder.path(), torn);
            let file = LogFile::open(folder.path(), end, NOW).unwrap();
            assert_eq!(file.end().unwrap().n, 2);
            let lines = texts(folder.path());
            let bytes = torn.len();
            assert!(lines[1].ends_with(&format!(r#""event":"line_torn","bytes":{bytes}}}"#)), "{lines:?}");
            assert_eq!(Fingerprint::of(lines[0].as_bytes()), end.unwrap().hash);
            assert!(matches!(Head::of(lines[1].as_bytes()), Head::Chained { prev, .. } if prev == end.unwrap().hash));
        }
    }

    #[test]
    fn a_log_from_before_the_chain_is_its_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let old = br#"{"ts":5,"event":"stopped"}"#;
        append(folder.path(), old);
        append(folder.path(), b"\n");
        let mut file = LogFile::open(folder.path(), None, NOW).unwrap();
        file.write(NOW, &Event::Stopped).unwrap();
        let head = Head::of(texts(folder.path())[1].as_bytes());
        assert_eq!(head, Head::Chained { n: 1, prev: Fingerprint::of(old), ts: NOW });
    }

    #[test]
    fn what_is_missing_or_rewritten_at_the_end_is_written_down() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = LogFile::open(folder.path(), None, NOW).unwrap();
        for _ in 0..3 {
            file.write(NOW, &Event::Stopped).unwrap();
        }
        let end = file.end().unwrap();
        let path = folder.path().join(CURRENT);
        let whole = fs::read_to_string(&path).unwrap();
        let first = whole.lines().next().unwrap().to_owned() + "\n";
        fs::write(&path, first).unwrap();
        drop(LogFile::open(folder.path(), Some(end), NOW).unwrap());
        let lines = texts(folder.path());
        assert!(lines[1].starts_with(r#"{"n":4,"#), "{lines:?}");
        assert!(lines[1].ends_with(r#""event":"lines_missing","from":2,"to":3}"#), "{lines:?}");

        fs::write(&path, whole.replace("\"ts\":1", "\"ts\":2")).unwrap();
        drop(LogFile::open(folder.path(), Some(end), NOW).unwrap());
        let lines = texts(folder.path());
        assert!(lines[3].ends_with(r#""event":"line_rewritten","line":3}"#), "{lines:?}");
    }

    #[test]
    fn part_of_a_line_that_a_full_disk_left_is_taken_away_before_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = LogFile::open(folder.path(), None, NOW).unwrap();
        file.write(NOW, &Event::Stopped).unwrap();
        append(folder.path(), b"{\"n\":2,");
        file.untidy = true;
        file.write(NOW, &Event::Stopped).unwrap();
        let lines = texts(folder.path());
        assert!(lines.len() == 2 && lines[1].starts_with(r#"{"n":2,"prev":""#), "{lines:?}");
    }
}
