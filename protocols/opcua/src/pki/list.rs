//! The certificates of servers that are known here, and how people sort them.

use std::path::{Path, PathBuf};

use opcua::crypto::X509;
use serde::Serialize;
use tracing::info;

use super::own::common_name;
use super::{Pki, PkiError, move_durably};

/// Whether sessions are opened with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It lies in `trusted/`.
    Trusted,
    /// It lies in `rejected/`.
    Rejected,
}

/// A server's certificate that was seen, or put there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Known {
    /// Whether it is accepted.
    pub standing: Standing,
    /// SHA-1 of its DER, in hex.
    pub thumbprint: String,
    /// Its common name.
    pub common_name: String,
    /// End of its validity, RFC 3339.
    pub not_after: String,
    /// Its file.
    pub path: PathBuf,
}

impl Pki {
    /// All of them, the trusted ones first.
    pub fn known(&self) -> Result<Vec<Known>, PkiError> {
        self.make_folders()?;
        let mut known = Vec::new();
        for (standing, folder) in [(Standing::Trusted, self.trusted()), (Standing::Rejected, self.rejected())] {
            let failed = |source| PkiError::File { path: folder.clone(), source };
            for entry in std::fs::read_dir(&folder).map_err(failed)? {
                let path = entry.map_err(failed)?.path();
                // Whatever else lies there is nobody's certificate.
                known.extend(read(standing, path));
            }
        }
        known.sort_by(|a, b| (a.standing, &a.common_name, &a.path).cmp(&(b.standing, &b.common_name, &b.path)));
        Ok(known)
    }

    /// Trusts the certificate whose thumbprint begins like this; waiting sessions see it within a second.
    pub fn accept(&self, thumbprint: &str) -> Result<Known, PkiError> {
        self.sort(thumbprint, Standing::Trusted)
    }

    /// Trusts it no longer: no session is opened with it any more.
    pub fn reject(&self, thumbprint: &str) -> Result<Known, PkiError> {
        self.sort(thumbprint, Standing::Rejected)
    }

    /// Moves every copy to where it belongs.
    fn sort(&self, thumbprint: &str, standing: Standing) -> Result<Known, PkiError> {
        let wanted: String = thumbprint.chars().filter(char::is_ascii_hexdigit).collect::<String>().to_lowercase();
        let unknown = || PkiError::Unknown(thumbprint.chars().take(60).collect());
        if wanted.is_empty() {
            return Err(unknown());
        }
        let _one = self.lock()?;
        let found: Vec<Known> =
            self.known()?.into_iter().filter(|known| known.thumbprint.starts_with(&wanted)).collect();
        let first = found.first().ok_or_else(unknown)?.clone();
        if found.iter().any(|known| known.thumbprint != first.thumbprint) {
            return Err(PkiError::Ambiguous(wanted));
        }
        let folder = match standing {
            Standing::Trusted => self.trusted(),
            Standing::Rejected => self.rejected(),
        };
        let mut there = first;
        for known in found {
            let name = known.path.file_name().unwrap_or_default();
            let place = folder.join(name);
            if known.standing != standing {
                move_durably(&known.path, &place)?;
            }
            there = Known { standing, path: place, ..known };
        }
        info!(certificate = %there.path.display(), ?standing, "opcua server certificate sorted");
        Ok(there)
    }
}

fn read(standing: Standing, path: PathBuf) -> Option<Known> {
    let cert = parse(&path)?;
    Some(Known {
        standing,
        thumbprint: cert.thumbprint().as_hex_string(),
        common_name: common_name(&cert),
        not_after: cert.not_after().map(|end| end.to_rfc3339()).unwrap_or_default(),
        path,
    })
}

/// The certificate in a file, DER or PEM; `None` where there is none.
pub(super) fn parse(path: &Path) -> Option<X509> {
    match path.extension().and_then(std::ffi::OsStr::to_str) {
        Some("der" | "crt" | "cer" | "pem") => {}
        _ => return None,
    }
    let bytes = std::fs::read(path).ok()?;
    X509::from_der(&bytes).or_else(|_| X509::from_pem(&bytes)).ok()
}

#[cfg(test)]
mod tests {
    use opcua::crypto::{PrivateKey, X509};

    use super::super::own::certificate_names;
    use super::*;

    fn certificate(name: &str) -> Vec<u8> {
        let key = PrivateKey::new(2048).unwrap();
        X509::from_pkey(&key, &certificate_names(name, "urn:plc", None)).unwrap().to_der().unwrap()
    }

    #[test]
    fn certificates_are_listed_accepted_and_rejected_by_the_beginning_of_their_thumbprint() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::new(dir.path().to_owned());
        assert_eq!(pki.known().unwrap(), []);
        std::fs::write(pki.rejected().join("one.der"), certificate("one")).unwrap();
        std::fs::write(pki.rejected().join("two.der"), certificate("two")).unwrap();
        std::fs::write(pki.rejected().join("notes.txt"), "x").unwrap();
        let known = pki.known().unwrap();
        assert_eq!(known.len(), 2, "{known:?}");
        assert!(known.iter().all(|known| known.standing == Standing::Rejected));

        let one = known.iter().find(|known| known.common_name == "fieldgate@one").unwrap();
        let accepted = pki.accept(&one.thumbprint[..12].to_uppercase()).unwrap();
        assert_eq!((accepted.standing, accepted.path), (Standing::Trusted, pki.trusted().join("one.der")));
        assert!(!one.path.exists());
        pki.accept(&one.thumbprint).unwrap();
        // A copy that is left in the other folder would outweigh it.
        std::fs::copy(pki.trusted().join("one.der"), pki.rejected().join("copy.der")).unwrap();
        pki.accept(&one.thumbprint).unwrap();
        assert!(
            pki.known()
                .unwrap()
                .iter()
                .filter(|k| k.thumbprint == one.thumbprint)
                .all(|k| k.standing == Standing::Trusted)
        );
        pki.reject(&one.thumbprint).unwrap();
        assert!(pki.known().unwrap().iter().all(|known| known.standing == Standing::Rejected));

        assert!(matches!(pki.accept("zz"), Err(PkiError::Unknown(_))));
        assert!(matches!(pki.accept("0000000000"), Err(PkiError::Unknown(_))));
        std::fs::write(pki.rejected().join("x.pem"), "nonsense").unwrap();
        assert_eq!(pki.known().unwrap().len(), 3);
    }
}
