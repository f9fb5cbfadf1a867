//! What `fieldgate device add` writes: `ca.pem cert.pem key.pem` in a folder.

use std::path::{Path, PathBuf};

use anyhow::Context;
use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// A bundle on disk.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The device it was made for.
    pub id: String,
    /// Where it lies.
    pub folder: PathBuf,
}

impl Bundle {
    /// The bundle of device `id` in `folder`.
    pub fn new(id: &str, folder: impl Into<PathBuf>) -> Self {
        Self { id: id.to_owned(), folder: folder.into() }
    }

    /// The trust bundle, PEM.
    pub fn ca(&self) -> anyhow::Result<Vec<u8>> {
        read(&self.folder.join("ca.pem"))
    }

    /// The leaf certificate, then its issuing CA, PEM.
    pub fn certificate(&self) -> anyhow::Result<Vec<u8>> {
        read(&self.folder.join("cert.pem"))
    }

    /// The private key, PEM.
    pub fn key(&self) -> anyhow::Result<Vec<u8>> {
        read(&self.folder.join("key.pem"))
    }

    /// SHA-256 of the leaf certificate, in lower-case hexadecimal digits.
    pub fn fingerprint(&self) -> anyhow::Result<String> {
        let pem = self.certificate()?;
        let leaf = CertificateDer::pem_slice_iter(&pem).next().context("cert.pem is empty")??;
        let digit = |four: u8| char::from_digit(four.into(), 16).unwrap_or_default();
        let hash = digest(&SHA256, &leaf);
        Ok(hash.as_ref().iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect())
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("can't read {}", path.display()))
}
