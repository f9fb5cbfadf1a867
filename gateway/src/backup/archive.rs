//! The file: age (passphrase, scrypt) around a tar, in which `manifest.json` comes first and lists the others with size,
//! mode and SHA-256.
//!
//! `age -d FILE | tar x` opens it without Fieldgate. Nothing is unpacked by the tar library: entries are read into memory,
//! and only plain files with plain relative names that the manifest lists are taken.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::iter;
use std::path::{Component, Path};

use age::secrecy::SecretString;
use age::{DecryptError, Decryptor, Encryptor, scrypt};
use fieldgate_certs::Fingerprint;
use fieldgate_types::{DeviceId, Secret, UnixMillis};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

#[cfg(test)]
mod tests;

/// Format of the manifest and of what stands where. Rises when an older program would restore something wrong.
pub const FORMAT: u32 = 1;
const MANIFEST: &str = "manifest.json";

/// 2^17 × 8 × 128 bytes: 128 MiB and about half a second for each guess, and for us once.
const WORK_FACTOR: u8 = 17;
/// What `age -p` uses by itself; more would be somebody's try to exhaust us.
const MOST_WORK: u8 = 18;
/// All files together; everything passes through memory.
pub(crate) const MOST_BYTES: u64 = 256 << 20;

/// What is in the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format of the archive.
    pub format: u32,
    /// The Fieldgate that made it.
    pub version: String,
    /// Whose it is.
    pub gateway: DeviceId,
    /// When it was made.
    pub taken: UnixMillis,
    /// The boot counter at that time.
    pub boot: u64,
    /// Name of the configuration file below `config/`.
    pub configuration: String,
    /// The data directory, seen from the configuration's folder.
    pub data_dir: String,
    /// Every other file.
    pub files: Vec<Listed>,
}

/// A file in the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Its name there.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// SHA-256, hex.
    pub sha256: String,
}

/// A file and its content, which is wiped from memory afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name in the archive.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// What it holds.
    pub content: Zeroizing<Vec<u8>>,
}

impl Entry {
    /// As the manifest lists it.
    pub fn listed(&self) -> Listed {
        let Self { path, mode, content } = self;
        Listed {
            path: path.clone(),
            mode: *mode,
            size: content.len() as u64,
            sha256: Fingerprint::of(content).to_string(),
        }
    }
}

/// A whole archive; [`open`] makes one only of what fits together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// What is in it.
    pub manifest: Manifest,
    /// The files, in the order of the manifest.
    pub entries: Vec<Entry>,
}

