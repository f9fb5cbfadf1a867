//! What a reload would do, as of the last look: reading and comparing takes a second with thousands of points, and the files
//! seldom change. A look holds for as long as every file that it was made of is what it was; what can't be put in force is
//! looked at each time.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fieldgate_types::UnixMillis;

use super::Report;

/// A file that was changed later than so long before a look may have been changed under it too, at the same moment as the
/// file system counts them (milliseconds).
const SETTLED: u64 = 1_000;

/// What a reload would do, and when that was looked at.
#[derive(Debug, Clone)]
pub struct Look {
    /// When reading the files began.
    pub at: UnixMillis,
    /// What it would do.
    pub report: Arc<Report>,
}

/// By what a file that has changed is told from the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    length: u64,
    modified: (i64, i64),
    /// Seconds and nanoseconds of the last change of whatever kind, which nobody can set.
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        Some(Self {
            file: (meta.dev(), meta.ino()),
            length: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }

    fn is_settled(&self, at: UnixMillis) -> bool {
        let (seconds, nanos) = self.changed;
        let changed =
            u64::try_from(seconds.saturating_mul(1_000).saturating_add(nanos / 1_000_000)).unwrap_or_default();
        changed.saturating_add(SETTLED) <= at.0
    }
}

/// Files as they are after they were read; none where there is none.
#[derive(Debug)]
pub(super) struct Files(Vec<(PathBuf, Option<Stamp>)>);

impl Files {
    pub(super) fn of<'a>(paths: impl Iterator<Item = &'a PathBuf>) -> Self {
        Self(paths.map(|path| (path.clone(), Stamp::of(path))).collect())
    }

    /// Keeps `look` with them, unless one may have been changed since it began.
    pub(super) fn keep(self, look: Look) -> Option<Kept> {
        let settled = self.0.iter().filter_map(|(_, stamp)| stamp.as_ref()).all(|stamp| stamp.is_settled(look.at));
        settled.then_some(Kept { look, files: self })
    }
}

/// A look, and the files that it was made of.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) look: Look,
    files: Files,
}

impl Kept {
    /// Whether none of the files has changed. Waits for the disk.
    pub(super) fn holds(&self) -> bool {
        self.files.0.iter().all(|(path, stamp)| Stamp::of(path) == *stamp)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use fieldgate_types::{Clock, SystemClock};

    use super::*;

    #[test]
    fn a_look_holds_until_a_file_is_another_and_not_where_one_was_just_written() {
        let folder = tempfile::tempdir().unwrap();
        let [one, two, none] = ["one.toml", "two.toml", "none.toml"].map(|name| folder.path().join(name));
        let write = |text: &str| [&one, &two].map(|path| fs::write(path, text).unwrap());
        let files = || Files::of([&one, &two, &none].into_iter());
        let now = SystemClock::new().now();
        let look = |ahead: u64| Look { at: UnixMillis(now.0 + ahead), report: Arc::default() };
        write("a");
        assert!(files().keep(look(0)).is_none(), "it may be written once more at the same moment");

        let kept = || files().keep(look(60_000)).unwrap();
        let first = kept();
        assert!(first.holds());
        fs::write(&none, "").unwrap();
        assert!(!first.holds(), "one that was missing is there");
        let second = kept();
        fs::write(&two, "bb").unwrap();
        assert!(!second.holds(), "another length");
        let third = kept();
        let file = fs::File::options().write(true).open(&one).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(9)).unwrap();
        assert!(!third.holds(), "another time");
        let fourth = kept();
        fs::write(folder.path().join("new"), "a").unwrap();
        fs::rename(folder.path().join("new"), &one).unwrap();
        assert!(!fourth.holds(), "another file under the name");
        fs::remove_file(&one).unwrap();
        assert!(kept().holds());
    }
}
