//! What belongs to a gateway, read from the disk while it may be running.
//!
//! state.db comes as a snapshot; whoever takes it takes it before this reads the CA, so that no certificate in it was issued by a
//! CA that is not in the archive. Files of the CA are only ever added and removed, each whole, so a listing that was the
//! same before and after reading them is one moment.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use fieldgate_types::UnixMillis;
use thiserror::Error;
use zeroize::Zeroizing;

use super::archive::{Archive, Entry, FORMAT, MOST_BYTES, Manifest};
use super::{CONFIG, DATA, OUTSIDE, Snapshot};
use crate::config::Config;

#[cfg(test)]
mod tests;

/// A rotation takes a few of its file operations; more changes than this in a row are none.
const TRIES: usize = 20;

/// How to collect.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// The configuration file.
    pub file: &'a Path,
    /// Whether the audit log is part of it.
    pub audit: bool,
    /// The time.
    pub now: UnixMillis,
}

/// An archive, and what is not in it although it was named.
#[derive(Debug)]
pub struct Collected {
    /// What was found.
    pub archive: Archive,
    /// In words.
    pub warnings: Vec<String>,
}

/// Why there is no archive.
#[derive(Debug, Error)]
pub enum CollectError {
    /// A file can't be read.
    #[error("can't read `{}`", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A name that no archive can hold.
    #[error("`{}` is no UTF-8, rename it", .0.display())]
    Name(PathBuf),
    /// The CA's folder never stood still.
    #[error("the files in `{}` changed again and again while they were read, try again", .0.display())]
    Restless(PathBuf),
    /// Too much for one archive.
    #[error("all files together are larger than {} MiB; `{}` is the largest", MOST_BYTES >> 20, .0.display())]
    TooLarge(PathBuf),
}

/// Reads everything that belongs to the gateway whose state is `snapshot`.
pub fn collect(config: &Config, snapshot: Snapshot, settings: Settings<'_>) -> Result<Collected, CollectError> {
    let Settings { file, audit, now } = settings;
    let folder = folder_of(file);
    let mut all = Gathered::default();
    all.add(Path::new(DATA).join("state.db"), 0o600, Zeroizing::new(snapshot.state))?;
    all.add_still(&config.data_dir.join("ca"), &Path::new(DATA).join("ca"), read)?;
    all.add_tree(&config.data_dir.join("opcua"), &Path::new(DATA).join("opcua"))?;
    if audit {
        all.add_tree(&config.data_dir.join("audit"), &Path::new(DATA).join("audit"))?;
    }
    all.add_named(file, &folder)?;
    for named in &config.files {
        all.add_named(named, &folder)?;
    }
    let configuration = file.file_name().unwrap_or(file.as_os_str());
    let manifest = Manifest {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        gateway: snapshot.gateway,
        taken: now,
        boot: snapshot.boot,
        configuration: text(Path::new(configuration))?,
        data_dir: text(&below(&config.data_dir, &folder).unwrap_or_else(|| absolute(&config.data_dir)))?,
        files: all.entries.iter().map(Entry::listed).collect(),
    };
    Ok(Collected { archive: Archive { manifest, entries: all.entries }, warnings: all.warnings })
}

/// Where relative paths of a configuration file count from.
pub(super) fn folder_of(file: &Path) -> PathBuf {
    file.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new(".")).to_owned()
}

#[derive(Default)]
struct Gathered {
    entries: Vec<Entry>,
    warnings: Vec<String>,
    bytes: u64,
}

impl Gathered {
    fn add(&mut self, name: PathBuf, mode: u32, content: Zeroizing<Vec<u8>>) -> Result<(), CollectError> {
        self.bytes += content.len() as u64;
        if self.bytes > MOST_BYTES {
            let largest = self.entries.iter().max_by_key(|entry| entry.content.len());
            return Err(CollectError::TooLarge(largest.map_or(name, |entry| PathBuf::from(&entry.path))));
        }
        let path = text(&name)?;
        // A file may be named twice.
        if self.entries.iter().all(|entry| entry.path != path) {
            self.entries.push(Entry { path, mode, content });
        }
        Ok(())
    }