/// Why an archive can't be made or read.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// Not ours, or its first line is damaged.
    #[error("it is no backup of Fieldgate, or damaged at its beginning")]
    NotABackup,
    /// Nothing can be decrypted.
    #[error("the passphrase is wrong, or the file is damaged at its beginning")]
    Passphrase,
    /// Something is missing or changed.
    #[error("it is damaged or cut short ({0}); take another copy")]
    Damaged(String),
    /// It contains what no backup contains.
    #[error("it contains `{path}`, {why}: Fieldgate didn't make it")]
    Foreign {
        /// The name of the entry.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A newer Fieldgate made it.
    #[error(
        "it has format {found} and was made by Fieldgate {version}, this program knows up to {FORMAT}: restore it with that version or a later one"
    )]
    Newer {
        /// Its format.
        found: u32,
        /// Who made it.
        version: String,
    },
    /// Opening it would take more than we are willing to spend.
    #[error("opening it would take 2^{0} steps, at most 2^{MOST_WORK} are taken: Fieldgate didn't make it")]
    Work(u8),
    /// More than memory should hold.
    #[error("all files together are larger than {} MiB", MOST_BYTES >> 20)]
    TooLarge,
    /// It can't be encrypted.
    #[error("it can't be encrypted: {0}")]
    Encrypt(#[from] age::EncryptError),
    /// It can't be written.
    #[error("it can't be written")]
    Write(#[source] io::Error),
    /// The manifest can't be written.
    #[error("the manifest can't be written")]
    Manifest(#[source] serde_json::Error),
}

/// The archive as a file's content.
pub fn seal(archive: &Archive, passphrase: &Secret) -> Result<Vec<u8>, ArchiveError> {
    let mut recipient = scrypt::Recipient::new(SecretString::from(passphrase.expose().to_owned()));
    recipient.set_work_factor(WORK_FACTOR);
    let encryptor = Encryptor::with_recipients(iter::once(&recipient as &dyn age::Recipient))?;
    let writer = encryptor.wrap_output(Vec::new()).map_err(ArchiveError::Write)?;
    let mut tar = tar::Builder::new(writer);
    let manifest = serde_json::to_vec_pretty(&archive.manifest).map_err(ArchiveError::Manifest)?;
    let taken = archive.manifest.taken;
    append(&mut tar, MANIFEST, 0o600, taken, &manifest).map_err(ArchiveError::Write)?;
    for Entry { path, mode, content } in &archive.entries {
        append(&mut tar, path, *mode, taken, content).map_err(ArchiveError::Write)?;
    }
    tar.into_inner().and_then(age::stream::StreamWriter::finish).map_err(ArchiveError::Write)
}

fn append(tar: &mut tar::Builder<impl Write>, path: &str, mode: u32, at: UnixMillis, content: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(mode);
    header.set_mtime(at.as_secs());
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, path, content)
}

/// Reads an archive, all of it, and believes nothing before the last byte was checked.
pub fn open(sealed: &[u8], passphrase: &Secret) -> Result<Archive, ArchiveError> {
    let mut identity = scrypt::Identity::new(SecretString::from(passphrase.expose().to_owned()));
    identity.set_max_work_factor(MOST_WORK);
    let decryptor = Decryptor::new_buffered(sealed).map_err(refused)?;
    let mut reader = decryptor.decrypt(iter::once(&identity as &dyn age::Identity)).map_err(refused)?;
    let mut plain = Zeroizing::new(Vec::new());
    let damaged = |error: io::Error| ArchiveError::Damaged(error.to_string());
    (&mut reader).take(MOST_BYTES + 1).read_to_end(&mut plain).map_err(damaged)?;
    if plain.len() as u64 > MOST_BYTES {
        return Err(ArchiveError::TooLarge);
    }
    unpack(&plain)
}

fn refused(error: DecryptError) -> ArchiveError {
    match error {
        DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed => ArchiveError::Passphrase,
        DecryptError::ExcessiveWork { required, .. } => ArchiveError::Work(required),
        DecryptError::Io(error) => ArchiveError::Damaged(error.to_string()),
        // Made for somebody's key, or not at all by age.
        DecryptError::InvalidHeader
        | DecryptError::InvalidMac
        | DecryptError::NoMatchingKeys
        | DecryptError::UnknownFormat => ArchiveError::NotABackup,
    }
}

fn unpack(plain: &[u8]) -> Result<Archive, ArchiveError> {
    let damaged = |error: io::Error| ArchiveError::Damaged(error.to_string());
    let mut tar = tar::Archive::new(plain);
    let mut entries = Vec::new();
    for entry in tar.entries().map_err(damaged)? {
        entries.push(read(entry.map_err(damaged)?)?);
    }
    if entries.is_empty() {
        return Err(ArchiveError::Damaged("nothing is in it".to_owned()));
    }
    let first = entries.remove(0);
    if first.path != MANIFEST {
        return Err(ArchiveError::Damaged(format!("it begins with `{}` and not with {MANIFEST}", first.path)));
    }
    let manifest = manifest(&first.content)?;
    let listed: Vec<Listed> = entries.iter().map(Entry::listed).collect();
    check_listed(&manifest.files, &listed)?;
    Ok(Archive { manifest, entries })
}

fn read(mut entry: tar::Entry<'_, impl Read>) -> Result<Entry, ArchiveError> {
    let damaged = |error: io::Error| ArchiveError::Damaged(error.to_string());
    let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    let foreign = |why| ArchiveError::Foreign { path: path.clone(), why };
    if entry.header().entry_type() != tar::EntryType::Regular {
        return Err(foreign("which is no plain file"));
    }
    let plain = Path::new(&path).components().all(|part| matches!(part, Component::Normal(_)));
    if path.is_empty() || !plain || path.contains("//") || path.ends_with('/') || path.contains('\u{fffd}') {
        return Err(foreign("which leads out of the folder or is no plain name"));
    }
    let mode = entry.header().mode().map_err(damaged)?;
    if mode & !0o777 != 0 {
        return Err(foreign("whose mode is more than read, write and execute"));
    }
    let mut content = Zeroizing::new(Vec::new());
    entry.read_to_end(&mut content).map_err(damaged)?;
    Ok(Entry { path, mode, content })
}

fn manifest(text: &[u8]) -> Result<Manifest, ArchiveError> {
    #[derive(Deserialize)]
    struct Beginning {
        format: u32,
        version: String,
    }
    let unreadable = |error: serde_json::Error| ArchiveError::Damaged(format!("{MANIFEST}: {error}"));
    let Beginning { format, version } = serde_json::from_slice(text).map_err(unreadable)?;
    if format > FORMAT {
        return Err(ArchiveError::Newer { found: format, version });
    }
    serde_json::from_slice(text).map_err(unreadable)
}

/// The same files, each once.
fn check_listed(wanted: &[Listed], found: &[Listed]) -> Result<(), ArchiveError> {
    let damaged = |what: String| Err(ArchiveError::Damaged(what));
    let mut left: BTreeMap<&str, &Listed> = wanted.iter().map(|listed| (listed.path.as_str(), listed)).collect();
    if left.len() != wanted.len() {
        return damaged(format!("{MANIFEST} lists a file twice"));
    }
    for file in found {
        match left.remove(file.path.as_str()) {
            Some(listed) if listed == file => {}
            Some(_) => return damaged(format!("`{}` is not as {MANIFEST} says", file.path)),
            None => return damaged(format!("`{}` is not in {MANIFEST}, or comes twice", file.path)),
        }
    }
    match left.keys().next() {
        Some(path) => damaged(format!("`{path}` is missing")),
        None => Ok(()),
    }
}