    fn add_file(&mut self, path: &Path, name: PathBuf) -> Result<(), CollectError> {
        let (mode, content) = read(path).map_err(|source| CollectError::Read { path: path.to_owned(), source })?;
        self.add(name, mode, content)
    }

    /// All plain files below `folder`, as they are one by one. What vanishes meanwhile is not part of it.
    fn add_tree(&mut self, folder: &Path, name: &Path) -> Result<(), CollectError> {
        for path in listing(folder)? {
            let name = name.join(path.file_name().unwrap_or_default());
            if path.is_dir() {
                self.add_tree(&path, &name)?;
                continue;
            }
            match read(&path) {
                Ok((mode, content)) => self.add(name, mode, content)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(CollectError::Read { path, source }),
            }
        }
        Ok(())
    }

    /// The files in `folder`, as they were at one moment.
    fn add_still(
        &mut self,
        folder: &Path,
        name: &Path,
        mut read: impl FnMut(&Path) -> io::Result<(u32, Zeroizing<Vec<u8>>)>,
    ) -> Result<(), CollectError> {
        'again: for _ in 0..TRIES {
            let before = listing(folder)?;
            let mut files = Vec::new();
            for path in &before {
                match read(path) {
                    Ok((mode, content)) => files.push((path, mode, content)),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue 'again,
                    Err(source) => return Err(CollectError::Read { path: path.clone(), source }),
                }
            }
            if listing(folder)? == before {
                for (path, mode, content) in files {
                    self.add(name.join(path.file_name().unwrap_or_default()), mode, content)?;
                }
                return Ok(());
            }
        }
        Err(CollectError::Restless(folder.to_owned()))
    }

    /// The configuration, or something that it names.
    fn add_named(&mut self, path: &Path, folder: &Path) -> Result<(), CollectError> {
        let (inside, whole) = (below(path, folder), absolute(path));
        if !path.is_file() {
            let named = path.display();
            let what = if path.exists() { "no plain file" } else { "not there" };
            self.warnings.push(format!("`{named}`, which the configuration names, is {what}, and not in the backup"));
            return Ok(());
        }
        if let Some(inside) = inside {
            return self.add_file(path, Path::new(CONFIG).join(inside));
        }
        let real = fs::canonicalize(&whole).map_err(|source| CollectError::Read { path: path.to_owned(), source })?;
        self.add_file(path, Path::new(OUTSIDE).join(real.strip_prefix("/").unwrap_or(&real)))
    }
}

/// The path from `folder` on, where it stays inside.
fn below(path: &Path, folder: &Path) -> Option<PathBuf> {
    let inside = absolute(path).strip_prefix(absolute(folder)).ok()?.to_owned();
    inside.components().all(|part| matches!(part, Component::Normal(_))).then_some(inside)
}

/// Without looking at the disk: what it is called is what counts.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn text(path: &Path) -> Result<String, CollectError> {
    path.to_str().map(str::to_owned).ok_or_else(|| CollectError::Name(path.to_owned()))
}

/// Plain files and folders, sorted; none in a folder that is not there. Unfinished files are nobody's.
fn listing(folder: &Path) -> Result<Vec<PathBuf>, CollectError> {
    let failed = |source| CollectError::Read { path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed(source)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(failed)?);
        // A link to a folder may lead round in a circle.
        let taken = kind.is_dir() || (kind.is_symlink() && path.is_file()) || kind.is_file();
        if taken && path.extension().is_none_or(|extension| extension != "new") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn read(path: &Path) -> io::Result<(u32, Zeroizing<Vec<u8>>)> {
    let mode = fs::metadata(path)?.permissions().mode() & 0o777;
    Ok((mode, Zeroizing::new(fs::read(path)?)))
}
